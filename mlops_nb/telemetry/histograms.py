"""What was asked and answered, as counts over a data set's bins: one pass over the window, whose rows are never held.

Row groups are read in a stream and leave nothing but their counts, so memory does not grow with the window.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import msgspec

from .. import summaries
from ..summaries import ColumnSummary
from . import files, rows
from .files import Standing
from .queries import _any_of, _aware, _columns, _lines, _naive, _parquet, _steady, _table

_AT_ONCE = 25
"""Columns that are counted in one pass: what a check holds does not grow with how many there are."""
_MOST_NEW = 5
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


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
    share: float | None = None,
) -> list[Windowed]:
    """The counts of the newest *most* windows of so many *seconds* before *until*, or of *size* rows; of one window without either.

    With *months* (1 is January) or *weekdays* (0 is Monday), both in UTC, only requests of those; with *segment* only its rows; with *share*, 1/16 at
    most, only those of about so many of the requests, always the same.  A column that no request had is counted as missing throughout.
    Of an endpoint it is what callers asked; of a *deployment* also the copies that it was sent.
    """
    end, sides = until or datetime.now(UTC), {a.side for a in (*asked, *([segment.asked] if segment else []))} or {"inputs"}
    if seconds:
        since = max(since or _EPOCH, end - timedelta(seconds=seconds * most))

    def ask(standings: list[Standing]) -> list[Windowed]:
        kept = _kept(standings, sides, since, until, months, weekdays, share=share, copies=deployment is not None)
        if kept is None:
            return []
        window = _by_time(end, seconds) if seconds else _by_rows(kept, size, most) if size else "0"
        return _windows(kept, f"SELECT * FROM (SELECT *, {window} AS w FROM ({kept.sql})) WHERE w < {int(most)}", asked, segment)

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
    hours: Collection[int] = (),
) -> list[ColumnSummary]:
    """A past window as a reference: its columns over bins of its own, as those of a data set; moments and nested values are left out.

    *months* (1 is January), *weekdays* (0 is Monday) and *hours* (0–23), all in UTC, narrow it.
    Nothing where no request of that time had one of those columns.
    """

    def ask(standings: list[Standing]) -> list[ColumnSummary]:
        kept = _kept(standings, {one.side for one in sought}, since, until, months, weekdays, hours, copies=deployment is not None)
        if kept is None:
            return []
        [count] = kept.cursor.execute(f"SELECT coalesce(sum(rows), 0)::BIGINT FROM ({kept.sql})").fetchone() or (0,)
        chosen = ", ".join(f"{_element(f'u{n}', one.place)} AS c{n}" for n, one in enumerate(sought))
        flat = f"(SELECT hash(id, r) AS n, {chosen} FROM ({_flat(kept, kept.sql, sought)}))"
        schema = [{"name": f"c{n}", "type": one.type} for n, one in enumerate(sought)]
        found = summaries.of_rows(kept.cursor, flat, schema, number="n", rows=count)
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


def types(endpoint: str, *, since: datetime | None = None, until: datetime | None = None) -> dict[str, str]:
    """The input columns that were asked and the types that their values have, for a model whose signature does not tell; text where they differ."""

    def ask(standings: list[Standing]) -> dict[str, str]:
        cursor = rows.connection()
        found: dict[str, str] = {}
        for table in (table for s in standings if (table := rows.whole(cursor, s, _parquet(s, since, until), _lines(s)))):
            for column, type_, *_ in cursor.execute(f"DESCRIBE SELECT * FROM ({table})").fetchall():
                if column.startswith(rows.PREFIX["inputs"]):
                    name, seen = rows.name_of(column), _TYPES.get(type_.rstrip("[]"), "string")
                    found[name] = seen if found.get(name, seen) == seen else "string"
        return found

    return _steady(files.folders(endpoint), ask)


_TYPES = {"BOOLEAN": "bool", "JSON": "json", "BIGINT": "int64", "UBIGINT": "uint64", "INTEGER": "int64", "DOUBLE": "float64", "FLOAT": "float64"}


class _Kept(msgspec.Struct, frozen=True):
    """The requests of a time with a payload on one of the sides."""

    cursor: Any
    sql: str
    there: dict[tuple[str, str], str]
    """Their columns by side and name."""


def _kept(
    standings: list[Standing],
    sides: Collection[str],
    since: datetime | None,
    until: datetime | None,
    months: Collection[int],
    weekdays: Collection[int],
    hours: Collection[int] = (),
    *,
    share: float | None = None,
    copies: bool,
) -> _Kept | None:
    cursor = rows.connection()
    table = _table(cursor, standings, since, until, share=share, copies=copies)
    there = {(side, rows.name_of(column)): column for side in sorted(sides) for column in _columns(cursor, table, side)} if table else {}
    wanted = [*_bounds(since, until), *_seasons(months, weekdays, hours), _any_of(list(there.values()))]
    return _Kept(cursor, f"SELECT * FROM ({table}) WHERE {' AND '.join(wanted)}", there) if there else None


def _bounds(since: datetime | None, until: datetime | None) -> list[str]:
    return [f"time {mark} {_moment(time)}" for mark, time in ((">=", since), ("<", until)) if time is not None]


def _seasons(months: Collection[int], weekdays: Collection[int], hours: Collection[int]) -> list[str]:
    chosen = (("month(time)", months), ("isodow(time) - 1", weekdays), ("hour(time)", hours))
    return [f"{part} IN ({', '.join(str(int(n)) for n in sorted(among))})" for part, among in chosen if among]


def _moment(time: datetime) -> str:
    return f"TIMESTAMP {rows.literal(_naive(time).isoformat())}"


def _by_time(end: datetime, seconds: float) -> str:
    """The SQL of a request's window."""
    return f"greatest(floor(epoch({_moment(end)} - time) / {float(seconds)}), 0)::BIGINT"


