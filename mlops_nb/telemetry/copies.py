"""What a shadow answered beside what callers were answered, and counts that leave its copies out.

A copy of a request has the request's own id with a mark behind it, given by the gateway; by it the two answers find each other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from ..errors import HungUp
from ..splits import COPY_MARK
from . import files, rows
from .aggregates import BIN_RATIO, BINS, bin_end_ms
from .files import Standing
from .queries import _during, _lines, _over_counts, _parquet, _steady

if TYPE_CHECKING:
    import duckdb
    import numpy as np

__all__ = ["BINS", "BIN_RATIO", "Counted", "Pair", "agreeing", "bin_end_ms", "by_hour", "count", "counted", "difference", "hourly", "pairs", "together"]


class Counted(msgspec.Struct, frozen=True, kw_only=True):
    """What one deployment answered callers in a stretch of time."""

    requests: int = 0
    errors: int = 0
    """Answers of status 400 or above."""
    refused: int = 0
    """Those of status 429: more requests came than may wait."""
    latencies: dict[int, int] = {}
    """Bin → requests; bin k ends at 0.001 ms × 1.01^k."""

    def histogram(self) -> list[int]:
        """The latencies as counts of all `BINS` bins."""
        return [self.latencies.get(place, 0) for place in range(BINS)]


class Pair(msgspec.Struct, frozen=True, kw_only=True):
    """One request's two answers."""

    id: str
    time: datetime
    rows: int
    latency_ms: float
    shadow_latency_ms: float
    status: int
    shadow_status: int
    outputs: dict[str, Any]
    shadow_outputs: dict[str, Any]


def counted(endpoint: str, *, since: datetime, until: datetime | None = None) -> dict[str, Counted]:
    """Per deployment what it answered callers: requests, errors, latencies in bins of 1 %; copies are not counted."""
    select = f"SELECT deployment AS what, {_COUNTED} FROM counts GROUP BY 1, 2"
    return _grouped(_over_counts(endpoint, since, until, select))


def by_hour(endpoint: str, *, since: datetime, until: datetime | None = None, of_day: int) -> dict[datetime, Counted]:
    """Beginning of each hour that is this one *of_day* (0–23, UTC) → what all deployments answered callers in it; hours without requests are left out."""
    select = f"SELECT time_bucket(INTERVAL 1 HOUR, time) AS what, {_COUNTED} FROM counts WHERE hour(time) = {int(of_day)} GROUP BY 1, 2"
    return _grouped(_over_counts(endpoint, since, until, select, step=3600))


def together(many: Iterable[Counted]) -> Counted:
    """What several deployments answered."""
    every = list(many)
    latencies: Counter[int] = Counter()
    for one in every:
        latencies.update(one.latencies)
    requests, errors, refused = (sum(getattr(one, name) for one in every) for name in ("requests", "errors", "refused"))
    return Counted(requests=requests, errors=errors, refused=refused, latencies=dict(latencies))


_STATUSES = {"errors": "status >= 400", "refused": "status = 429"}
_COUNTED = "bin, sum(requests)::BIGINT AS requests, " + ", ".join(
    f"coalesce(sum(requests) FILTER ({which}), 0)::BIGINT AS {name}" for name, which in _STATUSES.items()
)


def _grouped(found: Iterable[Mapping[str, Any]]) -> dict[Any, Counted]:
    groups: dict[Any, list[Mapping[str, Any]]] = {}
    for row in found:
        groups.setdefault(row["what"], []).append(row)
    return {what: _counted(bins) for what, bins in groups.items()}


def _counted(bins: Sequence[Mapping[str, Any]]) -> Counted:
    requests, errors, refused = (sum(one[name] for one in bins) for name in ("requests", "errors", "refused"))
    return Counted(requests=requests, errors=errors, refused=refused, latencies={one["bin"]: one["requests"] for one in bins})


def count(endpoint: str, *, since: datetime, until: datetime | None = None) -> int:
    """How many requests callers sent."""
    return sum(row["requests"] or 0 for row in _over_counts(endpoint, since, until, "SELECT sum(requests)::BIGINT AS requests FROM counts"))


def hourly(endpoint: str, *, since: datetime, until: datetime | None = None) -> dict[datetime, int]:
    """Beginning of each hour (UTC) → how many requests callers sent in it; hours without any are left out."""
    select = "SELECT time_bucket(INTERVAL 1 HOUR, time) AS hour, sum(requests)::BIGINT AS requests FROM counts GROUP BY 1 ORDER BY 1"
    return {row["hour"]: row["requests"] for row in _over_counts(endpoint, since, until, select, step=3600)}


