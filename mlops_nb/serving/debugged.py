"""`python -m mlops_nb.serving.debugged FOLDER`: one model in the foreground, under a debugger's eye, and loaded anew when its code is saved.

FOLDER holds spec.json (a ServerSpec), token, and, if there is one, sample.json, which is asked after each load.  debugpy listens on
127.0.0.1.  Everything that happens is said on standard output; the process ends when its standard input does.
"""

from __future__ import annotations

import hmac
import importlib
import json
import linecache
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from ..errors import MlopsError, PortInUse
from ..store.deployments import Reason
from . import failures
from .azure import AMLRequest
from .engines import load
from .entry import Answered, EntryScript
from .spec import ServerSpec

LOOK_SECONDS = 0.2
_USUAL_PORT = 5678
_MOST_SHOWN = 2000
_JSON = [("content-type", "application/json")]


def main() -> None:
    """Serve until standard input ends."""
    folder = Path(sys.argv[1])
    spec = msgspec.json.decode((folder / "spec.json").read_bytes(), type=ServerSpec)
    sys.dont_write_bytecode = True  # a file saved twice within a second must not be taken for its earlier self
    failures.show_cells(spec.cells)
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    listener = _listener(spec)
    say(f"debugger: 127.0.0.1:{_listen()}")
    served = Served(spec, (folder / "sample.json").read_bytes() if (folder / "sample.json").exists() else None)
    served.load()
    listener.served, listener.token = served, (folder / "token").read_text()
    threading.Thread(target=served.watch, daemon=True).start()
    say(f"ready: http://127.0.0.1:{spec.port}/score")
    listener.serve_forever(poll_interval=60)


def say(text: str) -> None:
    """Tell whoever started the process."""
    sys.stdout.write(text.rstrip("\n") + "\n")
    sys.stdout.flush()


def _end_with_stdin() -> None:
    os.read(0, 1)
    os._exit(0)


def _listen() -> int:
    """Have debugpy wait for a debugger, on its usual port or a free one, and `breakpoint()` mean its breakpoint.  Returns the port."""
    import debugpy

    try:
        port = debugpy.listen(("127.0.0.1", _USUAL_PORT))[1]
    except RuntimeError:  # somebody else debugs too
        port = debugpy.listen(("127.0.0.1", 0))[1]
    sys.breakpointhook = debugpy.breakpoint
    return port


# ── the model ────────────────────────────────────────────────────────────────────────────────────────────────────────


class Served:
    """The model as its code now is: one request at a time, and never one in the middle of a load."""

    def __init__(self, spec: ServerSpec, sample: bytes | None) -> None:
        self._spec, self._sample = spec, sample
        self._lock = threading.RLock()
        self._engine: Any = None
        self._broken: Reason | None = None
        self._seen: dict[Path, tuple[int, int, int]] = {}

    def load(self) -> None:
        """Load the model, and say so or why not; then ask it the sample."""
        with self._lock:
            self._seen = dict(self._files())
            began = time.perf_counter()
            try:
                self._engine, self._broken = load(self._spec), None
            except (Exception, SystemExit) as error:  # whatever the user's code raises is shown, and mended with the next save
                self._broken = failures.why(error, self._spec, doing="exception while loading")
                say(_told(self._broken))
                return
            say(f"✓ loaded {self._name()} in {(time.perf_counter() - began) * 1000:.0f} ms")
            if self._sample is not None:
                self.answer(AMLRequest(headers=[("Content-Type", "application/json")], body=self._sample), shown=True)

    def watch(self) -> None:
        """Load anew whenever a file is saved, for ever."""
        while True:
            time.sleep(LOOK_SECONDS)
            self.catch_up()

    def catch_up(self) -> None:
        """Load anew if a file was saved."""
        with self._lock:
            now = dict(self._files())
            changed = [path for path in now.keys() | self._seen.keys() if now.get(path) != self._seen.get(path)]
            if not changed:
                return
            say(f"saved: {', '.join(sorted(path.name for path in changed))}")
            self._forget()
            self.load()

    def answer(self, request: AMLRequest, *, shown: bool = False) -> Answered:
        """What the model says to *request*; an exception is shown with its line and the request that caused it."""
        with self._lock:
            if self._broken:
                return _error(500, f"{self._broken.message} ({self._broken.where})")
            began = time.perf_counter()
            try:
                answered = self._engine.answer(request) if isinstance(self._engine, EntryScript) else self._predicted(request)
            except MlopsError as refusal:
                say(f"! {refusal}\n  {_request(request)}")
                return _error(refusal.http_status, str(refusal))
            except (Exception, SystemExit) as error:  # the user's own: this is what they came to see
                reason = failures.why(error, self._spec, doing="exception in a request")
                say(_told(reason, request))
                return _error(500, f"{reason.message} ({reason.where})")
        body = f"  {answered.body[:_MOST_SHOWN].decode(errors='replace')}" if shown else ""
        say(f"{answered.status} {request.method} {request.full_path.removesuffix('?')} in {(time.perf_counter() - began) * 1000:.1f} ms{body}")
        return answered

    def _predicted(self, request: AMLRequest) -> Answered:
        from . import score
        from .engines import predict

        signature = self._engine.signature
        columns = score.columns(score.decode(request.data), signature)
        arrays = predict(self._engine, signature.check(columns) if signature else columns)
        return Answered(200, _JSON, msgspec.json.encode(score.answer(arrays)), None)

    def _name(self) -> str:
        return Path(self._spec.script).name if self._spec.script else f"{self._spec.model}:{self._spec.version}"

    def _folders(self) -> list[Path]:
        """Where the code that may be edited lies."""
        if self._spec.script:
            return [Path(self._spec.script).parent]
        return [folder for name in ("entry", "code") if (folder := Path(self._spec.folder) / name).is_dir()]

    def _modules(self) -> list[tuple[str, Path]]:
        """The imported modules that are the user's own and lie in those folders."""
        found = [(name, Path(file)) for name, module in list(sys.modules.items()) if (file := getattr(module, "__file__", None)) and name != "__main__"]
        return [(name, path) for name, path in found if failures.is_users(str(path), self._spec) and any(path.is_relative_to(f) for f in self._folders())]

    def _forget(self) -> None:
        """Have the user's modules imported anew."""
        for name, _ in self._modules():
            del sys.modules[name]
        importlib.invalidate_caches()
        linecache.checkcache()

    def _files(self) -> Iterator[tuple[Path, tuple[int, int, int]]]:
        """The Python files beside the script, and those below it that are imported, as they are now."""
        files = {path for folder in self._folders() for path in folder.glob("*.py")}
        files |= {path for _, path in self._modules()}
        for path in files:
            try:
                stat = path.stat()
            except OSError:
                continue  # being saved, or gone
            yield path, (stat.st_mtime_ns, stat.st_size, stat.st_ino)


