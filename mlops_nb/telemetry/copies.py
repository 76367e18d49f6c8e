"""What a shadow answered beside what callers were answered, and counts that leave its copies out.

A copy of a request has the request's own id with a mark behind it, given by the gateway; by it the two answers find each other.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

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

T = TypeVar("T")
__all__ = ["BINS", "BIN_RATIO", "Agreed", "Counted", "Pair", "agreed", "bin_end_ms", "by_hour", "count", "counted", "hourly", "pairs", "together"]


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


class Agreed(msgspec.Struct, frozen=True, kw_only=True):
    """How many requests two answered, and how many of these alike."""

    pairs: int = 0
    alike: int = 0

    def __add__(self, other: Agreed) -> Agreed:
        return Agreed(pairs=self.pairs + other.pairs, alike=self.alike + other.alike)


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
    select = f"{', '.join(_PAIR)} FROM pairs ORDER BY time DESC LIMIT {int(most)}"
    found = _over_pairs(endpoint, shadow, since, until, select, lambda answered: [_pair(row) for row in answered])
    return [pair for pair in found or [] if _kept(pair.status, pair.outputs) and _kept(pair.shadow_status, pair.shadow_outputs)]


def agreed(endpoint: str, shadow: str, *, since: datetime, until: datetime | None = None) -> Agreed:
    """Of all requests of that time that `pairs` tells of, without a limit, how many were answered alike.

    That is with equal labels where there are labels, else with numbers within a millionth of their size; two failures agree.
    """
    answers = ", ".join(f"CASE WHEN {_SAME} THEN NULL ELSE {name} END" for name in _ANSWERS)
    select = f"{answers}, count(*) FROM pairs GROUP BY ALL"
    return _over_pairs(endpoint, shadow, since, until, select, lambda answered: sum(map(_judged, answered), start=Agreed())) or Agreed()


_FACTS = ("id", "time", "rows", "latency_ms", "shadow_latency_ms")
_ANSWERS = ("status", "shadow_status", "outputs", "shadow_outputs")
_PAIR = (*_FACTS, *_ANSWERS)
_LABEL, _SHADOW_LABEL = ("outputs ->> '$.label'", "shadow_outputs ->> '$.label'")
_SAME = (
    "status < 400 AND shadow_status < 400 AND outputs <> '{}' AND "
    f"coalesce(({_LABEL}) = ({_SHADOW_LABEL}), outputs = shadow_outputs AND NOT contains(outputs, 'null'))"
)
"""True of answers that are the same to the letter; of others numbers may be close, or not have been kept."""
_APART_SECONDS = 5.0
"""A copy comes with what it copies; clocks of two machines may differ by so much."""


def _over_pairs(
    endpoint: str, shadow: str, since: datetime | None, until: datetime | None, select: str, read: Callable[[Iterator[tuple[Any, ...]]], T]
) -> T | None:
    """What *read* makes of the rows of *select* over the table `pairs`; None where there is none.

    By an id that came more than once on a side no pair is told from another: these are left out.
    """
    places = files.folders(endpoint)
    apart = timedelta(seconds=_APART_SECONDS)
    early, late = since - apart if since else None, until + apart if until else None
    (where, bounds), (where_copied, bounds_copied) = _during(since, until), _during(early, late)

    def ask(standings: list[Standing]) -> T | None:
        cursor = rows.connection()
        tables = {s.deployment: _answers(cursor, s, early, late) for s in standings}
        copies = tables.pop(shadow, None)
        others = [table for table in tables.values() if table]
        if not copies or not others:
            return None
        asked = cursor.execute(
            f"""WITH answered AS ({_once(" UNION ALL ".join(f"({table})" for table in others), where)}),
            copied AS ({_once(copies, f"suffix(id, '{COPY_MARK}') AND {where_copied}")}),
            pairs AS (SELECT a.id, a.time, a.rows, a.latency_ms, c.latency_ms AS shadow_latency_ms, a.status, c.status AS shadow_status,
                a.outputs, c.outputs AS shadow_outputs FROM answered a JOIN copied c ON c.id = a.id || '{COPY_MARK}')
            SELECT {select}""",
            [*bounds, *bounds, *bounds_copied, *bounds_copied],
        )
        return read(itertools.chain.from_iterable(iter(lambda: asked.fetchmany(_AT_ONCE), [])))

    return _steady(places, ask)


_AT_ONCE = 10_000


def _once(table: str, where: str) -> str:
    """The rows of *table* whose id no other has."""
    return f"SELECT * FROM ({table}) SEMI JOIN (SELECT id FROM ({table}) WHERE {where} GROUP BY id HAVING count(*) = 1) USING (id) WHERE {where}"


def _judged(answers: tuple[Any, ...]) -> Agreed:
    """Of so many requests with the same two answers; of answers that are the same to the letter there is only the count."""
    status, shadow_status, *outputs, count = answers
    if status is None:
        return Agreed(pairs=count, alike=count)
    one, other = map(_outputs, outputs)
    if not (_kept(status, one) and _kept(shadow_status, other)):
        return Agreed()
    failed, shadow_failed = status >= 400, shadow_status >= 400
    return Agreed(pairs=count, alike=count * (failed == shadow_failed and (failed or _alike(one, other))))


def _alike(one: Mapping[str, Any], other: Mapping[str, Any], *, tolerance: float = 1e-6) -> bool:
    import numpy as np

    shared = next((name for name in ("label", *one) if name in one and name in other), None)
    if shared is None:
        return False
    mine, others = np.asarray(one[shared]), np.asarray(other[shared])
    if mine.shape != others.shape:
        return False
    if shared == "label" or mine.dtype.kind not in "fiu" or others.dtype.kind not in "fiu":
        return bool(np.all(mine == others))
    return _apart(mine.astype(float), others.astype(float)) <= tolerance


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


def _pair(row: tuple[Any, ...]) -> Pair:
    from .queries import _aware

    told = dict(zip(_PAIR, row, strict=True))
    return Pair(**told | {"time": _aware(told["time"]), **{side: _outputs(told[side]) for side in ("outputs", "shadow_outputs")}})


def _outputs(packed: str | None) -> dict[str, Any]:
    return {name: value for name, value in msgspec.json.decode(packed or "{}").items() if value is not None}
