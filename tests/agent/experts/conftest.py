"""What all tests of the experts share: sample data and a tokenizer."""

from __future__ import annotations

from pathlib import Path

import pytest

from autogpt.llm.text.tokenizer import ChatTokenizer


@pytest.fixture(autouse=True)
def data(packed_data: Path, isolated: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The samples of the data folder, which the experts read."""
    monkeypatch.setenv("AUTOGPT_DATA", str(packed_data))
    return packed_data


@pytest.fixture(scope="module")
def tokenizer(chat_folder: Path) -> ChatTokenizer:
    """The suite's tokenizer, with which episodes are written."""
    return ChatTokenizer(chat_folder)
