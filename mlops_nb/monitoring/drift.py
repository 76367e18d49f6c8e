"""Compare what an endpoint was asked with what its model was trained on."""

from __future__ import annotations

import json
import tempfile
import uuid
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec

from .. import artifacts, store, targets, telemetry
from ..errors import BadOption, NothingToCompare
from ..progress import SILENT, Reporter
from ..reference import ModelRef
from ..settings import Workspace
from ..store import checks, datasets, deployments, events, models, silences
from ..store.checks import DriftCheck
from ..store.datasets import DatasetVersion
from ..store.deployments import Deployment
from ..store.models import ModelVersion
from ..store.silences import Silence
from . import columns, counting, engines, judging, references
from .columns import Pair, Wanted
from .engines import Engine
from .references import Extent, Reference
from .reports import Compared, DriftReport, FeatureDrift

CORRECTION = "Holm"


class Under(msgspec.Struct, frozen=True):
    """Whose requests are checked: those of an endpoint, answered by one deployment of it or by all, and the version they are about."""

    endpoint: str
    deployment: str | None
    version: ModelVersion


class Subject(msgspec.Struct, frozen=True):
    """What is checked: requests of an endpoint (answered by one deployment of it) against a model's training data."""

    endpoint: str
    deployment: str | None
    version: ModelVersion
    dataset: DatasetVersion


@telemetry.within_bounds
def check_drift(
    endpoint: str,
    *,
    deployment: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    dataset: str | None = None,
    reference: str | None = None,
    time: str | None = None,
    engine: str | None = None,
    window: str | None = None,
    budget: str | None = None,
    every_seconds: float | None = None,
    effect: float | None = None,
    explain: Callable[[DriftCheck], Mapping[str, Any]] | None = None,
    report: Reporter = SILENT,
) -> DriftCheck:
    """Compare the requests of *endpoint* with its model's training data (or *dataset*, or *reference*), feature by feature; keep and return the verdict.

    *reference* is `training` unless given; a past window of requests (`previous`, `last-week`, `2026-10-01..2026-10-31`); or the same season
    (`same-month`, `same-weekday`, `same-hour`) of the data set by its column *time*, or of past requests where it has no time.
    Where the deployments run different versions it is those of *deployment*, else of the one with most traffic.  *since* and
    *until* bound the window; without them it is all that is kept.  *engine* is
    `auto` (`histograms`), `histograms`, or a test of `scipy` or `alibi-detect` in a process of its own; the settings' unless given.  With
    histograms the newest *window* (`1d`, or a number of rows) is judged, and with it those before, so that at most *budget* (`1/30d`) false alarms
    come of a check every so many seconds (a day unless given), a false alarm being one where no more than *effect* of the rows lies elsewhere.
    What *explain* tells of a drift (`causes.told_of`) is kept with it, so that who is alarmed reads it.
    Raises EndpointNotFound, DeploymentNotFound, DatasetNotFound, NothingToCompare, EngineMissing, DriftCheckFailed.
    """
    settings = Workspace.current().settings()
    chosen = engines.choose(engine or settings.drift_engine)
    if chosen.name == "histograms":
        spent, length = judging.budget(budget or settings.drift_budget, every_seconds=every_seconds), _length(window)
        judged = references.extent(reference, since=since, until=until, length=length, spans=max(judging.SPANS))
        asked = _asked(endpoint, deployment)
        report.step(f"counting {reference or 'the training data'}")
        against = references.chosen(reference, judged, asked.version, endpoint, dataset=dataset, time=time)
        report.step(f"counting the requests of {endpoint}")
        told = _counted(asked, against, judged, length, spent, effect or settings.drift_effect, report)
        words = {"window": window, "budget": budget, "every": f"{every_seconds:g}s" if every_seconds else None, "effect": f"{effect:g}" if effect else None}
        told = msgspec.structs.replace(told, asked={option: word for option, word in words.items() if word})
        return _kept(asked, against.name, chosen, told, explain)
    _refuse_counted(chosen, window, budget, effect, reference, time)
    subject = _subject(endpoint, deployment, dataset)
    report.step(f"reading the requests of {_named(subject)}")
    seen, columns_asked = _window(subject, since, until)
    report.step(f"reading {subject.dataset.ref}")
    pairs, skipped = _pairs(subject, columns_asked)
    report.step(f"comparing {len(pairs)} columns with {chosen.name}")
    found = _compared(pairs, chosen, alpha=settings.drift_alpha) if pairs else {"is_drift": False, "engine": chosen.name, "features": []}
    told = _report(subject, found, pairs, seen, skipped, settings.drift_alpha, chosen)
    return _kept(Under(subject.endpoint, subject.deployment, subject.version), subject.dataset.ref, chosen, told, explain)


