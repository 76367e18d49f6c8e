"""The statistics: how often they alarm for nothing, and what they do not miss."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlops_nb.monitoring import worker

ALPHA = 0.01


@pytest.fixture
def compare(tmp_path: Path):
    """Compares columns `name → (reference, window)`: floats, or lists of text."""

    def _compare(alpha: float = ALPHA, type: str = "float64", **columns: tuple[Any, Any]) -> dict[str, Any]:
        arrays, shapes = {}, []
        for n, (name, sides) in enumerate(columns.items()):
            categories = sorted({value for side in sides for value in side}) if isinstance(sides[0], list) else None
            arrays |= {f"{key}{n}": np.array([categories.index(v) for v in side]) if categories else side for key, side in zip("rw", sides, strict=True)}
            shapes.append({"name": name, "type": type, "categories": categories})
        np.savez(tmp_path / "columns.npz", **arrays)
        return worker.answer({"engine": "scipy", "alpha": alpha, "arrays": str(tmp_path / "columns.npz"), "columns": shapes})

    return _compare


def normal(seed: int, rows: int, *, mean: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(mean, 1, rows)


def alarms(compare, windows: Sequence[dict[str, tuple[Any, Any]]], **options: Any) -> float:
    return float(np.mean([compare(**options, **window)["is_drift"] for window in windows]))


def test_two_hundred_unchanged_windows_of_ten_features_alarm_within_their_budget(compare):
    reference = {f"f{n}": normal(n, 5000) for n in range(10)}
    windows = [{name: (side, normal(1000 + 10 * w + n, 1000)) for n, (name, side) in enumerate(reference.items())} for w in range(200)]

    assert alarms(compare, windows, alpha=0.05) <= 0.08


def test_small_unchanged_windows_alarm_within_their_budget(compare):
    windows = [{f"f{n}": (normal(5 * w + n, 200), normal(50_000 + 5 * w + n, 50)) for n in range(5)} for w in range(200)]

    assert alarms(compare, windows, alpha=0.05) <= 0.08


def test_unchanged_categories_of_many_levels_alarm_within_their_budget(compare):
    def levels(seed: int, rows: int) -> list[str]:
        return [f"L{n}" for n in np.random.default_rng(seed).zipf(1.5, rows) % 400]

    windows = [{"tail": (levels(w, 2000), levels(10_000 + w, 500))} for w in range(100)]

    assert alarms(compare, windows, alpha=0.05) <= 0.08


def test_a_fiftieth_of_a_sigma_in_a_hundred_thousand_rows_is_certain_and_no_alarm(compare):
    found = compare(f=(normal(0, 100_000), normal(1, 100_000, mean=0.02)))

    assert found["features"][0]["p_adjusted"] < ALPHA
    assert not found["is_drift"]


@pytest.mark.parametrize("rows", [150, 1000, 100_000])
def test_half_a_sigma_is_found(compare, rows):
    assert compare(f=(normal(0, 5000), normal(1, rows, mean=0.5)))["is_drift"]


def test_half_a_sigma_is_found_among_two_hundred_features(compare):
    columns = {f"f{n}": (normal(n, 2000), normal(500 + n, 1000, mean=0.5 if n == 7 else 0)) for n in range(200)}

    found = compare(**columns)

    assert [feature["name"] for feature in found["features"] if feature["is_drift"]] == ["f7"]


def test_values_beyond_anything_seen_drift_from_five_percent(compare):
    window = normal(1, 2000)
    window[:140] = 50.0

    [feature] = compare(f=(normal(0, 5000), window))["features"]

    assert feature["is_drift"] and feature["effect"] < worker.MINIMUM_EFFECT
    assert "7.0 % outside" in feature["summary"]


def test_infinite_and_huge_values_are_compared(compare):
    window = normal(1, 500)
    window[:3] = [np.inf, -np.inf, 1e300]

    assert not compare(f=(normal(0, 500), window))["is_drift"]


def test_a_column_of_nothing_but_gaps_on_both_sides_is_no_drift(compare):
    [feature] = compare(f=(np.full(100, np.nan), np.full(100, np.nan)))["features"]

    assert (feature["is_drift"], feature["test"], feature["missing_window"]) == (False, "none", 1.0)


def test_rare_categories_are_put_together_and_never_tested_alone(compare):
    reference, window = ["a"] * 500 + ["b"] * 500 + ["r1", "r2", "r3"], ["a"] * 500 + ["b"] * 500 + ["r4", "r5", "r6"]

    [feature] = compare(f=(reference, window))["features"]

    assert not feature["is_drift"]
    assert feature["histogram"]["categories"] == ["a", "b", None]


def test_a_category_called_other_is_not_the_rest(compare):
    reference = ["a"] * 500 + ["other"] * 500 + ["r1", "r2"]

    [feature] = compare(f=(reference, ["a"] * 900 + ["other"] * 100))["features"]

    assert feature["is_drift"] and "'other' 50 % → 10 %" in feature["summary"]
    assert feature["histogram"]["categories"] == ["a", "other", None]


def test_holm_corrects_step_by_step():
    assert worker.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_holm_of_nothing_is_nothing():
    assert worker.holm([]) == []


def test_a_small_table_of_missing_values_is_tested_exactly():
    reference, window = np.ones(40), np.append(np.ones(38), [np.nan, np.nan])
    column = worker.Column("f", "float64", reference, window[:38], 40, 40)

    found = worker.missing_test(column)

    assert found and found.test == "Fisher"
    assert found.p_value == pytest.approx(0.4937, abs=1e-3)
