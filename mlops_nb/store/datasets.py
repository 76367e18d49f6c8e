"""Dataset versions: what data a model was made from."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from ..errors import DatasetNotFound, VersionNotFound
from ..reference import ModelRef
from ..summaries import ColumnSummary
from .database import Transaction


class DatasetVersion(msgspec.Struct, frozen=True, kw_only=True):
    """One registered state of a data set.  `file` is the content address of its Parquet file in the artifacts."""

    name: str
    version: int
    hash: str
    rows: int
    schema: list[dict[str, Any]]
    """One entry per column: `name`, `type` (as in a model's signature), `nullable`."""
    profile: list[dict[str, Any]]
    """DuckDB's SUMMARIZE, one entry per column, with the most frequent values."""
    file: str
    bytes: int
    description: str = ""
    tags: dict[str, str] = {}
    author: str = ""
    run: str | None = None
    created_at: datetime

    @property
    def ref(self) -> str:
        """`flights_q1:1`."""
        return f"{self.name}:{self.version}"


def add(tx: Transaction, dataset: DatasetVersion) -> None:
    """Record *dataset*."""
    tx.insert("datasets", dataset)


def describe(tx: Transaction, dataset: DatasetVersion) -> None:
    """Write down the description and tags that *dataset* has now; its rows never change."""
    tx.execute(
        "UPDATE datasets SET description = ?, tags = ? WHERE name = ? AND version = ?", [dataset.description, dataset.tags, dataset.name, dataset.version]
    )


def names(tx: Transaction) -> list[str]:
    """Every data set's name."""
    return [row["name"] for row in tx.rows("SELECT DISTINCT name FROM datasets ORDER BY name")]


def next_version(tx: Transaction, name: str) -> int:
    """The number the next version gets."""
    return tx.value("SELECT coalesce(max(version), 0) + 1 FROM datasets WHERE name = ?", [name])


def with_hash(tx: Transaction, name: str, hash: str) -> DatasetVersion | None:
    """The version that holds these very rows, if there is one."""
    return tx.maybe("SELECT * FROM datasets WHERE name = ? AND hash = ?", [name, hash], as_=DatasetVersion)


def get(tx: Transaction, ref: ModelRef) -> DatasetVersion:
    """The version *ref* names; the newest when it gives no number.  Raises DatasetNotFound, VersionNotFound."""
    versions = every(tx, ref.name)
    if not versions:
        raise DatasetNotFound(ref.name, known=names(tx))
    if ref.version is None:
        return versions[0]
    found = next((v for v in versions if v.version == ref.version), None)
    if not found:
        raise VersionNotFound(ref.name, ref.version, known=[v.version for v in versions], among="datasets")
    return found


def every(tx: Transaction, name: str | None = None) -> list[DatasetVersion]:
    """All versions (of *name*), newest first."""
    where, values = ("WHERE name = ?", [name]) if name else ("", [])
    return tx.rows(f"SELECT * FROM datasets {where} ORDER BY created_at DESC, version DESC", values, as_=DatasetVersion)


def summary(tx: Transaction, hash: str) -> list[ColumnSummary] | None:
    """The columns of the rows with this hash as counts; None where they were not summarised yet."""
    found = tx.maybe("SELECT columns FROM summaries WHERE hash = ?", [hash])
    return msgspec.convert(found["columns"], list[ColumnSummary]) if found else None


def put_summary(tx: Transaction, hash: str, columns: list[ColumnSummary]) -> None:
    """Keep the counts of the rows with this hash; the same rows have the same ones."""
    tx.execute("INSERT INTO summaries VALUES (?, ?) ON CONFLICT DO NOTHING", [hash, columns])
