"""What the house weighs, and how fast its door opens: lines, dependencies, help, a table goal from the shell.

``python benchmarks/house.py`` prints lines of code (repository and wheel, by room), runtime dependencies, and
the processor time of ``autogpt --help``. With ``--run`` it times ``autogpt run`` of a table question from the
shell; with ``--against DIR`` in pairs with another checkout of this repository, each in turn, and prints the
ratio of each pair. Needs the fetched base model for ``--run`` (``autogpt model fetch``).
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TOPS = ("agent", "cli", "llm", "memory", "prompts", "tools")
GOAL = "Which supplier had the most late deliveries?"


def lines(root: Path) -> tuple[Counter[str], int]:
    """Return lines by room, and those in packages that the wheel holds."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    shipped = set(project["tool"]["setuptools"]["packages"])
    rooms: Counter[str] = Counter()
    wheel = 0
    for file in [*root.glob("*.py"), *(file for top in TOPS for file in (root / top).rglob("*.py"))]:
        parts = file.relative_to(root).parts
        count = file.read_text(encoding="utf-8").count("\n")
        rooms["/".join(parts[: min(2, len(parts) - 1)]) or "root"] += count
        wheel += count if ".".join(("autogpt", *parts[:-1])) in shipped else 0
    return rooms, wheel


def dependencies(root: Path) -> tuple[int, int]:
    """Return how many runtime dependencies are declared, and how many packages the lock pins."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))
    lock = (root / "requirements" / "runtime.lock").read_text(encoding="utf-8")
    return len(project["project"]["dependencies"]), sum("==" in line for line in lock.splitlines())


def timed(command: list[str], root: Path, link: Path) -> tuple[float, float]:
    """Run ``command`` with the package of ``root``; return (seconds on the clock, of the processor)."""
    package = link / root.name / "autogpt"
    package.parent.mkdir(exist_ok=True)
    if not package.exists():
        package.symlink_to(root)
    environment = {**os.environ, "PYTHONPATH": str(package.parent)}
    before, begun = os.times(), time.perf_counter()
    subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=True)
    after = os.times()
    spent = after.children_user - before.children_user + after.children_system - before.children_system
    return time.perf_counter() - begun, spent


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--run", action="store_true", help="time a table goal from the shell")
    parser.add_argument("--against", type=Path, metavar="DIR", help="another checkout, timed in turn")
    parser.add_argument("--pairs", type=int, default=7, metavar="N")
    args = parser.parse_args()
    rooms, wheel = lines(ROOT)
    print(f"lines: {sum(rooms.values())} in the repository, {wheel} in the wheel")
    print("  " + ", ".join(f"{room} {count}" for room, count in rooms.most_common()))
    print("runtime dependencies: {} declared, {} locked".format(*dependencies(ROOT)))
    help_command = [sys.executable, "-m", "autogpt", "--help"]
    run_command = [sys.executable, "-m", "autogpt", "run", GOAL, "examples/data/deliveries.csv"]
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder)
        helped = min(timed(help_command, ROOT, link)[1] for _ in range(5))
        print(f"autogpt --help: {helped:.2f} s of the processor, best of 5")
        if not args.run:
            return 0
        roots = [ROOT] if args.against is None else [ROOT, args.against.resolve()]
        for root in roots:
            timed(run_command, root, link)  # caches are warm from here on
        seconds = [[timed(run_command, root, link)[0] for root in roots] for _ in range(args.pairs)]
        print(f"a table goal from the shell: {statistics.median(one[0] for one in seconds):.2f} s, median")
        if args.against is not None:
            ratios = sorted(mine / theirs for mine, theirs in seconds)
            shown = ", ".join(f"{ratio:.2f}" for ratio in ratios)
            print(f"  ratio to the other checkout: median {statistics.median(ratios):.2f} of {shown}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
