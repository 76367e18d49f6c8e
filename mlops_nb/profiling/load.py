"""The load: requests sent by a process of its own, `python -m mlops_nb.profiling`, so that measuring does not slow what is measured.

**Open loop** sends on a schedule, so many a second, whether or not earlier answers came, and counts each latency from the moment
the request was *due*.  A client that waits for one answer before it sends the next stops asking just while the server is slow, and
so leaves out the very requests that would have waited: Gil Tene's "coordinated omission" ("How NOT to Measure Latency", Strange
Loop 2015), which his wrk2 corrects in the same way.  **Closed loop** does wait: so many connections, each always with one request on
its way, which is the right question for what a server can do at most, and for the latency of one request alone.

It reads one `Job` as JSON per line of standard input and writes one `Loaded` per line; it ends with standard input, and with whoever measures.
"""

from __future__ import annotations

import gc
import math
import os
import select
import signal
import socket
import sys
import time
from pathlib import Path

import msgspec

from .. import processes
from ..serving.spec import NOT_CAPTURED

_MOST_LATE_SECONDS = 2.0
_IO_SECONDS = 60.0
_OWN_LAG_SECONDS = 0.001
TOO_MANY = 429
"""A server that says so is full, not broken."""


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One stretch of load."""

    port: int
    token_file: str
    bodies: list[str]
    """Requests' bodies, sent in turn."""
    seconds: float
    connections: int
    """At most so many requests are on their way at once."""
    rate: float | None = None
    """Requests a second on a schedule (open loop); None sends as soon as an answer came (closed loop)."""
    least: int = 1
    """Go on beyond *seconds* until so many were sent, four times as long at most."""
    give_up_ms: float | None = None
    """Stop once more than *give_up_share* of the requests took longer: the percentile asked for cannot be kept any more."""
    give_up_share: float = 1.0


