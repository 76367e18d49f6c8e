"""What a drift check holds does not grow with the requests."""

from __future__ import annotations

from pathlib import Path

import duckdb
import numpy as np
import pytest

from bench import checking
from mlops_nb import settings
from mlops_nb.telemetry import bounded, rows, within_bounds

ROOM_MB = 500
"""For Python, numpy and the batches that DuckDB hands over, beside what DuckDB may hold."""
LITTLE_MB = 300
"""What three times as many rows may add: what DuckDB and the allocator take because it is there; the rows alone are 320 MB more."""


def test_three_times_as_many_rows_take_no_more_memory_worth_mentioning(tmp_path: Path) -> None:
    with settings.using(tmp_path / "workspace"):
        checking.registered(np.random.default_rng(1).normal(size=(10_000, checking.FEATURES)))
        peaks = {}
        for size in (1_000_000, 3_000_000):
            checking.written(size, 64)
            peaks[size] = checking.apart(checking.check, str(tmp_path / "workspace"), size).peak_mb

    assert max(peaks.values()) < rows.BOUNDED_MB + ROOM_MB
    assert peaks[3_000_000] < peaks[1_000_000] + LITTLE_MB


def test_a_check_is_held_to_so_much_memory_and_so_many_threads_and_others_are_not() -> None:
    def limits() -> tuple[int, str]:
        [found] = rows.connection().execute("SELECT current_setting('threads'), current_setting('memory_limit')").fetchall()
        return found

    before = limits()
    with bounded():
        threads, memory = limits()
        with bounded():
            assert limits() == (threads, memory)
    assert threads <= rows.BOUNDED_THREADS and memory == "953.6 MiB"
    assert limits() == before


def test_what_does_not_fit_is_asked_again_without_bounds_and_said(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(rows, "BOUNDED_MB", 20)
    limits = []

    @within_bounds
    def large() -> int:
        limits.append(rows.connection().execute("SELECT current_setting('memory_limit')").fetchall()[0][0])
        return rows.connection().execute("SELECT len(list(i)) FROM range(10_000_000) t(i)").fetchall()[0][0]

    assert large() == 10_000_000
    assert limits[0] == "19.0 MiB" != limits[1]
    assert [record.getMessage() for record in caplog.records] == ["telemetry.beyond_bounds large: 20 MB are too little for requests of so many values"]


def test_an_error_that_no_bounds_are_to_blame_for_is_raised_at_once() -> None:
    asked = []

    @within_bounds
    def wrong() -> None:
        asked.append(1)
        rows.connection().execute("SELECT nothing")

    with pytest.raises(duckdb.BinderException):
        wrong()
    assert asked == [1]
