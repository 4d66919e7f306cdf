"""LangChain: our model, tools and memory in LangChain, and LangChain's models and tools here.

Import it as ``autogpt.langchain`` (a type checker follows ``from autogpt import langchain``). Nothing else
of the package loads LangChain before it is needed.

Our model as a chat model. Inside ``create_agent`` a malformed call cannot occur, because ``bind_tools``
compiles the tools into the grammar that the model is decoded under:

    >>> from autogpt.langchain import ChatAutoGPT
    >>> agent = create_agent(ChatAutoGPT(model="small"), [search])

Any chat model as our model, here or as ``--model langchain:openai/gpt-4o``:

    >>> from autogpt.langchain import LangChainModel
    >>> AutoGPT(LangChainModel.load("openai/gpt-4o")).run("Which supplier was late most often?")

Tools both ways. A LangChain tool, synchronous or only asynchronous, is registered like any other; tools
of ours become LangChain's with :func:`langchain_tools`:

    >>> AutoGPT(tools=[some_langchain_tool])
    >>> from autogpt.langchain import langchain_tools
    >>> create_agent(model, langchain_tools([postage, Calculator], folder="data"))

Our memory as a vector store and retriever:

    >>> from autogpt.langchain import MemoryVectorStore
    >>> memory = MemoryVectorStore(store, embedder, index)
    >>> memory.add_texts(["The office is in Lyon."])
    >>> memory.as_retriever().invoke("Where is the office?")

Limits: one call per turn; text content only; no token streaming (a stream has one chunk).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.language_models import LanguageModelInput
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, SystemMessage, ToolMessage
from langchain_core.messages.tool import ToolCall as LangChainCall
from langchain_core.messages.tool import invalid_tool_call, tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool, StructuredTool, ToolException
from langchain_core.utils.function_calling import convert_to_openai_tool
from langchain_core.vectorstores import VectorStore
from pydantic import Field, PrivateAttr, field_validator

from ...errors import ToolError, UsageError
from ...labels import Label
from ...llm.message import CallSpec, Message, Prompt, Sampling, ToolCall, Turn
from ...llm.models.langchain import LangChainModel, text_of
from ...llm.models.remote import RemoteModelError, safe_name
from ...memory.entry import GLOBAL, Draft, Embedder, Entry, Kind, VectorIndex
from ...memory.store import MemoryStore
from ...memory.upkeep.forgetting import forget
from ...memory.vectors.chroma import FOLDER, purge
from ...settings import load
from ...tools.base import Tool, ToolContext, merge_facts
from ...tools.functions import LangChainTool, as_tool
from ..open import open_model

__all__ = [
    "ChatAutoGPT",
    "LangChainModel",
    "LangChainTool",
    "MemoryEmbeddings",
    "MemoryVectorStore",
    "RemoteModelError",
    "describe_calls",
    "langchain_tools",
]

_NOTE = "langchain:"
"""Prefix of an entry's source that holds the caller's id and metadata as JSON."""


def describe_calls(calls: Sequence[CallSpec]) -> str:
    """Return the calls as lines ``name(a, b?): description``, the form our models are trained on."""
    lines = ["You reach the user's goal with tools, one call at a time."]
    for call in calls:
        required = set(call.parameters.get("required", ()))
        names = [key if key in required else f"{key}?" for key in call.parameters.get("properties", {})]
        lines.append(f"{call.name}({', '.join(names)}): {' '.join(call.description.split())}")
    return "\n".join(lines)


class ChatAutoGPT(BaseChatModel):
    """A model of ours as a LangChain chat model; a plain answer is one more call, ``finish``."""

    model: Any
    """A :class:`~autogpt.llm.message.Model`, or the name of one as after ``--model``, which is loaded."""
    max_tokens: int = 400
    temperature: float = 0.0
    seed: int = 0
    stop: list[str] = Field(default_factory=list)
    """A plain answer ends before the first of these."""
    describe: Callable[[Sequence[CallSpec]], str] = describe_calls
    """Writes the system text that lists the calls."""
    answer_chars: int = Field(default=1000, gt=0)
    """Longest plain answer."""
    _session: str = PrivateAttr(default_factory=lambda: f"langchain-{uuid4().hex}")

    @field_validator("model")
    @classmethod
    def _load(cls, model: Any) -> Any:
        return open_model(load(model=model)) if isinstance(model, str) else model

    @property
    def _llm_type(self) -> str:
        return "autogpt"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        return {"model_name": self.model_name, "fingerprint": self.model.fingerprint}

    @property
    def model_name(self) -> str:
        """The model's name; LangChain looks for it here, as ``model`` is not a text."""
        return str(self.model.name)

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Allow calls of ``tools``; ``tool_choice``: None or "auto", "any", "none", or a tool's name."""
        made = [convert_to_openai_tool(tool) for tool in tools]
        bound = self.bind(tools=made, tool_choice=tool_choice, **kwargs)
        return cast("Runnable[LanguageModelInput, AIMessage]", bound)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        tools = [_spec(tool) for tool in kwargs.get("tools") or ()]
        taken = {tool.name for tool in tools}
        answer = self._answer_call("finish" if "finish" not in taken else "reply")
        calls = _chosen(tools, answer, kwargs.get("tool_choice"))
        sampling = Sampling(temperature=self.temperature, seed=self.seed, max_tokens=self.max_tokens)
        talk = self._conversation(messages, calls, answer.name)
        turn = self.model.respond([Prompt(self._session, talk, calls, sampling)])[0]
        message = self._message(turn, answer.name)
        for word in stop or self.stop:
            message.content = str(message.content).partition(word)[0]
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        """Yield the whole answer as one chunk: a call is only known to be one when it is complete."""
        message = cast(
            AIMessage, self._generate(messages, stop, run_manager, **kwargs).generations[0].message
        )
        calls = [
            tool_call_chunk(name=call["name"], args=json.dumps(call["args"]), id=call["id"], index=0)
            for call in message.tool_calls
        ]
        calls += [tool_call_chunk(args=call["args"], id=call["id"]) for call in message.invalid_tool_calls]
        chunk = AIMessageChunk(
            content=message.content,
            tool_call_chunks=calls,
            usage_metadata=message.usage_metadata,
            response_metadata=message.response_metadata,
            chunk_position="last",
        )
        yield ChatGenerationChunk(message=chunk)

    def _answer_call(self, name: str) -> CallSpec:
        text = {"type": "string", "maxLength": self.answer_chars}
        schema = {"type": "object", "properties": {"answer": text}, "required": ["answer"]}
        return CallSpec(name, {**schema, "additionalProperties": False}, "the answer")

    def _conversation(
        self, messages: Sequence[BaseMessage], calls: Sequence[CallSpec], answer: str
    ) -> tuple[Message, ...]:
        """Return our messages: one system text first, assistant turns as the calls they were."""
        told = [text_of(message) for message in messages if isinstance(message, SystemMessage)]
        talk = [Message("system", "\n".join([*told, self.describe(calls)]))]
        for message in messages:
            text = text_of(message)
            if isinstance(message, AIMessage):
                ids = message.response_metadata.get("ids")
                said = [ToolCall(call["name"], call["args"]) for call in message.tool_calls[:1]]
                call = said[0] if said else ToolCall(answer, {"answer": text})
                talk.append(Message("assistant", call.text(), tuple(ids) if ids else None))
            elif isinstance(message, ToolMessage):
                talk.append(Message("tool", text))
            elif not isinstance(message, SystemMessage):
                talk.append(Message("user", text))
        return tuple(talk)

    def _message(self, turn: Turn, answer: str) -> AIMessage:
        """Return a turn as LangChain reads it; the exact ids are kept for the next prompt."""
        usage = {
            "input_tokens": turn.prompt_tokens,
            "output_tokens": len(turn.ids),
            "total_tokens": turn.prompt_tokens + len(turn.ids),
        }
        about = {"ids": list(turn.ids), "model_name": self.model_name}
        rest: dict[str, Any] = {"usage_metadata": usage, "response_metadata": about}
        if turn.call is None:
            wrong = invalid_tool_call(name=None, args=turn.text, id=_call_id(), error=turn.invalid)
            return AIMessage(content="", invalid_tool_calls=[wrong], **rest)
        if turn.call.name == answer:
            return AIMessage(content=str(turn.call.arguments["answer"]), **rest)
        call = LangChainCall(name=turn.call.name, args=dict(turn.call.arguments), id=_call_id())
        return AIMessage(content="", tool_calls=[call], **rest)


