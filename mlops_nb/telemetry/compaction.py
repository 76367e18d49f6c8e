"""Closed lines become Parquet files, small files become large ones, each gets its counts, old ones go."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from ..errors import StoreFull
from ..settings import Workspace
from ..splits import COPY_MARK
from . import aggregates, files, rows
from .files import Parquet

if TYPE_CHECKING:
    import duckdb

try:
    import fcntl
except ImportError:  # pragma: no cover - Windows has no flock
    fcntl = None  # type: ignore[assignment]

_MERGED_BYTES = 64 << 20
"""Files are merged up to about this size, so that retention can drop a little at a time."""
_FEW = 16
_ANY_COPY = f"bool_or(coalesce(suffix(id, {rows.literal(COPY_MARK)}), false))"
_SETTLED_NS = 600 * 10**9
"""Only files older than ten minutes are merged: a slow server may still be closing lines with a slightly older stem."""


class Compaction(msgspec.Struct, frozen=True):
    """What one `compact()` did."""

    converted: int = 0
    merged: int = 0
    aggregated: int = 0
    """Files that got their counts."""
    dropped: int = 0
    bytes_dropped: int = 0


def compact() -> Compaction:
    """Bring the workspace's telemetry into its resting form and within `capture_days` and `capture_max_mb`.

    Lines that a dead server left are closed first.  One process does this at a time; a second returns at once, having done
    nothing.  May be killed at any instant.  Raises StoreFull; the lines then stay.
    """
    if not Workspace.current().telemetry.is_dir():
        return Compaction()
    with _alone() as alone:
        if not alone:
            return Compaction()
        converted = merged = aggregated = 0
        for folder in files.folders():
            _clear(folder)
            _close_abandoned(folder)
            converted += _convert(folder)
            merged += _merge(folder)
            aggregated += _aggregate(folder)
        dropped, size = _drop_old()
    return Compaction(converted, merged, aggregated, dropped, size)


@contextmanager
def _alone() -> Iterator[bool]:
    path = Workspace.current().telemetry / ".compacting"
    if fcntl is None:  # pragma: no cover
        from filelock import FileLock, Timeout

        try:
            with FileLock(path, timeout=0):
                yield True
        except Timeout:
            yield False
        return
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        yield _locked(descriptor)
    finally:
        os.close(descriptor)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _clear(folder: Path) -> None:
    """Delete what a killed compaction left: finished sources and unfinished results."""
    standing = files.standing(folder)
    known = {path for parquet in standing.parquet for path in (parquet.aggregates, parquet.sample)}
    orphans = [path for kind in ("aggregates", "samples") for path in folder.glob(f"{kind}/[0-9]*.parquet") if path not in known]
    orphans += [path for path in folder.glob("*/[0-9]*.broken") if path.with_suffix("") not in known or path.with_suffix("").exists()]
    for path in (*standing.leftovers, *orphans, *folder.glob("*/.*.tmp"), *folder.glob(".*.tmp")):
        with files.held(exclusive=True):
            path.unlink(missing_ok=True)


def _close_abandoned(folder: Path) -> None:
    for path in folder.glob("live-*.jsonl"):
        if _abandoned(path):
            path.rename(folder / f"closed-{time.time_ns()}.jsonl")


def _abandoned(live: Path) -> bool:
    """Whether no process writes to it any more: its pid is gone (or given to a younger process) and nobody holds its lock.

    The lock also tells of a writer whose pid means nothing here, such as one in a container.
    """
    import psutil

    try:
        writer = psutil.Process(int(live.stem.removeprefix("live-")))
        if writer.status() != psutil.STATUS_ZOMBIE and writer.create_time() <= live.stat().st_mtime:
            return False
    except (psutil.NoSuchProcess, ValueError):
        pass
    except FileNotFoundError:
        return False  # just closed by its writer
    return _unlocked(live)


def _unlocked(live: Path) -> bool:
    if fcntl is None:  # pragma: no cover
        return True
    try:
        descriptor = os.open(live, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return _locked(descriptor)
    finally:
        os.close(descriptor)


def _convert(folder: Path) -> int:
    """Turn every closed file into a Parquet file of its stem."""
    standing = files.standing(folder)
    for path in standing.closed:
        _converted(_settled_stem(path, standing.parquet))
    return len(standing.closed)


def _settled_stem(closed: Path, parquet: tuple[Parquet, ...]) -> Path:
    """The lines under a stem that no merged file covers: a late one is given the present moment."""
    stem = int(files.stem(closed))
    if not any(p.first <= stem <= p.last for p in parquet):
        return closed
    with files.held(exclusive=True):
        return closed.rename(closed.with_name(f"closed-{time.time_ns()}.jsonl"))


def _converted(closed: Path) -> None:
    """Turn a closed file into Parquet.  Blocks are in memory for it, so the sample is taken there; of lines it is read from the new file, later."""
    cursor = rows.connection()
    typed = rows.typed_lines(cursor, closed.parent, [closed])
    found = cursor.execute(f"SELECT min(time), {_ANY_COPY} FROM ({typed.select})").fetchone() if typed.select else None
    if not found or not found[0]:
        closed.unlink()
        return
    first, copies = found
    target = files.as_parquet(closed.parent / f"date={first.date().isoformat()}" / f"{files.stem(closed)}.parquet")
    if typed.own:
        _replace([], aggregates.sampled(f"({typed.select})"), target.sample, cursor=cursor)
    _replace([closed], typed.select, target.path, copies=copies, cursor=cursor)


def _merge(folder: Path) -> int:
    """Turn runs of small neighbours of one day into one file each."""
    merged = 0
    for group in _groups(files.standing(folder).parquet):
        target = group[0].path.with_name(f"{group[0].first}-{group[-1].last}.parquet")
        sources = [parquet.path for parquet in group]
        beside = [path for parquet in group for path in (parquet.aggregates, parquet.sample)]
        select = f"SELECT * FROM {rows.read_parquet(sources)}"
        copies = rows.connection().execute(f"SELECT {_ANY_COPY} FROM ({select})").fetchone()
        _replace(sources, select, target, beside=beside, copies=bool(copies and copies[0]))
        merged += len(group)
    return merged


def _aggregate(folder: Path) -> int:
    """Count the rows of every file whose counts are not there, and take its sample: of new ones, and of those that are older than counts are."""
    waiting = [parquet for parquet in files.standing(folder).parquet if not (parquet.aggregates.exists() and parquet.sample.exists())]
    for parquet in waiting:
        if not parquet.aggregates.exists():
            _replace([], aggregates.of_parquet(parquet.path), parquet.aggregates)
        if not parquet.sample.exists():
            _replace([], aggregates.sample_of(parquet.path), parquet.sample)
    return len(waiting)


def _groups(parquet: tuple[Parquet, ...]) -> Iterator[list[Parquet]]:
    """Neighbours worth merging: many small files of today, or what is left of a past day."""
    settled = [p for p in parquet if p.last < time.time_ns() - _SETTLED_NS]
    for day, files_of_day in itertools.groupby(settled, key=lambda p: p.date):
        few = _FEW if day == datetime.now(UTC).date() else 2
        yield from (group for group in _up_to_size(files_of_day) if len(group) >= few)


def _up_to_size(parquet: Iterable[Parquet]) -> Iterator[list[Parquet]]:
    group: list[Parquet] = []
    size = 0
    for p in parquet:
        bytes_more = p.path.stat().st_size
        if size + bytes_more > _MERGED_BYTES:
            yield group
            group, size = [], 0
        group.append(p)
        size += bytes_more
    yield group


def _replace(
    sources: list[Path], select: str, target: Path, *, beside: Iterable[Path] = (), copies: bool | None = True, cursor: duckdb.DuckDBPyConnection | None = None
) -> None:
    """Write the rows near *target*, then rename, so that it is there whole or not at all; only then delete the *sources*, and what was *beside* them.

    The file is marked for its readers where there are no *copies* among the rows.
    """
    import duckdb

    target.parent.mkdir(exist_ok=True)
    scratch = target.with_name(f".{target.name}.tmp")
    cursor = cursor or rows.connection()
    note = "" if copies else f", {rows.NO_COPIES}"
    try:
        cursor.execute(f"COPY ({select}) TO {rows.literal(str(scratch))} (FORMAT parquet, COMPRESSION zstd{note})")
        with scratch.open("rb") as file:
            os.fsync(file.fileno())
    except (duckdb.IOException, OSError) as error:
        scratch.unlink(missing_ok=True)
        if "No space left" in str(error) or "File too large" in str(error):
            raise StoreFull(target.parent) from error
        raise
    with files.held(exclusive=True):
        os.replace(scratch, target)
        for source in sources:
            source.unlink()
        for path in beside:
            path.unlink(missing_ok=True)


def _drop_old() -> tuple[int, int]:
    """Delete Parquet files beyond the age and the size kept, oldest first; return how many and their bytes."""
    settings = Workspace.current().settings()
    oldest_day = datetime.now(UTC).date() - timedelta(days=settings.capture_days)
    everything = sorted((p for folder in files.folders() for p in files.standing(folder).parquet), key=lambda p: (p.date, p.first))
    excess = _size_of_all() - settings.capture_max_mb * 1_000_000
    dropped = freed = 0
    for parquet in everything:
        if parquet.date >= oldest_day and freed >= excess:
            break
        freed += _dropped(parquet)
        dropped += 1
        if not any(parquet.path.parent.iterdir()):
            parquet.path.parent.rmdir()
    return dropped, freed


def _dropped(parquet: Parquet) -> int:
    """Delete a file with its counts and its sample; return their bytes."""
    there = [path for path in (parquet.path, parquet.aggregates, parquet.sample) if path.exists()]
    size = sum(path.stat().st_size for path in there)
    with files.held(exclusive=True):
        for path in there:
            path.unlink()
    return size


def _size_of_all() -> int:
    return sum(path.stat().st_size for folder in files.folders() for path in folder.rglob("*") if path.is_file())