def pairs(endpoint: str, shadow: str, *, since: datetime | None = None, until: datetime | None = None, most: int = 100_000) -> list[Pair]:
    """The newest requests that *shadow* was sent copies of, with both answers; those whose answers were kept on both sides."""
    places = files.folders(endpoint)
    where, bounds = _during(since, until)

    def ask(standings: list[Standing]) -> list[Pair]:
        cursor = rows.connection()
        tables = {s.deployment: _answers(cursor, s, since, until) for s in standings}
        copies = tables.pop(shadow, None)
        others = [table for table in tables.values() if table]
        if not copies or not others:
            return []
        answered = " UNION ALL ".join(f"({table})" for table in others)
        sql = f"""SELECT a.id, a.time, a.rows, a.latency_ms, c.latency_ms, a.status, c.status, a.outputs, c.outputs
            FROM (SELECT * FROM ({answered}) WHERE {where}) a JOIN (SELECT * FROM ({copies}) WHERE suffix(id, '{COPY_MARK}')) c
            ON c.id = a.id || '{COPY_MARK}' ORDER BY a.time DESC LIMIT {int(most)}"""
        names = Pair.__struct_fields__
        found = (_pair(dict(zip(names, row, strict=True))) for row in cursor.execute(sql, bounds).fetchall())
        return [pair for pair in found if _kept(pair.status, pair.outputs) and _kept(pair.shadow_status, pair.shadow_outputs)]

    return _steady(places, ask)


def agreeing(pair: Pair, *, tolerance: float = 1e-6) -> bool:
    """Whether both answered alike: equal labels where there are labels, else numbers within *tolerance* of their size; two failures agree."""
    if (pair.status < 400) != (pair.shadow_status < 400):
        return False
    return pair.status >= 400 or difference(pair) <= tolerance


def difference(pair: Pair) -> float:
    """How far the answers are apart: the share of labels that differ, or the largest difference of numbers relative to their size; inf for other shapes."""
    import numpy as np

    shared = [name for name in ("label", *pair.outputs) if name in pair.outputs and name in pair.shadow_outputs]
    if not shared:
        return float("inf")
    one, other = np.asarray(pair.outputs[shared[0]]), np.asarray(pair.shadow_outputs[shared[0]])
    if one.shape != other.shape:
        return float("inf")
    if shared[0] == "label" or one.dtype.kind not in "fiu" or other.dtype.kind not in "fiu":
        return float(np.mean(one != other)) if one.size else 0.0
    return _apart(one.astype(float), other.astype(float))


def _apart(one: np.ndarray, other: np.ndarray) -> float:
    import numpy as np

    both_missing = np.isnan(one) & np.isnan(other)
    apart = np.abs(one - other) / np.maximum(np.maximum(np.abs(one), np.abs(other)), 1.0)
    return float(np.max(np.where(both_missing, 0.0, np.nan_to_num(apart, nan=np.inf)), initial=0.0))


def _answers(cursor: duckdb.DuckDBPyConnection, standing: Standing, since: datetime | None, until: datetime | None) -> str | None:
    """Facts and the answers as JSON of one deployment's rows."""
    table = rows.whole(cursor, standing, _parquet(standing, since, until), _lines(standing))
    if not table:
        return None
    described = cursor.execute(f"DESCRIBE SELECT * FROM ({table})").fetchall()
    kept = [row[0] for row in described if row[0].startswith(rows.PREFIX["outputs"]) and rows.name_of(row[0])]
    fields = ", ".join(f"{rows.quoted(rows.name_of(column))} := {rows.quoted(column)}" for column in kept)
    packed = f"to_json(struct_pack({fields}))" if kept else "'{}'::JSON"
    return f"SELECT id, time, rows, latency_ms, status, {packed}::VARCHAR AS outputs FROM ({table})"


def _kept(status: int, outputs: Mapping[str, Any]) -> bool:
    """Whether an answer was kept; a failure has none to keep, and of one whose caller hung up nobody knows what it would have been."""
    return status != HungUp.http_status and (bool(outputs) or status >= 400)


def _pair(row: dict[str, Any]) -> Pair:
    from .queries import _aware

    row["time"] = _aware(row["time"])
    for side in ("outputs", "shadow_outputs"):
        row[side] = {name: value for name, value in msgspec.json.decode(row[side] or "{}").items() if value is not None}
    return Pair(**row)
