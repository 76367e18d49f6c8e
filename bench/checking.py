"""How long a drift check and a registration take, by the clock and in CPU seconds, and how much memory: each in a process of its own."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from mlops_nb import datasets, settings, summaries, telemetry
from mlops_nb.monitoring import judging
from mlops_nb.telemetry import Asked, files, rows

if TYPE_CHECKING:
    import pandas as pd

FEATURES = 20
_REFERENCE = 10_000
_FILE_ROWS = 250_000
"""Of a Parquet file: about as many as compaction puts into one."""


class Taken(NamedTuple):
    """What something took."""

    seconds: float
    cpu_seconds: float
    peak_mb: float

    def __str__(self) -> str:
        return f"{self.seconds:.2f} s, {self.cpu_seconds:.2f} s of CPU, process at most {self.peak_mb:,.0f} MB"


def lines(sizes: tuple[int, ...] = (1_000_000, 3_000_000, 10_000_000)) -> Iterator[tuple[str, str]]:
    """What was done, and what it took."""
    for a_request in (1, 64):
        with tempfile.TemporaryDirectory() as scratch, settings.using(scratch):
            train = np.random.default_rng(1).normal(size=(_REFERENCE, FEATURES))
            registered(train)
            for size in sizes:
                written(size, a_request)
                yield f"check of {size:,} × {FEATURES}, {a_request} a request", str(apart(check, scratch, size))
                if size == sizes[0]:
                    yield "— DuckDB adding up the same columns", str(apart(_scan, scratch, size))
    yield f"scipy ks_2samp of {sizes[0]:,} × {FEATURES} in memory", str(apart(_of_scipy, "", sizes[0]))
    for size in sizes[:1]:
        with tempfile.TemporaryDirectory() as scratch:
            yield f"counts of a data set of {size:,} × {FEATURES}, at its registration", str(apart(_summary, scratch, size))


# ── each in its own process ──────────────────────────────────────────────────────────────────────────────────────────


def apart(work: Any, folder: str, size: int) -> Taken:
    """What *work* took in a fresh process, the second of two times: imports and the page cache are not what is measured."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, (folder, size))


def _timed(work: Any) -> Taken:
    work()
    began, cpu = time.perf_counter(), _cpu()
    work()
    return Taken(time.perf_counter() - began, _cpu() - cpu, _peak_mb())


def _cpu() -> float:
    taken = os.times()
    return taken.user + taken.system


def _peak_mb() -> float:
    """Of this process alone: what getrusage tells starts at its parent's."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def check(folder: str, size: int) -> Taken:
    """A check of all that is in the workspace."""
    with settings.using(folder):

        def counted() -> None:
            asked = [Asked(shape.name, shape) for shape in datasets.summary(datasets.get("train"))]
            with telemetry.bounded():
                [window] = telemetry.histograms("delays", asked)
            judging.judge([a.shape for a in asked], [window.columns])
            assert window.rows == size

        return _timed(counted)


def _scan(folder: str, size: int) -> Taken:
    with settings.using(folder):
        columns = ", ".join(f'unnest("in.f{n}") AS u{n}' for n in range(FEATURES))
        sums = ", ".join(f"sum(u{n})" for n in range(FEATURES))
        source = rows.read_parquet(sorted(files.folder("delays", "1").glob("date=*/*.parquet")))
        return _timed(lambda: rows.connection().execute(f"SELECT {sums} FROM (SELECT {columns} FROM {source})").fetchall())


def _of_scipy(_: str, size: int) -> Taken:
    from scipy.stats import ks_2samp

    random = np.random.default_rng(1)
    train, window = random.normal(size=(FEATURES, _REFERENCE)), random.normal(size=(FEATURES, size))
    return _timed(lambda: [ks_2samp(one, other, method="asymp") for one, other in zip(train, window, strict=True)])


def _summary(folder: str, size: int) -> Taken:
    import duckdb

    file, names = Path(folder) / "data.parquet", [f"f{n}" for n in range(FEATURES)]
    connection = duckdb.connect(":memory:")
    connection.execute(f"COPY (SELECT {', '.join(f'{NORMAL} AS {name}' for name in names)} FROM range({size}) t(i)) TO '{file}' (FORMAT parquet)")
    schema = [{"name": name, "type": "float64"} for name in names]
    return _timed(lambda: summaries.of_table(connection, file, schema, rows=size))


# ── data ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

NORMAL = "sqrt(-2 * ln(1 - random())) * cos(6.283185307 * random()) + 0 * i"


def registered(train: np.ndarray) -> pd.DataFrame:
    """The data set `train`, its columns called f0, f1 …"""
    import pandas as pd

    frame = pd.DataFrame(train, columns=[f"f{n}" for n in range(train.shape[1])])
    datasets.register("train", frame)
    return frame


def written(size: int, a_request: int) -> None:
    """So many rows in Parquet files as compaction leaves them: one that is written, under as many names as it takes."""
    folder = files.folder("delays", "1") / f"date={datetime.now(UTC).date()}"
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.parquet"):
        old.unlink()
    columns = ", ".join(f'list({NORMAL}) AS "in.f{n}"' for n in range(FEATURES))
    facts = "now()::TIMESTAMP AS time, max(i)::VARCHAR AS id, 200 AS status, 1.0::DOUBLE AS latency_ms, count(*) AS rows, NULL::VARCHAR AS error"
    raw = "NULL::VARCHAR AS raw_inputs, NULL::VARCHAR AS raw_outputs"
    first = folder / "1.parquet"
    sql = f"COPY (SELECT {facts}, {raw}, {columns} FROM range({_FILE_ROWS}) t(i) GROUP BY i // {a_request}) TO '{first}'"
    rows.connection().execute(f"{sql} (FORMAT parquet, COMPRESSION zstd)")
    for number in range(2, size // _FILE_ROWS + 1):
        (folder / f"{number}.parquet").hardlink_to(first)
