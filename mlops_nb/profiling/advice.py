"""What to run a model on, from what was measured: arithmetic on points, nothing else."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Literal, Self

import msgspec

from ..errors import BadOption

_MEMORY_MARGIN = 1.3
_MEMORY_STEP_MB = 64
_BUSY_PERCENT = 15
_OBJECTIVE = re.compile(r"p(50|95|99)\s*(?:=|<=|≤)\s*(\d+(?:\.\d+)?)\s*(ms|s)?")


class Objective(msgspec.Struct, frozen=True):
    """What callers are promised: this percentile of the latencies stays at or below so many ms."""

    percentile: Literal[50, 95, 99] = 95
    ms: float = 50.0

    @classmethod
    def parse(cls, text: str) -> Self:
        """`p95=20ms`, `p99=0.5s`.  Raises BadOption."""
        told = _OBJECTIVE.fullmatch(text.strip())
        ms = float(told[2]) * (1000 if told[3] == "s" else 1) if told else 0
        if not told or not ms:
            raise BadOption(f"{text!r} is not a promise about latency.", hint="--slo p95=20ms, with p50, p95 or p99")
        return cls(int(told[1]), ms)  # type: ignore[arg-type]

    def __str__(self) -> str:
        return f"p{self.percentile} ≤ {self.ms:g} ms"


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One rate that was tried: requests a second on a schedule."""

    rate: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    kept: bool
    """Whether the objective held."""
    limited: bool = False
    """Whether the load generator was at its own limit."""
    requests: int = 0
    cpu_percent: float = 0.0


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured with one hardware, number of cores and batch size.  MB are millions of bytes, CPU is in percent of one core."""

    hardware: str
    cpus: int | None
    """Cores the server was held to; None where it may use all."""
    batch: int
    """Rows in each request."""
    rate: float
    """The highest rate tried, in requests a second, at which the objective held; 0 when it never did."""
    rows_per_second: float
    """Rows answered a second at that rate; one request after the other when it never held."""
    requests: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    """Latencies at that rate, counted from when each request was due; of one request after the other when the objective never held."""
    cpu_percent: float
    memory_mb: float
    """Resident after the load."""
    peak_memory_mb: float
    """The most that was resident from the server's start until then."""
    cold_start_seconds: float | None = None
    """From starting the server until it was ready; None for one that ran already."""
    alone_p50_ms: float = 0.0
    alone_p95_ms: float = 0.0
    alone_p99_ms: float = 0.0
    """Of one request after the other: no request can be answered faster."""
    most_rows_per_second: float = 0.0
    """With always several requests on their way, whatever the latency."""
    most_requests_per_second: float = 0.0
    limited: bool = False
    """The load generator was the limit, so the server can do more than this."""
    elsewhere_percent: float = 0.0
    """What other programs took of the machine's CPU meanwhile."""
    curve: list[Step] = []
    """Every rate tried, from the lowest."""

    @property
    def cores(self) -> int:
        """Cores to pay for: those it was held to, else those it used."""
        return self.cpus or max(1, math.ceil(self.cpu_percent / 100 - 0.1))

    @property
    def rows_per_core(self) -> float:
        """Rows a second for each core."""
        return self.rows_per_second / self.cores


class Advice(msgspec.Struct, frozen=True, kw_only=True):
    """What to deploy with for an objective, and why."""

    objective: str
    possible: bool
    """Whether anything that was measured keeps the objective."""
    hardware: str = ""
    cpus: int = 0
    memory_mb: int = 0
    batch: int = 0
    instances: int = 0
    rate: float = 0.0
    """Requests a second that one instance keeps."""
    rows_per_second: float = 0.0
    p95_ms: float = 0.0
    price_per_million: float | None = None
    """Of a million predictions, in the currency of the price per core-hour."""
    why: str
    """One sentence."""
    measured: str = ""
    """What was measured, and on what."""
    notes: list[str] = []


def advise(points: Sequence[Point], objective: Objective, *, rps: float | None = None, price: float | None = None, measured: str = "") -> Advice:
    """The setting that keeps *objective* at the least cost: the most rows a second for each core, or with *rps* the fewest cores in all.

    *rps* is what callers send in all, in requests of the smallest batch that was measured; *price* is that of one core for an hour.
    """
    keeping = [point for point in points if point.rate > 0]
    if rps:
        smallest = min((point.batch for point in points), default=1)
        keeping = [point for point in keeping if point.batch == smallest]
    if not keeping:
        return Advice(objective=str(objective), possible=False, why=_why_impossible(points, objective, rps), measured=measured)
    best = min(keeping, key=lambda point: _cost(point, rps))
    instances = instances_for(best, rps)
    return Advice(
        objective=str(objective), possible=True, hardware=best.hardware, cpus=best.cores, memory_mb=memory_for(best.peak_memory_mb), batch=best.batch,
        instances=instances, rate=best.rate, rows_per_second=best.rows_per_second, p95_ms=best.p95_ms,
        price_per_million=None if price is None else price_per_million(best, price, rps=rps), why=_why(best, keeping, objective, rps),
        measured=measured, notes=_notes(best, points, rps),
    )  # fmt: skip


