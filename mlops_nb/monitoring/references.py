"""What requests are compared with: the training data, a past window of requests, or the same season of either."""

from __future__ import annotations

import calendar
import re
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from .. import artifacts, datasets, store, summaries, telemetry
from ..errors import BadOption, FileMissing, NothingToCompare
from ..reference import ModelRef
from ..store import datasets as table
from ..store.datasets import DatasetVersion
from ..store.models import ModelVersion
from ..summaries import ColumnSummary
from ..telemetry import Sought
from . import columns
from .columns import Wanted

if TYPE_CHECKING:
    from .counting import Window

NAMES = ("training", "previous", "last-week", "same-month", "same-weekday", "same-hour")
_WEEK = timedelta(days=7)
_HINT = "--reference training, previous, last-week, same-month, same-weekday, same-hour or 2026-10-01..2026-10-31"
_PART = {"month": "month", "weekday": "isodow", "hour": "hour"}


class Reference(msgspec.Struct, frozen=True, kw_only=True):
    """One side of a comparison, told by counts."""

    name: str
    """`flights:1`, `flights:1 in November`, `requests 2026-10-01 00:00 – 2026-11-01 00:00`."""
    kind: Literal["training data", "past requests"]
    rows: int
    columns: list[ColumnSummary]
    wanted: list[Wanted]
    """The columns to compare, by their names in the model and in *columns*."""
    since: datetime | None = None
    until: datetime | None = None
    season: Season | None = None
    time_column: str = ""
    """The data set's column that tells the season."""
    dataset: DatasetVersion | None = None


class Season(msgspec.Struct, frozen=True):
    """Which months (1–12), weekdays (0 is Monday) or hours (0–23) of UTC."""

    part: Literal["month", "weekday", "hour"]
    among: tuple[int, ...]

    @property
    def words(self) -> str:
        """`November, December`; `Mondays`; `08:00, 09:00`."""
        named = {"month": lambda n: calendar.month_name[n], "weekday": lambda n: f"{calendar.day_name[n]}s", "hour": lambda n: f"{n:02}:00"}[self.part]
        return ", ".join(named(number) for number in self.among)

    def filters(self) -> dict[str, tuple[int, ...]]:
        """As the telemetry's functions take it."""
        return {f"{self.part}s": self.among}


class Extent(msgspec.Struct, frozen=True):
    """From when to when the windows of a check go; None for the beginning is all that is kept."""

    since: datetime | None
    until: datetime


def extent(words: str | None, *, since: datetime | None, until: datetime | None, length: Window, spans: int) -> Extent:
    """What is judged, which a reference other than the training data may bound.  Raises BadOption."""
    end = until or store.now()
    if length.seconds and since is None:
        since = end - timedelta(seconds=length.seconds * spans)
    if not words or words == "training":
        return Extent(since, end)
    if between := _between(words):
        if since and since < between[1] and not length.seconds:
            raise BadOption(f"The reference {words} reaches into what is judged, from {_moment(since)} on.", hint=f"--since {between[1]:%Y-%m-%dT%H:%M}")
        return Extent(max(filter(None, (since, between[1]))), end)
    if words in ("previous", "last-week"):
        if since is None:
            raise BadOption(f"--reference {words} needs to know how long a window is.", hint="--since 7d, or --window 1d")
        if words == "last-week" and end - since > _WEEK:
            raise BadOption("--reference last-week is for windows of a week at most.", hint="--since 7d, or --reference previous")
        return Extent(since, end)
    begin = _season_begin(_part(words), end)
    if since and length.seconds:  # windows before the newest count as far as the season that is now has them: another one's rows are others
        since = max(since, min(begin, end - timedelta(seconds=length.seconds)))
    return Extent(since or begin, end)


def training(version: ModelVersion, dataset: str | None, endpoint: str) -> Reference:
    """The data set it was trained on (or *dataset*), or the counts of the frame it was registered with.

    Raises NothingToCompare, DatasetNotFound, FileMissing.
    """
    named = dataset or version.dataset
    if not named:
        return _frame(version, endpoint)
    with store.reading() as tx:
        found = table.get(tx, ModelRef.parse(named, what="dataset"))
    return Reference(
        name=found.ref, kind="training data", rows=found.rows, columns=datasets.summary(found), wanted=columns.wanted(version, found), dataset=found
    )


def chosen(words: str | None, judged: Extent, version: ModelVersion, endpoint: str, *, dataset: str | None, time: str | None) -> Reference:
    """What *words* name.  Raises BadOption, DatasetNotFound, FileMissing; NothingToCompare that says what is there."""
    if not words or words == "training":
        return training(version, dataset, endpoint)
    if between := _between(words):
        return _past(version, endpoint, *between)
    if words in ("previous", "last-week"):
        assert judged.since
        back = judged.until - judged.since if words == "previous" else _WEEK
        return _past(version, endpoint, judged.since - back, judged.until - back)
    part = _part(words)
    assert judged.since
    season = _season(part, judged.since, judged.until)
    found, column = _season_source(version, dataset, time)
    return _season_of(found, column, season, version) if found and column else _past(version, endpoint, None, judged.since, season)


