"""The dashboard's process: Streamlit on 127.0.0.1, one per workspace, alive until `stop`."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
import urllib.request
import webbrowser
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import psutil

from . import ports, processes
from .errors import DashboardFailed, MissingExtra, PortInUse
from .settings import Workspace

if TYPE_CHECKING:
    from collections.abc import Iterator

OPTIONS = (
    "--server.address=127.0.0.1",
    "--server.headless=true",
    "--server.fileWatcherType=none",
    "--browser.serverAddress=127.0.0.1",
    "--browser.gatherUsageStats=false",
    "--client.toolbarMode=minimal",
    "--client.showErrorLinks=false",
    "--theme.light.primaryColor=#0b57d0",
    "--theme.dark.primaryColor=#8ab4f8",
)
"""How Streamlit is run, but for the port; the two colours keep enough contrast on their backgrounds."""
_COMMAND = ("-m", "streamlit", "run")
_STOP_SECONDS = 5.0
_LEAVE_SECONDS = 1.0


class Running(msgspec.Struct, frozen=True):
    """A dashboard's process."""

    pid: int
    port: int

    @property
    def address(self) -> str:
        """Where a browser finds it."""
        return f"http://127.0.0.1:{self.port}"

    def process(self) -> psutil.Process | None:
        """The process, while it runs; not that of the workspace which this one is a copy of."""
        process = processes.again(self.pid, _COMMAND)
        try:
            return process if process and Path(process.cwd()) == Workspace.current().run.resolve() else None
        except psutil.Error:  # it has just ended
            return None


def start(*, port: int | None = None, open_browser: bool = False) -> str:
    """The dashboard's address, once it answers there; the one already running is used.

    Without *port* it gets the port it had before, if that is free, so that bookmarks stay good.
    Raises MissingExtra, PortInUse, DashboardFailed with the log's last lines.
    """
    with _one_at_a_time():
        running = _running() or _started(port)
    if open_browser:
        webbrowser.open(running.address)
    return running.address


def address() -> str | None:
    """Where this workspace's dashboard runs, or None."""
    running = _running()
    return running.address if running else None


def seen_from_here(address: str) -> str:
    """*address* as the browser reaches it that shows this notebook: of a server that a JupyterHub started, by way of that server."""
    prefix = os.environ.get("JUPYTERHUB_SERVICE_PREFIX")
    public = os.environ.get("JUPYTERHUB_PUBLIC_URL") or prefix
    return behind(address, public) if prefix and public else address


def behind(address: str, base_url: str) -> str:
    """*address* by way of the Jupyter server with this base URL (see `proxied`)."""
    return f"{base_url.rstrip('/')}/mlops_nb/at/{address.rpartition(':')[2]}/"


def serves(port: int) -> bool:
    """Whether a dashboard was started on *port*, of whichever workspace, and by whichever Python: a notebook's may be another than its server's."""
    commands = (process.info["cmdline"][1 + len(_COMMAND) :] for process in processes.started_with(_COMMAND))
    return any(Path(page).parts[-2:] == ("dashboard", "served.py") and f"--server.port={port}" in options for page, *options in filter(None, commands))


def stop() -> bool:
    """End the dashboard; says whether one ran."""
    with _one_at_a_time():
        running = _running()
        if running:
            _end(running)
        return bool(running)


def folder() -> Path:
    """Where the pages are: `dashboard/` beside this package in a checkout, inside it in an installed wheel."""
    package = Path(__file__).parent
    inside, beside = package / "dashboard", package.parent / "dashboard"
    return inside if (inside / "app.py").exists() else beside


def _started(port: int | None) -> Running:
    if not importlib.util.find_spec("streamlit"):
        raise MissingExtra("streamlit", extra="dashboard", doing="The dashboard")
    chosen = _chosen_port(port)
    running = Running(_launch(chosen), chosen)
    try:
        _wait_until_it_answers(running)
    except BaseException:
        _end(running)
        raise
    _remember(running)
    return running


def _launch(port: int) -> int:
    workspace = Workspace.current()
    workspace.run.mkdir(parents=True, exist_ok=True, mode=0o700)
    command = [sys.executable, *_COMMAND, str(folder() / "served.py"), f"--server.port={port}", *OPTIONS]
    with _log().open("wb") as log:
        process = subprocess.Popen(
            command, env=os.environ | {"MLOPS_HOME": str(workspace.root)}, cwd=workspace.run, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip
    return processes.ours(process)


def _wait_until_it_answers(running: Running) -> None:
    deadline = time.monotonic() + Workspace.current().settings().start_timeout_seconds
    while not _answers(running.port):
        if not running.process():
            raise DashboardFailed("stopped before it answered", log=_last_lines())
        if time.monotonic() > deadline:
            raise DashboardFailed("did not answer in time", log=_last_lines())
        time.sleep(0.05)


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/_stcore/health", timeout=2) as answer:
            return answer.status == 200
    except OSError:
        return False


def _end(running: Running) -> None:
    if process := running.process():
        processes.end(process, patient_seconds=_STOP_SECONDS)


def _chosen_port(port: int | None) -> int:
    if port is not None:
        if ports.taken(port):
            raise PortInUse(port)
        return port
    before = _read()
    if before and _is_left(before.port):
        return before.port
    return ports.free_port()


def _is_left(port: int) -> bool:
    """Whether it is free, or soon is: a process that was killed is told as dead a moment before the last of its threads lets go of its sockets."""
    deadline = time.monotonic() + _LEAVE_SECONDS
    while ports.taken(port):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _running() -> Running | None:
    running = _read()
    return running if running and running.process() else None


def _read() -> Running | None:
    try:
        return msgspec.json.decode(_note().read_bytes(), type=Running)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def _remember(running: Running) -> None:
    scratch = _note().with_suffix(".new")
    scratch.write_bytes(msgspec.json.encode(running))
    scratch.replace(_note())


def _note() -> Path:
    return Workspace.current().run / "dashboard.json"


def _log() -> Path:
    return Workspace.current().run / "dashboard.log"


def _last_lines(most: int = 12) -> str:
    return "\n".join(_log().read_text(encoding="utf-8", errors="replace").splitlines()[-most:])


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Two notebooks that start it together get the same one."""
    import fcntl

    run = Workspace.current().run
    run.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (run / "dashboard.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
