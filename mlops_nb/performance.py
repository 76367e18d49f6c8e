"""How good an endpoint's answers were, per deployment, over time and by segment: measured where labels came, estimated where they did not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
import numpy as np

from . import estimates, measures, measuring, segments, store, targets
from .errors import NothingToCompare, UnknownColumn
from .measures import Array, Bin, Figure
from .measuring import classes_of, in_order, told_of
from .reference import ModelRef
from .store import deployments as table
from .store import models
from .telemetry import labels
from .telemetry.labels import Answers

PERIODS = ("hour", "day", "week", "month")
"""What `by` may be beside a column."""
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
    unlike: dict[str, str] = {}
    """Deployments none of whose labels can be what they answer → both, in words."""


def of(
    endpoint: str,
    *,
    deployment: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    by: str | None = None,
    segment: str | None = None,
    most: int | None = None,
) -> Performance:
    """Measures with intervals (see `measures`), and where labels lack what they are expected to be (see `estimates`).

    *by* is `hour`, `day`, `week` or `month`, or an input column, as *segment* is; numbers with many values are cut at their quartiles, and beyond
    the twelve most frequent values the rest is `other`.  What is not labelled is estimated, by the labelled rows of the deployment that came
    before; a whole stretch of time likewise.  With *most*, a deployment that has many more rows is judged by a sample (see
    `telemetry.labels.answers`), and `notes` say so.  Raises EndpointNotFound, DeploymentNotFound, UnknownColumn; NothingToCompare,
    or TargetCannot where nothing is kept of what the endpoint answers.
    """
    refs, inputs = _known(endpoint, deployment)
    columns = _grouping(by, segment, inputs)
    everything = labels.answers(endpoint, deployment=deployment, until=until, columns=columns, most=most)
    if not any(len(_since(one, since)) for one in everything):
        targets.require_kept(endpoint)
        who = f"{endpoint}/{deployment}" if deployment else endpoint
        raise NothingToCompare.no_requests(who, endpoint, since=since, over_http=targets.over_http(endpoint))
    cuts = {name: _cuts(everything, name) for name in columns}
    groups = [group for one in everything for group in _groups(one, since, by, cuts, refs.get(one.deployment, ""))]
    unlike = _unlike(everything, since)
    return Performance(
        endpoint=endpoint, since=since, by=by, segment=segment, answered=sum(len(_since(one, since)) for one in everything),
        labelled=sum(int(_since(one, since).labelled.sum()) for one in everything), groups=groups,
        notes=[*_sampled(everything), *_foreign(unlike), *_notes(groups)], unlike=unlike,
    )  # fmt: skip


def _grouping(by: str | None, segment: str | None, inputs: Sequence[str]) -> list[str]:
    """The input columns among *by* and *segment*.  Raises UnknownColumn for one that is none of the *inputs*, where these are known."""
    column = None if by in PERIODS else by
    columns = [name for name in dict.fromkeys((column, segment)) if name]
    for option, name in (("--by", column), ("--segment", segment)):
        if name in columns and inputs and name not in inputs:
            raise UnknownColumn(str(name), option, known=[*(PERIODS if option == "--by" else ()), *inputs])
    return columns


def inputs_of(endpoint: str) -> list[str]:
    """The input columns of the versions that an endpoint runs.  Raises EndpointNotFound."""
    return _known(endpoint, None)[1]


# ── groups ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _groups(answers: Answers, since: datetime | None, by: str | None, cuts: dict[str, segments.Cut], model: str) -> Iterator[Group]:
    """One for each stretch of time and segment that has answers."""
    window = _since(answers, since)
    periods = _begins(window.time, by) if by in PERIODS else np.full(len(window), np.datetime64("NaT"))
    words = [segments.named(name, window.columns[name], cut) for name, cut in cuts.items() if name in window.columns]
    named = np.array([", ".join(parts) for parts in zip(*words, strict=True)] if words else [""] * len(window), dtype=object)
    for period in np.unique(periods):
        in_period = np.isnat(periods) if np.isnat(period) else periods == period
        for segment in in_order(set(named[in_period].tolist())):
            yield _group(answers, window.where(in_period & (named == segment)), segment, period, since, model)


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
        labelled=int(rows.labelled.sum()), figures=measuring.of_answers(rows) if rows.labelled.any() else [],
    )  # fmt: skip
    if rows.label is None:
        return group
    estimate, told = _estimated(everything, rows, begin or since)
    return msgspec.structs.replace(group, calibration=_curve(rows), estimate=estimate, estimated=told)


def _since(answers: Answers, since: datetime | None) -> Answers:
    return answers if since is None else answers.where(answers.time >= np.datetime64(since.astimezone(UTC).replace(tzinfo=None), "us"))


def _cuts(everything: Sequence[Answers], name: str) -> segments.Cut:
    values = [one.columns[name] for one in everything if name in one.columns]
    return segments.cut(np.concatenate(values)) if values else []


def _known(endpoint: str, deployment: str | None) -> tuple[dict[str, str], list[str]]:
    """Deployment → the version it runs, and the input columns of these versions."""
    with store.reading() as tx:
        table.endpoint(tx, endpoint)
        if deployment:
            table.get(tx, endpoint, deployment)
        refs = {one.name: one.model_ref for one in table.of(tx, endpoint)}
        signatures = [models.get(tx, ModelRef.parse(ref)).signature or {} for ref in set(refs.values())]
    return refs, list(dict.fromkeys(column["name"] for signature in signatures for column in signature.get("inputs", [])))


def _curve(rows: Answers) -> list[Bin]:
    known = rows.where(rows.labelled)
    probabilities, told = told_of(known)
    if probabilities is None:
        return []
    classes = classes_of(rows)
    said, column = measures.positive_side(probabilities, known.label[told], classes)
    return measures.calibration(said, known.truth[told] == np.array(classes, dtype=object)[column])


# ── estimated ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _estimated(everything: Answers, rows: Answers, begin: datetime | None) -> tuple[list[Figure], str]:
    """What the measures are expected to be, and in words of which rows by which reference; or why that cannot be told."""
    if told_of(everything)[0] is None:
        return [], "no estimate: it gives no probabilities"
    known = everything.where(everything.labelled)
    earlier = known.where(known.time < np.datetime64(begin.astimezone(UTC).replace(tzinfo=None), "us")) if begin else known
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
    by, by_told = told_of(reference)
    of_these, told = told_of(asked)
    if by is None or of_these is None:
        return []
    score, column = measures.positive_side(by, reference.label[by_told], classes)
    calibration = estimates.calibrated(score, reference.truth[by_told] == np.array(classes, dtype=object)[column])
    said, _ = measures.positive_side(of_these, asked.label[told], classes)
    if len(classes) == 2:
        return estimates.of_two_classes(said, asked.label[told] == classes[1], calibration)
    return estimates.of_many_classes(said, calibration)


def _unlike(everything: Sequence[Answers], since: datetime | None) -> dict[str, str]:
    windows = [_since(one, since) for one in everything]
    told = {one.deployment: measuring.unlike(one, {*one.truth.tolist()} - {None}) for one in windows}
    return {deployment: words for deployment, words in told.items() if words}


def _foreign(unlike: Mapping[str, str]) -> list[str]:
    """That the measures of these deployments mean nothing."""
    said = "these measures mean nothing until labels say what it says"
    return [f"No label of {name} is a value that it answers ({words}): {said}." for name, words in unlike.items()]


def _sampled(everything: Sequence[Answers]) -> list[str]:
    """Where not every row was judged, how many were."""
    return [f"{one.deployment} is judged by a sample: {len(one):,} of {one.of:,} answered rows." for one in everything if one.of]


def _notes(groups: Sequence[Group]) -> list[str]:
    notes = [ASSUMED] if any(group.estimate for group in groups) else []
    if any(group.kind == "regressor" for group in groups):
        notes.append("Of numbers nothing is estimated: they come without a confidence.")
    if not any(group.labelled for group in groups):
        notes.append("No label has come yet.")
    return notes
