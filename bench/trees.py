"""A forest of 100 trees on 30 features, walked by compiled code and by ONNX Runtime on one thread: the call alone, other rows each time."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from mlops_nb import conversion, signature, trees

from . import examples, timing
from .table import Figure

if TYPE_CHECKING:
    import numpy as np

ROUNDS = 21
_ROWS = (1, 64, 4096)
_CALLS = {1: 2000, 64: 200, 4096: 4}
"""Calls in a round, of so many rows."""


def measure() -> list[Figure]:
    """A call by either, in microseconds."""
    import onnxruntime

    model, data = examples.forest()
    done = conversion.to_onnx(model, signature.infer(data), data[:200])
    if not done.onnx:
        raise RuntimeError(f"the forest did not become ONNX: {done.report}")
    content = done.onnx
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    ours = trees.of(session, content)
    if ours.run is None:
        return [Figure(name="a forest's rows, compiled", value=None, unit="µs", note=ours.told)]
    ways = {"ONNX Runtime": session.run, "compiled": ours.run}
    steps = {f"{_told(count)}, {way}": timing.timed(partial(_calls, run, data, count)) for count in _ROWS for way, run in ways.items()}
    seconds = timing.medians(steps, rounds=ROUNDS)
    each = {f"{_told(count)}, {way}": seconds[f"{_told(count)}, {way}"] / _CALLS[count] * 1e6 for count in _ROWS for way in ways}
    return [
        Figure(name=name, value=value, unit="µs", baseline=None if name.endswith("Runtime") else name.replace("compiled", "ONNX Runtime"))
        for name, value in each.items()
    ]


def _told(count: int) -> str:
    return f"a forest's {count} rows" if count > 1 else "a forest's row"


def _calls(run: trees.Run, rows: np.ndarray, count: int) -> None:
    for call in range(_CALLS[count]):
        first = call * count % (len(rows) - count + 1)
        run(["label", "probabilities"], {"input": rows[first : first + count]})
