"""The Open Inference Protocol v2, as a client sees it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from sklearn.pipeline import Pipeline

from mlops_nb import signature

from .scoring_servers import Running, Start


def columns(*, carrier: Any = ("UA",), distance: Any = (500.5,), hour: Any = (7,), **changes: Any) -> dict[str, Any]:
    rows = len(carrier)
    inputs = [
        {"name": "carrier", "shape": [rows], "datatype": "BYTES", "data": list(carrier)},
        {"name": "distance", "shape": [rows], "datatype": "FP64", "data": list(distance)},
        {"name": "hour", "shape": [rows], "datatype": "INT64", "data": list(hour)},
    ]
    return {"inputs": inputs} | changes


def shapes(tensors: list[dict[str, Any]]) -> list[tuple[str, str, list[int]]]:
    return [(tensor["name"], tensor["datatype"], tensor["shape"]) for tensor in tensors]


def output(answer: dict[str, Any], name: str) -> dict[str, Any]:
    return next(tensor for tensor in answer["outputs"] if tensor["name"] == name)


def test_live_and_ready_answer_without_a_token(onnx_server: Running):
    answers = [onnx_server.client.get(f"/v2/health/{word}", headers={"x-mlops-token": ""}).status_code for word in ("live", "ready")]

    assert answers == [200, 200]


@pytest.mark.parametrize(
    "path", ["/v2", "/v2/models/delays", "/v2/models/late/ready", "/v2/models/late/versions/3", "/v2/models/late/versions/3/ready", "/metrics"]
)
def test_every_page_of_the_protocol_is_there(onnx_server: Running, path: str):
    assert onnx_server.client.get(path).status_code == 200


@pytest.mark.parametrize("path", ["/v2", "/score", "/metrics", "/v2/models/late", "/nowhere"])
def test_without_the_token_everything_else_is_401(onnx_server: Running, path: str):
    answer = onnx_server.client.get(path, headers={"x-mlops-token": "wrong"})

    assert (answer.status_code, list(answer.json())) == (401, ["error"])


def test_metadata_tells_columns_datatypes_engine_and_execution_providers(onnx_server: Running):
    told = onnx_server.client.get("/v2/models/late").json()

    assert shapes(told["inputs"]) == [("carrier", "BYTES", [-1]), ("distance", "FP64", [-1]), ("hour", "INT64", [-1])]
    assert shapes(told["outputs"]) == [
        ("label", "INT64", [-1]),
        ("probabilities", "FP32", [-1, 2]),
    ]
    assert told["parameters"].items() >= {"model": "late", "deployment": "1", "engine": "onnxruntime", "execution_providers": ["CPUExecutionProvider"]}.items()


def test_onnx_answers_what_the_pipeline_answers(onnx_server: Running, late: Pipeline, flights: pd.DataFrame):
    frame = flights.head(50)
    answer = onnx_server.infer(columns(carrier=frame.carrier.tolist(), distance=frame.distance.tolist(), hour=frame.hour.tolist())).json()

    assert output(answer, "label")["data"] == late.predict(frame).tolist()
    np.testing.assert_allclose(output(answer, "probabilities")["data"], late.predict_proba(frame).ravel(), atol=1e-5)


def test_a_python_model_answers_exactly_what_it_answered_in_the_notebook(python_server: Running, late: Pipeline, flights: pd.DataFrame):
    frame = flights.head(50)
    answer = python_server.infer(columns(carrier=frame.carrier.tolist(), distance=frame.distance.tolist(), hour=frame.hour.tolist())).json()

    assert output(answer, "probabilities") == {
        "name": "probabilities",
        "shape": [50, 2],
        "datatype": "FP64",
        "data": late.predict_proba(frame).ravel().tolist(),
    }


def test_the_endpoints_name_and_the_models_name_both_stand_for_the_model(onnx_server: Running):
    answers = [onnx_server.infer(columns(), name=name).json() for name in ("delays", "late", "late/versions/3")]

    assert all(answer["model_name"] == "late" and answer["model_version"] == "3" for answer in answers)


def test_the_requests_id_comes_back(onnx_server: Running):
    assert onnx_server.infer(columns(id="from-me")).json()["id"] == "from-me"


def test_the_header_x_request_id_comes_back_and_else_is_made(onnx_server: Running):
    given = onnx_server.client.post("/v2/models/late/infer", json=columns(), headers={"x-request-id": "trace-1"}).headers["x-request-id"]
    made = {onnx_server.infer(columns()).headers["x-request-id"] for _ in range(3)}

    assert given == "trace-1"
    assert len(made) == 3


def test_answers_name_the_deployment(onnx_server: Running):
    assert onnx_server.infer(columns()).headers["azureml-model-deployment"] == "1"


def test_only_the_outputs_asked_for_come_back(onnx_server: Running):
    answer = onnx_server.infer(columns(outputs=[{"name": "probabilities"}])).json()

    assert [tensor["name"] for tensor in answer["outputs"]] == ["probabilities"]


def test_an_unknown_output_is_named(onnx_server: Running):
    answer = onnx_server.infer(columns(outputs=[{"name": "probabilites"}]))

    assert answer.status_code == 400
    assert "'probabilites'" in answer.json()["error"] and "probabilities" in answer.json()["error"]


@pytest.mark.parametrize("shape", [[2], [2, 1]])
@pytest.mark.parametrize("nested", [False, True])
def test_a_column_is_flat_or_nested(onnx_server: Running, shape: list[int], nested: bool):
    body = columns(carrier=["UA", "AA"], distance=[1.0, 2.0], hour=[1, 2])
    for tensor in body["inputs"]:
        tensor["shape"] = shape
        tensor["data"] = [[value] for value in tensor["data"]] if nested and len(shape) == 2 else tensor["data"]

    assert output(onnx_server.infer(body).json(), "label")["shape"] == [2]


@pytest.mark.parametrize("datatype", ["FP32", "FP64", "FP16", "INT32", "UINT8"])
def test_numbers_of_any_datatype_fit_a_column_of_floats(onnx_server: Running, datatype: str):
    body = columns(distance=[100])
    body["inputs"][1]["datatype"] = datatype

    assert onnx_server.infer(body).status_code == 200


WRONG = {
    "a datatype of another family": (lambda b: b["inputs"][0].update(datatype="FP32", data=[1.0]), "expected string (datatype BYTES), got datatype FP32"),
    "an unknown datatype": (lambda b: b["inputs"][1].update(datatype="FLOAT"), "no datatype 'FLOAT'"),
    "a shape that does not hold the data": (lambda b: b["inputs"][1].update(shape=[3]), "shape [3] holds 3 values, data has 1"),
    "a wide column": (lambda b: b["inputs"][1].update(shape=[1, 2], data=[1, 2]), "'distance': expected shape [n] or [n, 1], got [1, 2]"),
    "a missing column": (lambda b: b["inputs"].pop(), "missing column 'hour'"),
    "an unknown column": (lambda b: b["inputs"][2].update(name="huor"), "did you mean hour?"),
    "a null": (lambda b: b["inputs"][2].update(data=[None]), "Column 'hour' (row 0): expected int64, got a missing value"),
    "half an hour": (lambda b: b["inputs"][2].update(data=[7.5], datatype="FP64"), "Column 'hour' (row 0): expected whole numbers (int64), got the number 7.5"),
    "no inputs": (lambda b: b.pop("inputs"), "required field `inputs`"),
    "columns of different lengths": (lambda b: b["inputs"][2].update(shape=[2], data=[1, 2]), "'hour': it has 2 rows, 'carrier' has 1"),
}  # fmt: skip


@pytest.mark.parametrize("fault", WRONG)
def test_a_request_that_does_not_fit_is_400_and_says_where(onnx_server: Running, fault: str):
    change, message = WRONG[fault]
    body = columns()
    change(body)
    answer = onnx_server.infer(body)

    assert answer.status_code == 400
    assert message in answer.json()["error"]


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b"[1,2", b"null", b"[]"])
def test_a_body_that_is_no_request_is_400(onnx_server: Running, body: bytes):
    answer = onnx_server.client.post("/v2/models/late/infer", content=body)

    assert (answer.status_code, list(answer.json())) == (400, ["error"])


def test_no_rows_is_400(onnx_server: Running):
    assert onnx_server.infer(columns(carrier=[], distance=[], hour=[])).status_code == 400


def test_another_models_name_is_404_and_told(onnx_server: Running):
    answer = onnx_server.infer(columns(), name="churn")

    assert answer.status_code == 404
    assert "'churn'" in answer.json()["error"]


def test_another_version_is_404_and_told(onnx_server: Running):
    answer = onnx_server.infer(columns(), name="late/versions/9")

    assert answer.status_code == 404
    assert "version 9" in answer.json()["error"]


def test_the_wrong_method_is_405(onnx_server: Running):
    assert onnx_server.client.get("/v2/models/late/infer").status_code == 405


def test_binary_data_without_the_length_of_its_json_is_415_and_told_of_that_header(onnx_server: Running):
    answer = onnx_server.client.post("/v2/models/delays/infer", content=b"{}", headers={"content-type": "application/octet-stream"})

    assert answer.status_code == 415 and "inference-header-content-length" in answer.json()["error"]


@pytest.mark.parametrize("kind", ["application/python-pickle", "application/x-pickle", "application/octet-stream", "application/vnd.bentoml+pickle"])
def test_a_pickle_is_415_on_every_route(onnx_server: Running, kind: str):
    answers = [onnx_server.client.post(path, content=b"\x80\x04", headers={"content-type": kind}).status_code for path in ("/score", "/v2/models/late/infer")]

    assert answers == [415, 415]


def test_text_of_any_script_goes_through(python_server: Running, late: Pipeline):
    frame = pd.DataFrame({"carrier": ["Ünï", "日本", 'a"b\\c\n'], "distance": [1.0, 2.0, 3.0], "hour": [1, 2, 3]})
    answer = python_server.infer(columns(carrier=frame.carrier.tolist(), distance=[1.0, 2.0, 3.0], hour=[1, 2, 3])).json()

    assert output(answer, "probabilities")["data"] == late.predict_proba(frame).ravel().tolist()


@pytest.fixture(scope="module")
def double_server(start_once: Start, tmp_path_factory: pytest.TempPathFactory) -> Running:
    """An ONNX file made elsewhere, registered without data: y = 2x for matrices of three columns, and the row sums."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 3])
    y = helper.make_tensor_value_info("twice", TensorProto.FLOAT, ["rows", 3])
    total = helper.make_tensor_value_info("total", TensorProto.FLOAT, ["rows"])
    axes = helper.make_tensor("axes", TensorProto.INT64, [1], [1])
    nodes = [helper.make_node("Add", ["x", "x"], ["twice"]), helper.make_node("ReduceSum", ["x", "axes"], ["total"], keepdims=0)]
    model = helper.make_model(helper.make_graph(nodes, "g", [x], [y, total], [axes]), opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    folder = tmp_path_factory.mktemp("double")
    onnx.save(model, folder / "model.onnx")
    return start_once(folder, engine="onnxruntime", flavor="onnx", signature=None).until_ready()


def test_an_onnx_file_made_elsewhere_tells_its_own_inputs_and_outputs(double_server: Running):
    told = double_server.client.get("/v2/models/late").json()

    assert shapes(told["inputs"] + told["outputs"]) == [("x", "FP32", [-1, 3]), ("twice", "FP32", [-1, 3]), ("total", "FP32", [-1])]


@pytest.mark.parametrize("data", [[1, 2, 3, 4, 5, 6], [[1, 2, 3], [4, 5, 6]]])
def test_a_tensor_is_flat_or_nested_row_major(double_server: Running, data: list[Any]):
    answer = double_server.infer({"inputs": [{"name": "x", "shape": [2, 3], "datatype": "FP32", "data": data}]}).json()

    assert output(answer, "twice") == {"name": "twice", "shape": [2, 3], "datatype": "FP32", "data": [2, 4, 6, 8, 10, 12]}
    assert output(answer, "total")["data"] == [6, 15]


TENSOR_FAULTS = {
    "two columns": ([1, 2], [1, 2], "FP32", "expected shape [any, 3], got [1, 2]"),
    "a flat row": ([3], [1, 2, 3], "FP32", "expected shape [any, 3], got [3]"),
    "text": ([1, 3], [1, "2", 3], "FP32", "value 1 is '2', not FP32"),
    "ragged": ([2, 3], [[1, 2, 3], [4]], "FP32", "ragged"),
    "too large for its datatype": ([1, 3], [1, 2, 300], "INT8", "does not fit INT8"),
    "too large a float": ([1, 3], [1, 2, -1e39], "FP32", "'x': value 2 is -1e+39, too large for FP32"),
    "too large a double": ([1, 3], [1, 2, -1e39], "FP64", "'x' (row 2): expected a finite number (float32), got the number -1e+39"),
}  # fmt: skip


@pytest.mark.parametrize("fault", TENSOR_FAULTS)
def test_a_tensor_that_does_not_fit_is_400_and_says_why(double_server: Running, fault: str):
    shape, data, datatype, message = TENSOR_FAULTS[fault]
    answer = double_server.infer({"inputs": [{"name": "x", "shape": shape, "datatype": datatype, "data": data}]})

    assert answer.status_code == 400
    assert message in answer.json()["error"]


@pytest.mark.parametrize("sample", [None, np.ones((1, 3), np.float32), pd.DataFrame(np.ones((1, 3)), columns=list("abc"))], ids=["none", "array", "frame"])
def test_an_onnx_file_for_one_row_refuses_two(start: Start, tmp_path: Path, sample: Any):
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "g", [x], [y])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path / "model.onnx")
    known = None if sample is None else signature.infer(sample).as_json()
    server = start(tmp_path, engine="onnxruntime", flavor="onnx", signature=known).until_ready()

    one, two = (server.score({"data": [[1.0, 2.0, 3.0]] * rows}) for rows in (1, 2))

    assert one.json() == {"y": [[2.0, 4.0, 6.0]]}
    assert two.status_code == 400 and two.json()["error"].startswith("Column 'x'")


