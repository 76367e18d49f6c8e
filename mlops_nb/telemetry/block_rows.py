"""The blocks in a file of lines as Arrow tables: DuckDB takes their numbers as they were kept, and no digit of them is written or read.

`..blocks` tells what a block is.  All that compaction does to a request of 30 numbers a row takes a fourth to a tenth of what it took by way of
digits, which was before (docs/benchmarks.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import msgspec

from ..column_bytes import arrays_of

if TYPE_CHECKING:
    import numpy as np
    from nanoarrow.c_array import CArray

_BEGINS = b'{"block":'
_FACTS = ("time", "id", "latency_ms", "rows")
_SQL = {"f": "DOUBLE", "i": "BIGINT", "u": "UBIGINT", "b": "BOOLEAN"}
Side = Literal["inputs", "outputs"]


class Column(NamedTuple):
    """What the requests of a table had under a name."""

    side: Side
    name: str
    kept: str
    """Type of a single value: numpy's name of it, `str`, or `json` of a text that holds one."""
    depth: int
    """Of the lists it lies in: 1 for a value a row."""

    @property
    def type(self) -> str:
        """The SQL type that holds any value of this kind."""
        return {"str": "VARCHAR", "json": "JSON"}.get(self.kept) or _SQL[self.kept[0]]


class Table:
    """Requests with the same columns, as whoever speaks Arrow's PyCapsule interface reads them: `time, id, latency_ms, rows, c0, c1 …`."""

    def __init__(self, columns: Sequence[Column], arrays: Sequence[CArray]) -> None:
        self.columns = columns
        self._arrays = arrays

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """All of them, once more at each call."""
        from nanoarrow.c_array_stream import CArrayStream

        return CArrayStream.from_c_arrays(list(self._arrays), self._arrays[0].schema).__arrow_c_stream__(requested_schema)


class Read(NamedTuple):
    """What files of lines hold."""

    tables: list[Table]
    others: list[Path]
    """The files with lines beside the blocks."""


def read(paths: Iterable[Path]) -> Read:
    """The blocks of the files; one that was half written counts as another line."""
    found: dict[tuple[Column, ...], list[CArray]] = {}
    others: dict[Path, None] = {}
    for path in paths:
        for line in filter(None, path.read_bytes().split(b"\n")):
            if line.startswith(_BEGINS) and (block := _decoded(line)):
                columns, array = _block(block)
                found.setdefault(columns, []).append(array)
            else:
                others[path] = None
    return Read([Table(columns, arrays) for columns, arrays in found.items()], list(others))


def _decoded(line: bytes) -> dict[str, Any] | None:
    import orjson

    try:
        return orjson.loads(line)  # type: ignore[no-any-return]
    except orjson.JSONDecodeError:
        return None


def _block(line: Mapping[str, Any]) -> tuple[tuple[Column, ...], CArray]:
    """The columns of a block, and its requests as an Arrow array of structures."""
    import numpy as np
    from nanoarrow.c_array import c_array, c_array_from_buffers

    block = line["block"]
    counts = np.array(block["rows"], np.int64)
    children = [
        _plain("timestamp", np.array(block["time"], np.int64)), c_array(block["id"], _schema("str")),
        _plain("float64", np.array(block["latency_ms"], np.float64)), _plain("int64", counts),
    ]  # fmt: skip
    offsets = np.concatenate([np.zeros(1, np.int32), np.cumsum(counts, dtype=np.int32)])
    columns = []
    for side, name, values in _entries(line):
        kept, depth, array = _values(values)
        columns.append(Column(side, name, kept, depth))
        children.append(_listed(array, kept, depth, offsets))
    whole = _whole_schema(tuple((column.kept, column.depth) for column in columns))
    return tuple(columns), c_array_from_buffers(whole, len(counts), [None], children=children)


@lru_cache(maxsize=256)
def _schema(kept: str, depth: int = 0) -> Any:
    """The Arrow type of single values, or of lists of them, so deep; made once, for that takes longer than an array."""
    import nanoarrow
    from nanoarrow.c_schema import c_schema

    if depth:
        return c_schema(nanoarrow.list_(nanoarrow.Schema(_schema(kept, depth - 1))))
    if kept == "timestamp":
        return c_schema(nanoarrow.timestamp("us"))
    return c_schema(getattr(nanoarrow, {"bool": "bool_", "str": "string", "json": "string"}.get(kept, kept))())


