"""The drift check itself, in a process of its own: a job as JSON on stdin, columns in an .npz file, one JSON object on stdout.

It may run under an engine's interpreter, where neither this package nor DuckDB is installed, so it imports nothing of ours
and keeps to Python 3.10.

How a feature is judged.  Reference and window are compared by a test that asks whether both could come from one distribution:
for numbers the two-sample Kolmogorov–Smirnov test, for categories Pearson's chi-squared test of homogeneity, rare categories
(expected below five) put together first (Cochran 1954).  Missing values are a test of their own: Fisher's exact test, or
chi-squared where every expected count is at least five.  All p-values of a check are corrected together (Holm 1979), so the
chance that a check of unchanged data alarms at all is at most alpha, however many features there are.  Because every
difference becomes significant in enough rows, a feature drifts only when its effect is large enough too:

- numbers: the Kolmogorov–Smirnov distance, the largest gap between the two cumulative distributions;
- categories: the total variation distance, half the sum of the differences of shares;

both read "at least this share of the rows lies elsewhere now" and both need 0.1; new categories and values beyond the
reference's range need 0.05 of the rows, and so does a change in the share of missing values.
"""

from __future__ import annotations

import contextlib
import json
import math
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

if __name__ == "__main__" and sys.path and Path(sys.path[0] or ".").resolve() == Path(__file__).resolve().parent:
    del sys.path[0]  # a script's own folder comes first, and no module beside this one may pose as a library

import numpy as np

MINIMUM_EFFECT = 0.1
MINIMUM_NEW = 0.05
MINIMUM_MISSING = 0.05
FEWEST_ROWS = 30
MOST_BINS = 30
MOST_CATEGORIES = 50
FEW_INTEGERS = 10
"""An integer column with no more different values than this is compared as categories."""


@dataclass
class Column:
    """One feature: its present values in the reference and in the window, and how many there were in all."""

    name: str
    type: str
    reference: np.ndarray
    window: np.ndarray
    reference_rows: int
    window_rows: int
    categories: list[str] | None = None
    """Their names where the values are codes; None where they are numbers."""
    skipped: str = ""
    """Why it is not compared."""
    counts: np.ndarray = field(default_factory=lambda: np.zeros((2, 0)))
    """Rows per cell, reference above window: categories after the rare ones were put together."""
    cells: list[str | None] = field(default_factory=list)
    """The cells' names; None for the rare ones together, which come last."""
    cell_of: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    """The cell of each category."""

    @property
    def kind(self) -> str:
        """How it is compared: as `number` or as `category`."""
        return "number" if self.categories is None else "category"

    @property
    def missing(self) -> tuple[float, float]:
        """Share of missing values, before and now."""
        return 1 - len(self.reference) / max(self.reference_rows, 1), 1 - len(self.window) / max(self.window_rows, 1)


@dataclass
class Tested:
    """What one test said."""

    test: str
    statistic: float
    p_value: float


class Detector(Protocol):
    """Says of each column how surprising its window would be if nothing had changed."""

    name: str
    version: str

    def test(self, columns: list[Column]) -> list[Tested]:
        """One result per column, in order; the p-values are not corrected."""
        ...


def answer(job: dict[str, Any]) -> dict[str, Any]:
    """Compare the job's columns and say what drifted: the report's `is_drift`, `engine`, `features` and `notes`."""
    detector = detector_of(job["engine"])
    with np.load(job["arrays"], allow_pickle=False) as arrays:
        columns = [_column(shape, arrays[f"r{n}"], arrays[f"w{n}"]) for n, shape in enumerate(job["columns"])]
    comparable = [column for column in columns if not column.skipped]
    tested = dict(zip(map(id, comparable), detector.test(comparable), strict=True))
    missing = {id(column): result for column in columns if (result := missing_test(column))}
    adjusted = _adjusted(tested, missing)
    with np.errstate(over="ignore", invalid="ignore"):  # the words about values near the largest number
        features = [_feature(c, tested.get(id(c)), adjusted, job["alpha"]) for c in columns]
    features.sort(key=lambda f: (not f["is_drift"], -max(f["effect"] or 0, abs(f["missing_window"] - f["missing_reference"]))))
    return {"is_drift": any(f["is_drift"] for f in features), "engine": f"{detector.name} {detector.version}", "features": features}


# ── columns ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _column(shape: dict[str, Any], reference: np.ndarray, window: np.ndarray) -> Column:
    categories = shape.get("categories")
    present = (lambda values: values[values >= 0]) if categories is not None else (lambda values: values[~np.isnan(values)])
    column = Column(shape["name"], shape["type"], present(reference), present(window), len(reference), len(window), categories)
    if categories is None and shape["type"].lstrip("u").startswith("int"):
        _take_few_integers_as_categories(column)
    column.skipped = shape.get("skipped") or _too_little(column)
    if column.categories is not None and not column.skipped:
        _count(column)
    return column


