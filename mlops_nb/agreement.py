"""What a candidate answered beside what was answered: a shadow's copies of live requests, or past requests replayed to it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from statistics import NormalDist
from typing import Any

import msgspec
import numpy as np

from . import measures, measuring, performance, segments, store, targets, telemetry
from .errors import NothingToCompare
from .measures import Array, Figure
from .reference import DeploymentRef
from .store import deployments as table
from .telemetry import labels
from .telemetry.labels import Answers

TOLERANCE = 1e-6
"""Numbers within this, in proportion to their size, are the same answer."""
_LEAST_IN_SEGMENT = 20
_MOST_DIFFERING = 1000
_QUANTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "max": 1.0}


class Segment(msgspec.Struct, frozen=True, kw_only=True):
    """How many answers differ among the rows of one segment."""

    segment: str
    rows: int
    differ: int
    stands_out: bool
    """Whether more differ there than of all rows, with 95 % confidence for all segments together (Wilson's interval, Bonferroni)."""


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """How one of the two answered: latencies as its own server measured them, in milliseconds, and measures where labels have come."""

    requests: int = 0
    errors: int = 0
    p50_ms: float = 0.0
    p90_ms: float = 0.0
    p95_ms: float = 0.0
    p99_ms: float = 0.0
    figures: list[Figure] = []

    def figure(self, metric: str) -> Figure | None:
        """One measured figure."""
        return next((figure for figure in self.figures if figure.metric == metric and figure.value is not None), None)


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """Two answers to each of many rows."""

    rows: int
    """Rows that both were asked; where one failed and the other did not, they differ."""
    differ: int
    agreement: Figure
    what: str = ""
    """What the differences are of: `probability`, `prediction`; empty where there are no numbers."""
    differences: dict[str, float] = {}
    """`p50`, `p90`, `p95`, `p99` and `max` of how far the numbers are apart."""
    histogram: list[int] = []
    """Rows by difference, in twenty equal bins from 0 to the largest."""
    segments: list[Segment] = []
    """Those in which most answers differ, first."""
    before: Side = Side()
    candidate: Side = Side()
    labelled: int = 0
    differing: list[dict[str, Any]] = []
    """Rows whose answers differ, those farthest apart first: `id`, `row`, inputs, `before`, `candidate`, `truth`."""


class ShadowReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a shadow answered beside what callers were answered."""

    endpoint: str
    deployment: str
    since: datetime | None = None
    comparison: Comparison


def of_shadow(ref: DeploymentRef | str, *, since: datetime | None = None, until: datetime | None = None) -> ShadowReport:
    """A deployment that is sent copies, beside those that callers were answered by.

    Raises EndpointNotFound, DeploymentNotFound, NothingToCompare when no copy was answered, TargetCannot where none can be.
    """
    ref = ref if isinstance(ref, DeploymentRef) else DeploymentRef.parse(ref)
    with store.reading() as tx:
        shadow = table.get(tx, ref.endpoint, ref.name or "").name
    pairs = telemetry.pairs(ref.endpoint, shadow, since=since, until=until)
    if not pairs:
        targets.require_kept(ref.endpoint)
        raise NothingToCompare.no_copies(ref.endpoint, shadow)
    columns = performance.inputs_of(ref.endpoint)
    mine = labels.answers(ref.endpoint, deployment=shadow, since=since, until=until, columns=columns)
    others = labels.answers(ref.endpoint, since=since, until=until, columns=columns, copies=False)  # another shadow answered no caller
    copied = {pair.id for pair in pairs}
    failed = sum(pair.rows for pair in pairs if (pair.status < 400) != (pair.shadow_status < 400))
    before = side([pair.latency_ms for pair in pairs], [pair.status for pair in pairs])
    candidate = side([pair.shadow_latency_ms for pair in pairs], [pair.shadow_status for pair in pairs])
    said, shadowed = ([one.where(_among(one.id, copied)) for one in answers] for answers in (others, mine))
    return ShadowReport(endpoint=ref.endpoint, deployment=shadow, since=since, comparison=compare(said, shadowed, before, candidate, failed=failed))


def side(latencies: Sequence[float], statuses: Sequence[int]) -> Side:
    """Latencies and errors in figures."""
    if not latencies:
        return Side()
    p50, p90, p95, p99 = (float(value) for value in np.quantile(latencies, [0.5, 0.9, 0.95, 0.99]))
    return Side(requests=len(latencies), errors=sum(status >= 400 for status in statuses), p50_ms=p50, p90_ms=p90, p95_ms=p95, p99_ms=p99)


def compare(
    before: Sequence[Answers], candidate: Sequence[Answers], of_before: Side, of_candidate: Side, *, failed: int = 0, tolerance: float = TOLERANCE
) -> Comparison:  # fmt: skip
    """Two sides row by row, known by id and place; *failed* rows were answered by one side only.

    Labels must be equal, numbers the same within *tolerance* of their size.  Raises NothingToCompare when no row was answered by both.
    """
    aligned = [(one, other, *_aligned(one, other)) for one in before for other in candidate]
    pairs = [(one.where(mine), other.where(theirs)) for one, other, mine, theirs in aligned if len(mine)]
    if not pairs and not failed:
        raise NothingToCompare.no_common_rows()
    apart = [_apart(one, other, tolerance) for one, other in pairs]
    differ = np.concatenate([one for one, _, _ in apart]) if apart else np.zeros(0, bool)
    distances = np.concatenate([one for _, one, _ in apart]) if apart else np.zeros(0)
    rows, many = len(differ) + failed, int(differ.sum()) + failed
    said, other = (_together(side) for side in zip(*pairs, strict=True)) if pairs else (None, None)
    figures = (_measured(said, said), _measured(other, said)) if said and other else ([], [])
    return Comparison(
        rows=rows, differ=many, agreement=measures.share("agreement", rows - many, rows), what=next((what for _, _, what in apart if what), ""),
        **_spread(distances[~np.isnan(distances)]),
        segments=_segments([one for one, _ in pairs], differ), before=msgspec.structs.replace(of_before, figures=figures[0]),
        candidate=msgspec.structs.replace(of_candidate, figures=figures[1]),
        labelled=sum(int(one.labelled.sum()) for one, _ in pairs), differing=_differing(pairs, differ, distances),
    )  # fmt: skip


def _spread(distances: Array) -> dict[str, Any]:
    """How far apart the numbers are: quantiles and a histogram of twenty bins from nothing to the furthest; nothing of no numbers."""
    if not len(distances):
        return {}
    quantiles = {name: float(np.quantile(distances, q)) for name, q in _QUANTILES.items()}
    return {"differences": quantiles, "histogram": np.histogram(distances, bins=20, range=(0.0, float(distances.max()) or 1.0))[0].tolist()}


# ── rows ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _among(ids: Array, wanted: set[str]) -> Array:
    return np.fromiter((id in wanted for id in ids), bool, len(ids))


def _aligned(one: Answers, other: Answers) -> tuple[Array, Array]:
    """The places of the rows that both have, in the order of the first."""
    there = {key: place for place, key in enumerate(zip(other.id.tolist(), other.row.tolist(), strict=True))}
    found = [(place, there[key]) for place, key in enumerate(zip(one.id.tolist(), one.row.tolist(), strict=True)) if key in there]
    places = np.array(found, int).reshape(-1, 2)
    return places[:, 0], places[:, 1]


def _apart(one: Answers, other: Answers, tolerance: float) -> tuple[Array, Array, str]:
    """Which rows differ, how far their numbers are apart (NaN where they have none), and what those numbers are."""
    count = len(one)
    if one.label is not None and other.label is not None:
        both = one.probabilities is not None and other.probabilities is not None and one.probabilities.shape == other.probabilities.shape
        distances = np.abs(one.probabilities - other.probabilities).max(axis=1) if both else np.full(count, np.nan)
        return np.asarray(one.label != other.label, bool), distances, "probability" if both else ""
    if one.prediction is not None and other.prediction is not None:
        distances = np.abs(one.prediction - other.prediction)
        size = np.maximum(np.maximum(np.abs(one.prediction), np.abs(other.prediction)), 1.0)
        return ~((distances <= tolerance * size) | (np.isnan(one.prediction) & np.isnan(other.prediction))), distances, "prediction"
    return np.ones(count, bool), np.full(count, np.nan), ""


def _segments(before: Sequence[Answers], differ: Array) -> list[Segment]:
    """Every segment of every input, those in which most differ first, as far as their size lets that be told."""
    if not differ.any():
        return []
    names = [name for name in (before[0].columns if before else ()) if all(name in one.columns for one in before)]
    counted: list[tuple[str, int, int]] = []
    for name in names:
        values = np.concatenate([one.columns[name] for one in before])
        words, places = np.unique(segments.named(name, values, segments.cut(values)), return_inverse=True)
        rows, hits = np.bincount(places), np.bincount(places, weights=differ)
        if len(words) > 1:
            counted += [(str(word), int(row), int(hit)) for word, row, hit in zip(words, rows, hits, strict=True) if row >= _LEAST_IN_SEGMENT]
    z = NormalDist().inv_cdf(1 - 0.025 / max(len(counted), 1))
    overall = differ.mean()
    lows = {word: measures.wilson(hit, row, z=z)[0] for word, row, hit in counted}
    ordered = sorted(counted, key=lambda one: -lows[one[0]])
    return [Segment(segment=word, rows=row, differ=hit, stands_out=bool(lows[word] > overall)) for word, row, hit in ordered[:20]]


def _differing(pairs: Sequence[tuple[Answers, Answers]], differ: Array, distances: Array) -> list[dict[str, Any]]:
    places = np.flatnonzero(differ)
    farthest = places[np.argsort(-np.nan_to_num(distances[places], nan=np.inf), kind="stable")][:_MOST_DIFFERING]
    starts = np.cumsum([0, *(len(one) for one, _ in pairs)])
    found = []
    for place in farthest.tolist():
        which = int(np.searchsorted(starts, place, side="right")) - 1
        one, other, at = *pairs[which], place - int(starts[which])
        inputs = {name: _plain(values[at]) for name, values in one.columns.items()}
        found.append({"id": one.id[at], "row": int(one.row[at]), **inputs, "before": _said(one, at), "candidate": _said(other, at), "truth": one.truth[at]})
    return found


def _said(answers: Answers, at: int) -> Any:
    return answers.label[at] if answers.label is not None else _plain(answers.prediction[at])


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value


def _together(many: Sequence[Answers]) -> Answers | None:
    """The rows of several deployments as those of one; None where they give different kinds of answer."""

    def side_by_side(name: str) -> Array | None:
        values = [getattr(one, name) for one in many]
        return np.concatenate(values) if all(value is not None for value in values) and len({value.shape[1:] for value in values}) == 1 else None

    columns = {name: side_by_side(name) for name in ("time", "id", "row", "truth", "label", "prediction", "probabilities")}
    one_kind = columns["label"] is not None or columns["prediction"] is not None
    return msgspec.structs.replace(many[0], columns={}, **columns) if one_kind else None


def _measured(answers: Answers, labelled: Answers) -> list[Figure]:
    known = msgspec.structs.replace(answers, truth=labelled.truth)
    return measuring.of_answers(known) if known.labelled.any() else []
