"""The page of an improvement: one HTML file that needs no network, readable in light and dark.

Everything that comes from runs, goals or models is escaped; there is no script on the page. The figures are
those of ``state.json`` and the files beside it, so the page can be made again at any time.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from statistics import fmean
from typing import Any

from ...cli.evaluate import row_verdict
from ..evaluate.statistics import Row
from .plots import Curve, bars, curves
from .work import Work, improvements

STYLE = """
:root { color-scheme: light dark; --ink: #1c2330; --soft: #5b6575; --line: #d9dee6; --paper: #fbfcfd;
  --card: #ffffff; --old: #8a94a6; --new: #2563eb; --good: #15803d; --bad: #b91c1c; --wash: #eef2f8; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ef; --soft: #9aa5b5; --line: #2c3441;
  --paper: #12161d; --card: #191f29; --old: #76839a; --new: #6ea0ff; --good: #4ade80; --bad: #f87171;
  --wash: #202837; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); line-height: 1.55;
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 960px; margin: 0 auto; padding: 40px 20px 64px; }
h1 { font-size: 28px; line-height: 1.25; margin: 0 0 6px; letter-spacing: -0.01em; }
h2 { font-size: 17px; margin: 40px 0 12px; }
p { margin: 0 0 10px; } .soft { color: var(--soft); }
.badge { display: inline-block; padding: 2px 12px; border-radius: 99px; font-size: 13px; font-weight: 600;
  border: 1.5px solid currentColor; margin-bottom: 14px; }
.promoted { color: var(--good); } .kept { color: var(--soft); } .nothing { color: var(--soft); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(190px, 1fr)); gap: 12px;
  margin: 24px 0 0; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 12px 16px; }
.tile b { display: block; font-size: 22px; font-variant-numeric: tabular-nums; }
.tile span { color: var(--soft); font-size: 13px; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 16px;
  overflow-x: auto; }