def refuse_unfit(
    endpoint: str, *, deployment: str | None = None, dataset: str | None = None, reference: str | None = None, time: str | None = None,
    engine: str | None = None, window: str | None = None, budget: str | None = None, every_seconds: float | None = None, effect: float | None = None,
) -> None:  # fmt: skip
    """Raise what `check_drift` would raise for these words, whatever was asked so far; nothing is compared."""
    settings = Workspace.current().settings()
    chosen = engines.choose(engine or settings.drift_engine)
    asked = _asked(endpoint, deployment)
    if chosen.name != "histograms":
        _refuse_counted(chosen, window, budget, effect, reference, time)
        _subject(endpoint, deployment, dataset)
        return
    judging.budget(budget or settings.drift_budget, every_seconds=every_seconds)
    judged = references.extent(reference, since=None, until=None, length=_length(window), spans=max(judging.SPANS))
    references.refuse_unfit(reference, judged, asked.version, endpoint, dataset=dataset, time=time)


def _length(window: str | None) -> counting.Window:
    return counting.window(window) if window else counting.Window()


def _refuse_counted(chosen: Engine, window: str | None, budget: str | None, effect: float | None, reference: str | None, time: str | None) -> None:
    if window or budget or effect:
        raise BadOption(f"{chosen.name} knows no windows, budget or effect.", hint="--engine histograms")
    if time or reference not in (None, "training"):
        raise BadOption(f"{chosen.name} compares with a data set's rows, not with {reference or 'a season'}.", hint="--engine histograms, or --dataset NAME")


def _counted(asked: Under, against: Reference, judged: Extent, length: counting.Window, spent: judging.Budget, effect: float, report: Reporter) -> DriftReport:
    side = counting.Side(asked.endpoint, asked.deployment, asked.version, against.dataset, against)
    found = counting.compared(side, judged, length=length, budget=spent, effect=effect, report=report)
    if found is None:
        raise _nothing_asked(asked, judged.since)
    if found.window.rows and all(feature.type == "not compared" for feature in found.features):
        raise NothingToCompare.no_column(asked.version.ref, against.name, _by_reason(found))
    return found


def _by_reason(report: DriftReport) -> dict[str, list[str]]:
    reasons: dict[str, list[str]] = {}
    for feature in report.features:
        reasons.setdefault(feature.summary, []).append(feature.name)
    return reasons


def _nothing_asked(subject: Subject | Under, since: datetime | None) -> NothingToCompare:
    with store.reading() as tx:
        there = [d for d in deployments.of(tx, subject.endpoint) if subject.deployment in (None, d.name)]
    over_http = any("invoke" in targets.get(d.target).ABILITIES for d in there)
    return NothingToCompare.no_requests(_named(subject), subject.endpoint, since=since, over_http=over_http)


def _named(subject: Subject | Under) -> str:
    return f"{subject.endpoint}/{subject.deployment}" if subject.deployment else subject.endpoint


# ── what is compared ─────────────────────────────────────────────────────────────────────────────────────────────────


