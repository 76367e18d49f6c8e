"""One key for each device: its desired states are signed with it.  Files that only the owner can read, never in the store."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from ..edge.broker import secret
from ..safety import checked_name, path_inside
from ..settings import Workspace


def folder(device: str) -> Path:
    """What this workspace keeps of a device: its key, and all of one that runs here.  Raises BadName."""
    place = path_inside(root(), checked_name(device, what="device"))
    place.mkdir(parents=True, exist_ok=True, mode=0o700)
    return place


def root() -> Path:
    """The folder of all devices."""
    return Workspace.current().root.resolve() / "edge"


def twin_key(device: str) -> bytes:
    """The device's key, made on first use; every process that asks at that moment gets the same one.  Raises BadName."""
    place = folder(device) / "twin.key"
    if not place.exists():
        scratch = place.with_suffix(f".{os.getpid()}")
        write_private(scratch, secrets.token_urlsafe(32).encode())
        try:
            os.link(scratch, place)  # unlike a rename, a link never replaces the key that another process made meanwhile
        except FileExistsError:
            pass
        finally:
            scratch.unlink()
    return secret(place)


def write_private(place: Path, content: bytes) -> None:
    """Have *content* in a file that only its owner can read, whole or not at all."""
    scratch = place.with_name(f".{place.name}.tmp")
    with os.fdopen(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as out:
        out.write(content)
    scratch.replace(place)
