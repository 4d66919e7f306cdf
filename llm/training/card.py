"""The model card: what a trained folder was made from, in Markdown for people and JSON for programs.

Training writes it with what it knows (base, data, seed, steps, losses, chip, date); evaluation adds
its scores with ``add_scores``. ``card.json`` holds the facts, ``README.md`` is made from it each
time, so the two cannot disagree.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ...files import read_object, replace_file

_TITLES = {
    "base": "Base",
    "base_sha256": "Base weights (fingerprint)",
    "tokenizer_sha256": "Tokenizer (sha256)",
    "prompting": "Prompting",
    "method": "Method",
    "adapter": "Adapter",
    "parent": "Trained from",
    "stands": "How it stands to that",
    "improvement": "Improvement",
    "successes": "Own successes trained on",
    "replayed": "Ordinary samples replayed",
    "exposure": "Exposure of planted canaries (bits)",
    "init_sha256": "Adapter gone on from (sha256)",
    "data_sha256": "Training data (sha256)",
    "prompts_sha256": "Prompts (sha256)",
    "parameters": "Parameters",
    "seed": "Seed",
    "batch": "Samples per step",
    "rank": "LoRA rank",
    "beta": "Cost of leaving the reference (beta)",
    "replay_share": "Share of replayed samples",
    "kl": "Price of leaving the reference (per nat)",
    "group": "Attempts at each goal",
    "epsilon": "Privacy spent (epsilon, one sample added or removed)",
    "delta": "Privacy: delta",
    "noise": "Privacy: noise multiplier",
    "clip": "Privacy: bound of a sample's gradient",
    "steps": "Optimiser steps",
    "samples": "Samples seen",
    "tokens": "Tokens seen",
    "minutes": "Minutes of training",
    "final_loss": "Training loss (running mean, nats per token)",
    "eval_loss": "Held-out loss (nats per token)",
    "chip": "Trained on",
    "date": "Date",
}
_NOTICE = {
    "small": "A fine-tuning of SmolLM2-135M-Instruct (Apache-2.0) for AutoGPT's tool calls, in English.",
    "medium": "A fine-tuning of Qwen2.5-Coder-0.5B-Instruct (Apache-2.0) for AutoGPT's tool calls.",
    "large": "A fine-tuning of Qwen2.5-Coder-1.5B-Instruct (Apache-2.0) for AutoGPT's tool calls.",
    "nano": "Trained from nothing in minutes, for tests and as proof that the factory works. It is weak: "
    "nothing falls back to it.",
}


def write_card(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write or refresh the card of ``folder``; scores that are there already are kept.

    Args:
        facts: ``name`` and any of the fields named in ``_TITLES``.
    """
    from ..nn.device import chip

    kept = read_card(folder)
    dated = {"chip": chip(), "date": datetime.now(UTC).date().isoformat()}
    _write(folder, {**dated, **facts, "scores": kept.get("scores", {})})


def add_scores(folder: Path, scores: Mapping[str, Any], prompts_sha256: str = "") -> None:
    """Add evaluation results: suite name to anything JSON, e.g. ``{"pass_rate": 0.7, "n": 500}``."""
    card = read_card(folder)
    card["scores"] = {**card.get("scores", {}), **scores}
    if prompts_sha256:
        card["prompts_sha256"] = prompts_sha256
    _write(folder, card)


def read_card(folder: Path) -> dict[str, Any]:
    """Return the card's facts, empty where there is none."""
    return read_object(folder / "card.json")


def _write(folder: Path, card: dict[str, Any]) -> None:
    replace_file(folder / "card.json", (json.dumps(card, indent=1) + "\n").encode())
    replace_file(folder / "README.md", _markdown(card).encode())


def _markdown(card: Mapping[str, Any]) -> str:
    name = str(card.get("name", "model"))
    lines = [f"# {name}", ""]
    if name in _NOTICE:
        lines += [_NOTICE[name], ""]
    lines += ["| | |", "|---|---|"]
    for key, title in _TITLES.items():
        if card.get(key) not in (None, ""):
            value = card[key]
            lines.append(f"| {title} | {f'{value:.4g}' if isinstance(value, float) else value} |")
    lines += ["", "## Scores", ""]
    scores: Mapping[str, Any] = card.get("scores", {})
    if not scores:
        lines.append("Not evaluated yet.")
    for suite, score in scores.items():
        shown = ", ".join(f"{k} {v}" for k, v in score.items()) if isinstance(score, Mapping) else score
        lines.append(f"- {suite}: {shown}")
    return "\n".join(lines) + "\n"
