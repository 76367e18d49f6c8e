"""Questions about what was asked and answered.  Each covers the Parquet files and the lines not yet compacted.

`traffic` and `totals` count what callers asked; the copies that a shadow was sent are not in them.  Their latencies are quantiles by nearest rank,
told to 0.5 % (see `aggregates`); counts are exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from . import aggregates, files, rows
from .files import Standing

if TYPE_CHECKING:
    import duckdb
    import numpy as np

T = TypeVar("T")
QUOTED = r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
"""A column's name as Python words it, quotes within and all."""
UNFIT = "The data does not fit the model: "
_OF_COLUMN = f"^(Column {QUOTED})"
_WRONG = "(: expected .*?, got (?:the number|the truth value|[A-Za-z_]+)) [^a-z].*$"
_ATTEMPTS = 10
_QUANTILES = {"p50_ms": 0.5, "p95_ms": 0.95, "p99_ms": 0.99, "p999_ms": 0.999}
_FIGURES = ", ".join(
    [
        "sum(n)::BIGINT AS requests, coalesce(sum(wrong), 0)::BIGINT AS errors, sum(held)::BIGINT AS rows",
        *(f"{aggregates.middle_ms(f'min(bin) FILTER (reached >= ceil({share} * of_all))')} AS {name}" for name, share in _QUANTILES.items()),
    ]
)


class Captured(msgspec.Struct, frozen=True):
    """How much there is to compare."""

    rows: int = 0
    first: datetime | None = None
    last: datetime | None = None


def traffic(endpoint: str, *, since: datetime, until: datetime | None = None, bucket_seconds: float = 10) -> list[dict[str, Any]]:
    """Per deployment and stretch of *bucket_seconds*: `deployment, time, requests, errors, rows, p50_ms, p95_ms, p99_ms, p999_ms`, by time.

    `time` is the stretch's beginning in UTC; an error is an answer of status 400 or above; stretches without requests are left out.
    """
    bucket = f"time_bucket(INTERVAL {int(bucket_seconds * 1000)} MILLISECOND, time)"
    select = f"{_ranked('deployment, time', time=bucket)} SELECT deployment, time, {_FIGURES} FROM ranked GROUP BY 1, 2 ORDER BY 2, 1"
    return _over_counts(endpoint, since, until, select, step=int(bucket_seconds) if float(bucket_seconds).is_integer() else 1)


def totals(endpoint: str, *, since: datetime) -> list[dict[str, Any]]:
    """One row per deployment that answered since then: `deployment, share (0–1), requests, requests_per_second, errors, error_rate, rows`, and
    `p50_ms, p95_ms, p99_ms, p999_ms`.

    The rate is over the whole time from *since* to now.
    """
    seconds = max((datetime.now(UTC) - since).total_seconds(), 1.0)
    told = "*, requests / sum(requests) OVER () AS share, errors / requests AS error_rate"
    select = f"{_ranked('deployment')}, told AS (SELECT deployment, {_FIGURES} FROM ranked GROUP BY 1) SELECT {told} FROM told ORDER BY deployment"
    return [row | {"requests_per_second": row["requests"] / seconds} for row in _over_counts(endpoint, since, None, select)]


def refused(
    endpoint: str, *, deployment: str | None = None, since: datetime | None = None, until: datetime | None = None, most: int = 10
) -> list[dict[str, Any]]:
    """What callers got wrong, answers of status 400 to 499, the most frequent first: `deployment, status, error, requests, time`.

    `time` is when it came last.
    """
    counted = "SELECT deployment, status, coalesce(error, '') AS error, count(*) AS requests, max(time) AS time FROM refused GROUP BY 1, 2, 3"
    return _over_refused(endpoint, deployment, since, until, f"{counted} ORDER BY requests DESC, time DESC LIMIT {int(most)}")


def misfits(endpoint: str, *, deployment: str | None = None, since: datetime | None = None, until: datetime | None = None) -> dict[str, int]:
    """Why requests did not fit the model, in the server's words → how many; of a column's wrong values without row and value, so that these are one."""
    without_row = f"regexp_replace(error, {rows.literal(_OF_COLUMN + r' [(]row [0-9]+[)]: ')}, '\\1: ')"
    without_value = f"regexp_replace({without_row}, {rows.literal(_OF_COLUMN + _WRONG)}, '\\1\\2', 's')"
    unfit = f"regexp_matches(error, {rows.literal(_OF_COLUMN)}) OR starts_with(error, {rows.literal(UNFIT)})"
    select = f"SELECT {without_value} AS why, count(*) AS requests FROM refused WHERE {unfit} GROUP BY 1"
    return {row["why"]: row["requests"] for row in _over_refused(endpoint, deployment, since, until, select)}


