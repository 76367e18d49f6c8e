"""Whether a model may be asked for several requests at once: tried on its own sample before the server is ready."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

from .engines import Arrays, Engine

_SIZES = (2, 3, 8, 16, 51, 100, 256)
"""Rows asked together; runtimes change their way at a few, at about fifty and at a hundred."""
_SECONDS = 1.0
"""What the trial may take of a server's start, about."""


class Batching(NamedTuple):
    """How many rows of different requests may be asked at once (1: none), and why."""

    rows: int
    told: str


def batching(engine: Engine) -> Batching:
    """As many as were tried and got, asked together, the answers that each gets alone, to the last bit."""
    if engine.name == "script":
        return Batching(1, "off: an entry script reads whole requests")
    samples = engine.signature.sample_columns() if engine.signature else []
    if not samples:
        return Batching(1, "off: no sample to try it on")
    try:
        return _tried(engine, [engine.feed(columns) for columns in samples])
    except (Exception, SystemExit) as error:
        return Batching(1, f"off: asked for several rows at once, {type(error).__name__}: {' '.join(str(error).split())[:200]}")


def _tried(engine: Engine, fed: list[Arrays]) -> Batching:
    import numpy as np

    began = time.perf_counter()
    alone = [engine.compute(feed) for feed in fed]
    each, most = (time.perf_counter() - began) / len(fed), 1
    others = _mixed(fed)
    for size in _SIZES:
        if time.perf_counter() - began + each * size > _SECONDS:
            break
        _ask_others(engine, fed, alone, others, size)
        places = [number % len(fed) for number in range(size)]
        together = engine.compute({name: np.concatenate([fed[place][name] for place in places]) for name in fed[0]})
        if told := _difference(together, [alone[place] for place in places]):
            return Batching(1, f"off: asked for {size} rows at once, {told}")
        most = size
    return Batching(most, f"up to {most} rows" if most > 1 else "off: one row takes too long to try several")


def _ask_others(engine: Engine, fed: list[Arrays], alone: list[Arrays], others: Iterator[Arrays], size: int) -> None:
    """Make *fed* and *alone* up to *size* rows by *others*, but for those that no model would have to answer: it raises."""
    for row in islice(others, max(0, size - len(fed))):
        try:
            answer = engine.compute(row)
        except (Exception, SystemExit):
            continue
        fed.append(row)
        alone.append(answer)


def _mixed(fed: list[Arrays]) -> Iterator[Arrays]:
    """Rows that take each value from one of the rows *fed*: a last bit that differs for one row in a hundred is not seen in five."""
    import numpy as np

    draw, rows = np.random.default_rng(0), len(fed)
    values = {name: np.concatenate([row[name] for row in fed]) for name in fed[0]}
    while True:
        yield {name: np.take_along_axis(array, draw.integers(rows, size=(1, *array.shape[1:])), axis=0) for name, array in values.items()}


def _difference(together: Arrays, alone: list[Arrays]) -> str:
    import numpy as np

    for name, array in together.items():
        if array.ndim == 0 or len(array) != len(alone):
            return f"{name!r} has not one entry for each row"
        apart = np.concatenate([outputs[name] for outputs in alone])
        if array.dtype != apart.dtype or array.shape != apart.shape:
            return f"{name!r} has another type or shape"
        same = array.tolist() == apart.tolist() if array.dtype.kind == "O" else np.array_equal(array, apart, equal_nan=array.dtype.kind in "fc")
        if not same:
            return f"{name!r} differs from the answers to single rows"
    return ""
