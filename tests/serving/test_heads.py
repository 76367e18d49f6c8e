"""Requests that say the same before their bodies are read as if each were the first."""

from __future__ import annotations

import asyncio
import json
import socket
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mlops_nb.serving.http import Connection, Heads, Request

from .scoring_servers import Running

TOKEN = b"x-mlops-token: right"


class Forgetful(Heads):
    """Knows no head: every request is parsed."""

    def of(self, data: bytes) -> None:
        return None


class Wire:
    """A transport that keeps what it is given."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def is_reading(self) -> bool:
        return True


def request(*lines: bytes, body: bytes, method: bytes = b"POST", length: int | None = None) -> bytes:
    size = b"content-length: %d" % (len(body) if length is None else length)
    return b"\r\n".join([method + b" /score HTTP/1.1", b"host: x", size, *lines, b"", body])


NAMED = b"POST /score HTTP/1.1\r\ncontent-length: 0\r\n" + TOKEN + b"\r\nx-request-id: "
PLAIN, EMPTY = request(TOKEN, body=b"[1]"), request(TOKEN, body=b"")
CLOSING, UPGRADING = request(TOKEN, b"connection: close", body=b"[1]"), request(TOKEN, b"upgrade: other", b"connection: upgrade", body=b"[1]")
BODIES = st.sampled_from([b"[1]", b"[2]", b"", b"\r\n\r\n", b"POST /score HTTP/1.1\r\n\r\n"])
IDS = st.sampled_from([b"one", b"another", b"", b" spaced ", b"a\x00b", b"a\tb", b"\xe9", b"x-request-id: one"])
REQUESTS = st.one_of(
    st.builds(lambda body: request(TOKEN, body=body), BODIES),
    st.builds(lambda body: request(body=body), BODIES),
    st.builds(lambda body: request(TOKEN, b"connection: close", body=body), BODIES),
    st.builds(lambda id, body: request(TOKEN, b"x-request-id: " + id, body=body), IDS, BODIES),
    st.builds(lambda id, other: request(TOKEN, b"x-request-id: " + id, b"X-Request-Id: " + other, body=b"[1]"), IDS, IDS),
    st.builds(lambda id, other: request(b"x-request-id: " + other, TOKEN, b"x-request-id: " + id, body=b"[1]"), IDS, IDS),
    st.builds(lambda id: request(TOKEN, b"X-Request-ID:" + id, body=b"[1]"), IDS),
    st.builds(lambda body: request(TOKEN, b"expect: 100-continue", body=body), BODIES),
    st.builds(lambda body: request(TOKEN, body=body, method=b"HEAD"), BODIES),
    st.just(UPGRADING),
    st.just(request(TOKEN, body=b"[1]", length=2)),
    st.just(b"POST /score HTTP/1.1\r\nhost: x\r\n" + TOKEN + b"\r\ntransfer-encoding: chunked\r\n\r\n3\r\n[1]\r\n0\r\n\r\n"),
    st.just(b"GET / HTTP/1.0\r\n\r\n"),
    st.just(b"nonsense\r\n\r\n"),
)
"""Right ones and wrong ones, many with the same head."""


def took(callers: list[tuple[list[bytes], bool]], heads: Heads) -> Any:
    """What is asked and written when the pieces of each connection come, an empty one being the server's end; slow answers come after the last piece."""

    async def all_of_it() -> list[Any]:
        told: list[Any] = []
        for pieces, slow in callers:
            asked: list[Request] = []
            connection, wire = Connection(asked.append, lambda request: request.headers.get(b"x-mlops-token") == b"right", set(), heads), Wire()
            connection.connection_made(wire)  # type: ignore[arg-type]
            for piece in [*pieces, b""]:
                if wire.closed:
                    break
                connection.data_received(piece) if piece else connection.end()
                for _ in range(0 if slow and piece else 20):
                    if connection.asked:
                        connection.asked.answer(200, b"", connection.asked.body)
                    await asyncio.sleep(0)
            connection.connection_lost(None)
            said = [(one.path, one.method, one.headers, one.body, one.keep_alive, one.welcome, one.too_large) for one in asked]
            told.append((said, b"".join(wire.written), wire.closed))
        return told

    return asyncio.run(all_of_it())


@st.composite
def connections(draw: st.DrawFn) -> list[tuple[list[bytes], bool]]:
    """Callers one after another, and whether their answers are slow: mostly a request in a piece, sometimes several or a part of one."""
    callers = []
    for _ in range(draw(st.integers(1, 3))):
        pieces = draw(st.lists(REQUESTS | st.just(b""), min_size=1, max_size=6))
        if draw(st.booleans()):
            stream = b"".join(pieces)
            cuts = sorted({0, len(stream), *draw(st.lists(st.integers(0, len(stream)), max_size=6))})
            pieces = [stream[begin:end] for begin, end in pairwise(cuts)]
        callers.append((pieces, draw(st.booleans())))
    return callers


@given(callers=connections())
@example(callers=[([NAMED + b"one\r\n\r\n", NAMED + b"another\r\n\r\n", NAMED + b"a\x00b\r\n\r\n"], False)])
@example(callers=[([NAMED + b"one\r\nx-request-id: two\r\n\r\n", NAMED + b"three\r\nx-request-id: two\r\n\r\n"], False)])
@example(callers=[([PLAIN, CLOSING, PLAIN], True)])
@example(callers=[([PLAIN, UPGRADING, PLAIN], True)])
@example(callers=[([EMPTY + request(TOKEN, body=b"", method=b"HEAD"), EMPTY], False)])
@settings(max_examples=500, deadline=None)
def test_whatever_comes_is_taken_as_by_a_server_that_parses_all_of_it(callers: list[tuple[list[bytes], bool]]):
    assert took(callers, Heads()) == took(callers, Forgetful())


def test_a_head_that_came_before_is_not_parsed_again(monkeypatch: pytest.MonkeyPatch):
    asked = request(TOKEN, body=b"[1]"), request(TOKEN, body=b"[2]")
    heads = Heads()
    took([([asked[0]], False)], heads)

    monkeypatch.setattr(Connection, "on_message_begin", None)  # the parser's first word
    [(said, _, _)] = took([([asked[1]], False)], heads)

    assert [one[3] for one in said] == [b"[2]"]


def test_each_of_many_callers_with_the_same_head_gets_its_own_answer(onnx_server: Running):
    wires = [socket.create_connection(("127.0.0.1", onnx_server.spec["port"]), timeout=20) for _ in range(4)]
    token = b"x-mlops-token: %b" % onnx_server.token.encode()
    try:
        for turn in range(5):
            ids = [f"{turn}{place}" for place in range(len(wires))]
            for wire, id in zip(wires, ids, strict=True):
                wire.sendall(request(token, body=json.dumps({"id": id, "inputs": []}).encode()).replace(b"/score", b"/v2/models/late/infer"))
            told = [wire.recv(65536) for wire in wires]
            assert [f"x-request-id: {id}".encode() in answer for id, answer in zip(ids, told, strict=True)] == [True] * len(wires)
    finally:
        for wire in wires:
            wire.close()
