"""Drift by feature and time: each of many windows against the training data, judged as a check at its end would have judged it.

Windows begin at whole multiples of their length, so those that are over never change and are counted once: what was counted is kept in this
process, beside how many requests there were, which is how rows that come late (a device that was offline) are noticed.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Generic, TypeVar

import msgspec

from .. import artifacts, store, summaries, telemetry
from ..errors import NothingToCompare, UnknownColumn
from ..reference import ModelRef
from ..settings import Workspace
from ..store import datasets, deployments, models
from ..store.checks import DriftCheck
from ..store.datasets import DatasetVersion
from ..store.deployments import Deployment
from ..store.models import ModelVersion
from ..summaries import ColumnSummary
from ..telemetry import Asked, Segment, labels
from . import answers, columns, counting, judging, references, telling
from .columns import Wanted
from .judging import Judged
from .reports import Compared, DriftReport, FeatureDrift

MOST_WINDOWS = 120
MOST_ROWS = 500_000
"""Of more rows than that a map is told by a sample."""
_SAMPLED_ROWS = 100_000
"""About how many rows such a sample has, or a sixteenth of all where that is less: more than a page can wait for tell no more of a map."""
_ORIGIN = datetime(2000, 1, 3, tzinfo=UTC)
"""A Monday at midnight, from which windows (as telemetry's stretches) are counted."""
_MOST_PARTS = 20
T = TypeVar("T")


class Part(msgspec.Struct, frozen=True):
    """The rows, of requests and of training data, whose *column* has one *value*."""

    column: str
    value: str

    def __str__(self) -> str:
        return f"{self.column}={self.value}"


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """One feature in one window."""

    feature: str
    effect: float | None
    """Share of the window's rows, 0–1, that lies elsewhere than in the training data; None where there are too few to tell."""
    at_least: float = 0.0
    """The share of which chance explains no part, with 95 %: what to look at where windows are small."""
    alarm: bool = False
    kind: str = ""
    """What the alarm is about: `values`, `missing` or `new`."""
    span: int = 1
    """How many windows, this one the newest, say so together."""
    missing: float = 0.0
    new: float = 0.0
    """Share of the rows with a category, or beyond the range, that the training data never showed."""


class Slot(msgspec.Struct, frozen=True, kw_only=True):
    """One window that was asked something."""

    begin: datetime
    end: datetime
    rows: int
    """Of all requests; about as many where a sample was counted."""
    cells: list[Cell]


class DriftMap(msgspec.Struct, frozen=True, kw_only=True):
    """Features × windows."""

    endpoint: str
    deployments: list[str] | None
    """Whose requests; None stands for all, also those withdrawn since."""
    part: Part | None
    """Which rows, on either side; None stands for all."""
    model: str
    dataset: str
    seconds: float
    effect: float
    """The smallest share of rows that counts."""
    alpha: float
    promise: str
    features: list[str]
    """Those with most alarms first, then by the largest share that chance does not explain."""
    sides: dict[str, str] = {}
    """The features that are no inputs: `prediction` or `label`."""
    share: float | None = None
    """Of the requests that were counted; None stands for all."""
    slots: list[Slot]
    """Oldest first; windows in which nobody asked are left out."""
    skipped: dict[str, list[str]]
    """The columns that are not compared, by why not."""
    parts: dict[str, list[str]]
    """The columns by which rows can be told apart, with their most frequent values in the training data."""

    def cell(self, feature: str, begin: datetime) -> Cell | None:
        """One cell, where there is one."""
        return next((cell for slot in self.slots if slot.begin == begin for cell in slot.cells if cell.feature == feature), None)


def drift_map(endpoint: str, *, seconds: float, since: datetime, until: datetime, among: Collection[str] | None = None, part: Part | None = None) -> DriftMap:
    """Every window of so many *seconds* from *since* to *until*, at most MOST_WINDOWS of the newest, against the training data.

    The training data is that of the version with most traffic; *among* narrows the requests, and the versions, to those deployments,
    *part* the rows of both sides.  Each window is a look of its own under the settings' budget.  Of more than MOST_ROWS rows a sample of the
    requests is counted, always the same one: `mlops drift` counts them all.  Raises EndpointNotFound, NothingToCompare,
    UnknownColumn for a part by a column that has no categories, FileMissing.
    """
    settings = Workspace.current().settings()
    subject = _subject(endpoint, among, part)
    stretch = _Stretch.around(since, until, seconds)
    marks = _marks(subject, stretch)
    share = _share(marks)
    found = _counts(subject, stretch, marks, share)
    budget = judging.budget(settings.drift_budget, every_seconds=seconds)
    shown = [place for place in sorted(found) if place >= stretch.shown]
    slots = [_slot(subject, stretch, found, place, budget.alpha, settings.drift_effect, share) for place in shown]
    absent = {r.name for n, r in enumerate(subject.references) if slots and all(not found[place].columns[n].count for place in found)}
    slots = [msgspec.structs.replace(slot, cells=[cell for cell in slot.cells if cell.feature not in absent]) for slot in slots]
    return DriftMap(
        endpoint=endpoint, deployments=subject.names, part=part, parts=subject.parts, model=subject.model, dataset=subject.dataset,
        seconds=seconds, effect=settings.drift_effect,
        alpha=budget.alpha, promise=budget.promise(len(subject.references) - len(absent), len(judging.SPANS)), features=_ordered(slots), slots=slots,
        sides=subject.sides, share=share, skipped=subject.skipped | _absent(absent, subject.sides),
    )  # fmt: skip


def _absent(names: Collection[str], sides: Mapping[str, str]) -> dict[str, list[str]]:
    why = {"": "not in the requests", "prediction": "not in the answers", "label": "no label has come for this time"}
    found: dict[str, list[str]] = {}
    for name in sorted(names):
        found.setdefault(why[sides.get(name, "")], []).append(name)
    return found


def parts_of(endpoint: str, *, among: Collection[str] | None = None) -> dict[str, list[str]]:
    """The columns by which rows can be told apart, with their most frequent values in the training data.  Raises as `drift_map` does."""
    return _subject(endpoint, among, None).parts


def window_check(drift_map: DriftMap, begin: datetime) -> DriftCheck | None:
    """One window of a map as a check that is not stored, for `figure` and `distribution_figure`; None where nobody asked in it."""
    slot = next((slot for slot in drift_map.slots if slot.begin == begin), None)
    if slot is None:
        return None
    subject = _subject(drift_map.endpoint, drift_map.deployments, drift_map.part)
    stretch = _Stretch.around(begin, slot.end, drift_map.seconds)
    counted = _counts(subject, stretch, _marks(subject, stretch), drift_map.share)
    place = stretch.place_of(begin)
    told = {cell.feature: cell for cell in slot.cells}
    judged = _judged(subject, counted, place, drift_map.effect)
    features = [_alone(one, counted[place].columns[n], told[one.reference.name], drift_map) for n, one in enumerate(judged) if one.reference.name in told]
    features.sort(key=lambda feature: (not feature.is_drift, -told[feature.name].at_least))
    report = DriftReport(
        is_drift=any(feature.is_drift for feature in features), engine="histograms", alpha=drift_map.alpha, correction="Holm", promise=drift_map.promise,
        reference=Compared(rows=subject.rows, compared=subject.rows, dataset=subject.dataset),
        window=Compared(rows=slot.rows, compared=counted[place].rows, since=begin, until=slot.end), features=features,
    )  # fmt: skip
    alone = drift_map.deployments[0] if drift_map.deployments and len(drift_map.deployments) == 1 else None
    return DriftCheck(
        id="", endpoint=drift_map.endpoint, deployment=alone, dataset=subject.dataset, engine="histograms", is_drift=report.is_drift,
        report=msgspec.to_builtins(report), time=slot.end,
    )  # fmt: skip


# ── what is compared ─────────────────────────────────────────────────────────────────────────────────────────────────


class _Subject(msgspec.Struct, frozen=True):
    endpoint: str
    names: list[str] | None
    model: str
    dataset: str
    asked: list[Asked]
    """What is counted of the requests: inputs, then predictions."""
    references: list[ColumnSummary]
    """The same of the training data, and of its target where labels are compared."""
    labelled: ColumnSummary | None
    """That target."""
    sides: dict[str, str]
    skipped: dict[str, list[str]]
    segment: Segment | None
    parts: dict[str, list[str]]

    @property
    def rows(self) -> int:
        """Of the training data."""
        return self.references[0].rows


def _subject(endpoint: str, among: Collection[str] | None, part: Part | None) -> _Subject:
    with store.reading() as tx:
        deployments.endpoint(tx, endpoint)
        there = [d for d in deployments.of(tx, endpoint) if among is None or d.name in among]
        chosen = _most_asked(endpoint, there, deployments.traffic(tx, endpoint))
        version = models.get(tx, ModelRef(chosen.model, version=chosen.version))
        if not version.dataset:
            raise NothingToCompare.no_dataset(endpoint, version.ref)
        dataset = datasets.get(tx, ModelRef.parse(version.dataset, what="dataset"))
    side = counting.Side(endpoint, None, version, dataset)
    wanted, skipped = counting._comparable(side, {counting._column(column) for column in columns.wanted(version, dataset)})
    if not wanted:
        raise NothingToCompare.no_column(version.ref, dataset.ref, skipped)
    asked = [Asked(counting._column(column), shape, column.place) for column, shape in wanted]
    segment = _segment(part, asked) if part else None
    shapes = _references(dataset, wanted, segment) if segment else [shape for _, shape in wanted]
    names = None if among is None else sorted(d.name for d in there)
    told, target, unasked = ([], None, {}) if segment else _answered(endpoint, version, dataset)
    sides = {one.shape.name: "prediction" for one in told} | ({target.name: "label"} if target else {})
    return _Subject(
        endpoint, names, version.ref, dataset.ref, [*asked, *told], [*shapes, *(one.shape for one in told), *filter(None, [target])], target, sides,
        skipped | (_OF_ALL_ROWS if segment else unasked), segment, _parts(asked),
    )  # fmt: skip


_OF_ALL_ROWS = {"told of all rows alone": ["predictions", "labels"]}


def _answered(endpoint: str, version: ModelVersion, dataset: DatasetVersion) -> tuple[list[Asked], ColumnSummary | None, dict[str, list[str]]]:
    """The predictions and the target that can be compared without asking the model, and what cannot by why."""
    against = references.training(version, dataset.ref, endpoint)
    told = answers.known(version, against)
    unasked = {} if told or not version.files else {f"told once %mlops drift {endpoint} has asked the model rows of its training data": ["predictions"]}
    return told, answers.target_of(endpoint, against), unasked


def _parts(asked: Sequence[Asked]) -> dict[str, list[str]]:
    shapes = [one.shape for one in asked if one.shape.kind == "category" and not one.place]
    return {shape.name: sorted(shape.categories, key=lambda name: -shape.categories[name])[:_MOST_PARTS] for shape in shapes}


def _segment(part: Part, asked: Sequence[Asked]) -> Segment:
    found = next((one for one in asked if one.shape.name == part.column and part.column in _parts(asked)), None)
    if not found:
        raise UnknownColumn(part.column, "--segment", known=list(_parts(asked)))
    return Segment(found, part.value)


def _references(dataset: DatasetVersion, wanted: Sequence[tuple[Wanted, ColumnSummary]], segment: Segment) -> list[ColumnSummary]:
    """The segment's rows of the training data, over the bins of all of it.  Raises FileMissing."""
    import duckdb

    source = {shape.name: '"' + (column.source or "").replace('"', '""') + '"' for column, shape in wanted}
    values = ", ".join(f"{summaries.value(shape, source[shape.name])} AS c{n}" for n, (_, shape) in enumerate(wanted))
    inside = f"{summaries.value(segment.asked.shape, source[segment.asked.shape.name])} = ?"
    select = f"SELECT 0 AS w, {values} FROM read_parquet(?) WHERE {inside}"
    bound = [str(artifacts.address(dataset.file)), segment.value]
    with duckdb.connect(":memory:", config={"autoinstall_known_extensions": False}) as connection:
        found = summaries.counted(connection, select, [shape for _, shape in wanted], bound)
    return found.get(0) or [_emptied(shape) for _, shape in wanted]


def _emptied(shape: ColumnSummary) -> ColumnSummary:
    counts, categories = [0] * len(shape.counts), dict.fromkeys(shape.categories, 0)
    return msgspec.structs.replace(shape, count=0, missing=0, other=0, counts=counts, categories=categories, mean=None, deviation=None)


def _most_asked(endpoint: str, there: Sequence[Deployment], traffic: dict[str, int]) -> Deployment:
    if not there:
        raise NothingToCompare.no_deployment(endpoint)
    return max(there, key=lambda d: (traffic.get(d.name, 0), d.created_at))


# ── windows ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class _Stretch(msgspec.Struct, frozen=True):
    """Windows by their place, counted from the origin; the first few before what is shown are there to be put together with it."""

    first: int
    end: int
    seconds: float
    shown: int

    @classmethod
    def around(cls, since: datetime, until: datetime, seconds: float) -> _Stretch:
        """From the window that *since* lies in to the one that *until* ends in."""
        end = -int((_ORIGIN - until).total_seconds() // seconds)
        shown = max(int((since - _ORIGIN).total_seconds() // seconds), end - MOST_WINDOWS)
        return cls(shown - max(judging.SPANS) + 1, end, seconds, shown)

    def begin_of(self, place: int) -> datetime:
        """When a window begins."""
        return _ORIGIN + timedelta(seconds=place * self.seconds)

    def place_of(self, time: datetime) -> int:
        """The window that a moment lies in."""
        return int((time - _ORIGIN).total_seconds() // self.seconds)


class _Counted(msgspec.Struct, frozen=True):
    """One window of all that was chosen."""

    rows: int
    columns: list[ColumnSummary]
    mark: tuple[int, ...]
    """Requests and rows that there were when it was counted, and what labels."""


def _share(marks: Mapping[int, tuple[int, int]]) -> float | None:
    """The share of the requests to count, a power of two, so that a few more requests make no other sample; None stands for all."""
    rows = sum(count for _, count in marks.values())
    return min(telemetry.SAMPLED, 2.0 ** math.floor(math.log2(_SAMPLED_ROWS / rows))) if rows > MOST_ROWS else None


def _key(subject: _Subject, stretch: _Stretch, place: int, mark: tuple[int, ...], share: float | None) -> tuple[object, ...]:
    names = None if subject.names is None else tuple(subject.names)
    part = (subject.segment.asked.shape.name, subject.segment.value) if subject.segment else None
    compared = tuple(subject.sides)
    return (str(Workspace.current().root), subject.endpoint, names, subject.model, subject.dataset, part, compared, stretch.seconds, place, mark, share)


def _counts(subject: _Subject, stretch: _Stretch, marks: dict[int, tuple[int, int]], share: float | None) -> dict[int, _Counted]:
    """The windows in which somebody asked, by their place; only those that changed since they were last counted are read."""
    found = {place: _windows.get(_key(subject, stretch, place, mark, share)) for place, mark in marks.items()}
    missing = [place for place, known in found.items() if known is None]
    if missing:
        found |= _read(subject, stretch, marks, min(missing), max(missing) + 1, share)
    return _with_labels(subject, stretch, {place: counted for place, counted in found.items() if counted and counted.rows}, share)


def _with_labels(subject: _Subject, stretch: _Stretch, found: dict[int, _Counted], share: float | None) -> dict[int, _Counted]:
    """With the labels of each window, which are read again once any came, or the window changed."""
    target = subject.labelled
    if target is None or not found:
        return found
    came = labels.mark(subject.endpoint)
    keys = {place: (*_key(subject, stretch, place, one.mark, share), came) for place, one in found.items()}
    known = {place: column for place, key in keys.items() if (column := _labels.get(key))}
    if missing := [place for place in found if place not in known]:
        late = answers.by_window(
            subject.endpoint, target, among=subject.names, origin=_ORIGIN, seconds=stretch.seconds, first=min(missing), end=max(missing) + 1
        )  # fmt: skip
        for place in missing:
            known[place] = late.get(place) or _emptied(target)
            _labels.put(keys[place], known[place])
    return {
        place: msgspec.structs.replace(one, columns=[*one.columns, known[place]], mark=(*one.mark, _fingerprint(known[place]))) for place, one in found.items()
    }


def _fingerprint(column: ColumnSummary) -> int:
    return hash((*column.counts, *column.categories.values(), column.other))


def _marks(subject: _Subject, stretch: _Stretch) -> dict[int, tuple[int, int]]:
    since, until = stretch.begin_of(stretch.first), stretch.begin_of(stretch.end)
    marks: dict[int, tuple[int, int]] = {}
    for row in telemetry.traffic(subject.endpoint, since=since, until=until, bucket_seconds=stretch.seconds):
        if subject.names is None or row["deployment"] in subject.names:
            place = stretch.place_of(row["time"])
            requests, rows = marks.get(place, (0, 0))
            marks[place] = (requests + row["requests"], rows + (row["rows"] or 0))
    return marks


def _read(
    subject: _Subject, stretch: _Stretch, marks: dict[int, tuple[int, int]], first: int, end: int, share: float | None
) -> dict[int, _Counted]:  # fmt: skip
    """Windows *first* to *end*, counted in one pass for each deployment, or for all together."""
    read: dict[int, list[telemetry.Windowed]] = {}
    until = stretch.begin_of(end) - timedelta(microseconds=1)  # telemetry's windows end with their last moment, ours before the next one's first
    for name in [None] if subject.names is None else subject.names:
        windows = telemetry.histograms(
            subject.endpoint, subject.asked, deployment=name, since=stretch.begin_of(first), until=until, seconds=stretch.seconds, most=end - first,
            segment=subject.segment, share=share,
        )  # fmt: skip
        for window in windows:
            read.setdefault(end - 1 - window.number, []).append(window)
    found: dict[int, _Counted] = {}
    for place in range(first, end):
        if place in marks:
            found[place] = _counted(read.get(place, []), marks[place])
            _windows.put(_key(subject, stretch, place, marks[place], share), found[place])
    return found


def _counted(parts: Sequence[telemetry.Windowed], mark: tuple[int, int]) -> _Counted:
    if not parts:
        return _Counted(0, [], mark)
    together = [summaries.together(many) for many in zip(*(part.columns for part in parts), strict=True)]
    return _Counted(sum(part.rows for part in parts), together, mark)


# ── verdicts ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _slot(
    subject: _Subject, stretch: _Stretch, counted: dict[int, _Counted], place: int, alpha: float, effect: float, share: float | None
) -> Slot:  # fmt: skip
    marks = tuple(counted[before].mark if before in counted else None for before in _before(place))
    key = (*_key(subject, stretch, place, counted[place].mark, share), marks, alpha, effect)
    cells = _verdicts.get(key)
    if cells is None:
        told = zip(_judged(subject, counted, place, effect), counted[place].columns, strict=True)
        cells = [_cell(one, window, alpha) for one, window in told if window.rows]  # of labels there may be none
        _verdicts.put(key, cells)
    return Slot(begin=stretch.begin_of(place), end=stretch.begin_of(place + 1), rows=round(counted[place].rows / (share or 1)), cells=cells)


def _judged(subject: _Subject, counted: dict[int, _Counted], place: int, effect: float) -> list[Judged]:
    """The window and those before it, as a check at its end sees them."""
    windows = [counted[before].columns for before in _before(place) if before in counted]
    return judging.judge(subject.references, windows, effect=effect)


def _before(place: int) -> range:
    return range(place, place - max(judging.SPANS), -1)


def _cell(judged: Judged, window: ColumnSummary, alpha: float) -> Cell:
    decisive, reference = judged.tests[0], judged.reference
    alarm, enough = decisive.p_adjusted < alpha, min(window.rows, reference.rows) >= judging.FEWEST_ROWS
    alone = [(test.effect, test.effect - _by_chance(test.kind, reference, window)) for test in judged.tests if test.span == 1 and test.test != "none"]
    return Cell(
        feature=reference.name, effect=max((effect for effect, _ in alone), default=None) if enough else None,
        at_least=max((certain for _, certain in alone), default=0.0) if enough else 0.0, alarm=alarm, kind=decisive.kind if alarm else "",
        span=decisive.span if alarm else 1, missing=window.missing / max(window.rows, 1), new=judging.outside(reference, window) / max(window.count, 1),
    )  # fmt: skip


def _by_chance(kind: str, reference: ColumnSummary, window: ColumnSummary) -> float:
    """What chance alone makes of an effect, with 95 %: the inequality of Dvoretzky, Kiefer and Wolfowitz, as `judging` has it."""
    n, m = reference.rows, window.rows
    away = math.sqrt(math.log(2 / 0.05) * (n + m) / (2 * n * m)) if n and m else 1.0
    if kind != "values" or reference.kind == "number" or not (reference.count and window.count):
        return away
    before, now = judging.cells(reference, window)
    pooled = (before + now) / (before.sum() + now.sum())
    spread = pooled * (1 - pooled) * (1 / before.sum() + 1 / now.sum())
    return away + float((spread**0.5).sum()) / math.sqrt(2 * math.pi)


def _alone(judged: Judged, window: ColumnSummary, cell: Cell, drift_map: DriftMap) -> FeatureDrift:
    """The feature in this window alone, with the verdict that the windows together gave."""
    own = Judged(judged.reference, window, [test for test in judged.tests if test.span == 1])
    told = telling.feature(own, alpha=drift_map.alpha, effect=drift_map.effect)
    return msgspec.structs.replace(told, is_drift=cell.alarm, kind=cell.kind, span=cell.span, side=drift_map.sides.get(cell.feature, "input"))


def _ordered(slots: Sequence[Slot]) -> list[str]:
    alarms: dict[str, tuple[int, float]] = {}
    for cell in (cell for slot in slots for cell in slot.cells):
        count, largest = alarms.get(cell.feature, (0, 0.0))
        alarms[cell.feature] = (count + cell.alarm, max(largest, cell.at_least))
    return sorted(alarms, key=lambda name: (-alarms[name][0], -alarms[name][1], name))


# ── what was counted already ─────────────────────────────────────────────────────────────────────────────────────────


class _Kept(Generic[T]):
    """The values used last, packed, up to so many bytes; several threads may use it."""

    def __init__(self, kind: type[T], most: int = 64 << 20) -> None:
        self._decoder = msgspec.msgpack.Decoder(kind)
        self._values: OrderedDict[object, bytes] = OrderedDict()
        self._lock, self._most, self._bytes = threading.Lock(), most, 0

    def get(self, key: object) -> T | None:
        """The value, where it is still here."""
        with self._lock:
            packed = self._values.get(key)
            if packed is None:
                return None
            self._values.move_to_end(key)
        return self._decoder.decode(packed)

    def put(self, key: object, value: T) -> None:
        """Keep it, and let go of those that were not asked for longest."""
        packed = msgspec.msgpack.encode(value)
        with self._lock:
            self._bytes += len(packed) - len(self._values.pop(key, b""))
            self._values[key] = packed
            while self._bytes > self._most:
                self._bytes -= len(self._values.popitem(last=False)[1])

    def forget(self) -> None:
        """Let go of them all."""
        with self._lock:
            self._values.clear()
            self._bytes = 0


_windows = _Kept(_Counted)
_labels = _Kept(ColumnSummary)
_verdicts: _Kept[list[Cell]] = _Kept(list[Cell])
