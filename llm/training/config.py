"""Reading a training file: YAML into a checked record, with paths made absolute.

Relative paths that name something to read are looked for beside the file, in the current folder
and under the given roots (the data folder), in this order; ``out`` is relative to the current folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from ...errors import UsageError

ConfigT = TypeVar("ConfigT", bound=BaseModel)


def find(name: Path, roots: Sequence[Path]) -> Path:
    """Return the first existing ``root / name``, else ``name`` as it is."""
    name = name.expanduser()
    return next((root / name for root in roots if (root / name).exists()), name)


def read_config(path: Path, shape: type[ConfigT], roots: Sequence[Path] = ()) -> ConfigT:
    """Read ``path`` as YAML into ``shape``; every field of type path but ``out`` is looked up.

    Raises:
        UsageError: names the file, the field and what is wrong with it.
    """
    import yaml

    try:
        config = shape.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except OSError as problem:
        raise UsageError(f"{path}: {problem.strerror}") from None
    except yaml.YAMLError as problem:
        raise UsageError(f"{path}: not YAML: {' '.join(str(problem).split())}") from None
    except ValidationError as problem:
        wrong = [f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in problem.errors()]
        raise UsageError(f"{path}: {'; '.join(wrong)}") from None
    places = [path.resolve().parent, Path.cwd(), *roots]
    changes: dict[str, object] = {}
    for field in type(config).model_fields:
        value = getattr(config, field)
        if field == "out":
            continue
        if isinstance(value, Path):
            changes[field] = find(value, places)
        elif isinstance(value, list) and value and isinstance(value[0], Path):
            changes[field] = [find(item, places) for item in value]
    return config.model_copy(update=changes)
