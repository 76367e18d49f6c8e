"""The hot path: from a whole request to its answer.  What arrives while the loop turns is scored in one call of the model.

    http.Connection ─ ask ─▶ read (typed, else careful) ─▶ pending ─ turn ─▶ one call ─▶ split ─▶ worded, sent, counted, kept

A request alone waits for nothing: the turn after its arrival takes it.  While a model in a thread computes, the next batch
gathers.  Each request is checked before it joins others, and if the common call raises, each is asked alone, so that one
caller's data never fails another's.  A model is batched only when at its start it gave the same answers, to the last bit, for
rows asked together and alone (`trial.batching`).

Measured as CPU of the server for each request, 16 connections, a forest of 100 trees on 30 features, every request with other
rows (`python -m bench serving` prints it):

    one row    an echo of the body through Granian 85 µs; JSON 42 µs
    64 rows    ONNX Runtime alone 396 µs; JSON 204 µs, binary 135 µs, where the trees are walked by compiled code

(Debian's Python 3.11, docs/benchmarks.md.)  What one row takes is Python for the most part, and each part takes twice as long among the others as by
itself: it pays to do less, rather than to do a step quicker.  Without the kernel's part a row takes 32 µs where four come together, and 25 where
eight do, which is what batching saves.  Of 64 rows' time reading the JSON takes 68 µs (111 where simdjson is not installed) and the walk 50 µs.
Keeping a payload takes 1 µs where requests are scored together and 6 µs where one is alone, one of 64 rows 7 µs.  Two processes of the
same server differ by up to 15 %: what keeping costs is told by one process that does and does not in turn.
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from ..blocks import Table
from ..errors import HungUp, MlopsError, SignatureMismatch
from . import failures
from .capture import Capture, Record
from .engines import Arrays, Engine
from .http import MOST_BYTES, Request
from .metrics import Metrics
from .spec import NOT_CAPTURED, ServerSpec

INLINE_ROWS = 256
"""A larger batch is computed beside the loop, so that health answers meanwhile; together more rows are not asked."""
JSON_HEAD = b"content-type: application/json\r\n"
_UNCAPTURED = NOT_CAPTURED.encode()

Together = tuple[Arrays, Arrays]
"""What several requests were fed and answered, one behind the other."""
Said = tuple[bytes, bytes]
"""Header lines that describe the body, and the body."""


class Refused(MlopsError):
    """A request that is answered with *status* before any model sees it."""

    def __init__(self, status: int, text: str, *, hint: str = "") -> None:
        super().__init__(text, hint=hint)
        self.http_status = status


class Job(msgspec.Struct, eq=False):
    """One request on its way."""

    request: Request
    moment: float
    """When it came, in seconds since 1970."""
    started: float
    """The same by the clock that latencies are told by."""
    id: str
    feed: Arrays = {}
    given: Arrays | Table | None = None
    """The columns as they are kept, beside the outputs."""
    payload: Callable[[Any], tuple[Any, Any]] | None = None
    """Where they are kept otherwise: gives the inputs and the outputs as they are kept, out of the outputs."""
    rows: int = 0
    word: Any = None
    """Makes what is said of the outputs."""


class Scorer:
    """Takes requests, has them computed together where that changes no answer, and answers each."""

    def __init__(self, spec: ServerSpec, engine: Engine, capture: Capture, metrics: Metrics, *, quick: bool, batch_rows: int) -> None:
        self.engine, self.capture, self.metrics, self.spec = engine, capture, metrics, spec
        self.in_flight = 0
        self._batch_rows, self._inline = min(batch_rows, INLINE_ROWS), engine.inline and quick
        self._threads = 2 if engine.inline else 1
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="model")
        self._pending: list[Job] = []
        self._working = 0
        self._turning = False
        self._head = b"azureml-model-deployment: %b\r\nx-request-id: " % spec.deployment.encode()
        self._token = Path(spec.token_file).read_text().strip().encode() if spec.token_file else None
        self._process, self._numbers = secrets.token_hex(6), count(1)
        self._reasons = failures.Latest(spec)

    def trusts(self, word: bytes | None) -> bool:
        """Whether *word* is the server's token; any is where there is none."""
        return self._token is None or (word is not None and hmac.compare_digest(word, self._token))

    @property
    def waiting(self) -> int:
        """How many requests wait for the model."""
        return len(self._pending)

    # ── in ──

    def ask(self, read: Callable[[Job], None], request: Request) -> None:
        """Answer *request*, now or when its batch is computed; *read* fills in the job, and raises what is wrong with it."""
        job = self.begin(request)
        try:
            self.admit(request)
            read(job)
        except (Exception, SystemExit) as error:
            return self.fail(job, error)
        self._pending.append(job)
        if not self._turning:
            self._turning = True
            asyncio.get_running_loop().call_soon(self._turn)
        return None

    def begin(self, request: Request) -> Job:
        """Count the request in, and give it an id."""
        self.in_flight += 1
        given = request.headers.get(b"x-request-id")
        id = (header_safe(given) if given else "") or f"{self._process}-{next(self._numbers):x}"
        return Job(request, time.time(), time.perf_counter(), id)

    def admit(self, request: Request) -> None:
        """Raises Refused for a request beyond those that may wait, and for a body too large."""
        if self.in_flight > self.spec.most_waiting:
            raise Refused(429, f"{self.spec.most_waiting} requests wait already.", hint="ask again in a second")
        if request.too_large:
            raise too_large()

    def _turn(self) -> None:
        """Compute what is pending: here when that is quick, else in a thread that is free."""
        self._turning = False
        while self._pending and (self._inline or self._working < self._threads):
            batch = self._next_batch()
            if self._inline and batch[0].rows <= INLINE_ROWS:
                self._answer(batch, *self._computed(batch))
            elif self._working < self._threads:
                self._working += 1
                asyncio.get_running_loop().run_in_executor(self._pool, self._computed, batch).add_done_callback(partial(self._worked, batch))
            else:
                self._pending[:0] = batch
                return

    def _worked(self, batch: list[Job], done: asyncio.Future[Any]) -> None:
        self._working -= 1
        self._answer(batch, *done.result())
        gone = [job for job in self._pending if job.request.gone]
        if gone:  # others need not wait for what nobody will read
            self._pending = [job for job in self._pending if job not in gone]
            for job in gone:
                self.fail(job, HungUp())
        self._turn()

    def _next_batch(self) -> list[Job]:
        """The first pending request and those that may join it: inputs of the same types and widths, as many rows as were tried."""
        pending = self._pending
        if len(pending) == 1 or self._batch_rows == 1:
            return [pending.pop(0)]
        kind, rows = _kind(pending[0]), 0
        batch: list[Job] = []
        rest: list[Job] = []
        for job in pending:
            if (not batch or rows + job.rows <= self._batch_rows) and _kind(job) == kind:
                rows += job.rows
                batch.append(job)
            else:
                rest.append(job)
        self._pending = rest
        return batch

    # ── computing ──

    def _computed(self, batch: list[Job]) -> tuple[list[Arrays | BaseException], Together | None]:
        """For each of the batch its outputs, or what its own computation raised; and what was asked and answered in one."""
        if len(batch) > 1:
            try:
                joined = _joined(batch)
                outputs = self.engine.compute(joined)
                return _split(batch, outputs), (joined, outputs)
            except (Exception, SystemExit):
                pass  # one of them is at fault: each alone tells which
        return [self._alone(job) for job in batch], None

    def _alone(self, job: Job) -> Arrays | BaseException:
        try:
            return self.engine.compute(job.feed)
        except SystemExit as error:  # a model that calls exit() must not take the server along
            return RuntimeError(f"the model's code called exit({error.code!r})").with_traceback(error.__traceback__)
        except Exception as error:
            return error

    # ── out ──

    def _answer(self, batch: list[Job], computed: list[Arrays | BaseException], together: Together | None) -> None:
        records: list[Record] = []
        for job, outputs in zip(batch, computed, strict=True):
            if isinstance(outputs, BaseException):
                self.fail(job, outputs)
                continue
            try:
                said: Said = job.word(outputs)
            except Exception as error:
                self.fail(job, error)
                continue
            if record := self._tell(job, 200, said, outputs, None):
                records.append(record)
        if together and len(records) == len(batch) and (given := _as_given(batch, together[0])):
            self.capture.put_all(records, given, together[1])
        else:
            for record in records:
                self.capture.put(record)

    def finish(self, job: Job, status: int, said: Said, outputs: Arrays | None, error: str | None = None) -> None:
        """Send the answer, count it, and keep it with its payload when it is in the sampled share."""
        if record := self._tell(job, status, said, outputs, error):
            self.capture.put(record)

    def _tell(self, job: Job, status: int, said: Said, outputs: Arrays | None, error: str | None) -> Record | None:
        """Send the answer and count it; what is to be kept of it."""
        request = job.request
        request.answer(status, b"%b%b%b\r\n" % (said[0], self._head, job.id.encode()), said[1])
        self.in_flight -= 1
        seconds = time.perf_counter() - job.started
        self.metrics.count(status, seconds, job.rows)
        headers = request.headers
        if _UNCAPTURED in headers and self.trusts(headers[_UNCAPTURED]):
            return None
        record = Record(job.moment, job.id, status, seconds * 1000, job.rows, error)
        if self.capture.sampled():
            record.given, record.outputs, record.payload = job.given, outputs, job.payload
            record.values = sum([array.size for array in job.feed.values()]) or len(request.body) // 8
        return record

    def fail(self, job: Job, error: BaseException) -> None:
        """Answer what was wrong: with the request (4xx), or in the model's own code (500), which the owner is told too."""
        if isinstance(error, MlopsError):
            text = f"{error} ({error.hint})" if error.hint else str(error)
            head = JSON_HEAD + b"retry-after: 1\r\n" if error.http_status == 429 else JSON_HEAD
            kept = error.whole if isinstance(error, SignatureMismatch) else str(error)
            return self.finish(job, error.http_status, (head, msgspec.json.encode({"error": text})), None, kept)
        reason = self._reasons.tell(error)
        text = reason.message + (f" ({reason.where})" if reason.where else "")
        return self.finish(job, 500, (JSON_HEAD, msgspec.json.encode({"error": text})), None, reason.message)


