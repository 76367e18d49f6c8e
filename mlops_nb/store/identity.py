"""What tells this workspace from every other, wherever it leaves something: on a cluster, in a container engine, in a registry."""

from __future__ import annotations

import platform
import secrets
from functools import lru_cache

from ..settings import Workspace
from . import state
from .database import reading, writing


def workspace_id() -> str:
    """By which others' engines and clusters know this workspace's objects; made once, by whoever asks first, and not within a visit to the store."""
    return _workspace_id(str(Workspace.current().root))


@lru_cache(maxsize=64)
def _workspace_id(root: str) -> str:
    with reading() as tx:
        known = state.get(tx, "workspace_id")
    if known:
        return known
    with writing() as tx:
        known = state.get(tx, "workspace_id") or secrets.token_hex(8)
        state.put(tx, "workspace_id", known)
        state.put(tx, "workspace_home", _home())
    return known


def at_home() -> bool:
    """Whether this workspace is where it got its id.  A copy has the same id, and what it does not know may well be the original's."""
    with reading() as tx:
        return state.get(tx, "workspace_home") == _home()


def _home() -> str:
    return f"{platform.node()}:{Workspace.current().root.resolve()}"