def captured(endpoint: str, *, deployment: str | None = None, since: datetime | None = None, until: datetime | None = None) -> Captured:
    """How many scored rows have their payload kept, and when the first and the last request among them came.

    Of an endpoint it is what callers asked; of a *deployment* also the copies that it was sent.
    """
    found = [part for place in files.folders(endpoint, deployment) if (part := _captured_of(place, since, until, copies=deployment is not None)).rows]
    firsts, lasts = [part.first for part in found if part.first], [part.last for part in found if part.last]
    return Captured(sum(part.rows for part in found), min(firsts, default=None), max(lasts, default=None))


def requests(
    endpoint: str, *, deployment: str | None = None, since: datetime | None = None, until: datetime | None = None, most: int = 100
) -> list[dict[str, Any]]:
    """The latest requests, newest first: `deployment, time, id, status, latency_ms, rows, error, inputs, outputs`.

    `inputs` and `outputs` are `{column: [values]}`, the payload as it came when it was refused, or None when it was not kept.
    """
    found = [row for place in files.folders(endpoint, deployment) for row in _requests_of(place, since, until, most)]
    return sorted(found, key=lambda row: row["time"], reverse=True)[:most]


def inputs(
    endpoint: str, *, deployment: str | None = None, since: datetime | None = None, until: datetime | None = None, most: int | None = None
) -> dict[str, np.ndarray]:
    """What the models were asked: one array per column, one entry per scored row.

    A missing value is NaN in numbers, None elsewhere.  With *most*, about that many rows: always the same sample of the requests.
    Of an endpoint it is what callers asked; of a *deployment* also the copies that it was sent.
    """
    return _flattened("inputs", endpoint, deployment, since, until, most)


def outputs(
    endpoint: str, *, deployment: str | None = None, since: datetime | None = None, until: datetime | None = None, most: int | None = None
) -> dict[str, np.ndarray]:
    """What the models answered, as `inputs`."""
    return _flattened("outputs", endpoint, deployment, since, until, most)


# ── reading files that move ──────────────────────────────────────────────────────────────────────────────────────────


def _steady(places: Sequence[Path], ask: Callable[[list[Standing]], T]) -> T:
    """*ask* of the files that stand, once more whenever a server closed one under its hands, or counts could not be read."""
    import duckdb

    for attempt in range(_ATTEMPTS):
        before: list[Standing] = []
        try:
            with files.held(exclusive=False), rows.question():
                before = [files.standing(place) for place in places]
                answer = ask(before)
                moved = _settled(before) != _settled(map(files.standing, places))
        except (duckdb.Error, FileNotFoundError) as error:
            gone = isinstance(error, duckdb.IOException | FileNotFoundError) and before != [files.standing(place) for place in places]
            if attempt == _ATTEMPTS - 1 or not (gone or aggregates.set_aside(before)):
                raise
            continue
        if not moved:
            return answer
    return answer


def _settled(standings: Iterable[Standing]) -> list[object]:
    return [standing.settled for standing in standings]


def _parquet(standing: Standing, since: datetime | None, until: datetime | None) -> list[Path]:
    return [parquet.path for parquet in standing.parquet if files.within(parquet, since, until)]


def _lines(standing: Standing) -> list[Path]:
    return [path for path in (*standing.closed, *standing.live) if path.stat().st_size]


def _table(
    cursor: Any, standings: Iterable[Standing], since: datetime | None, until: datetime | None, *, share: float | None = None, copies: bool = True
) -> str:  # fmt: skip
    """Whole typed rows of deployments, as SQL; empty where there are none.  To be called within a `question`.

    Without *copies*, which a shadow was sent, these are what callers asked.

    With *share*, 1/16 at most, only those of about so many of the requests, always the same: of files that have a sample from there, where they
    lie in the order of their places; of the rest by their ids.
    """
    parts = [part for standing in standings for part in _parts(cursor, standing, since, until, share, copies)]
    return " UNION ALL BY NAME ".join(f"({part})" for part in parts)


