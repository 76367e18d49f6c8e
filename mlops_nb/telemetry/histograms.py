"""What was asked, as counts over a data set's bins: one pass of DuckDB over the window, whose rows are never held.

Row groups are read in a stream and leave nothing but their counts, so memory does not grow with the window.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

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
    side: Literal["inputs", "outputs"] = "inputs"


class Sought(msgspec.Struct, frozen=True):
    """A column of the requests that is to become a reference: its bins are not known yet."""

    name: str
    """What the summary is called."""
    type: str
    """The signature's."""
    column: str
    place: tuple[int, ...] = ()
    side: Literal["inputs", "outputs"] = "inputs"


class Segment(msgspec.Struct, frozen=True):
    """The rows whose *asked* column has one *value*, as its shape's categories are told."""

    asked: Asked
    value: str


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
    months: Collection[int] = (),
    weekdays: Collection[int] = (),
    segment: Segment | None = None,
) -> list[Windowed]:
    """The counts of the newest *most* windows of so many *seconds* before *until*, or of *size* rows; of one window without either.

    With *months* (1 is January) or *weekdays* (0 is Monday), both in UTC, only requests of those; with *segment* only its rows.  A column that no
    request had is counted as missing throughout.
    """
    where, bounds = _when(since, until, months, weekdays)

    def ask(standings: list[Standing]) -> list[Windowed]:
        cursor = rows.connection()
        kept, there = _kept(cursor, standings, since, until, where, {a.side for a in (*asked, *([segment.asked] if segment else []))} or {"inputs"})
        if not there:
            return []
        numbered = f"SELECT *, {_window(until, seconds, size)} AS w FROM ({kept})"
        return _counted(cursor, f"SELECT * FROM ({numbered}) WHERE w < {int(most)}", bounds, there, asked, segment)

    return _steady(files.folders(endpoint, deployment), ask)


def shapes(
    endpoint: str,
    sought: Sequence[Sought],
    *,
    deployment: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    months: Collection[int] = (),
    weekdays: Collection[int] = (),
) -> list[ColumnSummary]:
    """A past window as a reference: its columns over bins of its own, as those of a data set; moments and nested values are left out.

    Nothing where no request of that time had one of those columns.
    """
    where, bounds = _when(since, until, months, weekdays)

    def ask(standings: list[Standing]) -> list[ColumnSummary]:
        cursor = rows.connection()
        kept, there = _kept(cursor, standings, since, until, where, {one.side for one in sought})
        if not there:
            return []
        flat = _flat(kept, there, [(one.side, one.column) for one in sought])
        chosen = ", ".join(f"{_element(f'u{n}', one.place)} AS {rows.quoted(f'c{n}')}" for n, one in enumerate(sought))
        cursor.execute(f"CREATE OR REPLACE TEMP TABLE past AS SELECT {chosen} FROM ({flat})", bounds)
        found = summaries.of_columns(cursor, "past", [{"name": f"c{n}", "type": one.type} for n, one in enumerate(sought)])
        return [msgspec.structs.replace(one, name=sought[int(one.name[1:])].name) for one in found]

    return _steady(files.folders(endpoint, deployment), ask) if sought else []


def columns(
    endpoint: str,
    *,
    deployment: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    side: Literal["inputs", "outputs"] = "inputs",
) -> set[str]:
    """The names of the columns that were asked, or answered."""

    def ask(standings: list[Standing]) -> set[str]:
        cursor = rows.connection()
        tables = [table for s in standings if (table := rows.whole(cursor, s, _parquet(s, since, until), _lines(s)))]
        return {rows.name_of(column) for table in tables for column in _columns(cursor, table, side)}

    return _steady(files.folders(endpoint, deployment), ask)


def _when(since: datetime | None, until: datetime | None, months: Collection[int], weekdays: Collection[int]) -> tuple[str, list[datetime]]:
    where, bounds = _during(since, until)
    seasons = [f"{part} IN ({', '.join(str(int(n)) for n in sorted(among))})" for part, among in _seasons(months, weekdays) if among]
    return " AND ".join([where, *seasons]), bounds


def _seasons(months: Collection[int], weekdays: Collection[int]) -> list[tuple[str, Collection[int]]]:
    return [("month(time)", months), ("isodow(time) - 1", weekdays)]


def _kept(
    cursor: duckdb.DuckDBPyConnection, standings: list[Standing], since: datetime | None, until: datetime | None, where: str, sides: Collection[str]
) -> tuple[str, dict[tuple[str, str], str]]:
    """The requests of that time with a payload on one of the *sides*, and their columns by side and name."""
    tables = [rows.whole(cursor, s, _parquet(s, since, until), _lines(s)) for s in standings]
    table = " UNION ALL BY NAME ".join(f"({table})" for table in tables if table)
    there = {(side, rows.name_of(column)): column for side in sorted(sides) for column in _columns(cursor, table, side)} if table else {}
    return f"SELECT * FROM ({table}) WHERE {where} AND {_any_of(list(there.values()))}", there


def _window(until: datetime | None, seconds: float | None, size: int | None) -> str:
    if seconds:
        end = rows.literal(_naive(until).isoformat()) + "::TIMESTAMP" if until else "(now() AT TIME ZONE 'UTC')"
        return f"greatest(floor(epoch({end} - time) / {float(seconds)}), 0)::BIGINT"
    return f"((sum(rows) OVER (ORDER BY time DESC, id) - rows) // {int(size)})::BIGINT" if size else "0"


def _counted(
    cursor: duckdb.DuckDBPyConnection,
    kept: str,
    bounds: list[datetime],
    there: dict[tuple[str, str], str],
    asked: Sequence[Asked],
    segment: Segment | None,
) -> list[Windowed]:
    flat = _within(kept, there, asked, segment) if segment else _flat(kept, there, [(a.side, a.column) for a in asked])
    values = ", ".join(f"{summaries.value(a.shape, _element(f'u{n}', a.place))} AS c{n}" for n, a in enumerate(asked))
    told = summaries.counted(cursor, f"SELECT w, {values} FROM ({flat})", [a.shape for a in asked], bounds)
    spans = cursor.execute(f"SELECT w, sum(rows)::BIGINT, min(time), max(time) FROM ({kept}) GROUP BY w ORDER BY w", bounds).fetchall()
    named = [_with_new(cursor, flat, bounds, window, asked) for window in told.values()]
    found = dict(zip(told, named, strict=True))
    rows_of = {number: columns[0].rows for number, columns in found.items() if segment and columns}
    return [Windowed(number, rows_of.get(number, count), _aware(first), _aware(last), found[number]) for number, count, first, last in spans if number in found]


def _within(kept: str, there: dict[tuple[str, str], str], asked: Sequence[Asked], segment: Segment) -> str:
    """One row per scored row of the segment."""
    one, last = segment.asked, len(asked)
    flat = _flat(kept, there, [*((a.side, a.column) for a in asked), (one.side, one.column)])
    return f"SELECT * FROM ({flat}) WHERE {summaries.value(one.shape, _element(f'u{last}', one.place))} = {rows.literal(segment.value)}"


def _flat(kept: str, there: dict[tuple[str, str], str], wanted: Sequence[tuple[str, str]]) -> str:
    """One row per scored row, its values as `u0`, `u1` …"""
    unnested = ", ".join(f"{_unnested(there.get(one))} AS u{n}" for n, one in enumerate(wanted))
    return f"SELECT * EXCLUDE (rows), unnest(range(rows)) AS r, {unnested} FROM ({kept})"


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
