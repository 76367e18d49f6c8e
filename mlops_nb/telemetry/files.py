"""Which telemetry files stand where, and which of them count."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import msgspec

from ..safety import checked_name, path_inside
from ..settings import Workspace

try:
    import fcntl
except ImportError:  # pragma: no cover - Windows has no flock
    fcntl = None  # type: ignore[assignment]


class Parquet(msgspec.Struct, frozen=True, order=True):
    """A Parquet file of rows whose lines were closed from *first* to *last* (nanoseconds since 1970)."""

    first: int
    last: int
    path: Path

    @property
    def date(self) -> date:
        """The day of its earliest row."""
        return date.fromisoformat(self.path.parent.name.removeprefix("date="))

    @property
    def aggregates(self) -> Path:
        """Where the counts of its rows are, once they are made."""
        return self.path.parent.parent / "aggregates" / self.path.name

    @property
    def sample(self) -> Path:
        """Where the rows of its sampled requests are, once they are taken."""
        return self.path.parent.parent / "samples" / self.path.name


class Standing(msgspec.Struct, frozen=True):
    """The files of one deployment that count at one moment."""

    folder: Path
    live: tuple[Path, ...]
    closed: tuple[Path, ...]
    parquet: tuple[Parquet, ...]
    leftovers: tuple[Path, ...]
    """Files whose rows stand in another file already: what a killed compaction had no time to delete."""

    @property
    def deployment(self) -> str:
        """The deployment's name."""
        return self.folder.name.removeprefix("deployment=")

    @property
    def settled(self) -> tuple[object, ...]:
        """What must not change while it is read, or a row could be missed."""
        return (self.closed, self.parquet)


@contextmanager
def held(*, exclusive: bool) -> Iterator[None]:
    """While readers are in here, compaction puts no file in place and takes none away; it does so alone, a moment at a time.

    Servers take no part: they never wait.
    """
    root = Workspace.current().telemetry
    if fcntl is None or not root.is_dir():  # pragma: no cover - readers then ask again when files moved
        yield
        return
    descriptor = os.open(root / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)
        yield
    finally:
        os.close(descriptor)


def folder(endpoint: str, deployment: str) -> Path:
    """Where a deployment's telemetry goes, whether or not it is there.  Raises BadName."""
    parts = f"endpoint={checked_name(endpoint, what='endpoint')}", f"deployment={checked_name(deployment, what='deployment')}"
    return path_inside(Workspace.current().telemetry, *parts)


def folders(endpoint: str | None = None, deployment: str | None = None) -> list[Path]:
    """The folders that are there: of one deployment, of an endpoint, or all."""
    if endpoint and deployment:
        return [place for place in [folder(endpoint, deployment)] if place.is_dir()]
    pattern = f"endpoint={checked_name(endpoint, what='endpoint') if endpoint else '*'}/deployment=*"
    return sorted(Workspace.current().telemetry.glob(pattern))


def standing(folder: Path) -> Standing:
    """The files that count now.

    A row moves from live to closed to Parquet; listed in that order it is seen at least once.
    """
    live, closed = sorted(folder.glob("live-*.jsonl")), sorted(folder.glob("closed-*.jsonl"))
    kept, leftovers = _uncovered(folder.glob("date=*/[0-9]*.parquet"))
    converted = {parquet.path.stem for parquet in kept}
    done = [path for path in closed if stem(path) in converted]
    return Standing(folder, tuple(live), tuple(path for path in closed if path not in done), tuple(kept), (*leftovers, *done))


def asked_since(endpoint: str, deployment: str, time: datetime) -> bool:
    """Whether a request of the deployment was captured since *time*; looks at files' times alone."""
    since = time.timestamp()
    return any(
        found.stat().st_size and found.stat().st_mtime >= since
        for place in folders(endpoint, deployment)
        for pattern in ("live-*.jsonl", "closed-*.jsonl", "date=*/[0-9]*.parquet")
        for found in place.glob(pattern)
    )


def _uncovered(paths: Any) -> tuple[list[Parquet], list[Path]]:
    kept: list[Parquet] = []
    leftovers: list[Path] = []
    for parquet in sorted((as_parquet(path) for path in paths), key=lambda p: (p.first, -p.last)):
        if kept and parquet.last <= kept[-1].last:
            leftovers.append(parquet.path)
        else:
            kept.append(parquet)
    return kept, leftovers


def as_parquet(path: Path) -> Parquet:
    """The Parquet file of that name, whether or not it is there."""
    first, _, last = path.stem.partition("-")
    return Parquet(int(first), int(last or first), path)


def stem(closed: Path) -> str:
    """`1767225600000000000` of `closed-1767225600000000000.jsonl`: its Parquet file's name."""
    return closed.stem.removeprefix("closed-")


def within(parquet: Parquet, since: datetime | None, until: datetime | None) -> bool:
    """Whether the file can hold rows of this time: none is later than its closing, none earlier than its day."""
    too_old = since is not None and parquet.last < since.timestamp() * 1e9
    return not too_old and not (until is not None and parquet.date > until.astimezone(UTC).date())


def column_types(folder: Path) -> dict[str, dict[str, str]]:
    """Type by column of the signature beside the files: `{"inputs": {…}, "outputs": {…}}`, empty where there is none."""
    try:
        signature = msgspec.json.decode((folder / "signature.json").read_bytes())
    except (FileNotFoundError, msgspec.DecodeError):
        signature = None  # an entry script has none; one half written is read next time
    columns = signature or {}
    return {side: {column["name"]: column["type"] for column in columns.get(side) or []} for side in ("inputs", "outputs")}
