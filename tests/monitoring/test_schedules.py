"""Checks by the clock: made by the agent, made up for, told of, silenced."""

from __future__ import annotations

import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import msgspec
import pytest
from living import wait_for

from mlops_nb import alerts, cards, commands, monitoring, overview, store, timetable
from mlops_nb.cli import Terminal
from mlops_nb.errors import BadOption, EndpointNotFound, FeatureNotFound, NothingToCompare, ScheduleNotFound, UsageError
from mlops_nb.monitoring import DriftReport, detectors, judging, schedules, silences
from mlops_nb.store import checks, events
from mlops_nb.store import schedules as table
from mlops_nb.store import silences as kept

from .conftest import Watched, flights


def due(id: str) -> None:
    """Let its time have come."""
    with store.writing() as tx:
        table.ran(tx, id, outcome="", next_time=store.now() - timedelta(days=3))


def newest() -> checks.DriftCheck:
    with store.reading() as tx:
        return checks.drift_checks(tx, "delays", most=1)[0]


def count() -> int:
    with store.reading() as tx:
        return len(checks.drift_checks(tx, "delays"))


def late(watched: Watched, *, seed: int = 1, **changes: object) -> None:
    watched.ask(flights(1000, seed=seed, **({"dep_delay": 90.0} | changes)), at=datetime.now(UTC) - timedelta(minutes=5))


# ── when ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("words", "seconds"),
    [("1h", 3600), ("90m", 5400), ("0 6 * * *", 86_400), ("*/15 * * * *", 900), ("0 6 * * 1", 30 * 86_400 / 5), ("0 6 1 * *", 30 * 86_400 / 2)],
)
def test_how_often_a_schedule_looks_is_counted_in_its_busiest_month(words: str, seconds: float) -> None:
    assert timetable.every_seconds(words) == pytest.approx(seconds, rel=0.04)


def test_a_cron_line_is_read_in_utc() -> None:
    assert timetable.next_time("30 6 * * 1-5", datetime(2026, 11, 27, 7, tzinfo=UTC)) == datetime(2026, 11, 30, 6, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("after", "due"),
    [
        ("2026-01-10T12:00", "2026-01-11T05:00"),
        ("2026-07-10T12:00", "2026-07-11T04:00"),
        ("2026-03-28T12:00", "2026-03-29T04:00"),
        ("2026-10-24T12:00", "2026-10-25T05:00"),
    ],
)
def test_a_cron_line_is_read_in_the_time_zone_behind_it_summer_and_winter(after: str, due: str) -> None:
    found = timetable.next_time("0 6 * * * Europe/Berlin", datetime.fromisoformat(after).replace(tzinfo=UTC))
    assert found == datetime.fromisoformat(due).replace(tzinfo=UTC)


def test_a_time_that_the_clocks_skip_or_show_twice_comes_once_that_day() -> None:
    for day, hour in ((datetime(2026, 3, 28, 12, tzinfo=UTC), "30 2"), (datetime(2026, 10, 24, 12, tzinfo=UTC), "30 2")):
        first = timetable.next_time(f"{hour} * * * Europe/Berlin", day)
        second = timetable.next_time(f"{hour} * * * Europe/Berlin", first)
        assert first - day < timedelta(hours=14) and timedelta(hours=22) < second - first < timedelta(hours=26)


def test_a_schedules_time_zone_is_said_and_kept(delays: Watched) -> None:
    late(delays)
    schedule = commands.run(["drift", "delays", "--schedule", "0 6 * * *", "--tz", "Europe/Berlin"], Terminal(quiet=True))

    assert schedule.words == "0 6 * * * Europe/Berlin" and "0 6 * * * Europe/Berlin" in cards.as_text(schedule)
    assert schedule.next_time.astimezone(ZoneInfo("Europe/Berlin")).hour == 6
    for words in (["--schedule", "1h", "--tz", "Europe/Berlin"], ["--tz", "Europe/Berlin"]):
        with pytest.raises(UsageError, match="names an hour"):
            commands.run(["drift", "delays", *words], Terminal(quiet=True))
    with pytest.raises(BadOption, match="No time zone 'Europe/Berlim' is known here"):
        commands.run(["drift", "delays", "--schedule", "0 6 * * *", "--tz", "Europe/Berlim"], Terminal(quiet=True))
    assert len(schedules.of()) == 1


@pytest.mark.parametrize(
    "words", ["", "often", "61 * * * *", "* * * *", "* * * * * *", "0 6 * * * Nowhere/Land", "0 6 * * * ../../etc/passwd", "0 0 30 2 *", "10s", "0m", "@daily"]
)
def test_what_says_no_time_is_refused_and_nothing_is_kept(delays: Watched, words: str) -> None:
    with pytest.raises(BadOption):
        schedules.add("delays", words)
    assert schedules.of() == []


