"""What each page shows: on an empty workspace, on a busy one, from a link, and after a choice."""

from __future__ import annotations

import json
import sys
from datetime import timedelta
from time import time_ns

import pytest

from mlops_nb import dashboards, store
from mlops_nb.store import alerts, deployments, models, silences
from mlops_nb.telemetry import files

PAGES = ("overview", "models", "lineage", "profiling", "hardware", "deployments", "rollout", "performance", "drift", "events", "fleet", "targets")


@pytest.mark.parametrize("name", PAGES)
def test_a_page_of_an_empty_workspace_shows_the_line_to_paste(open_page, name):
    page = open_page(name)

    assert not page.exception
    assert "%mlops " in page.code[0].value


@pytest.mark.parametrize("name", PAGES)
def test_a_page_of_a_busy_workspace_shows_no_exception(open_page, busy, name):
    page = open_page(name)

    assert not page.exception
    assert page.title[0].value.split()[0].lower() == name


@pytest.mark.parametrize("name", PAGES)
def test_a_link_that_names_nothing_opens_the_page_all_the_same(open_page, busy, name):
    wrong = dict.fromkeys(("model", "with", "root", "deployment", "endpoint", "check", "feature", "type", "period", "target", "hardware"), "<no>:such/thing@")

    page = open_page(name, **wrong, page="-1")

    assert not page.exception


def test_the_overview_names_what_wants_a_look_and_why(open_page, busy):
    page = open_page("overview")

    lines = [text.value for text in page.text]
    assert "KeyError: \"['wind_gust'] not in index\" (cell [12], line 3)" in lines
    assert "requests differ from flights_q1:1 in 3 features: hour, temp, visib" in lines


def test_the_overview_shows_wanted_beside_live_share_with_target_and_hardware(open_page, busy):
    rows = open_page("overview").dataframe[0].value.set_index(["endpoint", "deployment"])

    assert list(rows.loc[("churn", "1"), ["target", "hardware", "wanted share", "live share"]]) == ["docker", "gpu", 100, 100.0]
    assert rows.loc[("delays", "2"), "wanted share"] == 50
    assert 0 < rows.loc[("delays", "2"), "live share"] < 50


@pytest.mark.parametrize(
    ("name", "deployment"),
    [("overview", "never"), ("deployments", "delays/never"), ("rollout", "never"), ("hardware", "delays/never"), ("targets", "delays/never")],
)
def test_what_nothing_was_ever_asked_of_is_shown_as_untried(open_page, busy, name, deployment):
    with store.writing() as tx:
        made = store.now()
        deployments.put(
            tx,
            deployments.Deployment(
                endpoint="delays", name="never", model="delays", version=1, target="local", spec=deployments.DeploymentSpec(), wanted="running",
                generation=1, status="healthy", created_at=made, changed_at=made,
            ),
        )  # fmt: skip
        tx.execute("UPDATE model_versions SET signature = NULL WHERE model = 'delays' AND version = 1")

    page = open_page(name, endpoint="delays")

    statuses = next(table.value.set_index("deployment")["status"] for table in page.dataframe if "status" in table.value)
    assert statuses[deployment] in ("◐ healthy, untried", ["◐ healthy, untried"])
    assert "● healthy" in [status if isinstance(status, str) else status[0] for status in statuses]


def test_a_link_to_a_model_version_opens_its_card(open_page, busy):
    page = open_page("models", model="delays:1")

    assert page.subheader[0].value == r"delays\:1"
    assert page.selectbox(key="choice-model").value == "delays:1"


def test_a_link_may_name_a_version_by_its_alias(open_page, busy):
    assert open_page("models", model="delays@champion").subheader[0].value == r"delays\:2"


def test_comparing_two_versions_shows_only_what_differs(open_page, busy):
    page = open_page("models", model="delays:3", **{"with": "delays:2"})

    rows = page.dataframe[1].value
    assert ["metric", "auc", "0.74", "0.757"] in rows.values.tolist()
    assert not (rows["delays:2"] == rows["delays:3"]).any()
    assert "-clf = HistGradientBoostingClassifier(max_depth=8)" in page.code[0].value


def test_a_search_goes_into_the_url_and_narrows_the_table(open_page, busy):
    page = open_page("models")

    page.text_input(key="choice-q").set_value("elsewhere").run()

    assert page.query_params["q"] == "elsewhere"
    assert list(page.dataframe[0].value["version"]) == ["churn:1"]


