"""Every drift detector there is to choose from: what it takes, what it tells, what it needs, and whether it is here."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from datetime import datetime
from typing import Literal

import msgspec

from .. import datasets, telemetry
from ..errors import BadOption, DetectorMissing, EngineMissing, NothingToCompare, suggested
from ..progress import SILENT, Reporter
from ..settings import Workspace
from ..store.checks import DriftCheck
from ..summaries import ColumnSummary
from ..telemetry import Asked
from . import columns, counting, distances, drift, engines, judging, telling
from .columns import Wanted
from .engines import Engine
from .judging import Judged, Tested
from .reports import Compared, DriftReport, FeatureDrift

Taken = Literal["numbers", "categories", "two values", "all"]


class Detector(msgspec.Struct, frozen=True, kw_only=True):
    """One way to tell whether a window differs from its reference."""

    name: str
    what: str
    """In words, with its source."""
    library: str
    takes: Taken
    looks: Literal["each feature", "all features together"] = "each feature"
    reads: Literal["counts", "rows", "rows one by one"] = "rows"
    tells: Literal["p-value", "distance", "statistic"] = "p-value"
    needs: str = ""
    """What the library needs beside itself."""


class Listed(msgspec.Struct, frozen=True, kw_only=True):
    """A detector as it is on this machine."""

    detector: Detector
    ready: bool
    licence: str
    lacks: str = ""
    """Why it is not ready, and the line that changes it."""


_KS = "Kolmogorov–Smirnov, the largest gap between cumulative distributions"
_CVM = "Cramér–von Mises, the squared gap between cumulative distributions (Anderson 1962)"
DETECTORS = (
    Detector(name="histograms", what="the default: minimum-effect tests within a budget of false alarms", library="mlops_nb", takes="all", reads="counts"),
    Detector(name="psi", what="population stability index", library="mlops_nb", takes="all", reads="counts", tells="distance"),
    Detector(name="jensen-shannon", what="Jensen–Shannon distance to base 2", library="mlops_nb", takes="all", reads="counts", tells="distance"),
    Detector(name="hellinger", what="Hellinger distance", library="mlops_nb", takes="all", reads="counts", tells="distance"),
    Detector(name="wasserstein", what="Wasserstein distance in standard deviations", library="mlops_nb", takes="numbers", reads="counts", tells="distance"),
    Detector(name="ks", what=_KS, library="scipy", takes="numbers"),
    Detector(name="cvm", what=_CVM, library="scipy", takes="numbers"),
    Detector(name="anderson-darling", what="Anderson–Darling, which weighs the tails (Scholz and Stephens 1987)", library="scipy", takes="numbers"),
    Detector(name="chi-squared", what="Pearson's chi-squared test of equal shares", library="scipy", takes="categories"),
    Detector(name="mmd", what="maximum mean discrepancy by permutations (Gretton 2012)", library="mlops_nb", takes="all", looks="all features together"),
    Detector(name="energy", what="energy distance by permutations (Székely and Rizzo 2004)", library="mlops_nb", takes="all", looks="all features together"),
    Detector(name="alibi-tabular", what="TabularDrift: KS for numbers, chi-squared for categories", library="alibi-detect", takes="all"),
    Detector(name="alibi-ks", what="KSDrift", library="alibi-detect", takes="numbers"),
    Detector(name="alibi-cvm", what="CVMDrift", library="alibi-detect", takes="numbers"),
    Detector(name="alibi-chi-squared", what="ChiSquareDrift", library="alibi-detect", takes="categories"),
    Detector(name="alibi-fet", what="FETDrift, Fisher's exact test", library="alibi-detect", takes="two values"),
    Detector(name="alibi-mmd", what="MMDDrift", library="alibi-detect", takes="all", looks="all features together", needs="tensorflow"),
    Detector(
        name="alibi-lsdd", what="LSDDDrift, least-squares density difference", library="alibi-detect", takes="all", looks="all features together",
        needs="tensorflow",
    ),
    Detector(name="alibi-classifier", what="ClassifierDrift with a random forest", library="alibi-detect", takes="all", looks="all features together"),
    Detector(name="alibi-cvm-online", what="CVMDriftOnline", library="alibi-detect", takes="numbers", reads="rows one by one", tells="statistic"),
    Detector(name="alibi-fet-online", what="FETDriftOnline", library="alibi-detect", takes="two values", reads="rows one by one", tells="statistic"),
    Detector(
        name="alibi-mmd-online", what="MMDDriftOnline", library="alibi-detect", takes="all", looks="all features together", reads="rows one by one",
        tells="statistic", needs="tensorflow",
    ),
    Detector(
        name="alibi-lsdd-online", what="LSDDDriftOnline", library="alibi-detect", takes="all", looks="all features together", reads="rows one by one",
        tells="statistic", needs="tensorflow",
    ),
)  # fmt: skip
NAMES = tuple(detector.name for detector in DETECTORS)
_MANY_ONLINE = 10
"""So many features make an online detector's thresholds too slow to find."""


