"""Numbers of a DuckDB query counted into bins, with their moments and range: exact, in batches, whatever their number."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import reduce
from typing import TYPE_CHECKING, Any

import msgspec

from .batches import each
from .bins import Bins

if TYPE_CHECKING:
    import duckdb
    import numpy as np

_PIECE = 65_536
"""Values counted at a time: those and what is made of them stay in a core's cache, and threads seldom wait for each other's turn in Python."""
_LARGEST = 1e150
"""Squares of larger numbers are beyond a double; moments take them as this."""


class Tally(msgspec.Struct, frozen=True, kw_only=True):
    """One column of the rows of one window."""

    rows: int
    counts: Any
    """An array: per bin."""
    finite: int = 0
    mean: float = 0.0
    squares: float = 0.0
    """The sum of the squared distances from the mean, of the finite values."""
    low: float = math.inf
    high: float = -math.inf
    """The range of the finite values."""
    lowest: int = 0
    """How many are minus infinity."""
    highest: int = 0

    @property
    def deviation(self) -> float:
        """Of the finite values, as a population."""
        return math.sqrt(self.squares / self.finite) if self.finite else 0.0


def tallied(
    connection: duckdb.DuckDBPyConnection, table: str, numbers: Sequence[tuple[str, Sequence[float]]], *, window: str = "0", values: Sequence[object] = ()
) -> dict[int, list[Tally]]:
    """Per value of *window* the tallies of *numbers*: each the SQL of one, and the edges of its bins.  NULL, NaN and what is no number count as rows only."""
    bins = [Bins(edges) for _, edges in numbers]
    columns = [f"({window})::DOUBLE", *(f"TRY_CAST({sql} AS DOUBLE)" for sql, _ in numbers)]

    def of_batch(batch: list[np.ndarray]) -> dict[int, list[Tally]]:
        import numpy as np

        windows, *columns = batch
        first = windows[0] if len(windows) else 0.0
        if (windows == first).all():
            return {int(first): [_tally(one, column) for one, column in zip(bins, columns, strict=True)]}
        chosen = {int(number): windows == number for number in np.unique(windows)}
        return {number: [_tally(one, column[rows]) for one, column in zip(bins, columns, strict=True)] for number, rows in chosen.items()}

    found: dict[int, list[list[Tally]]] = {}
    for part in each(connection, f"SELECT {', '.join(columns)} FROM {table}", of_batch, values):
        for number, tallies in part.items():
            found.setdefault(number, []).append(tallies)
    return {number: [reduce(_together, many) for many in zip(*parts, strict=True)] for number, parts in sorted(found.items())}


def _tally(bins: Bins, values: np.ndarray) -> Tally:
    return reduce(_together, (_of_piece(bins, values[start : start + _PIECE]) for start in range(0, max(len(values), 1), _PIECE)))


def _of_piece(bins: Bins, values: np.ndarray) -> Tally:
    import numpy as np

    with np.errstate(all="ignore"):
        low, high = (float(values.min()), float(values.max())) if len(values) else (math.nan, math.nan)
        if low > -_LARGEST and high < _LARGEST:  # so none is NaN
            return Tally(rows=len(values), counts=bins.counts(values), low=low, high=high, **_moments(values, low, high))
        present = values[~np.isnan(values)]
        counts, finite = bins.counts(present), present[np.isfinite(present)]
    clipped = np.clip(finite, -_LARGEST, _LARGEST)
    moments = _moments(clipped, clipped.min(), clipped.max()) if len(clipped) else {}
    ends = {"low": float(finite.min()), "high": float(finite.max())} if len(finite) else {}
    infinite = {"lowest": int((present == -np.inf).sum()), "highest": int((present == np.inf).sum())}
    return Tally(rows=len(values), counts=counts, **moments | ends | infinite)


def _moments(values: np.ndarray, low: float, high: float) -> dict[str, Any]:
    import numpy as np

    if low == high:  # a sum of the same value again and again is rounded, and what never varied would seem to
        return {"finite": len(values), "mean": float(low), "squares": 0.0}
    mean = float(values.mean())
    apart = values - mean
    return {"finite": len(values), "mean": mean, "squares": float(np.square(apart, out=apart).sum())}


def _together(one: Tally, other: Tally) -> Tally:
    """Both, their moments by Chan, Golub and LeVeque, "Algorithms for computing the sample variance", The American Statistician 37, 1983."""
    finite = one.finite + other.finite
    share, apart = (other.finite / finite, other.mean - one.mean) if finite else (0.0, 0.0)
    return Tally(
        rows=one.rows + other.rows, counts=one.counts + other.counts, finite=finite, mean=one.mean + share * apart,
        squares=one.squares + other.squares + one.finite * share * apart**2, low=min(one.low, other.low), high=max(one.high, other.high),
        lowest=one.lowest + other.lowest, highest=one.highest + other.highest,
    )  # fmt: skip
