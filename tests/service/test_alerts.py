"""Rules raise an alert when what they say is true, once, and never more often than promised."""

from __future__ import annotations

from datetime import timedelta

import a_busy_workspace
import numpy as np
import pytest
from living import X, wait_for

from mlops_nb import agent, alerts, cards, errors, rollout, store
from mlops_nb.store import events
from mlops_nb.telemetry import Counted


@pytest.fixture
def busy(workspace) -> None:
    """Some hundred requests of the last hour, a few of which failed."""
    a_busy_workspace.fill()


def told(what: str) -> list[dict]:
    with store.reading() as tx:
        return [event.data for event in events.latest(tx, what=what)]


@pytest.mark.parametrize(
    ("words", "metric", "bound", "seconds"),
    [
        ("error_rate > 5% for 5m", "error_rate", 0.05, 300),
        ("p99 > 200ms", "p99", 200.0, 300),
        ("p99.9 > 1.5s for 1h", "p99.9", 1500.0, 3600),
        ("requests < 0.5/s for 30s", "requests", 0.5, 30),
        ("no requests for 1h", "silence", 0.0, 3600),
        ("requests anomalous", "anomaly", 0.0, 3600),
    ],
)
def test_a_condition_is_read_as_it_is_said(words: str, metric: str, bound: float, seconds: float) -> None:
    read = alerts.parse(words)
    assert (read.metric, read.bound, read.seconds) == (metric, pytest.approx(bound), seconds)


@pytest.mark.parametrize(
    "words", ["", "errors > 5%", "p99 > 5%", "error_rate > 500%", "error_rate > 5ms", "p99 > 200ms for 9d", "no requests for 0s", "p98 > 1ms"]
)
def test_what_says_no_condition_is_refused_before_anything_is_kept(busy: None, words: str) -> None:
    with pytest.raises(errors.BadOption):
        alerts.add("delays", words)
    assert alerts.of() == []


def test_a_rule_fires_once_with_the_numbers_and_resolves_once(busy: None) -> None:
    rule = alerts.add("delays", "error_rate > 1% for 10m")

    assert [changed.id for changed in alerts.judge()] == [rule.id]
    assert alerts.judge() == []
    fired = told("AlertFired")
    assert len(fired) == 1 and fired[0]["condition"] == "error_rate > 1% for 10m" and "answers failed" in fired[0]["seen"]

    later = store.now() + timedelta(hours=2)
    assert [changed.firing for changed in alerts.judge(later)] == [False]
    assert len(told("AlertResolved")) == 1 and alerts.judge(later) == []


def test_too_few_answers_wake_nobody() -> None:
    condition = alerts.parse("error_rate > 5%")
    assert not alerts.verdict_on(condition, Counted(requests=3, errors=3, latencies={700: 3})).holds
    assert alerts.verdict_on(condition, Counted(requests=40, errors=3, latencies={700: 40})).holds


def test_silence_is_told_only_once_the_rule_is_as_old_as_it(busy: None) -> None:
    alerts.add("delays", "no requests for 1h")

    assert alerts.judge(store.now() + timedelta(minutes=59)) == []
    assert [rule.value for rule in alerts.judge(store.now() + timedelta(hours=3))] == ["0 requests in 1 h"]


def test_an_alert_is_acknowledged_until_it_is_over_and_snoozed_for_a_while(busy: None) -> None:
    rule = alerts.add("delays", "requests > 0.1/s")
    with pytest.raises(errors.BadOption, match="does not fire"):
        alerts.acknowledge(rule.id)
    alerts.judge()

    assert alerts.acknowledge(rule.id).quiet
    alerts.judge(store.now() + timedelta(hours=2))
    assert not alerts.of("delays")[0].quiet

    assert alerts.snooze(rule.id, 3600).quiet
    alerts.judge()
    assert told("AlertFired")[0]["snoozed"] is True
    alerts.delete(rule.id)
    with pytest.raises(errors.RuleNotFound, match="No alert 'delays-1'"):
        alerts.snooze(rule.id, 60)


def test_steady_days_raise_no_more_than_one_false_alarm_a_month() -> None:
    """Two hundred months of hours whose counts vary as chance has it, and some that vary twice as much."""
    chaos = np.random.default_rng(5)
    for spread in (1.0, 4.0):
        counts = chaos.negative_binomial(50, 1 / spread, (15_000, 29)) if spread > 1 else chaos.poisson(50, (15_000, 29))
        alarms = sum(alerts.anomaly(int(row[-1]), [int(count) for count in row[:-1]]).holds for row in counts)
        assert alarms / (15_000 / alerts.LOOKS_A_MONTH) <= 1.5


def test_an_hour_without_requests_or_with_thrice_as_many_is_found() -> None:
    days = [96, 103, 88, 110, 99, 105, 92, 101, 97, 108]
    assert alerts.anomaly(0, days).holds and alerts.anomaly(300, days).holds and not alerts.anomaly(104, days).holds


def test_an_endpoint_younger_than_a_week_says_nothing_of_anomalies(busy: None) -> None:
    alerts.add("delays", "requests anomalous")
    assert alerts.judge() == []


def test_student_t_has_the_quantiles_of_the_tables() -> None:
    assert alerts.student_quantile(0.975, 6) == pytest.approx(2.4469, abs=1e-3)
    assert alerts.student_quantile(0.995, 27) == pytest.approx(2.7707, abs=1e-3)


def test_the_agent_judges_by_itself(churn) -> None:
    for _ in range(10):
        rollout.invoke("churn", X.head(1))
    alerts.add("churn", "requests > 0.001/s")

    wait_for(lambda: alerts.of("churn")[0].firing, seconds=90, what="the agent's look")
    assert agent.running()
    assert "fires" in cards.as_text(alerts.of("churn")[0])
