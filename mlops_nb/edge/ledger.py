"""What must survive kill -9 of a device: which requests were answered, the answers that wait for the link, what was captured.

One SQLite file in WAL mode, each commit on the disk before it returns.  Answers leave in the order of their requests; the queue is bounded
in bytes (topics, ids and correlation data counted), and what it has to drop is counted.  Used by one thread.
"""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

MOST_REMEMBERED = 200_000
"""Answered requests that are known again; a redelivery beyond that many is answered twice."""

_ROW_BYTES = 100
"""What one answer takes beside its own bytes."""
_SIZE = f"length(body) + ifnull(length(correlation), 0) + length(CAST(topic AS BLOB)) + length(CAST(id AS BLOB)) + {_ROW_BYTES}"

_TABLES = """
CREATE TABLE IF NOT EXISTS queue (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT, key BLOB, near INTEGER, topic TEXT, body BLOB, correlation BLOB, content_type TEXT, id TEXT, status INTEGER);
CREATE INDEX IF NOT EXISTS queue_key ON queue (key);
CREATE TABLE IF NOT EXISTS answered (number INTEGER PRIMARY KEY AUTOINCREMENT, key BLOB UNIQUE);
CREATE TABLE IF NOT EXISTS captured (sequence INTEGER PRIMARY KEY AUTOINCREMENT, endpoint TEXT, deployment TEXT, line BLOB);
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value);
"""


class Answer(NamedTuple):
    """One answer on its way."""

    key: bytes | None
    """Names the request, so that it is known again; None for one that has no id."""
    near: bool
    """Goes back on the link the request came by, where that is another one."""
    topic: str
    body: bytes
    correlation: bytes | None
    content_type: str
    id: str
    status: int

    @property
    def size(self) -> int:
        """The bytes it takes in the queue."""
        return len(self.body) + len(self.correlation or b"") + len(self.topic.encode()) + len(self.id.encode()) + _ROW_BYTES


class Line(NamedTuple):
    """One captured request."""

    endpoint: str
    deployment: str
    line: bytes


