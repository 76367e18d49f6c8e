"""The workspace's metadata: one DuckDB file, visited under a lock.  One module per group of tables; each owns its SQL."""

from .database import Transaction, now, reading, writing

__all__ = ["Transaction", "now", "reading", "writing"]
