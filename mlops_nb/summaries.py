"""Columns told by counts: what a drift check needs of a data set, made once when it is registered, and of requests, counted alike.

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

from .batches import each
from .tallies import Tally, tallied

if TYPE_CHECKING:
    import duckdb
    import numpy as np

BINS = 256
MOST_CATEGORIES = 1000
SAMPLE = 100_000
FEW_INTEGERS = 10
"""An integer column with no more different values than this is counted as categories."""
_NUMBERS = ("int", "uint", "float")
_LARGEST_EXACT = 2**53


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


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """The rows of one window."""

    rows: int
    first: float
    """The range of the number along which they lie."""
    last: float
    columns: list[ColumnSummary]


def of_table(connection: duckdb.DuckDBPyConnection, parquet: Path, schema: Sequence[Mapping[str, Any]], *, rows: int) -> list[ColumnSummary]:
    """The summaries of a data set's columns, moments and nested values left out."""
    sampled = rows > SAMPLE and not any(column["name"].lower() == "file_row_number" for column in schema)
    table = f"read_parquet('{_escaped(str(parquet))}'{', file_row_number = true' if sampled else ''})"
    return of_rows(connection, table, schema, number="file_row_number", rows=rows if sampled else 0)


def of_rows(connection: duckdb.DuckDBPyConnection, table: str, schema: Sequence[Mapping[str, Any]], *, number: str, rows: int) -> list[ColumnSummary]:
    """The same of the columns that *schema* names of any SQL *table*; edges come from a sample by the hash of *number* where there are many *rows*."""
    kinds = {column["name"]: _kind(column["type"]) for column in schema}
    measured = [name for name, kind in kinds.items() if kind in ("number", "integer")]
    inner = _quantiles(connection, table, measured, f"hash({number}) < {int(SAMPLE / rows * 2**64)}" if rows > SAMPLE else "true")
    few = {name: values for name in measured if kinds[name] == "integer" and (values := _few_integers(connection, table, name, inner[name]))}
    categories = [_categories(connection, table, name) for name, kind in kinds.items() if kind == "category"]
    numbers = _of_columns(connection, table, {name: inner[name] for name in measured if name not in few}, few)
    found = {one.name: one for one in (*numbers, *_of_texts(connection, table, categories))}
    return [found[name] for name in kinds if name in found]


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
    """The SQL of a value as it is told, from the SQL of the value itself: a number, or the text of its category."""
    if shape.kind == "category" and not shape.integers:
        return f"{sql}::VARCHAR"
    number = f"nullif(TRY_CAST({sql} AS DOUBLE), 'nan'::DOUBLE)"
    return f"CASE WHEN {number} = floor({number}) THEN TRY_CAST({number} AS BIGINT)::VARCHAR ELSE {number}::VARCHAR END" if shape.integers else number


def counted(
    connection: duckdb.DuckDBPyConnection, select: str, shapes: Sequence[ColumnSummary], values: Sequence[object] = ()
) -> dict[int, list[ColumnSummary]]:
    """Per window `w` of *select* the summaries of its columns `c0`, `c1` … over the bins or categories of *shapes*."""
    asked = [(f"c{n}", shape) for n, shape in enumerate(shapes)]
    return {number: one.columns for number, one in counts(connection, f"({select})", asked, along="0", window="w", values=values).items()}


