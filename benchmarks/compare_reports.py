"""Compare two reports of ``autogpt eval --json`` on the same suite, goal by goal.

``python benchmarks/compare_reports.py BEFORE.json AFTER.json [BEFORE.json AFTER.json ...]`` prints each goal
whose answer, verdict or calls differ, and counts them. It is for changes that must change no answer: same
machine, same number format, same ``--parallel``. Batches are made as turns become due, so in bf16 and int8
a near tie may fall either way between two runs of one and the same code; run the named goals alone to see.
The exit code is 1 when anything differs.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

SAME = ("answer", "reward", "tool_calls", "invalid_calls")


def rows(path: Path) -> dict[str, dict[str, Any]]:
    """Return the report's rows by goal; messages of a conversation share an id, so their place counts."""
    report = json.loads(path.read_text(encoding="utf-8"))
    found: dict[str, dict[str, Any]] = {}
    for row in report["rows"]:
        name, place = row["id"], 1
        while name in found:
            place += 1
            name = f"{row['id']}#{place}"
        found[name] = row
    return found


def compare(before: Path, after: Path) -> int:
    """Print what differs between two reports; return the number of goals that do."""
    old, new = rows(before), rows(after)
    differing = 0
    for name in sorted(old.keys() | new.keys()):
        if name not in old or name not in new:
            differing += 1
            print(f"{name}: only {'before' if name in old else 'after'}")
            continue
        changed = [field for field in SAME if old[name].get(field) != new[name].get(field)]
        if changed:
            differing += 1
            pairs = (f"{field} {old[name].get(field)!r} -> {new[name].get(field)!r}" for field in changed)
            print(f"{name}: {'; '.join(pairs)}"[:300])
    passed = [sum(row.get("reward") == 1.0 for row in found.values()) for found in (old, new)]
    verdict = f"passed {passed[0]} before, {passed[1]} after"
    print(f"{before.stem}: {differing} of {len(old)} goals differ; {verdict}")
    return differing


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("reports", type=Path, nargs="+", help="pairs: before, after")
    args = parser.parse_args()
    if len(args.reports) % 2:
        parser.error("name reports in pairs: BEFORE AFTER")
    pairs = zip(args.reports[::2], args.reports[1::2], strict=True)
    return min(1, sum(compare(before, after) for before, after in pairs))


if __name__ == "__main__":
    sys.exit(main())