@pytest.mark.parametrize("body", [{"data": [[1, 2, 1e39]]}, {"inputs": {"x": [[1, 2, 1e39]]}}, {"data": [{"x": [1, 2, 1e39]}]}])
def test_a_number_too_large_is_400_in_azures_ways_too(double_server: Running, body: Any):
    answer = double_server.score(body)

    assert answer.status_code == 400 and "1e+39" in answer.json()["error"]


@pytest.mark.parametrize("body", [{"data": [[1, 2, 3]]}, [[1, 2, 3]], {"inputs": {"x": [[1, 2, 3]]}}, {"x": [[1, 2, 3]]}, {"input_data": [[1, 2, 3]]}])
def test_a_tensor_is_scored_in_azures_ways_too(double_server: Running, body: Any):
    assert double_server.score(body).json() == {"twice": [[2, 4, 6]], "total": [6]}


VALUES = st.lists(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=3) | st.lists(st.integers()), max_size=3
)
TENSORS = st.fixed_dictionaries({
    "name": st.sampled_from(["carrier", "distance", "hour", "x"]), "shape": st.lists(st.integers(-1, 3), max_size=3),
    "datatype": st.sampled_from(["BYTES", "FP32", "FP64", "INT64", "BOOL", "UINT8", "?"]), "data": VALUES,
})  # fmt: skip


