"""Many requests in one line of telemetry, where their arrays are alike: what would be said of each is said once.

Such a line is `{"block": {"time": [µs since 1970], "id": […], "latency_ms": […], "rows": […]}, "inputs": {…}, "outputs": {…}, "packed":
[…], "packed_outputs": […]}`: the arrays of all requests behind each other, each request having as many entries as it has rows, floats
as `column_bytes` has them.  Every request in it was answered with 200.

A request's arrays are copied into a `Sheet` as it is answered: what it came in is used again at once, while the processor's caches
still have it, and nothing has to be gathered when the line is written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from .column_bytes import packed

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


class Asked(Protocol):
    """One answered request."""

    time: float
    """Seconds since 1970."""
    id: str
    latency_ms: float
    rows: int
    values: int
    """Cells of its inputs."""
    given: Any
    """Arrays by name, or a Table."""
    outputs: Any
    """Arrays by name."""


class Apart(NamedTuple):
    """One of the requests of a sheet, by itself."""

    time: float
    id: str
    latency_ms: float
    rows: int
    values: int
    given: Arrays
    outputs: Arrays


class Sheet:
    """Room for answered requests of one kind: the same names, types and widths."""

    def __init__(self, first: Asked, *, most: int, most_values: int) -> None:
        """For *most* requests as large as *first*, but no more than *most_values* values; `room` is zero where such requests are not taken."""
        self.asked: list[Asked] = []
        """All of them, without their arrays: no tuple of what is said of each, of which so many would keep Python's collector of cycles busy."""
        self.rows = 0
        given, self._columns = _flat(first.given)
        kinds = [*given.values(), *first.outputs.values()]
        taken = first.rows and all(_goes_on_a_sheet(array, first.rows) for array in kinds)
        self.room = min(most, most_values // max(sum(array.size for array in kinds), 1)) * first.rows if taken else 0
        self._most = most
        self._given, self._outputs = _places(given, self.room), _places(first.outputs, self.room)

    @property
    def values(self) -> int:
        """Cells of the inputs of all of them."""
        return sum(one.values for one in self.asked)

    def take(self, ones: Sequence[Asked], given: Arrays | Table, outputs: Arrays) -> bool:
        """Put down *ones*, whose rows the arrays hold one behind the other, and which are without theirs then.

        False when they are of another kind, or there is no room left: nothing is put down then.
        """
        first, rows = self.rows, sum([one.rows for one in ones])
        if given.__class__ is Table:
            if given.columns is not self._columns:  # type: ignore[union-attr]
                return False
            given = {"": given.numbers}  # type: ignore[union-attr]
        elif self._columns is not None:
            return False
        if first + rows > self.room or len(self.asked) + len(ones) > self._most:
            return False
        if not (_copied(given, self._given, first, rows) and _copied(outputs, self._outputs, first, rows)):  # type: ignore[arg-type]
            return False
        self.rows = first + rows
        for one in ones:
            one.given = one.outputs = None
        self.asked += ones
        return True

    def block(self) -> dict[str, Any]:
        """The line that holds them all, as orjson takes it."""
        import numpy as np

        asked = self.asked
        times, latencies = np.array([one.time for one in asked]), np.array([one.latency_ms for one in asked])
        facts = {
            "time": np.rint(times * 1e6).astype(np.int64),
            "id": [one.id for one in asked],
            "latency_ms": np.round(latencies, 3),
            "rows": [one.rows for one in asked],
        }
        inputs, packed_inputs = packed(self._inputs(0, self.rows))
        outputs, packed_outputs = packed(_between(self._outputs, 0, self.rows), least=1)
        return {"block": facts, "inputs": _plain(inputs), "outputs": _plain(outputs), "packed": packed_inputs, "packed_outputs": packed_outputs}

    def apart(self) -> list[Apart]:
        """The requests one by one."""
        ends = accumulate(one.rows for one in self.asked)
        return [
            Apart(one.time, one.id, one.latency_ms, one.rows, one.values, self._inputs(end - one.rows, end), _between(self._outputs, end - one.rows, end))
            for one, end in zip(self.asked, ends, strict=True)
        ]

    def _inputs(self, first: int, end: int) -> Arrays:
        given = _between(self._given, first, end)
        return given if self._columns is None else Table(given[""], self._columns).arrays()


# ── how ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _flat(given: Arrays | Table) -> tuple[Arrays, Sequence[Column] | None]:
    return ({"": given.numbers}, given.columns) if isinstance(given, Table) else (given, None)


def _goes_on_a_sheet(array: np.ndarray, rows: int) -> bool:
    """Numbers, truth values, and columns of text, an entry for each row."""
    return array.dtype.kind in "fiubO" and array.ndim > 0 and len(array) == rows and (array.dtype.kind != "O" or array.ndim == 1)


class _Place(NamedTuple):
    """Where the arrays of one name go."""

    numbers: np.ndarray
    type: np.dtype
    axes: int
    each: int
    """Values of a row."""


def _places(arrays: Arrays, rows: int) -> dict[str, _Place]:
    import numpy as np

    if not rows:
        return {}
    return {name: _Place(np.empty((rows, *array.shape[1:]), array.dtype), array.dtype, array.ndim, array.size // len(array)) for name, array in arrays.items()}


def _copied(arrays: Arrays, places: Mapping[str, _Place], first: int, rows: int) -> bool:
    """Whether *arrays*, of so many *rows*, all have their place, to which they are copied from row *first* on."""
    if len(arrays) != len(places):
        return False
    try:
        for name, array in arrays.items():
            numbers, type_, axes, each = places[name]
            # Of arrays of one size and as many axes, numpy broadcasts none: what it copies is of that shape.
            if array.dtype != type_ or array.ndim != axes or array.size != rows * each:
                return False
            numbers[first : first + rows] = array
    except (KeyError, ValueError):
        return False
    return True


def _between(places: Mapping[str, _Place], first: int, end: int) -> Arrays:
    return {name: place.numbers[first:end] for name, place in places.items()}


def _plain(columns: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Texts as lists, and few floats, whose digits then are those of the answer; orjson writes the other arrays itself."""
    return {name: array.tolist() if array.dtype.kind in "Of" else array for name, array in columns.items()}
