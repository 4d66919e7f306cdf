"""Training a small model from nothing: texts and episodes in, a whole model folder out.

The tokenizer is trained first, on the same texts. Then one run over a mixture: texts cut into pieces
(every token carries loss) and episodes (all that the assistant says carries loss). Episodes come as
ids of another model's tokenizer; they are decoded to conversations and encoded again. At a budget
of minutes such a model is for tests, and for proving that the factory works; it is weak.
"""

from __future__ import annotations

import json
import random
import re
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from ....errors import UsageError
from ....files import replace_file, sha256_of
from ...fetch import base_folder
from ...message import Message
from ...text.tokenizer import RESULT_CLOSE, RESULT_OPEN, ChatTokenizer
from ..card import write_card
from ..checkpoint import Checkpoint, write_fp16
from ..data import Sample, data_hash, open_lines
from ..trainer import (
    OnStep,
    Report,
    SupervisedConfig,
    SupervisedRun,
    choose_compute,
    find_path,
    read_config,
)
from .from_scratch import build_model, build_tokenizer

_MESSAGE = re.compile(r"<\|im_start\|>(system|user|assistant)\n(.*?)<\|im_end\|>", re.DOTALL)


class PretrainConfig(SupervisedConfig):
    """What to build and what it reads."""

    kind: Literal["pretrain"] = "pretrain"
    name: str = "nano"
    texts: list[Path] = []
    """JSON lines with a field ``text``, or ``turns`` (a list of utterances)."""
    episodes: list[Path] = []
    """Training files as for fine-tuning, in the ids of ``tokenizer``."""
    tokenizer: Path = Path("small")
    """Folder of the tokenizer that the episodes' ids are of; ``small`` is the fetched base."""
    depth: int = Field(default=4, ge=1, le=24)
    """The one dial of size."""
    vocabulary: int = Field(default=4096, ge=300)
    text_characters: int = Field(default=3_000_000, ge=0)
    """How much of the texts is read."""
    piece: int = Field(default=256, ge=16)
    """Tokens per piece of text."""


def read_texts(paths: Sequence[Path], characters: int) -> list[str]:
    """Return texts from the files in turn, about ``characters`` in all, the same share of each."""
    texts: list[str] = []
    for path in paths:
        room = characters // len(paths)
        if not path.is_file():
            raise UsageError(f"{path}: no such text file")
        with open_lines(path) as lines:
            for line in lines:
                record = json.loads(line)
                text = str(record.get("text") or "\n".join(record.get("turns", ())))
                texts.append(text[:room])
                room -= len(text)
                if room <= 0:
                    break
    return texts


def conversations(paths: Sequence[Path], tokenizer: Path) -> Iterator[tuple[str, list[Message]]]:
    """Yield (kind, messages) of the episodes in the files, read back from ids to text."""
    from tokenizers import Tokenizer

    known = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
    for path in paths:
        if not path.is_file():
            raise UsageError(f"{path}: no such training file")
        with open_lines(path) as lines:
            for line in lines:
                record = json.loads(line)
                text = known.decode(record["ids"], skip_special_tokens=False)
                messages = [_message(role, body) for role, body in _MESSAGE.findall(text)]
                yield str(record.get("kind", "")), messages


def _message(role: Any, body: str) -> Message:
    if role == "user" and body.startswith(RESULT_OPEN) and body.endswith(RESULT_CLOSE):
        return Message("tool", body.removeprefix(RESULT_OPEN).removesuffix(RESULT_CLOSE))
    return Message(role, body)


def encode(tokenizer: ChatTokenizer, kind: str, messages: Sequence[Message], longest: int) -> Sample | None:
    """Return a conversation as a sample whose shared part is its system message; None if too long."""
    encoded = tokenizer.encode_messages(messages)
    if len(encoded.ids) > longest or not any(encoded.mask):
        return None
    head = messages[:1] if messages[0].role == "system" else []
    shared = max(0, len(tokenizer.encode_messages(head).ids) - 1)
    ids, mask = encoded.ids, encoded.mask
    return Sample(tuple(ids[:shared]), array("i", ids[shared:]), bytes(mask[shared:]), kind)


