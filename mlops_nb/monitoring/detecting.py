"""A chosen detector over rows, in a process of its own: a job as JSON on stdin, columns in an .npz file, one JSON object on stdout.

As `worker.py`, whose columns, corrections and words it shares, it may run under an engine's interpreter, so it imports nothing of ours but
that file and keeps to Python 3.10.

Detectors that look at each feature answer a p-value per feature, corrected together (Holm 1979); a feature drifts when it is below alpha and
the effect is no smaller than the worker's.  Those that look at all features together answer one p-value by permutation, of at most MOST_TOGETHER
rows of either side, numbers scaled by the reference and categories as one column each.  Online ones read the window row by row and stop at the first
alarm; on unchanged data one comes in about EXPECTED_RUNS rows.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import math
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __name__ == "__main__" and sys.path and Path(sys.path[0] or ".").resolve() == Path(__file__).resolve().parent:
    del sys.path[0]  # a script's own folder comes first, and no module beside this one may pose as a library

import numpy as np

if TYPE_CHECKING or __package__:
    from . import worker
else:
    _beside = importlib.util.spec_from_file_location("worker", Path(__file__).with_name("worker.py"))
    worker = importlib.util.module_from_spec(_beside)
    sys.modules["worker"] = worker  # a dataclass looks its module up
    _beside.loader.exec_module(worker)

MOST_TOGETHER = 1000
PERMUTATIONS = 499
EXPECTED_RUNS = {"alibi-cvm-online": 2000, "alibi-fet-online": 2000, "alibi-mmd-online": 500, "alibi-lsdd-online": 500}
"""Rows of unchanged data between false alarms of an online detector, on average; what looks at all features together takes minutes to find thresholds."""
ROWS_READ = 0.15
"""So many of those rows are read, the newest ones: an alarm on unchanged data is one in seven at most."""
_ONLINE_WINDOW = 50
_MOST_INDICATORS = 20

Found = dict[str, Any]


def answer(job: dict[str, Any]) -> Found:
    """Compare the job's columns by its detector: the report's `is_drift`, `engine` and `features`."""
    np.random.seed(0)  # alibi-detect draws from the global generator
    with np.load(job["arrays"], allow_pickle=False) as arrays:
        sides = {n: (arrays[f"r{n}"], arrays[f"w{n}"]) for n in range(len(job["columns"]))}
    columns = [worker._column(shape, *sides[n]) for n, shape in enumerate(job["columns"])]
    name = job["detector"]
    with np.errstate(over="ignore", invalid="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if name in EACH:
            return _each(columns, EACH[name], job["alpha"])
        rows = _Rows(columns, [sides[n] for n in range(len(columns))])
        return _online(rows, name) if name in ONLINE else _together(rows, TOGETHER[name], job["alpha"])


# ── each feature ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _each(columns: list[worker.Column], test: Callable[[worker.Column], worker.Tested], alpha: float) -> Found:
    tested = {id(column): test(column) for column in columns if not column.skipped}
    adjusted = dict(zip(tested, worker.holm([t.p_value for t in tested.values()]), strict=True))
    corrected = {("values", key): p for key, p in adjusted.items()}
    features = [worker._feature(c, tested.get(id(c)), corrected, alpha) for c in columns]
    features.sort(key=lambda f: (not f["is_drift"], -(f["effect"] or 0)))
    return {"is_drift": any(f["is_drift"] for f in features), "features": features}


def _kolmogorov_smirnov(column: worker.Column) -> worker.Tested:
    return worker.Scipy()._numbers(column)


def _chi_squared(column: worker.Column) -> worker.Tested:
    return worker.chi_squared(column.counts)


def _cramer_von_mises(column: worker.Column) -> worker.Tested:
    from scipy.stats import cramervonmises_2samp

    exact = max(len(column.reference), len(column.window)) <= 50
    found = cramervonmises_2samp(column.reference, column.window, method="exact" if exact else "asymptotic")
    return worker.Tested("Cramér–von Mises", float(found.statistic), float(found.pvalue))


def _anderson_darling(column: worker.Column) -> worker.Tested:
    """Its p-value is read off a table that ends at 0.001; a correction for many features needs smaller ones, so the tail is continued."""
    from scipy.stats import anderson_ksamp

    samples = [column.reference, column.window]
    if len(np.unique(np.concatenate(samples))) < 2:
        return worker.Tested("Anderson–Darling", 0.0, 1.0)
    try:
        found = anderson_ksamp(samples, variant="midrank")
    except TypeError:  # an older scipy calls it otherwise
        found = anderson_ksamp(samples, midrank=True)
    return worker.Tested("Anderson–Darling", float(found.statistic), _anderson_darling_tail(float(found.statistic), float(found.pvalue)))


def _anderson_darling_tail(statistic: float, tabled: float) -> float:
    """Beyond the table of Scholz and Stephens (JASA 82, 1987), which ends at 6.546, the limit's tail: exp(-A²), whose deviation is 0.7614."""
    return tabled if statistic <= 6.546 else min(tabled, 0.001 * math.exp(-0.7614 * (statistic - 6.546)))