def _parts(cursor: Any, standing: Standing, since: datetime | None, until: datetime | None, share: float | None, copies: bool) -> list[str]:
    there = [parquet for parquet in standing.parquet if files.within(parquet, since, until)]
    samples = [parquet.sample for parquet in there if parquet.sample.exists()] if share else []
    rest = rows.whole(cursor, standing, [parquet.path for parquet in there if parquet.sample not in samples], _lines(standing), copies=copies)
    if not share:
        return [rest] if rest else []
    chosen = aggregates.within("place", share) + ("" if copies else f" AND {rows.NO_COPY}")
    found = [f"SELECT * EXCLUDE (place) FROM {rows.read_parquet(samples)} WHERE {chosen}"] if samples else []
    return found + ([f"SELECT * FROM ({rest}) WHERE {aggregates.within(aggregates.place('id'), share)}"] if rest else [])


def _during(since: datetime | None, until: datetime | None) -> tuple[str, list[datetime]]:
    bounds = [(mark, _naive(time)) for mark, time in (("time >= ?", since), ("time < ?", until)) if time is not None]
    return " AND ".join(["true", *(mark for mark, _ in bounds)]), [time for _, time in bounds]


def _naive(time: datetime) -> datetime:
    return time.astimezone(UTC).replace(tzinfo=None)


# ── counts ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _over_counts(endpoint: str, since: datetime | None, until: datetime | None, select: str, *, step: int | None = None) -> list[dict[str, Any]]:
    """*select* over the table `counts` (see `aggregates.counts`)."""

    def ask(standings: list[Standing]) -> list[dict[str, Any]]:
        counts = aggregates.counts(standings, since, until, step=step)
        return _dicts(rows.connection().execute(f"WITH counts AS ({counts}){', ' * (not select.startswith('SELECT'))} {select}")) if counts else []

    return _steady(files.folders(endpoint), ask)


def _over_refused(endpoint: str, deployment: str | None, since: datetime | None, until: datetime | None, select: str) -> list[dict[str, Any]]:
    """*select* over the table `refused`: what callers asked and were answered 4xx."""
    where, bounds = _during(since, until)

    def ask(standings: list[Standing]) -> list[dict[str, Any]]:
        facts = " UNION ALL ".join(part for standing in standings for part in _facts(standing, since, until))
        of_callers = f"status BETWEEN 400 AND 499 AND {rows.NO_COPY}"
        refused = f"WITH refused AS (SELECT * FROM ({facts}) WHERE {of_callers} AND {where})"
        return _dicts(rows.connection().execute(f"{refused} {select}", bounds)) if facts else []

    return _steady(files.folders(endpoint, deployment), ask)


def _facts(standing: Standing, since: datetime | None, until: datetime | None) -> list[str]:
    parquet, lines = _parquet(standing, since, until), _lines(standing)
    sources = ([rows.facts_of_parquet(parquet)] if parquet else []) + ([rows.facts_of_lines(lines)] if lines else [])
    return [f"SELECT {rows.literal(standing.deployment)} AS deployment, * FROM ({source})" for source in sources]


def _ranked(by: str, *, time: str = "") -> str:
    """The counts of each *by* and bin, with how many were as fast or faster; *time* is what a column `time` among them is."""
    group = by.replace("time", f"{time} AS time") if time else by
    binned = f"SELECT {group}, bin, sum(requests) AS n, sum(requests) FILTER (status >= 400) AS wrong, sum(rows) AS held FROM counts GROUP BY ALL"
    ranks = f"SELECT *, sum(n) OVER (PARTITION BY {by} ORDER BY bin) AS reached, sum(n) OVER (PARTITION BY {by}) AS of_all FROM binned"
    return f"binned AS ({binned}), ranked AS ({ranks})"


def _dicts(cursor: duckdb.DuckDBPyConnection) -> list[dict[str, Any]]:
    names = [column[0] for column in cursor.description or ()]
    return [dict(zip(names, map(_aware, row), strict=True)) for row in cursor.fetchall()]


def _aware(value: Any) -> Any:
    return value.replace(tzinfo=UTC) if isinstance(value, datetime) else value


