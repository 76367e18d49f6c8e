"""Many requests in one line of telemetry, where their arrays are alike: what would be said of each is said once.

Such a line is `{"block": {"time": [µs since 1970], "id": […], "latency_ms": […], "rows": […]}, "inputs": {…}, "outputs": {…}, "packed":
[…], "packed_outputs": […]}`: the arrays of all requests behind each other, each request having as many entries as it has rows, floats
as `column_bytes` has them.  Every request in it was answered with 200.

Measured as CPU of the writer for each request, a line of its own beside a block: one row of 30 numbers 5.2 and 2.9 µs, 64 rows
30 and 15 µs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from .column_bytes import arrays_of, packed

if TYPE_CHECKING:
    import numpy as np

    from .signature import Column

LEAST = 8
"""Fewer requests get a line each, which can be read with the eye."""

Arrays = Mapping[str, "np.ndarray"]


class Table(NamedTuple):
    """A table whose columns are all numbers, as they came: side by side."""

    numbers: np.ndarray
    """Rows × columns."""
    columns: Sequence[Column]

    def arrays(self) -> dict[str, np.ndarray]:
        """The columns, each of its own type."""
        return {column.name: self.numbers[:, place].astype(column.type) for place, column in enumerate(self.columns)}


class Asked(NamedTuple):
    """One answered request."""

    micros: int
    id: str
    latency_ms: float
    rows: int
    given: Arrays | Table
    outputs: Arrays


def block(asked: Sequence[Asked]) -> dict[str, Any] | None:
    """The line that holds all of *asked*, as orjson takes it; None when their arrays are not alike, or JSON has no word for them."""
    rows = [one.rows for one in asked]
    inputs, outputs = _inputs([one.given for one in asked], rows), _behind_each_other([one.outputs for one in asked], rows)
    if inputs is None or outputs is None:
        return None
    plain_inputs, packed_inputs = packed(inputs)
    plain_outputs, packed_outputs = packed(outputs, least=1)
    facts = {"time": [one.micros for one in asked], "id": [one.id for one in asked], "latency_ms": [one.latency_ms for one in asked], "rows": rows}
    columns = {"inputs": _plain(plain_inputs), "outputs": _plain(plain_outputs)}
    return {"block": facts, **columns, "packed": packed_inputs, "packed_outputs": packed_outputs}


def parts(rows: Sequence[int], columns: str, groups: str) -> list[str]:
    """The `inputs` or `outputs` of each request of a block, as JSON in digits, from the block's own and its groups."""
    import orjson

    whole = msgspec.json.decode(columns) | {name: array.tolist() for name, array in arrays_of(groups).items()}
    ends = list(accumulate(rows))
    return [orjson.dumps({name: values[end - count : end] for name, values in whole.items()}).decode() for count, end in zip(rows, ends, strict=True)]


# ── how ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _inputs(given: Sequence[Arrays | Table], rows: Sequence[int]) -> dict[str, np.ndarray] | None:
    first = given[0]
    if not isinstance(first, Table):
        return None if any(isinstance(one, Table) for one in given) else _behind_each_other(given, rows)  # type: ignore[arg-type]
    if any(not isinstance(one, Table) or one.columns is not first.columns for one in given):
        return None
    numbers = _behind_each_other([{"": one.numbers} for one in given], rows)  # type: ignore[union-attr]
    return first._replace(numbers=numbers[""]).arrays() if numbers else None


def _behind_each_other(parts: Sequence[Arrays], rows: Sequence[int]) -> dict[str, np.ndarray] | None:
    """Each name's arrays as one; None unless all have the same names, types and widths, and an entry for each row."""
    import numpy as np

    names = parts[0].keys()
    if any(part.keys() != names for part in parts):
        return None
    found = {}
    for name in names:
        arrays = [part[name] for part in parts]
        first = arrays[0]
        if first.dtype.kind not in "fiubO" or not first.ndim or (first.dtype.kind == "O" and first.ndim > 1):
            return None
        if any(array.dtype != first.dtype or array.shape[1:] != first.shape[1:] or len(array) != count for array, count in zip(arrays, rows, strict=True)):
            return None
        found[name] = np.concatenate(arrays)
    return found


def _plain(columns: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Texts as lists, and few floats, whose digits then are those of the answer; orjson writes the other arrays itself."""
    return {name: array.tolist() if array.dtype.kind in "Of" else array for name, array in columns.items()}
