"""HTTP/1.1 on the event loop itself: bytes in, `Request`s out, answers back in their order.

Measured beside an echo through Granian (16 connections, CPU of the server for each request): 10 µs here, 50 µs there, where
every request crosses from a thread in Rust to the loop and back, twice.  What arrives together is also read together, which is
what lets `hot.Scorer` score it together.  Parsing is llhttp's (Node.js's parser, through httptools), strict; of a caller that says the
same before each body, byte for byte but for an `x-request-id`, it is done once.

A body is kept only for whoever may ask: the token is looked at when the headers are there, before any of the body is buffered,
and headers have ten seconds.  So nobody without the token makes a connection hold more than 64 KB.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, NamedTuple

import httptools
import msgspec

MOST_BYTES = 64 * 1024 * 1024
"""Of one body, as the gateway lets through; also after inflating."""
_MOST_HEADER_BYTES = 65_536
_MOST_PIPELINED = 16
_MOST_UNWELCOME = 1024 * 1024
"""Of a body that is not kept, before the caller is hung up on."""
HEADER_SECONDS = 10.0
"""What a caller may take for a request's headers, and from connecting to the end of its first."""
_MOST_HEADS, _LONGEST_HEAD = 256, 2048
_CLOSE = b"connection: close\r\n"
_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}


class Request(msgspec.Struct, eq=False):
    """One whole request and the connection that waits for its answer."""

    connection: Connection
    path: str = ""
    method: str = ""
    headers: dict[bytes, bytes] = {}
    """By name in lower case; of several of one name the last.  Other requests may share them."""
    body: bytes = b""
    welcome: bool = False
    """The caller may ask; of others no body is kept."""
    too_large: bool = False
    """The body was larger than MOST_BYTES and was not kept."""
    keep_alive: bool = True

    def __repr__(self) -> str:
        return f"<{self.method} {self.path}>"  # no header: one is the token

    @property
    def gone(self) -> bool:
        """Whether the caller has hung up, so that nobody waits for the answer."""
        return self.connection.is_closed

    def answer(self, status: int, head: bytes, body: bytes) -> None:
        """Send the answer; *head* is whole header lines.  One whose caller is gone is forgotten."""
        self.connection.send(self, status, head, body)


class Head(NamedTuple):
    """What a request said before its body, which was welcome and whole."""

    path: str
    method: str
    headers: dict[bytes, bytes]
    """Shared by all requests that say the same."""
    size: int
    """Of the body, in bytes."""


class Heads:
    """The newest heads by their bytes: what llhttp made of them, it would make of them again.

    The gateway gives every request an `x-request-id` of its own, so heads are known without what that says.
    """

    def __init__(self) -> None:
        self._known: dict[bytes, Head] = {}

    def of(self, data: bytes) -> tuple[Head, int] | None:
        """The head that *data* begins with and where its body begins, when nothing comes before or after these."""
        end = data.find(b"\r\n\r\n", 0, _LONGEST_HEAD) + 4
        if end <= 4:
            return None
        key, id = _without_id(data[:end])
        head = self._known.get(key)
        if head is None or end + head.size != len(data):
            return None
        return (head._replace(headers=head.headers | {_ID: id}) if id else head), end

    def keep(self, data: bytes, request: Request) -> None:
        """Know the head of *request*, which *data* begins with, when another one may begin just so."""
        end = data.find(b"\r\n\r\n", 0, _LONGEST_HEAD) + 4
        declared = request.headers.get(b"content-length", b"")
        whole = end > 4 and declared.isdigit() and int(declared) == len(request.body)
        if not whole or not request.welcome or not request.keep_alive or _ONCE & request.headers.keys():
            return
        key, id = _without_id(data[:end])
        if key.lower().count(_ID) != bool(id):
            return  # an id that is said twice, or in another way
        if len(self._known) >= _MOST_HEADS:
            del self._known[next(iter(self._known))]
        self._known[key] = Head(request.path, request.method, request.headers, len(request.body))


