"""A drift check by counts: the reference as it was summarised at registration, the window straight from telemetry."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from .. import telemetry
from ..errors import BadOption
from ..progress import SILENT, Reporter
from ..store.datasets import DatasetVersion
from ..store.models import ModelVersion
from ..summaries import ColumnSummary
from ..telemetry import Asked, Windowed
from . import answers, columns, judging, quality, references, telling
from .answers import Truth
from .columns import Wanted
from .judging import Budget, Judged
from .references import Extent, Reference
from .reports import Compared, DriftReport, FeatureDrift, Finding

_LENGTHS = {"m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}


class Window(msgspec.Struct, frozen=True):
    """How long a window is: in seconds or in rows; neither means all requests as one."""

    seconds: float | None = None
    size: int | None = None

    @property
    def several(self) -> bool:
        """Whether there are windows before the newest one."""
        return bool(self.seconds or self.size)


def window(text: str) -> Window:
    """`1d` or `1000`.  Raises BadOption."""
    number, unit = (text[:-1], text[-1]) if text[-1:] in _LENGTHS else (text, "")
    if not number.isascii() or not number.isdigit() or not int(number) or len(number) > 9:
        raise BadOption(f"{text[:40]!r} is no window.", hint="--window 1d, or --window 1000 rows")
    return Window(seconds=int(number) * _LENGTHS[unit]) if unit else Window(size=int(number))


class Side(msgspec.Struct, frozen=True):
    """What is compared with what."""

    endpoint: str
    deployment: str | None
    version: ModelVersion
    dataset: DatasetVersion | None = None
    reference: Reference | None = None
    """Unless given, the data set."""

    @property
    def against(self) -> Reference:
        """What the requests are compared with."""
        return self.reference or references.training(self.version, self.dataset.ref if self.dataset else None, self.endpoint)


def compared(side: Side, judged: Extent, *, length: Window, budget: Budget, effect: float, report: Reporter = SILENT) -> DriftReport | None:
    """The verdict on inputs, predictions and labels; None where no answered request is kept, nor one refused for its columns.  Raises FileMissing."""
    there = telemetry.columns(side.endpoint, deployment=side.deployment, since=judged.since, until=judged.until)
    wanted, skipped = _comparable(side, there)
    inputs = [Asked(columns.column_of(w), shape, w.place) for w, shape in wanted]
    outputs = answers.predictions(side.endpoint, side.deployment, side.version, side.against, judged, report) if inputs else answers.Outputs([])
    found = telemetry.histograms(
        side.endpoint, [*inputs, *outputs.asked], deployment=side.deployment, since=judged.since, until=judged.until, seconds=length.seconds,
        size=length.size, most=max(judging.SPANS) if length.several else 1,
    )  # fmt: skip
    if not found:
        return _all_refused(side, judged, budget.alpha, effect)
    truth = answers.truth(side.endpoint, side.deployment, side.against, found) if inputs else None
    lines = _Lines([a.shape for a in inputs], [a.shape for a in outputs.asked], truth)
    told, tested = _report(side, lines, skipped, found, budget, effect)
    told = msgspec.structs.replace(told, notes=[*told.notes, *filter(None, (outputs.note, truth.note if truth else ""))])
    return msgspec.structs.replace(told, quality=_quality(side, judged, tested[: len(inputs)], found, skipped, there, alpha=budget.alpha, effect=effect))


def _all_refused(side: Side, extent: Extent, alpha: float, effect: float) -> DriftReport | None:
    """What is told where the server refused every request for its columns; None where it refused none."""
    against = side.against
    known = {columns.column_of(one) for one in against.wanted}
    faults = quality.schema(side.endpoint, side.deployment, since=extent.since, until=extent.until, known=known, new=(), gone=(), effect=effect)
    if not faults:
        return None
    return DriftReport(
        is_drift=False,
        engine="histograms",
        reference=Compared(rows=against.rows, compared=against.rows, dataset=against.name, kind=against.kind, since=against.since, until=against.until),
        window=Compared(rows=0, compared=0, since=extent.since, until=extent.until),
        alpha=alpha,
        correction="Holm",
        features=[FeatureDrift(name=one.name, type="not compared", test="none", summary="no request was answered") for one in against.wanted],
        quality=faults,
        notes=["No verdict on values: no request was answered."],
    )


class _Lines(msgspec.Struct, frozen=True):
    """All that is compared, in the order of the windows' columns: inputs, predictions, the label."""

    inputs: list[ColumnSummary]
    outputs: list[ColumnSummary]
    truth: Truth | None

    @property
    def references(self) -> list[ColumnSummary]:
        return [*self.inputs, *self.outputs, *([self.truth.reference] if self.truth else [])]

    def windows(self, found: Sequence[Windowed]) -> list[list[ColumnSummary]]:
        late = self.truth.windows if self.truth else []
        return [[*one.columns, *late[n : n + 1]] for n, one in enumerate(found)]

    def side_of(self, place: int) -> str:
        return "input" if place < len(self.inputs) else "prediction" if place < len(self.inputs) + len(self.outputs) else "label"