def test_a_schedule_shares_the_budget_out_among_its_looks(delays: Watched) -> None:
    late(delays)
    hourly, daily = schedules.add("delays", "1h"), schedules.add("delays", "0 6 * * *")
    for schedule in (hourly, daily):
        due(schedule.id)
        schedules.run(schedule.id)

    with store.reading() as tx:
        alphas = sorted(check.report["alpha"] for check in checks.drift_checks(tx, "delays"))
    assert alphas == [pytest.approx(1 / 720), pytest.approx(1 / 30)]
    assert judging.Budget(every_seconds=6 * 3600).promise(3, 1) == "keeps at most one false alarm in 30 days of 120 checks of 3 features"


def test_a_schedule_that_cannot_be_kept_is_refused_at_once(delays: Watched) -> None:
    delays.deploy("2", version=2, dataset=None)
    with pytest.raises(NothingToCompare, match="without its training data"):
        schedules.add("delays", "1h", deployment="2")
    with pytest.raises(BadOption, match="no budget"):
        schedules.add("delays", "1h", budget="often")
    with pytest.raises(EndpointNotFound):
        schedules.add("delay", "1h")
    with pytest.raises(NothingToCompare, match="none at all is kept"):
        schedules.add("delays", "1h", reference="2026-10-01..2026-10-02")
    with pytest.raises(BadOption, match="no time column 'when'"):
        schedules.add("delays", "1h", deployment="1", reference="same-month", time="when")
    with pytest.raises(BadOption, match="touches every weekday"):
        schedules.add("delays", "7d", deployment="1", reference="same-weekday")
    with pytest.raises(UsageError, match="A schedule says itself how often"):
        commands.run(["drift", "delays", "--schedule", "1h", "--every", "1h"], Terminal(quiet=True))
    assert schedules.of() == [] and alerts.of() == []


# ── the agent ────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def clock(workspace):
    """The agent's clock, looking twenty times a second."""
    ended = threading.Event()
    thread = threading.Thread(target=timetable.keep, args=(ended,), kwargs={"every_seconds": 0.05})
    thread.start()
    yield thread
    ended.set()
    thread.join(20)


def test_checks_missed_while_no_agent_ran_are_made_once_and_an_alert_tells(delays: Watched, clock) -> None:
    late(delays)
    schedule = schedules.add("delays", "1h")
    due(schedule.id)

    wait_for(lambda: schedules.of()[0].outcome, what="the check")

    assert schedules.of()[0].outcome == "drift in dep_delay"
    assert schedules.of()[0].next_time > store.now() + timedelta(minutes=55)
    assert count() == 1 and newest().report["promise"].startswith("keeps at most one false alarm in 30 days of hourly checks")
    assert [rule.condition for rule in alerts.judge()] == ["drift"]
    with store.reading() as tx:
        assert events.latest(tx, what="AlertFired")[0].data["seen"] == "drift in dep_delay"
    assert "drift in dep_delay" in cards.as_text(schedules.of()[0])


def test_a_check_that_cannot_be_made_today_says_why_and_is_due_again(delays: Watched) -> None:
    schedule = schedules.add("delays", "1h")
    due(schedule.id)

    schedules.run(schedule.id)

    assert schedules.of()[0].outcome.startswith("not made: No answered request of delays is kept")
    assert schedules.of()[0].next_time > store.now()


def test_a_check_that_is_not_due_or_was_deleted_is_not_made(delays: Watched) -> None:
    late(delays)
    schedule = schedules.add("delays", "1h")
    schedules.run(schedule.id)
    schedules.delete(schedule.id)
    schedules.run(schedule.id)

    assert count() == 0 and schedules.of() == []
    with pytest.raises(ScheduleNotFound, match="No schedule 'delays-1'"):
        schedules.delete(schedule.id)


def test_two_processes_at_once_make_one_check(delays: Watched) -> None:
    late(delays)
    schedule = schedules.add("delays", "1h")
    due(schedule.id)

    both = [subprocess.Popen([sys.executable, "-m", "mlops_nb.monitoring.schedules", schedule.id]) for _ in range(2)]

    assert [process.wait(60) for process in both] == [0, 0]
    assert count() == 1


def test_a_process_that_dies_is_noted_and_does_not_begin_again_at_once(delays: Watched, clock, monkeypatch) -> None:
    monkeypatch.setattr(timetable.sys, "executable", "/bin/false")
    schedule = schedules.add("delays", "1h")
    due(schedule.id)

    wait_for(lambda: schedules.of()[0].outcome, what="the note")

    assert schedules.of()[0].outcome == "the check's process ended with 1"
    assert schedules.of()[0].next_time > store.now()