def as_sent_short_and_long(server: Running, tensors: str) -> list[tuple[int, bytes]]:
    """What a request answers as it is, and with so much room in it that it is read as long ones are."""
    sent = [f'{{"id": "same", "inputs": {tensors} {room}}}' for room in ("", 20_000 * " ")]
    answers = [server.client.post("/v2/models/late/infer", content=body) for body in sent]
    return [(answer.status_code, answer.content) for answer in answers]


@given(tensors=st.lists(TENSORS, max_size=4))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_tensors_make_the_server_stumble_and_long_ones_are_taken_as_short_ones(onnx_server: Running, double_server: Running, tensors: list[dict[str, Any]]):
    for server in (onnx_server, double_server):
        short, long = as_sent_short_and_long(server, json.dumps(tensors))
        assert short[0] in (200, 400)
        assert short == long


REFUSED = ["true", "false", "null", '"2"', '"true"', "[2]", "{}", "NaN", "1e400", "1e39", "-1e39", "01"]
TAKEN = ["1e-400", "-0", "-0.0", f"{2**70}", "0.1", "16777217"]


@pytest.mark.parametrize("value", REFUSED + TAKEN)
@pytest.mark.parametrize("whole", [False, True], ids=["in the data", "instead of the data"])
def test_a_value_in_a_long_body_is_taken_or_refused_as_in_a_short_one(double_server: Running, value: str, whole: bool):
    data = value if whole else f"[1, {value}, 3]"
    short, long = as_sent_short_and_long(double_server, f'[{{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": {data}}}]')

    assert short == long
    assert short[0] == (200 if value in TAKEN and not whole else 400)


