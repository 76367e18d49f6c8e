"""What a drift check says of requests that changed, and of those that did not."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from datetime import UTC, datetime, timedelta
from time import time_ns

import msgspec
import numpy as np
import pandas as pd
import pytest

from mlops_nb import cards, datasets, labels, monitoring, settings, store, telemetry
from mlops_nb.errors import BadOption, DatasetNotFound, DeploymentNotFound, DriftCheckFailed, EndpointNotFound, NothingToCompare
from mlops_nb.monitoring import DriftReport, FeatureDrift, causes, pages
from mlops_nb.monitoring import drift as drift_module
from mlops_nb.splits import COPY_MARK
from mlops_nb.store import checks, events
from mlops_nb.telemetry import labels as kept_labels

from .conftest import Watched, flights


def checked(engine: str = "histograms", **options) -> DriftReport:
    return msgspec.convert(monitoring.check_drift("delays", engine=engine, **options).report, DriftReport)


def feature(report: DriftReport, name: str) -> FeatureDrift:
    return next(found for found in report.features if found.name == name)


def drifted(report: DriftReport) -> list[str]:
    return [found.name for found in report.features if found.is_drift]


def training() -> pd.DataFrame:
    """5,000 rows with a column for each thing that can happen to one."""
    random = np.random.default_rng(0)
    number, text = random.normal(12, 8, 5000), random.choice(["AA", "B6", "UA", "WN"], 5000, p=[0.4, 0.3, 0.2, 0.1])
    frame = pd.DataFrame(dict.fromkeys(("moved", "wider", "gaps", "vanished", "steady", "gaps_as_before"), number))
    frame = frame.assign(**dict.fromkeys(("shares", "new", "rare", "text_gaps"), text), truth=random.random(5000) < 0.2, month=random.integers(1, 4, 5000))
    frame = frame.assign(code=random.choice(["001", "002", "010"], 5000), constant=1.0, constant_text="a", other_constant=1.0)
    frame = frame.assign(id=[f"order-{n}" for n in range(5000)], when=pd.date_range("2026-01-01", periods=5000, freq="h"))
    frame.loc[np.arange(5000) % 10 == 0, "gaps_as_before"] = np.nan
    return frame


def requests() -> pd.DataFrame:
    """2,000 rows in which those things have happened."""
    random = np.random.default_rng(1)
    frame, rows = training().sample(2000, random_state=1, ignore_index=True), np.arange(2000)
    frame = frame.assign(moved=frame.moved + 6, wider=random.normal(12, 20, 2000), vanished=np.nan, truth=random.random(2000) < 0.6, other_constant=2.0)
    frame["shares"] = random.choice(["AA", "B6", "UA", "WN"], 2000, p=[0.1, 0.3, 0.2, 0.4])
    frame.loc[rows % 5 == 0, "gaps"] = np.nan
    frame.loc[rows % 5 == 0, "text_gaps"] = None
    frame.loc[rows % 14 == 0, "new"] = "HA"
    frame.loc[rows % 50 == 0, "rare"] = "HA"
    frame["month"] = random.choice([1, 2, 3, 7], 2000)
    frame["id"] = [f"order-{n}" for n in range(5000, 7000)]
    return frame


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> DriftReport:
    """Of one check over all those columns."""
    with settings.using(tmp_path_factory.mktemp("changed")):
        watched = Watched(training())
        watched.deploy()
        watched.ask(requests())
        return checked()


def test_exactly_what_changed_drifts(report):
    assert set(drifted(report)) == {"moved", "wider", "gaps", "vanished", "shares", "new", "text_gaps", "truth", "other_constant", "month"}
    assert report.is_drift


def test_what_drifts_most_comes_first(report):
    effects = [max(found.effect or 0, found.missing_window - found.missing_reference) for found in report.features if found.is_drift]

    assert [found.is_drift for found in report.features] == sorted([found.is_drift for found in report.features], reverse=True)
    assert effects == sorted(effects, reverse=True)


def test_a_number_that_moved_is_told_with_its_means(report):
    assert re.fullmatch(r"mean 1[12]\S* → 1[78]\S* \(\+0\.[78] σ\)", feature(report, "moved").summary)


def test_a_wider_spread_is_drift_though_the_mean_stands(report):
    assert re.search(r"spread [78]\S* → (19|2)", feature(report, "wider").summary)


def test_shares_of_categories_that_changed_are_told_before_and_after(report):
    assert re.match(r"'WN' 1?\d\S* % → (4|39)\d* %, 'AA' \d+ % → \d+", feature(report, "shares").summary)


def test_a_new_category_is_named_and_drifts_from_five_percent(report):
    assert feature(report, "new").effect < 0.1
    assert feature(report, "new").summary.startswith("new category 'HA' 7.1 %")


def test_a_rare_new_category_is_named_without_alarm(report):
    assert not feature(report, "rare").is_drift
    assert feature(report, "rare").summary.startswith("new category 'HA' 2.0 %")


def test_missing_values_that_became_more_are_drift_of_their_own(report):
    found = feature(report, "gaps")

    assert found.is_drift and found.effect < 0.1
    assert (found.missing_reference, found.missing_window) == (0.0, 0.2)
    assert "missing 0 % → 20 %" in found.summary
    assert found.test.endswith("of missing values") and found.p_adjusted < 0.001


def test_missing_categories_are_missing_and_no_category(report):
    assert feature(report, "text_gaps").missing_window == 0.2
    assert set(feature(report, "text_gaps").histogram["categories"]) == {"AA", "B6", "UA", "WN"}


def test_a_column_that_vanished_altogether_is_drift(report):
    assert feature(report, "vanished").is_drift and feature(report, "vanished").test.endswith("of missing values")
    assert "no values in the window" in feature(report, "vanished").summary


def test_missing_values_as_before_are_no_drift(report):
    found = feature(report, "gaps_as_before")

    assert not found.is_drift and found.missing_reference == 0.1


def test_text_that_looks_like_a_number_is_compared_as_text(report):
    assert feature(report, "code").type == "category"
    assert sorted(feature(report, "code").histogram["categories"]) == ["001", "002", "010"]


def test_truth_values_are_categories(report):
    assert feature(report, "truth").summary.startswith("'true' 19 % → 61 %, 'false' 81 % → 39 %")


def test_whole_numbers_of_few_values_are_categories(report):
    assert feature(report, "month").type == "category"
    assert "new category '7'" in feature(report, "month").summary


def test_a_constant_column_is_told_as_one(report):
    assert (feature(report, "constant").summary, feature(report, "constant_text").summary) == ("always 1", "always 'a'")


@pytest.mark.parametrize("engine", ["histograms", "scipy"])
def test_a_constant_whose_sum_is_rounded_is_told_as_one(workspace, engine):
    watched = Watched(flights(1000, seed=0, distance=0.1))
    watched.deploy()
    watched.ask(flights(999, seed=1, distance=0.1))

    assert feature(checked(engine), "distance").summary == "always 0.1"


def test_a_column_without_a_finite_value_in_the_training_data_is_told_beside_the_others(workspace):
    watched = Watched(flights(1000, seed=0, distance=np.inf))
    watched.deploy()
    watched.ask(flights(1000, seed=1, dep_delay=40.0))

    report = checked()

    assert feature(report, "distance").summary == "infinite values" and drifted(report) == ["dep_delay"]


def test_identifiers_and_moments_are_listed_as_not_compared(report):
    assert {found.name for found in report.features if found.type == "not compared"} == {"id", "when"}
    assert any("identifiers" in note and "id" in note for note in report.notes)


def test_a_histogram_holds_thirty_bins_at_most_and_every_row(report):
    histograms = [found.histogram for found in report.features if found.histogram]

    assert max(len(histogram["reference"]) for histogram in histograms) <= 30
    assert all(sum(histogram["reference"]) == pytest.approx(1, abs=1e-4) for histogram in histograms)


def test_unchanged_requests_are_no_drift(delays):
    delays.ask(flights(2000, seed=1))

    assert not checked().is_drift


def test_columns_of_the_data_set_that_are_no_inputs_are_left_out(workspace):
    watched = Watched(flights(1000, seed=0).assign(label=1))
    watched.deploy(inputs=flights(10, seed=0))
    watched.ask(flights(1000, seed=1))

    assert "label" not in {found.name for found in checked().features}


def test_an_input_that_the_data_set_lacks_is_noted(workspace):
    watched = Watched(flights(1000, seed=0))
    watched.deploy(inputs=flights(10, seed=0).assign(made_up=1.0))
    watched.ask(flights(1000, seed=1).assign(made_up=1.0))

    report = checked()

    assert "Not compared (not in the training data): made_up." in report.notes


def test_the_elements_of_a_tensor_are_compared_with_the_columns_in_order(workspace):
    random = np.random.default_rng(0)
    watched = Watched(pd.DataFrame(random.normal(size=(1000, 3)), columns=["a", "b", "c"]))
    watched.deploy(inputs=random.normal(size=(10, 3)))
    asked = random.normal([0, 0, 2], size=(1000, 3))
    watched.ask(pd.DataFrame({"input": asked.tolist()}))

    assert drifted(checked()) == ["input[2]"]


def test_a_few_requests_give_no_verdict_and_say_so(delays):
    delays.ask(flights(12, seed=1, dep_delay=1000.0))

    report = checked()

    assert not report.is_drift
    assert report.notes[0].startswith("No verdict: 12 rows")
    assert all(found.p_value is None for found in report.features)


@pytest.mark.parametrize("engine", ["histograms", "scipy"])
def test_three_rows_are_too_few_to_tell_and_no_face_says_that_all_is_well(delays, engine):
    delays.ask(flights(3, seed=1))

    check = monitoring.check_drift("delays", engine=engine)
    shown = cards.as_text(check)

    assert check.verdict == "too few rows to tell"
    assert "○ too few rows to tell" in shown.splitlines()[0]
    assert "✓" not in shown and "not tested" in shown
    assert ": too few rows to tell</h1>" in pages.as_page(check) and "has not drifted" not in pages.as_page(check)


def test_a_column_that_is_not_compared_is_not_called_the_same(delays):
    delays.ask(flights(3000, seed=1).drop(columns="carrier"))

    shown = cards.as_text(monitoring.check_drift("delays"))

    assert [line for line in shown.splitlines() if "carrier" in line and "○ not compared" in line] and "✓ same" in shown


def test_more_rows_than_are_compared_are_sampled_alike_and_noted(delays, monkeypatch):
    monkeypatch.setattr("mlops_nb.monitoring.columns.MOST_ROWS", 1000)
    delays.ask(flights(4000, seed=1), batch=10)

    once, again = checked("scipy"), checked("scipy")

    assert once.features == again.features
    assert 800 < once.window.compared < 1200 and once.window.rows == 4000
    assert 800 < once.reference.compared < 1200 and once.reference.rows == 5000
    assert sum("fixed sample" in note for note in once.notes) == 2


def test_compacted_requests_give_the_same_verdict(delays):
    delays.ask(flights(2000, seed=1))
    before = checked()

    telemetry.compact()

    assert checked().features == before.features


# ── which requests, which data ───────────────────────────────────────────────────────────────────────────────────────


def test_one_model_behind_several_deployments_is_checked_over_all_of_them(delays):
    delays.deploy("again", version=1)
    delays.ask(flights(300, seed=1))
    delays.ask(flights(200, seed=2), deployment="again")

    check = monitoring.check_drift("delays", engine="scipy")

    assert check.deployment is None
    assert check.report["window"]["rows"] == 500


@pytest.mark.parametrize("compacted", [False, True])
def test_copies_that_a_shadow_was_sent_are_judged_as_its_own_rows_and_not_as_the_endpoints(delays, compacted):
    delays.deploy("2")
    rows, now = flights(1000, seed=1, dep_delay=40.0), store.now()
    delays.ask(rows, batch=1000, at=now)
    (delays._folder("2") / f"closed-{time_ns()}.jsonl").write_text(delays._line(rows, f"1-0{COPY_MARK}", now.isoformat()))
    if compacted:
        telemetry.compact()

    seen = monitoring.drift_map("delays", seconds=3600, since=now - timedelta(hours=1), until=now + timedelta(seconds=1))
    labels.record("delays", pd.DataFrame({"id": ["1-0"] * 1000, "row": range(1000), "label": 1}))

    assert kept_labels.truths("delays", [(now, now)]) == kept_labels.truths("delays", [(now, now)], deployment="2") == [Counter({"1": 1000})]
    assert [checked(engine).window.rows for engine in ("histograms", "scipy")] == [1000, 1000]
    assert sum(slot.rows for slot in seen.slots) == 1000
    assert checked(deployment="2").window.rows == 1000 and causes.of("delays", deployment="2").examples


def test_of_different_models_the_one_with_most_traffic_is_checked(delays):
    delays.deploy("2", version=2)
    delays.split(d1=10, d2=90)
    delays.ask(flights(300, seed=1))
    delays.ask(flights(200, seed=2), deployment="2")

    check = monitoring.check_drift("delays", engine="scipy")

    assert check.deployment == "2"
    assert check.report["window"]["rows"] == 200


def test_the_deployment_asked_for_is_checked_against_its_own_data(delays):
    datasets.register("flights", flights(100, seed=9))
    delays.deploy("2", version=2, dataset="flights:2")
    delays.ask(flights(300, seed=1), deployment="2")

    check = monitoring.check_drift("delays", deployment="2", engine="scipy")

    assert (check.deployment, check.dataset) == ("2", "flights:2")


def test_another_data_set_can_be_the_reference(delays):
    datasets.register("july", flights(1000, seed=3))
    delays.ask(flights(300, seed=1))

    assert monitoring.check_drift("delays", dataset="july:1", engine="scipy").dataset == "july:1"


def test_only_requests_of_the_asked_time_are_compared(delays):
    now = datetime.now(UTC)
    delays.ask(flights(400, seed=1, dep_delay=500.0), at=now - timedelta(days=2))
    delays.ask(flights(400, seed=2), at=now - timedelta(hours=1))

    assert checked(until=now - timedelta(days=1)).is_drift
    assert not checked(since=now - timedelta(days=1)).is_drift


def test_a_check_is_kept_and_drift_raises_an_event(delays):
    delays.ask(flights(1000, seed=1, dep_delay=500.0))

    check = monitoring.check_drift("delays", engine="scipy")

    with store.reading() as tx:
        assert checks.drift_checks(tx, "delays") == [check]
        [event] = events.latest(tx, what="DatasetDriftDetected")
    assert (event.subject, event.data["features"], event.data["dataset"]) == ("delays", ["dep_delay"], "flights:1")


def test_a_check_without_drift_raises_the_other_event(delays):
    delays.ask(flights(1000, seed=1))

    monitoring.check_drift("delays", engine="scipy")

    with store.reading() as tx:
        assert [event.type for event in events.latest(tx, what="DriftChecked")] == ["mlops.DriftChecked"]
        assert not events.latest(tx, what="DatasetDriftDetected")


# ── what cannot be compared ──────────────────────────────────────────────────────────────────────────────────────────


def test_an_unknown_endpoint_deployment_or_data_set_is_told(delays):
    with pytest.raises(EndpointNotFound, match="delays"):
        monitoring.check_drift("delay")
    with pytest.raises(DeploymentNotFound):
        monitoring.check_drift("delays", deployment="7")
    with pytest.raises(DatasetNotFound):
        monitoring.check_drift("delays", dataset="nope:1")


def test_a_model_without_its_training_data_tells_how_to_register_it(delays):
    delays.deploy("2", version=2, dataset=None)

    with pytest.raises(NothingToCompare, match="late:2 was registered without its training data") as told:
        monitoring.check_drift("delays", deployment="2")

    assert "--data" in told.value.hint


def test_an_endpoint_that_was_not_asked_tells_how_to_ask_it(delays):
    with pytest.raises(NothingToCompare, match="No answered request of delays is kept") as told:
        monitoring.check_drift("delays")

    assert told.value.hint.startswith("%mlops invoke delays")


def test_data_with_no_column_in_common_is_told(delays):
    datasets.register("other", pd.DataFrame({"x": [1.0]}))
    delays.ask(flights(100, seed=1))

    with pytest.raises(NothingToCompare, match="not in the training data"):
        monitoring.check_drift("delays", dataset="other:1")


def test_an_unknown_engine_is_told(delays):
    with pytest.raises(BadOption, match="scipi"):
        monitoring.check_drift("delays", engine="scipi")


# ── the process of its own ───────────────────────────────────────────────────────────────────────────────────────────


def test_the_statistics_run_in_another_process(delays, tmp_path):
    delays.ask(flights(1000, seed=1))
    code = (
        "import sys; from mlops_nb import monitoring; c = monitoring.check_drift('delays', engine='scipy'); "
        "print(c.is_drift, sorted({'scipy', 'pandas', 'alibi_detect'} & set(sys.modules)))"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ), check=True)

    assert done.stdout.strip() == "False []"


def test_the_worker_imports_nothing_of_this_package():
    code = "import sys, runpy; runpy.run_path(sys.argv[1]); print([m for m in sys.modules if m.startswith(('mlops_nb', 'duckdb', 'msgspec'))])"

    done = subprocess.run([sys.executable, "-c", code, drift_module.__file__.replace("drift.py", "worker.py")], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


def test_a_worker_that_dies_is_told_with_its_last_lines(delays, tmp_path, monkeypatch):
    delays.ask(flights(1000, seed=1))
    (tmp_path / "scipy").mkdir()
    (tmp_path / "scipy" / "__init__.py").write_text("raise SystemError('broken library')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    with pytest.raises(DriftCheckFailed) as told:
        monitoring.check_drift("delays", engine="scipy")

    assert "broken library" in told.value.detail
    with store.reading() as tx:
        assert checks.drift_checks(tx) == []