def refuse_unfit(words: str | None, judged: Extent, version: ModelVersion, endpoint: str, *, dataset: str | None, time: str | None) -> None:
    """Raise what `chosen` would raise for words that will never lead to anything; requests may still come."""
    if not words or words == "training" or _between(words):
        chosen(words, judged, version, endpoint, dataset=dataset, time=time)
    elif words.startswith("same-"):
        assert judged.since
        _season(_part(words), judged.since, judged.until)
        _season_source(version, dataset, time)


def _season_source(version: ModelVersion, dataset: str | None, time: str | None) -> tuple[DatasetVersion | None, str | None]:
    """The data set and its column of time, where there are any.  Raises DatasetNotFound, BadOption."""
    named = dataset or version.dataset
    if not named and time:
        raise BadOption(f"{version.ref} was registered without a data set that could have a column {time!r}.", hint="--dataset NAME, or no --time")
    if not named:
        return None, None
    with store.reading() as tx:
        found = table.get(tx, ModelRef.parse(named, what="dataset"))
    return found, _time_column(found, time)


def check_words(words: str | None) -> None:
    """Raises BadOption for what names no reference."""
    if words and words not in NAMES:
        _between(words) or _part(words)


# ── words ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _between(words: str) -> tuple[datetime, datetime] | None:
    """Both ends of `2026-10-01..2026-10-31`; a day that ends it is in it."""
    first, dots, last = words.partition("..")
    if not dots:
        return None
    try:
        begin, end = (datetime.fromisoformat(text.strip()) for text in (first, last))
    except ValueError:
        raise BadOption(f"{words[:50]!r} is no stretch of time.", hint="--reference 2026-10-01..2026-10-31") from None
    begin, end = (time if time.tzinfo else time.replace(tzinfo=UTC) for time in (begin, end))
    if re.fullmatch(r"\d{4}-?\d{2}-?\d{2}", last.strip()):
        end += timedelta(days=1)
    if end <= begin:
        raise BadOption(f"{words[:50]!r} ends before it begins.", hint="--reference 2026-10-01..2026-10-31")
    return begin, end


def _part(words: str) -> Literal["month", "weekday", "hour"]:
    part = words.removeprefix("same-")
    if not words.startswith("same-") or part not in _PART:
        raise BadOption(f"{words[:40]!r} names no reference.", hint=_HINT)
    return part  # type: ignore[return-value]


def _season_begin(part: str, end: datetime) -> datetime:
    """When the season that is now began."""
    time = end.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    return time if part == "hour" else time.replace(hour=0) if part == "weekday" else time.replace(hour=0, day=1)


def _season(part: Literal["month", "weekday", "hour"], since: datetime, until: datetime) -> Season:
    """The months, weekdays or hours that a window touches.  Raises BadOption where it touches all of them."""
    step, all_of = {"month": (timedelta(days=1), 12), "weekday": (timedelta(days=1), 7), "hour": (timedelta(hours=1), 24)}[part]
    number = {"month": lambda t: t.month, "weekday": lambda t: t.weekday(), "hour": lambda t: t.hour}[part]
    time, last = since.astimezone(UTC), until.astimezone(UTC) - timedelta(microseconds=1)
    among = {number(last)}
    while time <= last and len(among) < all_of:
        among.add(number(time))
        time += step
    if len(among) == all_of:
        raise BadOption(f"The window touches every {part}, so the same {part}s are all there is.", hint="a shorter --since, or --reference training")
    return Season(part, tuple(sorted(among)))


def _moment(time: datetime) -> str:
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M}"


# ── data sets ────────────────────────────────────────────────────────────────────────────────────────────────────────


def keep_frame(version: ModelVersion, data: Any) -> bool:
    """Keep the counts (and none of the rows) of the frame, array or file that *version* was registered with; False for what has no columns."""
    table_like = _table_like(data)
    if table_like is None:
        return False
    counted = datasets.counts(table_like)
    with store.writing() as tx:
        table.put_summary(tx, _frame_key(version), counted)
    return bool(counted)


def _table_like(data: Any) -> Any:
    if isinstance(data, Path):
        return data
    import pandas as pd

    rows = data if isinstance(data, pd.DataFrame) else pd.DataFrame(data) if getattr(data, "ndim", 0) == 2 else None
    return None if rows is None or rows.empty else rows.rename(columns=str)


def _frame_key(version: ModelVersion) -> str:
    return f"frame of {version.ref} {version.created_at.isoformat()}"