def _chosen(tools: list[CallSpec], answer: CallSpec, choice: Any) -> tuple[CallSpec, ...]:
    """Return the calls that a ``tool_choice`` leaves."""
    if isinstance(choice, dict):
        choice = choice.get("function", choice).get("name")
    if not tools or choice == "none" or choice is False:
        return (answer,)
    if choice in (None, "auto"):
        return (*tools, answer)
    if choice in ("any", "required", True):
        return tuple(tools)
    named = tuple(tool for tool in tools if tool.name == choice)
    if not named:
        raise UsageError(
            f"tool_choice {choice!r} is no bound tool; bound: {', '.join(t.name for t in tools)}"
        )
    return named


def _spec(tool: dict[str, Any]) -> CallSpec:
    function = tool.get("function", tool)
    parameters = function.get("parameters") or {"type": "object", "properties": {}}
    return CallSpec(function["name"], parameters, function.get("description", ""))


def _call_id() -> str:
    return f"call_{uuid4().hex[:12]}"


def langchain_tools(
    tools: Iterable[object], folder: str | Path = ".", writable: Sequence[str] = ()
) -> list[BaseTool]:
    """Return tools of ours (functions under ``@tool``, Tool objects or classes) as LangChain's.

    They share a context: ``folder`` is the workspace of file and table tools, of which the paths that
    match ``writable`` (glob patterns) may be written. The message for the model is a result's preview,
    the exact value is the artifact. Our approvals do not apply: whoever runs them decides what to allow.
    """
    context = ToolContext(Path(folder), writable=tuple(writable))
    return [_langchain_tool(as_tool(thing), context) for thing in tools]


