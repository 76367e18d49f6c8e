"""Telemetry as servers leave it: files of lines beside a signature."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from mlops_nb.settings import Workspace
from mlops_nb.telemetry import files

SIGNATURE = {
    "kind": "table",
    "inputs": [{"name": "age", "type": "float64"}, {"name": "code", "type": "string"}, {"name": "when", "type": "datetime"}],
    "outputs": [{"name": "label", "type": "int64"}, {"name": "probabilities", "type": "float64", "shape": [None, 2]}],
}


class Recorded:
    """One deployment's folder, and the lines a server would put there."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ids = itertools.count()
        folder.mkdir(parents=True, exist_ok=True)
        self.sign(SIGNATURE)

    def sign(self, signature: dict[str, Any] | None) -> None:
        """Put *signature* beside the lines."""
        (self.folder / "signature.json").write_text(json.dumps(signature))

    def line(self, *, time: datetime | None = None, **changes: Any) -> str:
        """One answered request of two rows, with *changes*."""
        n = next(self._ids)
        inputs = {"age": [float(n), None], "code": ["001", "x"], "when": ["2026-01-01", "2026-01-02T00:00:00"]}
        outputs = {"label": [0, 1], "probabilities": [[0.25, 0.75], [0.5, 0.5]]}
        moment = (time or datetime.now(UTC)).isoformat(timespec="microseconds")
        facts = {"time": moment, "id": f"r{n}", "status": 200, "latency_ms": 2.0, "rows": 2, "inputs": inputs, "outputs": outputs, "error": None}
        return json.dumps(facts | changes) + "\n"

    def close(self, lines: Iterable[str], *, minutes_ago: float = 0) -> Path:
        """A closed file of *lines*."""
        path = self.folder / f"closed-{time.time_ns() - int(minutes_ago * 60e9)}.jsonl"
        path.write_text("".join(lines))
        return path

    def append(self, lines: Iterable[str], *, pid: int | None = None) -> Path:
        """More *lines* of the process *pid* (this one) that has not closed its file."""
        path = self.folder / f"live-{pid or os.getpid()}.jsonl"
        with path.open("a") as file:
            file.write("".join(lines))
        return path

    def lines(self, count: int, **changes: Any) -> list[str]:
        """*count* lines."""
        return [self.line(**changes) for _ in range(count)]

    def parquet(self) -> list[Path]:
        """Its Parquet files, by name."""
        return sorted(self.folder.glob("date=*/*.parquet"))


@pytest.fixture
def recorded(workspace: Workspace) -> Recorded:
    """The deployment `delays/1`."""
    return Recorded(files.folder("delays", "1"))


@pytest.fixture
def record(workspace: Workspace) -> Callable[[str, str], Recorded]:
    """Makes the folder of another deployment."""
    return lambda endpoint, deployment: Recorded(files.folder(endpoint, deployment))


@pytest.fixture
def dead_pid() -> int:
    """The number of a process that has ended."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    return ended.pid


@pytest.fixture
def an_hour_ago() -> datetime:
    """In UTC."""
    return datetime.now(UTC) - timedelta(hours=1)