@lru_cache(maxsize=64)
def _whole_schema(kinds: tuple[tuple[str, int], ...]) -> Any:
    """The Arrow type of a table's requests, whose columns hold values of these kinds."""
    import nanoarrow
    from nanoarrow.c_schema import c_schema

    facts = dict(zip(_FACTS, map(_schema, ("timestamp", "str", "float64", "int64")), strict=True))
    columns = {f"c{place}": _schema(kept, depth) for place, (kept, depth) in enumerate(kinds)}
    return c_schema(nanoarrow.struct({name: nanoarrow.Schema(schema) for name, schema in (facts | columns).items()}))


def _entries(line: Mapping[str, Any]) -> Iterator[tuple[Side, str, Any]]:
    """Every column: its side, its name, and an entry per scored row."""
    sides: tuple[tuple[Side, str], ...] = (("inputs", "packed"), ("outputs", "packed_outputs"))
    for side, groups in sides:
        yield from ((side, name, values) for name, values in line[side].items())
        yield from ((side, name, values) for name, values in arrays_of(line[groups]).items())


def _values(values: Any) -> tuple[str, int, CArray]:
    """How single values are kept, the depth of the lists they lie in, and the array of the entries."""
    import numpy as np
    from nanoarrow.c_array import c_array

    numbers = values if isinstance(values, np.ndarray) else _numbers(values)
    if numbers is None:
        texts = all(value is None or isinstance(value, str) for value in values)
        told = values if texts else [None if value is None else msgspec.json.encode(value).decode() for value in values]
        return "str" if texts else "json", 1, c_array(told, _schema("str"))
    array = _flat(numbers.reshape(-1))
    for axis in range(numbers.ndim - 1, 0, -1):
        count, width = int(np.prod(numbers.shape[:axis])), numbers.shape[axis]
        array = _listed(array, numbers.dtype.name, numbers.ndim - axis, np.arange(count + 1, dtype=np.int32) * np.int32(width))
    return numbers.dtype.name, numbers.ndim, array


def _numbers(values: list[Any]) -> np.ndarray | None:
    """The array that a list of numbers or truth values makes, or of lists of as many of them; None of any other.  None among floats is NaN."""
    import numpy as np

    kinds = set(map(type, values)) - {type(None)}
    if len(kinds) > 1 or str in kinds:
        return None
    try:
        array = np.array(values)
        if kinds == {int} and array.dtype.kind not in "iu":  # some are 2^63 or more
            array = np.array(values, np.uint64)
        if array.dtype.kind == "O" and kinds <= {float, list}:
            array = array.astype(np.float64)
    except (ValueError, TypeError, OverflowError):
        return None
    return array if array.dtype.kind in ("iu" if kinds == {int} else _SQL) else None


def _flat(numbers: np.ndarray) -> CArray:
    """An array of single values.  What JSON has no word for, NaN and the infinities, is null."""
    import numpy as np

    if numbers.dtype.kind == "b":
        return _plain("bool", np.packbits(numbers, bitorder="little"), len(numbers))
    if numbers.dtype.kind == "f" and not (finite := np.isfinite(numbers)).all():
        return _plain(numbers.dtype.name, numbers, len(numbers), np.packbits(finite, bitorder="little"))
    return _plain(numbers.dtype.name, numbers, len(numbers))


def _plain(kept: str, values: np.ndarray, length: int | None = None, present: np.ndarray | None = None) -> CArray:
    import numpy as np
    from nanoarrow.c_array import c_array_from_buffers

    return c_array_from_buffers(_schema(kept), len(values) if length is None else length, [present, np.ascontiguousarray(values)])


def _listed(array: CArray, kept: str, depth: int, offsets: np.ndarray) -> CArray:
    """Lists of an array's entries, so deep as to its values, each list ending where the next begins."""
    from nanoarrow.c_array import c_array_from_buffers

    return c_array_from_buffers(_schema(kept, depth), len(offsets) - 1, [None, offsets], children=[array])
