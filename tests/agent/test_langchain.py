"""``autogpt.langchain``: our model in LangChain's agent, tools both ways, memory as a vector store."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import BaseTool, StructuredTool, Tool, tool
from pydantic import BaseModel, Field
from support.calls import finish

from autogpt import AutoGPT, langchain
from autogpt import tool as our_tool
from autogpt.agent.api.langchain import ChatAutoGPT, LangChainModel, MemoryVectorStore, langchain_tools
from autogpt.errors import ToolError, UsageError
from autogpt.labels import Label
from autogpt.llm.message import CallSpec, Message, Prompt, ToolCall
from autogpt.llm.models.scripted import ScriptedModel
from autogpt.memory.entry import GLOBAL, Draft, Kind, Vectors
from autogpt.memory.store import MemoryStore
from autogpt.memory.vectors.chroma import open_index
from autogpt.tools.base import ToolContext
from autogpt.tools.calculator.calculator import Calculator
from autogpt.tools.functions import as_tool


def test_the_module_is_found_under_its_public_name_and_loads_nothing_before() -> None:
    code = (
        "import sys, autogpt; assert not any(name.startswith('langchain') for name in sys.modules);"
        "from autogpt.langchain import ChatAutoGPT; import autogpt.langchain as one, langchain;"
        "from autogpt import langchain as two; assert one is two and one.ChatAutoGPT is ChatAutoGPT;"
        "assert langchain is not one"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=100)
    assert langchain.ChatAutoGPT is ChatAutoGPT


# --- our model as a LangChain chat model -------------------------------------------------------


@tool
def late_deliveries(supplier: str, month: int = 3) -> str:
    """Count late deliveries of a supplier."""
    return f"{supplier}: {month * 4}"


def count(supplier: str) -> ToolCall:
    return ToolCall("late_deliveries", {"supplier": supplier})


def test_create_agent_calls_tools_and_answers() -> None:
    model = ScriptedModel([count("Nordfracht"), finish("12 deliveries")])
    agent: Any = create_agent(ChatAutoGPT(model=model), [late_deliveries], system_prompt="Be brief.")
    talk = agent.invoke({"messages": [("user", "How many were late?")]})["messages"]
    assert [type(message) for message in talk] == [HumanMessage, AIMessage, ToolMessage, AIMessage]
    assert talk[2].content == "Nordfracht: 12"
    assert talk[-1].content == "12 deliveries" and not talk[-1].tool_calls
    first, second = model.prompts
    assert [call.name for call in first.calls] == ["late_deliveries", "finish"]
    assert first.messages[0].content.startswith("Be brief.")
    assert (
        "late_deliveries(supplier, month?): Count late deliveries of a supplier." in first.messages[0].content
    )
    assert [message.role for message in second.messages] == ["system", "user", "assistant", "tool"]
    assert second.messages[:2] == first.messages
    assert second.messages[2].content == count("Nordfracht").text()
    assert first.session == second.session


def test_a_call_outside_the_schema_does_not_reach_the_tool() -> None:
    model = ScriptedModel([ToolCall("late_deliveries", {"supplier": 3})])
    agent: Any = create_agent(ChatAutoGPT(model=model), [late_deliveries])
    last = agent.invoke({"messages": [("user", "go")]})["messages"][-1]
    assert not last.tool_calls
    assert "supplier" in last.invalid_tool_calls[0]["error"]


class Verdict(BaseModel):
    """The verdict."""

    supplier: str
    late: int = Field(ge=0)


def test_structured_answers_force_the_call() -> None:
    model = ScriptedModel([ToolCall("Verdict", {"supplier": "Nordfracht", "late": 12})])
    agent: Any = create_agent(ChatAutoGPT(model=model), [], response_format=Verdict)
    result = agent.invoke({"messages": [("user", "Who?")]})
    assert result["structured_response"] == Verdict(supplier="Nordfracht", late=12)
    assert [call.name for call in model.prompts[0].calls] == ["Verdict"]


@pytest.mark.parametrize(
    ("choice", "allowed"),
    [
        (None, ["late_deliveries", "finish"]),
        ("auto", ["late_deliveries", "finish"]),
        ("any", ["late_deliveries"]),
        ("late_deliveries", ["late_deliveries"]),
        ("none", ["finish"]),
    ],
)
def test_tool_choice_decides_what_is_allowed(choice: str | None, allowed: list[str]) -> None:
    model = ScriptedModel([finish("x")], check=False)
    ChatAutoGPT(model=model).bind_tools([late_deliveries], tool_choice=choice).invoke("hi")
    assert [call.name for call in model.prompts[0].calls] == allowed


def test_an_unknown_tool_choice_is_refused() -> None:
    bound = ChatAutoGPT(model=ScriptedModel([finish("x")])).bind_tools([late_deliveries], tool_choice="gone")
    with pytest.raises(UsageError, match=r"'gone'.*late_deliveries"):
        bound.invoke("hi")


def test_without_tools_it_just_answers_and_earlier_answers_are_kept() -> None:
    model = ScriptedModel([finish("Hello."), finish("Bye. now")])
    chat = ChatAutoGPT(model=model, max_tokens=50, temperature=0.5, seed=9)
    first = chat.invoke([SystemMessage("Be kind."), HumanMessage("hi")])
    assert first.content == "Hello."
    second = chat.invoke([HumanMessage("hi"), first, HumanMessage("bye")], stop=["."])
    assert second.content == "Bye"
    assert model.prompts[1].messages[2].content == finish("Hello.").text()
    sampling = model.prompts[0].sampling
    assert (sampling.max_tokens, sampling.temperature, sampling.seed) == (50, 0.5, 9)


def test_a_tool_named_finish_keeps_its_name() -> None:
    @tool
    def finish(grade: int) -> str:
        """End the term."""
        return str(grade)

    model = ScriptedModel([ToolCall("reply", {"answer": "done"})])
    assert ChatAutoGPT(model=model).bind_tools([finish]).invoke("hi").content == "done"
    assert [call.name for call in model.prompts[0].calls] == ["finish", "reply"]


def test_the_model_may_be_named_and_its_name_is_what_langchain_sees() -> None:
    chat = ChatAutoGPT(model="nano")
    assert chat.model_name == "nano" and chat.model.fingerprint


READ = CallSpec(
    "files.read",
    {"type": "object", "properties": {"path": {"enum": ["a.txt"]}}, "required": ["path"]},
    "Read a file.",
)
FINISH = CallSpec("finish", {"type": "object", "properties": {"answer": {"type": "string"}}})


def prompt() -> Prompt:
    return Prompt("s", (Message("user", "go"),), (READ, FINISH))


def test_our_model_may_stand_behind_langchain_and_serve_our_loop_again() -> None:
    inner = ScriptedModel(
        [ToolCall("files__read", {"path": "a.txt"}), ToolCall("reply", {"answer": "no call"})]
    )
    model = LangChainModel(ChatAutoGPT(model=inner))
    assert model.respond([prompt()])[0].call == ToolCall("files.read", {"path": "a.txt"})
    assert [call.name for call in inner.prompts[0].calls] == ["files__read", "finish"]


# --- tools both ways ---------------------------------------------------------------------------


async def weather(city: str) -> str:
    """Say the weather of a city."""
    await asyncio.sleep(0)
    return f"sun in {city}"


ASYNC_ONLY = StructuredTool.from_function(coroutine=weather, name="weather", description="Weather")
SINGLE = Tool(name="search it", func=lambda text: f"found {text}", description="Search the catalogue.")


def test_a_tool_that_is_only_asynchronous_runs(tmp_path: Path) -> None:
    made = as_tool(ASYNC_ONLY)
    assert made.run({"city": "Oslo"}, ToolContext(tmp_path)).value == "sun in Oslo"

    async def inside() -> Any:
        return made.run({"city": "Rome"}, ToolContext(tmp_path)).value

    assert asyncio.run(inside()) == "sun in Rome"  # also where an event loop is running


def test_a_tool_with_a_single_input_has_one_text_argument(tmp_path: Path) -> None:
    made = as_tool(SINGLE)
    assert made.name == "search_it"
    assert list(made.parameters["properties"]) == made.parameters["required"] == ["tool_input"]
    assert made.run({"tool_input": "oil"}, ToolContext(tmp_path)).value == "found oil"


@pytest.mark.parametrize(
    ("thing", "arguments", "says"),
    [(ASYNC_ONLY, {"city": "Oslo"}, "sun in Oslo"), (SINGLE, {"tool_input": "oil"}, "found oil")],
)
def test_such_tools_serve_a_run(thing: BaseTool, arguments: dict[str, Any], says: str) -> None:
    name = as_tool(thing).name
    script = [
        ToolCall("plan", {"steps": [{"tool": name, "for": "it"}]}),
        ToolCall(name, arguments),
        ToolCall("finish", {"answer": "$1"}),
    ]
    assert AutoGPT(ScriptedModel(script), tools=[thing], memory=False).run("go").answer == says


@our_tool
def postage(grams: int, express: bool = False) -> float:
    """Price of a letter in euros."""
    if grams > 500:
        raise ToolError("too heavy for a letter")
    return 2.5 if express else 1.6


def test_our_tools_serve_langchains_agent(tmp_path: Path) -> None:
    (price, calculator) = langchain_tools([postage, Calculator], folder=tmp_path)
    model = ScriptedModel(
        [ToolCall("postage", {"grams": 20}), ToolCall("postage", {"grams": 900}), finish("1.6 euros")]
    )
    agent: Any = create_agent(ChatAutoGPT(model=model), [price, calculator])
    talk = agent.invoke({"messages": [("user", "What does a letter cost?")]})["messages"]
    results = [message for message in talk if isinstance(message, ToolMessage)]
    assert [(result.content, result.artifact) for result in results] == [
        ("1.6", 1.6),
        ("too heavy for a letter", None),
    ]
    assert talk[-1].content == "1.6 euros"
    assert calculator.invoke({"expression": "6 * 7"}) == "42"


# --- memory as a vector store ------------------------------------------------------------------


class Words:
    """An embedder: words hashed into many dimensions."""

    id, dimension = "words", 512

    def embed(self, texts: Sequence[str], query: bool = False) -> Vectors:
        vectors = np.full((len(texts), self.dimension), 1e-3, np.float32)
        for row, text in zip(vectors, texts, strict=True):
            for word in text.lower().replace(".", "").split():
                row[zlib.crc32(word.encode()) % self.dimension] += 1.0
        return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


def test_langchain_sees_memory_as_a_vector_store(tmp_path: Path) -> None:
    store, embedder = MemoryStore(tmp_path), Words()
    memory = MemoryVectorStore(store, embedder, open_index(store, embedder), namespace="/home/ada/project")
    ids = memory.add_texts(["amber boat", "beige chair"], [{"source": "/a.md"}, {}])
    assert memory.add_texts(["amber boat"]) == ids[:1], "what is there is not written twice"
    assert memory.add_texts([]) == []
    store.write(Draft(Kind.FACT, "coral door"), embedder.embed(["coral door"])[0], "words")
    other = Draft(Kind.FACT, "coral door", "/elsewhere")
    store.write(other, embedder.embed(["coral door"])[0], "words")
    (document,) = memory.similarity_search("boat of amber", k=1)
    assert document.page_content == "amber boat" and document.id == ids[0]
    assert document.metadata == {"source": "/a.md"}
    ((found, score),) = memory.similarity_search_with_score("coral door", k=1)
    assert (found.metadata["namespace"], found.metadata["label"]) == (GLOBAL, Label.TRUSTED)
    assert score == pytest.approx(1.0, abs=1e-5)
    everything = memory.similarity_search("coral door", k=9)
    assert sorted(d.page_content for d in everything) == ["amber boat", "beige chair", "coral door"]
    assert {d.metadata.get("label") for d in everything} == {None, Label.UNTRUSTED, Label.TRUSTED}
    assert [d.page_content for d in memory.similarity_search("amber", k=3, kind="fact")] == ["coral door"]
    retriever = memory.as_retriever(search_kwargs={"k": 1})
    assert [each.page_content for each in retriever.invoke("chair")] == ["beige chair"]
    scored = memory.similarity_search_with_relevance_scores("beige chair", k=1, score_threshold=0.9)
    assert scored[0][0].id == ids[1]
    assert [each.page_content for each in memory.get_by_ids([ids[1], "99"])] == ["beige chair"]
    assert memory.delete(ids[:1]) is True and memory.delete(["99"]) is False
    assert "amber boat" not in [each.page_content for each in memory.similarity_search("amber boat", k=9)]
    assert memory.embeddings.embed_query("amber boat") == embedder.embed(["amber boat"], True)[0].tolist()
    assert memory.add_texts(["dark ebony"], [{"page": 3}], ids=["7"]) == ["7"]
    assert memory.add_texts(["light ebony"], [{"page": 4}], ids=["7"]) == ["7"], "the old text is replaced"
    assert [(d.page_content, d.metadata) for d in memory.get_by_ids(["7"])] == [("light ebony", {"page": 4})]
    with pytest.raises(ValueError, match="metadata must be JSON"):
        memory.add_texts(["text"], [{"when": object()}])
    with pytest.raises(ValueError, match="refused"):
        memory.add_texts(["  "])
    with pytest.raises(ValueError):
        memory.delete()
    with pytest.raises(UsageError):
        MemoryVectorStore.from_texts(["text"], memory.embeddings)
