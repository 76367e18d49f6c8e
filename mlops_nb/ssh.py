"""Another machine through the user's own ssh client: its container engine as a socket of ours, and a port of its loopback as one of ours.

Who is let in is a matter of their configuration, keys and known hosts.  Nothing here knows a password, and the client asks for none.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import msgspec

from . import processes
from .errors import BadOption
from .settings import Workspace

if TYPE_CHECKING:
    import psutil

SCHEME = "ssh"
_USUAL_PORT = 22
_TUNNEL = ("-N", "-E")
_PATIENCE = ("-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=3")
_doors: dict[tuple[str, int], Door] = {}
_opening = threading.Lock()


def is_meant(address: str) -> bool:
    """Whether *address* is one that leads over ssh."""
    return urlsplit(address).scheme == SCHEME


# ── the engine's socket ──────────────────────────────────────────────────────────────────────────────────────────────


def door(address: str) -> Door:
    """This process's one door to the engine at `ssh://[user@]host[:port][/path/of/its/socket]`.  Raises BadOption for what is no such address."""
    key = address, os.getpid()
    with _opening:
        if key not in _doors:
            _doors[key] = Door([*_client(address), _dial(address)])
        return _doors[key]


class Door:
    """A socket only we can open; whoever connects to it speaks with a docker command on the other machine, as the docker command itself does it."""

    def __init__(self, command: list[str]) -> None:
        self.trouble = ""
        """What ssh, or docker over there, said when the latest connection failed."""
        self._command = command
        self._folder = tempfile.mkdtemp(prefix="mlops-ssh-")
        atexit.register(shutil.rmtree, self._folder, ignore_errors=True)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(f"{self._folder}/engine.sock")
        self._listener.listen(64)
        threading.Thread(target=self._serve, name="ssh", daemon=True).start()

    @property
    def address(self) -> str:
        """`unix:///…/engine.sock`."""
        return f"unix://{self._folder}/engine.sock"

    def _serve(self) -> None:
        while True:
            caller, _ = self._listener.accept()
            threading.Thread(target=self._attend, args=(caller,), name="ssh", daemon=True).start()

    def _attend(self, caller: socket.socket) -> None:
        """Give the connection to an ssh of its own; hold it until it is known why that ended, so that the caller is not told before us."""
        with caller:
            try:
                process = subprocess.Popen(self._command, stdin=caller.fileno(), stdout=caller.fileno(), stderr=subprocess.PIPE, start_new_session=True)
            except OSError as error:
                self.trouble = f"no ssh command can be run here ({error.strerror})"
                return
            _, said = process.communicate()
            if process.returncode:
                self.trouble = plain(said.decode(errors="replace"))


def plain(said: str) -> str:
    """What ssh said, in the words of who reads it."""
    for mark, words in _CAUSES.items():
        if mark.lower() in said.lower():
            return words
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return lines[-1][:200] if lines else "ssh ended without a word"


_CAUSES = {
    "Host key verification failed": "its host key is not among your known hosts; connect to it by hand once with ssh",
    "Permission denied (": "its ssh server takes none of your keys, and no password can be asked for here",
    "Could not resolve hostname": "there is no such host",
    "Connection refused": "no ssh server listens there",
    "Connection timed out": "the machine cannot be reached",
    "No route to host": "the machine cannot be reached",
    "Network is unreachable": "the machine cannot be reached",
    "not found": "there is no docker command on that machine",
    "permission denied while trying to connect to the Docker": "that user may not use it (the group docker may)",
    "Cannot connect to the Docker daemon": "no engine listens on that machine",
    "failed to open the raw stream connection": "no engine listens on that machine",
}
"""What ssh and docker say, and what that means."""


def _client(address: str) -> list[str]:
    """The ssh command that leads there, its own options included."""
    return ["ssh", *_configuration(), *_PATIENCE, *_host(address)]


def _configuration() -> list[str]:
    named = Workspace.current().settings().ssh_config
    return ["-F", os.fspath(Path(named).expanduser())] if named else []