def _too_little(column: Column) -> str:
    sides = (("training data", column.reference), ("window", column.window))
    where, values = min(sides, key=lambda side: len(side[1]))
    return "" if len(values) >= FEWEST_ROWS else f"{len(values) or 'no'} values in the {where}, {FEWEST_ROWS} are needed"


def _take_few_integers_as_categories(column: Column) -> None:
    values = np.union1d(column.reference, column.window)
    if len(values) <= FEW_INTEGERS and np.all(np.isfinite(values)):
        column.categories = [f"{value:.0f}" for value in values]
        column.reference = np.searchsorted(values, column.reference)
        column.window = np.searchsorted(values, column.window)


def _count(column: Column) -> None:
    """Rows per category; those expected fewer than five times on either side, or beyond the fifty most frequent, together.

    Which ones are rare is told from both sides' sum, so that choosing them says nothing about the difference.
    """
    names = column.categories or []
    counts = np.stack([np.bincount(side, minlength=len(names)) for side in (column.reference, column.window)])
    total = counts.sum(axis=0)
    expected = total * min(counts.sum(axis=1)) / max(counts.sum(), 1)
    order = np.argsort(-total, kind="stable")[:MOST_CATEGORIES]
    own = order[expected[order] >= 5]
    rest = counts.sum(axis=1) - counts[:, own].sum(axis=1)
    column.counts, column.cells = counts[:, own], [names[n] for n in own]
    if rest.sum():
        column.counts, column.cells = np.column_stack([column.counts, rest]), [*column.cells, None]
    column.cell_of = np.full(len(names), len(own))
    column.cell_of[own] = np.arange(len(own))


# ── detectors ────────────────────────────────────────────────────────────────────────────────────────────────────────


def detector_of(name: str) -> Detector:
    """The detector of this name, imported now."""
    return AlibiDetect() if name == "alibi-detect" else Scipy()


class Scipy:
    """The tests of scipy.stats."""

    name = "scipy"

    def __init__(self) -> None:
        import scipy

        self.version = scipy.__version__

    def test(self, columns: list[Column]) -> list[Tested]:
        """Kolmogorov–Smirnov for numbers, chi-squared for categories."""
        return [chi_squared(column.counts) if column.categories is not None else self._numbers(column) for column in columns]

    def _numbers(self, column: Column) -> Tested:
        from scipy.stats import ks_2samp

        exact = max(len(column.reference), len(column.window)) <= 500
        found = ks_2samp(column.reference, column.window, method="exact" if exact else "asymp")
        return Tested("Kolmogorov–Smirnov", float(found.statistic), float(found.pvalue))


class AlibiDetect:
    """alibi-detect's feature-wise detectors: `KSDrift` when all columns are numbers, else `TabularDrift`."""

    name = "alibi-detect"

    def __init__(self) -> None:
        import alibi_detect

        self.version = alibi_detect.__version__

    def test(self, columns: list[Column]) -> list[Tested]:
        """Columns without gaps go in together; one with missing values goes in alone, without them."""
        whole = [c for c in columns if len(c.reference) == c.reference_rows and len(c.window) == c.window_rows]
        together = {id(c) for c in whole}
        groups = ([whole] if whole else []) + [[c] for c in columns if id(c) not in together]
        found = {id(c): tested for group in groups for c, tested in zip(group, self._test(group), strict=True)}
        return [found[id(c)] for c in columns]

    def _test(self, group: list[Column]) -> list[Tested]:
        from alibi_detect.cd import KSDrift, TabularDrift

        reference, window = (np.column_stack([_cell_numbers(c, side) for c in group]) for side in ("reference", "window"))
        kinds = {n: list(range(len(c.cells))) for n, c in enumerate(group) if c.categories is not None}
        detector = TabularDrift(reference, categories_per_feature=kinds) if kinds else KSDrift(reference)
        found = detector.predict(window, drift_type="feature", return_p_val=True, return_distance=True)["data"]
        names = ["chi-squared" if n in kinds else "Kolmogorov–Smirnov" for n in range(len(group))]
        pairs = zip(names, np.ravel(found["distance"]), np.ravel(found["p_val"]), strict=True)
        return [Tested(test, float(statistic), float(p)) if math.isfinite(p) else Tested(test, 0.0, 1.0) for test, statistic, p in pairs]


def _cell_numbers(column: Column, side: str) -> np.ndarray:
    """A side's values; of categories the number of the cell each was counted in."""
    values = getattr(column, side)
    return values if column.categories is None else column.cell_of[values]


