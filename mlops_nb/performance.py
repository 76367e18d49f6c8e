"""How good an endpoint's answers were, per deployment, over time and by segment: measured where labels came, estimated where they did not."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
import numpy as np

from . import estimates, measures, store
from .errors import NothingToCompare, UnknownColumn
from .measures import Array, Bin, Figure
from .reference import ModelRef
from .store import deployments as table
from .store import models
from .telemetry import labels
from .telemetry.labels import Answers

PERIODS = ("hour", "day", "week", "month")
"""What `by` may be beside a column."""
_MOST_SEGMENTS = 12
ASSUMED = "An estimate holds while probabilities, calibrated on the reference, mean what they did there: inputs may drift, their relation to the truth may not."


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """How good one deployment's answers were in one stretch of time, for one segment."""

    deployment: str
    model: str = ""
    period: datetime | None = None
    """When the stretch begins; None for all of the time."""
    segment: str = ""
    """`carrier=AA`; empty for all rows."""
    kind: str
    """`classifier` or `regressor`."""
    answered: int
    labelled: int
    figures: list[Figure] = []
    calibration: list[Bin] = []
    estimate: list[Figure] = []
    """What the measures are expected to be, by confidence; empty where that cannot be told."""
    estimated: str = ""
    """Of which rows the estimate is, and by which reference; or why there is none."""

    def figure(self, metric: str) -> Figure | None:
        """One measured figure."""
        return next((figure for figure in self.figures if figure.metric == metric and figure.value is not None), None)

    def expected(self, metric: str) -> Figure | None:
        """One estimated figure."""
        return next((figure for figure in self.estimate if figure.metric == metric and figure.value is not None), None)


class Performance(msgspec.Struct, frozen=True, kw_only=True):
    """How good an endpoint's answers were."""

    endpoint: str
    since: datetime | None = None
    by: str | None = None
    segment: str | None = None
    answered: int
    labelled: int
    groups: list[Group]
    notes: list[str] = []


def of(
    endpoint: str,
    *,
    deployment: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    by: str | None = None,
    segment: str | None = None,
) -> Performance:
    """Measures with intervals (see `measures`), and where labels lack what they are expected to be (see `estimates`).

    *by* is `hour`, `day`, `week` or `month`, or an input column, as *segment* is; numbers with many values are cut at their quartiles, and beyond
    the twelve most frequent values the rest is `other`.  What is not labelled is estimated, by the labelled rows of the deployment that came
    before; a whole stretch of time likewise.  Raises EndpointNotFound, DeploymentNotFound, UnknownColumn, NothingToCompare.
    """
    refs, inputs = _known(endpoint, deployment)
    columns = [name for name in dict.fromkeys((by, segment)) if name and name not in PERIODS]
    for option, name in (("--by", by), ("--segment", segment)):
        if name in columns and inputs and name not in inputs:
            raise UnknownColumn(str(name), option, known=[*(PERIODS if option == "--by" else ()), *inputs])
    everything = labels.answers(endpoint, deployment=deployment, until=until, columns=columns)
    if not any(len(_since(one, since)) for one in everything):
        raise NothingToCompare.no_requests(f"{endpoint}/{deployment}" if deployment else endpoint, endpoint, since=since)
    cuts = {name: _cuts(everything, name) for name in columns}
    groups = [group for one in everything for group in _groups(one, since, by, cuts, refs.get(one.deployment, ""))]
    return Performance(
        endpoint=endpoint, since=since, by=by, segment=segment, answered=sum(len(_since(one, since)) for one in everything),
        labelled=sum(int(_since(one, since).labelled.sum()) for one in everything), groups=groups, notes=_notes(groups),
    )  # fmt: skip


def measured(answers: Answers) -> list[Figure]:
    """The measures of those answers whose truth is known."""
    known = answers.where(answers.labelled)
    if known.label is None:
        truth, numeric = _numbers(known.truth)
        return measures.of_numbers(truth, known.prediction[numeric])
    probabilities, told = _told(known)
    if probabilities is None:
        return measures.of_classes(known.truth, known.label)
    classes = classes_of(answers)
    figures = measures.of_classes(known.truth, known.label, classes=classes)
    return [*figures, *measures.of_classes(known.truth[told], known.label[told], probabilities, classes=classes)[len(figures) :]]


