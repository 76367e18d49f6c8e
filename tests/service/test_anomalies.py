"""Hours that are as before raise no more alarms than promised, and those that are not are found."""

from __future__ import annotations

import numpy as np
import pytest

from mlops_nb import anomalies

HOURS = 12_000
MONTHS = HOURS / anomalies.LOOKS_A_MONTH


@pytest.mark.parametrize(("mean", "spread", "at_most"), [(50, 1, 1.0), (50, 4, 1.5), (2000, 4, 1.5), (0.5, 4, 0.5)])
def test_counts_as_before_raise_about_one_alarm_a_month(mean: float, spread: int, at_most: float) -> None:
    chance = np.random.default_rng(5)
    shape = (HOURS, 29)
    counts = chance.poisson(mean, shape) if spread == 1 else chance.negative_binomial(mean / (spread - 1), 1 / spread, shape)
    alarms = sum(not anomalies.of_counts(row[:-1].tolist()).holds(row[-1]) for row in counts)
    assert alarms / MONTHS <= at_most


@pytest.mark.parametrize(("answers", "share", "apart", "at_most"), [(60, 0.01, 0.0, 0.5), (2000, 0.01, 0.3, 1.5), (300, 0.2, 0.3, 2.5)])
def test_shares_as_before_raise_about_one_alarm_a_month(answers: int, share: float, apart: float, at_most: float) -> None:
    """Days of unlike size, whose own shares differ by 30 %."""
    chance = np.random.default_rng(6)
    counts = np.maximum(20, answers * np.exp(chance.normal(0, 0.8, (HOURS, 15)))).astype(int)
    errors = chance.binomial(counts, share * np.exp(chance.normal(0, apart, counts.shape) - apart**2 / 2))
    alarms = sum(
        not anomalies.of_shares(list(zip(wrong[:-1].tolist(), count[:-1].tolist(), strict=True)), int(count[-1])).holds(wrong[-1] / count[-1])
        for wrong, count in zip(errors, counts, strict=True)
    )
    assert alarms / MONTHS <= at_most


@pytest.mark.parametrize("apart", [0.0, 0.2])
def test_latencies_as_before_raise_about_one_alarm_a_month(apart: float) -> None:
    """The p95 of a hundred answers, whose days differ by 20 %."""
    chance = np.random.default_rng(7)
    answers = np.exp(chance.normal(1.5, 0.8, (HOURS, 15, 100)) + chance.normal(0, apart, (HOURS, 15, 1)))
    tails = np.sort(answers, axis=2)[:, :, 94]
    alarms = sum(not anomalies.of_latencies(row[:-1].tolist()).holds(row[-1]) for row in tails)
    assert alarms / MONTHS <= 1.5


def test_what_is_not_as_before_is_found() -> None:
    days = [96, 103, 88, 110, 99, 105, 92, 101, 97, 108]
    expected = anomalies.of_counts(days)
    assert not expected.holds(0) and not expected.holds(300) and expected.holds(104)
    assert anomalies.of_shares([(1, count) for count in days], 100).high < 0.15
    assert anomalies.of_latencies([3.0, 3.1, 3.2, 2.9, 3.0, 3.3, 3.1]).high < 5


def test_student_t_has_the_quantiles_of_the_tables() -> None:
    assert anomalies.student_quantile(0.975, 6) == pytest.approx(2.4469, abs=1e-3)
    assert anomalies.student_quantile(0.995, 27) == pytest.approx(2.7707, abs=1e-3)
