"""Small facts of the workspace that must survive its processes, such as the gateway's port."""

from __future__ import annotations

from typing import Any

from ..settings import Workspace
from .database import Transaction


def get(tx: Transaction, key: str) -> Any:
    """The value kept under *key*, or None."""
    row = tx.maybe("SELECT value FROM workspace_state WHERE key = ?", [key])
    return row["value"] if row else None


def put(tx: Transaction, key: str, value: object) -> None:
    """Keep *value* (anything JSON can hold) under *key*."""
    import msgspec

    sql = "INSERT INTO workspace_state VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value"
    tx.execute(sql, [key, msgspec.json.encode(value).decode()])


def gateway_url(tx: Transaction) -> str:
    """Where the endpoints are: the port of the settings, else the one that was picked; port 0 before there is any."""
    port = Workspace.current().settings().gateway_port or get(tx, "gateway_port") or 0
    return f"http://127.0.0.1:{port}"
