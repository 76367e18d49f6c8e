"""Eight processes that register as fast as they can, at once."""

from __future__ import annotations

import multiprocessing
import statistics
import time
from typing import Any

from mlops_nb import settings, store

from .table import Figure

PROCESSES = 8
WRITES = 100
"""Of each process."""


def figures() -> list[Figure]:
    """How long one write took, alone and among eight processes, and whether every row is there."""
    alone = _written(processes=1, each=WRITES)
    before = _rows()
    together = _written(processes=PROCESSES, each=WRITES)
    lost = PROCESSES * (1 + WRITES) - (_rows() - before)
    name = f"{PROCESSES} processes registering at once"
    fair = Figure(name=f"one process registering, {PROCESSES} writes on end", value=PROCESSES * statistics.median(alone) * 1000, unit="ms")
    return [
        fair,
        Figure(name=f"{name}: longest wait", value=max(together) * 1000, unit="ms", baseline=fair.name, at_most=1000),
        Figure(name=f"{name}: 99th percentile", value=statistics.quantiles(together, n=100)[98] * 1000, unit="ms", baseline=fair.name),
        Figure(name=f"{name}: lost rows", value=lost, unit="rows", at_most=0),
    ]


def _written(*, processes: int, each: int) -> list[float]:
    """Seconds of every write."""
    context = multiprocessing.get_context("spawn")
    start, taken = context.Barrier(processes), context.Queue()
    workers = [context.Process(target=_write, args=(str(settings.Workspace.current().root), each, start, taken)) for _ in range(processes)]
    for worker in workers:
        worker.start()
    seconds = [second for _ in workers for second in taken.get(timeout=300)]
    for worker in workers:
        worker.join()
    return seconds


def _write(root: str, times: int, start: Any, taken: Any) -> None:
    from . import metadata

    settings.choose(root)
    captured = [metadata.captured() for _ in range(times + 1)]
    seconds = []
    for number, (version, run) in enumerate(captured):
        if number == 1:
            start.wait(timeout=120)  # the first write, which starts DuckDB, does not count
        began = time.perf_counter()
        with store.writing() as tx:
            metadata.record(tx, version, run)
        seconds.append(time.perf_counter() - began)
    taken.put(seconds[1:])


def _rows() -> int:
    with store.reading() as tx:
        return tx.value("SELECT count(*) FROM model_versions")