def classes_of(answers: Answers) -> list[str]:
    """Which label each column of the probabilities is of: in order, as scikit-learn has them, unless the answers tell otherwise.

    A label that neither was given nor came true is not known; such a column is called `?`.
    """
    probabilities, told = _told(answers)
    count = probabilities.shape[1] if probabilities is not None else 0
    known = _ordered({*answers.label.tolist(), *answers.truth.tolist()} - {None})
    if len(known) == count or probabilities is None:
        return known
    best = probabilities.argmax(axis=1)
    found: dict[int, str] = {}
    for column in range(count):
        given, times = np.unique(answers.label[told][best == column].astype(str), return_counts=True)
        if len(given):
            found[column] = str(given[times.argmax()])
    left = [name for name in known if name not in found.values()]
    return [found.get(column) or (left.pop(0) if left else f"?{column}") for column in range(count)]


# ── groups ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _groups(answers: Answers, since: datetime | None, by: str | None, cuts: dict[str, Any], model: str) -> Iterator[Group]:
    """One for each stretch of time and segment that has answers."""
    window = _since(answers, since)
    periods = _begins(window.time, by) if by in PERIODS else np.full(len(window), np.datetime64("NaT"))
    words = [_segments(window, name, cut) for name, cut in cuts.items() if name in window.columns]
    segments = np.array([", ".join(parts) for parts in zip(*words, strict=True)] if words else [""] * len(window), dtype=object)
    for period in np.unique(periods):
        in_period = np.isnat(periods) if np.isnat(period) else periods == period
        for segment in _ordered(set(segments[in_period].tolist())):
            yield _group(answers, window.where(in_period & (segments == segment)), segment, period, since, model)


