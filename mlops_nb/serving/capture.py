"""What was asked and answered, appended by a thread of its own: the caller never waits, and kill -9 loses 100 ms at most.

Lines go to `live-<pid>.jsonl`, which is renamed to `closed-<time_ns>.jsonl` at 16 MB, after 60 s and at the end; a reader
takes closed files away.
"""

from __future__ import annotations

import errno
import os
import random
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
import orjson

from .. import blocks
from ..column_bytes import LEAST, packed
from ..signature import as_lists

FLUSH_SECONDS = 0.1
MOST_QUEUED = 20_000
MOST_QUEUED_VALUES = 4_000_000
"""Values (cells of inputs) that may wait in memory; records beyond are dropped and counted."""
_MOST_TOGETHER = 512
_MOST_VALUES_TOGETHER = 131_072
ROTATE_BYTES = 16_000_000
ROTATE_SECONDS = 60.0


class Record(msgspec.Struct, gc=False):
    """One request, as little as the hot path has to put down; the writer does the rest."""

    time: float
    id: str
    status: int
    latency_ms: float
    rows: int
    error: str | None = None
    given: Mapping[str, Any] | blocks.Table | None = None
    """Its columns, arrays by name, when they are kept as they are."""
    outputs: Any = None
    """What was answered, arrays by name; whatever *payload* takes where there is one."""
    payload: Callable[[Any], tuple[Mapping[str, Any] | None, Mapping[str, Any] | None]] | None = None
    """Else: gives inputs and outputs, arrays or lists by name, out of the outputs; called in the writer's thread."""
    values: int = 0


