"""The Drift page's map of features and windows, and what can be asked of it."""

from __future__ import annotations

import json
import sys
from datetime import timedelta
from time import time_ns

import msgspec
import pandas as pd
import pytest
from a_busy_workspace import FEATURES, MARKUP

from mlops_nb import dashboards, datasets, monitoring, store
from mlops_nb.monitoring.over_time import Cell, Slot
from mlops_nb.store import deployments, models
from mlops_nb.telemetry import files


@pytest.fixture
def heat():
    """The page's module, as the page finds it."""
    sys.path.insert(0, str(dashboards.folder()))
    import heat

    return heat


@pytest.fixture
def fifty_minutes(busy) -> monitoring.DriftMap:
    """The last hour of `delays`, which became warmer half way, in windows of five minutes."""
    return monitoring.drift_map("delays", seconds=300, since=store.now() - timedelta(hours=1), until=store.now())


def test_the_map_shows_every_feature_in_every_window_and_a_diamond_on_each_alarm(heat, fifty_minutes):
    figure = heat.figure(fifty_minutes)
    colours, cells, alarms = figure.data

    assert set(colours.y) == set(FEATURES)
    assert len(cells.x) == len(FEATURES) * len(fifty_minutes.slots)
    assert set(alarms.y) == {"temp"}
    assert colours.y[0] == "temp"


def test_predictions_and_labels_have_rows_of_their_own_below_the_inputs_however_many_there_are(heat, fifty_minutes):
    features = [*(f"input {n}" for n in range(60)), "label late", "prediction label"]
    cells = [Cell(feature=name, effect=0.2) for name in features]
    slot = Slot(begin=store.now(), end=store.now(), rows=100, cells=cells)
    sides = {"label late": "label", "prediction label": "prediction"}

    drawn = heat.figure(msgspec.structs.replace(fifty_minutes, features=[*features[-2:], *features[:-2]], slots=[slot], sides=sides))

    assert list(drawn.data[0].y) == [*(f"input {n}" for n in range(38)), "label late", "prediction label"]


def test_features_called_by_numbers_or_alike_have_a_row_each(heat, fifty_minutes):
    features = ["3", "20", "100", f"{'reading ' * 5}north", f"{'reading ' * 5}south"]
    slot = Slot(begin=store.now(), end=store.now(), rows=100, cells=[Cell(feature=name, effect=0.2, alarm=True, kind="values") for name in features])

    drawn = heat.figure(msgspec.structs.replace(fifty_minutes, features=features, slots=[slot]))

    assert drawn.layout.yaxis.type == "category"
    assert all(len(set(trace.y)) == 5 for trace in drawn.data)


def test_the_map_is_told_in_words(heat, fifty_minutes):
    assert heat.told(fifty_minutes).startswith(f"Drift of 8 features in {len(fifty_minutes.slots)} windows of delays: ")
    assert "in temp; the first in the window from" in heat.told(fifty_minutes)


def test_names_are_words_in_the_map_too(heat, fifty_minutes):
    slot = Slot(begin=store.now(), end=store.now(), rows=100, cells=[Cell(feature=MARKUP, effect=0.2)])

    drawn = heat.figure(msgspec.structs.replace(fifty_minutes, features=[MARKUP], slots=[slot]))

    assert "<img" not in "".join((*drawn.data[0].y, drawn.data[1].customdata[0][2]))


def test_the_page_opens_on_the_latest_alarm_with_its_distribution_and_its_data_quality(open_page, busy):
    page = open_page("drift", endpoint="delays")

    assert page.selectbox(key="choice-cell").value == "temp"
    assert "◆" in page.selectbox(key="choice-at").format_func(page.selectbox(key="choice-at").value)
    quality = next(table.value for table in page.dataframe if "new here" in table.value.columns)
    assert next(iter(quality["feature"])) == "temp"


def test_a_link_names_the_cell_the_window_the_span_and_the_segment(open_page, busy):
    page = open_page("drift", endpoint="delays", cell="hour", window="5m", span="1h", segment="carrier", value="UA", measure="missing")

    assert page.selectbox(key="choice-cell").value == "hour"
    assert page.selectbox(key="choice-window").value == "5m"
    assert page.selectbox(key="choice-value").value == "UA"
    assert any("carrier=UA on both sides" in caption.value.replace("\\", "") for caption in page.caption)


def test_moving_to_an_earlier_span_goes_into_the_url_and_says_that_nobody_asked(open_page, busy):
    page = open_page("drift", endpoint="delays", span="1h")

    page.button(key="heat-earlier").click().run()
    page.button(key="heat-earlier").click().run()

    assert page.query_params["back"] in ("2", ["2"])
    assert any("Nobody asked in this time" in text.value for text in page.markdown)


@pytest.mark.parametrize("filtered", [{"target": "docker"}, {"hardware": "cuda"}], ids=["target", "hardware"])
def test_only_the_deployments_of_a_target_and_hardware_are_in_the_map(open_page, busy, filtered):
    page = open_page("drift", endpoint="delays", **filtered)

    assert not page.exception
    assert any("no deployment" in error.value.lower() or "nothing" in error.value.lower() for error in page.error)


def test_the_hardware_of_all_deployments_leaves_the_map_whole(open_page, busy):
    page = open_page("drift", endpoint="delays", hardware="cpu")

    assert not page.exception and not page.error


def test_a_check_of_all_deployments_is_one_of_the_hardware_they_all_run_on(open_page, busy):
    page = open_page("drift", endpoint="delays", hardware="cpu", check="check-2")

    assert any("all deployments of delays" in text.value for text in page.text)


def test_requests_with_none_of_the_training_datas_columns_are_told_so(open_page, workspace):
    datasets.register("rows", pd.DataFrame({"age": range(100), "income": range(100)}))
    made = store.now()
    with store.writing() as tx:
        deployments.ensure_endpoint(tx, "scripts", author="ada")
        models.add(tx, models.ModelVersion(model="script", version=1, flavor="script", engine="python", hash="h", files=[], dataset="rows:1", created_at=made))
        deployments.put(
            tx,
            deployments.Deployment(
                endpoint="scripts", name="1", model="script", version=1, target="local", spec=deployments.DeploymentSpec(), wanted="running", generation=1,
                status="healthy", created_at=made, changed_at=made,
            ),
        )  # fmt: skip
    folder = files.folder("scripts", "1")
    folder.mkdir(parents=True)
    line = {
        "time": made.isoformat(),
        "id": "1",
        "status": 200,
        "latency_ms": 1.0,
        "rows": 2,
        "inputs": {"said": ["a", "b"]},
        "outputs": {"y": [1, 2]},
        "error": None,
    }
    (folder / f"closed-{time_ns()}.jsonl").write_text(json.dumps(line) + "\n")

    page = open_page("drift", endpoint="scripts")

    assert not page.exception
    assert any("not in the requests): age, income" in caption.value.replace("\\", "") for caption in page.caption)


def test_windows_are_those_that_fit_the_span(heat):
    assert heat._fitting("24h") == ["15m", "1h"]