def chi_squared(counts: np.ndarray) -> Tested:
    """Pearson's chi-squared test that both rows of *counts* have the same shares."""
    from scipy.stats import chi2_contingency

    counts = counts[:, counts.sum(axis=0) > 0]
    if counts.shape[1] < 2:
        return Tested("chi-squared", 0.0, 1.0)
    statistic, p_value, *_ = chi2_contingency(counts, correction=False)
    return Tested("chi-squared", float(statistic), float(p_value))


def missing_test(column: Column) -> Tested | None:
    """Whether the share of missing values changed; None where nothing is missing on either side or there are too few rows."""
    before, now = column.reference_rows - len(column.reference), column.window_rows - len(column.window)
    if not before + now or min(column.reference_rows, column.window_rows) < FEWEST_ROWS:
        return None
    table = np.array([[before, len(column.reference)], [now, len(column.window)]])
    expected = table.sum(axis=0) * table.sum(axis=1).min() / table.sum()
    if expected.min() >= 5:
        return chi_squared(table)
    from scipy.stats import fisher_exact

    odds, p_value = fisher_exact(table)
    return Tested("Fisher", float(odds), float(p_value))


def _adjusted(tested: dict[int, Tested], missing: dict[int, Tested]) -> dict[tuple[str, int], float]:
    p_values = {("values", key): t.p_value for key, t in tested.items()} | {("missing", key): t.p_value for key, t in missing.items()}
    return dict(zip(p_values, holm(list(p_values.values())), strict=True))


def holm(p_values: list[float]) -> list[float]:
    """p-values corrected for their number by Holm's step-down method, which needs no independence."""
    adjusted = [1.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, p_values[index] * (len(p_values) - rank)))
        adjusted[index] = highest
    return adjusted


# ── verdicts and words ───────────────────────────────────────────────────────────────────────────────────────────────


def _feature(column: Column, tested: Tested | None, adjusted: dict[tuple[str, int], float], alpha: float) -> dict[str, Any]:
    before, now = column.missing
    p_adjusted, missing_adjusted = adjusted.get(("values", id(column))), adjusted.get(("missing", id(column)))
    effect, new = (_effect(column), _new_share(column)) if tested else (None, 0.0)
    moved = p_adjusted is not None and p_adjusted < alpha and ((effect or 0) >= MINIMUM_EFFECT or new >= MINIMUM_NEW)
    lost = missing_adjusted is not None and missing_adjusted < alpha and abs(now - before) >= MINIMUM_MISSING
    by_gaps = missing_test(column) if lost and not moved else None
    told, told_adjusted = (by_gaps, missing_adjusted) if by_gaps else (tested, p_adjusted)
    return {
        "name": column.name,
        "type": column.kind,
        "test": "none" if told is None else f"{told.test} of missing values" if by_gaps else told.test,
        "statistic": _finite(told.statistic) if told else None,
        "p_value": _finite(told.p_value) if told else None,
        "p_adjusted": _finite(told_adjusted),
        "effect": _finite(effect),
        "effect_name": "" if effect is None else _EFFECTS[column.kind],
        "minimum_effect": MINIMUM_EFFECT,
        "is_drift": bool(moved or lost),
        "new": _finite(new),
        "missing_reference": _finite(before),
        "missing_window": _finite(now),
        "missing_p_adjusted": _finite(missing_adjusted),
        "summary": _summary(column),
        "histogram": _histogram(column),
    }


_EFFECTS = {"number": "Kolmogorov–Smirnov distance", "category": "total variation distance"}


def _effect(column: Column) -> float:
    if column.categories is not None:
        return float(abs(np.subtract(*_shares(column.counts))).sum() / 2)
    values = np.concatenate([column.reference, column.window])
    gaps = (np.searchsorted(np.sort(side), values, side="right") / len(side) for side in (column.reference, column.window))
    return float(abs(np.subtract(*gaps)).max())


def _new_share(column: Column) -> float:
    """Share of the window that the reference never showed: new categories (those with a cell of their own), or beyond its range."""
    if column.categories is not None:
        return float(_shares(column.counts)[1][column.counts[0] == 0].sum())
    return float(np.mean((column.window < column.reference.min()) | (column.window > column.reference.max())))


def _shares(counts: np.ndarray) -> np.ndarray:
    return counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)


def _summary(column: Column) -> str:
    words = [column.skipped] if column.skipped else _category_words(column) if column.categories is not None else _number_words(column)
    before, now = column.missing
    if before or now:
        words.append(f"missing {_percent(before)} → {_percent(now)}" if _percent(before) != _percent(now) else f"missing {_percent(now)}, as before")
    return ", ".join(words)


