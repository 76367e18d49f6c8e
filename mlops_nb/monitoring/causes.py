"""Why a drift check alarmed: which features, among which rows, since when, requests that show it, and what it costs in accuracy."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, cast

import msgspec
import numpy as np

from .. import artifacts, performance, store, telemetry
from ..errors import MlopsError, NotFound, NothingToCompare, UsageError
from ..progress import SILENT, Reporter
from ..reference import ModelRef
from ..store import checks, datasets, deployments, models
from ..store.checks import DriftCheck
from ..telemetry.samples import Sample, sample
from . import change_point, columns, concentration, drift, telling
from .change_point import Beginning
from .concentration import Coded, Segment
from .reports import DriftReport, FeatureDrift

Array = np.ndarray[Any, Any]

MOST_ROWS = 50_000
_MOST_FEATURES = 8
_MOST_EXAMPLES = 5
_CELLS, _PARTS = 20, 4
_MOST_WORDS = 20
_METRICS = ("accuracy", "auc", "rmse", "mae")


class Changed(msgspec.Struct, frozen=True, kw_only=True):
    """One feature that drifted, and since when."""

    feature: str
    effect: float
    """Share of the rows, 0–1, that lies elsewhere; of missing values the change of their share."""
    summary: str
    began: Beginning | None = None


class Example(msgspec.Struct, frozen=True, kw_only=True):
    """A captured row that is typical of the change: far likelier now than before."""

    request: str
    row: int
    """Its place in the request, from 0."""
    time: datetime
    values: dict[str, Any]
    """The features that drifted."""


class Loss(msgspec.Struct, frozen=True, kw_only=True):
    """How good the answers were before the change and since."""

    metric: str
    before: float | None
    """What the version was registered with where the change was there from the first request on; None where neither is known."""
    since: float
    low: float | None = None
    high: float | None = None
    """A 95 % interval of `since`."""
    how: str
    """`measured on 812 labels`, `estimated`."""


class Causes(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of why an endpoint drifted."""

    endpoint: str
    deployment: str | None = None
    check: str
    """The drift check's id."""
    is_drift: bool
    features: list[Changed] = []
    """What moved most first."""
    segments: list[Segment] = []
    examples: list[Example] = []
    losses: list[Loss] = []
    notes: list[str] = []

    @property
    def began(self) -> Beginning | None:
        """Since when, by the feature that moved most."""
        return next((changed.began for changed in self.features if changed.began), None)


def of(endpoint: str, *, deployment: str | None = None, report: Reporter = SILENT) -> Causes:
    """The causes of what the newest drift check of *endpoint* (or of its *deployment*) found; kept with the check.

    Raises EndpointNotFound, DeploymentNotFound, NothingToCompare when there was no check, or its requests are no longer kept.
    """
    return msgspec.convert(with_causes(_newest(endpoint, deployment), report=report).report["causes"], Causes)


def with_causes(check: DriftCheck, *, report: Reporter = SILENT) -> DriftCheck:
    """*check* with its causes, which are kept with it.  Raises NothingToCompare."""
    found = msgspec.to_builtins(explained(check, report=report))
    with store.writing() as tx:
        checks.explain(tx, check.id, found)
    return msgspec.structs.replace(check, report=check.report | {"causes": found})


def told_of(check: DriftCheck) -> Mapping[str, Any]:
    """The causes of what *check* found, for whoever keeps it; none where they cannot be told, which must not cost the alarm."""
    try:
        return cast("Mapping[str, Any]", msgspec.to_builtins(explained(check)))
    except MlopsError:
        return {}