def _frame(version: ModelVersion, endpoint: str) -> Reference:
    with store.reading() as tx:
        known = table.summary(tx, _frame_key(version))
    if not known:
        raise NothingToCompare.no_dataset(endpoint, version.ref)
    schema = [{"name": one.name, "type": "float64" if one.kind == "number" else "string"} for one in known]
    name = f"the data {version.ref} was registered with"
    return Reference(name=name, kind="training data", rows=known[0].rows, columns=known, wanted=columns.wanted_of(version, schema))


def _time_column(dataset: DatasetVersion, named: str | None) -> str | None:
    """The column with the rows' time; None where there is none.  Raises BadOption when it is not clear which."""
    times = [column["name"] for column in dataset.schema if column["type"] == "datetime"]
    if named and named not in times:
        raise BadOption(f"{dataset.ref} has no time column {named!r}; it has {', '.join(times) or 'none'}.", hint=f"%mlops datasets {dataset.ref}")
    if not named and len(times) > 1:
        raise BadOption(f"Which of {', '.join(times)} of {dataset.ref} is the time of a row?", hint=f"--time {times[0]}")
    return named or next(iter(times), None)


def _season_of(dataset: DatasetVersion, column: str, season: Season, version: ModelVersion) -> Reference:
    """The rows of a season, counted once.  Raises NothingToCompare."""
    key = f"{dataset.hash} {column} {season.part} {season.among}"
    with store.reading() as tx:
        known = table.summary(tx, key)
    if known is None:
        known = _counted_season(dataset, column, season)
        with store.writing() as tx:
            table.put_summary(tx, key, known)
    return Reference(
        name=f"{dataset.ref} in {season.words}", kind="training data", rows=known[0].rows if known else 0, columns=known,
        wanted=columns.wanted(version, dataset), season=season, time_column=column, dataset=dataset,
    )  # fmt: skip


def column_parts(season: Season, column: str) -> str:
    """SQL that is true of the season's rows."""
    numbers = [number + 1 if season.part == "weekday" else number for number in season.among]
    return f"{_part_of(season, column)} IN ({', '.join(map(str, numbers))})"


def _part_of(season: Season, column: str) -> str:
    return f'extract({_PART[season.part]} FROM "{column.replace(chr(34), chr(34) * 2)}")::INTEGER'


def _counted_season(dataset: DatasetVersion, column: str, season: Season) -> list[ColumnSummary]:
    import duckdb

    file = artifacts.address(dataset.file)
    if not file.exists():
        raise FileMissing(file)
    part = _part_of(season, column)
    with tempfile.TemporaryDirectory(prefix="mlops-") as scratch, duckdb.connect(":memory:", config={"autoinstall_known_extensions": False}) as connection:
        rows = Path(scratch) / "season.parquet"
        source = f"read_parquet('{str(file).replace(chr(39), chr(39) * 2)}')"
        count = connection.execute(f"COPY (SELECT * FROM {source} WHERE {column_parts(season, column)}) TO '{rows}' (FORMAT parquet)").fetchone()
        if not count or not count[0]:
            found = connection.execute(f"SELECT DISTINCT {part} AS p FROM {source} WHERE p IS NOT NULL ORDER BY p").fetchall()
            there = Season(season.part, tuple(number - 1 if season.part == "weekday" else number for (number,) in found))
            raise NothingToCompare.no_season(dataset.ref, season.words, there.words)
        return summaries.of_table(connection, rows, dataset.schema, rows=count[0])


# ── past requests ────────────────────────────────────────────────────────────────────────────────────────────────────


def _past(version: ModelVersion, endpoint: str, since: datetime | None, until: datetime, season: Season | None = None) -> Reference:
    """A window of all requests of the endpoint, whichever deployment answered.  Raises NothingToCompare."""
    seen = telemetry.types(endpoint, since=since, until=until)
    known = columns.wanted_of(version, [{"name": name, "type": seen[name]} for name in sorted(seen)])
    wanted = [msgspec.structs.replace(one, source=one.name) for one in known]
    sought = [Sought(one.name, one.type, columns.column_of(one), one.place) for one in wanted]
    filters = season.filters() if season else {}
    found = telemetry.shapes(endpoint, sought, since=since, until=until, **filters)  # type: ignore[arg-type]
    if not any(one.rows for one in found):
        raise NothingToCompare.nothing_past(endpoint, _span(since, until, season), _kept(endpoint))
    return Reference(
        name=f"requests {_span(since, until, season)}", kind="past requests", rows=max(one.rows for one in found), columns=found, wanted=wanted, since=since,
        until=until, season=season,
    )  # fmt: skip


def _span(since: datetime | None, until: datetime, season: Season | None) -> str:
    during = f"{_moment(since)} – {_moment(until)}" if since else f"before {_moment(until)}"
    return f"{during} in {season.words}" if season else during


def _kept(endpoint: str) -> tuple[str, str] | None:
    """From when to when requests are kept."""
    there = telemetry.captured(endpoint)
    return (_moment(there.first), _moment(there.last)) if there.first and there.last else None
