"""Whoever has no token makes the server hold next to nothing; seen on real sockets."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator

import psutil
import pytest

from mlops_nb.serving import http

from .scoring_servers import Running


@pytest.fixture
def wire(onnx_server: Running) -> Iterator[socket.socket]:
    """A bare connection to a server."""
    with socket.create_connection(("127.0.0.1", onnx_server.spec["port"]), timeout=20) as connection:
        yield connection


def head(length: int, *lines: str) -> bytes:
    return "\r\n".join(["POST /score HTTP/1.1", "host: x", f"content-length: {length}", *lines, "", ""]).encode()


def answered(wire: socket.socket) -> bytes:
    """All that comes until the server hangs up, however it does."""
    told = b""
    try:
        while part := wire.recv(65536):
            told += part
    except ConnectionResetError:
        pass  # it hung up while we were still sending
    return told


def test_a_small_request_without_the_token_is_refused_and_the_connection_goes_on(wire: socket.socket):
    for _ in range(2):
        wire.sendall(head(4) + b"[{}]")

        assert wire.recv(65536).startswith(b"HTTP/1.1 401 ")


def test_a_large_body_without_the_token_is_hung_up_on(wire: socket.socket):
    wire.sendall(head(60_000_000))
    with pytest.raises(OSError):
        for _ in range(60):
            wire.sendall(bytes(1_000_000))


def test_bodies_without_the_token_are_not_held(onnx_server: Running):
    before = psutil.Process(onnx_server.process.pid).memory_info().rss
    wires = [socket.create_connection(("127.0.0.1", onnx_server.spec["port"]), timeout=20) for _ in range(64)]
    try:
        for wire in wires:
            wire.sendall(head(60_000_000) + bytes(1_000_000))  # as much as is read before the caller is hung up on
        onnx_server.client.get("/v2/health/ready").raise_for_status()

        assert psutil.Process(onnx_server.process.pid).memory_info().rss - before < 30_000_000
    finally:
        for wire in wires:
            wire.close()


def test_nobody_without_the_token_is_told_to_send_its_body(wire: socket.socket, onnx_server: Running):
    wire.sendall(head(2, "expect: 100-continue"))
    wire.sendall(b"[]")

    assert wire.recv(65536).startswith(b"HTTP/1.1 401 ")


def test_with_the_token_the_caller_is_told_to_send_it(wire: socket.socket, onnx_server: Running):
    wire.sendall(head(2, "expect: 100-continue", f"x-mlops-token: {onnx_server.token}"))

    assert wire.recv(65536).startswith(b"HTTP/1.1 100 ")


class Slow:
    """A listener of this process whose patience is a moment."""

    def __init__(self) -> None:
        self._loop, self._ready = asyncio.new_event_loop(), threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        self._ready.wait(10)

    def _run(self) -> None:
        listener = http.Listener(lambda request: request.answer(200, b"", b"{}"), lambda request: True)
        self._loop.run_until_complete(listener.start(0))
        self.port = listener.port
        self._ready.set()
        self._loop.run_forever()
        self._loop.run_until_complete(listener.stop(seconds=1))
        self._loop.close()

    def end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[Slow]:
    monkeypatch.setattr(http, "HEADER_SECONDS", 0.2)
    server = Slow()
    yield server
    server.end()


@pytest.mark.parametrize("sent", [b"GET /v2 HTT", b"GET /v2 HTTP/1.1\r\nhost: x\r\n"])
def test_headers_that_do_not_come_are_not_waited_for(slow: Slow, sent: bytes):
    with socket.create_connection(("127.0.0.1", slow.port), timeout=20) as wire:
        wire.sendall(sent)

        assert answered(wire).startswith(b"HTTP/1.1 408 ")


def test_a_second_requests_headers_are_not_waited_for_either(slow: Slow):
    with socket.create_connection(("127.0.0.1", slow.port), timeout=20) as wire:
        wire.sendall(b"GET /v2 HTTP/1.1\r\nhost: x\r\n\r\n")
        assert wire.recv(65536).startswith(b"HTTP/1.1 200 ")
        wire.sendall(b"GET /v2 HTTP/1.1\r\nho")

        assert answered(wire).startswith(b"HTTP/1.1 408 ")


def test_a_caller_that_never_asks_is_hung_up_on(slow: Slow):
    with socket.create_connection(("127.0.0.1", slow.port), timeout=20) as wire:
        assert answered(wire) == b""


def test_a_connection_that_asked_once_may_stay_idle(slow: Slow):
    with socket.create_connection(("127.0.0.1", slow.port), timeout=20) as wire:
        wire.sendall(b"GET /v2 HTTP/1.1\r\nhost: x\r\n\r\n")
        assert wire.recv(65536).startswith(b"HTTP/1.1 200 ")
        wire.settimeout(3 * http.HEADER_SECONDS)
        with pytest.raises(TimeoutError):
            wire.recv(1)