ODD = {
    "spaces": ('[{"name": "x", "shape": [1, 3], "datatype": "FP32", "data" :\n[ 1, 2, 3 ]}]', 200),
    "data first": ('[{"data":[1,2,3],"name":"x","shape":[1,3],"datatype":"FP32"}]', 200),
    "data twice": ('[{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3], "data": [4, 5, 6]}]', 200),
    "data twice, then none": ('[{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3], "data": []}]', 400),
    "data spelled otherwise too": (r'[{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3], "d\u0061ta": [4, 5, 6]}]', 200),
    "data spelled otherwise, empty": (r'[{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3], "d\u0061ta": []}]', 400),
    "a quote before it": (r'[{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [], "\"data": [1, 2, 3]}]', 400),
    "in a text": (r'[{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3], "note": "\"data\":[9]"}]', 200),
    "in parameters": ('[{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3], "parameters": {"data": [9]}}]', 200),
    "in parameters alone": ('[{"name": "x", "shape": [1, 3], "datatype": "FP32", "parameters": {"data": [1, 2, 3]}}]', 400),
    "a bracket in a text": ('[{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, "]", 3]}]', 400),
    "nested": ('[{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [[1, 2, 3]]}]', 200),
    "two of one name": (
        '[{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 2, 3]}, {"name": "x", "shape": [0, 3], "datatype": "FP32", "data": []}]',
        400,
    ),
}  # fmt: skip
"""Where the data are found is no matter of how a body is written."""