# ── silences ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def alarms() -> list[str]:
    return [alert["subject"] for alert in overview.summary()["alerts"] if alert["kind"] == "drift"]


def test_a_snoozed_feature_never_raises_and_is_still_reported(delays: Watched) -> None:
    late(delays)
    monitoring.check_drift("delays")
    assert alarms() == ["delays"]

    said = commands.run(["snooze", "delays", "--feature", "dep_delay", "--for", "7d", "--why", "known sensor swap"], Terminal(quiet=True))
    check = monitoring.check_drift("delays")

    assert alarms() == []
    report = msgspec.convert(check.report, DriftReport)
    assert check.is_drift and report.features[0].is_drift and report.features[0].silenced == said.words
    assert said.words.startswith("snoozed by ") and said.words.endswith(": known sensor swap")
    shown = cards.as_text(check)
    assert "drift, silenced" in shown and "known sensor swap" in shown
    assert report.features[0].summary in shown, "what is seen stands beside who silenced it"
    assert "○ drift in 1 of" in shown and "features, silenced" in shown
    with store.reading() as tx:
        told = events.latest(tx, what="DriftChecked")[0].data
    assert told["features"] == told["silenced"] == ["dep_delay"]


def test_another_feature_still_raises_while_one_is_snoozed(delays: Watched) -> None:
    alerts.add("delays", "drift")
    silences.snooze("delays", seconds=3600, feature="dep_delay")
    late(delays)
    monitoring.check_drift("delays")
    assert alerts.judge() == []

    late(delays, seed=2, distance=9.0)
    monitoring.check_drift("delays")
    assert [rule.value for rule in alerts.judge()] == ["drift in distance; silenced: dep_delay"]
    assert "dep_delay snoozed by" in alerts.of("delays")[0].value


def test_a_snooze_ends_with_its_time_or_before(delays: Watched) -> None:
    silences.snooze("delays", seconds=3600)
    with store.reading() as tx:
        assert kept.standing(tx, "delays") and not kept.standing(tx, "delays", at=store.now() + timedelta(hours=2))

    silences.end("delays", why="swap is done")

    assert silences.of("delays") == []
    with store.reading() as tx:
        assert [one.kind for one in kept.every(tx, "delays")] == ["over", "snoozed"]


def test_a_feature_is_told_again_only_when_all_of_it_is_and_then_with_all_that_was_silent(delays: Watched) -> None:
    late(delays)
    monitoring.check_drift("delays")
    silences.snooze("delays", seconds=3600, feature="dep_delay")
    silences.snooze("delays", seconds=3600, why="sensor swap")

    with pytest.raises(BadOption, match="dep_delay is silent with all drift of delays, snoozed by") as told:
        silences.end("delays", feature="dep_delay")
    commands.run(told.value.hint.removeprefix("%mlops ").split(), Terminal(quiet=True))

    assert silences.of("delays") == [] and alarms() == ["delays"]


def test_what_is_acknowledged_is_silent_until_a_check_finds_it_no_more(delays: Watched) -> None:
    late(delays)
    monitoring.check_drift("delays")
    silences.acknowledge("delays", feature="dep_delay", why="retraining on Monday")
    monitoring.check_drift("delays")
    assert alarms() == [] and len(silences.of("delays")) == 1

    delays.ask(flights(3, seed=3), at=datetime.now(UTC) - timedelta(minutes=1))
    unsure = monitoring.check_drift("delays", since=datetime.now(UTC) - timedelta(minutes=2))
    assert unsure.verdict == "too few rows to tell" and len(silences.of("delays")) == 1

    delays.ask(flights(1000, seed=3), at=datetime.now(UTC) - timedelta(minutes=1))
    lately = datetime.now(UTC) - timedelta(minutes=2)
    others = [detectors.detect("delays", "psi", since=lately), monitoring.check_drift("delays", since=lately, effect=0.4)]
    assert {check.verdict for check in others} == {"no drift"} and len(silences.of("delays")) == 1, "they may be blind to what was acknowledged"
    monitoring.check_drift("delays", since=lately)
    assert silences.of("delays") == []

    monitoring.check_drift("delays")
    assert alarms() == ["delays"]


def test_what_is_not_there_cannot_be_silenced(delays: Watched) -> None:
    with pytest.raises(EndpointNotFound):
        silences.snooze("delay", seconds=60)
    with pytest.raises(NothingToCompare, match="No drift check of delays"):
        silences.acknowledge("delays")
    late(delays)
    monitoring.check_drift("delays")
    with pytest.raises(FeatureNotFound, match="dep_dely"):
        silences.snooze("delays", seconds=60, feature="dep_dely")
