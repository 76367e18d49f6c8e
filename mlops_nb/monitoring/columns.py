"""The columns of a model, out of its training data and out of its requests, in one plain form.

A number is a float64 with NaN where it is missing; a category is the int32 position of its text, -1 where it is missing.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from ..store.datasets import DatasetVersion
from ..store.models import ModelVersion

if TYPE_CHECKING:
    import numpy as np

MOST_ROWS = 100_000
"""Rows of either side that are compared.  Beyond this many, effects far below the smallest that counts are already certain."""
NOT_IN_REQUESTS = "not in the requests"
_MOST_ELEMENTS = 256
_LONGEST_NAME = 80
_CATEGORIES = ("string", "bool")
_TELLS_LITTLE = {"datetime": "moments, which always move on", "json": "nested values"}


class Wanted(msgspec.Struct, frozen=True):
    """One column to compare: its name in the model, and in the training data (None where it is not there)."""

    name: str
    type: str
    source: str | None
    place: tuple[int, ...] = ()
    """Which element of the requests' column it is, where that holds arrays."""


class Pair(msgspec.Struct, frozen=True):
    """One column of both sides."""

    name: str
    type: str
    reference: Any
    window: Any
    categories: list[str] | None = None


def wanted(version: ModelVersion, dataset: DatasetVersion) -> list[Wanted]:
    """The inputs of the model's signature; of tensors their elements; of a model without signature the data set's columns."""
    return wanted_of(version, dataset.schema)


def wanted_of(version: ModelVersion, schema: Sequence[Mapping[str, Any]]) -> list[Wanted]:
    """The same, with a reference that has the columns of *schema*."""
    columns = (version.signature or {}).get("inputs") or []
    there = {column["name"] for column in schema}
    if not columns:
        return [Wanted(c["name"], c["type"], c["name"]) for c in schema]
    if (version.signature or {}).get("kind") == "tensors":
        return [element for column in columns for element in elements(column, [c["name"] for c in schema])]
    return [Wanted(c["name"], c["type"], c["name"] if c["name"] in there else None) for c in columns]


def elements(column: dict[str, Any], sources: list[str]) -> list[Wanted]:
    """`input[0]`, `input[1]` …, which are the data set's columns in their order when it has as many."""
    axes = (column.get("shape") or [None])[1:]
    count = math.prod(length or 0 for length in axes)
    named = sources if len(sources) == count else [None] * count
    return [Wanted(f"{column['name']}[{n}]", column["type"], source, _place(n, axes)) for n, source in enumerate(named[:_MOST_ELEMENTS])]


def _place(number: int, axes: list[int]) -> tuple[int, ...]:
    """Where the element of this number stands, row by row."""
    place: list[int] = []
    for length in reversed(axes):
        number, rest = divmod(number, length)
        place.append(rest)
    return tuple(reversed(place))


def column_of(wanted: Wanted) -> str:
    """The column of the requests that holds it."""
    return wanted.name.rpartition("[")[0] if wanted.place else wanted.name


def why_not(column: Wanted, window: Container[str]) -> str:
    """Why a column cannot be compared, or nothing."""
    if column.source is None:
        return "not in the training data"
    return _TELLS_LITTLE.get(column.type, "") or ("" if column.name in window else NOT_IN_REQUESTS)


def of_dataset(file: Path, columns: Iterable[Wanted], *, rows: int) -> dict[str, np.ndarray]:
    """The training data by column: numbers as float64, anything else as text.  Beyond MOST_ROWS always the same sample."""
    import duckdb

    chosen = ", ".join(f"{_read(column)} AS c{n}" for n, column in enumerate(columns))
    where = f" WHERE hash(file_row_number) < {int(MOST_ROWS / rows * 2**64)}" if rows > MOST_ROWS else ""
    with duckdb.connect(":memory:", config={"autoinstall_known_extensions": False}) as connection:
        sql = f"SELECT {chosen} FROM read_parquet(?, file_row_number = true){where}"
        found = connection.execute(sql, [str(file)]).fetchnumpy()
    return {column.name: found[f"c{n}"] for n, column in enumerate(columns)}


def _read(column: Wanted) -> str:
    name = '"' + (column.source or "").replace('"', '""') + '"'
    return f"{name}::VARCHAR" if column.type in _CATEGORIES else f"TRY_CAST({name} AS DOUBLE)"


def of_requests(captured: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The window by column, at most MOST_ROWS evenly spaced rows, a tensor's elements as columns of their own."""
    columns: dict[str, np.ndarray] = {}
    for name, values in captured.items():
        step = -(-len(values) // MOST_ROWS) or 1
        values = values[::step]
        if getattr(values, "ndim", 1) == 1:
            columns[name] = values
        else:
            flat = values.reshape(len(values), -1)
            columns |= {f"{name}[{n}]": flat[:, n] for n in range(min(flat.shape[1], _MOST_ELEMENTS))}
    return columns


def pair(column: Wanted, reference: np.ndarray, window: np.ndarray) -> Pair:
    """Both sides in the plain form."""
    if column.type not in _CATEGORIES:
        return Pair(column.name, column.type, _numbers(reference), _numbers(window))
    place: dict[str, int] = {}
    before, now = _codes(reference, place), _codes(window, place)
    return Pair(column.name, column.type, before, now, [name[:_LONGEST_NAME] for name in place])


def identifies(pair: Pair) -> bool:
    """Whether most values of the training data are all different: an identifier or free text, in which everything is always new."""
    import numpy as np

    present = pair.reference[pair.reference >= 0] if pair.categories is not None else []
    return len(present) > 0 and len(np.unique(present)) > max(len(present) / 2, 100)


def _numbers(values: np.ndarray) -> np.ndarray:
    import numpy as np

    if isinstance(values, np.ma.MaskedArray):
        values = np.ma.filled(values.astype(np.float64), np.nan)
    if values.dtype == object:
        values = np.array([np.nan if value is None else _number(value) for value in values])
    return values.astype(np.float64)


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")


def _codes(values: np.ndarray, place: dict[str, int]) -> np.ndarray:
    import numpy as np

    if isinstance(values, np.ma.MaskedArray):
        missing, values = np.ma.getmaskarray(values), np.asarray(values, dtype=object)
        values[missing] = None
    if values.dtype == bool:
        values = np.where(values, "true", "false")
    texts = (None if value is None else ("true" if value else "false") if isinstance(value, bool) else str(value) for value in values.tolist())
    return np.fromiter((-1 if text is None else place.setdefault(text, len(place)) for text in texts), dtype=np.int32, count=len(values))
