"""Segments: the values of a column, by which rows are told apart."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from .measures import Array

MOST = 12
"""Values of a column that are told by name; the rest is `other`."""
Cut = list[str] | Array
"""The most frequent values, or the quartiles of a number with many."""


def cut(values: Array) -> Cut:
    """Where a column is parted."""
    if values.dtype.kind in "iuf" and len(np.unique(values)) > MOST:
        return np.unique(np.nanquantile(values.astype(float), [0.25, 0.5, 0.75]))
    given, times = np.unique([_word(value) for value in values], return_counts=True)
    return given[np.argsort(-times, kind="stable")][:MOST].tolist()


def named(name: str, values: Array, parted: Cut) -> list[str]:
    """The segment of each row: `carrier=AA`, `distance 300 to 800`, `distance=missing`."""
    if isinstance(parted, list):
        return [f"{name}={word if word in parted else 'other'}" for word in map(_word, values)]
    edges = [f"{edge:g}" for edge in parted]
    if len(set(edges)) < len(edges):
        edges = [_word(edge) for edge in parted]
    names = [f"{name}≤{edges[0]}", *(f"{name} {low} to {high}" for low, high in itertools.pairwise(edges)), f"{name}>{edges[-1]}"]
    numbers = values.astype(float)
    return [f"{name}=missing" if missing else names[place] for missing, place in zip(np.isnan(numbers), np.searchsorted(parted, numbers), strict=True)]


def _word(value: Any) -> str:
    if value is None or value != value:
        return "missing"
    return f"{value:.12g}" if isinstance(value, float | np.floating) else str(value)
