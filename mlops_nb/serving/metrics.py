"""Counters of one scoring server, in Prometheus' text format."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping

BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """What happened since the start; touched by the server's loop alone."""

    def __init__(self, **labels: str) -> None:
        self._labels = ",".join(f'{name}="{value}"' for name, value in labels.items())
        self._started = time.time()
        self._buckets = [0] * (len(BUCKETS) + 1)
        self._seconds = 0.0
        self.requests: Counter[int] = Counter()
        self.rows = 0

    def count(self, status: int, seconds: float, rows: int) -> None:
        """Add one scoring request."""
        self.requests[status] += 1
        self.rows += rows
        self._seconds += seconds
        self._buckets[bisect_left(BUCKETS, seconds)] += 1

    def text(self, *, waiting: int, dropped: int, write_errors: int, in_flight: int, queued: int) -> str:
        """The page that Prometheus scrapes."""
        errors = sum(count for status, count in self.requests.items() if status >= 400)
        lines = [
            *self._one("mlops_requests_total", "counter", "Scoring requests by HTTP status.", {f'status="{s}"': n for s, n in sorted(self.requests.items())}),
            *self._one("mlops_request_errors_total", "counter", "Scoring requests answered with 4xx or 5xx.", {"": errors}),
            *self._one("mlops_rows_total", "counter", "Rows scored.", {"": self.rows}),
            *self._histogram(),
            *self._one("mlops_requests_in_flight", "gauge", "Requests being answered.", {"": in_flight}),
            *self._one("mlops_requests_waiting", "gauge", "Requests that wait for the model; those in flight include them.", {"": queued}),
            *self._one("mlops_capture_queue_depth", "gauge", "Records waiting to be written.", {"": waiting}),
            *self._one("mlops_capture_dropped_total", "counter", "Records dropped: the queue was full or the disk refused.", {"": dropped}),
            *self._one("mlops_capture_write_errors_total", "counter", "Refusals of the disk.", {"": write_errors}),
            *self._one("mlops_start_time_seconds", "gauge", "When this server started (Unix time).", {"": round(self._started, 3)}),
        ]
        return "\n".join(lines) + "\n"

    def _one(self, name: str, kind: str, told: str, values: Mapping[str, float]) -> list[str]:
        return [f"# HELP {name} {told}", f"# TYPE {name} {kind}", *(f"{name}{{{self._with(extra)}}} {value}" for extra, value in values.items())]

    def _histogram(self) -> list[str]:
        name, so_far, values = "mlops_request_seconds", 0, {}
        for edge, count in zip([*map(str, BUCKETS), "+Inf"], self._buckets, strict=True):
            so_far += count
            values[f'le="{edge}"'] = so_far
        lines = [line.replace(f"{name}{{", f"{name}_bucket{{", 1) for line in self._one(name, "histogram", "Time to answer.", values)]
        return [*lines, f"{name}_sum{{{self._labels}}} {self._seconds:.6f}", f"{name}_count{{{self._labels}}} {so_far}"]

    def _with(self, extra: str) -> str:
        return f"{self._labels},{extra}" if extra else self._labels