def _alibi(make: str, **options: Any) -> Callable[[worker.Column], worker.Tested]:
    """A detector of alibi-detect that takes one column."""

    def test(column: worker.Column) -> worker.Tested:
        import alibi_detect.cd as cd

        reference, window = (worker._cell_numbers(column, side).reshape(-1, 1) for side in ("reference", "window"))
        kinds = {"categories_per_feature": {0: list(range(len(column.cells)))}} if make == "TabularDrift" and column.categories is not None else {}
        if make == "ChiSquareDrift":
            kinds = {"categories_per_feature": {0: list(range(len(column.cells)))}}
        if make == "FETDrift":
            reference, window = (np.searchsorted(np.unique(np.concatenate([reference, window])), side) for side in (reference, window))
        found = getattr(cd, make)(reference, **options, **kinds).predict(window, drift_type="feature", return_p_val=True, return_distance=True)["data"]
        p_value = float(np.ravel(found["p_val"])[0])
        return worker.Tested(make, float(np.ravel(found["distance"])[0]), p_value if math.isfinite(p_value) else 1.0)

    return test


EACH: dict[str, Callable[[worker.Column], worker.Tested]] = {
    "ks": _kolmogorov_smirnov,
    "chi-squared": _chi_squared,
    "cvm": _cramer_von_mises,
    "anderson-darling": _anderson_darling,
    "alibi-ks": _alibi("KSDrift"),
    "alibi-cvm": _alibi("CVMDrift"),
    "alibi-fet": _alibi("FETDrift", alternative="two-sided"),
    "alibi-chi-squared": _alibi("ChiSquareDrift"),
    "alibi-tabular": _alibi("TabularDrift"),
}


# ── all features together ────────────────────────────────────────────────────────────────────────────────────────────


