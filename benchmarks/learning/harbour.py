"""A domain that no training has seen: a plugin of two tools, and goals about them that check themselves.

:func:`install` writes the plugin as an installed package would lie (a module and its entry point) and puts
it on the path, so that ``autogpt improve`` finds it as it finds any plugin. The tools compute their results
from their arguments, so that only the right call gives the right answer; a goal takes one call. What judges
and measures is worded otherwise than what is trained on.
"""

from __future__ import annotations

import importlib
import random
import sys
from pathlib import Path

from autogpt.agent.goals.load import Goal

PLUGIN = '''"""Tides and berths of a small coast."""
from autogpt import tool


@tool(replay="pure")
def tide_height(harbour: str, hour: int) -> float:
    """Height of the tide in a harbour, in metres, at a full hour (0 to 23)."""
    seed = sum(ord(letter) for letter in harbour.strip().lower())
    return round(1.0 + (seed % 17) / 10 + ((hour * 7 + seed) % 23) / 10, 1)


@tool(replay="pure")
def berth_fee(length: int, nights: int, season: str) -> int:
    """Price of a berth in crowns: length of the boat in metres, nights, season (summer or winter)."""
    return (7 if season.strip().lower() == "summer" else 4) * length * nights + 15
'''
HARBOURS = ("Norwick", "Skarhaven", "Ellsand", "Tornby", "Havsund", "Marrow", "Eastpool", "Granvik")
TIDE = (
    "How high is the tide in {h} at {t}:00?",
    "I reach {h} at {t}:00. How much water is there over the chart?",
    "Tell me the tide at {h}, {t} o'clock.",
    "At {t}:00, what does the tide in {h} stand at?",
    "Tide for {h} at {t}?",
    "What height has the water at {h} at {t} o'clock?",
    "Which tide do I meet in {h} at {t}:00?",
    "We moor in {h} at {t} o'clock; what is the tide then?",
)
FEE = (
    "What does a berth for a boat of {n} metres cost for {k} nights in {s}?",
    "We stay {k} nights in {s} with a {n} metre boat. What is the fee?",
    "Price of {k} {s} nights for {n} metres, please.",
    "My boat is {n} metres long. How many crowns are {k} nights in {s}?",
    "How much do {k} nights at the quay cost in {s}? The boat has {n} metres.",
    "Berth fee: {n} metres, {k} nights, {s}.",
    "In {s} I want to lie here for {k} nights with {n} metres of boat. What will I pay?",
    "What do you charge a {n} metre boat for {k} {s} nights?",
)
"""How people ask. The last wordings of each are for judging and measuring only."""
TAUGHT = 5


def install(folder: Path) -> None:
    """Write the plugin into ``folder`` and make it importable; does nothing twice."""
    facts = folder / "autogpt_harbour-1.0.dist-info"
    facts.mkdir(parents=True, exist_ok=True)
    (folder / "autogpt_harbour.py").write_text(PLUGIN, encoding="utf-8")
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: autogpt-harbour\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text(
        "[autogpt.tools]\ntide = autogpt_harbour:tide_height\nberth = autogpt_harbour:berth_fee\n"
    )
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
        importlib.invalidate_caches()


def goals(count: int, seed: int, taught: bool = False) -> list[Goal]:
    """Return so many different goals, in the wordings of training or in the others; :func:`install` first."""
    import autogpt_harbour as harbour  # type: ignore[import-not-found]

    rng = random.Random(seed)
    wordings = {
        name: ways[:TAUGHT] if taught else ways[TAUGHT:] for name, ways in (("tide", TIDE), ("fee", FEE))
    }
    found: dict[str, Goal] = {}
    while len(found) < count:
        kind = rng.choice(("tide", "fee"))
        place, hour = rng.choice(HARBOURS), rng.randrange(24)
        length, nights, season = rng.randint(5, 18), rng.randint(2, 14), rng.choice(("summer", "winter"))
        if kind == "tide":
            text, wanted = (
                rng.choice(wordings[kind]).format(h=place, t=hour),
                harbour.tide_height(place, hour),
            )
        else:
            text = rng.choice(wordings[kind]).format(n=length, k=nights, s=season)
            wanted = harbour.berth_fee(length, nights, season)
        record = {
            "goal": text,
            "id": f"harbour-{seed}-{len(found):03d}",
            "category": kind,
            "tools": ["tide_height", "berth_fee"],
            "check": [{"answer": {"number": wanted}}],
        }
        found.setdefault(text, Goal.model_validate(record))
    return list(found.values())
