"""What requests are compared with: training data, past requests, the same season; and what is said where there is nothing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import joblib
import msgspec
import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression

from mlops_nb import commands, monitoring
from mlops_nb.cli import Terminal
from mlops_nb.errors import BadOption, NothingToCompare
from mlops_nb.monitoring import DriftReport, references

from .conftest import Watched, flights

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)  # a Tuesday


def checked(**options) -> DriftReport:
    return msgspec.convert(monitoring.check_drift("delays", until=NOW, **options).report, DriftReport)


def drifted(report: DriftReport) -> list[str]:
    return [found.name for found in report.features if found.is_drift]


@pytest.fixture
def busy(delays: Watched) -> Watched:
    """Asked late flights all along: against the training data they drift, against each other they do not."""
    for days in range(14):
        rows = flights(400, seed=days + 1)
        delays.ask(rows.assign(dep_delay=rows.dep_delay + 40), at=NOW - timedelta(days=days, hours=2))
    return delays


def test_what_drifts_from_the_training_data_need_not_drift_from_the_week_before(busy):
    assert drifted(checked(since=NOW - timedelta(days=2))) == ["dep_delay"]
    for reference in ("previous", "last-week", "2026-11-12..2026-11-20"):
        report = checked(since=NOW - timedelta(days=2), reference=reference)
        assert drifted(report) == [] and report.reference.kind == "past requests"


def test_a_change_since_the_past_window_is_found_and_the_window_named(busy):
    busy.ask(flights(800, seed=99, dep_delay=0.0), at=NOW - timedelta(minutes=5))

    report = checked(reference="2026-11-12..2026-11-20", since=NOW - timedelta(hours=1))

    assert drifted(report) == ["dep_delay"]
    assert report.reference.dataset == "requests 2026-11-12 00:00 – 2026-11-21 00:00" and report.reference.rows == 3600


def test_the_columns_of_a_model_without_signature_are_what_their_values_are(delays: Watched):
    delays.deploy("2", version=2, dataset=None, signed=False)
    rng = np.random.default_rng(0)
    for number, (mean, at) in enumerate(((0, NOW - timedelta(days=3)), (5, NOW - timedelta(hours=1)))):
        rows = pd.DataFrame({"x": rng.normal(mean, 1, 2000), "kind": rng.choice(["a", "b"], 2000), "open": rng.random(2000) < 0.5})
        delays.ask(rows, deployment="2", at=at, ids=f"part{number}-")

    report = checked(deployment="2", reference="2026-11-20..2026-11-22", since=NOW - timedelta(days=1))

    assert drifted(report) == ["x"] and {found.name for found in report.features} == {"x", "kind", "open"}


def test_a_past_window_without_a_since_is_followed_by_what_is_judged(busy):
    report = checked(reference="2026-11-12..2026-11-20")

    assert report.window.since and report.window.since >= datetime(2026, 11, 21, tzinfo=UTC)


def test_the_same_weekday_of_past_requests_is_compared_where_the_data_set_has_no_time(busy):
    report = checked(reference="same-weekday")

    assert report.reference.dataset == "requests before 2026-11-24 00:00 in Tuesdays" and report.reference.rows == 400
    assert drifted(report) == []
    assert checked(reference="same-hour", since=NOW - timedelta(hours=3)).reference.rows == 13 * 400


def test_the_same_month_of_the_data_set_is_a_reference_of_its_own(workspace):
    when = pd.date_range("2025-01-01", periods=8760, freq="h", tz="UTC")
    warm = np.where(when.month == 11, 5.0, 20.0)
    training = flights(8760, seed=0).assign(temperature=warm + np.random.default_rng(1).normal(size=8760), when=when)
    watched = Watched(training)
    watched.deploy(inputs=training.drop(columns="when"))
    watched.ask(flights(600, seed=1).assign(temperature=5 + np.random.default_rng(2).normal(size=600)), at=NOW - timedelta(hours=1))

    assert drifted(checked()) == ["temperature"]
    seasonal = checked(reference="same-month")
    assert drifted(seasonal) == [] and seasonal.reference.dataset == "flights:1 in November" and seasonal.reference.rows == 720
    assert checked(reference="same-hour", since=NOW - timedelta(hours=2)).reference.dataset == "flights:1 in 10:00, 11:00"


@pytest.mark.parametrize(
    ("until", "season", "window", "words"),
    [
        (datetime(2026, 12, 3, 12, tzinfo=UTC), "same-month", "1d", "December"),
        (datetime(2026, 12, 1, 6, tzinfo=UTC), "same-month", "1d", "November, December"),
        (datetime(2026, 11, 24, 3, tzinfo=UTC), "same-weekday", "1h", "Tuesdays"),
        (datetime(2026, 11, 24, 6, tzinfo=UTC), "same-weekday", "1d", "Mondays, Tuesdays"),
        (datetime(2026, 11, 24, 6, 5, tzinfo=UTC), "same-hour", "1h", "05:00, 06:00"),
    ],
)
def test_windows_of_another_season_than_the_newest_are_not_put_together_with_it(workspace, until, season, window, words):
    training = flights(8760, seed=0).assign(when=pd.date_range("2025-01-01", periods=8760, freq="h", tz="UTC"))
    watched = Watched(training)
    watched.deploy(inputs=training.drop(columns="when"))
    watched.ask(flights(100, seed=1), at=until - timedelta(minutes=1))

    check = monitoring.check_drift("delays", until=until, reference=season, window=window)

    assert check.dataset == f"flights:1 in {words}"


def test_a_season_that_the_data_set_lacks_is_told_with_those_it_has(workspace):
    training = flights(1000, seed=0).assign(when=pd.date_range("2025-01-10", periods=1000, freq="h", tz="UTC"))
    watched = Watched(training)
    watched.deploy(inputs=training.drop(columns="when"))
    watched.ask(flights(100, seed=1), at=NOW - timedelta(hours=1))

    with pytest.raises(NothingToCompare, match="flights:1 has no row in November; it has January, February"):
        checked(reference="same-month")


def test_two_time_columns_are_not_guessed_from(workspace):
    when = pd.date_range("2025-11-10", periods=1000, freq="h", tz="UTC")
    training = flights(1000, seed=0).assign(when=when, landed=when)
    watched = Watched(training)
    watched.deploy(inputs=training.drop(columns=["when", "landed"]))
    watched.ask(flights(100, seed=1), at=NOW - timedelta(hours=1))

    with pytest.raises(BadOption, match="Which of when, landed") as told:
        checked(reference="same-month")
    assert told.value.hint == "--time when"
    assert checked(reference="same-month", time="landed").reference.dataset == "flights:1 in November"


def test_a_past_that_was_not_kept_is_told_with_what_is_kept(busy):
    with pytest.raises(NothingToCompare, match=r"No request of delays 2026-01-01 00:00 – 2026-02-01 00:00 is kept; kept are those from 2026-11-11"):
        checked(reference="2026-01-01..2026-01-31")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"reference": "yesterday"}, "names no reference"),
        ({"reference": "same-year"}, "names no reference"),
        ({"reference": "2026-10-31..2026-10-01"}, "ends before it begins"),
        ({"reference": "monday..friday"}, "no stretch of time"),
        ({"reference": "previous"}, "how long a window is"),
        ({"reference": "last-week", "since": NOW - timedelta(days=9)}, "a week at most"),
        ({"reference": "2026-11-12..2026-11-20", "since": NOW - timedelta(days=9)}, "reaches into what is judged"),
        ({"reference": "same-weekday", "since": NOW - timedelta(days=9)}, "touches every weekday"),
        ({"reference": "last-week", "engine": "scipy"}, "compares with a data set's rows"),
    ],
)
def test_words_that_name_no_reference_are_refused(busy, options, words):
    with pytest.raises(BadOption, match=words):
        checked(**options)


def test_the_counts_of_a_frame_are_a_reference_though_no_row_is_kept(delays):
    delays.deploy("2", version=2, dataset=None)
    version = monitoring.drift._asked("delays", "2").version
    assert references.keep_frame(version, flights(3000, seed=5))
    delays.ask(flights(800, seed=6, dep_delay=90.0), deployment="2", at=NOW - timedelta(hours=1))

    report = checked(deployment="2")

    assert drifted(report) == ["dep_delay"]
    assert report.reference.dataset == "the data late:2 was registered with" and report.reference.rows == 3000


def test_a_model_registered_with_a_file_has_a_reference_and_says_so(workspace, tmp_path):
    rows = pd.DataFrame({"age": np.arange(200.0), "income": np.arange(200.0) % 7})
    rows.to_csv(tmp_path / "rows.csv", index=False)
    joblib.dump(LogisticRegression().fit(rows, rows.age > 90), tmp_path / "model.joblib")
    line = ["register", str(tmp_path / "model.joblib"), "--name", "churn", "--trust"]

    alone = commands.run(line, Terminal(quiet=True))
    with_rows = commands.run([*line, "--data", str(tmp_path / "rows.csv")], Terminal(quiet=True))

    assert "drift can be told by past requests only" in alone.note
    assert "Drift is told by the counts of its training data" in with_rows.note
    assert references.training(with_rows.version, None, "churn").rows == 200
    with pytest.raises(NothingToCompare, match="--reference last-week"):
        references.training(alone.version, None, "churn")