class _Rows:
    """Both sides as matrices without gaps, a column that is mostly missing left out."""

    def __init__(self, columns: list[worker.Column], sides: list[tuple[np.ndarray, np.ndarray]]) -> None:
        self.columns = columns
        chosen = [n for n, column in enumerate(columns) if not column.skipped and max(column.missing) <= 0.5]
        self.used = [columns[n] for n in chosen]
        self.left_out = [column.name for n, column in enumerate(columns) if n not in chosen]
        kept = [self._whole([columns[n] for n in chosen], [sides[n][side] for n in chosen]) for side in (0, 1)]
        self.reference, self.window = (self._matrix([sides[n][side][kept[side]] for n in chosen], self.used) for side in (0, 1))
        self.of = [columns[n] for n in chosen for _ in range(self._matrix([sides[n][0][:0]], [columns[n]]).shape[1])]
        """Whose each of their columns is: categories have several."""
        if self.reference.shape[1]:
            centre, spread = self.reference.mean(axis=0), self.reference.std(axis=0)
            spread[spread == 0] = 1.0
            self.reference, self.window = (self.reference - centre) / spread, (self.window - centre) / spread

    @staticmethod
    def _whole(columns: list[worker.Column], values: list[np.ndarray]) -> np.ndarray:
        """Which rows have every value, and only finite ones."""
        there = [side >= 0 if _coded(column, side) else np.isfinite(side) for column, side in zip(columns, values, strict=True)]
        return np.flatnonzero(np.all(there, axis=0)) if there else np.zeros(0, int)

    @staticmethod
    def _matrix(values: list[np.ndarray], columns: list[worker.Column]) -> np.ndarray:
        pairs = zip(values, columns, strict=True)
        parts = [_indicators(side, column) if _coded(column, side) else side[:, None] for side, column in pairs]
        return np.hstack(parts).astype(float) if parts else np.zeros((0, 0))

    def sampled(self) -> tuple[np.ndarray, np.ndarray]:
        """At most so many rows of either side, always the same."""
        random = np.random.default_rng(0)
        return tuple(side[random.permutation(len(side))[:MOST_TOGETHER]] for side in (self.reference, self.window))  # type: ignore[return-value]


def _coded(column: worker.Column, values: np.ndarray) -> bool:
    """Whether values are the positions of categories; few whole numbers, which are compared as categories, are still themselves."""
    return column.categories is not None and values.dtype.kind == "i"


def _indicators(codes: np.ndarray, column: worker.Column) -> np.ndarray:
    cells = column.cell_of[codes]
    count = min(len(column.cells), _MOST_INDICATORS)
    return np.eye(count + 1)[np.minimum(cells, count)][:, : max(count, 1)] if count != 2 else (cells == 1)[:, None]


def _together(rows: _Rows, test: Callable[[np.ndarray, np.ndarray], worker.Tested], alpha: float) -> Found:
    reference, window = rows.sampled()
    fewest = min(len(reference), len(window))
    tested = test(reference, window) if fewest >= worker.FEWEST_ROWS and reference.shape[1] else None
    looked = ", ".join(column.name for column in rows.used[:20]) + (" …" if len(rows.used) > 20 else "")
    words = f"{len(window):,} rows against {len(reference):,}: {looked}" if tested else f"{fewest} rows without a gap, {worker.FEWEST_ROWS} are needed"
    if rows.left_out:
        words += f"; left out: {', '.join(rows.left_out[:20])}"
    whole = _whole_feature(tested.test if tested else "none", words)
    if tested:
        whole |= {"statistic": worker._finite(tested.statistic), "p_value": tested.p_value, "p_adjusted": tested.p_value, "is_drift": tested.p_value < alpha}
    return {"is_drift": whole["is_drift"], "features": [whole, *_untested(rows.columns)]}


def _whole_feature(test: str, words: str) -> Found:
    return {"name": "all features together", "type": "together", "test": test, "is_drift": False, "summary": words}


def _untested(columns: list[worker.Column]) -> list[Found]:
    return [worker._feature(column, None, {}, 0.0) for column in columns]


def _maximum_mean_discrepancy(reference: np.ndarray, window: np.ndarray) -> worker.Tested:
    """MMD² by the unbiased estimate, a Gaussian kernel of the median distance, and permutations (Gretton et al., JMLR 13, 2012)."""
    squared = _squared_distances(np.vstack([reference, window]))
    kernel = np.exp(-squared / max(float(np.median(squared[np.triu_indices_from(squared, 1)])), 1e-12))
    np.fill_diagonal(kernel, 0.0)
    return _permuted("MMD²", kernel, len(reference), sign=1.0)


def _energy(reference: np.ndarray, window: np.ndarray) -> worker.Tested:
    """The energy distance 2E|X-Y| - E|X-X'| - E|Y-Y'|, by permutations (Székely and Rizzo, "Testing for equal distributions", InterStat 5, 2004)."""
    return _permuted("energy", np.sqrt(_squared_distances(np.vstack([reference, window]))), len(reference), sign=-1.0)


