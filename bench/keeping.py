"""What keeping a request costs the workspace beside the server: in the agent, its line becomes a row of Parquet with its counts and its sample."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from mlops_nb import telemetry
from mlops_nb.serving.capture import MOST_QUEUED, Capture, Record
from mlops_nb.telemetry import files, rows

from . import workspaces
from .table import Figure

if TYPE_CHECKING:
    from pathlib import Path

_COLUMNS = 30
_SIZES = {"1 row": (1, 60_000), "64 rows": (64, 2_000)}
"""Rows of a request, and requests."""


def measure() -> list[Figure]:
    """CPU time for each request of 30 numbers a row, beside DuckDB's reading of the same lines as JSON, their payloads as text."""
    return [figure for words, (count, requests) in _SIZES.items() for figure in _figures(words, count, requests)]


def _figures(words: str, count: int, requests: int) -> list[Figure]:
    with workspaces.fresh():
        folder = files.folder("delays", "1")
        lines = _written(folder, count, requests)
        read = f"read_json({rows.literal(str(folder / '*.jsonl'))}, format = 'newline_delimited', maximum_object_size = {64 << 20})"
        plain = _cpu_us(lambda: rows.connection().execute(f"SELECT sum(length(inputs::VARCHAR)) FROM {read}").fetchall(), requests)
        made = _cpu_us(telemetry.compact, requests)
    baseline = Figure(name=f"{words}: DuckDB reading the lines", value=plain, unit="µs")
    return [baseline, Figure(name=f"{words}: lines to rows, counts and sample ({lines:,} lines)", value=made, unit="µs", baseline=baseline.name)]


def _written(folder: Path, count: int, requests: int) -> int:
    """Let a server's writer put down so many requests; return in how many lines."""
    writer, random = Capture(folder, payload_percent=100), np.random.default_rng(1)
    names = {"inputs": [{"name": "x", "type": "float32"}], "outputs": [{"name": "label", "type": "int64"}, {"name": "probabilities", "type": "float32"}]}
    writer.start(signature=names)
    for number in range(requests):
        asked = random.normal(size=(count, _COLUMNS)).astype(np.float32)
        answered = {"label": (asked[:, 0] > 0).astype(np.int64), "probabilities": asked[:, :2]}
        while writer.waiting >= MOST_QUEUED // 2 or (count > 1 and writer.waiting >= MOST_QUEUED // _COLUMNS // count):
            time.sleep(0.01)
        writer.put(Record(time.time(), f"{number:032x}", 200, 1.5, count, given={"x": asked}, outputs=answered, values=asked.size))
    writer.end()
    return sum(path.read_bytes().count(b"\n") for path in folder.glob("*.jsonl"))


def _cpu_us(work: Callable[[], object], requests: int) -> float:
    before = os.times()
    work()
    after = os.times()
    return (after.user + after.system - before.user - before.system) / requests * 1e6
