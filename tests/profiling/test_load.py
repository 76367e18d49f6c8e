"""The load generator, against a server whose manners are known."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mlops_nb.profiling.load import Job, Loaded, done, percentile

Answer = Callable[[int, bytes], bytes]
STALL_SECONDS = 0.6


def said(status: int, body: bytes = b"{}") -> bytes:
    return b"HTTP/1.1 %d Word\r\ncontent-type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)


class Known(socketserver.ThreadingTCPServer):
    """Answers each request with what *answer* gives for its number; one at a time, as a single worker would."""

    daemon_threads = True
    request_queue_size = 100

    def __init__(self, answer: Answer) -> None:
        super().__init__(("127.0.0.1", 0), Conversation)
        self.answer = answer
        self.lock = threading.Lock()
        self.seen: list[bytes] = []


class Conversation(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        server = self.server
        assert isinstance(server, Known)
        while head := self._head():
            length = next(int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            body = self.rfile.read(length)
            with server.lock:
                server.seen.append(head + body)
                answer = server.answer(len(server.seen), body)
            if not answer:
                return
            self.wfile.write(answer)

    def _head(self) -> bytes:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            line = self.rfile.readline()
            if not line:
                return b""
            head += line
        return head


Ask = Callable[..., tuple[Loaded, Known]]


@pytest.fixture
def ask(tmp_path: Path) -> Iterator[Ask]:
    """Runs a job against a server that answers so: `ask(answer, rate=100, seconds=1)`."""
    servers: list[Known] = []
    (tmp_path / "token").write_text("the-token\n")

    def run(answer: Answer, **job: object) -> tuple[Loaded, Known]:
        server = Known(answer)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        told = {"bodies": ['{"a": 1}', '{"a": 2}'], "seconds": 0.3, "connections": 4} | job
        return done(Job(port=server.server_address[1], token_file=str(tmp_path / "token"), **told)), server  # type: ignore[arg-type]

    yield run
    for server in servers:
        server.shutdown()
        server.server_close()


def stalling(number: int, body: bytes) -> bytes:
    """Answers at once but for the tenth request, which takes a while."""
    if number == 10:
        threading.Event().wait(STALL_SECONDS)
    return said(200)


def test_on_a_schedule_every_request_that_was_due_while_the_server_stalled_counts_as_waiting(ask: Ask) -> None:
    waited, _ = ask(stalling, rate=100.0, seconds=1.0, connections=4)

    # 60 of the 100 requests were due in the stall, evenly: a good quarter of all waited at least half of it
    assert waited.requests == 100
    assert waited.p95_ms > STALL_SECONDS * 1000 / 2


def test_a_client_that_waits_for_answers_leaves_that_out(ask: Ask) -> None:
    on_schedule, _ = ask(stalling, rate=100.0, seconds=1.0)
    one_by_one, _ = ask(stalling, connections=1, seconds=1.0, least=100)

    assert one_by_one.p95_ms < on_schedule.p95_ms


def test_the_requests_are_the_bodies_in_turn_with_the_token_and_the_mark_that_keeps_them_out_of_telemetry(ask: Ask) -> None:
    _, server = ask(lambda number, body: said(200), rate=40.0, seconds=0.1)

    assert [request[-8:] for request in server.seen] == [b'{"a": 1}', b'{"a": 2}'] * 2
    assert all(b"x-mlops-token: the-token\r\n" in request and b"x-mlops-uncaptured: the-token\r\n" in request for request in server.seen)


def test_as_many_requests_are_sent_as_the_rate_says(ask: Ask) -> None:
    loaded, server = ask(lambda number, body: said(200), rate=200.0, seconds=0.5)

    assert loaded.requests == len(server.seen) == 100


def test_the_load_goes_on_until_there_are_enough_requests(ask: Ask) -> None:
    loaded, _ = ask(lambda number, body: said(200), rate=50.0, seconds=0.1, least=20)

    assert loaded.requests == 20


def test_the_models_own_error_ends_the_load_and_is_kept(ask: Ask) -> None:
    loaded, server = ask(lambda number, body: said(500, b'{"error": "ValueError: no"}') if number == 7 else said(200), connections=1, least=50)

    assert (loaded.status, loaded.error) == (500, '{"error": "ValueError: no"}')
    assert len(server.seen) == 7


def test_a_server_that_says_it_is_full_is_counted_not_broken(ask: Ask) -> None:
    loaded, _ = ask(lambda number, body: said(429 if number % 2 else 200), rate=100.0, seconds=0.2)

    assert (loaded.status, loaded.requests, loaded.refused) == (0, 10, 10)


def test_a_server_that_hangs_up_is_told(ask: Ask) -> None:
    loaded, _ = ask(lambda number, body: b"" if number == 3 else said(200), connections=1, least=50)

    assert loaded.status == -1 and "closed the connection" in loaded.error


def test_a_load_that_cannot_keep_its_promise_any_more_is_given_up(ask: Ask) -> None:
    loaded, server = ask(lambda number, body: threading.Event().wait(0.02) or said(200), rate=400.0, seconds=2.0, give_up_ms=50.0, give_up_share=0.05)

    assert loaded.gave_up
    assert len(server.seen) < 800


@pytest.mark.parametrize(("percent", "value"), [(50, 5), (95, 10), (99, 10), (10, 1), (1, 1)])
def test_percentiles_are_of_the_nearest_rank(percent: float, value: int) -> None:
    assert percentile([float(number) for number in range(1, 11)], percent) == value
