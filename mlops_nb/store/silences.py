"""Who has seen a drift, or wants to hear no more of it, why and until when.  Rows are only added: the latest of a feature says how it stands."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from datetime import datetime
from typing import Literal

import msgspec

from .checks import DriftCheck, drift_checks
from .database import Transaction, now


class Silence(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was said about the drift of an endpoint, or of one of its features."""

    id: str
    endpoint: str
    feature: str = ""
    """Empty for all of them."""
    kind: Literal["snoozed", "acknowledged", "over"]
    """`over` ends what was said before."""
    until: datetime | None = None
    """None until a check finds it no more."""
    why: str = ""
    author: str = ""
    time: datetime

    @property
    def words(self) -> str:
        """`snoozed by ada until 2026-12-01 08:00 UTC: known sensor swap`."""
        until = f" until {self.until:%Y-%m-%d %H:%M} UTC" if self.until else " until it is over" if self.kind == "acknowledged" else ""
        return f"{self.kind} by {self.author}{until}{f': {self.why}' if self.why else ''}"


def add(
    tx: Transaction, endpoint: str, feature: str, kind: Literal["snoozed", "acknowledged", "over"], *, until: datetime | None, why: str, author: str
) -> Silence:
    """Note it."""
    silence = Silence(id=str(uuid.uuid4()), endpoint=endpoint, feature=feature, kind=kind, until=until, why=why, author=author, time=now())
    tx.insert("silences", silence)
    return silence


def every(tx: Transaction, endpoint: str | None = None, *, most: int = 100) -> list[Silence]:
    """All that was ever said (about *endpoint*), newest first."""
    where, values = ("WHERE endpoint = ?", [endpoint]) if endpoint else ("", [])
    return tx.rows(f"SELECT * FROM silences {where} ORDER BY time DESC LIMIT ?", [*values, most], as_=Silence)


def standing(tx: Transaction, endpoint: str | None = None, *, at: datetime | None = None) -> list[Silence]:
    """What holds now, or at a moment, newest first."""
    moment = at or now()
    where, values = ("endpoint = ? AND", [endpoint]) if endpoint else ("", [])
    sql = f"SELECT * FROM silences WHERE {where} time <= ? QUALIFY row_number() OVER (PARTITION BY endpoint, feature ORDER BY time DESC) = 1"
    latest = tx.rows(f"{sql} ORDER BY time DESC", [*values, moment], as_=Silence)
    return [one for one in latest if one.kind != "over" and (one.until is None or one.until > moment)]


def over(one: Iterable[Silence], endpoint: str, feature: str) -> Silence | None:
    """The silence that a feature lies under: its own, else that of the whole endpoint."""
    mine = [silence for silence in one if silence.endpoint == endpoint and silence.feature in (feature, "")]
    return max(mine, key=lambda silence: bool(silence.feature), default=None)


def end_those_over(tx: Transaction, check: DriftCheck) -> None:
    """End what was acknowledged until it is over, where *check* looked for it as the check that found it did, and finds it no more."""
    found, blind = drifting(check), check.verdict not in ("drift", "no drift")
    untested = {feature.get("name") for feature in check.report.get("features", []) if feature.get("test", "none") == "none"}
    for one in standing(tx, check.endpoint):
        gone = one.feature not in found and one.feature not in untested if one.feature else not found
        if one.kind == "acknowledged" and one.until is None and gone and not blind and _as_it_was_found(tx, check, one.feature):
            add(tx, check.endpoint, one.feature, "over", until=None, why="no longer found", author="agent")


def _as_it_was_found(tx: Transaction, check: DriftCheck, feature: str) -> bool:
    """Whether *check* is of the kind of the newest one that found *feature* (any, when empty): another detector, reference or effect may be blind to it."""
    earlier = (one for one in drift_checks(tx, check.endpoint) if one.id != check.id)
    finder = next((one for one in earlier if (feature in drifting(one) if feature else drifting(one))), None)
    return finder is None or _kind(finder) == _kind(check)


def _kind(check: DriftCheck) -> tuple[object, ...]:
    """Of what a check is, beside what, and by which test."""
    effects = {feature.get("minimum_effect") for feature in check.report.get("features", []) if feature.get("test", "none") != "none"}
    return check.deployment, check.report.get("engine"), check.dataset, check.report.get("reference", {}).get("kind"), frozenset(effects)


def loud(check: DriftCheck, standing: Iterable[Silence]) -> list[str]:
    """The features of a check that drift and are not silenced."""
    held = list(standing)
    return [name for name in drifting(check) if not over(held, check.endpoint, name)]


def drifting(check: DriftCheck) -> list[str]:
    """The features of a check that drift, and the columns whose data are at fault."""
    faults = [finding for finding in check.report.get("quality", []) if finding.get("is_alarm")]
    names = [str(feature.get("name")) for feature in check.report.get("features", []) if feature.get("is_drift")]
    return list(dict.fromkeys([*names, *(str(finding.get("feature")) for finding in faults)]))