def pieces(tokenizer: ChatTokenizer, texts: Sequence[str], length: int) -> Iterator[Sample]:
    """Yield the texts, put end to end, in pieces of ``length`` tokens that all carry loss."""
    nothing = tokenizer.single("<|endoftext|>") or 0
    held: list[int] = []
    for text in texts:
        held += [nothing, *tokenizer.plain(text)]
        while len(held) >= length:
            yield Sample((), array("i", held[:length]), bytes([0] + [1] * (length - 1)), "text")
            held = held[length:]


def _samples(config: PretrainConfig, folder: Path) -> list[Sample]:
    """Make the tokenizer (unless it is there) and return all samples, shuffled."""
    texts = read_texts(config.texts, config.text_characters)
    talks = list(conversations(config.episodes, config.tokenizer))
    if not (folder / "tokenizer.json").is_file():
        said = ["\n".join(m.content for m in messages) for _, messages in talks[:4000]]
        build_tokenizer([*texts, *said], config.vocabulary, folder)
    tokenizer = ChatTokenizer(folder)
    encoded = (encode(tokenizer, kind, messages, config.longest) for kind, messages in talks)
    samples = [sample for sample in encoded if sample is not None]
    samples += pieces(tokenizer, texts, config.piece)
    if not samples:
        raise UsageError("nothing to train on: name `texts` or `episodes`")
    random.Random(config.seed).shuffle(samples)
    return samples


def pretrain(config: PretrainConfig, progress: OnStep | None = None) -> Report:
    """Build and train a model from nothing, or go on with the run that ``config.out`` holds.

    Raises:
        UsageError: files or checkpoint do not fit.
    """
    folder = config.out / "model"
    samples = _samples(config, folder)
    held_out = samples[: min(config.eval_samples, len(samples) // 20)]
    device, dtype = choose_compute(config.device, config.dtype)
    model = build_model(config.depth, ChatTokenizer(folder).vocab_size, config.seed).to(device)
    identity: dict[str, str | int] = {
        "tokenizer_sha256": sha256_of(folder / "tokenizer.json"),
        "data_sha256": data_hash([*config.texts, *config.episodes]),
        "seed": config.seed,
        "batch": config.batch,
        "depth": config.depth,
    }

    def write(state: Checkpoint) -> Path:
        size = sum(weight.numel() for weight in model.parameters())
        facts = {"name": config.name, "base": "", **identity, "parameters": size, **state.facts()}
        _write_model(model, folder)
        replace_file(folder / "autogpt.json", json.dumps(facts, indent=2).encode())
        write_card(folder, facts)
        return folder

    run = SupervisedRun(
        config=config,
        core=model,
        weights=list(model.parameters()),
        samples=samples[len(held_out) :],
        held_out=held_out,
        device=device,
        dtype=dtype,
        state=Checkpoint(identity),
        write=write,
    )
    return run.learn(f"{config.name} on {device}, {len(samples)} samples", progress)


def _write_model(model: Any, folder: Path) -> None:
    """Write configuration and fp16 weights, each by rename."""
    settings = {**model.config.to_dict(), "architectures": [type(model).__name__], "dtype": "float16"}
    replace_file(folder / "config.json", json.dumps(settings, indent=1).encode())
    write_fp16(folder / "model.safetensors", model.state_dict())


def load_config(path: Path, roots: Sequence[Path] = ()) -> PretrainConfig:
    """Read a training file (YAML), looking for relative paths as ``finetune.load_config`` does."""
    config = read_config(path, PretrainConfig, roots)
    if str(config.tokenizer) == "small":
        folders = [base_folder(root) for root in roots]
        found = next((folder for folder in folders if folder.is_dir()), find_path(config.tokenizer, roots))
        config = config.model_copy(update={"tokenizer": found})
    if config.episodes and not (config.tokenizer / "tokenizer.json").is_file():
        raise UsageError(
            f"{path}: tokenizer: no tokenizer.json in {config.tokenizer}: run `autogpt model fetch`"
        )
    return config
