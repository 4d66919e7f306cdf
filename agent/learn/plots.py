"""Small drawings in SVG for the page of an improvement: curves, and bars before and after."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from ..evaluate.statistics import Row

WIDTH, HEIGHT = 440, 220
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 48, 34
COLOURS = ("var(--new)", "var(--old)")


@dataclass(frozen=True)
class Curve:
    """A line with a name: points ``(x, y)`` in rising x."""

    name: str
    points: Sequence[tuple[float, float]]


def curves(title: str, below: str, lines: Sequence[Curve], top: float | None = None) -> str:
    """Return a drawing of curves; ``top``: the largest y, by default that of the points."""
    points = [point for line in lines for point in line.points]
    x0, x1 = min(x for x, _ in points), max(x for x, _ in points)
    highest = max(y for _, y in points) if top is None else top
    ticks = _ticks(0.0, highest)
    y1 = max(ticks[-1], 1e-9)

    def place(x: float, y: float) -> tuple[float, float]:
        across = LEFT + (WIDTH - LEFT - RIGHT) * ((x - x0) / (x1 - x0) if x1 > x0 else 0.5)
        return across, TOP + (HEIGHT - TOP - BOTTOM) * (1 - y / y1)

    parts = [_text(LEFT, 16, title, "start", True)]
    for number, line in enumerate(lines if len(lines) > 1 else ()):
        x = LEFT + 175 * number
        parts.append(f'<rect x="{x}" y="25" width="9" height="9" rx="2" fill="{COLOURS[number % 2]}"/>')
        parts.append(_text(x + 14, 34, line.name, "start"))
    for tick in ticks:
        _, y = place(x0, tick)
        parts.append(
            f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="var(--line)"/>'
        )
        parts.append(_text(LEFT - 6, y + 4, f"{tick:.0%}" if top else f"{tick:g}", "end"))
    for value, anchor in ((x0, "start"), (x1, "end")):
        parts.append(_text(place(value, 0)[0], HEIGHT - 14, f"{value:g}", anchor))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 14, below, "middle"))
    for number, line in enumerate(lines):
        colour = COLOURS[number % len(COLOURS)]
        places = [place(*point) for point in line.points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2" '
            'stroke-linejoin="round" stroke-linecap="round"/>'
        )
        if len(places) <= 20:
            parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in places]
    return _svg(WIDTH, HEIGHT, title, parts)


def bars(rows: Sequence[Row]) -> str:
    """Return each category before and after as two bars, with the interval of the difference."""
    width, step, left = 900, 54, 150
    height = 30 + step * len(rows)
    room = width - left - 70
    parts = [
        f'<rect x="{left}" y="6" width="10" height="10" rx="2" fill="var(--old)"/>',
        _text(left + 15, 15, "current", "start"),
        f'<rect x="{left + 80}" y="6" width="10" height="10" rx="2" fill="var(--new)"/>',
        _text(left + 95, 15, "candidate", "start"),
    ]
    for number, row in enumerate(rows):
        y = 30 + step * number
        parts.append(_text(left - 12, y + 23, row.category, "end", row.category == "all"))
        for place, (value, colour) in enumerate(((row.current, "var(--old)"), (row.candidate, "var(--new)"))):
            top = y + 4 + 18 * place
            parts.append(
                f'<rect x="{left}" y="{top}" width="{max(1.0, room * value):.1f}" height="14" rx="3" '
                f'fill="{colour}"/>'
            )
            parts.append(_text(left + room * value + 8, top + 11, f"{value:.1%}", "start"))
    return _svg(width, height, "success before and after", parts)


def _ticks(low: float, high: float) -> list[float]:
    """Return three to six round numbers from ``low`` to at least ``high``."""
    span = max(high - low, 1e-9)
    unit = 10.0 ** math.floor(math.log10(span))
    size = next(unit * m for m in (0.2, 0.25, 0.5, 1.0, 2.0) if span / (unit * m) <= 5)
    return [round(low + size * n, 10) for n in range(math.ceil(span / size - 1e-9) + 1)]


def _text(x: float, y: float, text: str, anchor: str, strong: bool = False) -> str:
    style = ' style="font-weight:600;fill:var(--ink)"' if strong else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{style}>{escape(text)}</text>'


def _svg(width: int, height: int, label: str, parts: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label, quote=True)}">'
        + "".join(parts)
        + "</svg>"
    )
