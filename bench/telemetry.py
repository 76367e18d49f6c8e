"""What the dashboard's pages ask of ten million captured requests, a week of one endpoint with two deployments."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

from mlops_nb import metrics, telemetry
from mlops_nb.settings import Workspace
from mlops_nb.telemetry import rows

from . import timing, workspaces
from .table import Figure

REQUESTS = 10_000_000
DAYS = 7
_SHARES = {"1": 0.9, "2": 0.1}
_GOAL_SECONDS = 0.5


def measure() -> list[Figure]:
    """Each question at the longest period a page offers, and those that the agent and a scrape ask again and again."""
    with workspaces.fresh() as workspace:
        fill(workspace, requests=REQUESTS)
        week, minutes = datetime.now(UTC) - timedelta(days=DAYS), datetime.now(UTC) - timedelta(minutes=5)
        asked = {
            "shares and latencies of a week": lambda: telemetry.totals("delays", since=week),
            "lines of a week": lambda: telemetry.traffic("delays", since=week, bucket_seconds=7200),
            "lines of an hour": lambda: telemetry.traffic("delays", since=datetime.now(UTC) - timedelta(hours=1), bucket_seconds=60),
            "bins of 1 % of a week": lambda: telemetry.counted("delays", since=week),
            "requests by hour of a week": lambda: telemetry.hourly("delays", since=week),
            "a rule's five minutes": lambda: telemetry.counted("delays", since=minutes),
            "the page for Prometheus": metrics.exposition,
        }
        seconds = timing.medians({name: timing.timed(ask) for name, ask in asked.items()}, rounds=5)
    return [Figure(name=f"{name} ({REQUESTS:,} requests)", value=taken, unit="s", at_most=_GOAL_SECONDS) for name, taken in seconds.items()]


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


def _rows(day: datetime, count: int, lasts: float) -> str:
    return f"""SELECT TIMESTAMP '{day:%Y-%m-%d %H:%M:%S}' + to_microseconds((i * {lasts * 1e6 / count})::BIGINT) AS time, uuid()::VARCHAR AS id,
        CASE WHEN random() < 0.01 THEN 500 ELSE 200 END AS status, exp(0.7 * sqrt(-2 * ln(random() + 1e-12)) * cos(6.283 * random())) * 3 AS latency_ms,
        1::BIGINT AS rows, NULL::VARCHAR AS error, NULL::VARCHAR AS raw_inputs, NULL::VARCHAR AS raw_outputs,
        [random()] AS "in.temp", [random()] AS "in.hour", [0] AS "out.label" FROM range({count}) AS t(i)"""
