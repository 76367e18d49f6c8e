"""Counts of what was asked and answered, by stretches of a minute to a day, for pages that must not read every row.

    <deployment's folder>/samples/<stem>.parquet         one of sixteen requests of `date=…/<stem>.parquet` with its payload, chosen by its id
    <deployment's folder>/aggregates/<stem>.parquet      the counts of that file, made once, when it was

        seconds   60, 300, 900, 3600 or 86400: how long a stretch the row is about; each length covers the whole file
        time      when the stretch begins, UTC
        copy      whether these are the copies that a shadow was sent
        status    what was answered
        bin       latency: bin k ends at 0.001 ms × 1.01^k, and begins where k − 1 ends
        requests  how many
        rows      how many scored rows they held

Counts of files add up: requests and rows exactly, latencies by their bins, so a quantile of any stretch is known to its bin.  Told as the
bin's geometric middle it is at most 0.5 % off; the last bin has no end, and latencies beyond 7 minutes count as 7.  A question takes the
longest stretches that fit it, and rows for what is left of a minute at its ends, for lines, and for files that have no counts yet.

Either can be made again from its file of rows: one that cannot be read is set aside as `<stem>.parquet.broken`, and compaction makes it anew.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from ..splits import COPY_MARK
from . import files, rows
from .files import Parquet, Standing

log = logging.getLogger("mlops_nb.telemetry")

BIN_RATIO = 1.01
"""Each bin of latencies ends this much higher than the last."""
BINS = 2000
FIRST_BIN_MS = 0.001
LENGTHS = (60, 300, 900, 3600, 86400)
"""Seconds of the stretches that are counted; each is a multiple of the one before."""
SAMPLED = 1 / 16
"""The share of the requests that samples hold."""
Stretch = tuple[int, datetime | None, datetime | None]
"""Seconds of the counts to take (0: rows), from when, until when."""
_BIN = f"least(ceil(ln(greatest(latency_ms, {FIRST_BIN_MS}) / {FIRST_BIN_MS}) / ln({BIN_RATIO})), {BINS - 1})::INTEGER"
_IS_COPY = f"coalesce(suffix(id, '{COPY_MARK}'), false)"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def bin_end_ms(place: int) -> float:
    """Where a bin of latencies ends, in milliseconds."""
    return FIRST_BIN_MS * BIN_RATIO**place


def middle_ms(place: str) -> str:
    """SQL of the geometric middle of the bin that *place* gives, in milliseconds."""
    return f"{FIRST_BIN_MS} * pow({BIN_RATIO}, {place} - 0.5)"


def of_parquet(path: Path) -> str:
    """SQL that counts a file's rows, the longest stretches first."""
    facts = rows.facts_but_ids_of_parquet([path]) if rows.without_copies(path) else rows.facts_of_parquet([path])
    first, *longer = LENGTHS
    counts = "sum(requests)::BIGINT AS requests, sum(rows)::BIGINT AS rows"
    made = [f"n{first} AS MATERIALIZED (SELECT {_begin(first)} AS time, copy, status, bin, {counts} FROM ({_each(facts)}) GROUP BY ALL)"]
    for below, seconds in zip(LENGTHS, longer, strict=False):
        made.append(f"n{seconds} AS MATERIALIZED (SELECT {_begin(seconds)} AS time, copy, status, bin, {counts} FROM n{below} GROUP BY ALL)")
    every = " UNION ALL ".join(f"SELECT {seconds}::INTEGER AS seconds, * FROM n{seconds}" for seconds in reversed(LENGTHS))
    return f"WITH {', '.join(made)} SELECT * FROM ({every}) ORDER BY seconds DESC, time, bin"


def sample_of(path: Path) -> str:
    """SQL of a file's sampled requests, whole."""
    return sampled(rows.read_parquet([path]))


def sampled(table: str) -> str:
    """SQL of the rows of a table with ids that are in the sample, and their `place` in it."""
    return f"SELECT * FROM (SELECT *, {place('id')} AS place FROM {table}) WHERE {within('place', SAMPLED)} ORDER BY place"


def within(place: str, share: float) -> str:
    """SQL: whether a place is within a sample of that share of the requests; a smaller sample is part of a larger one."""
    return f"{place} < {int(share * 2**64)}::UBIGINT"


def place(id: str) -> str:
    """SQL: by what a request is sampled, spread evenly; by its id alone, so that its copies and its labels have it too, whenever they come."""
    plain = f"CASE WHEN suffix({id}, '{COPY_MARK}') THEN left({id}, length({id}) - {len(COPY_MARK)}) ELSE {id} END"
    return f"md5_number_lower(coalesce({plain}, ''))"


def set_aside(standings: Iterable[Standing]) -> int:
    """Put every count and sample that cannot be read out of the way; return how many.  Questions then take the rows, until compaction makes them anew."""
    parquet = [one for standing in standings for one in standing.parquet]
    broken = {path: why for one in parquet for path, select in _derived(one) if (why := _unreadable(path, select))}
    for path, why in broken.items():
        log.warning("telemetry.set_aside %s: %s", path, why)
        with files.held(exclusive=True), contextlib.suppress(FileNotFoundError):  # somebody else did
            path.rename(path.with_name(f"{path.name}.broken"))
    return len(broken)