@telemetry.within_bounds
def explained(check: DriftCheck, *, report: Reporter = SILENT) -> Causes:
    """The causes of what *check* found, from its requests, which must still be kept.  Raises NothingToCompare."""
    told = msgspec.convert(check.report, DriftReport)
    whole = Causes(endpoint=check.endpoint, deployment=check.deployment, check=check.id, is_drift=check.is_drift)
    if not check.is_drift:
        return msgspec.structs.replace(whole, notes=["This check found no drift, so there is nothing to explain."])
    report.step(f"reading the requests of {check.endpoint}")
    asked = sample(check.endpoint, deployment=check.deployment, until=_after(told), most=MOST_ROWS)
    if asked is None:
        raise NothingToCompare.no_requests(check.endpoint, check.endpoint)
    before, notes = _reference(check, told)
    report.step("looking for when it began, and where")
    found = _found(told, asked, before)
    report.step("comparing answers before and since")
    losses = _losses(check, told, found[0])
    rows = f"Causes are told from {len(asked):,} rows of requests{', a fixed sample' if len(asked) >= 0.9 * MOST_ROWS else ''}."
    alone = [] if found[0] else ["No feature by itself moved by 5 % of its rows: how they go together did."]
    return msgspec.structs.replace(whole, features=found[0], segments=found[1], examples=found[2], losses=losses, notes=[rows, *alone, *notes])


def _newest(endpoint: str, deployment: str | None) -> DriftCheck:
    with store.reading() as tx:
        deployments.endpoint(tx, endpoint)
        if deployment:
            deployments.get(tx, endpoint, deployment)
        known = [check for check in checks.drift_checks(tx, endpoint) if not deployment or check.deployment in (None, deployment)]
    if not known:
        raise NothingToCompare.no_check(endpoint)
    return known[0]


# ── both sides ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _after(told: DriftReport) -> datetime | None:
    """A moment just after the newest request that the check saw."""
    return told.window.until and told.window.until + timedelta(microseconds=1)


def _reference(check: DriftCheck, told: DriftReport) -> tuple[dict[str, Array], list[str]]:
    """The reference's rows by the model's column names; none where only its counts are kept."""
    if told.reference.kind == "past requests":
        past = sample(check.endpoint, deployment=check.deployment, since=told.reference.since, until=told.reference.until, most=MOST_ROWS)
        return (columns.of_requests(past.columns), []) if past else ({}, ["The requests it was compared with are no longer kept."])
    try:
        with store.reading() as tx:
            dataset = datasets.get(tx, ModelRef.parse(check.dataset.partition(" ")[0], what="dataset"))
    except (NotFound, UsageError):
        return {}, ["The training data's rows are not kept, so the requests before the change stand for them."]
    wanted = [w for w in columns.wanted(drift._asked(check.endpoint, check.deployment).version, dataset) if w.source]
    of_season = [f"All of {dataset.ref} stands for {check.dataset}."] if check.dataset != dataset.ref else []
    return columns.of_dataset(artifacts.address(dataset.file), wanted, rows=dataset.rows), of_season


def _found(told: DriftReport, asked: Sample, before: dict[str, Array]) -> tuple[list[Changed], list[Segment], list[Example]]:
    values = columns.of_requests(asked.columns)
    types = {feature.name: feature.type for feature in told.features if feature.side == "input"}
    names = [name for name in values if types.get(name, "not compared") != "not compared" and (name in before or not before)]
    fine = {name: _coded(name, before.get(name, values[name][:0]), values[name], text=_is_text(values[name]), cells=_CELLS) for name in names}
    changed = [_began(feature, fine, asked) for feature in _drifted(told, fine)]
    began = next((one.began for one in changed if one.began), None)
    start = _start(asked, began, told)
    sides = {name: _sides(one, start, bool(before)) for name, one in fine.items()}
    moved = [sides[one.feature] for one in changed if one.feature in sides]
    coarse = [_sides(_coded(n, before.get(n, values[n][:0]), values[n], text=_is_text(values[n]), cells=_PARTS), start, bool(before)) for n in names]
    return changed, concentration.segments(moved, coarse), _examples(asked, values, moved, start)


