"""Packages: what was made of model versions to run elsewhere."""

from __future__ import annotations

from datetime import datetime

import msgspec

from .database import Transaction


class Package(msgspec.Struct, frozen=True, kw_only=True):
    """A build context of a model version, and the image that was built from it."""

    content: str
    """Hash of all that went into the context: the same inputs have the same."""
    model: str
    version: int
    target: str
    """`docker` or `edge`."""
    folder: str
    """Where the build context is."""
    base: str
    platform: str
    """Such as `linux/amd64`."""
    image: str = ""
    """Its name in the engine, such as `mlops/delays:3`; empty while none was built."""
    digest: str = ""
    """The image's id in the engine, `sha256:…`."""
    bytes: int | None = None
    """The image's size, base included."""
    base_bytes: int | None = None
    pushed: str = ""
    """`registry/name@sha256:…`, by which any engine can pull it; empty while no registry has it."""
    time: datetime

    @property
    def ref(self) -> str:
        """`churn:3`."""
        return f"{self.model}:{self.version}"


def put(tx: Transaction, package: Package) -> Package:
    """Record *package* in place of what was known of the same content on the same base; what a registry holds is not forgotten."""
    key = [package.content, package.model, package.version, package.base, package.platform]
    same = "content = ? AND model = ? AND version = ? AND base = ? AND platform = ?"
    before = tx.maybe(f"SELECT * FROM packages WHERE {same}", key, as_=Package)
    if before and before.digest == package.digest and not package.pushed:
        package = msgspec.structs.replace(package, pushed=before.pushed)
    if before and not package.image:
        package = msgspec.structs.replace(before, folder=package.folder, time=package.time)
    tx.execute(f"DELETE FROM packages WHERE {same}", key)
    tx.insert("packages", package)
    return package


def every(tx: Transaction, model: str | None = None, version: int | None = None) -> list[Package]:
    """All packages (of one model version), newest first."""
    where, values = ("WHERE model = ? AND version = ?", [model, version]) if model else ("", [])
    return tx.rows(f"SELECT * FROM packages {where} ORDER BY time DESC", values, as_=Package)
