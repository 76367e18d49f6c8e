"""Columns told by counts: what a drift check needs of a data set, made once when it is registered, and of requests, made by the same SQL.

A number's bins end at 256 quantiles of the data set, and bin k holds the values above edge k-1 up to edge k; a value so frequent that
quantiles coincide (an atom) has a bin of its own.  Counts are exact at every edge, so the largest gap between two cumulative
distributions, taken at the edges, is never more than the true one and falls short of it by at most the larger share of one bin
(about 1/256; the edges of more than 100,000 rows come from a fixed sample of so many).  Categories are counted one by one, the thousand most frequent of them.
Counts over the same edges add up exactly, which is how windows are put together.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

if TYPE_CHECKING:
    import duckdb

BINS = 256
MOST_CATEGORIES = 1000
SAMPLE = 100_000
FEW_INTEGERS = 10
"""An integer column with no more different values than this is counted as categories."""
_NUMBERS = ("int", "uint", "float")
_FINITE = "1e150"


class ColumnSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One column of some rows, told by counts."""

    name: str
    kind: Literal["number", "category"]
    count: int = 0
    """Values that are there."""
    missing: int = 0
    """Rows without one; NaN is none."""
    edges: list[float] = []
    """Where a number's bins end.  The first ends just below the smallest value there was, the last at the largest."""
    counts: list[int] = []
    """Values per bin; one more than there are edges, the last for what is above all of them."""
    mean: float | None = None
    deviation: float | None = None
    """Of the finite values."""
    categories: dict[str, int] = {}
    other: int = 0
    """Values of none of the categories listed."""
    distinct: int = 0
    """How many different categories there were, about."""
    new: dict[str, int] = {}
    """Of requests: the most frequent values that are no category of the data set."""
    integers: bool = False
    """Whether the categories are whole numbers."""

    @property
    def rows(self) -> int:
        """All rows, with a value or without."""
        return self.count + self.missing


def of_table(connection: duckdb.DuckDBPyConnection, parquet: Path, schema: Sequence[Mapping[str, Any]], *, rows: int) -> list[ColumnSummary]:
    """The summaries of a data set's columns, moments and nested values left out."""
    sampled = rows > SAMPLE and not any(column["name"].lower() == "file_row_number" for column in schema)
    source = f"read_parquet('{_escaped(str(parquet))}'{', file_row_number = true' if sampled else ''})"
    return _summed(connection, source, schema, f"hash(file_row_number) < {int(SAMPLE / rows * 2**64)}" if sampled else "true")


def of_columns(connection: duckdb.DuckDBPyConnection, table: str, schema: Sequence[Mapping[str, Any]]) -> list[ColumnSummary]:
    """The same of a table of *connection*'s own."""
    rows = _one(connection, f"SELECT count(*) FROM {table}")
    return _summed(connection, table, schema, f"hash(rowid) < {int(SAMPLE / rows * 2**64)}" if rows > SAMPLE else "true")


def _summed(connection: duckdb.DuckDBPyConnection, source: str, schema: Sequence[Mapping[str, Any]], sample: str) -> list[ColumnSummary]:
    shapes = [shape for column in schema if (shape := _shape(connection, source, column, sample))]
    chosen = ", ".join(f"{value(shape, _quoted(shape.name))} AS c{n}" for n, shape in enumerate(shapes))
    return next(iter(counted(connection, f"SELECT 0 AS w, {chosen} FROM {source}", shapes).values()), []) if shapes else []


def merged(one: ColumnSummary, other: ColumnSummary) -> ColumnSummary:
    """Both together, exactly.  Raises ValueError when their bins or categories are not the same."""
    if one.edges != other.edges or list(one.categories) != list(other.categories):
        raise ValueError(f"{one.name} was not counted over the same bins")
    present = one.count + other.count
    return msgspec.structs.replace(
        one, count=present, missing=one.missing + other.missing, counts=[a + b for a, b in zip(one.counts, other.counts, strict=True)],
        categories={name: one.categories[name] + other.categories[name] for name in one.categories}, other=one.other + other.other,
        new=_added(one.new, other.new), **_moments(one, other, present),
    )  # fmt: skip


def value(shape: ColumnSummary, sql: str) -> str:
    """The SQL of a column's value as it is counted, from the SQL of the value itself."""
    if shape.kind == "number":
        return f"nullif(TRY_CAST({sql} AS DOUBLE), 'nan'::DOUBLE)"
    if shape.integers:
        number = f"nullif(TRY_CAST({sql} AS DOUBLE), 'nan'::DOUBLE)"
        return f"CASE WHEN {number} = floor({number}) THEN TRY_CAST({number} AS BIGINT)::VARCHAR ELSE {number}::VARCHAR END"
    return f"{sql}::VARCHAR"


def counted(
    connection: duckdb.DuckDBPyConnection, select: str, shapes: Sequence[ColumnSummary], values: Sequence[object] = ()
) -> dict[int, list[ColumnSummary]]:
    """Per window `w` of *select* the summaries of its columns `c0`, `c1` … over the bins or categories of *shapes*."""
    measures = ", ".join(_measures(shape, f"c{n}") for n, shape in enumerate(shapes))
    found = connection.execute(f"SELECT w, count(*), {measures} FROM ({select}) GROUP BY w ORDER BY w", list(values)).fetchall()
    return {int(window): _told(shapes, rows, iter(measured)) for window, rows, *measured in found}


