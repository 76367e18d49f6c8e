"""`python drift_peers.py scipy|alibi-detect|evidently|ksdrift`: how often another's drift check alarms, or how long it takes; run in an environment
that has it.

Every check is as its documentation has it, with its defaults.  A line of JSON per figure: what was drawn, what was found.
"""

from __future__ import annotations

import json
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

NUMBERS = 15
"""Normal with mean 0 and deviation 1."""
CATEGORIES = (2, 3, 5, 10, 20)
"""So many, their shares in proportion to 1, 1/2, 1/3 …"""
DAYS = 30

Check = Callable[[np.ndarray], dict[str, bool]]
"""Verdicts on a window, by name."""


def shares(many: int) -> np.ndarray:
    """How frequent each of so many categories is."""
    weights = 1 / np.arange(1, many + 1)
    return weights / weights.sum()


def drawn(random: np.random.Generator, rows: int, shift: float = 0.0) -> np.ndarray:
    """Rows of numbers, the first moved by *shift*, and of categories as codes."""
    numbers = random.normal(size=(rows, NUMBERS))
    numbers[:, 0] += shift
    return np.hstack([numbers, *(random.choice(many, (rows, 1), p=shares(many)) for many in CATEGORIES)])


class Times(NamedTuple):
    """How many of each are drawn."""

    months: int
    moved: int
    large: int


TIMES = {"scipy": Times(100, 990, 60), "alibi-detect": Times(100, 990, 60), "evidently": Times(3, 30, 2)}
"""What a quiet core does in about six minutes."""


def main(name: str) -> None:
    """Print every figure as it is there."""
    warnings.simplefilter("ignore")
    for what, found in lines(PEERS[name], TIMES[name], (1000, 10_000) if name == "evidently" else (10_000,)):
        print(json.dumps([what, found]), flush=True)


def lines(peer: Callable[[np.ndarray], Check], times: Times, references: Sequence[int]) -> Iterator[tuple[str, str]]:
    """What was drawn, and how often it alarms."""
    for reference in references:
        beside = f"windows of 1,000 rows beside references of {reference:,}"
        unchanged = [_verdicts(peer, 1000, reference, 0.0, DAYS, month) for month in range(times.months)]
        yield f"unchanged, {beside}", _shares([one for month in unchanged for one in month])
        yield f"unchanged, months of {DAYS} such windows", _shares([{name: any(day[name] for day in month) for name in month[0]} for month in unchanged])
        yield f"moved by 0.2 σ in one feature, {beside}", _shares(_beside_many(peer, 1000, reference, 0.2, times.moved, 1000))
    yield "unchanged, windows of 100,000 rows beside as many", _shares(_beside_many(peer, 100_000, 100_000, 0.0, times.large, 2000))
    moved = _beside_many(peer, 100_000, 100_000, 0.02, times.large, 3000)
    yield "moved by a meaningless 0.02 σ in one feature, windows of 100,000 rows beside as many", _shares(moved)


def _beside_many(peer: Callable[[np.ndarray], Check], rows: int, reference: int, shift: float, times: int, seed: int) -> list[dict[str, bool]]:
    """Two windows beside each of half as many references."""
    return [one for n in range(times // 2) for one in _verdicts(peer, rows, reference, shift, 2, seed + n)]


def _verdicts(peer: Callable[[np.ndarray], Check], rows: int, reference: int, shift: float, times: int, seed: int) -> list[dict[str, bool]]:
    """So many windows beside one reference."""
    random = np.random.default_rng([seed, rows, reference])
    check = peer(drawn(random, reference))
    return [check(drawn(random, rows, shift)) for _ in range(times)]


def _shares(verdicts: list[dict[str, bool]]) -> str:
    count = len(verdicts)
    return "; ".join(f"{name} {sum(one[name] for one in verdicts) / count:.1%}" for name in verdicts[0]) + f" of {count:,}"


# ── checks ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def of_scipy(reference: np.ndarray) -> Check:
    """Kolmogorov–Smirnov and chi-squared tests, Holm's correction, 5 %."""
    from scipy.stats import chi2_contingency, ks_2samp

    def check(window: np.ndarray) -> dict[str, bool]:
        p_values = [ks_2samp(reference[:, n], window[:, n], method="asymp").pvalue for n in range(NUMBERS)]
        for n, many in enumerate(CATEGORIES, NUMBERS):
            table = np.array([np.bincount(side[:, n].astype(int), minlength=many) for side in (reference, window)])
            p_values.append(chi2_contingency(table[:, table.sum(axis=0) > 0]).pvalue)
        return {"alarms": min(p_values) < 0.05 / len(p_values)}  # Holm's first step, which decides whether there is any

    return check


def of_alibi_detect(reference: np.ndarray) -> Check:
    """TabularDrift."""
    from alibi_detect.cd import TabularDrift

    detector = TabularDrift(reference, p_val=0.05, categories_per_feature=dict(enumerate(CATEGORIES, NUMBERS)))
    return lambda window: {"alarms": bool(detector.predict(window)["data"]["is_drift"])}


def of_evidently(reference: np.ndarray) -> Check:
    """DataDriftPreset: what it says of columns, and of the data set, of which half the columns must have drifted."""
    import pandas as pd
    from evidently import Report
    from evidently.presets import DataDriftPreset

    def frame(values: np.ndarray) -> Any:
        numbers = {f"f{n}": values[:, n] for n in range(NUMBERS)}
        return pd.DataFrame(numbers | {f"c{n}": [f"v{int(code)}" for code in values[:, n]] for n in range(NUMBERS, values.shape[1])})

    before = frame(reference)

    def check(window: np.ndarray) -> dict[str, bool]:
        metrics = Report([DataDriftPreset()]).run(frame(window), before).dict()["metrics"]
        counted = next(metric["value"] for metric in metrics if metric["metric_name"].startswith("DriftedColumnsCount"))
        return {"some column alarms": counted["count"] > 0, "the data set alarms": counted["share"] >= 0.5}

    return check


PEERS = {"scipy": of_scipy, "alibi-detect": of_alibi_detect, "evidently": of_evidently}


def ksdrift() -> None:
    """Print how long alibi-detect's KSDrift takes for a million rows of twenty features in memory beside 10,000, and to be imported."""
    warnings.simplefilter("ignore")
    began = time.perf_counter()
    from alibi_detect.cd import KSDrift

    imported = time.perf_counter() - began
    random = np.random.default_rng(1)
    detector, window = KSDrift(random.normal(size=(10_000, 20)), p_val=0.05), random.normal(size=(1_000_000, 20))
    began = time.perf_counter()
    detector.predict(window)
    found = f"{time.perf_counter() - began:.2f} s, after {imported:.1f} s of importing it"
    print(json.dumps(["alibi-detect's KSDrift of 1,000,000 × 20 in memory", found]), flush=True)


if __name__ == "__main__":
    ksdrift() if sys.argv[1] == "ksdrift" else main(sys.argv[1])
