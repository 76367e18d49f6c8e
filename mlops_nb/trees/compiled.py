"""The compiled walk: opened when there is one for this machine, and given a layout whose arrays are all checked."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from .layout import SHARE, SIGNS, Layout

if TYPE_CHECKING:
    import numpy as np

LIBRARY = Path(__file__).with_name("walk.so")
"""Made of walk.c by `compiling` when the package is installed, where there is a C compiler."""


class _Forest(ctypes.Structure):
    """`forest` of walk.h."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("nodes", "missing_right", "weights_at", "weights", "base", "trees")),
        *((name, ctypes.c_int64) for name in ("tree_count", "targets", "width")),
        ("divisor", ctypes.c_float),
        ("finish", ctypes.c_int32),
    ]


@cache
def library() -> ctypes.CDLL | None:
    """The compiled code, or None where there is none or it is for another machine."""
    try:
        found = ctypes.CDLL(str(LIBRARY))
        for function in (found.mlops_trees_32, found.mlops_trees_64):
            function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p]
            function.restype = None
    except (OSError, AttributeError):
        return None
    return found


def walker(layout: Layout, width: int) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]] | None:
    """What gives scores (rows × targets, float32) and labels' places (rows) of a matrix *width* wide, whatever thread asks; None without the library.

    A matrix that is not contiguous, cannot be written to, or is of another type or width raises TypeError or ValueError.
    """
    import numpy as np

    compiled, ensemble = library(), layout.ensemble
    if compiled is None:
        return None
    if ensemble.features > width:
        raise ValueError(f"a matrix {width} wide for {ensemble.features} features")
    kept = [np.ascontiguousarray(array) for array in ensemble[:6]]
    forest = _Forest(*(array.ctypes.data for array in kept), len(ensemble.trees), ensemble.targets, width, layout.divisor, layout.finish)
    walk = compiled.mlops_trees_32 if ensemble.weights.itemsize == 4 else compiled.mlops_trees_64
    each, dtype = 2 if layout.finish in (SHARE, SIGNS) else ensemble.targets, ensemble.weights.dtype
    address, first, told = ctypes.addressof, cast("Callable[[Any], ctypes.c_char]", ctypes.c_char.from_buffer), ctypes.addressof(forest)

    def ask(matrix: np.ndarray, _alive: Any = (kept, forest)) -> tuple[np.ndarray, np.ndarray]:
        rows = len(matrix)
        if matrix.dtype != dtype or matrix.shape != (rows, width):
            raise ValueError(f"a matrix of {matrix.dtype}, {matrix.shape}")
        scores, places = np.empty((rows, each), np.float32), np.empty(rows, np.int64)
        if rows:
            walk(told, address(first(matrix)), rows, address(first(scores)), address(first(places)))
        return scores, places

    return ask
