"""Promotion: a candidate becomes a version of the registry and the model in use, once.

The version's facts name the improvement that made it, so that a promotion that was killed between adding
and using goes on with the version that is there.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ...files import replace_file
from ...llm.registry import ModelRegistry, facts_of
from ...llm.training.card import add_scores, write_card
from .machine import Subject
from .work import Work


def promoted(home: Path, improvement: str) -> str:
    """Return the version that an improvement added, or an empty string."""
    registry = ModelRegistry(home)
    for version in registry.list():
        if facts_of(registry.folder(version)).get("improvement") == improvement:
            return version.reference
    return ""


def undone(home: Path, work: Work) -> bool:
    """Return whether the version that ``work`` added was in use, and a person went back to its parent."""
    registry = ModelRegistry(home)
    version = promoted(home, work.state.id)
    return bool(version) and (registry.current(), registry.before()) == (work.state.parent, version)


def method_of(home: Path, reference: str) -> str:
    """Return by which method an improvement made a version; empty for any other model."""
    registry = ModelRegistry(home)
    known = {version.reference: version for version in registry.list()}
    facts = facts_of(registry.folder(known[reference])) if reference in known else {}
    return str(facts.get("method", ""))


def root_of(home: Path, reference: str) -> str:
    """Return the model that a version's lineage begins with; the reference itself where it has none."""
    known = {version.reference: version.parent for version in ModelRegistry(home).list()}
    seen: set[str] = set()
    while known.get(reference) and reference not in seen:
        seen.add(reference)
        reference = known[reference]
    return reference


def promote(home: Path, work: Work, subject: Subject) -> str:
    """Add the candidate and put it in use; returns its reference. May be called again after a kill."""
    registry = ModelRegistry(home)
    reference = promoted(home, work.state.id)
    if not reference:
        folder = work.trained
        describe(folder, work, subject)
        base = str(facts_of(folder).get("base") or subject.base)
        reference = registry.add(subject.name, folder, base=base, parent=work.state.parent).reference
    if registry.current() != reference:
        registry.use(reference)
    return reference


def describe(folder: Path, work: Work, subject: Subject) -> None:
    """Write the candidate's lineage and what the gate found into its facts and card."""
    state = work.state
    facts: dict[str, Any] = {
        **facts_of(folder),
        "improvement": state.id,
        "parent": state.parent,
        "method": state.method,
        "stands": subject.stands(work.state.options.full),
        "successes": state.facts.get("kept", 0),
        "replayed": state.facts.get("replayed", 0),
    }
    if state.facts.get("exposure"):
        facts["exposure"] = ", ".join(f"{bits:.1f}" for bits in state.facts["exposure"])
    replace_file(folder / "autogpt.json", json.dumps(facts, indent=2).encode())
    write_card(folder, facts)
    verdict = state.facts["verdict"]
    rows = {
        f"gate, {row['category']}": {
            "n": row["n"],
            "current": round(row["current"], 4),
            "candidate": round(row["candidate"], 4),
            "difference95": f"{row['low']:+.3f} to {row['high']:+.3f}",
        }
        for row in state.facts["rows"]
    }
    rows["gate, McNemar"] = {"p": f"{verdict['p']:.3g}", "won": verdict["wins"], "lost": verdict["losses"]}
    add_scores(folder, rows)
