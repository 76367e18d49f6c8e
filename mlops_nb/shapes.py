"""What a command gives back: lists and facts that know what they are, and every noun as the JSON that programs read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")


class Listing(list[T]):
    """A list that knows what it lists, and of an empty one what to say (unless given, that there is none yet) and the line that would fill it."""

    def __init__(self, items: Iterable[T] = (), *, what: str, line: str = "", empty: str = "") -> None:
        super().__init__(items)
        self.what = what
        self.empty = empty or f"No {what} yet"
        self.line = line

    def __repr__(self) -> str:
        from .cards import as_text

        return as_text(self)


class Lines(list[str]):
    """Lines of a log."""

    def __repr__(self) -> str:
        return "\n".join(self)


class Facts(dict[str, Any]):
    """A few named facts about what was done."""

    def __repr__(self) -> str:
        from .cards import as_text

        return as_text(self)


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """An endpoint's key; `.key` is the secret, which its repr leaves out, for notebooks are saved with their outputs."""

    endpoint: str
    key: str

    def __repr__(self) -> str:
        return f"Key(endpoint={self.endpoint!r}, key=…)"


class Dashboard(msgspec.Struct, frozen=True, kw_only=True):
    """Where the dashboard answers."""

    url: str


# ── for programs ─────────────────────────────────────────────────────────────────────────────────────────────────────


def as_data(thing: Any) -> Any:
    """*thing* as what JSON can hold, in the shape scripts rely on."""
    if isinstance(thing, Mapping):
        return {str(key): as_data(value) for key, value in thing.items()}
    if isinstance(thing, list | tuple):
        return [as_data(item) for item in thing]
    shape = _SHAPES.get(f"{type(thing).__module__}.{type(thing).__qualname__}", _as_it_is)
    return shape(thing)


def envelope(thing: Any) -> dict[str, Any]:
    """What `--json` shows for a command that succeeded."""
    return {"ok": True, "result": as_data(thing)}


def _as_it_is(thing: Any) -> Any:
    return msgspec.to_builtins(thing, str_keys=True, enc_hook=_foreign)


def _foreign(thing: Any) -> Any:
    """Numpy's numbers and arrays, paths and whatever else is no JSON of its own."""
    if hasattr(thing, "tolist"):
        return thing.tolist()
    return str(thing)


def _model_version(version: Any) -> dict[str, Any]:
    shape = _as_it_is(version)
    return {"name": shape.pop("model"), "version": shape.pop("version"), "ref": version.ref, "bytes": version.bytes, **shape}


def _registered(registered: Any) -> dict[str, Any]:
    return _model_version(registered.version) | {"same_as": registered.same_as, "note": registered.note}


def _with_ref(version: Any) -> dict[str, Any]:
    return {"ref": version.ref, **_as_it_is(version)}


def _drift_check(check: Any) -> dict[str, Any]:
    shape = _as_it_is(check)
    report = shape.pop("report")
    told = {"is_drift": check.is_drift, "verdict": check.verdict, "features": report.get("features", [])}
    return told | {k: v for k, v in report.items() if k not in shape} | shape


_SHAPES: dict[str, Callable[[Any], Any]] = {
    "mlops_nb.store.models.ModelVersion": _model_version,
    "mlops_nb.registry.Registered": _registered,
    "mlops_nb.store.datasets.DatasetVersion": _with_ref,
    "mlops_nb.store.environments.Environment": _with_ref,
    "mlops_nb.store.checks.DriftCheck": _drift_check,
}
"""By full name, so that a shape costs no import of what it shapes."""
