"""`%mlops convert`: a registered version gets an ONNX form, or a plain answer why not."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from functools import partial
from textwrap import dedent

import pytest
from lightgbm import LGBMClassifier
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from mlops_nb import cards, converting, flavors, registry, store
from mlops_nb.conversion import Options
from mlops_nb.errors import AnswersDiffer, BadOption, CannotConvert, TrustNeeded
from mlops_nb.store import events

NUMBERS = ["delay", "hour"]


@pytest.fixture(scope="module")
def forest(flights, register):
    """A forest behind a scaler, converted."""
    model = Pipeline([("scale", StandardScaler()), ("trees", RandomForestClassifier(10, random_state=0))]).fit(flights[NUMBERS], flights.late)
    return converting.convert(register(model, "forest").ref).version


@pytest.fixture(scope="module")
def logistic(flights, register):
    return register(LogisticRegression().fit(flights[NUMBERS], flights.late), "logistic").ref


@pytest.fixture(scope="module")
def network(flights, register):
    return register(MLPClassifier((48,), max_iter=30, random_state=0).fit(flights[NUMBERS], flights.late), "network").ref


def test_a_converted_version_is_served_by_onnx_runtime_and_keeps_both_forms(forest):
    assert (forest.engine, sorted(file.path for file in forest.files)) == ("onnxruntime", ["model.onnx", "model.pkl"])


def test_answers_are_compared_on_the_data_and_beside_the_thresholds(forest):
    report = forest.conversion

    assert (report["equal"], report["rows"], report["labels_differ"], report["beside"]["labels_differ"]) == (True, 1500, 0, 0)
    assert report["beside"]["rows"] > 500


def test_both_forms_are_timed_by_rows_and_threads(forest):
    assert {figure["rows"] for figure in forest.conversion["speed"]} == {1, 1_000, 100_000}
    assert 1 in {figure["threads"] for figure in forest.conversion["speed"]}


def test_the_report_names_the_engine_for_many_rows(forest):
    assert forest.conversion["batch_engine"] == forest.conversion["fastest"]["100000"]


def test_the_form_kept_answers_as_the_original_does(forest, flights):
    original = registry.load(forest.ref)
    served = flavors.OnnxModel(registry.laid_out(forest) / "model.onnx")

    assert served.predict(flights[NUMBERS])["label"].tolist() == original.predict(flights[NUMBERS]).tolist()


def test_a_conversion_is_an_event(forest):
    with store.reading() as tx:
        assert events.latest(tx, subject=forest.ref, most=1)[0].type == "mlops.ModelConverted"


def test_the_card_tells_the_speed_and_what_answers(forest):
    text = cards.as_text(converting.Converted(version=forest))

    assert "100,000" in text and "answered by ONNX Runtime" in text


@pytest.fixture(scope="module")
def refused(logistic):
    with pytest.raises(AnswersDiffer) as refusal:
        converting.convert(logistic, options=Options(tolerance=0.0))
    return refusal.value


def test_a_refusal_shows_rows_with_both_answers(refused):
    assert refused.rows[0]["inputs"].keys() == {"delay", "hour"}
    assert "probabilities" in refused.detail and "; as ONNX" in refused.detail


def test_a_refusal_changes_nothing(refused, logistic):
    version = registry.get(logistic)

    assert (version.engine, version.conversion, [file.path for file in version.files]) == ("python", {}, ["model.pkl"])


def test_the_command_line_ends_with_5_when_answers_differ(logistic, workspace_of_module):
    line = [sys.executable, "-m", "mlops_nb", "convert", logistic, "--tolerance", "0", "--json", "--workspace", str(workspace_of_module.root)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)

    assert (done.returncode, json.loads(done.stdout)["code"]) == (5, "AnswersDiffer")


def test_a_served_form_that_more_rows_find_unequal_is_withdrawn(flights, register, tmp_path, monkeypatch):
    """The thousand rows at registration agree; row 1,200 does not."""
    (tmp_path / "mended.py").write_text(
        dedent("""
        class Mended:
            def __init__(self, model, bound):
                self.model, self.bound = model, bound

            def __call__(self, rows):
                labels = self.model.predict(rows)
                return labels ^ (rows["delay"].to_numpy() >= self.bound)
        """)
    )
    monkeypatch.syspath_prepend(tmp_path)
    from mended import Mended

    model = LogisticRegression().fit(flights[NUMBERS], flights.late)
    model.predict = Mended(copy.copy(model), 8.0)
    version = register(model, "mended", convert=True)

    with pytest.raises(AnswersDiffer, match="served by the original again"):
        converting.convert(version.ref)

    assert (version.engine, registry.get(version.ref).engine) == ("onnxruntime", "python")


def test_where_nothing_can_be_quantized_it_is_said(logistic):
    with pytest.raises(CannotConvert, match="nothing in it can be quantized"):
        converting.convert(logistic, options=Options(quantize="int8"))


def test_int8_beyond_the_tolerance_is_refused(network):
    with pytest.raises(AnswersDiffer, match="in int8"):
        converting.convert(network, options=Options(quantize="int8"))


def test_int8_within_the_tolerance_is_kept_with_its_cost(network):
    report = converting.convert(network, options=Options(quantize="int8", tolerance=0.2)).version.conversion

    assert (report["quantized"], report["quantized_nodes"] > 0, report["max_difference"] > 1e-4) == ("int8", True, True)


def test_a_model_registered_as_onnx_keeps_its_first_form_when_optimised(logistic, flights):
    from mlops_nb import conversion, signature

    model = registry.load(logistic)
    form = conversion.to_onnx(model, signature.infer(flights[NUMBERS]), flights[NUMBERS]).onnx
    version = registry.register(form, name="made_elsewhere", data="flights", sample=flights[NUMBERS][:50]).version
    made = converting.convert(version.ref, options=Options(optimize="basic")).version

    assert {file.path: file.sha256 for file in made.files}["original/model.onnx"] == version.files[0].sha256


def test_a_matrix_model_registered_with_a_frame_is_optimised_on_the_frames_rows(logistic, flights):
    from mlops_nb import conversion, signature

    model, rows = registry.load(logistic), flights[NUMBERS].to_numpy()
    form = conversion.to_onnx(model, signature.infer(rows), rows).onnx
    version = registry.register(form, name="of_one_matrix", data="flights", sample=flights[NUMBERS][:50]).version

    assert converting.convert(version.ref, options=Options(optimize="basic")).version.conversion["equal"]


def test_a_model_that_is_onnx_already_needs_to_be_told_what_else(flights, forest, register):
    form = (registry.laid_out(forest) / "model.onnx").read_bytes()
    version = registry.register(form, name="onnx_already", data="flights", sample=flights[NUMBERS][:50]).version

    with pytest.raises(BadOption, match="is ONNX as it was registered"):
        converting.convert(version.ref)


def test_a_pickle_of_unknown_origin_is_not_opened(flights, register):
    version = register(LogisticRegression().fit(flights[NUMBERS], flights.late), "unknown")
    with store.writing() as tx:
        tx.execute("UPDATE model_versions SET trusted = false WHERE model = 'unknown'")

    with pytest.raises(TrustNeeded):
        converting.convert(version.ref)


def tried(model, flights, options) -> dict:
    """What comes of a quick conversion."""
    from mlops_nb import conversion, signature

    rows = flights[NUMBERS]
    return conversion.converted(model.fit(rows, flights.late), signature.infer(rows), rows, options, rows=(1,), most_thresholds=20, seconds=0.02).report


@pytest.mark.parametrize("opset", [9, 11, 15, 22])
@pytest.mark.parametrize("kind", [LogisticRegression, partial(RandomForestClassifier, 3), partial(LGBMClassifier, n_estimators=3, verbose=-1)])
def test_no_operator_is_newer_than_the_set_asked_for_and_the_answers_are_the_same(kind, opset, flights):
    report = tried(kind(), flights, Options(opset=opset))

    assert report["equal"] and report["opset"] <= opset


@pytest.mark.parametrize("level", ["basic", "extended", "all"])
def test_an_optimised_graph_of_an_older_operator_set_answers_the_same(level, flights):
    report = tried(LogisticRegression(), flights, Options(opset=13, optimize=level))

    assert (report["equal"], report["optimized"], report["opset"]) == (True, level, 13)


def test_an_operator_set_nobody_here_can_write_is_told_with_the_newest(logistic):
    with pytest.raises(CannotConvert, match=r"operator set 30 is newer than \d+, the newest that the onnx here can write"):
        converting.convert(logistic, options=Options(opset=30))