def _told(reason: Reason, request: AMLRequest | None = None) -> str:
    """An exception for a person: what, where, which request, and the way there."""
    lines = [f"✗ {reason.message}", f"  at {reason.where}" if reason.where else "", f"  {_request(request)}" if request else "", reason.traceback.rstrip()]
    return "\n".join(line for line in lines if line)


def _request(request: AMLRequest) -> str:
    body = request.data[:_MOST_SHOWN].decode(errors="replace")
    more = f"… ({len(request.data)} bytes)" if len(request.data) > _MOST_SHOWN else ""
    return f"{request.method} {request.full_path.removesuffix('?')} {body}{more}"


def _error(status: int, text: str) -> Answered:
    return Answered(status, _JSON, json.dumps({"error": text}).encode(), None)


# ── over HTTP ────────────────────────────────────────────────────────────────────────────────────────────────────────


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    served: Served
    token: str


def _listener(spec: ServerSpec) -> _Listener:
    try:
        return _Listener(("127.0.0.1", spec.port), _Handler)
    except OSError:
        say(f"✗ {PortInUse(spec.port)}")
        sys.exit(1)


class _Handler(BaseHTTPRequestHandler):
    server: _Listener
    protocol_version = "HTTP/1.1"

    def _handle(self) -> None:
        """One request; only who can read the token's file may ask, so that no web page can."""
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        parts = urlsplit(self.path)
        if parts.path == "/v2/health/ready":
            return self._send(Answered(200, _JSON, b'{"ready":true}', None))
        if not hmac.compare_digest(self.headers.get("x-mlops-token", "").encode(), self.server.token.encode()):
            return self._send(_error(401, "The header x-mlops-token is missing or wrong."))
        if parts.path != "/score":
            return self._send(_error(404, f"No route {parts.path!r}; there is /score."))
        headers = [(name, value) for name, value in self.headers.items() if name.lower() != "x-mlops-token"]
        self.server.served.catch_up()
        return self._send(self.server.served.answer(AMLRequest(method=self.command, path=parts.path, query=parts.query, headers=headers, body=body)))

    do_GET = do_POST = _handle

    def _send(self, answered: Answered) -> None:
        self.send_response(answered.status)
        for name, value in answered.headers:
            self.send_header(name, value)
        self.send_header("content-length", str(len(answered.body)))
        with suppress(ConnectionError):  # whoever asked may have hung up while the debugger stood at a breakpoint
            self.end_headers()
            self.wfile.write(answered.body)

    def log_message(self, format: str, *args: Any) -> None:
        """Said by `Served`, with what was asked and how long it took."""


if __name__ == "__main__":
    main()