.two { display: grid; grid-template-columns: repeat(auto-fit, minmax(320px, 1fr)); gap: 12px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 600; color: var(--soft); font-size: 13px; }
th, td { padding: 7px 22px 7px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
td.n, th.n { text-align: right; } tr:last-child td { border-bottom: 0; } tr.all td { font-weight: 600; }
.up { color: var(--good); } .down { color: var(--bad); }
details { border-bottom: 1px solid var(--line); padding: 10px 0; } details:last-child { border-bottom: 0; }
summary { cursor: pointer; } summary .kind { color: var(--soft); font-size: 13px; margin-right: 8px; }
.side { display: grid; grid-template-columns: repeat(auto-fit, minmax(280px, 1fr)); gap: 12px;
  margin: 10px 0 4px; }
.side h3 { font-size: 13px; margin: 0 0 4px; color: var(--soft); font-weight: 600; }
pre { margin: 0; padding: 10px 12px; background: var(--wash); border-radius: 8px; white-space: pre-wrap;
  overflow-wrap: anywhere; font: 12.5px/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
svg { display: block; width: 100%; height: auto; } svg text { fill: var(--soft); font-size: 12px; }
footer { margin-top: 48px; color: var(--soft); font-size: 13px; }
"""


def page(work: Work) -> str:
    """Return the page of an improvement that has ended."""
    state = work.state
    rows = [Row(**{k: v for k, v in row.items() if k != "difference"}) for row in state.facts.get("rows", [])]
    parts = [_head(work, rows), _tiles(work, rows)]
    if rows:
        parts.append(_table(rows, state.facts["verdict"]))
    parts += [_curves(work), _examples(work), _data(work), _footer(work)]
    title = escape(f"{state.parent}: {state.decision}")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(part for part in parts if part)
        + "\n</main>\n</body>\n</html>\n"
    )


def _head(work: Work, rows: Sequence[Row]) -> str:
    state = work.state
    title = {
        "promoted": f"{state.version} replaces {state.parent}",
        "kept": f"{state.parent} stays",
        "nothing": f"{state.parent} has too little to learn from",
    }[state.decision]
    said = f"The gate: {state.reason}." if rows else f"{state.reason[:1].upper()}{state.reason[1:]}."
    return (
        f'<span class="badge {escape(state.decision)}">{escape(state.decision)}</span>'
        f'<h1>{escape(title)}</h1><p class="soft">{escape(said)}</p>'
    )


def _tiles(work: Work, rows: Sequence[Row]) -> str:
    facts, state = work.state.facts, work.state
    tiles: list[tuple[str, str]] = []
    if rows:
        whole = rows[-1]
        between = f"{whole.low * 100:+.1f} to {whole.high * 100:+.1f}"
        tiles.append((f"{whole.difference * 100:+.1f}", f"points on held-out goals (95 %: {between})"))
        verdict = facts["verdict"]
        tiles.append((f"{verdict['wins']} : {verdict['losses']}", f"won and lost, p = {verdict['p']:.2g}"))
        tiles.append((f"{verdict['seen']}", f"of {verdict['planned']} goals played by both"))
    if facts.get("tries"):
        tiles.append((f"{facts['solved_tries'] / facts['tries']:.0%}", f"of {facts['tries']} tries achieved"))
    if facts.get("samples"):
        tiles.append((f"{facts['samples']}", f"samples, trained by {escape(state.method)}"))
    if facts.get("exposure"):
        mean = sum(facts["exposure"]) / len(facts["exposure"])
        tiles.append((f"{mean:.1f} bits", "exposure of planted canaries"))
    seconds = sum(state.seconds.values())
    tiles.append((f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s", "in all"))
    return (
        '<div class="tiles">'
        + "".join(f'<div class="tile"><b>{value}</b><span>{label}</span></div>' for value, label in tiles)
        + "</div>"
    )


def _table(rows: Sequence[Row], verdict: Mapping[str, Any]) -> str:
    lines = []
    for row in rows:
        told = row_verdict(row, str(verdict["decision"]))
        kind = "up" if row.low > 0 else "down" if row.worse or row.high < 0 else ""
        lines.append(
            f'<tr class="{"all" if row.category == "all" else ""}"><td>{escape(row.category)}</td>'
            f'<td class="n">{row.n}</td><td class="n">{row.current:.1%}</td>'
            f'<td class="n">{row.candidate:.1%}</td><td class="n {kind}">{row.difference * 100:+.1f}</td>'
            f'<td class="n soft">{row.low * 100:+.1f} to {row.high * 100:+.1f}</td>'
            f'<td class="{kind}">{escape(told)}</td></tr>'
        )
    heads = (
        '<tr><th>category</th><th class="n">goals</th><th class="n">current</th><th class="n">candidate</th>'
        '<th class="n">difference</th><th class="n">95 %</th><th>verdict</th></tr>'
    )
    return (
        "<h2>Before and after, on goals that neither was trained on</h2>"
        f'<div class="card">{bars(rows)}</div>'
        f'<div class="card" style="margin-top:12px"><table>{heads}{"".join(lines)}</table></div>'
    )


def _curves(work: Work) -> str:
    # A resumed training repeats the steps after its checkpoint: the last of each counts.
    steps = list({row["step"]: row for row in work.read("curve.jsonl")}.values())
    cards = []
    if len(steps) > 1:
        losses = Curve("loss", [(row["step"], row["mean"]) for row in steps])
        cards.append(curves("Loss, nats a token (running mean)", "optimiser step", [losses]))
    rewards = _rewards(work)
    if len(rewards) > 1:
        cards.append(curves("Mean reward of the tries", "tries so far", [Curve("reward", rewards)], 1.0))
    success = _success(work)
    if success:
        cards.append(curves("Tries that achieved their goal, by improvement", "improvement", success, 1.0))
    if not cards:
        return ""
    inside = "".join(f'<div class="card">{card}</div>' for card in cards)
    return f'<h2>Over time</h2><div class="two">{inside}</div>'


def _rewards(work: Work) -> list[tuple[float, float]]:
    """Return the mean reward over time: of GRPO's rounds, else of practice by twentieths."""
    rounds = [(float(row["tries"]), float(row["reward"])) for row in work.read("rewards.jsonl")]
    if rounds:
        return rounds
    values = [float(row["value"]) for row in work.read("attempts.jsonl")]
    size = max(8, -(-len(values) // 20))
    pieces = [values[start : start + size] for start in range(0, len(values), size)]
    return [(float(n * size + len(piece)), fmean(piece)) for n, piece in enumerate(pieces)]


def _success(work: Work) -> list[Curve]:
    """Return the success of practice and of the gate over all improvements in this home."""
    practice, gate = [], []
    for number, one in enumerate(improvements(work.folder.parent.parent), start=1):
        if one.state.created > work.state.created:
            break
        facts = one.state.facts
        if facts.get("tries"):
            practice.append((float(number), facts["solved_tries"] / facts["tries"]))
        if facts.get("rows"):
            gate.append((float(number), facts["rows"][-1]["candidate"]))
    found = [Curve("practice, current model", practice), Curve("gate, candidate", gate)]
    return [curve for curve in found if len(curve.points) > 1]


def _examples(work: Work) -> str:
    found: Mapping[str, list[dict[str, Any]]] = next(iter(work.read("changed.jsonl")), {})
    parts = []
    for side, title in (("won", "Only the candidate achieves"), ("lost", "Only the current model achieves")):
        rows = found.get(side, [])
        if rows:
            parts.append(f'<h2>{title}</h2><div class="card">{"".join(map(_example, rows))}</div>')
    return "".join(parts)


def _example(row: Mapping[str, Any]) -> str:
    def side(title: str, result: Mapping[str, Any]) -> str:
        mark = "up" if result["achieved"] else "down"
        word = "achieved" if result["achieved"] else str(result["status"]).replace("_", " ")
        return (
            f'<div><h3>{title}: <span class="{mark}">{escape(word)}</span></h3>'
            f"<pre>{escape(str(result['said']))}</pre></div>"
        )

    return (
        f'<details><summary><span class="kind">{escape(str(row["category"]))}</span>'
        f'{escape(str(row["goal"])[:400])}</summary><div class="side">'
        f"{side('before', row['before'])}{side('after', row['after'])}</div></details>"
    )


def _data(work: Work) -> str:
    facts = work.state.facts
    told: list[tuple[str, object]] = [
        ("goals practised", facts.get("goals", 0)),
        ("solved sometimes", facts.get("sometimes", "")),
        ("never solved", facts.get("never", "")),
        ("past runs", facts.get("past_runs", 0)),
        ("successes kept", facts.get("kept", "")),
        ("earlier successes drawn again", facts.get("again", "")),
        ("ordinary samples replayed", facts.get("replayed", "")),
        ("pairs and ratings of people", f"{facts.get('pairs', 0)}, {facts.get('thumbs', 0)}"),
        *((f"refused: {why}", count) for why, count in facts.get("refused", {}).items()),
        *((f"not practised: {why}", count) for why, count in facts.get("dropped", {}).items()),
        *((f"minutes, {stage}", f"{s / 60:.1f}") for stage, s in work.state.seconds.items()),
    ]
    if facts.get("exposure"):
        bits = ", ".join(f"{value:.1f}" for value in facts["exposure"])
        told.append(("exposure of each canary, bits", bits))
    if facts.get("said"):
        told.append(
            (
                "pairs of held-out ratings that moved its way",
                f"{facts['said']['wins']} : {facts['said']['losses']}",
            )
        )
    return f'<h2>What it learned from</h2><div class="card"><table>{_pairs(told)}</table></div>'


def _pairs(told: Iterable[tuple[str, object]]) -> str:
    return "".join(
        f'<tr><td>{escape(name)}</td><td class="n">{escape(str(value))}</td></tr>'
        for name, value in told
        if value != ""
    )


def _footer(work: Work) -> str:
    state = work.state
    day = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(state.created))
    undo = "" if state.decision != "promoted" else " Undo: autogpt model rollback."
    return f"<footer>Improvement {escape(state.id)}, begun {day}, seed {state.options.seed}.{undo}</footer>"