def counts(
    connection: duckdb.DuckDBPyConnection, table: str, asked: Sequence[tuple[str, ColumnSummary]], *, along: str, window: str, values: Sequence[object] = ()
) -> dict[int, Counts]:
    """Per value of *window* what is *asked* of an SQL *table*: SQL expressions, and the bins or categories each is counted over."""
    numbers = [n for n, (_, shape) in enumerate(asked) if shape.kind == "number" or shape.integers]
    texts = [n for n in range(len(asked)) if n not in numbers]
    measured = tallied(connection, table, [(along, []), *((asked[n][0], _ends(asked[n][1])) for n in numbers)], window=window, values=values)
    listed = _listed(connection, table, [asked[n] for n in texts], window, values) if texts else {}
    found: dict[int, Counts] = {}
    for number, (line, *tallies) in measured.items():
        columns = {n: _of_numbers(asked[n][1], tally) for n, tally in zip(numbers, tallies, strict=True)} | dict(
            zip(texts, listed.get(number, []), strict=True)
        )
        found[number] = Counts(rows=line.rows, first=line.low, last=line.high, columns=[columns[n] for n in range(len(asked))])
    return found


# ── how ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _kind(type_: str) -> str:
    """What a column of this type is counted as: nothing where counts tell nothing."""
    if type_.startswith(_NUMBERS):
        return "number" if "float" in type_ else "integer"
    return "category" if type_ in ("string", "bool") else ""


def _quantiles(connection: duckdb.DuckDBPyConnection, table: str, names: Sequence[str], sample: str) -> dict[str, list[float]]:
    """The inner ends of about equally full bins of each column, with a second end just below every atom."""
    import numpy as np

    if not names:
        return {}
    chosen = ", ".join(f"TRY_CAST({_quoted(name)} AS DOUBLE)" for name in names)
    parts = each(connection, f"SELECT {chosen} FROM {table} WHERE {sample}", lambda batch: [column[np.isfinite(column)] for column in batch])
    return {name: _inner(np.sort(np.concatenate([part[n] for part in parts] or [np.empty(0)]))) for n, name in enumerate(names)}


def _inner(values: np.ndarray) -> list[float]:
    import numpy as np

    if not len(values):
        return []
    quantiles = values[np.ceil(np.arange(1, BINS) / BINS * len(values)).astype(int) - 1].tolist()
    atoms = {one for one, next_one in itertools.pairwise(quantiles) if one == next_one}
    return sorted({*quantiles, *(math.nextafter(atom, -math.inf) for atom in atoms)})


def _few_integers(connection: duckdb.DuckDBPyConnection, table: str, name: str, inner: Sequence[float]) -> list[int]:
    """All values of a column of few different ones; none of another."""
    if len({edge for edge in inner if edge.is_integer()}) > FEW_INTEGERS:
        return []
    column = _quoted(name)
    number = f"TRY_CAST({column} AS DOUBLE)"  # what was text, or a float, when others asked may be among them
    found = connection.execute(f"SELECT DISTINCT {number} FROM {table} WHERE {column} IS NOT NULL LIMIT {FEW_INTEGERS + 1}").fetchall()
    exact = all(row[0] is not None and row[0].is_integer() and abs(row[0]) < _LARGEST_EXACT for row in found)
    return sorted(int(row[0]) for row in found) if len(found) <= FEW_INTEGERS and exact else []


def _categories(connection: duckdb.DuckDBPyConnection, table: str, name: str) -> ColumnSummary:
    text = f"{_quoted(name)}::VARCHAR"
    top = connection.execute(f"SELECT {text} FROM {table} WHERE {text} IS NOT NULL GROUP BY 1 ORDER BY count(*) DESC, 1 LIMIT {MOST_CATEGORIES}")
    categories = dict.fromkeys((row[0] for row in top.fetchall()), 0)
    distinct = len(categories) if len(categories) < MOST_CATEGORIES else _one(connection, f"SELECT approx_count_distinct({text}) FROM {table}")
    return ColumnSummary(name=name, kind="category", categories=categories, distinct=distinct)


