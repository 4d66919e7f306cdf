"""A domain that no training has seen: a plugin of two tools, and goals about them that check themselves.

:func:`install` writes the plugin as an installed package would lie (a module and its entry point) and puts
it on the path, so that ``autogpt improve`` finds it as it finds any plugin. The tools compute their results
from their arguments, so that only the right calls give the right answers; goals take one call or two and a
sum. Harbours, boats and seasons of held-out goals differ from those of training as often as chance has it.
"""

from __future__ import annotations

import importlib
import random
import sys
from pathlib import Path

from autogpt.agent.goal import Goal

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
HOURS = ("midnight", *(f"{h} in the morning" for h in range(1, 12)), "noon",
         *(f"{h} in the afternoon" for h in range(1, 12)))  # fmt: skip
TIDE = (
    "How high is the tide in {h} at {t}?",
    "I reach {h} at {t}. How much water over the chart is there?",
    "Tell me the tide at {h}, {t}.",
    "At {t}, what does the tide in {h} stand at?",
)
FEE = (
    "What does a berth for a boat of {n} metres cost for {k} nights in {s}?",
    "We stay {k} nights in {s} with a {n} metre boat. What is the fee?",
    "Price of {k} {s} nights for {n} metres, please.",
    "My boat is {n} metres long. How many crowns are {k} nights in {s}?",
)
BOTH = (
    "Two boats, {n} and {m} metres, stay {k} nights in {s}. What do they pay together?",
    "What is the fee for {k} {s} nights for a boat of {n} metres and one of {m} metres, in all?",
)


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


def goals(count: int, seed: int) -> list[Goal]:
    """Return so many different goals; call :func:`install` first."""
    import autogpt_harbour as harbour  # type: ignore[import-not-found]

    rng = random.Random(seed)
    found: dict[str, Goal] = {}
    while len(found) < count:
        kind = rng.choices(("tide", "berth", "both"), (4, 4, 2))[0]
        place, hour = rng.choice(HARBOURS), rng.randrange(24)
        length, other, nights = rng.randint(5, 18), rng.randint(5, 18), rng.randint(2, 14)
        season = rng.choice(("summer", "winter"))
        if kind == "tide":
            text = rng.choice(TIDE).format(h=place, t=HOURS[hour])
            wanted = harbour.tide_height(place, hour)
        elif kind == "berth":
            text = rng.choice(FEE).format(n=length, k=nights, s=season)
            wanted = harbour.berth_fee(length, nights, season)
        else:
            text = rng.choice(BOTH).format(n=length, m=other, k=nights, s=season)
            wanted = sum(harbour.berth_fee(size, nights, season) for size in (length, other))
        record = {
            "goal": text,
            "id": f"harbour-{seed}-{len(found):03d}",
            "category": kind,
            "tools": ["tide_height", "berth_fee", "calculator"],
            "check": [{"answer": {"number": wanted}}],
        }
        found.setdefault(text, Goal.model_validate(record))
    return list(found.values())