def get(name: str) -> Detector:
    """The detector of this name.  Raises BadOption."""
    found = next((detector for detector in DETECTORS if detector.name == name), None)
    if found is None:
        raise BadOption(f"No drift detector named {name!r}. There are: {', '.join(NAMES)}.", hint=suggested(name, NAMES, "%mlops detectors"))
    return found


def every() -> list[Listed]:
    """All detectors, with the licence of their library and whether they can be used now."""
    return [_listed(detector) for detector in DETECTORS]


def _listed(detector: Detector) -> Listed:
    licence = {"mlops_nb": "Apache-2.0", "scipy": "BSD-3-Clause"}.get(detector.library, "")
    if not licence:
        with_it, without = engines.alibi_detect(needs=detector.needs), engines.alibi_detect()
        lacks = "" if with_it.ready else _lacks(detector.needs) if without.ready else "%mlops engines install alibi-detect"
        return Listed(detector=detector, ready=with_it.ready, licence=(with_it if with_it.ready else without).licence, lacks=lacks)
    there = detector.library == "mlops_nb" or importlib.util.find_spec("scipy") is not None
    return Listed(detector=detector, ready=there, licence=licence, lacks="" if there else "pip install 'mlops_nb[drift]'")


def _lacks(needs: str) -> str:
    return f"%mlops engines install alibi-detect --with {needs}"


def detect(
    endpoint: str,
    name: str,
    *,
    deployment: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    dataset: str | None = None,
    report: Reporter = SILENT,
) -> DriftCheck:
    """Compare the requests of *endpoint* with its model's training data (or *dataset*) by the detector *name*; keep and return the verdict.

    All that is kept between *since* and *until* is one window.  A p-value counts below the settings' `drift_alpha`, after correction for the number of
    features; a distance from the size that custom has set, if chance does not explain it.
    Raises BadOption for a detector that is not there or fits no feature, before anything is read; EndpointNotFound, DatasetNotFound,
    NothingToCompare, DetectorMissing, EngineMissing, MissingExtra, DriftCheckFailed.
    """
    detector = get(name)
    if name == "histograms":
        return drift.check_drift(endpoint, deployment=deployment, since=since, until=until, dataset=dataset, engine="histograms", report=report)
    engine = _engine(detector)
    subject = drift._subject(endpoint, deployment, dataset)
    fit, unfit = _fitting(detector, subject)
    alpha = Workspace.current().settings().drift_alpha
    report.step(f"comparing {len(fit)} features by {name}")
    by = _by_counts if detector.reads == "counts" else _by_rows
    found = by(detector, subject, fit, unfit, since=since, until=until, alpha=alpha, engine=engine)
    named = msgspec.structs.replace(engine, name=name)
    return drift._kept(drift.Under(subject.endpoint, subject.deployment, subject.version), subject.dataset.ref, named, found)


def _engine(detector: Detector) -> Engine:
    """What runs it.  Raises DetectorMissing, EngineMissing, MissingExtra."""
    if detector.library == "scipy":
        return engines.choose("scipy")
    if detector.library == "mlops_nb":
        return engines.choose("histograms")
    found = engines.alibi_detect(needs=detector.needs)
    if found.ready:
        return found
    if engines.alibi_detect().ready:
        raise DetectorMissing(detector.name, needs=detector.needs)
    raise EngineMissing("alibi-detect")


