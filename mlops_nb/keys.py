"""One key per endpoint: what callers put into `Authorization: Bearer …`.  Files that only the owner can read, never in the store."""

from __future__ import annotations

import os
import secrets
import tempfile
from pathlib import Path

from .safety import checked_name, path_inside
from .settings import Workspace


def key(endpoint: str) -> str:
    """The endpoint's key, made on first use; every process that asks at that moment gets the same one.  Raises BadName."""
    place = _place(endpoint)
    if kept := _read(place):
        return kept
    scratch = _written(place.parent, secrets.token_urlsafe(32))
    try:
        os.link(scratch, place)  # unlike a rename, a link never replaces the key that another process made meanwhile
    except FileExistsError:
        pass
    finally:
        scratch.unlink()
    return _read(place) or rotate(endpoint)


def rotate(endpoint: str) -> str:
    """A new key in place of the old one, which the gateway refuses from its next `apply` on.  Raises BadName."""
    place = _place(endpoint)
    fresh = secrets.token_urlsafe(32)
    os.replace(_written(place.parent, fresh), place)
    return fresh


def forget(endpoint: str) -> None:
    """Delete the endpoint's key, if it has one.  Raises BadName."""
    _place(endpoint).unlink(missing_ok=True)


def _place(endpoint: str) -> Path:
    folder = Workspace.current().keys
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return path_inside(folder, checked_name(endpoint, what="endpoint"))


def _read(place: Path) -> str:
    try:
        return place.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return ""


def _written(folder: Path, value: str) -> Path:
    handle, scratch = tempfile.mkstemp(dir=folder, prefix=".")  # mkstemp makes it 0600
    with os.fdopen(handle, "w", encoding="ascii") as out:
        out.write(value)
    return Path(scratch)