def test_models_come_fifty_at_a_time(open_page, busy):
    with store.writing() as tx:
        for number in range(1, 61):
            models.add(tx, models.ModelVersion(model="many", version=number, flavor="onnx", engine="onnxruntime", hash="h", files=[], created_at=store.now()))

    page = open_page("models", q="many")
    first = list(page.dataframe[0].value["version"])
    page.button(key="page-after").click().run()

    assert (first[0], first[-1], len(first)) == ("many:60", "many:11", 50)
    assert page.dataframe[0].value["version"][0] == "many:10"
    assert page.query_params["page"] == "2"


def test_a_link_to_a_root_draws_only_its_lineage(open_page, busy):
    page = open_page("lineage", root="churn")

    assert list(page.dataframe[0].value["name"]) == ["churn:1", "churn/1", "churn"]


def test_lineage_answers_in_words_what_a_dataset_reached(open_page, busy):
    page = open_page("lineage", root="dataset:flights_q1:1")

    assert "⬢ endpoint delays" in [text.value for text in page.text]
    assert "Live endpoints: delays" in [caption.value for caption in page.caption]


def test_a_lineage_root_that_is_not_there_is_told_in_two_lines(open_page, busy):
    page = open_page("lineage", root="delay")

    assert "Nothing named" in page.error[0].value
    assert page.text[0].value == "Try: did you mean delays?"


def test_profiles_can_be_narrowed_to_one_hardware(open_page, busy):
    rows = open_page("profiling", hardware="cpu · 8 cores").dataframe[0].value

    assert set(rows["hardware"]) == {"cpu · 8 cores"}
    assert list(rows["batch"]) == [1, 32, 256]


def test_deployments_can_be_narrowed_to_one_target(open_page, busy):
    assert list(open_page("deployments", target="docker").dataframe[0].value["deployment"]) == ["churn/1"]


def test_a_failed_deployment_shows_the_users_exception_where_it_was_raised_and_the_log(open_page, busy):
    page = open_page("deployments", deployment="delays/3")

    assert "KeyError" in page.error[0].value
    assert "line 3" in page.error[0].value
    assert any("self.model.predict(frame[self.columns])" in code.value for code in page.code)
    assert any("POST /v2/models/delays/infer 500" in code.value for code in page.code)


def test_the_deployments_page_opens_on_what_wants_a_look(open_page, busy):
    assert open_page("deployments").selectbox(key="choice-deployment").value == "delays/3"


def test_rollout_shows_how_each_deployment_answers(open_page, busy):
    row = open_page("rollout", endpoint="delays", period="1h").dataframe[0].value.set_index("deployment").loc["1"]

    assert row["wanted share"] == 50
    assert row["live share"] > 75
    assert row["p50 ms"] < row["p95 ms"] < row["p99 ms"]
    assert row["runs on"] == "local · cpu"


def test_rollout_lists_every_change_of_the_split(open_page, busy):
    rows = open_page("rollout", endpoint="delays").dataframe[1].value

    assert list(rows["split"]) == ["1: 50 %, 2: 50 %", "1: 90 %, 2: 10 %", "1: 100 %"]
    assert list(rows["why"]) == ["it does well", "try the deeper trees", "first deployment"]


def test_an_endpoint_nobody_asked_shows_the_line_that_asks_it(open_page, busy):
    assert open_page("rollout", endpoint="churn", period="15m").dataframe[0].value["requests"][0] > 0
    with store.writing() as tx:
        tx.execute("INSERT INTO endpoints VALUES ('quiet', now(), 'ada')")

    assert open_page("rollout", endpoint="quiet").code[0].value == "%mlops invoke quiet --data X.head()"


def test_pausing_rollout_says_so(open_page, busy):
    page = open_page("rollout")

    page.toggle(key="paused").set_value(True).run()

    assert any("paused, updated" in caption.value for caption in page.caption)


def test_drift_shows_the_verdict_and_the_features_that_drift_first(open_page, busy):
    page = open_page("drift", endpoint="delays")

    assert page.text[0].value == "2 of 8 features differ: hour, temp"
    [features] = [table.value for table in page.dataframe if "p adjusted" in table.value.columns]
    assert list(features["feature"])[:2] == ["hour", "temp"]