def _langchain_tool(tool: Tool, context: ToolContext) -> BaseTool:
    def call(**arguments: Any) -> tuple[str, Any]:
        try:
            result = tool.run(arguments, context)
        except ToolError as error:
            raise ToolException(str(error)) from None
        context.facts = merge_facts(context.facts, result.facts)
        return result.preview, result.value

    return StructuredTool(
        name=safe_name(tool.name),
        description=tool.description,
        args_schema=dict(tool.parameters),
        func=call,
        response_format="content_and_artifact",
        handle_tool_error=True,
    )


class MemoryEmbeddings(Embeddings):
    """Our embedder as LangChain's."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return a vector for each passage."""
        vectors: list[list[float]] = self._embedder.embed(texts).tolist()
        return vectors

    def embed_query(self, text: str) -> list[float]:
        """Return the vector of a question."""
        vector: list[float] = self._embedder.embed([text], query=True)[0].tolist()
        return vector


class MemoryVectorStore(VectorStore):
    """Memory in ``namespace`` (reading also what is global) as LangChain's vector store.

    Texts go through the write gate like everything else: a text is kept once (adding it again returns
    the id that it has), and a refusal raises ``ValueError`` with the gate's reason. A document that was
    added here comes back with the caller's id and metadata; any other entry with its number, kind,
    label, namespace, source and time. ``label`` marks added texts: untrusted unless the program vouches
    for them. Limits: filters are those of namespace and kind; a caller's id is looked up by scanning the
    namespace's documents.
    """

    def __init__(
        self,
        store: MemoryStore,
        embedder: Embedder,
        index: VectorIndex,
        namespace: str = GLOBAL,
        label: Label = Label.UNTRUSTED,
    ) -> None:
        self._store, self._embedder, self._index = store, embedder, index
        self._namespace, self._label = namespace, label

    @property
    def embeddings(self) -> Embeddings:
        """The embedder, as LangChain's."""
        return MemoryEmbeddings(self._embedder)

    @classmethod
    def from_texts(
        cls,
        texts: list[str],
        embedding: Embeddings,
        metadatas: list[dict[str, Any]] | None = None,
        **kwargs: Any,
    ) -> MemoryVectorStore:
        """Not supported, as memory has its own embedder. Raises ``UsageError``."""
        raise UsageError("memory is opened, not made from texts: MemoryVectorStore(store, embedder, index)")

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """Remember ``texts`` and return their ids; a text under an id that exists replaces the old one.

        If the gate refuses a text, the others are still written and ``ValueError`` says why.
        """
        given = list(texts)
        names: list[str | None] = [*ids] if ids else [None] * len(given)
        notes = [
            Draft(Kind.DOCUMENT, text, self._namespace, self._label, source=_source(name, about))
            for text, name, about in zip(given, names, metadatas or [{} for _ in given], strict=True)
        ]
        if not notes:
            return []
        wanted = {(note.text, note.source) for note in notes}
        named = self._entries([name for name in names if name]).values()
        self._forget([entry.id for entry in named if (entry.text, entry.source) not in wanted])
        written = self._store.write_many(notes, self._embedder.embed(given), self._embedder.id)
        for note, answer in zip(notes, written, strict=True):
            if answer.entry is None:
                raise ValueError(f"{note.text[:40]!r} was refused: {answer.reason}")
        return [_read_source(answer.entry)[0] for answer in written if answer.entry is not None]

    def delete(self, ids: list[str] | None = None, **kwargs: Any) -> bool | None:
        """Forget entries for good; return whether all were there. Without ids nothing is deleted."""
        if ids is None:
            raise ValueError("name the ids to delete")
        found = self._entries(ids)
        self._forget([entry.id for entry in found.values()])
        return len(found) == len(set(ids))

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """Return the documents with these ids; missing ones are skipped."""
        found = self._entries(ids)
        return [_document(found[name]) for name in ids if name in found]

    def similarity_search(self, query: str, k: int = 4, **kwargs: Any) -> list[Document]:
        """Return the ``k`` documents nearest to ``query``; ``kind`` restricts them."""
        return [document for document, _ in self.similarity_search_with_score(query, k, **kwargs)]

    def similarity_search_with_score(
        self, query: str, k: int = 4, *, kind: Kind | str | None = None, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        """Return the ``k`` nearest documents with their cosines, nearest first."""
        if kwargs.get("filter"):
            raise ValueError("filters are not supported; use kind=..., or a store over another namespace")
        vector = self._embedder.embed([query], query=True)[0]
        wanted = k if kind is None else 10 * k
        spaces = list(dict.fromkeys([GLOBAL, self._namespace]))
        found = dict(self._index.search(vector, wanted, spaces))
        entries = [each for each in self._store.get(list(found)) if kind is None or each.kind == Kind(kind)]
        return [(_document(entry), found[entry.id]) for entry in entries[:k]]

    def _select_relevance_score_fn(self) -> Callable[[float], float]:
        return lambda cosine: min(1.0, max(0.0, cosine))

    def _entries(self, ids: Iterable[str]) -> dict[str, Entry]:
        """Return entries by the caller's ids, else by their numbers."""
        wanted = set(ids)
        if not wanted:
            return {}
        documents = self._store.entries([self._namespace], [Kind.DOCUMENT])
        numbered = self._store.get([int(name) for name in wanted if name.isdecimal()])
        found = {_read_source(entry)[0]: entry for entry in (*numbered, *documents)}
        return {name: entry for name, entry in found.items() if name in wanted}

    def _forget(self, numbers: list[int]) -> None:
        if numbers:
            gone = forget(self._store, numbers, "deleted through LangChain")
            purge(self._store.home / FOLDER, gone.change)


def _source(name: str | None, metadata: dict[str, Any]) -> str:
    """Return the source of an added entry: what :func:`_read_source` reads."""
    if name is None and not metadata:
        return _NOTE
    try:
        return _NOTE + json.dumps({"id": name, "metadata": metadata}, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"metadata must be JSON: {error}") from None


def _read_source(entry: Entry) -> tuple[str, dict[str, Any] | None]:
    """Return an entry's id for LangChain and the caller's metadata, None if there is none."""
    if entry.source is None or not entry.source.startswith(_NOTE + "{"):
        return str(entry.id), None
    note = json.loads(entry.source.removeprefix(_NOTE))
    return note["id"] or str(entry.id), note["metadata"]


def _document(entry: Entry) -> Document:
    name, metadata = _read_source(entry)
    if metadata is None:
        metadata = {
            "kind": entry.kind.value,
            "label": entry.label.value,
            "namespace": entry.namespace,
            "source": entry.source,
            "created": entry.created,
        }
    return Document(id=name, page_content=entry.text, metadata=metadata)