def memory_for(peak_mb: float) -> int:
    """Memory to allow, in MB: 1.3 times the most that was seen, rounded up to a multiple of 64."""
    return max(1, math.ceil(round(peak_mb * _MEMORY_MARGIN / _MEMORY_STEP_MB, 6))) * _MEMORY_STEP_MB


def instances_for(point: Point, rps: float | None) -> int:
    """Servers needed for *rps* requests a second; one when nothing is asked for."""
    return max(1, math.ceil(round(rps / point.rate, 6))) if rps else 1


def price_per_million(point: Point, price: float, *, rps: float | None = None) -> float:
    """What a million predictions cost at *price* per core-hour: at full rate, or with *rps* at what is asked of the instances."""
    rows = rps * point.batch if rps else point.rows_per_second
    return price * point.cores * instances_for(point, rps) / 3600 / rows * 1_000_000


def setting(point: Point) -> str:
    """`cpu, 1 core, 32 rows a request`, for people."""
    return setting_of(point.hardware, point.cpus, point.batch)


def setting_of(hardware: str, cpus: int | None, batch: int) -> str:
    """The same, of its parts."""
    cores = f"{cpus} core{'s' if cpus > 1 else ''}" if cpus else "all cores"
    return f"{hardware}, {cores}, {batch:,} row{'s' if batch > 1 else ''} a request"


def _cost(point: Point, rps: float | None) -> tuple[float, ...]:
    if rps:
        return (point.cores * instances_for(point, rps), instances_for(point, rps), point.p95_ms)
    return (-point.rows_per_core, point.p95_ms)


def _why(best: Point, keeping: Sequence[Point], objective: Objective, rps: float | None) -> str:
    kept = f"{setting(best)}: one instance keeps {objective} up to {best.rate:,.0f} requests/s (p95 {best.p95_ms:.3g} ms there)"
    if rps:
        instances = instances_for(best, rps)
        return f"{kept}, so {rps:,.0f} requests/s take {instances} instance{'s' if instances > 1 else ''}, {best.cores * instances} cores in all."
    others = [point for point in keeping if point is not best]
    if not others:
        return f"{kept}; nothing else that was measured keeps it."
    return f"{kept}, {best.rows_per_core:,.0f} rows/s for each core, the most of the {len(keeping)} settings that keep it."


def _why_impossible(points: Sequence[Point], objective: Objective, rps: float | None) -> str:
    if not points:
        return "Nothing was measured."
    nearest = min(points, key=lambda point: _alone(point, objective))
    alone = _alone(nearest, objective)
    if alone > objective.ms:
        return f"No setting that was measured keeps {objective}: even one request at a time takes {alone:.3g} ms at best ({setting(nearest)})."
    asked = " with requests of that size" if rps else ""
    return f"No setting that was measured keeps {objective}{asked} at any rate that was tried; one request at a time takes {alone:.3g} ms ({setting(nearest)})."


def _alone(point: Point, objective: Objective) -> float:
    if objective.percentile == 99:
        return point.alone_p99_ms or point.alone_p95_ms  # which alone was kept before
    return point.alone_p50_ms if objective.percentile == 50 else point.alone_p95_ms


def _notes(best: Point, points: Sequence[Point], rps: float | None) -> list[str]:
    notes = []
    if best.elsewhere_percent > _BUSY_PERCENT:
        notes.append(f"Other programs took {best.elsewhere_percent:.0f} % of the machine's CPU meanwhile: on a quiet machine it can do more than this.")
    elif best.limited:
        notes.append("The load generator was at its limit: the server can do more than this.")
    larger = [p for p in points if p.rate > 0 and p.hardware == best.hardware and p.cpus == best.cpus and p.batch > best.batch]
    most = max(larger, key=lambda p: p.rows_per_core, default=None)
    if rps and most and most.rows_per_core > 1.5 * best.rows_per_core:
        notes.append(f"Callers that send {most.batch:,} rows a request need {most.rows_per_core / best.rows_per_core:.0f} times less CPU for each row.")
    if rps and instances_for(best, rps) > 1:
        notes.append("No instance is to spare: when one falls the others are beyond the objective.")
    return notes
