"""What was asked, as counts over a data set's bins: one pass of DuckDB over the window, whose rows are never held.

Row groups are read in a stream and leave nothing but their counts, so memory does not grow with the window.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from .. import summaries
from ..summaries import ColumnSummary
from . import files, rows
from .files import Standing
from .queries import _any_of, _aware, _columns, _during, _lines, _naive, _parquet, _steady

if TYPE_CHECKING:
    import duckdb

_MOST_NEW = 5


class Asked(msgspec.Struct, frozen=True):
    """A column of the requests, and the bins it is counted over."""

    column: str
    shape: ColumnSummary
    place: tuple[int, ...] = ()
    """Which element, where an entry is an array."""


class Windowed(msgspec.Struct, frozen=True):
    """The counts of one window, the newest being number 0."""

    number: int
    rows: int
    first: datetime
    last: datetime
    columns: list[ColumnSummary]
    """In the order they were asked for."""


def histograms(
    endpoint: str,
    asked: Sequence[Asked],
    *,
    deployment: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    seconds: float | None = None,
    size: int | None = None,
    most: int = 1,
) -> list[Windowed]:
    """The counts of the newest *most* windows of so many *seconds* before *until*, or of *size* rows; of one window without either.

    A column that no request had is counted as missing throughout.
    """
    where, bounds = _during(since, until)

    def ask(standings: list[Standing]) -> list[Windowed]:
        cursor = rows.connection()
        tables = [rows.whole(cursor, s, _parquet(s, since, until), _lines(s)) for s in standings]
        table = " UNION ALL BY NAME ".join(f"({table})" for table in tables if table)
        columns = _columns(cursor, table, "inputs") if table else []
        if not columns:
            return []
        kept = f"SELECT * FROM ({table}) WHERE {where} AND {_any_of(columns)}"
        numbered = f"SELECT *, {_window(until, seconds, size)} AS w FROM ({kept})"
        return _counted(cursor, f"SELECT * FROM ({numbered}) WHERE w < {int(most)}", bounds, columns, asked)

    return _steady(files.folders(endpoint, deployment), ask)


def columns(endpoint: str, *, deployment: str | None = None, since: datetime | None = None, until: datetime | None = None) -> set[str]:
    """The names of the columns that were asked."""

    def ask(standings: list[Standing]) -> set[str]:
        cursor = rows.connection()
        tables = [table for s in standings if (table := rows.whole(cursor, s, _parquet(s, since, until), _lines(s)))]
        return {rows.name_of(column) for table in tables for column in _columns(cursor, table, "inputs")}

    return _steady(files.folders(endpoint, deployment), ask)


def _window(until: datetime | None, seconds: float | None, size: int | None) -> str:
    if seconds:
        end = rows.literal(_naive(until).isoformat()) + "::TIMESTAMP" if until else "(now() AT TIME ZONE 'UTC')"
        return f"greatest(floor(epoch({end} - time) / {float(seconds)}), 0)::BIGINT"
    return f"((sum(rows) OVER (ORDER BY time DESC, id) - rows) // {int(size)})::BIGINT" if size else "0"


def _counted(cursor: duckdb.DuckDBPyConnection, kept: str, bounds: list[datetime], there: list[str], asked: Sequence[Asked]) -> list[Windowed]:
    by_name = {rows.name_of(column): column for column in there}
    unnested = ", ".join(f"{_unnested(by_name.get(a.column))} AS u{n}" for n, a in enumerate(asked))
    flat = f"SELECT w, unnest(range(rows)) AS r, {unnested} FROM ({kept})"
    values = ", ".join(f"{summaries.value(a.shape, _element(f'u{n}', a.place))} AS c{n}" for n, a in enumerate(asked))
    told = summaries.counted(cursor, f"SELECT w, {values} FROM ({flat})", [a.shape for a in asked], bounds)
    spans = cursor.execute(f"SELECT w, sum(rows)::BIGINT, min(time), max(time) FROM ({kept}) GROUP BY w ORDER BY w", bounds).fetchall()
    named = [_with_new(cursor, flat, bounds, window, asked) for window in told.values()]
    found = dict(zip(told, named, strict=True))
    return [Windowed(number, count, _aware(first), _aware(last), found[number]) for number, count, first, last in spans if number in found]


def _unnested(column: str | None) -> str:
    return f"unnest({rows.quoted(column)})" if column else "NULL"


def _element(sql: str, place: tuple[int, ...]) -> str:
    return sql + "".join(f"[{n + 1}]" for n in place)


def _with_new(cursor: duckdb.DuckDBPyConnection, flat: str, bounds: list[datetime], window: list[ColumnSummary], asked: Sequence[Asked]) -> list[ColumnSummary]:
    """The window's columns, with the names of what is no category of the data set."""
    return [_named(cursor, flat, bounds, column, n, a) if column.other else column for n, (column, a) in enumerate(zip(window, asked, strict=True))]


def _named(cursor: duckdb.DuckDBPyConnection, flat: str, bounds: list[datetime], column: ColumnSummary, n: int, asked: Asked) -> ColumnSummary:
    value = summaries.value(asked.shape, _element(f"u{n}", asked.place))
    known: list[Any] = [list(column.categories)]
    sql = f"SELECT v, count(*) FROM (SELECT {value} AS v FROM ({flat})) WHERE v IS NOT NULL AND NOT list_contains(?::VARCHAR[], v)"
    found = cursor.execute(f"{sql} GROUP BY v ORDER BY count(*) DESC, v LIMIT {_MOST_NEW}", [*bounds, *known]).fetchall()
    return msgspec.structs.replace(column, new=dict(found))