def _number_words(column: Column) -> list[str]:
    reference, window = (side[np.isfinite(side)] for side in (column.reference, column.window))
    if not len(reference) or not len(window):
        return ["infinite values"]
    spread, spread_now = _spread(reference), _spread(window)
    if not spread and not spread_now and reference[0] == window[0]:
        return [f"always {_short(reference[0])}"]
    shift = (window.mean() - reference.mean()) / spread if spread else math.inf
    words = [f"mean {_short(reference.mean())} → {_short(window.mean())}"]
    if math.isfinite(shift) and abs(shift) >= 0.05:
        words[0] += f" ({shift:+.1f} σ)" if abs(shift) >= 0.1 else f" ({shift:+.2f} σ)"
    if not spread or not 0.8 <= spread_now / spread <= 1.25:
        words.append(f"spread {_short(spread)} → {_short(spread_now)}")
    outside = _new_share(column)
    if outside >= 0.01:
        words.append(f"{_percent(outside)} outside [{_short(column.reference.min())}, {_short(column.reference.max())}]")
    return words


def _spread(values: np.ndarray) -> float:
    """The standard deviation; of what never varied exactly 0, which a rounded mean would miss."""
    return float(values.std()) if values.min() < values.max() else 0.0


def _category_words(column: Column) -> list[str]:
    before, now = _shares(column.counts)
    if len(column.cells) == 1:
        return [f"always {column.cells[0]!r}"] if column.cells[0] is not None else ["rare categories only"]
    new, gone = np.flatnonzero(before == 0), np.flatnonzero(now == 0)
    words = [f"new category {_named(column.cells[n])} {_percent(now[n])}" for n in new[:3]]
    words += [f"{len(new) - 3} more new categories"] * (len(new) > 3)
    words += [f"{_named(column.cells[n])} {_percent(before[n])} → gone" for n in gone[:2]]
    both = [n for n in np.argsort(-abs(now - before), kind="stable") if before[n] and now[n]]
    words += [f"{_named(column.cells[n])} {_percent(before[n])} → {_percent(now[n])}" for n in both[:2] if abs(now[n] - before[n]) >= 0.005]
    return words or ["shares as before"]


def _named(cell: str | None) -> str:
    return "rare categories" if cell is None else repr(cell)


def _percent(share: float) -> str:
    percent = 100 * share
    return f"{percent:.0f} %" if percent >= 9.5 or percent == 0 else f"{percent:.1f} %" if percent >= 0.05 else "under 0.1 %"


def _short(value: float) -> str:
    value = float(value)
    return f"{value:.0f}" if 1000 <= abs(value) < 1e7 else f"{value:.3g}"


def _histogram(column: Column) -> dict[str, Any]:
    """Shares per bin, at most thirty, for a figure that needs no data."""
    if column.categories is not None:
        return _bars(column)
    reference, window = (side[np.isfinite(side)] for side in (column.reference, column.window))
    if not len(reference) and not len(window):
        return {}
    ends = [np.percentile(side, [0.5, 99.5]) for side in (reference, window) if len(side)]
    low, high = float(min(e[0] for e in ends)), float(max(e[1] for e in ends))
    if not math.isfinite(high - low):
        return {}
    edges = np.linspace(low, high, MOST_BINS + 1) if high > low else np.array([low - 0.5, low + 0.5])
    shares = [_rounded(np.histogram(np.clip(side, edges[0], edges[-1]), edges)[0] / max(len(side), 1)) for side in (reference, window)]
    return {"edges": [float(f"{edge:.6g}") for edge in edges], "reference": shares[0], "window": shares[1]}


def _bars(column: Column) -> dict[str, Any]:
    if not len(column.cells):
        return {}
    shares = _shares(column.counts)
    shown = [n for n in np.argsort(-shares.max(axis=0), kind="stable") if column.cells[n] is not None][: MOST_BINS - 1]
    names = [column.cells[n] for n in shown]
    rest = np.maximum(1 - shares[:, shown].sum(axis=1), 0)
    if rest.max() < 1e-9:
        return {"categories": names, "reference": _rounded(shares[0, shown]), "window": _rounded(shares[1, shown])}
    return {"categories": [*names, None], "reference": _rounded([*shares[0, shown], rest[0]]), "window": _rounded([*shares[1, shown], rest[1]])}


def _rounded(shares: Any) -> list[float]:
    return [round(float(share), 6) for share in shares]


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(f"{value:.6g}")


def main() -> None:
    """Answer the job on stdin.  Whatever a library prints goes to stderr, so that stdout is the answer alone."""
    with contextlib.redirect_stdout(sys.stderr):
        found = answer(json.load(sys.stdin))
    sys.stdout.write(json.dumps(found, allow_nan=False) + "\n")


if __name__ == "__main__":
    main()