def _by_rows(kept: _Kept, size: int, most: int) -> str:
    """The same of windows of so many rows, told by where each ends: only the newest requests are put in order, and of those no payload is read."""
    newest = f"SELECT time, coalesce(id, '') AS id, rows FROM ({kept.sql}) WHERE rows > 0 ORDER BY time DESC, id LIMIT {size * most}"
    order = "OVER (ORDER BY time DESC, id ROWS UNBOUNDED PRECEDING)"
    numbered = f"SELECT time, id, ((sum(rows) {order} - rows) // {int(size)})::BIGINT AS w, row_number() {order} AS n FROM ({newest})"
    ends = kept.cursor.execute(f"SELECT w, arg_max(time, n), arg_max(id, n) FROM ({numbered}) WHERE w < {most} GROUP BY w ORDER BY w").fetchall()
    within = [
        f"WHEN time > {_moment(_aware(time))} OR (time = {_moment(_aware(time))} AND coalesce(id, '') <= {rows.literal(id)}) THEN {w}" for w, time, id in ends
    ]
    return f"CASE {' '.join(within)} END" if within else "NULL::BIGINT"


def _windows(kept: _Kept, requests: str, asked: Sequence[Asked], segment: Segment | None) -> list[Windowed]:
    """Some columns at a time, for DuckDB hands over a million rows of each at once."""
    parts = [_windows_of(kept, requests, asked[n : n + _AT_ONCE], segment) for n in range(0, max(len(asked), 1), _AT_ONCE)]
    first, *others = ({one.number: one for one in part} for part in parts)
    whole = [number for number in first if all(number in other for other in others)]
    return [msgspec.structs.replace(first[n], columns=[column for part in (first, *others) for column in part[n].columns]) for n in whole]


def _windows_of(kept: _Kept, requests: str, asked: Sequence[Asked], segment: Segment | None) -> list[Windowed]:
    table = _rows_of(kept, requests, asked, segment)
    found = summaries.counts(
        kept.cursor, f"({table})", [(_element(f"u{n}", a.place), a.shape) for n, a in enumerate(asked)], along="epoch_us(time)", window="w"
    )
    others = [any(one.columns[n].other for one in found.values()) for n in range(len(asked))]
    new = [_new(kept, requests, one, segment) if other else {} for one, other in zip(asked, others, strict=True)]
    named = {number: [msgspec.structs.replace(column, new=new[n].get(number, {})) for n, column in enumerate(one.columns)] for number, one in found.items()}
    return [Windowed(number, one.rows, _time(one.first), _time(one.last), named[number]) for number, one in found.items()]


def _rows_of(kept: _Kept, requests: str, asked: Sequence[Asked], segment: Segment | None) -> str:
    """One row per scored row (of the segment)."""
    if not segment:
        return _flat(kept, requests, asked)
    flat = _flat(kept, requests, [*asked, segment.asked])
    told = summaries.value(segment.asked.shape, _element(f"u{len(asked)}", segment.asked.place))
    return f"SELECT * FROM ({flat}) WHERE {told} = {rows.literal(segment.value)}"


def _flat(kept: _Kept, requests: str, wanted: Sequence[Asked | Sought]) -> str:
    """One row per scored row, its values as `u0`, `u1` …"""
    unnested = ", ".join(f"{_unnested(kept.there.get((one.side, one.column)))} AS u{n}" for n, one in enumerate(wanted))
    return f"SELECT * EXCLUDE (rows), unnest(range(rows)) AS r, {unnested} FROM ({requests})"


def _unnested(column: str | None) -> str:
    return f"unnest({rows.quoted(column)})" if column else "NULL"


def _element(sql: str, place: tuple[int, ...]) -> str:
    return sql + "".join(f"[{n + 1}]" for n in place)


def _new(kept: _Kept, requests: str, asked: Asked, segment: Segment | None) -> dict[int, dict[str, int]]:
    """Per window the most frequent values that are no category of the data set."""
    told = summaries.value(asked.shape, _element("u0", asked.place))
    known: list[Any] = [list(asked.shape.categories)]
    sql = f"SELECT w, {told} AS v, count(*) AS times FROM ({_rows_of(kept, requests, [asked], segment)}) WHERE v IS NOT NULL AND NOT list_contains(?, v)"
    most = f"QUALIFY row_number() OVER (PARTITION BY w ORDER BY times DESC, v) <= {_MOST_NEW} ORDER BY w, times DESC, v"
    found: dict[int, dict[str, int]] = {}
    for window, value, times in kept.cursor.execute(f"{sql} GROUP BY 1, 2 {most}", known).fetchall():
        found.setdefault(window, {})[value] = times
    return found


def _time(microseconds: float) -> datetime:
    return _EPOCH + timedelta(microseconds=microseconds)
