"""Rules raise an alert when what they say is true, once, and never more often than promised."""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import a_busy_workspace
import msgspec
import pytest
from living import X, wait_for

from mlops_nb import agent, alerts, cards, errors, metrics, rollout, store
from mlops_nb.metrics import Load
from mlops_nb.saturation import Looks
from mlops_nb.settings import Workspace
from mlops_nb.store import checks, deployments, events, state
from mlops_nb.telemetry import Counted


@pytest.fixture
def busy(workspace) -> None:
    """Some hundred requests of the last hour, a few of which failed."""
    a_busy_workspace.fill()


def told(what: str) -> list[dict]:
    with store.reading() as tx:
        return [event.data for event in events.latest(tx, what=what)]


def test_an_alert_by_drift_follows_the_newest_check_of_each_that_runs_and_of_all_together(busy: None) -> None:
    def checked(number: int, deployment: str | None, *, drift: bool) -> None:
        with store.writing() as tx:
            found = a_busy_workspace.drift_check(3 if drift else 0, days=0)
            checks.add_drift_check(tx, msgspec.structs.replace(found, id=f"now-{number}", deployment=deployment, time=store.now()))

    def fires() -> tuple[bool, str]:
        alerts.judge()
        [rule] = alerts.of("delays")
        return rule.firing, rule.value

    alerts.add("delays", "drift")
    for number, deployment in enumerate((None, "1", "2")):
        checked(number, deployment, drift=False)
    before = fires()
    checked(3, "2", drift=True)
    checked(4, None, drift=False)
    after = fires()
    page = metrics.exposition("delays")
    with store.writing() as tx:
        deployments.want(tx, deployments.get(tx, "delays", "2"), "stopped", author="ada")

    assert (before[0], after[0], "(delays/2)" in after[1]) == (False, True, True)
    assert 'mlops_drift{endpoint="delays",deployment="2"} 1' in page and 'mlops_drift{endpoint="delays",deployment="1"} 0' in page
    assert fires()[0] is False


@pytest.mark.parametrize(
    ("words", "metric", "bound", "seconds"),
    [
        ("error_rate > 5% for 5m", "error_rate", 0.05, 300),
        ("p99 > 200ms", "p99", 200.0, 300),
        ("p99.9 > 1.5s for 1h", "p99.9", 1500.0, 3600),
        ("requests < 0.5/s for 30s", "requests", 0.5, 30),
        ("no requests for 1h", "silence", 0.0, 3600),
        ("cpu > 90% for 5m", "cpu", 0.9, 300),
        ("memory > 80%", "memory", 0.8, 300),
        ("in_flight > 75% for 1m", "in_flight", 0.75, 60),
        ("waiting > 20 for 30s", "waiting", 20.0, 30),
        ("refused > 0.5%", "refused", 0.005, 300),
        ("requests anomalous", "anomaly", 0.0, 3600),
        ("p99.9 anomalous", "anomaly", 0.0, 3600),
    ],
)
def test_a_condition_is_read_as_it_is_said(words: str, metric: str, bound: float, seconds: float) -> None:
    read = alerts.parse(words)
    assert (read.metric, read.bound, read.seconds) == (metric, pytest.approx(bound), seconds)


@pytest.mark.parametrize(
    "words",
    [
        "",
        "errors > 5%",
        "p99 > 5%",
        "error_rate > 500%",
        "error_rate > 5ms",
        "p99 > 200ms for 9d",
        "no requests for 0s",
        "p98 > 1ms",
        "cpu > 2",
        "cpu > 100%",
        "waiting > 20%",
        "waiting > 2ms",
        "in_flight > 5",
        "refused > 3ms",
    ],
)
def test_what_says_no_condition_is_refused_before_anything_is_kept(busy: None, words: str) -> None:
    with pytest.raises(errors.BadOption):
        alerts.add("delays", words)
    assert alerts.of() == []


def test_a_rule_fires_once_with_the_numbers_and_resolves_once(busy: None) -> None:
    rule = alerts.add("delays", "error_rate > 0.1% for 10m")

    assert [changed.id for changed in alerts.judge()] == [rule.id]
    assert alerts.judge() == []
    fired = told("AlertFired")
    assert len(fired) == 1 and fired[0]["condition"] == "error_rate > 0.1% for 10m" and "answers failed" in fired[0]["seen"]

    later = store.now() + timedelta(hours=2)
    assert [changed.firing for changed in alerts.judge(later)] == [False]
    assert len(told("AlertResolved")) == 1 and alerts.judge(later) == []


