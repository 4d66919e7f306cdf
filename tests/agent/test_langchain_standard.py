"""LangChain's own standard suites for chat models, tools and vector stores, on what we offer it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain_core.embeddings import Embeddings
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.tools import BaseTool
from langchain_core.vectorstores import VectorStore
from langchain_tests.integration_tests import (
    ChatModelIntegrationTests,
    ToolsIntegrationTests,
    VectorStoreIntegrationTests,
)
from langchain_tests.unit_tests import ChatModelUnitTests, ToolsUnitTests

from autogpt import tool
from autogpt.agent.api.langchain import ChatAutoGPT, MemoryVectorStore, langchain_tools
from autogpt.llm.message import CallSpec, OnText, Prompt, ToolCall, Turn
from autogpt.memory.entry import Vectors
from autogpt.memory.store import MemoryStore
from autogpt.memory.vectors.chroma import open_index
from autogpt.text import Prompting


class Obedient:
    """A model that calls the first tool it has with what stands in the question, then answers."""

    name, fingerprint, tokenizer_hash = "obedient", "obedient", ""
    prompting: Prompting = "names"

    def respond(self, prompts: Sequence[Prompt], on_text: OnText | None = None) -> list[Turn]:
        return [self._turn(prompt) for prompt in prompts]

    def close_session(self, session: str) -> None:
        pass

    def _turn(self, prompt: Prompt) -> Turn:
        last = prompt.messages[-1]
        first = prompt.calls[-1] if last.role == "tool" else prompt.calls[0]
        call = ToolCall(first.name, self._arguments(first, last.content))
        ids = tuple(call.text().encode())
        length = sum(len(message.content) for message in prompt.messages)
        return Turn(call, call.text(), ids, "s" * len(ids), (0.0,) * len(ids), prompt_tokens=length)

    def _arguments(self, call: CallSpec, said: str) -> dict[str, Any]:
        wanted: Mapping[str, Any] = call.parameters.get("properties", {})
        return {name: self._value(schema, said) for name, schema in wanted.items()}

    def _value(self, schema: Mapping[str, Any], said: str) -> Any:
        if "enum" in schema:
            return schema["enum"][0]
        if schema.get("type") == "integer":
            return int((re.findall(r"[0-9]+", said) or ["1"])[0])
        return said or "hello"


class TestChatModelUnit(ChatModelUnitTests):
    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatAutoGPT

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": Obedient()}


class TestChatModelIntegration(ChatModelIntegrationTests):
    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatAutoGPT

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": Obedient()}


@tool
def postage(grams: int, express: bool = False) -> float:
    """Price of a letter in euros."""
    return 2.5 if express else 1.6


class TestToolUnit(ToolsUnitTests):
    @property
    def tool_constructor(self) -> BaseTool:
        return langchain_tools([postage])[0]

    @property
    def tool_invoke_params_example(self) -> dict[str, Any]:
        return {"grams": 20, "express": True}


class TestToolIntegration(ToolsIntegrationTests):
    @property
    def tool_constructor(self) -> BaseTool:
        return langchain_tools([postage])[0]

    @property
    def tool_invoke_params_example(self) -> dict[str, Any]:
        return {"grams": 20}


class Fake:
    """The suite's embeddings as an embedder of ours."""

    id = "fake"

    def __init__(self, embeddings: Embeddings) -> None:
        self._embeddings = embeddings
        self.dimension = len(embeddings.embed_query(""))

    def embed(self, texts: Sequence[str], query: bool = False) -> Vectors:
        vectors = np.array(self._embeddings.embed_documents(list(texts)), np.float32)
        return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)


class TestVectorStore(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self, tmp_path: Path) -> VectorStore:
        store, embedder = MemoryStore(tmp_path), Fake(self.get_embeddings())
        return MemoryVectorStore(store, embedder, open_index(store, embedder))