def _kind(job: Job) -> list[tuple[Any, ...]]:
    return [(array.dtype, array.shape[1:]) for array in job.feed.values()]


def _joined(batch: list[Job]) -> Arrays:
    return {name: np.concatenate([job.feed[name] for job in batch]) for name in batch[0].feed}


def _as_given(batch: list[Job], joined: Arrays) -> Arrays | Table | None:
    """What the batch was fed, in one, as what it was given; None where it was fed other arrays than it was given."""
    given = batch[0].given
    if isinstance(given, Table):
        [(to, numbers)], columns = joined.items(), given.columns
        same = all(type(job.given) is Table and job.given.columns is columns and job.given.numbers is job.feed[to] for job in batch)
        return Table(numbers, columns) if same else None
    if given is None or len(given) != len(joined):
        return None
    pairs = list(zip(joined, given, strict=True))
    same = all(type(job.given) is dict and job.given.get(name) is job.feed[to] for job in batch for to, name in pairs)
    return {name: joined[to] for to, name in pairs} if same else None


def _split(batch: list[Job], outputs: Arrays) -> list[Arrays | BaseException]:
    """Each job's own rows of the common outputs."""
    rows = sum(job.rows for job in batch)
    if any(array.ndim == 0 or len(array) != rows for array in outputs.values()):
        raise SignatureMismatch("an output has not one entry for each row")
    parts: list[Arrays | BaseException] = []
    first = 0
    for job in batch:
        parts.append({name: array[first : first + job.rows] for name, array in outputs.items()})
        first += job.rows
    return parts


def too_large() -> Refused:
    """The body, as sent or inflated, is more than is taken."""
    return Refused(413, f"The body is larger than {MOST_BYTES // 1024**2} MB.", hint="several requests")


def header_safe(id: bytes | str) -> str:
    """*id* when it may stand in a header, else nothing."""
    text = id.decode("latin-1") if isinstance(id, bytes) else id
    return text if len(text) <= 128 and text.isascii() and text.isprintable() else ""