def _of_columns(
    connection: duckdb.DuckDBPyConnection, table: str, inner: Mapping[str, Sequence[float]], few: Mapping[str, Sequence[int]]
) -> list[ColumnSummary]:
    """Numbers over bins between *inner* edges with their smallest and largest value as the ends, and integers of *few* values, in one pass."""
    shapes = [ColumnSummary(name=name, kind="category", categories={str(v): 0 for v in few[name]}, distinct=len(few[name]), integers=True) for name in few]
    asked = [*((_quoted(name), edges) for name, edges in inner.items()), *((_quoted(shape.name), _ends(shape)) for shape in shapes)]
    for tallies in (tallied(connection, table, asked) if asked else {}).values():
        numbers = [_of_numbers(*_ended(name, edges, tally)) for (name, edges), tally in zip(inner.items(), tallies, strict=False)]
        return numbers + [_of_numbers(shape, tally) for shape, tally in zip(shapes, tallies[len(numbers) :], strict=True)]
    return []


def _ended(name: str, inner: Sequence[float], tally: Tally) -> tuple[ColumnSummary, Tally]:
    """The bins with the first and the last edge, and the counts over them: all finite values lie between those."""
    if not inner:
        return ColumnSummary(name=name, kind="number"), tally
    edges, counts = list(inner), tally.counts.tolist()
    below = math.nextafter(tally.low, -math.inf)
    if edges[0] != below:
        edges, counts = [below, *edges], [tally.lowest, counts[0] - tally.lowest, *counts[1:]]
    if edges[-1] != tally.high:
        edges, counts = [*edges, tally.high], [*counts[:-1], counts[-1] - tally.highest, tally.highest]
    return ColumnSummary(name=name, kind="number", edges=edges), msgspec.structs.replace(tally, counts=counts)


def _ends(shape: ColumnSummary) -> list[float]:
    """The edges between which a number is counted; of an integer's categories two about each."""
    if not shape.integers:
        return shape.edges
    values = [float(name) for name in shape.categories]
    return sorted({*values, *(math.nextafter(one, -math.inf) for one in values)})


def _of_numbers(shape: ColumnSummary, tally: Tally) -> ColumnSummary:
    counts = [int(count) for count in tally.counts]
    there = {"count": sum(counts), "missing": tally.rows - sum(counts)}
    if shape.integers:
        place = {edge: n for n, edge in enumerate(_ends(shape))}
        categories = {name: counts[place[float(name)]] for name in shape.categories}
        return msgspec.structs.replace(shape, **there, categories=categories, other=sum(counts) - sum(categories.values()))
    moments = {"mean": tally.mean, "deviation": tally.deviation} if tally.finite else {"mean": None, "deviation": None}
    return msgspec.structs.replace(shape, **there, counts=counts, **moments)


def _of_texts(connection: duckdb.DuckDBPyConnection, table: str, shapes: Sequence[ColumnSummary]) -> list[ColumnSummary]:
    return next(iter(_listed(connection, table, [(_quoted(shape.name), shape) for shape in shapes], "0", []).values()), []) if shapes else []


def _listed(
    connection: duckdb.DuckDBPyConnection, table: str, texts: Sequence[tuple[str, ColumnSummary]], window: str, values: Sequence[object]
) -> dict[int, list[ColumnSummary]]:
    measures = ", ".join(_measures(shape, f"{sql}::VARCHAR") for sql, shape in texts)
    found = connection.execute(f"SELECT {window} AS w, count(*), {measures} FROM {table} GROUP BY 1", list(values)).fetchall()
    return {int(w): [_of_text(shape, rows, *measured[3 * n : 3 * n + 3]) for n, (_, shape) in enumerate(texts)] for w, rows, *measured in found}


def _measures(shape: ColumnSummary, text: str) -> str:
    listed = ", ".join(_literal(name) for name in shape.categories if name)
    return f"count({text}), {f'histogram_exact({text}, [{listed}])' if listed else 'NULL'}, count(*) FILTER ({text} = '')"  # it passes over ''


def _of_text(shape: ColumnSummary, rows: int, count: int, bins: dict[str, int] | None, empty: int) -> ColumnSummary:
    categories = {name: (bins or {}).get(name, 0) if name else empty for name in shape.categories}
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
