"""How long the original and its ONNX form take for the same rows: what the server would pay, the DataFrame's making included."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from ..signature import as_frame
from . import reasons
from .comparing import Session

if TYPE_CHECKING:
    from ..signature import Signature
    from .comparing import Arrays

QUICK_SECONDS = 0.008
SECONDS = 0.2
"""How long one figure is measured; one call is made however long it takes."""
_MOST_CALLS = 500
_MOST_BYTES = 64 * 1024 * 1024


def measured(
    answers: Callable[[Any, Any], Any], obj: Any, form: Session, signature: Signature, columns: Arrays, *, rows: Sequence[int], seconds: float, one_thread: bool
) -> list[dict[str, Any]]:
    """The best time of each for every number of *rows*, in milliseconds, with the server's threads and, if *one_thread*, with one too."""
    threads = [_threads(), 1] if one_thread else [_threads()]
    found = []
    for count in threads:
        session = Session(form.content, threads=count) if count > 1 else form
        with _one_thread(obj) if one_thread and count == 1 else _as_it_is():
            for size in rows:
                batch = _batch(columns, size)
                original = _best(partial(_asked, answers, obj, batch, signature), seconds)
                found.append(_figure(size, count, original, _best(partial(session.run, batch), seconds)))
    return found


def of_graphs(original: Session, form: Session, columns: Arrays, *, rows: Sequence[int], seconds: float) -> list[dict[str, Any]]:
    """The same for two ONNX forms."""
    found = []
    for count in (_threads(), 1):
        before, after = Session(original.content, threads=count), Session(form.content, threads=count)
        for size in rows:
            batch = _batch(columns, size)
            found.append(_figure(size, count, *(_best(partial(session.run, batch), seconds) for session in (before, after))))
    return found


def of_module(run: Callable[[Arrays, int], Any], form: Session, columns: Arrays, *, rows: Sequence[int], seconds: float) -> list[dict[str, Any]]:
    """The same for a module that *run* asks with so many threads, and its ONNX form; no more rows than 64 MB hold."""
    of_a_row = sum(column.nbytes // len(column) for column in columns.values())
    found = []
    for count in (_threads(), 1):
        after = Session(form.content, threads=count)
        for size in (size for size in rows if size == 1 or size * of_a_row <= _MOST_BYTES):
            batch = _batch(columns, size)
            found.append(_figure(size, count, _best(partial(run, batch, count), seconds), _best(partial(after.run, batch), seconds)))
    return found


def verdict(speed: list[dict[str, Any]]) -> dict[str, Any]:
    """Which engine was faster for each number of rows with the server's threads, for single requests, and for many rows."""
    most = max(figure["threads"] for figure in speed)
    fastest = {str(figure["rows"]): "onnxruntime" if figure["ratio"] >= 1 else "python" for figure in speed if figure["threads"] == most}
    sizes = sorted(fastest, key=int)
    return {"speed": speed, "fastest": fastest, "engine": fastest[sizes[0]], "batch_engine": fastest[sizes[-1]]}


def data_of(columns: Arrays, signature: Signature) -> Any:
    """The data a Python model is given for *columns*, as the server makes it: a DataFrame, a Series or an array."""
    if signature.kind == "table":
        frame = as_frame(columns, signature)
        return frame.iloc[:, 0] if signature.series else frame
    return next(iter(columns.values())) if len(columns) == 1 else dict(columns)


def _asked(answers: Callable[[Any, Any], Any], obj: Any, columns: Arrays, signature: Signature) -> Any:
    return answers(obj, data_of(columns, signature))


def _threads() -> int:
    """As many as the server gives a model by itself."""
    return min(2, os.cpu_count() or 1)


def _figure(rows: int, threads: int, original: float, onnx: float) -> dict[str, Any]:
    return {
        "rows": rows,
        "threads": threads,
        "original_ms": float(f"{1000 * original:.4g}"),
        "onnx_ms": float(f"{1000 * onnx:.4g}"),
        "ratio": float(f"{original / onnx:.3g}"),
    }


def _batch(columns: Arrays, rows: int) -> Arrays:
    """That many rows: those there are, over and over."""
    import numpy as np

    there = len(next(iter(columns.values())))
    return {name: column[np.arange(rows) % there] for name, column in columns.items()}


def _best(call: Callable[[], Any], seconds: float) -> float:
    """The shortest of the calls made within *seconds*; the first, which may have to warm up, only where it alone takes longer."""
    best = _timed(call)
    if best > seconds:
        return best
    best, end = _timed(call), time.perf_counter() + seconds - best
    for _ in range(_MOST_CALLS):
        if time.perf_counter() > end:
            break
        best = min(best, _timed(call))
    return best


def _timed(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


@contextmanager
def _as_it_is() -> Iterator[None]:
    yield


@contextmanager
def _one_thread(obj: Any) -> Iterator[None]:
    """Within the block the original reckons with one thread, as far as its libraries let themselves be told."""
    from threadpoolctl import threadpool_limits

    several = [part for _, part in reasons.parts(obj) if getattr(part, "n_jobs", None) not in (None, 1)]
    before = [part.n_jobs for part in several]
    for part in several:
        part.n_jobs = 1
    try:
        with threadpool_limits(1):
            yield
    finally:
        for part, jobs in zip(several, before, strict=True):
            part.n_jobs = jobs