def _asked(endpoint: str, deployment: str | None) -> Under:
    with store.reading() as tx:
        if deployment:
            chosen, alone = deployments.get(tx, endpoint, deployment), True
        else:
            deployments.endpoint(tx, endpoint)
            chosen, alone = _most_asked(endpoint, deployments.of(tx, endpoint), deployments.traffic(tx, endpoint))
        targets.require(chosen.target, "capture")
        return Under(endpoint, chosen.name if alone else None, models.get(tx, ModelRef(chosen.model, version=chosen.version)))


def _subject(endpoint: str, deployment: str | None, dataset: str | None) -> Subject:
    asked = _asked(endpoint, deployment)
    named = dataset or asked.version.dataset
    if not named:
        raise NothingToCompare.no_dataset(endpoint, asked.version.ref)
    with store.reading() as tx:
        return Subject(endpoint, asked.deployment, asked.version, datasets.get(tx, ModelRef.parse(named, what="dataset")))


def _most_asked(endpoint: str, there: Sequence[Deployment], traffic: dict[str, int]) -> tuple[Deployment, bool]:
    """The deployment whose model the check is about, and whether the others run something else."""
    if not there:
        raise NothingToCompare.no_deployment(endpoint)
    several = len({deployment.model_ref for deployment in there}) > 1
    return max(there, key=lambda d: (traffic.get(d.name, 0), d.created_at)), several


def _window(subject: Subject, since: datetime | None, until: datetime | None) -> tuple[Compared, dict[str, Any]]:
    """The requests' columns.  Raises NothingToCompare."""
    captured = telemetry.captured(subject.endpoint, deployment=subject.deployment, since=since, until=until)
    if not captured.rows:
        raise _nothing_asked(subject, since)
    asked = columns.of_requests(telemetry.inputs(subject.endpoint, deployment=subject.deployment, since=since, until=until, most=columns.MOST_ROWS))
    compared = max((len(values) for values in asked.values()), default=0)
    return Compared(rows=captured.rows, compared=compared, since=captured.first, until=captured.last), asked


def _pairs(subject: Subject, asked: dict[str, Any]) -> tuple[list[Pair], dict[str, list[str]]]:
    """Both sides of every column that can be compared, and the other columns by why they cannot.  Raises NothingToCompare, FileMissing."""
    wanted = columns.wanted(subject.version, subject.dataset)
    skipped: dict[str, list[str]] = {}
    comparable: list[Wanted] = []
    for column in wanted:
        why = columns.why_not(column, asked)
        comparable.append(column) if not why else skipped.setdefault(why, []).append(column.name)
    if not comparable:
        raise NothingToCompare.no_column(subject.version.ref, subject.dataset.ref, skipped)
    reference = columns.of_dataset(artifacts.address(subject.dataset.file), comparable, rows=subject.dataset.rows)
    pairs = [columns.pair(column, reference[column.name], asked[column.name]) for column in comparable]
    for pair in pairs:
        if columns.identifies(pair):
            skipped.setdefault("almost all values differ, as in identifiers or free text", []).append(pair.name)
    return [pair for pair in pairs if not columns.identifies(pair)], skipped


# ── the process of its own ───────────────────────────────────────────────────────────────────────────────────────────


def _compared(pairs: list[Pair], engine: Engine, *, script: str = "worker.py", **asked: Any) -> dict[str, Any]:
    """What *script* answers of the columns under the engine's interpreter.  Raises DriftCheckFailed when it ends without an answer."""
    import numpy as np

    with tempfile.TemporaryDirectory(prefix="mlops-drift-") as scratch:
        arrays = Path(scratch) / "columns.npz"
        sides = {f"{side}{n}": values for n, pair in enumerate(pairs) for side, values in (("r", pair.reference), ("w", pair.window))}
        np.savez(arrays, **sides)
        shapes = [{"name": pair.name, "type": pair.type, "categories": pair.categories} for pair in pairs]
        job = {"engine": engine.name, "arrays": str(arrays), "columns": shapes, **asked}
        return json.loads(engines.answer(engine, Path(__file__).with_name(script), json.dumps(job)))


