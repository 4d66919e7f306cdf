"""One call for any training file: its ``kind`` (finetune, pretrain) says which training it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from ...errors import UsageError
from .console import Progress
from .loop import Report


def train(
    path: Path,
    roots: Sequence[Path] = (),
    steps: int | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Report:
    """Train as the file at ``path`` says; a second call goes on where the first was stopped.

    Args:
        roots: where relative paths are looked for, after the file's folder and the current one.
        steps: stop after this many optimiser steps in all, instead of what the file says.
    """
    import yaml

    from . import finetune, pretrain

    try:
        head = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError):
        head = None  # reading it properly below names what is wrong
    kind = head.get("kind", "finetune") if isinstance(head, dict) else "finetune"
    changes = {} if steps is None else {"steps": steps}
    if kind == "pretrain":
        return pretrain.pretrain(pretrain.load_config(path, roots).model_copy(update=changes), progress)
    if kind == "finetune":
        return finetune.finetune(finetune.load_config(path, roots).model_copy(update=changes), progress)
    raise UsageError(f"{path}: kind: {kind!r} is not known; known: finetune, pretrain")
