"""The workspace's metrics where Prometheus can scrape them: the agent answers on 127.0.0.1, to whoever brings the token of a private file."""

from __future__ import annotations

import hmac
import os
import secrets
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import msgspec

from . import metrics, store
from .errors import MlopsError
from .ports import free_port
from .safety import text_for
from .settings import Workspace
from .store import state

PATH = "/metrics"
_FRESH_SECONDS = 1.0
_PATIENCE_SECONDS = 10.0
_KEY = "metrics_port"


class Scraped(msgspec.Struct, frozen=True, kw_only=True):
    """Where the metrics are, and what Prometheus has to know."""

    url: str
    token_file: str
    configuration: str
    """What goes below `scrape_configs` of Prometheus' configuration."""


def begin() -> Scraped:
    """Want the metrics served from now on; the port is picked once and kept."""
    _token()
    with store.writing() as tx:
        port = state.get(tx, _KEY) or free_port()
        state.put(tx, _KEY, port)
    return _scraped(port)


def end() -> bool:
    """Want them served no longer; False where they were not."""
    with store.writing() as tx:
        was = state.get(tx, _KEY)
        state.put(tx, _KEY, None)
    return bool(was)


def wanted() -> int | None:
    """The port on which they are to be served; None where they are not."""
    with store.reading() as tx:
        return state.get(tx, _KEY)


class Server:
    """What the agent has of it: brought in line with what is wanted, again and again."""

    def __init__(self) -> None:
        self._server: ThreadingHTTPServer | None = None

    def keep(self, port: int | None) -> None:
        """Serve on *port*, or not at all.  Raises OSError where the port is taken."""
        if (self._server.server_address[1] if self._server else None) == port:
            return
        self.stop()
        if port:
            self._server = ThreadingHTTPServer(("127.0.0.1", port), _Handler)
            threading.Thread(target=self._server.serve_forever, daemon=True, name="metrics").start()

    def stop(self) -> None:
        """Serve no more."""
        if self._server:
            self._server.shutdown()
            self._server.server_close()
            self._server = None


class _Handler(BaseHTTPRequestHandler):
    """GET /metrics, with the token; nothing else."""

    timeout = _PATIENCE_SECONDS
    server_version, sys_version = "mlops_nb", ""

    def do_GET(self) -> None:
        """Answer a scrape."""
        given = self.headers.get("Authorization", "").removeprefix("Bearer ").encode()
        if not hmac.compare_digest(given, _token().encode()):
            self._answer(401, f"The token of {_token_file()} goes into the header Authorization: Bearer.\n")
        elif self.path.partition("?")[0] != PATH:
            self._answer(404, f"Only {PATH} is here.\n")
        else:
            self._scrape()

    def _scrape(self) -> None:
        try:
            text = _page()
        except MlopsError as error:
            self._answer(503, f"{error}\n")
        else:
            self._answer(200, text)

    def _answer(self, status: int, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Scrapes are no news."""


_one_at_a_time = threading.Lock()
_latest: tuple[float, str] = (float("-inf"), "")


def _page() -> str:
    """The page, made once a second at most however many ask."""
    global _latest
    with _one_at_a_time:
        if time.monotonic() - _latest[0] > _FRESH_SECONDS:
            _latest = (time.monotonic(), metrics.exposition())
        return _latest[1]


def _scraped(port: int) -> Scraped:
    token_file = str(_token_file())
    configuration = "\n".join([
        "- job_name: mlops_nb",
        "  metrics_path: " + PATH,
        f"  static_configs: [{{targets: [{text_for('yaml', f'127.0.0.1:{port}')}]}}]",
        f"  authorization: {{type: Bearer, credentials_file: {text_for('yaml', token_file)}}}",
    ])  # fmt: skip
    return Scraped(url=f"http://127.0.0.1:{port}{PATH}", token_file=token_file, configuration=configuration)


def _token_file() -> Path:
    return Workspace.current().root / "metrics.token"


def _token() -> str:
    """Made on first use; a file that only the owner can read."""
    place = _token_file()
    try:
        descriptor = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return place.read_text(encoding="ascii").strip()
    with os.fdopen(descriptor, "w", encoding="ascii") as out:
        token = secrets.token_urlsafe(32)
        out.write(token)
    return token