class Loaded(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a job; latencies in ms."""

    requests: int = 0
    """Answered with 200."""
    refused: int = 0
    """Answered with 429."""
    unanswered: int = 0
    """Due, and not answered when the load was over; each counts with the time it had waited by then."""
    seconds: float = 0.0
    """From the first request to the last answer."""
    p50_ms: float = 0.0
    p95_ms: float = 0.0
    p99_ms: float = 0.0
    gave_up: bool = False
    status: int = 0
    """Of the first answer that was neither 200 nor 429; 0 when there was none, -1 when the connection broke."""
    error: str = ""
    limited: bool = False
    """The load could not be sent in time, or took a whole core: what was measured is this process too."""
    cpu_seconds: float = 0.0
    """CPU time this process took."""
    sent_late_p99_ms: float = 0.0
    """How late the load itself was: of 100 requests that a connection was free for, 99 were sent within so much of when they were due."""


def main() -> None:
    """Do jobs until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is for whoever measures
    gc.disable()  # nothing here goes in circles, and a collection would be counted as the server's latency
    processes.end_with(os.getppid())
    for line in sys.stdin.buffer:
        sys.stdout.buffer.write(msgspec.json.encode(done(msgspec.json.decode(line, type=Job))) + b"\n")
        sys.stdout.buffer.flush()


def done(job: Job) -> Loaded:
    """Carry out *job*."""
    load = _Load(job)
    try:
        load.run()
    except (OSError, ConnectionError) as error:
        load.status, load.error = load.status or -1, load.error or f"{type(error).__name__}: {error}"
    finally:
        load.close()
    return load.result()


class _Connection:
    """A kept-alive connection; *due* is when its request should have been sent."""

    __slots__ = ("buffer", "due", "expected", "socket")

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=_IO_SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""
        self.due = 0.0
        self.expected = 0

    def fileno(self) -> int:
        return self.socket.fileno()

    def answer(self) -> tuple[int, bytes] | None:
        """Status and body once all of it is there."""
        data = self.socket.recv(1 << 18)
        if not data:
            raise ConnectionError("the server closed the connection")
        self.buffer = self.buffer + data if self.buffer else data
        if not self.expected:
            end = self.buffer.find(b"\r\n\r\n")
            if end < 0:
                return None
            self.expected = end + 4 + _length(self.buffer[:end])
        if len(self.buffer) < self.expected:
            return None
        status, body = int(self.buffer[9:12]), self.buffer
        self.buffer, self.expected = b"", 0
        return status, body


class _Load:
    """The state of one job.  A single loop: what is due is sent, what is there is read."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.requests = _requests(job)
        self.planned = max(int(job.rate * job.seconds), job.least) if job.rate else 0
        self.idle: list[_Connection] = []
        self.asking: set[_Connection] = set()
        self.latencies: list[float] = []
        self.waiting: list[float] = []
        self.own_lags: list[float] = []
        self.refused = self.late = self.sent = self.status = 0
        self.error, self.gave_up = "", False
        self.began = self.ended = self.cpu = 0.0

    def run(self) -> None:
        """Send all of it and wait for the answers, as long as that makes sense."""
        cpu, self.began = time.process_time(), time.perf_counter() + 0.002
        starved = False
        while not self.status and not self.gave_up:
            now = time.perf_counter()
            over = self._all_sent(now)
            if over and not self.asking:
                break
            if not over:
                starved = self._send_what_is_due(starved=starved)
            if self.asking and now - min(c.due for c in self.asking) > _patience(self.job):
                self._give_up()
            self._read(0.25 if over or starved else max(0.0, self._due(self.sent) - time.perf_counter()))
        if self.asking or not self.ended:
            self.ended = time.perf_counter()
        dues = [connection.due for connection in self.asking] + [due for due in map(self._due, range(self.sent, self.planned)) if due < self.ended]
        self.waiting = [(self.ended - due) * 1000 for due in dues]
        self.cpu = time.process_time() - cpu

    def _all_sent(self, now: float) -> bool:
        if self.job.rate:
            return self.sent >= self.planned
        return (now >= self.began + self.job.seconds and self.sent >= self.job.least) or now >= self.began + 4 * self.job.seconds

    def _due(self, number: int) -> float:
        """When the request of this number is to be sent: on the schedule, or as soon as a connection is free."""
        return self.began + number / self.job.rate if self.job.rate else time.perf_counter()

    def _send_what_is_due(self, *, starved: bool) -> bool:
        """Send each request whose time has come while a connection is free; True when there was none left."""
        while not self.job.rate or (self.sent < self.planned and self._due(self.sent) <= time.perf_counter()):
            if not self.idle and len(self.asking) >= self.job.connections:
                return True
            due = self._due(self.sent)
            if not starved:  # late although a connection was free: that is our own doing
                self.own_lags.append(time.perf_counter() - due)
            self._ask(due)
        return False

    def _ask(self, due: float) -> None:
        connection = self.idle.pop() if self.idle else _Connection(self.job.port)
        connection.due = due
        connection.socket.sendall(self.requests[self.sent % len(self.requests)])
        self.asking.add(connection)
        self.sent += 1

    def _read(self, wait: float) -> None:
        """Take the answers that come within *wait* seconds."""
        if not self.asking:
            time.sleep(wait)
            return
        # select counts in microseconds where epoll does in milliseconds, and there are few connections
        for connection in select.select(self.asking, [], [], wait)[0]:
            answer = connection.answer()
            if answer:
                self._count(connection, *answer)

    def _count(self, connection: _Connection, status: int, body: bytes) -> None:
        self.ended = time.perf_counter()
        self.asking.discard(connection)
        self.idle.append(connection)
        if status == 200:
            took = (self.ended - connection.due) * 1000
            self.latencies.append(took)
            self._judge(took)
        elif status == TOO_MANY:
            self.refused += 1
        else:
            self.status, self.error = status, body.partition(b"\r\n\r\n")[2].decode(errors="replace")

    def _judge(self, took: float) -> None:
        job = self.job
        if job.give_up_ms is not None and took > job.give_up_ms and job.rate:
            self.late += 1
            self.gave_up = self.late > max(5.0, job.give_up_share * self.planned)

    def _give_up(self) -> None:
        if self.job.rate is None:
            raise TimeoutError(f"no answer within {_IO_SECONDS:.0f} s")
        self.gave_up = True

    def close(self) -> None:
        """Wait for what the server still computes for us, so that the next job finds it idle; then hang up."""
        until = time.perf_counter() + _MOST_LATE_SECONDS
        try:
            while self.asking and not self.status and time.perf_counter() < until:
                for connection in select.select(self.asking, [], [], 0.25)[0]:
                    if connection.answer():
                        self.asking.discard(connection)
        except OSError:
            pass  # it is gone: `run` has told why, or the next job will
        for connection in (*self.idle, *self.asking):
            connection.socket.close()

    def result(self) -> Loaded:
        """All of it in figures."""
        ordered = sorted(self.latencies + self.waiting)
        lags = sorted(self.own_lags)
        lagging = percentile(lags, 95) > _OWN_LAG_SECONDS
        return Loaded(
            requests=len(self.latencies), refused=self.refused, unanswered=len(self.waiting), seconds=max(1e-9, self.ended - self.began),
            p50_ms=percentile(ordered, 50), p95_ms=percentile(ordered, 95), p99_ms=percentile(ordered, 99), gave_up=self.gave_up,
            status=self.status, error=self.error[:2000], limited=lagging or self.cpu > 0.9 * (self.ended - self.began), cpu_seconds=self.cpu,
            sent_late_p99_ms=percentile(lags, 99) * 1000,
        )  # fmt: skip


def percentile(ordered: list[float], percent: float) -> float:
    """The nearest-rank percentile of values in order; 0 of none."""
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)] if ordered else 0.0


def _patience(job: Job) -> float:
    """Seconds after which a late answer is not waited for; a job without a bound waits as any client would."""
    return _IO_SECONDS if job.give_up_ms is None else max(_MOST_LATE_SECONDS, 5 * job.give_up_ms / 1000)


def _requests(job: Job) -> list[bytes]:
    token = Path(job.token_file).read_text(encoding="utf-8").strip()
    headers = {"host": "127.0.0.1", "content-type": "application/json", "x-mlops-token": token, NOT_CAPTURED: token}
    head = "POST /score HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return [f"{head}content-length: {len(body)}\r\n\r\n".encode() + body for body in (text.encode() for text in job.bodies)]


def _length(head: bytes) -> int:
    """The body's length as the head tells it."""
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    raise ConnectionError("an answer without its length")