# ── payloads ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _captured_of(place: Path, since: datetime | None, until: datetime | None, *, copies: bool) -> Captured:
    where, bounds = _during(since, until)

    def ask(standings: list[Standing]) -> Captured:
        cursor = rows.connection()
        table = rows.whole(cursor, standings[0], _parquet(standings[0], since, until), _lines(standings[0]), copies=copies)
        kept = _columns(cursor, table, "inputs") if table else []
        if not kept:
            return Captured()
        count, first, last = cursor.execute(
            f"SELECT sum(rows)::BIGINT, min(time), max(time) FROM ({table}) WHERE {where} AND {_any_of(kept)}", bounds
        ).fetchone() or (0, None, None)
        return Captured(count or 0, _aware(first), _aware(last))

    return _steady([place], ask)


def _requests_of(place: Path, since: datetime | None, until: datetime | None, most: int) -> list[dict[str, Any]]:
    where, bounds = _during(since, until)

    def ask(standings: list[Standing]) -> list[dict[str, Any]]:
        cursor, standing = rows.connection(), standings[0]
        table = rows.whole(cursor, standing, _parquet(standing, since, until), _lines(standing))
        if not table:
            return []
        found = _dicts(cursor.execute(f"SELECT * FROM ({table}) WHERE {where} ORDER BY time DESC LIMIT {int(most)}", bounds))
        return [_request(standing.deployment, row) for row in found]

    return _steady([place], ask)


def _request(deployment: str, row: dict[str, Any]) -> dict[str, Any]:
    facts = {name: row[name] for name in rows.FACTS.split(", ")}
    return {"deployment": deployment} | facts | {side: _payload(row, side) for side in rows.PREFIX}


def _payload(row: dict[str, Any], side: str) -> Any:
    if row[f"raw_{side}"] is not None:
        return msgspec.json.decode(row[f"raw_{side}"])
    return {rows.name_of(key): value for key, value in row.items() if key.startswith(rows.PREFIX[side]) and value is not None} or None


def _columns(cursor: duckdb.DuckDBPyConnection, table: str, side: str) -> list[str]:
    described = cursor.execute(f"DESCRIBE SELECT * FROM ({table})").fetchall()
    return [row[0] for row in described if row[0].startswith(rows.PREFIX[side])]


def _any_of(columns: list[str]) -> str:
    return "(" + " OR ".join(f"{rows.quoted(column)} IS NOT NULL" for column in columns) + ")"


def _flattened(side: str, endpoint: str, deployment: str | None, since: datetime | None, until: datetime | None, most: int | None) -> dict[str, np.ndarray]:
    where, bounds = _during(since, until)

    def ask(standings: list[Standing]) -> dict[str, np.ndarray]:
        cursor = rows.connection()
        table = _table(cursor, standings, since, until, copies=deployment is not None)
        columns = _columns(cursor, table, side) if table else []
        if not columns:
            return {}
        kept = f"FROM ({table}) WHERE {where} AND {_any_of(columns)}"
        sampled = _sample(cursor, kept, bounds, most)
        unnested = ", ".join(f"unnest({rows.quoted(column)}) AS c{number}" for number, column in enumerate(columns))
        found = cursor.execute(f"SELECT {unnested} {kept}{sampled}", bounds).fetchnumpy()
        return {rows.name_of(column): _array(found[f"c{number}"]) for number, column in enumerate(columns)}

    return _steady(files.folders(endpoint, deployment), ask)


def _sample(cursor: duckdb.DuckDBPyConnection, kept: str, bounds: list[datetime], most: int | None) -> str:
    if most is None:
        return ""
    count = (cursor.execute(f"SELECT sum(rows) {kept}", bounds).fetchone() or (0,))[0] or 0
    return "" if count <= most else f" AND hash(id) < {int(most / count * 2**64)}"


def _nones(found: np.ma.MaskedArray) -> np.ndarray:
    import numpy as np

    plain = np.asarray(found, dtype=object)
    plain[found.mask] = None  # `filled(None)` fills with a default
    return plain


def _array(found: np.ndarray) -> np.ndarray:
    """A plain array: of a masked one, missing numbers become NaN and other missing values None; equal lists become a matrix."""
    import numpy as np

    if isinstance(found, np.ma.MaskedArray):
        if not found.mask.any():
            found = found.data
        elif found.dtype.kind in "iuf":
            found = np.ma.filled(found.astype(np.float64), np.nan)
        else:
            found = _nones(found)
    if found.dtype == object and len(found) and all(isinstance(value, list | np.ndarray) for value in found):
        lengths = {np.shape(value) for value in found}
        return np.array([np.asarray(value) for value in found]) if len(lengths) == 1 else found
    return found