# ── how ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _shape(connection: duckdb.DuckDBPyConnection, source: str, column: Mapping[str, Any], sample: str) -> ColumnSummary | None:
    """What a column is counted over; None where counts tell nothing."""
    name, type_ = column["name"], column["type"]
    if type_.startswith(_NUMBERS):
        few = _few_integers(connection, source, name) if "float" not in type_ else []
        if few:
            return ColumnSummary(name=name, kind="category", categories=dict.fromkeys(few, 0), distinct=len(few), integers=True)
        return ColumnSummary(name=name, kind="number", edges=_edges(connection, source, name, sample))
    if type_ not in ("string", "bool"):
        return None
    text = f"{_quoted(name)}::VARCHAR"
    top = connection.execute(f"SELECT {text} FROM {source} WHERE {text} IS NOT NULL GROUP BY 1 ORDER BY count(*) DESC, 1 LIMIT {MOST_CATEGORIES}")
    categories = dict.fromkeys((row[0] for row in top.fetchall()), 0)
    distinct = len(categories) if len(categories) < MOST_CATEGORIES else _one(connection, f"SELECT approx_count_distinct({text}) FROM {source}")
    return ColumnSummary(name=name, kind="category", categories=categories, distinct=distinct)


def _few_integers(connection: duckdb.DuckDBPyConnection, source: str, name: str) -> list[str]:
    column = _quoted(name)
    sql = f"SELECT DISTINCT {column} FROM {source} WHERE {column} IS NOT NULL LIMIT {FEW_INTEGERS + 1}"
    found = sorted(row[0] for row in connection.execute(sql).fetchall())
    return [str(int(number)) for number in found] if len(found) <= FEW_INTEGERS else []


def _edges(connection: duckdb.DuckDBPyConnection, source: str, name: str, sample: str) -> list[float]:
    """The ends of about equally full bins, with a second end just below every atom."""
    column = f"nullif(TRY_CAST({_quoted(name)} AS DOUBLE), 'nan'::DOUBLE)"
    low, high = connection.execute(f"SELECT min(x), max(x) FROM (SELECT {column} AS x FROM {source}) WHERE isfinite(x)").fetchone() or (None, None)
    if low is None:
        return []
    places = [k / BINS for k in range(1, BINS)]
    sql = f"SELECT quantile_disc(x, {places}) FROM (SELECT {column} AS x FROM {source} WHERE {sample}) WHERE isfinite(x)"
    quantiles = _one(connection, sql) or []
    atoms = {one for one, next_one in itertools.pairwise(quantiles) if one == next_one}
    below = {math.nextafter(atom, -math.inf) for atom in atoms}
    return sorted({math.nextafter(low, -math.inf), *below, *quantiles, high})


def _measures(shape: ColumnSummary, column: str) -> str:
    if shape.kind == "number":
        tamed = f"greatest(least({column}, {_FINITE}), -{_FINITE})"  # squares of larger ones are beyond a double, and a test needs no mean
        finite = f"FILTER (isfinite({column}))"
        bins = f"histogram({column}, {shape.edges})" if shape.edges else "NULL"
        return f"count({column}), {bins}, avg({tamed}) {finite}, stddev_pop({tamed}) {finite}"
    listed = [name for name in shape.categories if name]
    bins = f"histogram_exact({column}, [{', '.join(_literal(name) for name in listed)}])" if listed else "NULL"
    return f"count({column}), {bins}, count(*) FILTER ({column} = ''), approx_count_distinct({column})"


def _told(shapes: Sequence[ColumnSummary], rows: int, measured: Any) -> list[ColumnSummary]:
    return [_one_told(shape, rows, next(measured), next(measured) or {}, next(measured), next(measured)) for shape in shapes]


def _one_told(shape: ColumnSummary, rows: int, count: int, bins: dict[Any, int], third: Any, fourth: Any) -> ColumnSummary:
    if shape.kind == "number":
        counts = [bins.get(edge, 0) for edge in shape.edges]
        counts.append(count - sum(counts))
        return msgspec.structs.replace(shape, count=count, missing=rows - count, counts=counts, mean=third, deviation=fourth)
    categories = {name: bins.get(name, 0) if name else third for name in shape.categories}
    return msgspec.structs.replace(shape, count=count, missing=rows - count, categories=categories, other=count - sum(categories.values()))


def _moments(one: ColumnSummary, other: ColumnSummary, present: int) -> dict[str, float | None]:
    if one.mean is None or other.mean is None or one.deviation is None or other.deviation is None:
        known = one if one.mean is not None else other
        return {"mean": known.mean, "deviation": known.deviation}
    share = other.count / max(present, 1)
    between = share * (1 - share) * (other.mean - one.mean) ** 2
    variance = (1 - share) * one.deviation**2 + share * other.deviation**2 + between
    return {"mean": one.mean + share * (other.mean - one.mean), "deviation": math.sqrt(variance)}


def _added(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    return {name: one.get(name, 0) + other.get(name, 0) for name in dict.fromkeys([*one, *other])}


def together(many: Iterable[ColumnSummary]) -> ColumnSummary:
    """All of them as one, which were counted over the same bins."""
    first, *others = many
    for other in others:
        first = merged(first, other)
    return first


def _one(connection: duckdb.DuckDBPyConnection, sql: str) -> Any:
    return (connection.execute(sql).fetchone() or (None,))[0]


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(text: str) -> str:
    return "'" + _escaped(text) + "'"


def _escaped(text: str) -> str:
    return text.replace("'", "''")