@pytest.mark.parametrize("odd", ODD)
def test_a_body_in_an_odd_form_is_answered_the_same_however_long(double_server: Running, odd: str):
    tensors, status = ODD[odd]
    short, long = as_sent_short_and_long(double_server, tensors)

    assert short == long
    assert short[0] == status


@given(numbers=st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False) | st.integers(-(2**80), 2**80), min_size=3, max_size=3))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_number_is_the_same_float_in_a_long_body_as_in_a_short_one(double_server: Running, numbers: list[float]):
    short, long = as_sent_short_and_long(double_server, json.dumps([{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": numbers}]))

    assert short == long


def test_a_value_that_an_operator_refuses_is_the_callers_fault_and_told_by_its_tensor(start: Start, tmp_path: Path):
    rows, table = helper.make_tensor_value_info("word", TensorProto.INT64, ["rows"]), helper.make_tensor("table", TensorProto.FLOAT, [4, 2], range(8))
    answer = helper.make_tensor_value_info("meaning", TensorProto.FLOAT, ["rows", 2])
    graph = helper.make_graph([helper.make_node("Gather", ["table", "word"], ["meaning"])], "g", [rows], [answer], [table])
    (tmp_path / "model.onnx").write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString())
    server = start(tmp_path, engine="onnxruntime").until_ready()

    good, bad = (server.infer({"inputs": [{"name": "word", "shape": [1], "datatype": "INT64", "data": [word]}]}, "late") for word in (3, 9))

    assert good.json()["outputs"][0]["data"] == [6.0, 7.0]
    assert bad.status_code == 400 and "Column 'word': the model's Gather takes no such value: indices element out of data bounds, idx=9" in bad.text