class Ledger:
    """The device's memory on disk.  *full* says what goes when the queue is: the `drop oldest` or the `drop newest` answer.

    Raises sqlite3.Error where the file is no ledger, or the disk takes no more.
    """

    def __init__(self, path: Path, *, queue_max_bytes: int, telemetry_max_bytes: int, full: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._db = sqlite3.connect(path, isolation_level=None)
        path.chmod(0o600)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.executescript(_TABLES)
        self._queue_max, self._telemetry_max, self._full = queue_max_bytes, telemetry_max_bytes, full
        self.stream = str(self._fact("stream") or self._made_stream())
        self.dropped, self.telemetry_dropped = int(self._fact("dropped") or 0), int(self._fact("telemetry_dropped") or 0)
        self.queued, self.queued_bytes = self._sums("queue", _SIZE)
        self.lines, self._line_bytes = self._sums("captured", "length(line)")

    # ── answers ──

    def knows(self, key: bytes) -> bool:
        """Whether this request was answered before."""
        return self._db.execute("SELECT 1 FROM answered WHERE key = ?", [key]).fetchone() is not None

    def waits(self, key: bytes) -> bool:
        """Whether its answer has not left yet."""
        return self._db.execute("SELECT 1 FROM queue WHERE key = ?", [key]).fetchone() is not None

    def keep(self, answers: Sequence[Answer], lines: Iterable[Line], *, leaving: set[int]) -> None:
        """Queue *answers* and captured *lines*, all or none, on the disk when this returns; what is *leaving* is not dropped for them."""
        with self._transaction():
            for answer in answers:
                self._queue(answer, leaving)
            for line in lines:
                self._db.execute("INSERT INTO captured (endpoint, deployment, line) VALUES (?, ?, ?)", line)
                self.lines, self._line_bytes = self.lines + 1, self._line_bytes + len(line.line)
            if self._line_bytes > self._telemetry_max:
                self._drop_lines()
            self._db.execute("DELETE FROM answered WHERE number <= (SELECT max(number) FROM answered) - ?", [MOST_REMEMBERED])

    def _queue(self, answer: Answer, leaving: set[int]) -> None:
        if answer.key is not None:
            self._db.execute("INSERT OR IGNORE INTO answered (key) VALUES (?)", [answer.key])
        if self.queued_bytes + answer.size > self._queue_max and not self._made_room(answer.size, leaving):
            self._count_dropped(1)
            return
        columns = "key, near, topic, body, correlation, content_type, id, status"
        self._db.execute(f"INSERT INTO queue ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", answer)
        self.queued, self.queued_bytes = self.queued + 1, self.queued_bytes + answer.size

    def _made_room(self, size: int, leaving: set[int]) -> bool:
        """Drop the oldest that are not just leaving; False where the newest is to be dropped, or nothing is left to drop."""
        if self._full == "drop newest":
            return False
        gone = 0
        for sequence, bytes_ in self._db.execute(f"SELECT sequence, {_SIZE} FROM queue ORDER BY sequence").fetchall():
            if self.queued_bytes + size <= self._queue_max:
                break
            if sequence not in leaving:
                self._db.execute("DELETE FROM queue WHERE sequence = ?", [sequence])
                self.queued, self.queued_bytes, gone = self.queued - 1, self.queued_bytes - bytes_, gone + 1
        self._count_dropped(gone)
        return self.queued_bytes + size <= self._queue_max

    def _count_dropped(self, count: int) -> None:
        self.dropped += count
        self._note("dropped", self.dropped)

    def waiting(self, *, near: bool, after: int, most: int) -> list[tuple[int, Answer]]:
        """The next *most* answers for one of the links after the sequence *after*, in their order."""
        columns = "sequence, key, near, topic, body, correlation, content_type, id, status"
        rows = self._db.execute(f"SELECT {columns} FROM queue WHERE near = ? AND sequence > ? ORDER BY sequence LIMIT ?", [near, after, most]).fetchall()
        return [(sequence, Answer(key, bool(near), *rest)) for sequence, key, near, *rest in rows]

    def delivered(self, sequences: Sequence[int]) -> None:
        """Forget answers that the broker has."""
        with self._transaction():
            for sequence in sequences:
                row = self._db.execute(f"DELETE FROM queue WHERE sequence = ? RETURNING {_SIZE}", [sequence]).fetchone()
                if row:
                    self.queued, self.queued_bytes = self.queued - 1, self.queued_bytes - row[0]

    # ── telemetry ──

    def captured(self, *, most_bytes: int, most: int = 1000) -> tuple[int, list[tuple[int, Line]]]:
        """The line before the oldest that is left, and the oldest lines, about *most_bytes* of them."""
        rows = self._db.execute("SELECT sequence, endpoint, deployment, line FROM captured ORDER BY sequence LIMIT ?", [most]).fetchall()
        size = 0
        chosen: list[tuple[int, Line]] = []
        for sequence, *line in rows:
            if chosen and size + len(line[2]) > most_bytes:
                break
            size += len(line[2])
            chosen.append((sequence, Line(*line)))
        return (chosen[0][0] - 1 if chosen else 0), chosen

    def ingested(self, sequence: int) -> None:
        """Forget lines that the workspace has."""
        with self._transaction():
            self._db.execute("DELETE FROM captured WHERE sequence <= ?", [sequence])
        self.lines, self._line_bytes = self._sums("captured", "length(line)")

    def _drop_lines(self) -> None:
        """Drop the oldest tenth, so that this is not done line by line."""
        count = self.lines // 10 + 1
        self._db.execute("DELETE FROM captured WHERE sequence IN (SELECT sequence FROM captured ORDER BY sequence LIMIT ?)", [count])
        self.lines, self._line_bytes = self._sums("captured", "length(line)")
        self.telemetry_dropped += count
        self._note("telemetry_dropped", self.telemetry_dropped)

    # ── the file ──

    def close(self) -> None:
        """Let the file go."""
        self._db.close()

    def _sums(self, table: str, size: str) -> tuple[int, int]:
        count, whole = self._db.execute(f"SELECT count(*), coalesce(sum({size}), 0) FROM {table}").fetchone()
        return count, whole

    def _made_stream(self) -> str:
        """Names this file, whose sequences start at one: a device that lost its disk is not taken for one that goes on."""
        stream = uuid.uuid4().hex
        self._note("stream", stream)
        return stream

    def _fact(self, name: str) -> Any:
        row = self._db.execute("SELECT value FROM facts WHERE name = ?", [name]).fetchone()
        return row[0] if row else None

    def _note(self, name: str, value: object) -> None:
        self._db.execute("INSERT INTO facts VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value", [name, value])

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:  # a full disk has ended it already
                self._db.execute("ROLLBACK")
            raise