def test_drift_shows_what_is_wrong_with_the_data_and_why_it_drifted(open_page, busy):
    page = open_page("drift", endpoint="delays")

    [quality] = [table.value for table in page.dataframe if "in words" in table.value.columns]
    assert quality[["column", "verdict", "is"]].values.tolist() == [["visib", ["▲ alert"], "a fact"], ["carrier", ["○ noted"], "kept within the budget"]]
    [losses] = [table.value for table in page.dataframe if "measure" in table.value.columns]
    assert losses["how"][0] == "measured on 812 labels"


def test_an_alert_on_drift_and_its_page_say_what_it_costs(open_page, busy):
    for page, params in (("overview", {}), ("drift", {"endpoint": "delays", "check": "check-4"})):
        assert any("accuracy 0.81 before, 0.74 since (measured on 812 labels)" in text.value for text in open_page(page, **params).text), page


def test_a_drift_of_which_a_rule_tells_is_one_alert_and_none_once_the_rule_is_snoozed(open_page, busy):
    def told() -> list[str]:
        return [text.value for text in open_page("overview").text if "temp" in text.value]

    before = len(told())
    with store.writing() as tx:
        rule = alerts.add(tx, "delays", "drift", author="ada")
        alerts.change(tx, rule, firing=True, since=store.now(), value="drift in hour, temp, visib")

    assert before == 2, "of all together, and of a deployment"
    assert told() == ["drift: drift in hour, temp, visib"]
    with store.writing() as tx:
        alerts.change(tx, rule, snoozed_until=store.now() + timedelta(hours=1))
    assert told() == []


def test_a_drift_that_somebody_silenced_is_shown_and_is_no_alert(open_page, busy):
    with store.writing() as tx:
        for endpoint in ("delays", "churn"):
            silences.add(tx, endpoint, "", "acknowledged", until=None, why="known", author="ada")

    assert not any("requests differ" in text.value for text in open_page("overview").text)
    assert open_page("drift", endpoint="delays").text[0].value == "2 of 8 features differ: hour, temp"


@pytest.mark.parametrize("period", ["15m", "1h", "6h"])
def test_a_steady_rate_is_drawn_steady_from_the_first_moment_on(workspace, period):
    sys.path.insert(0, str(dashboards.folder()))
    import queries

    now, folder = store.now(), files.folder("delays", "1")
    folder.mkdir(parents=True)
    facts = {"status": 200, "latency_ms": 1.0, "rows": 1, "inputs": None, "outputs": None, "error": None}
    moments = [(now - timedelta(seconds=2 * number)).isoformat() for number in range(4 * 3600)]
    (folder / f"closed-{time_ns()}.jsonl").write_text("".join(json.dumps({"time": moment, "id": moment} | facts) + "\n" for moment in moments))

    rates = [row["requests_per_second"] for row in queries.traffic("delays", period)]

    assert len(rates) > 10 and set(rates) == {0.5}


def test_a_link_to_an_earlier_check_shows_that_one(open_page, busy):
    page = open_page("drift", endpoint="delays", check="check-0", feature="wind_speed")

    assert page.text[0].value == "0 of 8 features differ"
    assert page.selectbox(key="choice-feature").value == "wind_speed"


def test_drift_checks_tell_on_which_target_and_hardware_the_requests_were_answered(open_page, busy):
    rows = open_page("drift", endpoint="delays").dataframe[-1].value

    assert set(zip(rows["target"], rows["hardware"], strict=True)) == {("local", "cpu")}


def test_events_come_fifty_at_a_time_with_their_count(open_page, busy):
    page = open_page("events", type="ModelRegistered")

    assert len(page.dataframe[0].value) == 50
    assert "1–50 of 70" in [caption.value for caption in page.caption]


def test_events_can_be_narrowed_to_what_lies_below_a_subject(open_page, busy):
    assert set(open_page("events", about="delays").dataframe[0].value["subject"]) == {"delays", "delays:2", "delays/1", "delays/2", "delays/3"}


def test_choosing_a_type_of_event_goes_into_the_url_and_back_to_the_first_page(open_page, busy):
    page = open_page("events", page="2")

    page.selectbox(key="choice-type").set_value("AliasSet").run()

    assert page.query_params == {"type": "AliasSet"}
    assert list(page.dataframe[0].value["subject"]) == ["delays:2"]
