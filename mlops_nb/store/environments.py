"""Environment versions: which Python and packages a model needs."""

from __future__ import annotations

from datetime import datetime

import msgspec

from ..errors import EnvironmentNotFound, VersionNotFound
from ..reference import ModelRef
from .database import Transaction


class Package(msgspec.Struct, frozen=True, kw_only=True):
    """One installed distribution a model needs."""

    name: str
    version: str
    direct: bool = False
    """Imported by the model itself, rather than needed by something it imports."""
    conda: bool = False
    source: str = ""
    """Where it came from when that was no index: `git+https://…@commit`, a URL with its hash, or `conda:NAME` where conda calls it otherwise."""


class Environment(msgspec.Struct, frozen=True, kw_only=True):
    """A Python version and the exact packages, hashed; the same content is the same version, whoever captures it."""

    name: str
    version: int
    hash: str
    python: str
    platform: str
    interpreter: str
    """The interpreter it was captured from."""
    packages: list[Package]
    manager: str = "pip"
    created_at: datetime

    @property
    def ref(self) -> str:
        """`py311-3f2a:1`."""
        return f"{self.name}:{self.version}"


def add(tx: Transaction, environment: Environment) -> None:
    """Record *environment*."""
    tx.insert("environments", environment)


def with_hash(tx: Transaction, hash: str) -> Environment | None:
    """The environment with this content, if one is recorded."""
    return tx.maybe("SELECT * FROM environments WHERE hash = ? ORDER BY created_at LIMIT 1", [hash], as_=Environment)


def next_version(tx: Transaction, name: str) -> int:
    """The number the next version gets."""
    return tx.value("SELECT coalesce(max(version), 0) + 1 FROM environments WHERE name = ?", [name])


def get(tx: Transaction, ref: ModelRef) -> Environment:
    """The environment *ref* names, the newest when it gives no number.  Raises EnvironmentNotFound, VersionNotFound."""
    versions = tx.rows("SELECT * FROM environments WHERE name = ? ORDER BY version DESC", [ref.name], as_=Environment)
    if not versions:
        raise EnvironmentNotFound(ref.name, known={e.name for e in every(tx)})
    if ref.version is None:
        return versions[0]
    found = next((v for v in versions if v.version == ref.version), None)
    if not found:
        raise VersionNotFound(ref.name, ref.version, known=[v.version for v in versions], among="environments")
    return found


def every(tx: Transaction) -> list[Environment]:
    """All environments, newest first."""
    return tx.rows("SELECT * FROM environments ORDER BY created_at DESC, version DESC", as_=Environment)