def test_too_few_answers_wake_nobody() -> None:
    condition = alerts.parse("error_rate > 5%")
    assert not alerts.verdict_on(condition, Counted(requests=3, errors=3, latencies={700: 3})).holds
    assert alerts.verdict_on(condition, Counted(requests=40, errors=3, latencies={700: 40})).holds


def test_one_answer_of_a_thousand_is_beyond_the_p99_9() -> None:
    condition = alerts.parse("p99.9 > 1s")

    assert not alerts.verdict_on(condition, Counted(requests=1000, errors=0, latencies={300: 999, 1500: 1})).holds
    assert alerts.verdict_on(condition, Counted(requests=1000, errors=0, latencies={300: 998, 1500: 2})).holds


def test_silence_is_told_only_once_the_rule_is_as_old_as_it(busy: None) -> None:
    alerts.add("delays", "no requests for 1h")

    assert alerts.judge(store.now() + timedelta(minutes=59)) == []
    assert [rule.value for rule in alerts.judge(store.now() + timedelta(hours=3))] == ["0 requests in 1 h"]


def test_too_few_requests_are_told_only_once_the_rule_is_as_old_as_its_time(busy: None) -> None:
    few = alerts.add("delays", "requests < 1000/s for 1h")

    assert alerts.judge(store.now() + timedelta(minutes=59)) == []
    assert [rule.id for rule in alerts.judge(store.now() + timedelta(minutes=61))] == [few.id]


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


CARRIED = Load(
    deployment="1", target="local", hardware="cpu", in_flight=400, waiting=30, most=512, cpus=1.9, cpus_limit=2.0, memory_mb=700.0, memory_limit_mb=1000.0
)  # fmt: skip
AT_EASE = msgspec.structs.replace(CARRIED, deployment="2", in_flight=1, waiting=0, cpus=0.1, memory_mb=100.0)
START = datetime(2026, 3, 2, 12, tzinfo=UTC)


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Looks:
    """Those of an agent that takes no more; each test puts in what was seen."""
    taken = Looks()
    monkeypatch.setattr(taken, "add", lambda endpoint, at, *, keep: None)
    return taken


def watch(looks: Looks, minutes: float, loads: Sequence[Load], *, since: datetime = START) -> datetime:
    """What an agent sees that looks every ten seconds; returns when it ends."""
    for n in range(int(minutes * 6) + 1):
        looks.note("delays", since + timedelta(seconds=10 * n), loads, keep=timedelta(minutes=10))
    return since + timedelta(minutes=minutes)


@pytest.mark.parametrize(
    ("words", "seen"),
    [
        ("cpu > 90% for 5m", r"1 (local, cpu): 95% of 2 cores in use"),
        ("memory > 60%", r"1 (local, cpu): 70% of 1,000 MB in use"),
        ("in_flight > 75%", r"1 (local, cpu): 78% of the 512 requests it takes in flight"),
        ("waiting > 20", r"1 (local, cpu): 30 requests waiting"),
        ("cpu < 10%", r"2 (local, cpu): 5% of 2 cores in use"),
    ],
)
def test_one_full_deployment_fires_and_is_named_with_its_place(busy: None, looks: Looks, words: str, seen: str) -> None:
    rule = alerts.add("delays", words)

    assert [changed.id for changed in alerts.judge(watch(looks, 5, [AT_EASE, CARRIED]), looks=looks)] == [rule.id]
    assert told("AlertFired")[0]["seen"] == seen


def test_deployments_at_ease_wake_nobody_and_an_alert_is_over_when_they_are(busy: None, looks: Looks) -> None:
    alerts.add("delays", "cpu > 90% for 1m")
    assert alerts.judge(watch(looks, 2, [AT_EASE]), looks=looks) == []

    fired = watch(looks, 2, [CARRIED], since=START + timedelta(minutes=5))
    assert [rule.firing for rule in alerts.judge(fired, looks=looks)] == [True]
    assert [rule.firing for rule in alerts.judge(watch(looks, 2, [AT_EASE], since=fired), looks=looks)] == [False]


