"""Fetching a model from the Hugging Face hub: a repository, or one GGUF file of it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from ...errors import ModelUnavailable

_FILE = re.compile(r"([\w.-]+/[\w.-]+):([\w.-]+\.gguf)", re.IGNORECASE)
_PATTERNS = ["*.json", "*.safetensors", "*.model", "*.jinja", "*.txt"]


def is_hub_file(name: str) -> bool:
    """Say whether ``name`` means a file of a hub repository: ``owner/model:FILE.gguf``."""
    return _FILE.fullmatch(name) is not None and not Path(name).exists()


def fetch_hub(name: str) -> Path:
    """Return a repository's folder, or the file of ``owner/model:FILE.gguf``: kept, or fetched now.

    Raises ModelUnavailable, which for a repository of GGUF files alone names them.
    """
    from huggingface_hub import hf_hub_download, list_repo_files, snapshot_download

    asked = _FILE.fullmatch(name)

    def get(local: bool) -> str:
        if asked:
            return str(hf_hub_download(asked[1], asked[2], local_files_only=local))
        return str(snapshot_download(name, local_files_only=local, allow_patterns=_PATTERNS))

    try:
        return Path(get(True))
    except (OSError, ValueError):
        pass  # not here yet: ask the hub
    try:
        place = Path(get(False))
        if not asked and place.is_dir() and not [*place.glob("*.safetensors"), *place.glob("*.bin")]:
            _refuse_gguf_alone(name, list_repo_files(name))
        return place
    except ModelUnavailable:
        raise
    except Exception as error:  # the hub's client raises errors of several HTTP libraries
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelUnavailable(
            f"{name} is not here and could not be fetched from the hub ({reason}): check the name and the "
            "network, or give a local folder or GGUF file, or a model of `autogpt model list`"
        ) from error


def _refuse_gguf_alone(name: str, files: Iterable[str]) -> None:
    files = sorted(files)
    gguf = [file for file in files if file.lower().endswith(".gguf") and "/" not in file]
    if gguf and not any(file.endswith((".safetensors", ".bin")) for file in files):
        listed = ", ".join(gguf[:8]) + (f" and {len(gguf) - 8} more" if len(gguf) > 8 else "")
        raise ModelUnavailable(f"{name} holds GGUF files alone: name one, as {name}:{gguf[0]} ({listed})")