def _derived(parquet: Parquet) -> list[tuple[Path, str]]:
    """A file's counts and its sample, and what reads all of each."""
    every = "sum(seconds), max(time), bool_or(copy), max(status), max(bin), sum(requests), sum(rows)"
    return [(parquet.aggregates, every), (parquet.sample, "sum(hash(COLUMNS(*)))")]


def _unreadable(path: Path, select: str) -> str:
    import duckdb

    if not path.exists():
        return ""
    try:
        rows.connection().execute(f"SELECT {select} FROM {rows.read_parquet([path])}").fetchone()
    except duckdb.OutOfMemoryException:
        return ""
    except duckdb.Error as error:
        return str(error).splitlines()[0]
    return ""


def counts(standings: Sequence[Standing], since: datetime | None, until: datetime | None, *, step: int | None = None, copies: bool = False) -> str | None:
    """SQL of what callers asked in that time, or with *copies* of all that was: `deployment, time, status, bin, requests, rows`.

    None where nothing is kept.

    A count's `time` is right to *step* seconds: it never reaches over a multiple of that, nor of the time asked about.  Without *step* it may
    be any time within.
    """
    stretches = whole_stretches(since, until, step)
    asked = "true" if copies else "NOT copy"
    parts = [part for standing in standings for part in _parts(standing, stretches, since, until, asked)]
    return " UNION ALL ".join(parts) or None


def whole_stretches(since: datetime | None, until: datetime | None, step: int | None) -> list[Stretch]:
    """The time from *since* to *until*, cut so that most of it is in the longest stretches that *step* is a multiple of."""
    found: list[Stretch] = []
    seconds = 0
    for length in (length for length in LENGTHS if step is None or step % length == 0):
        begin, end = since and _up(since, length), until and _down(until, length)
        if begin and end and begin >= end:
            break
        found += [(seconds, since, begin)] if since != begin else []
        found += [(seconds, end, until)] if until != end else []
        seconds, since, until = length, begin, end
    return [*found, (seconds, since, until)]


def _parts(standing: Standing, stretches: Sequence[Stretch], since: datetime | None, until: datetime | None, asked: str) -> list[str]:
    there = [parquet for parquet in standing.parquet if files.within(parquet, since, until)]
    counted = [parquet for parquet in there if parquet.aggregates.exists()]
    uncounted = [parquet for parquet in there if parquet not in counted]
    parts = [part for seconds, begin, end in stretches for part in _of_stretch(counted, seconds, begin, end, asked)]
    parts += _of_rows(uncounted, since, until, asked)
    lines = [path for path in (*standing.closed, *standing.live) if path.stat().st_size]
    parts += [_asked(rows.facts_of_lines(lines), since, until, asked)] if lines else []
    return [f"SELECT {rows.literal(standing.deployment)} AS deployment, * FROM ({part})" for part in parts]


def _of_stretch(parquet: Sequence[Parquet], seconds: int, begin: datetime | None, end: datetime | None, asked: str) -> list[str]:
    there = [one for one in parquet if files.within(one, begin, end)]
    if not seconds or not there:
        return _of_rows(there, begin, end, asked)
    where = " AND ".join([f"seconds = {seconds}", asked, *_bounds(begin, end)])
    return [f"SELECT time, status, bin, requests, rows FROM {rows.read_parquet(one.aggregates for one in there)} WHERE {where}"]


def _of_rows(parquet: Sequence[Parquet], begin: datetime | None, end: datetime | None, asked: str) -> list[str]:
    plain = [one.path for one in parquet if rows.without_copies(one.path)]
    mixed = [one.path for one in parquet if one.path not in plain]
    facts = ([rows.facts_but_ids_of_parquet(plain)] if plain else []) + ([rows.facts_of_parquet(mixed)] if mixed else [])
    return [_asked(one, begin, end, asked) for one in facts]


def _asked(facts: str, begin: datetime | None, end: datetime | None, asked: str) -> str:
    where = " AND ".join([asked, *_bounds(begin, end)])
    return f"SELECT time, status, bin, requests, rows FROM ({_each(facts)}) WHERE {where}"


def _each(facts: str) -> str:
    """Every request as counts of one."""
    return f"SELECT time, {_IS_COPY} AS copy, status, {_BIN} AS bin, 1::BIGINT AS requests, coalesce(rows, 0) AS rows FROM ({facts})"


def _bounds(begin: datetime | None, end: datetime | None) -> list[str]:
    found = [("time >= ", begin), ("time < ", end)]
    return [f"{mark}TIMESTAMP '{time.astimezone(UTC):%Y-%m-%d %H:%M:%S.%f}'" for mark, time in found if time is not None]


def _begin(seconds: int) -> str:
    return f"time_bucket(INTERVAL {seconds} SECOND, time)"


def _down(time: datetime, seconds: int) -> datetime:
    return time - (time - _EPOCH) % timedelta(seconds=seconds)


def _up(time: datetime, seconds: int) -> datetime:
    return time + (_EPOCH - time) % timedelta(seconds=seconds)