# ── what fits ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _fitting(detector: Detector, subject: drift.Subject) -> tuple[list[Wanted], dict[str, list[str]]]:
    """The inputs the detector takes, and the others by why not.  Raises BadOption when it takes none."""
    known = {summary.name: summary for summary in datasets.summary(subject.dataset)}
    fit: list[Wanted] = []
    unfit: dict[str, list[str]] = {}
    for wanted in columns.wanted(subject.version, subject.dataset):
        summary = known.get(wanted.source or "")
        if summary is not None and _takes(detector.takes, summary):
            fit.append(wanted)
        elif summary is not None:
            unfit.setdefault(f"{detector.name} takes {_TAKES[detector.takes]}", []).append(wanted.name)
    if not fit:
        there = "; ".join(f"{summary.name}: {_of(summary)}" for summary in list(known.values())[:8])
        raise BadOption(f"{detector.name} takes {_TAKES[detector.takes]}, and {subject.version.ref} has none ({there}).", hint="%mlops detectors")
    if detector.reads == "rows one by one" and len(fit) > _MANY_ONLINE:
        raise BadOption(f"{detector.name} takes at most {_MANY_ONLINE} features, and {len(fit)} would fit.", hint="--detector mmd")
    return fit, unfit


_TAKES = {"numbers": "numbers", "categories": "categories", "two values": "columns of two values", "all": "numbers and categories"}


def _takes(taken: Taken, summary: ColumnSummary) -> bool:
    if taken == "two values":
        return summary.kind == "category" and summary.distinct == 2
    return taken == "all" or (summary.kind == "number") == (taken == "numbers")


def _of(summary: ColumnSummary) -> str:
    return "a number" if summary.kind == "number" else f"{summary.distinct} categories"


# ── from counts ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _by_counts(
    detector: Detector, subject: drift.Subject, fit: list[Wanted], unfit: dict[str, list[str]], *,
    since: datetime | None, until: datetime | None, alpha: float, engine: Engine,
) -> DriftReport:  # fmt: skip
    there = telemetry.columns(subject.endpoint, deployment=subject.deployment, since=since, until=until)
    if not there:
        raise NothingToCompare.no_requests(drift._named(subject), subject.endpoint, since=since)
    names = {wanted.name for wanted in fit}
    comparable, skipped = counting._comparable(counting.Side(subject.endpoint, subject.deployment, subject.version, subject.dataset), there)
    chosen = [(wanted, shape) for wanted, shape in comparable if wanted.name in names]
    left_out = unfit | {why: these for why, many in skipped.items() if (these := [name for name in many if name in names])}
    if not chosen:
        raise NothingToCompare.no_column(subject.version.ref, subject.dataset.ref, left_out)
    asked = [Asked(counting._column(wanted), shape, wanted.place) for wanted, shape in chosen]
    found = telemetry.histograms(subject.endpoint, asked, deployment=subject.deployment, since=since, until=until)
    if not found:
        raise NothingToCompare.no_requests(drift._named(subject), subject.endpoint, since=since)
    window = found[0]
    features = _measured(detector, list(zip((one.shape for one in asked), window.columns, strict=True)), alpha)
    return _report(
        detector, engine, features, left_out, alpha=alpha,
        reference=Compared(rows=subject.dataset.rows, compared=subject.dataset.rows, dataset=subject.dataset.ref),
        window=Compared(rows=window.rows, compared=window.rows, since=window.first, until=window.last),
    )  # fmt: skip


def _measured(detector: Detector, pairs: Sequence[tuple[ColumnSummary, ColumnSummary]], alpha: float) -> list[FeatureDrift]:
    enough = [(r, w) for r, w in pairs if min(r.count, w.count) >= judging.FEWEST_ROWS]
    measured = [distances.DISTANCES[detector.name](r, w) for r, w in enough]
    adjusted = judging.holm([d.p_value for d in measured], [1.0] * len(measured))
    told = [
        msgspec.structs.replace(
            _described(r, w, alpha), test=detector.name, statistic=d.value, threshold=d.threshold, p_value=d.p_value, p_adjusted=p,
            is_drift=d.value >= d.threshold and p < alpha, kind="values" if d.value >= d.threshold and p < alpha else "",
        )
        for (r, w), d, p in zip(enough, measured, adjusted, strict=True)
    ]  # fmt: skip
    short = [_described(r, w, alpha) for r, w in pairs if (r, w) not in enough]
    return sorted(told, key=lambda f: (not f.is_drift, -(f.statistic or 0.0))) + short


