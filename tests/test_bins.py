"""Numbers fall into the bins that a search would find."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mlops_nb.bins import Bins

RANDOM = np.random.default_rng(1)
DRAWN = {
    "normal": RANDOM.normal(size=20_000),
    "with a long tail": np.exp(2 * RANDOM.normal(size=20_000)),
    "without moments": RANDOM.standard_cauchy(20_000),
    "whole numbers": RANDOM.poisson(30, 20_000).astype(float),
    "mostly zero": np.where(RANDOM.random(20_000) < 0.9, 0.0, RANDOM.normal(size=20_000)),
    "two narrow heaps far apart": np.where(RANDOM.random(20_000) < 0.5, 1e-9 * RANDOM.random(20_000), 1e9 + RANDOM.random(20_000)),
    "as large as they get": RANDOM.normal(size=20_000) * 1e307,
    "as small as they get": RANDOM.integers(0, 1000, 20_000) * 5e-324,
}


def searched(edges: np.ndarray, values: np.ndarray) -> list[int]:
    return np.bincount(np.searchsorted(edges, values), minlength=len(edges) + 1).tolist()


@pytest.mark.parametrize("values", DRAWN.values(), ids=DRAWN.keys())
def test_quantiles_of_any_distribution_count_as_a_search_does(values):
    quantiles = np.quantile(values, np.arange(257) / 256, method="lower")
    edges = np.unique([*quantiles, *np.nextafter(quantiles, -math.inf)])
    asked = np.concatenate([values, edges, np.nextafter(edges, math.inf), np.nextafter(edges, -math.inf), [math.inf, -math.inf]])

    with np.errstate(all="ignore"):
        assert Bins(edges).counts(asked).tolist() == searched(edges, asked)


@given(
    st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=40, unique=True).map(sorted),
    arrays(float, st.integers(0, 50), elements=st.floats(allow_nan=False)),
)
def test_any_edges_and_values_count_as_a_search_does(edges, values):
    with np.errstate(all="ignore"):
        assert Bins(edges).counts(np.append(values, edges)).tolist() == searched(np.array(edges), np.append(values, edges))


def test_threads_count_beside_each_other_whatever_they_counted_before():
    values = DRAWN["normal"]
    edges = np.quantile(values, np.arange(1, 100) / 100)
    bins, parts = Bins(edges), [values[start : start + length] for start in range(0, 2000, 10) for length in (20_000, 1, 500, 5_000)]

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(bins.counts, parts))

    assert [one.tolist() for one in found] == [searched(edges, part) for part in parts]
