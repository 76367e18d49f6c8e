"""Numbers of a DuckDB query in batches of arrays, so that a query of any length takes little memory and no row becomes an object.

DuckDB hands them over through the Arrow C stream interface (arrow.apache.org/docs/format/CStreamInterface.html, with
PyCapsules), which needs no pyarrow: five structures of C.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import duckdb
    import numpy as np

T = TypeVar("T")
_MOST_THREADS = 4


class _Schema(ctypes.Structure):
    pass


class _Array(ctypes.Structure):
    pass


class _Stream(ctypes.Structure):
    pass


_Schema._fields_ = [
    ("format", ctypes.c_char_p), ("name", ctypes.c_char_p), ("metadata", ctypes.c_void_p), ("flags", ctypes.c_int64), ("n_children", ctypes.c_int64),
    ("children", ctypes.POINTER(ctypes.POINTER(_Schema))), ("dictionary", ctypes.c_void_p),
    ("release", ctypes.CFUNCTYPE(None, ctypes.POINTER(_Schema))), ("private_data", ctypes.c_void_p),
]  # fmt: skip
_Array._fields_ = [
    ("length", ctypes.c_int64), ("null_count", ctypes.c_int64), ("offset", ctypes.c_int64), ("n_buffers", ctypes.c_int64), ("n_children", ctypes.c_int64),
    ("buffers", ctypes.POINTER(ctypes.c_void_p)), ("children", ctypes.POINTER(ctypes.POINTER(_Array))), ("dictionary", ctypes.c_void_p),
    ("release", ctypes.CFUNCTYPE(None, ctypes.POINTER(_Array))), ("private_data", ctypes.c_void_p),
]  # fmt: skip
_Stream._fields_ = [
    ("get_schema", ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(_Stream), ctypes.POINTER(_Schema))),
    ("get_next", ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(_Stream), ctypes.POINTER(_Array))),
    ("get_last_error", ctypes.CFUNCTYPE(ctypes.c_char_p, ctypes.POINTER(_Stream))),
    ("release", ctypes.CFUNCTYPE(None, ctypes.POINTER(_Stream))), ("private_data", ctypes.c_void_p),
]  # fmt: skip

_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.restype, _pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]


def each(connection: duckdb.DuckDBPyConnection, select: str, work: Callable[[list[np.ndarray]], T], values: Sequence[object] = ()) -> list[T]:
    """What *work* makes of every batch of *select*, whose columns are all of type DOUBLE; several threads work, and the order is theirs.

    A batch is one array per column with NaN for NULL, gone once *work* returns.  Temporary tables of *connection* are not seen.  Raises duckdb.Error.
    """
    relation = connection.cursor().sql(select, params=list(values) or None)  # a cursor of its own: the connection may have an answer half read
    if others := [str(type) for type in relation.types if str(type) != "DOUBLE"]:
        raise TypeError(f"columns of {', '.join(others)} are not read in batches")
    stream, threads = _Reading(relation), min(os.cpu_count() or 1, _MOST_THREADS)

    def take_turns(_: int) -> list[T]:
        done: list[T] = []
        while batch := stream.following():
            try:
                done.append(work([_values(batch.children[n].contents) for n in range(batch.n_children)]))
            finally:
                batch.release(ctypes.byref(batch))
        return done

    with ThreadPoolExecutor(threads, thread_name_prefix="batches") as pool:
        return [one for many in pool.map(take_turns, range(threads)) for one in many]


class _Reading:
    """A stream that threads read in turn."""

    def __init__(self, relation: duckdb.DuckDBPyRelation) -> None:
        self._capsule = relation.__arrow_c_stream__()  # owns the stream and releases it
        self._stream = _Stream.from_address(_pointer(self._capsule, b"arrow_array_stream"))
        self._turn, self._ended = threading.Lock(), False

    def following(self) -> Any:
        """The next batch, to be released; None after the last."""
        batch = _Array()
        with self._turn:
            if self._ended:
                return None
            self._ended = True  # also where it fails
            if self._stream.get_next(ctypes.byref(self._stream), ctypes.byref(batch)):
                raise _told((self._stream.get_last_error(ctypes.byref(self._stream)) or b"").decode(errors="replace"))
            self._ended = not batch.release
        return None if self._ended and not batch.release else batch


def _told(message: str) -> Exception:
    import duckdb

    kinds = {"IO Error": duckdb.IOException, "Out of Memory Error": duckdb.OutOfMemoryException}
    return next((kind(message) for begin, kind in kinds.items() if message.startswith(begin)), duckdb.Error(message))


def _values(column: _Array) -> np.ndarray:
    import numpy as np

    length = column.offset + column.length
    if not length:
        return np.empty(0)
    values = np.ctypeslib.as_array(ctypes.cast(column.buffers[1], ctypes.POINTER(ctypes.c_double)), (length,))[column.offset :]
    if not column.null_count or not column.buffers[0]:
        return values
    bits = np.ctypeslib.as_array(ctypes.cast(column.buffers[0], ctypes.POINTER(ctypes.c_uint8)), (-(-length // 8),))
    present = np.unpackbits(bits, count=length, bitorder="little")[column.offset :]
    return np.where(present, values, np.nan)
