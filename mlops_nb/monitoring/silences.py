"""Saying that a drift was seen, or that one wants to hear no more of it for a while.  It is judged and reported all the same."""

from __future__ import annotations

import getpass
from datetime import timedelta

from .. import store
from ..errors import BadOption, FeatureNotFound, NothingToCompare
from ..store import checks, deployments, events, silences
from ..store.database import Transaction
from ..store.silences import Silence


def snooze(endpoint: str, *, seconds: float, feature: str = "", why: str = "") -> Silence:
    """Raise no alert about the drift of an endpoint (of one of its features) for so long.  Raises EndpointNotFound, FeatureNotFound."""
    with store.writing() as tx:
        _check(tx, endpoint, feature)
        until = store.now() + timedelta(seconds=seconds)
        return _said(tx, silences.add(tx, endpoint, feature, "snoozed", until=until, why=why, author=getpass.getuser()), "DriftSnoozed")


def acknowledge(endpoint: str, *, seconds: float | None = None, feature: str = "", why: str = "") -> Silence:
    """Say that the drift which the newest check found (in one feature) is known: it raises no alert for so long, or until a check finds it no more.

    Raises EndpointNotFound, FeatureNotFound, NothingToCompare when the endpoint was never checked.
    """
    with store.writing() as tx:
        _check(tx, endpoint, feature)
        if not checks.drift_checks(tx, endpoint, most=1):
            raise NothingToCompare.no_check(endpoint)
        until = store.now() + timedelta(seconds=seconds) if seconds else None
        return _said(tx, silences.add(tx, endpoint, feature, "acknowledged", until=until, why=why, author=getpass.getuser()), "DriftAcknowledged")


def end(endpoint: str, *, feature: str = "", why: str = "") -> Silence:
    """Have all of it be told again from now on, or one feature.  Raises EndpointNotFound, FeatureNotFound, BadOption where that is silent with all."""
    with store.writing() as tx:
        _check(tx, endpoint, feature)
        standing = silences.standing(tx, endpoint)
        whole = next((one for one in standing if not one.feature), None)
        if feature and whole:
            raise BadOption(f"{feature} is silent with all drift of {endpoint}, {whole.words}.", hint=f"%mlops snooze {endpoint} --end")
        ended = [feature] if feature else [*(one.feature for one in standing if one.feature), ""]
        over = [silences.add(tx, endpoint, name, "over", until=None, why=why, author=getpass.getuser()) for name in ended]
        return _said(tx, over[-1], "DriftSilenceEnded")


def of(endpoint: str | None = None) -> list[Silence]:
    """What holds now, newest first."""
    with store.reading() as tx:
        return silences.standing(tx, endpoint)


def _check(tx: Transaction, endpoint: str, feature: str) -> None:
    """Raises EndpointNotFound; FeatureNotFound where the newest check knows the features and columns at fault, and this is none."""
    deployments.endpoint(tx, endpoint)
    newest = checks.drift_checks(tx, endpoint, most=1)
    features = [str(one.get("name")) for one in newest[0].report.get("features", [])] if newest else []
    known = list(dict.fromkeys([*features, *silences.drifting(newest[0])])) if features else []
    if feature and known and feature not in known:
        raise FeatureNotFound(feature, known=known)


def _said(tx: Transaction, silence: Silence, what: str) -> Silence:
    until = silence.until.isoformat() if silence.until else None
    events.record(tx, what, subject=silence.endpoint, data={"feature": silence.feature, "by": silence.author, "why": silence.why, "until": until})
    return silence