def _drifted(told: DriftReport, coded: Mapping[str, Coded]) -> list[FeatureDrift]:
    """The features that alarmed, what moved most first; of a verdict on all together those whose shares moved most."""
    alone = [feature for feature in told.features if feature.is_drift and feature.type != "together"]
    if not alone:
        moved = [msgspec.structs.replace(f, effect=_gap(coded[f.name])) for f in told.features if f.name in coded and f.side == "input"]
        alone = [feature for feature in moved if (feature.effect or 0.0) >= 0.05]
    return sorted(alone, key=lambda feature: feature.size, reverse=True)[:_MOST_FEATURES]


def _gap(one: Coded) -> float:
    before, now = one.counts
    return float(np.abs(before / max(before.sum(), 1) - now / max(now.sum(), 1)).sum() / 2)


def _began(feature: FeatureDrift, coded: Mapping[str, Coded], asked: Sample) -> Changed:
    one = coded.get(feature.name) if feature.side == "input" else None
    began = change_point.beginning(asked.time, one.window, one.counts[0]) if one else None
    return Changed(feature=feature.name, effect=feature.size, summary=feature.summary, began=began)


def _start(asked: Sample, began: Beginning | None, told: DriftReport) -> int:
    """The first row of those that stand for the change: since it began, else of the newest windows that the check took together."""
    since = began.time if began else told.window.since
    return int(np.searchsorted(asked.time, np.datetime64(since.replace(tzinfo=None), "us"))) if since else 0


def _sides(one: Coded, start: int, has_reference: bool) -> Coded:
    """The rows since the change against the reference, or against the rows before where that is not kept."""
    return msgspec.structs.replace(one, window=one.window[start:], reference=one.reference if has_reference else one.window[:start])


# ── cells ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _is_text(values: Array) -> bool:
    return values.dtype.kind in "OUSb"


def _coded(name: str, before: Array, now: Array, *, text: bool, cells: int) -> Coded:
    """Both sides as numbers of cells; the last cell is what is missing."""
    return _categories(name, before, now) if text or _is_text(before) else _numbers(name, before, now, cells)


def _numbers(name: str, before: Array, now: Array, cells: int) -> Coded:
    old, new = columns._numbers(before), columns._numbers(now)
    shape = old if np.isfinite(old).any() else new
    finite = shape[np.isfinite(shape)]
    few = np.unique(np.concatenate([finite, new[np.isfinite(new)]])) if len(finite) else finite
    if len(few) <= 2 * cells:
        return _few(name, old, new, few)
    edges = np.unique(np.quantile(finite, np.arange(1, cells) / cells))
    edges = np.unique([finite.min() - abs(np.spacing(finite.min())), *edges, finite.max()]) if cells > _PARTS else edges
    words = [f"≤ {edges[0]:.6g}", *(f"{low:.6g} to {high:.6g}" for low, high in itertools.pairwise(edges)), f"> {edges[-1]:.6g}", "missing"]
    return Coded(name, _placed(old, edges, len(words)), _placed(new, edges, len(words)), words)


def _few(name: str, old: Array, new: Array, values: Array) -> Coded:
    words = [*(f"{value:g}" for value in values), "missing"]
    return Coded(name, _exact(old, values), _exact(new, values), words)


def _exact(side: Array, values: Array) -> Array:
    return np.where(np.isfinite(side), np.searchsorted(values, np.where(np.isfinite(side), side, 0.0)), len(values)).astype(int)


def _placed(side: Array, edges: Array, count: int) -> Array:
    return np.where(np.isnan(side), count - 1, np.searchsorted(edges, np.nan_to_num(side, posinf=np.inf, neginf=-np.inf))).astype(int)


