"""`python -m bench.stats [--full]`: how often drift checks and canaries are wrong, and how long a check takes; seeded, under two minutes unless full.

Windows of ours are drawn as what a check sees of them: counts per bin of the reference, multinomial with the true probabilities.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import resource
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from statistics import NormalDist

import numpy as np

from mlops_nb import datasets, sequential, settings, summaries, telemetry
from mlops_nb.monitoring import judging
from mlops_nb.summaries import ColumnSummary
from mlops_nb.telemetry import Asked, files

FEATURES = 20
REFERENCE = 10_000
POOL = 400
"""Different samples of the reference; each check takes twenty of them."""
NORMAL = NormalDist()
RANDOM = np.random.default_rng(2026)


def main() -> None:
    """Print every figure as it is there."""
    full = argparse.ArgumentParser(prog="python -m bench.stats")
    full.add_argument("--full", action="store_true", help="ten times as many months and canaries, ten million rows")
    times = 10 if full.parse_args().full else 1
    for line in itertools.chain(speed(10_000_000 if times > 1 else 1_000_000), drift(times), canaries(times), raw(times)):
        print(line, flush=True)


# ── drift ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def drift(times: int) -> Iterator[str]:
    """Ours: false alarms of unchanged windows and months, and what is found."""
    yield f"histograms, reference of {REFERENCE:,} rows × {FEATURES} normal features, budget 1/30d, effect {judging.EFFECT}:"
    for rows, windows in ((1000, 1000), (100_000, 1000), (1_000_000, 200)):
        yield f"  unchanged, {windows} windows of {rows:,}: {share(_alarms(rows, 1) for _ in range(windows))} alarm"
    yield f"  unchanged months of 30 daily looks at 1,000 rows: {share(_alarms(1000, 30) for _ in range(30 * times))} alarm at all"
    yield f"  0.2 σ in one feature, 1,000 rows, within five windows: {share(_alarms(1000, 5, 0.2) for _ in range(200 * times))} found"
    yield f"  0.02 σ in one feature, 1,000,000 rows: {share(_alarms(1_000_000, 1, 0.02) for _ in range(200))} alarm"
    bound = 0.03
    shift = 2 * NORMAL.inv_cdf((1 + bound) / 2)
    yield f"  exactly the stated effect in one feature ({shift:.3f} σ), months: {share(_alarms(1000, 30, shift) for _ in range(30 * times))} alarm at all"


def _alarms(rows: int, looks: int, shift: float = 0.0) -> bool:
    """Whether any of so many looks alarms, one feature having moved by *shift*."""
    references, windows = [_reference(int(n)) for n in RANDOM.integers(0, POOL, FEATURES)], []
    for _ in range(looks):
        windows = [[_window(r, rows, shift if n == 0 else 0.0) for n, r in enumerate(references)], *windows[: max(judging.SPANS) - 1]]
        judged = judging.judge(references, windows)
        if any(test.p_adjusted < judging.Budget().alpha for one in judged for test in one.tests):
            return True
    return False


@functools.cache
def _reference(number: int) -> ColumnSummary:
    """One of the samples that serve as references."""
    values = np.sort(RANDOM.normal(size=REFERENCE))
    inner = values[np.arange(1, summaries.BINS) * REFERENCE // summaries.BINS]
    edges = [float(np.nextafter(values[0], -np.inf)), *inner.tolist(), float(values[-1])]
    counts = np.diff(np.searchsorted(values, edges, side="right"), prepend=0, append=REFERENCE)
    return ColumnSummary(name=f"f{number}", kind="number", count=REFERENCE, edges=edges, counts=counts.tolist())


def _window(reference: ColumnSummary, rows: int, shift: float) -> ColumnSummary:
    counts = RANDOM.multinomial(rows, _probabilities(reference.name, shift)).tolist()
    return ColumnSummary(name=reference.name, kind="number", count=rows, edges=reference.edges, counts=counts)


@functools.cache
def _probabilities(name: str, shift: float) -> np.ndarray:
    upto = [NORMAL.cdf(edge - shift) for edge in _reference(int(name[1:])).edges]
    return np.diff(upto, prepend=0, append=1)


def raw(times: int) -> Iterator[str]:
    """The Kolmogorov–Smirnov test of scipy with Holm's correction at 5 %, as alibi-detect's KSDrift does with its own."""
    yield "scipy ks_2samp with Holm at 5 %, the same data:"
    yield f"  unchanged windows of 1,000: {share(_raw(1000) for _ in range(100 * times))} alarm"
    yield f"  unchanged months of 30 looks: {share(any(_raw(1000) for _ in range(30)) for _ in range(5 * times))} alarm at all"
    yield f"  0.2 σ in one window of 1,000: {share(_raw(1000, 0.2) for _ in range(100 * times))} found"
    yield f"  0.02 σ, 1,000,000 rows against as many: {share(_raw(1_000_000, 0.02, features=1) for _ in range(3 * times))} alarm"


def _raw(rows: int, shift: float = 0.0, features: int = FEATURES) -> bool:
    from scipy.stats import ks_2samp

    reference = max(REFERENCE, rows)
    p_values = [float(ks_2samp(RANDOM.normal(size=reference), RANDOM.normal(shift if n == 0 else 0, 1, rows), method="asymp").pvalue) for n in range(features)]
    return min(judging.holm(p_values, [1.0] * features)) < 0.05


# ── canaries ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def canaries(times: int) -> Iterator[str]:
    """False rollbacks while one looks all the time, and how soon a rise of the error rate is found."""
    yield "canaries 5, 25, 50 %, 10,000 requests a step, looked at every 250, guard error_rate<=+0.5pp, alpha 5 %:"
    for before, now, words in ((0.02, 0.02, "A/A at 2 %"), (0.02, 0.025, "just within the guard"), (0.01, 0.03, "1 → 3 %"), (0.02, 0.04, "2 → 4 %")):
        rolled_back, median = _canary(before, now, 1000 * (1 if now - before < 0.01 else times))
        delay = f", half of them by {median:,.0f} requests" if np.isfinite(median) else ""
        yield f"  {words}: {rolled_back:.1%} of 1,000 rolled back{delay}"


def _canary(before: float, now: float, count: int, *, step: int = 10_000, every: int = 250) -> tuple[float, float]:
    first, looked = np.full(count, np.inf), 0
    stages: list[np.ndarray] = []
    for percent in (5, 25, 50):
        yes, mine, yes_before, others = (np.zeros(count) for _ in range(4))
        for _ in range(step // every):
            taken = RANDOM.binomial(every, percent / 100, count)
            yes, mine = yes + RANDOM.binomial(taken, now), mine + taken
            yes_before, others = yes_before + RANDOM.binomial(every - taken, before), others + every - taken
            looked += every
            evidence = sequential.evidence_of_more(yes, mine, yes_before, others, 0.005)
            from_each = np.cumsum(np.array([*stages, evidence])[::-1], axis=0)[::-1]
            combined = np.log(np.mean(np.exp(from_each - from_each.max(axis=0)), axis=0)) + from_each.max(axis=0)
            first[(combined >= sequential.threshold(0.05)) & np.isinf(first)] = looked
        stages.append(evidence)
    return float(np.mean(np.isfinite(first))), float(np.median(first))


# ── speed ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def speed(most: int) -> Iterator[str]:
    """A check of so many rows of 20 numbers, straight from telemetry's Parquet files."""
    import duckdb
    import pandas as pd

    with tempfile.TemporaryDirectory() as scratch, settings.using(scratch):
        version = datasets.register("train", pd.DataFrame(RANDOM.normal(size=(REFERENCE, FEATURES)), columns=[f"f{n}" for n in range(FEATURES)]))
        asked = [Asked(shape.name, shape) for shape in datasets.summary(version)]
        folder = files.folder("delays", "1") / f"date={datetime.now(UTC).date()}"
        folder.mkdir(parents=True)
        columns = ", ".join(f'list(sqrt(-2 * ln(1 - random())) * cos(6.283185307 * random()) + 0 * i) AS "in.f{n}"' for n in range(FEATURES))
        for rows in (size for size in (1_000_000, most) if size <= most):
            _written(duckdb.connect(), folder, columns, rows)
            began = time.perf_counter()
            [window] = telemetry.histograms("delays", asked)
            judging.judge([a.shape for a in asked], [window.columns])
            seconds = time.perf_counter() - began
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            yield f"a check of {window.rows:,} × {FEATURES} rows (100 a request): {seconds:.2f} s, process at most {peak:,.0f} MB"


def _written(connection: object, folder: Path, columns: str, rows: int) -> None:
    facts = "now()::TIMESTAMP AS time, max(i)::VARCHAR AS id, 200 AS status, 1.0::DOUBLE AS latency_ms, count(*) AS rows, NULL::VARCHAR AS error"
    target = folder / f"{time.time_ns()}.parquet"
    for old in folder.glob("*.parquet"):
        old.unlink()
    sql = f"COPY (SELECT {facts}, NULL::VARCHAR AS raw_inputs, NULL::VARCHAR AS raw_outputs, {columns} FROM range({rows}) t(i) GROUP BY i // 100)"
    connection.execute(f"{sql} TO '{target}' (FORMAT parquet, COMPRESSION zstd)")  # type: ignore[attr-defined]


def share(answers: Iterator[bool]) -> str:
    """The share of answers that are yes."""
    found = list(answers)
    return f"{sum(found) / len(found):.1%} of {len(found)}"


if __name__ == "__main__":
    main()
