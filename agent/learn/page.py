"""The page of an improvement: one HTML file that needs no network, readable in light and dark.

Everything that comes from runs, goals or models is escaped; there is no script on the page. The figures are
those of the improvement's folder, so the page can be made again at any time.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from ..evaluate.statistics import row_verdict
from .work import Work, improvements

TEMPLATE = "page.html.jinja"
COLOURS = ("var(--new)", "var(--old)")
Points = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Line:
    """A curve of a chart, in the drawing's coordinates."""

    name: str
    colour: str
    places: Points


@dataclass(frozen=True)
class Chart:
    """A drawing of curves, laid out."""

    title: str
    below: str
    lines: list[Line]
    ticks: list[tuple[float, str]]
    """Of the y axis: where, and its label."""
    ends: tuple[str, str]
    """Labels at both ends of the x axis."""
    width: int = 440
    height: int = 220
    left: int = 46
    right: int = 428


def page(work: Work) -> str:
    """Return the page of an improvement that has ended."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    state = work.state
    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(
        loader=loader, undefined=StrictUndefined, autoescape=True, trim_blocks=True, lstrip_blocks=True,
        keep_trailing_newline=True,
    )  # fmt: skip
    title = {
        "promoted": f"{state.version} replaces {state.parent}",
        "kept": f"{state.parent} stays",
        "nothing": f"{state.parent} has too little to learn from",
    }[state.decision]
    capital = f"{state.reason[:1].upper()}{state.reason[1:]}."
    return environment.get_template(TEMPLATE).render(
        state=state,
        figures=state.figures,
        title=title,
        reason=f"The gate: {state.reason}." if state.figures.rows else capital,
        tiles=_tiles(work),
        row_verdict=row_verdict,
        charts=_charts(work),
        examples=next(iter(work.examples.read()), {"won": [], "lost": []}),
        data=_data(work),
        day=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(state.created)),
    )


def _tiles(work: Work) -> list[tuple[str, str]]:
    """Return the page's headline figures, each with what it is."""
    state, figures = work.state, work.state.figures
    tiles = []
    if figures.rows and figures.verdict:
        whole, verdict = figures.rows[-1], figures.verdict
        between = f"{whole.low * 100:+.1f} to {whole.high * 100:+.1f}"
        tiles.append((f"{whole.difference * 100:+.1f}", f"points on held-out goals (95 %: {between})"))
        tiles.append((f"{verdict.wins} : {verdict.losses}", f"won and lost, p = {verdict.p:.2g}"))
        tiles.append((f"{verdict.seen}", f"of {verdict.planned} goals played by both"))
    if figures.tries:
        tiles.append(
            (f"{(figures.solved_tries or 0) / figures.tries:.0%}", f"of {figures.tries} tries achieved")
        )
    if figures.samples:
        tiles.append((f"{figures.samples}", f"samples, trained by {state.method}"))
    if figures.exposure:
        tiles.append((f"{fmean(figures.exposure):.1f} bits", "exposure of planted canaries"))
    seconds = sum(state.seconds.values())
    tiles.append((f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s", "in all"))
    return tiles


def _data(work: Work) -> list[tuple[str, object]]:
    """Return what it learned from, line by line; None: not known."""
    figures = work.state.figures
    bits, moved = figures.exposure, figures.feedback
    return [
        ("goals practised", figures.goals),
        ("solved sometimes", figures.sometimes),
        ("never solved", figures.never),
        ("past runs", figures.past_runs),
        ("successes kept", figures.kept),
        ("earlier successes drawn again", figures.again),
        ("ordinary samples replayed", figures.replayed),
        ("pairs and ratings of people", f"{figures.pairs}, {figures.thumbs}"),
        *((f"refused: {why}", count) for why, count in figures.refused.items()),
        *((f"not practised: {why}", count) for why, count in figures.dropped.items()),
        *((f"minutes, {stage}", f"{s / 60:.1f}") for stage, s in work.state.seconds.items()),
        ("exposure of each canary, bits", ", ".join(f"{value:.1f}" for value in bits) if bits else None),
        ("pairs of held-out ratings that moved its way", f"{moved.wins} : {moved.losses}" if moved else None),
    ]


def _charts(work: Work) -> list[Chart]:
    """Return the charts for which there are at least two points."""
    # a resumed training repeats the steps after its checkpoint: the last of each counts
    steps = list({row["step"]: row for row in work.curve.read()}.values())
    losses = [(float(row["step"]), float(row["mean"])) for row in steps]
    charts = [
        _chart("Loss, nats a token (running mean)", "optimiser step", {"loss": losses}),
        _chart("Mean reward of the tries", "tries so far", {"reward": _rewards(work)}, 1.0),
        _chart("Tries that achieved their goal, by improvement", "improvement", _success(work), 1.0),
    ]
    return [chart for chart in charts if chart]


def _rewards(work: Work) -> Points:
    """Return the mean reward over time: of GRPO's rounds, else of practice in twentieths."""
    if rounds := work.rewards.read():
        return [(float(row["tries"]), float(row["reward"])) for row in rounds]
    values = [attempt.value for attempt in work.attempts.read()]
    size = max(8, -(-len(values) // 20))
    pieces = [values[start : start + size] for start in range(0, len(values), size)]
    return [(float(n * size + len(piece)), fmean(piece)) for n, piece in enumerate(pieces)]


def _success(work: Work) -> dict[str, Points]:
    """Return the success of practice and of the gate over the improvements of this home."""
    practice, gate = [], []
    for number, one in enumerate(improvements(work.home), start=1):
        figures = one.state.figures
        if one.state.created > work.state.created:
            break
        if figures.tries:
            practice.append((float(number), (figures.solved_tries or 0) / figures.tries))
        if figures.rows:
            gate.append((float(number), figures.rows[-1].candidate))
    return {"practice, current model": practice, "gate, candidate": gate}


def _chart(title: str, below: str, curves: dict[str, Points], top: float | None = None) -> Chart | None:
    """Lay out curves of at least two points; ``top``: the largest y, then in per cent."""
    curves = {name: points for name, points in curves.items() if len(points) > 1}
    points = [point for line in curves.values() for point in line]
    if not points:
        return None
    x0, x1 = min(x for x, _ in points), max(x for x, _ in points)
    ticks = _ticks(max(y for _, y in points) if top is None else top)
    chart = Chart(title, below, [], [], (f"{x0:g}", f"{x1:g}"))
    across, down = (chart.right - chart.left) / max(x1 - x0, 1e-9), (chart.height - 82) / ticks[-1]

    def place(x: float, y: float) -> tuple[float, float]:
        return chart.left + across * (x - x0), chart.height - 34 - down * y

    for number, (name, line) in enumerate(curves.items()):
        chart.lines.append(Line(name, COLOURS[number % 2], [place(*point) for point in line]))
    chart.ticks.extend((place(x0, tick)[1], f"{tick:.0%}" if top else f"{tick:g}") for tick in ticks)
    return chart


def _ticks(high: float) -> list[float]:
    """Return three to six round numbers from 0 to at least ``high``."""
    span = max(high, 1e-9)
    unit = 10.0 ** math.floor(math.log10(span))
    size = next(unit * m for m in (0.2, 0.25, 0.5, 1.0, 2.0) if span / (unit * m) <= 5)
    return [round(size * n, 10) for n in range(math.ceil(span / size - 1e-9) + 1)]