# ── the verdict ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _report(
    subject: Subject, found: dict[str, Any], pairs: list[Pair], window: Compared, skipped: dict[str, list[str]], alpha: float, engine: Engine
) -> DriftReport:
    seen = max((len(pair.reference) for pair in pairs), default=0)
    reference = Compared(dataset=subject.dataset.ref, rows=subject.dataset.rows, compared=seen)
    others = [FeatureDrift(name=name, type="not compared", test="none", summary=why) for why, names in skipped.items() for name in names]
    features = [*msgspec.convert(found["features"], list[FeatureDrift]), *others]
    notes = [*_notes(reference, window, skipped), *([engine.note] if engine.note else [])]
    return DriftReport(
        is_drift=found["is_drift"],
        engine=found["engine"],
        reference=reference,
        window=window,
        alpha=alpha,
        correction=CORRECTION,
        features=features,
        notes=notes,
    )


def _notes(reference: Compared, window: Compared, skipped: dict[str, list[str]]) -> list[str]:
    from .worker import FEWEST_ROWS  # it imports numpy

    notes = []
    if min(window.rows, reference.rows) < FEWEST_ROWS:
        notes.append(f"No verdict: {window.rows} rows against {reference.rows} are too few; {FEWEST_ROWS} are needed on both sides.")
    for what, side in (("training data", reference), ("requests", window)):
        if side.compared < side.rows:
            notes.append(f"A fixed sample of {side.compared:,} of the {side.rows:,} rows of the {what} was compared.")
    return notes + [f"Not compared ({why}): {', '.join(names)}." for why, names in skipped.items()]


def _kept(
    asked: Under, against: str, engine: Engine, report: DriftReport, explain: Callable[[DriftCheck], Mapping[str, Any]] | None = None
) -> DriftCheck:  # fmt: skip
    check = DriftCheck(
        id=str(uuid.uuid4()), endpoint=asked.endpoint, deployment=asked.deployment, dataset=against, engine=engine.name, is_drift=report.is_drift,
        report=msgspec.to_builtins(report), time=store.now(),
    )  # fmt: skip
    causes = explain(check) if explain and check.is_drift else {}
    with store.writing() as tx:
        told = _with_silences(report, asked.endpoint, silences.standing(tx, asked.endpoint))
        check = msgspec.structs.replace(check, report=msgspec.to_builtins(told) | ({"causes": causes} if causes else {}))
        checks.add_drift_check(tx, check)
        silences.end_those_over(tx, check)
        _record(tx, check, asked, report.window.rows)
    return check


def _record(tx: store.Transaction, check: DriftCheck, asked: Under, rows: int) -> None:
    """An event: of drift only where it is of a feature that nobody silenced."""
    loud, drifted = silences.loud(check, silences.standing(tx, check.endpoint)), silences.drifting(check)
    data = {"check": check.id, "dataset": check.dataset, "model": asked.version.ref, "rows": rows, "features": loud or drifted}
    if quiet := [name for name in drifted if name not in loud]:
        data["silenced"] = quiet
    if check.cost:
        data["cost"] = check.cost
    events.record(tx, "DatasetDriftDetected" if loud else "DriftChecked", subject=_named(asked), data=data)


def _with_silences(report: DriftReport, endpoint: str, standing: Sequence[Silence]) -> DriftReport:
    """Each feature with the silence it lies under, in words."""
    held = [(feature, silences.over(standing, endpoint, feature.name)) for feature in report.features]
    features = [msgspec.structs.replace(feature, silenced=silence.words) if silence else feature for feature, silence in held]
    return msgspec.structs.replace(report, features=features)