def test_saturation_is_not_judged_before_it_was_watched_for_so_long(busy: None, looks: Looks) -> None:
    alerts.add("delays", "cpu > 90% for 5m")
    just_started = msgspec.structs.replace(CARRIED, deployment="3")

    assert alerts.judge(watch(looks, 4, [CARRIED]), looks=looks) == []
    later = watch(looks, 6, [AT_EASE], since=START + timedelta(hours=1))
    assert alerts.judge(watch(looks, 2, [AT_EASE, just_started], since=later), looks=looks) == []
    assert alerts.judge(START + timedelta(minutes=6), looks=Looks()) == []  # another agent, that has only looked once


def test_an_alert_is_over_when_no_deployment_tells_it_any_more(busy: None, looks: Looks) -> None:
    alerts.add("delays", "memory > 60% for 1m")
    fired = watch(looks, 2, [CARRIED])
    alerts.judge(fired, looks=looks)

    untold = msgspec.structs.replace(CARRIED, memory_mb=None)
    assert alerts.judge(fired + timedelta(seconds=10), looks=looks) == []
    assert [(rule.firing, rule.value) for rule in alerts.judge(watch(looks, 3, [untold], since=fired), looks=looks)] == [
        (False, "no deployment tells its memory")
    ]


def test_a_deployment_that_refuses_fires_though_the_others_refuse_nothing(workspace: Workspace, busy: None) -> None:
    rule = alerts.add("delays", "refused > 5% for 5m")
    at = datetime.now(UTC) + timedelta(days=1)
    for name, refused in (("8", 0), ("9", 10)):
        folder = workspace.telemetry / "endpoint=delays" / f"deployment={name}"
        folder.mkdir(parents=True)
        lines = [
            {"time": (at - timedelta(minutes=1)).isoformat(), "id": f"{name}-{n}", "status": 429 if n < refused else 200, "latency_ms": 1.0, "rows": 1,
             "inputs": None, "outputs": None, "error": None}
            for n in range(100)
        ]  # fmt: skip
        (folder / "closed-1.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))

    assert [changed.id for changed in alerts.judge(at)] == [rule.id]
    assert told("AlertFired")[0]["seen"] == "9 refused 10 of 100 requests (10.00%)"


def test_what_a_real_deployment_carries_is_said_at_once_and_judged_by_the_agents_looks(churn) -> None:
    rule = alerts.add("churn", "memory > 0.01% for 10s")
    assert re.fullmatch(r"now [12] \(local, cpu\): \d+% of [\d,]+ MB in use; judged once it was watched for 10 s", rule.value)
    assert "cores in use; judged" in alerts.add("churn", "cpu > 99% for 5m").value

    wait_for(lambda: alerts.of("churn")[0].firing, seconds=120, what="the agent's looks")
    assert "MB in use" in alerts.of("churn")[0].value and "judged" not in alerts.of("churn")[0].value


def hours_of_requests(workspace: Workspace, hours: dict[datetime, tuple[int, int, float]], *, file: int = 1) -> None:
    """Requests, failures and latency of each hour, as servers leave them."""
    folder = workspace.telemetry / "endpoint=delays" / "deployment=9"
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        {"time": (hour + timedelta(minutes=n * 59 / count)).isoformat(), "id": f"{hour:%d%H}-{n}", "status": 500 if n < failed else 200, "latency_ms": latency,
         "rows": 1, "inputs": None, "outputs": None, "error": None}
        for hour, (count, failed, latency) in hours.items() for n in range(count)
    ]  # fmt: skip
    (folder / f"closed-{file}.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))


HOUR = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(days=2)
AFTER = HOUR + timedelta(hours=1, minutes=3)


@pytest.mark.parametrize(
    ("words", "now", "seen"),
    [
        ("requests anomalous", (400, 1, 3.0), "400 requests in the hour"),
        ("requests anomalous", (2, 0, 3.0), "2 requests in the hour"),
        ("error_rate anomalous", (100, 30, 3.0), r"30 of 100 answers in the hour failed \(30.00%\), up to .* expected of the same hour of 10 earlier days"),
        ("p95 anomalous", (100, 1, 30.0), "p95 was 30 ms in the hour, up to 3"),
    ],
)
def test_an_hour_unlike_the_same_hour_of_earlier_days_fires_and_one_like_them_does_not(busy: None, workspace, words, now, seen) -> None:
    days = {HOUR - timedelta(days=back): (100 + back % 3, back % 3, 3.0 + back % 4 / 10) for back in range(1, 11)}
    hours_of_requests(workspace, days | {HOUR - timedelta(hours=1): (7, 7, 900.0), HOUR: now})
    rule = alerts.add("delays", words)

    alerts.judge(AFTER - timedelta(days=1))
    assert not alerts.of("delays")[0].firing and "expected of the same hour of 9 earlier days" in alerts.of("delays")[0].value
    assert [changed.id for changed in alerts.judge(AFTER)] == [rule.id]
    assert re.search(seen, told("AlertFired")[0]["seen"])
    assert alerts.judge(AFTER) == []


def test_an_hour_is_counted_again_after_some_minutes_for_what_came_late(busy: None, workspace) -> None:
    days = {HOUR - timedelta(days=back): (100, 0, 3.0) for back in range(1, 11)}
    hours_of_requests(workspace, days | {HOUR: (3, 0, 3.0)})
    rule, looks = alerts.add("delays", "requests anomalous"), Looks()

    assert [changed.firing for changed in alerts.judge(AFTER, looks=looks)] == [True]
    hours_of_requests(workspace, {HOUR: (97, 0, 3.0)}, file=2)
    assert [alerts.judge(AFTER + timedelta(seconds=seconds), looks=looks) for seconds in (10, 290)] == [[], []]
    assert [changed.id for changed in alerts.judge(AFTER + timedelta(minutes=5), looks=looks)] == [rule.id]
    assert not alerts.of("delays")[0].firing


def test_weeks_are_the_past_where_enough_of_them_are_kept(busy: None, workspace) -> None:
    """Quiet weekends would hide a working day that nobody asked in."""
    hours = {HOUR - timedelta(days=back): (100 if back % 7 == 0 else 3, 0, 3.0) for back in range(60)}
    hours_of_requests(workspace, hours | {HOUR: (3, 0, 3.0)})
    alerts.add("delays", "requests anomalous")

    assert [rule.value for rule in alerts.judge(AFTER)] == ["3 requests in the hour, 53 to 162 expected of the same hour of 8 earlier weeks"]


def test_a_past_too_short_is_said_at_once_and_wakes_nobody(busy: None) -> None:
    for words in ("requests anomalous", "error_rate anomalous"):
        rule = alerts.add("delays", words)
        assert "7 are needed" in rule.value and "nothing is said yet" in cards.as_text(rule)
    assert alerts.judge() == [] and not told("AlertFired")


def test_the_alerts_of_a_deleted_endpoint_go_with_it_and_the_others_are_judged_on(busy: None) -> None:
    with store.writing() as tx:
        deployments.ensure_endpoint(tx, "gone", author="ada")
    alerts.add("gone", "cpu > 90% for 1m")
    rule = alerts.add("delays", "requests > 0.1/s")

    rollout.delete_endpoint("gone")

    assert [changed.id for changed in alerts.judge()] == [rule.id]
    assert [one.id for one in alerts.of()] == [rule.id]


def test_rules_are_judged_though_somebody_else_has_the_port_of_the_metrics(busy: None, monkeypatch) -> None:
    monkeypatch.setattr(agent, "JUDGE_SECONDS", 0.1)
    alerts.add("delays", "error_rate > 0.1% for 1h")
    ended = threading.Event()
    with ThreadPoolExecutor(1) as pool, socket.create_server(("127.0.0.1", 0)) as taken:
        with store.writing() as tx:
            state.put(tx, "metrics_port", taken.getsockname()[1])
        watching = pool.submit(agent._keep_watching, ended)
        try:
            wait_for(lambda: alerts.of("delays")[0].firing, what="the alert")
        finally:
            ended.set()
        watching.result()


def test_the_agent_judges_by_itself(churn) -> None:
    for _ in range(10):
        rollout.invoke("churn", X.head(1))
    alerts.add("churn", "requests > 0.001/s")

    wait_for(lambda: alerts.of("churn")[0].firing, seconds=90, what="the agent's look")
    assert agent.running()
    assert "fires" in cards.as_text(alerts.of("churn")[0])
