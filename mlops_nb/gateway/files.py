"""Where the gateway's files stand; all of them are the owner's alone, since they hold keys."""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from pathlib import Path
from typing import Any

import msgspec

from ..errors import BadOption
from ..settings import Workspace

_LONGEST_SOCKET_PATH = 107  # bytes of sockaddr_un.sun_path, less its final NUL


def folder() -> Path:
    """`<workspace>/run/gateway`, made when it is not there."""
    place().mkdir(parents=True, exist_ok=True, mode=0o700)
    return place()


def place() -> Path:
    """The same, whether or not it is there: looking must not make a workspace that somebody has just deleted."""
    return Workspace.current().run.absolute() / "gateway"


def admin_socket() -> Path:
    """Envoy's own door; in a short folder of the user's when the workspace lies too deep for a socket.  Raises BadOption."""
    door = place() / "admin.sock"
    if len(os.fsencode(door)) <= _LONGEST_SOCKET_PATH:
        return door
    return _private(_runtime_folder() / f"mlops-{os.getuid()}") / (hashlib.sha256(os.fsencode(door)).hexdigest()[:16] + ".sock")


def log() -> Path:
    """What Envoy says."""
    return place() / "envoy.log"


def log_end() -> int:
    """How much Envoy has said so far, in bytes."""
    return len(_content(log()))


def log_tail(*, after: int = 0) -> str:
    """The last lines of the log, of those *after* so many bytes."""
    lines = _content(log())[after:].decode(errors="replace").splitlines()
    return " ".join(line.rpartition("] ")[2] for line in lines[-3:])[-600:]


def bind_failed(*, after: int) -> bool:
    """Whether Envoy said, *after* so many bytes, that it could not have its port."""
    return "cannot bind" in log_tail(after=after)


def write(name: str, content: dict[str, Any]) -> bool:
    """Make the file hold *content* and say whether it did not before.  Renamed into place, which is also what Envoy watches for."""
    file, data = folder() / name, msgspec.json.encode(content)
    if _content(file) == data:
        return False
    handle, scratch = tempfile.mkstemp(dir=file.parent, prefix=".")
    with os.fdopen(handle, "wb") as out:
        out.write(data)
    os.replace(scratch, file)
    return True


def read(name: str) -> dict[str, Any]:
    """What the file holds; nothing when it is not there or not whole."""
    try:
        return msgspec.json.decode(_content(place() / name), type=dict)
    except msgspec.DecodeError:
        return {}


def marks() -> list[tuple[int, int]]:
    """Others once any of the files was replaced, by whomever."""
    files = [file.stat() for file in sorted(place().glob("*.json"))]
    return [(file.st_mtime_ns, file.st_ino) for file in files]


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return b""


def _runtime_folder() -> Path:
    named = os.environ.get("XDG_RUNTIME_DIR", "")
    return Path(named) if named and len(named) < 60 and Path(named).is_dir() else Path(tempfile.gettempdir())


def _private(door: Path) -> Path:
    """*door*, made or found to be a folder that only we can enter: in a shared /tmp somebody else may have been there first."""
    door.mkdir(mode=0o700, exist_ok=True)
    found = door.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise BadOption(
            f"{door} is not a private folder of yours, and the workspace's own path is too long for a socket.", hint="MLOPS_HOME with a shorter path"
        )
    return door
