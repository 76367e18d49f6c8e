"""Numbers come out of DuckDB as arrays, a batch at a time."""

from __future__ import annotations

import subprocess
import sys

import duckdb
import numpy as np
import pytest

from mlops_nb.batches import each
from mlops_nb.tallies import tallied


@pytest.fixture
def connection() -> duckdb.DuckDBPyConnection:
    return duckdb.connect(":memory:")


def test_every_row_comes_once_and_null_is_nan(connection):
    select = "SELECT i::DOUBLE, CASE WHEN i % 3 = 0 THEN NULL ELSE -i::DOUBLE END FROM range(300000) t(i)"

    parts = each(connection, select, lambda batch: [column.copy() for column in batch])

    one, other = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    order = np.argsort(one)
    assert len(parts) > 1 and (one[order] == np.arange(300_000)).all()
    assert np.array_equal(other[order], np.where(np.arange(300_000) % 3 == 0, np.nan, -np.arange(300_000.0)), equal_nan=True)


def test_a_query_without_rows_has_no_batches(connection):
    assert each(connection, "SELECT 1.0::DOUBLE WHERE false", len) == []


def test_other_types_are_refused(connection):
    with pytest.raises(TypeError, match="VARCHAR"):
        each(connection, "SELECT 'x'", len)


def test_what_goes_wrong_in_the_query_or_the_work_is_raised(connection):
    failing = "SELECT CASE WHEN i < 250000 THEN 1.0::DOUBLE ELSE error('gone')::DOUBLE END FROM range(300000) t(i)"

    with pytest.raises(duckdb.Error, match="gone"):
        each(connection, failing, len)
    with pytest.raises(ZeroDivisionError):
        each(connection, "SELECT 1.0::DOUBLE FROM range(300000)", lambda batch: 1 / 0)
    assert connection.execute("SELECT 1").fetchall() == [(1,)]


def test_an_answer_half_read_does_not_stand_in_the_way(connection):
    connection.execute("SELECT * FROM range(100000)").fetchone()

    assert each(connection, "SELECT 1.0::DOUBLE", lambda batch: float(batch[0][0])) == [1.0]


def test_pyarrow_is_not_needed():
    script = "import sys; sys.modules['pyarrow'] = None\nimport duckdb; from mlops_nb.batches import each\n"
    script += "print(each(duckdb.connect(), 'SELECT 2.0::DOUBLE', lambda batch: batch[0][0]))"

    assert "2.0" in subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout


def test_windows_are_tallied_apart_with_moments_range_and_what_is_no_number(connection):
    connection.execute("CREATE TABLE t AS SELECT i % 2 AS w, i // 2 AS n, sin(i) * 1e3 AS x FROM range(200000) s(i)")
    connection.execute("INSERT INTO t VALUES (0, 0, 'inf'), (0, 0, '-inf'), (0, 0, 'nan'), (0, 0, NULL), (1, 0, 1e300)")

    even, odd = tallied(connection, "t", [("x", [-1.0, 0.0, 1.0])], window="w").values()

    for window, [tally] in ((0, even), (1, odd)):
        [expected] = connection.execute(
            f"SELECT count(*), count(*) FILTER (isfinite(x)), min(x) FILTER (isfinite(x)), max(x) FILTER (isfinite(x)) FROM t WHERE w = {window}"
        ).fetchall()
        assert (tally.rows, tally.finite, tally.low, tally.high) == expected
    [tally] = even
    mean, deviation = connection.execute("SELECT avg(x), stddev_pop(x) FROM t WHERE w = 0 AND isfinite(x)").fetchall()[0]
    assert (tally.mean, tally.deviation) == (pytest.approx(mean, abs=1e-9), pytest.approx(deviation))
    assert (tally.lowest, tally.highest, int(tally.counts.sum())) == (1, 1, 100_002)
    assert odd[0].high == 1e300 and np.isfinite(odd[0].deviation)