def _categories(name: str, before: Array, now: Array) -> Coded:
    place: dict[str, int] = {}
    old, new = columns._codes(before, place), columns._codes(now, place)
    times = np.bincount(old[old >= 0], minlength=len(place)) / max(len(old), 1) + np.bincount(new[new >= 0], minlength=len(place)) / max(len(new), 1)
    own = np.argsort(-times, kind="stable")[:_MOST_WORDS]
    cell = np.full(len(place) + 1, len(own))
    cell[own], cell[-1] = np.arange(len(own)), len(own) + 1  # a code of -1, which is missing, finds the last
    names = list(place)
    return Coded(name, cell[old], cell[new], [*(names[n][:40] for n in own), "other", "missing"])


# ── examples ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _examples(asked: Sample, values: Mapping[str, Array], moved: Sequence[Coded], start: int) -> list[Example]:
    """Rows since the change, of different requests, for which now is likeliest against before, each drifted feature by itself."""
    if not moved or start >= len(asked):
        return []
    score = sum(_evidence(one)[one.window] for one in moved)
    best = start + np.argsort(-np.asarray(score), kind="stable")
    first: dict[str, int] = {}
    for place in best[: 200 * _MOST_EXAMPLES].tolist():
        first.setdefault(str(asked.id[place]), place)
    return [_example(asked, values, place, [one.name for one in moved]) for place in list(first.values())[:_MOST_EXAMPLES]]


def _evidence(one: Coded) -> Array:
    before, now = one.counts
    return np.log((now + 0.5) / (now.sum() + 0.5 * len(now))) - np.log((before + 0.5) / (before.sum() + 0.5 * len(before)))


def _example(asked: Sample, values: Mapping[str, Array], place: int, names: Sequence[str]) -> Example:
    told = {name: _plain(values[name][place]) for name in names}
    return Example(request=str(asked.id[place]), row=int(asked.row[place]), time=change_point._moment(asked.time[place]), values=told)


def _plain(value: Any) -> Any:
    value = value.item() if hasattr(value, "item") else value
    return None if value is None or value != value else value if isinstance(value, int | float | bool) else telling.cut(str(value))


# ── what it costs ────────────────────────────────────────────────────────────────────────────────────────────────────


def _losses(check: DriftCheck, told: DriftReport, changed: Sequence[Changed]) -> list[Loss]:
    """The measures before the change and since, by labels where they came, else as confidence leads to expect; none where neither can be told."""
    began = next((one.began for one in changed if one.began), None)
    since = began.time if began else told.window.since
    now = _group(check, since=since, until=_after(told))
    if now is None:
        return []
    before = _group(check, until=since) if since and not (began and began.from_first) else None
    registered = _registered(now.model)
    return [loss for metric in _METRICS if (loss := _loss(metric, before, now, registered.get(metric)))]


def _registered(model: str) -> Mapping[str, float]:
    """The measures that the version was registered with; none where it is no more."""
    try:
        with store.reading() as tx:
            return models.get(tx, ModelRef.parse(model)).metrics
    except (NotFound, UsageError):
        return {}


def _group(check: DriftCheck, *, since: datetime | None = None, until: datetime | None = None) -> performance.Group | None:
    try:
        groups = performance.of(check.endpoint, deployment=check.deployment, since=since, until=until).groups
    except NothingToCompare:
        return None
    return max(groups, key=lambda group: group.answered, default=None)


def _loss(metric: str, before: performance.Group | None, now: performance.Group, registered: float | None) -> Loss | None:
    measured, expected = now.figure(metric), now.expected(metric)
    figure = measured or expected
    if figure is None or figure.value is None:
        return None
    then = (before.figure(metric) or before.expected(metric)) if before else None
    how = f"measured on {now.labelled:,} labels" if measured else f"estimated {now.estimated}"
    if then is None and registered is not None:
        return Loss(metric=metric, before=registered, since=figure.value, low=figure.low, high=figure.high, how=f"{how}; before as registered")
    return Loss(metric=metric, before=then.value if then else None, since=figure.value, low=figure.low, high=figure.high, how=how)
