"""Every test runs in a world of its own: a fresh AUTOGPT_HOME, no settings leaking in, no network.

A test that needs the developer's data folder asks the environment before this fixture cleans it;
the suite itself needs none.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Two workers share two cores: more threads than cores only makes them wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"


@pytest.fixture(autouse=True)
def isolated(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Clear AUTOGPT_* and point home and data at a new folder; returns AUTOGPT_HOME."""
    for name in [name for name in os.environ if name.startswith("AUTOGPT_")]:
        monkeypatch.delenv(name)
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("AUTOGPT_HOME", str(home / "autogpt"))
    return home / "autogpt"