def _squared_distances(rows: np.ndarray) -> np.ndarray:
    lengths = (rows**2).sum(axis=1)
    return np.maximum(lengths[:, None] + lengths - 2 * rows @ rows.T, 0.0)


def _permuted(test: str, between: np.ndarray, first: int, *, sign: float) -> worker.Tested:
    """Mean within either side less mean across, twice, against so many other divisions of the same rows."""
    random, count = np.random.default_rng(0), len(between)
    sides = np.zeros((count, PERMUTATIONS + 1))
    sides[:first, 0] = 1.0
    for place in range(1, PERMUTATIONS + 1):
        sides[random.permutation(count)[:first], place] = 1.0
    with_first = between @ sides
    own = (sides * with_first).sum(axis=0)
    across = ((1 - sides) * with_first).sum(axis=0)
    other = between.sum() - own - 2 * across
    second = count - first
    apart = sign * (own / (first * (first - 1)) + other / (second * (second - 1)) - 2 * across / (first * second))
    return worker.Tested(test, float(apart[0]), float((1 + (apart[1:] >= apart[0]).sum()) / (PERMUTATIONS + 1)))


def _alibi_together(make: str) -> Callable[[np.ndarray, np.ndarray], worker.Tested]:
    def test(reference: np.ndarray, window: np.ndarray) -> worker.Tested:
        import alibi_detect.cd as cd

        detector = getattr(cd, make)(reference.astype(np.float32), backend="tensorflow", n_permutations=PERMUTATIONS)
        found = detector.predict(window.astype(np.float32), return_p_val=True, return_distance=True)["data"]
        exceeded = round(float(found["p_val"]) * PERMUTATIONS)
        return worker.Tested(make, float(found["distance"]), (1 + exceeded) / (PERMUTATIONS + 1))  # of its p-value 0 no permutation can be sure

    return test


def _classifier(reference: np.ndarray, window: np.ndarray) -> worker.Tested:
    """Whether a classifier that never saw a row can tell of which side it is: out-of-bag answers of a forest, compared by Kolmogorov and Smirnov."""
    import alibi_detect.cd as cd
    from sklearn.ensemble import RandomForestClassifier

    forest = RandomForestClassifier(n_estimators=100, random_state=0)
    detector = cd.ClassifierDrift(reference, forest, backend="sklearn", preds_type="probs", binarize_preds=False, use_oob=True, seed=0)
    found = detector.predict(window, return_p_val=True, return_distance=True, return_probs=False, return_model=False)["data"]
    return worker.Tested("ClassifierDrift", float(found["distance"]), float(found["p_val"]))


TOGETHER: dict[str, Callable[[np.ndarray, np.ndarray], worker.Tested]] = {
    "mmd": _maximum_mean_discrepancy,
    "energy": _energy,
    "alibi-mmd": _alibi_together("MMDDrift"),
    "alibi-lsdd": _alibi_together("LSDDDrift"),
    "alibi-classifier": _classifier,
}


# ── row by row ───────────────────────────────────────────────────────────────────────────────────────────────────────

ONLINE = {
    "alibi-cvm-online": "CVMDriftOnline",
    "alibi-fet-online": "FETDriftOnline",
    "alibi-mmd-online": "MMDDriftOnline",
    "alibi-lsdd-online": "LSDDDriftOnline",
}
ONLINE_EACH = ("alibi-cvm-online", "alibi-fet-online")