def _described(reference: ColumnSummary, window: ColumnSummary, alpha: float) -> FeatureDrift:
    """Words, shares and histogram, and the share of rows that lies elsewhere, without a verdict."""
    gap = judging._values(reference, window, 0.0)[1][0]
    tests = [Tested(kind=kind, span=1, test="none", effect=gap if kind == "values" else 0.0, p_value=1.0) for kind in ("values", "missing", "new")]
    feature = telling.feature(Judged(reference, window, tests), alpha=alpha, effect=0.0)
    named = {"number": "Kolmogorov–Smirnov distance", "category": "total variation distance"}[reference.kind]
    return msgspec.structs.replace(feature, effect=gap, effect_name=named)


# ── from rows ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _by_rows(
    detector: Detector, subject: drift.Subject, fit: list[Wanted], unfit: dict[str, list[str]], *,
    since: datetime | None, until: datetime | None, alpha: float, engine: Engine,
) -> DriftReport:  # fmt: skip
    seen, asked = drift._window(subject, since, until)
    pairs, skipped = drift._pairs(subject, asked)
    names = {wanted.name for wanted in fit}
    chosen = [pair for pair in pairs if pair.name in names]
    if not chosen:
        raise NothingToCompare.no_column(subject.version.ref, subject.dataset.ref, skipped | unfit)
    found = drift._compared(chosen, engine, script="detecting.py", detector=detector.name, alpha=alpha)
    rows = max(len(pair.reference) for pair in chosen)
    return _report(
        detector, engine, msgspec.convert(found["features"], list[FeatureDrift]), skipped | unfit, alpha=alpha,
        reference=Compared(rows=subject.dataset.rows, compared=rows, dataset=subject.dataset.ref), window=seen,
    )  # fmt: skip


# ── the report ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _report(
    detector: Detector, engine: Engine, features: list[FeatureDrift], unfit: dict[str, list[str]], *, alpha: float, reference: Compared, window: Compared
) -> DriftReport:
    others = [FeatureDrift(name=name, type="not compared", test="none", summary=why) for why, names in unfit.items() for name in names]
    notes = [f"Not compared ({why}): {', '.join(names)}." for why, names in unfit.items()]
    for what, side in (("training data", reference), ("requests", window)):
        if side.compared < side.rows:
            notes.append(f"A fixed sample of {side.compared:,} of the {side.rows:,} rows of the {what} was compared.")
    own = detector.library == "mlops_nb"
    return DriftReport(
        is_drift=any(feature.is_drift for feature in features),
        engine=f"{detector.name} of {detector.library} {engine.version}",
        reference=reference,
        window=window,
        alpha=0.0 if detector.tells == "statistic" else alpha,
        correction="Holm" if detector.looks == "each feature" and detector.tells != "statistic" else "none",
        features=[*features, *others],
        promise=_promise(detector, len(features), alpha),
        notes=[*notes, *([engine.note] if engine.note and not own else [])],
    )


def _promise(detector: Detector, features: int, alpha: float) -> str:
    from .detecting import EXPECTED_RUNS, MOST_TOGETHER, ROWS_READ  # it imports numpy

    if detector.tells == "statistic":
        run = EXPECTED_RUNS[detector.name]
        return f"on unchanged data one false alarm in about {run:,} rows; the newest {int(ROWS_READ * run)} are read"
    of = f"in one of {1 / alpha:,.0f} checks of unchanged data at most"
    if detector.looks == "all features together":
        return f"a false alarm {of}; {MOST_TOGETHER:,} rows of either side at most are compared"
    return f"a false alarm {of}" + (f", over all {features} features together" if features > 1 else "")
