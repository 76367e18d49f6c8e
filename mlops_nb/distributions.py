"""What is installed in this interpreter: scanned once per process, and again when a folder of `sys.path` has changed."""

from __future__ import annotations

import re
import sys
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import msgspec
from packaging.requirements import InvalidRequirement, Requirement

Stamp = tuple[tuple[str, int], ...]

_scanned: tuple[Stamp, dict[str, Installed]] | None = None


class Installed:
    """One distribution; its metadata is read when first asked for."""

    def __init__(self, source: metadata.Distribution, key: str) -> None:
        self.key = key
        self._source = source

    @cached_property
    def name(self) -> str:
        """As its author writes it."""
        return self._source.metadata["Name"] or self.key

    @cached_property
    def version(self) -> str:
        """The exact version, local label included."""
        return self._source.version

    @cached_property
    def requires(self) -> list[Requirement]:
        """Its requirements (PEP 508); one older than the standard is passed over, as pip does."""
        return [requirement for text in self._source.requires or () if (requirement := _requirement(text))]

    @cached_property
    def files(self) -> frozenset[str]:
        """The places of its Python files below site-packages, as recorded at installation; its top-level names where that is all there is."""
        record = self._source.read_text("RECORD")
        if record is None:
            record = self._source.read_text("installed-files.txt") or ""
            return frozenset(name for name in (self._source.read_text("top_level.txt") or "").split()) | frozenset(record.split())
        return frozenset(line.split(",", 1)[0].strip('"') for line in record.splitlines())

    @cached_property
    def tops(self) -> frozenset[str]:
        """The top-level names it puts on the path."""
        heads = (place.partition("/")[0].partition(".")[0] for place in self.files if not place.startswith(("..", "__pycache__")))
        return frozenset(head for head in heads if head)

    @cached_property
    def direct(self) -> dict[str, Any]:
        """Where it was installed from when that was no index (PEP 610); empty for one from an index or from conda."""
        text = None if self.conda else self._source.read_text("direct_url.json")
        return msgspec.json.decode(text) if text else {}

    @cached_property
    def conda(self) -> bool:
        """Whether conda installed it."""
        return (self._source.read_text("INSTALLER") or "").strip() == "conda"

    @cached_property
    def editable_root(self) -> Path | None:
        """The project's folder when it is installed in place."""
        return local_folder(self.direct) if self.direct.get("dir_info", {}).get("editable") else None

    @property
    def folder(self) -> Path:
        """Its metadata folder."""
        return Path(str(getattr(self._source, "_path", "")))

    def has(self, module: str) -> bool:
        """Whether it brings *module*, a dotted name."""
        if "." not in module:
            return module in self.tops
        place = module.replace(".", "/")
        return any(file.startswith((f"{place}/", f"{place}.")) for file in self.files)


def installed() -> dict[str, Installed]:
    """Every distribution by its normalised name."""
    global _scanned
    stamp = _stamp()
    if _scanned is None or _scanned[0] != stamp:
        found: dict[str, Installed] = {}
        for source in metadata.distributions():
            key = _key_of(source)
            if key and key not in found:  # the first on the path is the one that is imported
                found[key] = Installed(source, key)
        _scanned = (stamp, found)
    return _scanned[1]


def normalised(name: str) -> str:
    """A distribution's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def local_folder(direct: dict[str, Any]) -> Path | None:
    """The file or folder on this machine that a PEP 610 record points to."""
    parts = urlsplit(direct.get("url", ""))
    return Path(unquote(parts.path)).resolve() if parts.scheme == "file" else None


def _requirement(text: str) -> Requirement | None:
    try:
        return Requirement(text)
    except InvalidRequirement:
        return None


def _key_of(source: metadata.Distribution) -> str:
    """The normalised name, from the folder's name where it tells: reading the metadata of every distribution takes longer."""
    stem, dot, kind = Path(str(getattr(source, "_path", ""))).name.rpartition(".")
    if dot and kind == "dist-info" and "-" in stem:
        return normalised(stem.partition("-")[0])
    return normalised(source.metadata["Name"] or "")


def _stamp() -> Stamp:
    stamps = []
    for entry in sys.path:
        try:
            stamps.append((entry, Path(entry or ".").stat().st_mtime_ns))
        except OSError:
            continue  # an entry that is not there brings nothing
    return tuple(stamps)