def _quality(
    side: Side, extent: Extent, judged: list[Judged], found: list[Windowed], skipped: dict[str, list[str]], there: set[str], *, alpha: float, effect: float
) -> list[Finding]:
    since = min(one.first for one in found)
    beyond = quality.reach(side.endpoint, side.deployment, judged, since=since, until=extent.until)
    known = {columns.column_of(one) for one in side.against.wanted}
    gone = skipped.get(columns.NOT_IN_REQUESTS, []) if side.against.kind == "training data" else []
    by_counts = quality.findings(judged, found[0].columns[: len(judged)], beyond, alpha=alpha, effect=effect)
    return by_counts + quality.schema(
        side.endpoint, side.deployment, since=extent.since or since, until=extent.until, known=known, new=there - known, gone=gone, effect=effect
    )  # fmt: skip


def _comparable(side: Side, there: set[str]) -> tuple[list[tuple[Wanted, ColumnSummary]], dict[str, list[str]]]:
    """The columns with their counts in the reference, and the others by why they are not compared."""
    against = side.against
    known = {summary.name: summary for summary in against.columns}
    chosen: list[tuple[Wanted, ColumnSummary]] = []
    skipped: dict[str, list[str]] = {}
    for wanted in against.wanted:
        why = _why_not(wanted, known.get(wanted.source or ""), there)
        if why:
            skipped.setdefault(why, []).append(wanted.name)
        else:
            chosen.append((wanted, msgspec.structs.replace(known[wanted.source or ""], name=wanted.name)))
    return chosen, skipped


def _why_not(wanted: Wanted, summary: ColumnSummary | None, there: set[str]) -> str:
    column = {columns.column_of(wanted)} & there
    if why := columns.why_not(msgspec.structs.replace(wanted, name=columns.column_of(wanted)), column):
        return why
    if summary is None:
        return "values of another kind in the training data"
    if summary.kind == "category" and summary.distinct > max(summary.count / 2, 100):
        return "almost all values differ, as in identifiers or free text"
    return ""


_column = columns.column_of


def _report(side: Side, lines: _Lines, skipped: dict[str, list[str]], found: list[Windowed], budget: Budget, effect: float) -> tuple[DriftReport, list[Judged]]:
    against, shapes = side.against, lines.references
    judged = judging.judge(shapes, lines.windows(found), effect=effect) if shapes else []
    told = [telling.feature(one, alpha=budget.alpha, effect=effect, side=lines.side_of(place)) for place, one in enumerate(judged)]
    features = sorted(told, key=_order)
    others = [FeatureDrift(name=name, type="not compared", test="none", summary=why) for why, names in skipped.items() for name in names]
    spans = [span for span in judging.SPANS if span <= len(found)]
    rows = sum(one.rows for one in found)
    report = DriftReport(
        is_drift=any(feature.is_drift for feature in features),
        engine="histograms",
        reference=Compared(rows=against.rows, compared=against.rows, dataset=against.name, kind=against.kind, since=against.since, until=against.until),
        window=Compared(rows=rows, compared=rows, since=found[-1].first, until=found[0].last),
        alpha=budget.alpha,
        correction="Holm",
        features=[*features, *others],
        promise=budget.promise(len(shapes), len(spans)),
        spans=spans,
        notes=_notes(against, found, skipped),
    )
    return report, judged


def _order(feature: FeatureDrift) -> tuple[bool, float]:
    return not feature.is_drift, -max(feature.effect or 0.0, abs(feature.missing_window - feature.missing_reference))


def _notes(against: Reference, found: list[Windowed], skipped: dict[str, list[str]]) -> list[str]:
    notes = []
    if min(found[0].rows, against.rows) < judging.FEWEST_ROWS:
        rows = f"{found[0].rows} rows against {against.rows}"
        notes.append(f"No verdict: {rows} are too few; {judging.FEWEST_ROWS} are needed on both sides.")
    if len(found) > 1:
        notes.append(f"The newest window of {found[0].rows:,} rows, and with those before it, up to {len(found)} windows together.")
    return notes + [f"Not compared ({why}): {', '.join(names)}." for why, names in skipped.items()]