def _begins(times: Array, period: str) -> Array:
    """When the hour, day, week (from Monday) or month of each time begins, in UTC."""
    if period == "week":
        days = times.astype("datetime64[D]").astype(int)
        return ((days - 4) // 7 * 7 + 4).astype("datetime64[D]")  # the fifth of January 1970 was a Monday
    return times.astype(f"datetime64[{ {'hour': 'h', 'day': 'D', 'month': 'M'}[period] }]")


def _group(everything: Answers, rows: Answers, segment: str, period: Any, since: datetime | None, model: str) -> Group:
    begin = None if np.isnat(period) else period.astype("datetime64[us]").item().replace(tzinfo=UTC)
    group = Group(
        deployment=rows.deployment, model=model, period=begin, segment=segment, kind="regressor" if rows.label is None else "classifier", answered=len(rows),
        labelled=int(rows.labelled.sum()), figures=measured(rows) if rows.labelled.any() else [],
    )  # fmt: skip
    if rows.label is None:
        return group
    estimate, told = _estimated(everything, rows, begin or since)
    return msgspec.structs.replace(group, calibration=_curve(rows), estimate=estimate, estimated=told)


def _since(answers: Answers, since: datetime | None) -> Answers:
    return answers if since is None else answers.where(answers.time >= np.datetime64(since.astimezone(UTC).replace(tzinfo=None), "us"))


def _cuts(everything: Sequence[Answers], name: str) -> Any:
    """Where a column's values are parted: quartiles of a number with many values, else the most frequent values."""
    values = [one.columns[name] for one in everything if name in one.columns]
    if not values:
        return []
    whole = np.concatenate(values)
    if whole.dtype.kind in "iuf" and len(np.unique(whole)) > _MOST_SEGMENTS:
        return np.unique(np.nanquantile(whole.astype(float), [0.25, 0.5, 0.75]))
    given, times = np.unique([_word(value) for value in whole], return_counts=True)
    return given[np.argsort(-times, kind="stable")][:_MOST_SEGMENTS].tolist()


def _segments(answers: Answers, name: str, cut: Any) -> list[str]:
    values = answers.columns[name]
    if isinstance(cut, list):
        return [f"{name}={word if word in cut else 'other'}" for word in map(_word, values)]
    edges = [f"{edge:g}" for edge in cut]
    names = [f"{name}≤{edges[0]}", *(f"{name} {low} to {high}" for low, high in itertools.pairwise(edges)), f"{name}>{edges[-1]}"]
    numbers = values.astype(float)
    return [f"{name}=missing" if missing else names[place] for missing, place in zip(np.isnan(numbers), np.searchsorted(cut, numbers), strict=True)]


def _word(value: Any) -> str:
    if value is None or value != value:
        return "missing"
    return f"{value:g}" if isinstance(value, float | np.floating) else str(value)


def _ordered(words: set[str]) -> list[str]:
    """Numbers by size, words by letter."""

    def key(word: str) -> tuple[int, float, str]:
        try:
            return (0, float(word), word)
        except ValueError:
            return (1, 0.0, word)

    return sorted(words, key=key)


def _known(endpoint: str, deployment: str | None) -> tuple[dict[str, str], list[str]]:
    """Deployment → the version it runs, and the input columns of these versions."""
    with store.reading() as tx:
        table.endpoint(tx, endpoint)
        if deployment:
            table.get(tx, endpoint, deployment)
        refs = {one.name: one.model_ref for one in table.of(tx, endpoint)}
        signatures = [models.get(tx, ModelRef.parse(ref)).signature or {} for ref in set(refs.values())]
    return refs, list(dict.fromkeys(column["name"] for signature in signatures for column in signature.get("inputs", [])))


# ── measured ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _told(answers: Answers) -> tuple[Array | None, Array]:
    """The rows of probabilities that are there, and which those are."""
    if answers.probabilities is None:
        return None, np.zeros(len(answers), bool)
    told = ~np.isnan(answers.probabilities).any(axis=1)
    return (answers.probabilities[told] if told.any() else None), told


def _numbers(truth: Array) -> tuple[Array, Array]:
    """Labels as numbers, and which of them are some."""
    values = np.full(len(truth), np.nan)
    for place, word in enumerate(truth):
        try:
            values[place] = float(word)
        except ValueError:
            continue  # no number: it is left out, and the count says so
    return values[~np.isnan(values)], ~np.isnan(values)


def _curve(rows: Answers) -> list[Bin]:
    known = rows.where(rows.labelled)
    probabilities, told = _told(known)
    if probabilities is None:
        return []
    classes = classes_of(rows)
    said, column = measures.positive_side(probabilities, known.label[told], classes)
    return measures.calibration(said, known.truth[told] == np.array(classes, dtype=object)[column])


# ── estimated ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _estimated(everything: Answers, rows: Answers, begin: datetime | None) -> tuple[list[Figure], str]:
    """What the measures are expected to be, and in words of which rows by which reference; or why that cannot be told."""
    if _told(everything)[0] is None:
        return [], "no estimate: it gives no probabilities"
    known = everything.where(everything.labelled)
    earlier = known.where(known.time < np.datetime64(begin.replace(tzinfo=None), "us")) if begin else known
    of_all = begin is not None and len(earlier) >= estimates.LEAST_REFERENCE
    reference, asked = (earlier, rows) if of_all else (known, rows.where(~rows.labelled))
    if len(reference) < estimates.LEAST_REFERENCE:
        return [], f"no estimate: {len(reference):,} labelled rows are too few for a reference ({estimates.LEAST_REFERENCE} are needed)"
    if not len(asked):
        return [], "no estimate: every row is labelled, and none came before"
    which = "all rows, by the labelled ones before" if of_all else "the rows without a label, by those with one"
    return expected(reference, asked), f"of {which} ({len(reference):,})"


def expected(reference: Answers, asked: Answers) -> list[Figure]:
    """The estimated measures of *asked*, with probabilities calibrated on *reference*, whose truth is known."""
    classes = classes_of(reference)
    by, by_told = _told(reference)
    of_these, told = _told(asked)
    if by is None or of_these is None:
        return []
    score, column = measures.positive_side(by, reference.label[by_told], classes)
    calibration = estimates.calibrated(score, reference.truth[by_told] == np.array(classes, dtype=object)[column])
    said, _ = measures.positive_side(of_these, asked.label[told], classes)
    if len(classes) == 2:
        return estimates.of_two_classes(said, asked.label[told] == classes[1], calibration)
    return estimates.of_many_classes(said, calibration)


def _notes(groups: Sequence[Group]) -> list[str]:
    notes = [ASSUMED] if any(group.estimate for group in groups) else []
    if any(group.kind == "regressor" for group in groups):
        notes.append("Of numbers nothing is estimated: they come without a confidence.")
    if not any(group.labelled for group in groups):
        notes.append("No label has come yet.")
    return notes
