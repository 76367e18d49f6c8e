"""Columns of a table told by counts, whatever they hold."""

from __future__ import annotations

import math

import duckdb
import numpy as np
import pandas as pd
import pytest

from mlops_nb import summaries
from mlops_nb.datasets import register, summary


def of(frame: pd.DataFrame) -> dict[str, summaries.ColumnSummary]:
    return {column.name: column for column in summary(register("x", frame))}


def test_few_whole_numbers_are_categories_and_many_are_numbers(workspace):
    found = of(pd.DataFrame({"few": [3, 1, 1, 2] * 30, "many": range(120), "huge": [2**60, 2**60 + 1] * 60}))

    assert (found["few"].categories, found["few"].integers) == ({"1": 60, "2": 30, "3": 30}, True)
    assert found["many"].kind == "number"
    assert (found["huge"].kind, found["huge"].count) == ("number", 120)  # which a double cannot tell apart


def test_infinities_lie_outside_all_bins_and_missing_values_in_none(workspace):
    values = [*np.linspace(0, 1, 1000), math.inf, -math.inf, -math.inf, math.nan, None]

    [column] = of(pd.DataFrame({"x": values}, dtype=float)).values()

    assert (column.count, column.missing) == (1003, 2)
    assert (column.edges[1], column.edges[-1]) == pytest.approx((0.003, 1), abs=0.002)
    assert (column.counts[0], column.counts[-1], sum(column.counts)) == (2, 1, 1003)
    assert (column.mean, column.deviation) == (pytest.approx(0.5), pytest.approx(math.sqrt(1 / 12), abs=1e-3))


def test_columns_without_a_value_are_told_and_of_a_table_without_a_row_none(workspace):
    found = of(pd.DataFrame({"none": [math.nan] * 5, "text": pd.Series([None] * 5, dtype="string"), "same": [7.0] * 5}))

    assert (found["none"].missing, found["none"].edges, found["none"].mean) == (5, [], None)
    assert found["same"].counts == [0, 5, 0]
    connection = duckdb.connect()
    connection.execute("CREATE TABLE empty (a DOUBLE, b VARCHAR)")
    schema = [{"name": "a", "type": "float64"}, {"name": "b", "type": "string"}]
    assert summaries.of_rows(connection, "empty", schema, number="rowid", rows=0) == []


def test_the_edges_of_many_rows_come_from_a_sample_and_the_counts_from_all(workspace):
    values = np.random.default_rng(3).normal(size=250_000)

    [column] = of(pd.DataFrame({"x": values})).values()

    upto = np.cumsum(column.counts)[:-1]
    assert upto.tolist() == [int((values <= edge).sum()) for edge in column.edges]
    assert (column.edges[-1], column.edges[0]) == (values.max(), np.nextafter(values.min(), -np.inf))
    assert max(column.counts) <= 2 * len(values) / summaries.BINS
