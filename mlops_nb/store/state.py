"""Small facts of the workspace that must survive its processes, such as the gateway's port."""

from __future__ import annotations

from typing import Any

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