def _online(rows: _Rows, name: str) -> Found:
    make = ONLINE[name]
    reference, window = rows.reference[:MOST_TOGETHER], rows.window[-int(ROWS_READ * EXPECTED_RUNS[name]) :]
    if make == "FETDriftOnline":
        reference, window = ((side > 0).astype(int) for side in (reference, window))  # two values, on either side of their mean
    elif make != "CVMDriftOnline":
        reference, window = (side.astype(np.float32) for side in (reference, window))  # as TensorFlow has its own
    if min(len(reference), len(window)) < _ONLINE_WINDOW or not reference.shape[1]:
        words = f"{min(len(reference), len(window))} rows without a gap, {_ONLINE_WINDOW} are needed"
        whole = [] if name in ONLINE_EACH else [_whole_feature("none", words)]
        return {"is_drift": False, "features": [*whole, *({**one, "summary": words} for one in _untested(rows.columns))]}
    detector = _online_detector(make, reference, EXPECTED_RUNS[name])
    return (_each_online if name in ONLINE_EACH else _together_online)(detector, rows, window, make)


def _each_online(detector: Any, rows: _Rows, window: np.ndarray, make: str) -> Found:
    """Every column by itself: its largest statistic, and the first row at which it passed its threshold."""
    count = window.shape[1]
    largest, thresholds, alarms = np.full(count, -math.inf), np.full(count, math.nan), np.zeros(count, int)
    for place, row in enumerate(window):
        found = detector.predict(row)["data"]
        statistic, threshold = (np.broadcast_to(np.atleast_2d(found[what])[0], count) for what in ("test_stat", "threshold"))
        alarms[(alarms == 0) & (statistic > threshold)] = place + 1
        larger = statistic > largest
        largest[larger], thresholds[larger] = statistic[larger], threshold[larger]
    features = _untested(rows.columns)
    for feature, column in zip(features, rows.columns, strict=True):
        own = [n for n, of in enumerate(rows.of) if of is column]
        if own:
            most, first = max(own, key=lambda n: largest[n]), min((int(alarms[n]) for n in own if alarms[n]), default=0)
            feature |= {"test": make, "statistic": worker._finite(largest[most]), "threshold": worker._finite(thresholds[most]), "is_drift": bool(first)}
            feature["summary"] = f"{_alarmed(first, len(window))}; {feature['summary']}"
    features.sort(key=lambda f: not f["is_drift"])
    return {"is_drift": bool(alarms.any()), "features": features}


def _together_online(detector: Any, rows: _Rows, window: np.ndarray, make: str) -> Found:
    alarm = 0
    for place, row in enumerate(window):
        found = detector.predict(row)["data"]
        if found["is_drift"]:
            alarm = place + 1
            break
    whole = _whole_feature(make, _alarmed(alarm, len(window)))
    whole |= {"is_drift": bool(alarm), "statistic": worker._finite(float(found["test_stat"])), "threshold": worker._finite(float(found["threshold"]))}
    return {"is_drift": whole["is_drift"], "features": [whole, *_untested(rows.columns)]}


def _alarmed(row: int, of: int) -> str:
    return f"first alarm at row {row:,} of {of:,}" if row else f"no alarm in {of:,} rows"


def _online_detector(make: str, reference: np.ndarray, run: int) -> Any:
    import alibi_detect.cd as cd

    if make in ("MMDDriftOnline", "LSDDDriftOnline"):
        rows = reference[: MOST_TOGETHER // 2]
        return getattr(cd, make)(rows, float(run), _ONLINE_WINDOW // 2, backend="tensorflow", n_bootstraps=2 * run, verbose=False)
    draws = 2 * run * reference.shape[1]  # a threshold is a quantile that fewer could not tell
    return getattr(cd, make)(reference, ert=float(run), window_sizes=[_ONLINE_WINDOW], n_bootstraps=draws, verbose=False)


def main() -> None:
    """Answer the job on stdin.  Whatever a library prints goes to stderr, so that stdout is the answer alone."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")  # what else runs here keeps its accelerator
    with contextlib.redirect_stdout(sys.stderr):
        found = answer(json.load(sys.stdin))
    sys.stdout.write(json.dumps(found, allow_nan=False) + "\n")


if __name__ == "__main__":
    main()
