"""What the dashboard's pages ask of ten million captured requests, a week of one endpoint with two deployments."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd

from mlops_nb import alerts, datasets, metrics, monitoring, telemetry
from mlops_nb.monitoring import DriftMap, over_time
from mlops_nb.settings import Workspace
from mlops_nb.telemetry import labels, rows

from . import reporting, timing, workspaces
from .table import Figure

REQUESTS = 10_000_000
DAYS = 7
MOST_JUDGED = 50_000
"""Rows of each deployment that the Performance page judges: `dashboard/queries.py`."""
_SHARES = {"1": 0.9, "2": 0.1}
_GOAL_SECONDS = 0.5
_BUCKETS = {"15 minutes": (timedelta(minutes=15), 10), "an hour": (timedelta(hours=1), 60), "six hours": (timedelta(hours=6), 300)} | {
    "a day": (timedelta(days=1), 900), "a week": (timedelta(days=7), 7200),
}  # fmt: skip
"""The periods that pages offer, and the seconds of one point of a line: `dashboard/queries.py`."""


def measure() -> list[Figure]:
    """Each question of each page, at each period it offers, and what the agent and a scrape ask again and again; beside a plain look at every row's time.

    The first compaction counts them all: its time is told too.  Of the pages, Overview and Rollout ask about requests, Performance about answers and
    Drift about both; Deployments, Events, Fleet, Hardware, Models, Profiling and Targets read the store.
    """
    with workspaces.fresh() as workspace:
        fill(workspace, requests=REQUESTS)
        label(workspace)
        watch()
        first = timing.timed(telemetry.compact)()
        plain = f"every row's time ({REQUESTS:,} requests)"
        seconds = timing.medians({name: timing.timed(ask) for name, ask in {plain: _plainly(workspace), **_pages(), **_watching()}.items()}, rounds=5)
        opened = timing.medians({name: timing.timed(ask) for name, ask in _map_opened_first().items()}, rounds=2)
    figures = [Figure(name=name, value=taken, unit="s", baseline=plain, at_most=_GOAL_SECONDS) for name, taken in seconds.items() if name != plain]
    once = [Figure(name=name, value=taken, unit="s", baseline=plain, at_most=_GOAL_SECONDS) for name, taken in opened.items()]
    return [Figure(name=plain, value=seconds[plain], unit="s"), *figures, *once, Figure(name="counting them all, once", value=first, unit="s")]


def _pages() -> dict[str, Callable[[], object]]:
    """Overview asks for totals and lines of each endpoint, Rollout for those of the chosen one, Performance for answers with their labels."""
    asked: dict[str, Callable[[], object]] = {}
    for said, (lasts, bucket) in _BUCKETS.items():
        asked[f"overview, rollout: totals of {said}"] = lambda lasts=lasts: telemetry.totals("delays", since=_ago(lasts))  # type: ignore[misc]
        asked[f"overview, rollout: lines of {said}"] = lambda lasts=lasts, bucket=bucket: telemetry.traffic(  # type: ignore[misc]
            "delays", since=_ago(lasts), bucket_seconds=bucket
        )
    asked["drift: when the first came"] = lambda: telemetry.traffic("delays", since=_ago(timedelta(days=400)), bucket_seconds=86_400)
    asked["drift: the map of a week by six hours, with labels"] = _map
    asked["drift: the same, when more labels have come"] = lambda: (over_time._labels.forget(), _map())
    asked["performance: answers with their labels"] = lambda: labels.answers("delays", most=MOST_JUDGED)
    asked["logs: what callers got wrong in a day"] = lambda: telemetry.refused("delays", since=_ago(timedelta(days=1)))
    return asked


def _map() -> DriftMap:
    return monitoring.drift_map("delays", seconds=21_600, since=_ago(timedelta(days=7)), until=datetime.now(UTC))


def _map_opened_first() -> dict[str, Callable[[], object]]:
    return {"drift: the map, opened first": lambda: (over_time._windows.forget(), over_time._labels.forget(), _map())}


def _watching() -> dict[str, Callable[[], object]]:
    minutes = timedelta(minutes=5)
    return {
        "alerts: five minutes": lambda: telemetry.counted("delays", since=_ago(minutes)),
        "alerts: four weeks by hour": lambda: telemetry.hourly("delays", since=_ago(timedelta(days=alerts.MOST_DAYS))),
        "canary: a week in bins of 1 %": lambda: telemetry.counted("delays", since=_ago(timedelta(days=DAYS))),
        "the page for Prometheus": metrics.exposition,
    }


def _plainly(workspace: Workspace) -> Callable[[], object]:
    there = f"read_parquet({rows.literal(f'{workspace.telemetry}/*/*/date=*/*.parquet')}, hive_partitioning = false)"
    since = f"TIMESTAMP '{_ago(timedelta(days=DAYS)):%Y-%m-%d %H:%M:%S}'"
    return lambda: rows.connection().execute(f"SELECT count(*) FROM {there} WHERE time >= {since}").fetchall()


def _ago(lasts: timedelta) -> datetime:
    return datetime.now(UTC) - lasts


def fill(workspace: Workspace, *, requests: int) -> None:
    """Parquet files as compaction leaves them: one a day and deployment, with a payload that these questions must not read."""
    cursor, midnight = rows.connection(), datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    for name, share in _SHARES.items():
        for back in range(DAYS):
            day, count = midnight - timedelta(days=back), round(requests * share / DAYS)
            folder = workspace.telemetry / "endpoint=delays" / f"deployment={name}" / f"date={day.date()}"
            folder.mkdir(parents=True)
            lasts = min(timedelta(days=1), datetime.now(UTC) - day).total_seconds()
            first, last = int(day.timestamp() * 1e9), min(int((day + timedelta(days=1)).timestamp() * 1e9), time.time_ns())
            target = rows.literal(str(folder / f"{first}-{last}.parquet"))
            cursor.execute(f"COPY ({_rows(day, count, lasts)}) TO {target} (FORMAT parquet, COMPRESSION zstd, {rows.NO_COPIES})")


def label(workspace: Workspace) -> None:
    """A label of every request."""
    requests = f"read_parquet({rows.literal(f'{workspace.telemetry}/*/*/date=*/*.parquet')}, hive_partitioning = false)"
    labels.put("delays", f"SELECT id, 0::BIGINT AS row, (random() < 0.5)::INTEGER::VARCHAR AS label FROM {requests}")


def watch() -> None:
    """The endpoint as one whose model takes `temp` and `hour`, and was trained beside a column of labels."""
    train = pd.DataFrame(np.random.default_rng(1).random((10_000, 3)), columns=["temp", "hour", "late"])
    datasets.register("train", train.assign(late=(train.late < 0.5).astype(int)))
    reporting.behind(train[["temp", "hour"]])


def _rows(day: datetime, count: int, lasts: float) -> str:
    return f"""SELECT TIMESTAMP '{day:%Y-%m-%d %H:%M:%S}' + to_microseconds((i * {lasts * 1e6 / count})::BIGINT) AS time, uuid()::VARCHAR AS id,
        CASE WHEN random() < 0.01 THEN 500 ELSE 200 END AS status, exp(0.7 * sqrt(-2 * ln(random() + 1e-12)) * cos(6.283 * random())) * 3 AS latency_ms,
        1::BIGINT AS rows, NULL::VARCHAR AS error, NULL::VARCHAR AS raw_inputs, NULL::VARCHAR AS raw_outputs,
        [random()] AS "in.temp", [random()] AS "in.hour", [0] AS "out.label" FROM range({count}) AS t(i)"""