def _host(address: str) -> list[str]:
    """Whom to connect to; the usual port is left to the user's configuration, because a docker context names it where the user did not."""
    hint = 'container_engine = "ssh://USER@HOST" in [tool.mlops]'
    try:
        parts = urlsplit(address)
        user, host, port = parts.username, parts.hostname, parts.port
    except ValueError as error:
        raise BadOption(f"{address!r} is no address of an engine over ssh.", hint=hint) from error
    if parts.password is not None:
        raise BadOption(f"An address of an engine over ssh holds no password, and the one of {host} does; ssh is let in by a key.", hint=hint)
    if not host or host.startswith("-") or (user and user.startswith("-")):
        raise BadOption(f"{address!r} is no address of an engine over ssh.", hint=hint)
    return [*(["-l", user] if user else []), *(["-p", str(port)] if port not in (None, _USUAL_PORT) else []), "--", host]


def _dial(address: str) -> str:
    """What the shell over there runs."""
    path = urlsplit(address).path.rstrip("/")
    where = f"--host {shlex.quote(f'unix://{path}')} " if path else ""
    return f"docker {where}system dial-stdio"


# ── a port ───────────────────────────────────────────────────────────────────────────────────────────────────────────


class _Noted(msgspec.Struct, frozen=True):
    """A tunnel as its folder knows it."""

    pid: int
    words: list[str]


def lead(folder: Path, address: str, *, here: int, there: int) -> str | None:
    """Have the port *here* of our loopback lead to the port *there* of the other machine's, by a process that outlives us.

    None where one did already; else what the one before said at its end, or nothing.  *folder* is where it is noted and says what goes wrong.
    """
    words = _words(folder, address, here=here, there=there)
    if _running(folder, words):
        return None
    said = ending(folder)
    end(folder)
    _log(folder).unlink(missing_ok=True)
    process = subprocess.Popen(["ssh", *words], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    _note(folder).write_bytes(msgspec.json.encode(_Noted(processes.ours(process), words)))
    return said


def leads(folder: Path) -> bool:
    """Whether the tunnel that was led last still runs."""
    noted = _noted(folder)
    return noted is not None and processes.again(noted.pid, noted.words) is not None


def ending(folder: Path) -> str:
    """What the tunnel in *folder* said last; nothing where it said nothing."""
    try:
        said = _log(folder).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""
    return plain(said) if said.strip() else ""


def end(folder: Path) -> None:
    """End the tunnel in *folder*, if one runs; nobody listens on its port when this returns."""
    noted = _noted(folder)
    process = processes.again(noted.pid, noted.words) if noted else None
    if process:
        _end(process)
    _note(folder).unlink(missing_ok=True)


def end_strays(below: Path, known: set[Path]) -> None:
    """End the tunnels of folders *below* that are none of the *known*."""
    for process in tunnels(below):
        if Path(process.info["cmdline"][len(_TUNNEL) + 1]).parent not in known:
            _end(process)


def tunnels(below: Path) -> Iterator[psutil.Process]:
    """Every tunnel that was led in a folder *below*."""
    root = os.fspath(below) + os.sep
    for process in processes.started_with(_TUNNEL):
        if process.info["cmdline"][len(_TUNNEL) + 1].startswith(root):
            yield process


def _words(folder: Path, address: str, *, here: int, there: int) -> list[str]:
    """Its log first, by which it is found again; no shared connection of the user's, which would keep the port when this process ends."""
    alone = ("-S", "none", "-o", "ExitOnForwardFailure=yes", "-o", "ForwardAgent=no", "-o", "ForwardX11=no")
    return [*_TUNNEL, os.fspath(_log(folder)), *_configuration(), *_PATIENCE, *alone, "-L", f"127.0.0.1:{here}:127.0.0.1:{there}", *_host(address)]


def _running(folder: Path, words: list[str]) -> bool:
    noted = _noted(folder)
    return noted is not None and noted.words == words and processes.again(noted.pid, words) is not None


def _end(process: psutil.Process) -> None:
    import psutil

    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=2)
        except psutil.TimeoutExpired:
            process.kill()


def _noted(folder: Path) -> _Noted | None:
    try:
        return msgspec.json.decode(_note(folder).read_bytes(), type=_Noted)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def _note(folder: Path) -> Path:
    return folder / "tunnel.json"


def _log(folder: Path) -> Path:
    return folder / "tunnel.log"
