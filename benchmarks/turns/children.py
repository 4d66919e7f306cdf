"""The worker processes of a run: started with the same threads, asked one at a time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .subject import Place

BENCHMARKS = Path(__file__).resolve().parent.parent


class Failed(Exception):
    """A worker could not do its task; the text says why."""


class Child:
    """One engine in its process; a context manager that ends it."""

    def __init__(self, place: Place) -> None:
        self.place = place
        # with two threads passive waiting costs up to 10 ms a forward; unbounded spinning takes the core
        # of a neighbour. The same for every engine: all of them use OpenMP.
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": str(place.threads),
            "GOMP_SPINCOUNT": "20000",
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_OFFLINE": "1",
        }
        environment.pop("OMP_WAIT_POLICY", None)
        command = [sys.executable, "-m", "turns.worker", json.dumps(asdict(place))]
        self._process = subprocess.Popen(
            command, cwd=BENCHMARKS, env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def ask(self, do: str, **task: Any) -> dict[str, Any]:
        """Have one task done. Raises :class:`Failed`."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **task}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise Failed(f"{self.place.label}: its process ended ({self._process.wait()})")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise Failed(f"{self.place.label}: {answer['error']}")
        return answer

    def close(self) -> None:
        """End the process."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Children:
    """Processes that stay open, one for each place; a context manager that ends them."""

    def __init__(self) -> None:
        self._open: dict[str, Child] = {}

    def of(self, place: Place) -> Child:
        """Return the place's process, started when first asked for."""
        if place.label not in self._open:
            self._open[place.label] = Child(place)
        return self._open[place.label]

    def close(self) -> None:
        """End all processes."""
        for child in self._open.values():
            child.close()
        self._open.clear()

    def __enter__(self) -> Children:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