_ONCE = {b"expect", b"upgrade", b"transfer-encoding", b"trailer"}
"""Headers of a request whose head is not all that there is to read."""
_ID = b"x-request-id"
_ID_LINE = re.compile(rb"\r\nx-request-id: ([\w.:-]{1,128})\r\n")


def _without_id(head: bytes) -> tuple[bytes, bytes]:
    """The head without its request's id, and that id; the whole head where it has none, or not one that is plainly said."""
    found = _ID_LINE.search(head)
    return (head[: found.start(1)] + head[found.end(1) :], found[1]) if found else (head, b"")


class Connection(asyncio.Protocol):
    """One caller's connection: requests are given to *ask* one at a time, so that answers come in the order of the questions."""

    def __init__(self, ask: Callable[[Request], None], welcomes: Callable[[Request], bool], open_: set[Connection], heads: Heads) -> None:
        self._ask, self._welcomes, self._open, self._heads = ask, welcomes, open_, heads
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._request: Any = None
        """The request whose bytes are coming in, or None between two."""
        self._fresh = b""
        """The bytes that a request began with, while they are parsed."""
        self._last = False
        """Nothing may come after the request that came."""
        self._body: list[bytes] = []
        self._size = 0
        self._waiting: deque[Request] = deque()
        self.asked: Request | None = None
        """The request that is being answered."""
        self._ending = False
        self._full = False
        self._headers_due: asyncio.TimerHandle | None = None

    @property
    def is_closed(self) -> bool:
        """Whether nothing can be sent any more."""
        return self._transport is None or self._transport.is_closing()

    # ── in ──

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        self._open.add(self)
        self._headers_due = asyncio.get_running_loop().call_later(HEADER_SECONDS, self._too_slow)

    def _too_slow(self) -> None:
        self._headers_due = None
        if self._request is not None:
            self._refuse(408, f"The headers were not there within {HEADER_SECONDS:.0f} seconds.")
        elif self._transport:
            self._transport.close()  # connected and never asked

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._waiting.clear()
        self._open.discard(self)
        if self._headers_due:
            self._headers_due.cancel()

    def data_received(self, data: bytes) -> None:
        if self._request is None:
            if self._ending and self.asked is None:
                return
            if not self._last and (known := self._heads.of(data)):
                self._take_known(data, *known)
                return
            self._fresh = data
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self.end()  # no protocol but this one is spoken here: answered, then closed
        except httptools.HttpParserError as error:
            self._refuse(400, f"This is not HTTP: {error}.")
        self._fresh = b""
        if self._headers_due is None and self._request is not None and not self._request.method and self._transport:
            # Set only for headers that come in parts, so that a whole request costs no timer.
            self._headers_due = asyncio.get_running_loop().call_later(HEADER_SECONDS, self._too_slow)

    def _take_known(self, data: bytes, head: Head, begins: int) -> None:
        """A whole request whose head was parsed before; the parser, which waits for a request's first byte, goes on waiting."""
        if self._headers_due:
            self._headers_due.cancel()
            self._headers_due = None
        self._take(Request(self, head.path, head.method, head.headers, data[begins:], True))

    def on_message_begin(self) -> None:
        self._request, self._body, self._size = Request(self), [], 0

    def on_url(self, part: bytes) -> None:
        self._request.path += part.decode("latin-1")
        self._count(len(part))

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._body or self._request.method:
            return  # a trailer
        self._request.headers[name.lower()] = value
        self._count(len(name) + len(value))

    def _count(self, more: int) -> None:
        self._size += more
        if self._size > _MOST_HEADER_BYTES:
            self._refuse(431, "The headers are larger than 64 KB.")

    def on_headers_complete(self) -> None:
        request = self._request
        request.method = self._parser.get_method().decode("latin-1")
        self._size = 0
        declared = request.headers.get(b"content-length", b"")
        request.too_large = declared.isdigit() and int(declared) > MOST_BYTES
        request.welcome = self._welcomes(request)
        if self._headers_due:
            self._headers_due.cancel()
            self._headers_due = None
        if request.headers.get(b"expect", b"").lower() == b"100-continue" and request.welcome and not request.too_large and self._transport:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, part: bytes) -> None:
        request = self._request
        self._size += len(part)
        if self._size > MOST_BYTES:
            request.too_large = True
        if not request.welcome and self._size > _MOST_UNWELCOME:
            self._refuse(401, "The body of a request without the token is not read.")
        elif request.too_large or not request.welcome:
            self._body.clear()
        else:
            self._body.append(part)

    def on_message_complete(self) -> None:
        request, self._request = self._request, None
        request.body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._body = []
        request.keep_alive = self._parser.should_keep_alive()
        self._last = not request.keep_alive
        self._heads.keep(self._fresh, request)
        self._fresh = b""  # the next one in the same bytes begins elsewhere
        self._take(request)

    def _take(self, request: Request) -> None:
        if self.asked is None and not self._full:
            self.asked = request
            self._ask(request)
        else:
            self._waiting.append(request)
            if len(self._waiting) >= _MOST_PIPELINED and self._transport:
                self._transport.pause_reading()

    # ── out ──

    def send(self, request: Request, status: int, head: bytes, body: bytes) -> None:
        """Send the answer to *request* and go on to the next."""
        if self._transport is None or self.asked is not request:
            return
        ends = self._ending or not request.keep_alive
        content = b"" if request.method == "HEAD" else body
        self._transport.write(b"%b%b%bcontent-length: %d\r\n\r\n%b" % (_LINES[status], head, _CLOSE if ends else b"", len(body), content))
        self.asked = None
        if ends and not self._waiting:
            self._transport.close()
        elif self._waiting:
            asyncio.get_running_loop().call_soon(self._next)

    def _next(self) -> None:
        if self._waiting and self.asked is None and not self._full:
            self.asked = self._waiting.popleft()
            if self._transport and not self._transport.is_reading():
                self._transport.resume_reading()
            self._ask(self.asked)

    def pause_writing(self) -> None:
        self._full = True  # a caller that does not read gets no further answers until it does

    def resume_writing(self) -> None:
        self._full = False
        self._next()

    def _refuse(self, status: int, text: str) -> None:
        """Say what is wrong with the bytes themselves, and hang up."""
        if self._transport:
            body = b'{"error":"%b"}' % text.encode("ascii", "replace").replace(b"\\", b"\\\\").replace(b'"', b'\\"')
            head = b"content-type: application/json\r\nconnection: close\r\n"
            self._transport.write(b"%b%bcontent-length: %d\r\n\r\n%b" % (_LINES[status], head, len(body), body))
            self._transport.close()
            self._transport = None

    def end(self) -> None:
        """Hang up once what was asked is answered."""
        self._ending = True
        if self.asked is None and not self._waiting and self._request is None and self._transport:
            self._transport.close()


class Listener:
    """All connections of one port."""

    def __init__(self, ask: Callable[[Request], None], welcomes: Callable[[Request], bool]) -> None:
        self._ask, self._welcomes = ask, welcomes
        self._open: set[Connection] = set()
        self._heads = Heads()
        self._server: asyncio.Server | None = None

    @property
    def port(self) -> int:
        """Where it listens, once started."""
        return self._server.sockets[0].getsockname()[1] if self._server else 0

    async def start(self, port: int, *, host: str = "127.0.0.1") -> None:
        """Listen.  Raises OSError when the port is taken."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Connection(self._ask, self._welcomes, self._open, self._heads), host, port, backlog=1024)

    async def stop(self, *, seconds: float) -> None:
        """Accept nothing more, answer what was asked (for *seconds* at most), and hang up."""
        await asyncio.sleep(0)  # what has arrived already is read first
        if self._server:
            self._server.close()
        until = asyncio.get_running_loop().time() + seconds
        for connection in list(self._open):
            connection.end()
        while any(connection.asked for connection in self._open) and asyncio.get_running_loop().time() < until:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0)