class Capture:
    """A bounded queue and the thread that empties it into the live file; without a folder nothing is kept."""

    def __init__(self, folder: Path | None, *, payload_percent: float) -> None:
        self.dropped = 0
        self.write_errors = 0
        self._kept = folder is not None
        self._folder = folder or Path()
        self._share = payload_percent / 100 if self._kept else 0
        self._queue: deque[Record | blocks.Sheet] = deque()
        self._sheet: blocks.Sheet | None = None
        self._turning = threading.Lock()  # held while the sheet is written on, or taken away
        self._requests_in = self._values_in = 0  # counted by the caller's thread alone
        self._requests_out = self._values_out = 0  # counted by the writer's thread alone
        self._torn = False
        self._file: int | None = None
        self._size = 0
        self._opened = 0.0
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._write_until_ended, name="capture", daemon=True)

    @property
    def waiting(self) -> int:
        """Records not yet written."""
        return self._requests_in - self._requests_out

    def start(self, *, signature: Mapping[str, Any] | None) -> None:
        """Close what an earlier process left, put the signature beside, and begin to write."""
        if not self._kept:
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._close_leftovers()
            (self._folder / "signature.json").write_bytes(msgspec.json.encode(signature))
        except OSError as error:
            self._disk_said(error)
        self._thread.start()

    def sampled(self) -> bool:
        """Whether this request's inputs and outputs are kept."""
        return self._share >= 1 or (self._share > 0 and random.random() < self._share)

    def put(self, record: Record) -> None:
        """Queue one record; drops (and counts) it when the queue is full.  Never waits."""
        if not self._kept:
            return
        if self._requests_in - self._requests_out >= MOST_QUEUED or self._values_in - self._values_out > MOST_QUEUED_VALUES:
            self.dropped += 1
            return
        self._requests_in += 1
        self._values_in += record.values
        if record.status != 200 or not record.outputs or not self._put_down(record):
            self._queue.append(record)

    def put_all(self, records: list[Record], given: Mapping[str, Any] | blocks.Table, outputs: Mapping[str, Any]) -> None:
        """Queue records that were answered together, whose arrays are there one behind the other too: for most it is the work of one."""
        values = sum([record.values for record in records])
        if self._has_room(len(records), values) and all(record.given is not None for record in records):
            with self._turning:
                if self._sheet and self._sheet.take(records, given, outputs):
                    self._requests_in += len(records)
                    self._values_in += values
                    return
        for record in records:
            self.put(record)

    def _has_room(self, requests: int, values: int) -> bool:
        waiting = self._requests_in - self._requests_out + requests
        return waiting <= MOST_QUEUED and self._values_in - self._values_out + values <= MOST_QUEUED_VALUES

    def _put_down(self, record: Record) -> bool:
        """Whether the sheet took *record*; a new one is begun where the last is full, or of another kind."""
        given, outputs = record.given, record.outputs
        if given is None:
            return False
        with self._turning:
            if self._sheet and self._sheet.take([record], given, outputs):
                return True
            sheet = blocks.Sheet(record, most=_MOST_TOGETHER, most_values=_MOST_VALUES_TOGETHER)
            if not sheet.take([record], given, outputs):
                return False
            if self._sheet:
                self._queue.append(self._sheet)
            self._sheet = sheet
            return True

    def end(self) -> None:
        """Write what waits and close the file."""
        self._ending.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def _write_until_ended(self) -> None:
        while not self._ending.wait(FLUSH_SECONDS):
            self._flush()
            self._rotate_when_due()
        self._flush()
        self._close()

    def _flush(self) -> None:
        """Write all that waits, a part at a time: whoever computes an answer waits for Python's lock no longer than a part takes."""
        with self._turning:
            if self._sheet:
                self._queue.append(self._sheet)
                self._sheet = None
        left = self.waiting
        while left > 0 and self._queue:
            lines, requests, values = self._next()
            self._append(lines, requests)
            self._requests_out += requests
            self._values_out += values
            left -= requests

    def _next(self) -> tuple[bytes, int, int]:
        """What waits longest, as lines, few enough to be worded in about a millisecond; how many requests and values they are."""
        if isinstance(sheet := self._queue[0], blocks.Sheet):
            self._queue.popleft()
            return _together(sheet), len(sheet.asked), sheet.values
        found: list[bytes] = []
        values = 0
        while self._queue and isinstance(record := self._queue[0], Record) and len(found) < _MOST_TOGETHER and values < _MOST_VALUES_TOGETHER:
            self._queue.popleft()
            values += record.values
            found.append(line(record))
        return b"".join(found), len(found), values

    def _append(self, buffer: bytes, records: int) -> None:
        try:
            if self._file is None:
                self._open()
            view = memoryview(b"\n" + buffer if self._torn else buffer)
            self._torn = True  # until all of it is written: a disk may take half a line
            while view:
                view = view[os.write(self._file, view) :]  # type: ignore[arg-type]
            self._torn = False
            self._size += len(buffer)
        except OSError as error:
            self.dropped += records
            self._disk_said(error)

    def _disk_said(self, error: OSError) -> None:
        """Counted, and told once: a full disk must not stop the answers."""
        if not self.write_errors:
            code = errno.errorcode.get(error.errno or 0, "?")
            sys.stderr.write(f"capture.failed {self._folder} cannot be written ({code}: {error.strerror}); requests are still answered\n")
        self.write_errors += 1

    @property
    def _live(self) -> Path:
        return self._folder / f"live-{os.getpid()}.jsonl"

    def _open(self) -> None:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._file = os.open(self._live, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._size, self._opened = 0, time.monotonic()

    def _rotate_when_due(self) -> None:
        if self._file is not None and (self._size >= ROTATE_BYTES or time.monotonic() - self._opened >= ROTATE_SECONDS):
            self._close()

    def _close(self) -> None:
        if self._file is None:
            return
        try:
            os.close(self._file)
            self._live.rename(self._folder / f"closed-{time.time_ns()}.jsonl")
        except OSError as error:
            self._disk_said(error)
        self._file = None

    def _close_leftovers(self) -> None:
        """Live files of processes that are gone (killed) become closed ones."""
        for left in self._folder.glob("live-*.jsonl"):
            pid = left.stem.removeprefix("live-")
            if pid.isdigit() and (int(pid) == os.getpid() or not _lives(int(pid))):
                left.rename(self._folder / f"closed-{time.time_ns()}.jsonl")


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _together(sheet: blocks.Sheet) -> bytes:
    """All of the sheet in one line; few small requests in a line each, and also those that hold a value that JSON has no word for: its own line says which."""
    if len(sheet.asked) >= blocks.LEAST or sheet.values >= LEAST:
        try:
            return _json(sheet.block())
        except (TypeError, ValueError, OverflowError):
            pass
    apart = [Record(one.time, one.id, 200, one.latency_ms, one.rows, given=one.given, outputs=one.outputs, values=one.values) for one in sheet.apart()]
    return b"".join(map(line, apart))


def line(record: Record) -> bytes:
    """The record as JSON; many numbers as `column_bytes` has them, few as digits, which orjson writes in a quarter of the time lists of them take."""
    facts = {"time": _moment(record.time), "id": record.id, "status": record.status, "latency_ms": round(record.latency_ms, 3), "rows": record.rows}
    try:
        return _json(facts | _kept(record) | {"error": record.error})
    except (TypeError, ValueError, OverflowError) as error:  # a value that JSON has no word for, such as a 70-bit number
        return _json(facts | {"inputs": None, "outputs": None, "error": record.error or f"not kept: {error}"})


def _kept(record: Record) -> dict[str, Any]:
    inputs, outputs = record.payload(record.outputs) if record.payload else _arrays(record)
    if not inputs or record.values < LEAST:
        return {"inputs": _plain(inputs), "outputs": _plain(outputs)}
    few, groups = packed(inputs)
    return {"inputs": _plain(few), "outputs": _plain(outputs)} | ({"packed": groups} if groups else {})


def _arrays(record: Record) -> tuple[Mapping[str, Any] | None, Mapping[str, Any] | None]:
    """Outputs as lists, so that their digits are those of the answer."""
    given = record.given.arrays() if isinstance(record.given, blocks.Table) else record.given
    if given is None or record.outputs is None:
        return given, None
    return given, {name: array.tolist() if array.dtype.kind != "M" else array for name, array in record.outputs.items()}


def _json(facts: Mapping[str, Any]) -> bytes:
    return orjson.dumps(facts, default=_as_text, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE)


@lru_cache(maxsize=4)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()[:-6]


def _moment(seconds: float) -> str:
    """UTC in ISO 8601 with microseconds; all but these is worded once a second."""
    micros = round(seconds * 1_000_000)
    return f"{_second(micros // 1_000_000)}.{micros % 1_000_000:06d}+00:00"


def _plain(columns: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """Dates as `as_lists` spells them; the rest as it is."""
    if columns and any(getattr(values, "dtype", None) is not None and values.dtype.kind == "M" for values in columns.values()):
        return as_lists(columns)
    return columns


def _as_text(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)
