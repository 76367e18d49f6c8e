"""POST /score, in the shapes that people send."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import Pipeline

from mlops_nb import conversion, signature
from mlops_nb.errors import SignatureMismatch
from mlops_nb.serving import score

from .scoring_servers import Running, Start

ROW = {"carrier": "UA", "distance": 500.5, "hour": 7}
SHAPES = {
    "records": [ROW, ROW],
    "data of records": {"data": [ROW, ROW]},
    "data of rows": {"data": [["UA", 500.5, 7], ["UA", 500.5, 7]]},
    "data of columns": {"data": {"carrier": ["UA", "UA"], "distance": [500.5, 500.5], "hour": [7, 7]}},
    "input_data as pandas split": {"input_data": {"columns": ["hour", "carrier", "distance"], "index": [0, 1], "data": [[7, "UA", 500.5]] * 2}},
    "input_data of rows": {"input_data": [["UA", 500.5, 7], ["UA", 500.5, 7]]},
    "pandas split": {"columns": ["carrier", "distance", "hour"], "index": [0, 1], "data": [["UA", 500.5, 7]] * 2},
    "dataframe_split": {"dataframe_split": {"columns": ["carrier", "distance", "hour"], "data": [["UA", 500.5, 7]] * 2}},
    "inputs": {"inputs": {"hour": [7, 7], "carrier": ["UA", "UA"], "distance": [500.5, 500.5]}},
    "columns": {"carrier": ["UA", "UA"], "distance": [500.5, 500.5], "hour": [7, 7]},
    "with parameters beside": {"input_data": [ROW, ROW], "params": {}},
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_of_body_gives_the_same_answer(python_server: Running, late: Pipeline, shape: str):
    answer = python_server.score(SHAPES[shape])

    frame = pd.DataFrame([ROW, ROW])
    assert answer.json() == {"label": late.predict(frame).tolist(), "probabilities": late.predict_proba(frame).tolist()}


def test_a_number_of_32_bits_is_one_in_a_matrix_of_64_whatever_the_shape_of_the_body(start: Start, tmp_path: Path):
    rng = np.random.default_rng(5)
    frame = pd.DataFrame({"narrow": rng.normal(size=2000).astype("float32"), "wide": rng.normal(size=2000)})
    model = HistGradientBoostingClassifier(max_iter=20, random_state=0).fit(frame, (frame["narrow"] + frame["wide"] > 0.3).astype(int))
    (tmp_path / "model.onnx").write_bytes(conversion.to_onnx(model, signature.infer(frame), frame).onnx or b"")
    server = start(tmp_path, engine="onnxruntime", signature=signature.infer(frame).as_json()).until_ready()
    rows = [[float(str(narrow)), wide] for narrow, wide in zip(frame["narrow"].to_numpy(), frame["wide"].tolist(), strict=True)]  # as few digits as tell it

    answers = [server.score(body).json()["probabilities"] for body in ([dict(zip(frame, row, strict=True)) for row in rows], {"data": rows})]

    assert answers[0] == answers[1]
    assert np.allclose(answers[0], model.predict_proba(frame), atol=1e-5)


def test_one_record_is_one_row(python_server: Running):
    assert len(python_server.score(ROW).json()["label"]) == 1


def test_the_answer_names_request_and_deployment(python_server: Running):
    headers = python_server.score([ROW], **{"x-request-id": "mine"}).headers

    assert (headers["x-request-id"], headers["azureml-model-deployment"]) == ("mine", "1")


def test_curl_without_a_content_type_is_understood(onnx_server: Running):
    answer = onnx_server.client.post("/score", content=msgspec.json.encode([ROW]), headers={"content-type": "application/x-www-form-urlencoded"})

    assert answer.status_code == 200


def test_a_chunked_body_is_understood(onnx_server: Running):
    body = msgspec.json.encode([ROW])

    assert onnx_server.client.post("/score", content=iter([body[:10], body[10:]])).status_code == 200


def test_a_carrier_001_stays_text(python_server: Running, late: Pipeline):
    answer = python_server.score([{**ROW, "carrier": "001"}]).json()

    assert answer["probabilities"] == late.predict_proba(pd.DataFrame([{**ROW, "carrier": "001"}])).tolist()


def test_a_number_is_not_taken_for_text(python_server: Running):
    answer = python_server.score([ROW, {**ROW, "carrier": 1}])

    assert answer.status_code == 400
    assert answer.json()["error"].startswith("Column 'carrier' (row 1): expected string, got the number 1")


REFUSED = {
    "a null": ([ROW, {**ROW, "distance": None}], "Column 'distance' (row 1): expected float64, got a missing value"),
    "a key that one row lacks": ([ROW, {"carrier": "UA", "hour": 1}], "Column 'distance' (row 1): expected float64, got nothing"),
    "a column that all rows lack": ([{"carrier": "UA", "hour": 1}], "missing column 'distance'"),
    "a misspelt column": ([{"carrier": "UA", "distanse": 1, "hour": 1}], "did you mean distance?"),
    "a column too many": ([{**ROW, "late": 1}], "unknown column 'late'"),
    "a column too many in one row": ([ROW, {**ROW, "huor": 1}], "unknown column 'huor'"),
    "a row too short": ({"data": [["UA", 1, 2], ["UA", 1]]}, "Row 1 has 2 values; the model takes 3"),
    "no rows": ([], "no rows"),
    "no rows in columns": ({"inputs": {"carrier": [], "distance": [], "hour": []}}, "no rows"),
    "a number": (3, "not rows"),
    "a mixture of rows": ([ROW, 3], "Row 1 is no record of columns"),
    "a column twice": ({"columns": ["carrier", "carrier", "distance", "hour"], "data": [["UA", "AA", 1, 2]]}, "Column 'carrier': two columns have this name"),
    "a column that is a number": ({"inputs": {"carrier": ["UA"], "distance": 1, "hour": [1]}}, "Column 'distance': expected a list of float64"),
    "text for a number": ([{**ROW, "hour": "7"}], "Column 'hour' (row 0): expected int64, got text '7'"),
    "a truth for a number": ([{**ROW, "hour": True}], "Column 'hour' (row 0): expected int64, got the truth value True"),
    "a number too large": ([{**ROW, "hour": 2**70}], "Column 'hour' (row 0): expected int64"),
}  # fmt: skip


@pytest.mark.parametrize("fault", REFUSED)
def test_data_that_does_not_fit_is_400_and_names_column_and_row(python_server: Running, fault: str):
    body, message = REFUSED[fault]
    answer = python_server.client.post("/score", content=msgspec.json.encode(body) if fault != "a number too large" else str(body).replace("'", '"'))

    assert answer.status_code == 400
    assert message in answer.json()["error"]


def test_a_body_with_nan_is_told_what_json_has_for_it(python_server: Running):
    answer = python_server.client.post("/score", content=json.dumps([ROW | {"distance": float("nan")}]).encode())

    assert answer.status_code == 400 and "a missing value is null" in answer.json()["error"]
    assert "null" not in python_server.client.post("/score", content=b"NaN?").json()["error"]


def test_markup_in_a_column_name_comes_back_as_json_text_only(python_server: Running):
    answer = python_server.score([{**ROW, "<script>alert(1)</script>": 1}])

    assert answer.headers["content-type"] == "application/json"


def test_a_model_made_with_a_bare_matrix_takes_a_frame_of_its_width(start: Start, pickled: Callable[[Any], Path]):
    model = LinearRegression().fit(np.eye(2), [1.0, 2.0])
    server = start(pickled(model), signature=signature.infer(np.eye(2)).as_json()).until_ready()

    assert server.score({"inputs": {"a": [1, 0], "b": [0, 1]}}).json() == {"prediction": model.predict(np.eye(2)).tolist()}


def test_an_object_of_the_users_own_answers_output_or_its_dicts_keys(start: Start, pickled: Callable[[Any], Path]):
    class Twice:
        def predict(self, frame):
            return {"twice": frame["a"] * 2, "text": ["ü"] * len(frame)}

    server = start(pickled(Twice()), flavor="python", signature=signature.infer(pd.DataFrame({"a": [1, 2]})).as_json()).until_ready()

    assert server.score([{"a": 4}]).json() == {"twice": [8], "text": ["ü"]}


def test_a_nan_in_the_answer_is_null(start: Start, pickled: Callable[[Any], Path]):
    class Unsure:
        def predict(self, frame):
            return frame["a"] / frame["a"]

    server = start(pickled(Unsure()), flavor="python", signature=signature.infer(pd.DataFrame({"a": [1.0, 0.0]})).as_json()).until_ready()

    assert server.score([{"a": 0.0}]).json() == {"output": [None]}


def test_a_model_without_a_signature_takes_what_comes(start: Start, late_pickle: Path, late: Pipeline):
    server = start(late_pickle, signature=None).until_ready()

    assert server.score([ROW]).json()["probabilities"] == late.predict_proba(pd.DataFrame([ROW])).tolist()


FLIGHTS = st.lists(
    st.fixed_dictionaries({"carrier": st.text(max_size=8), "distance": st.floats(-1e6, 1e6), "hour": st.integers(-(2**63), 2**63 - 1)}), min_size=1, max_size=6
)


@given(rows=FLIGHTS)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_goes_through_json_is_predicted_as_in_the_notebook(python_server: Running, late: Pipeline, rows: list[dict[str, Any]]):
    frame = pd.DataFrame(rows).astype({"hour": "int64"})
    body = {"inputs": signature.as_lists(signature.to_columns(frame))}

    assert python_server.score(body).json()["probabilities"] == late.predict_proba(frame).tolist()


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda children: (
        st.lists(children, max_size=3) | st.dictionaries(st.sampled_from([*ROW, "data", "columns", "inputs", "input_data", "x"]), children, max_size=4)
    ),
    max_leaves=12,
)


@given(body=ANYTHING)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_json_makes_the_server_stumble(onnx_server: Running, body: Any):
    assert onnx_server.client.post("/score", content=json.dumps(body)).status_code in (200, 400)


# ── entry scripts ──

KEEPS_ITS_FOLDER = """
import os

def init():
    global folder
    folder = os.environ["AZUREML_MODEL_DIR"]

def run(raw_data):
    return [type(raw_data).__name__, raw_data, folder]
"""

COUNTS_WHO_IS_INSIDE = """
import time
inside = 0

def run(raw_data):
    global inside
    inside += 1
    time.sleep(0.02)
    most = inside
    inside -= 1
    return most
"""


def test_an_entry_script_gets_the_body_as_text(start: Start, script: Callable[[str], Path]):
    folder = script(KEEPS_ITS_FOLDER)
    server = start(folder, engine="script", flavor="script").until_ready()

    answer = server.client.post("/score", content='{"a":  "ü"}'.encode())

    assert answer.json() == ["str", '{"a":  "ü"}', str(folder)]


RETURNED = {
    "text": "text",
    "columns": {"a": [1]},
    "an array": [1.5, 2.0],
    "a number of numpy's": 3,
    "a frame": [{"a": 1}],
    "nothing": None,
}  # fmt: skip

RETURNS = """
import json
import numpy as np
import pandas as pd

VALUES = {
    "text": "text",
    "columns": {"a": [1]},
    "an array": np.array([1.5, 2]),
    "a number of numpy's": np.int64(3),
    "a frame": pd.DataFrame({"a": [1]}),
    "nothing": None,
}

def run(raw_data):
    return VALUES[json.loads(raw_data)]
"""


@pytest.fixture(scope="module")
def returning_server(start_once: Start, tmp_path_factory: pytest.TempPathFactory) -> Running:
    folder = tmp_path_factory.mktemp("returning")
    (folder / "entry").mkdir()
    (folder / "entry" / "score.py").write_text(RETURNS)
    return start_once(folder, engine="script", flavor="script").until_ready()


@pytest.mark.parametrize("kind", RETURNED)
def test_what_an_entry_script_returns_is_answered_as_json(returning_server: Running, kind: str):
    assert returning_server.score(kind).json() == RETURNED[kind]


def test_an_entry_script_finds_the_modules_that_came_with_it(start: Start, script: Callable[[str], Path]):
    folder = script("import outer\ndef run(raw_data):\n    return outer.answer()\n")
    (folder / "code").mkdir()
    (folder / "code" / "outer.py").write_text("import inner\ndef answer():\n    return inner.VALUE\n")
    (folder / "code" / "inner.py").write_text("VALUE = 42\n")

    assert start(folder, engine="script", flavor="script").until_ready().score({}).json() == 42


def test_requests_to_an_entry_script_run_one_after_another(start: Start, script: Callable[[str], Path]):
    from concurrent.futures import ThreadPoolExecutor

    server = start(script(COUNTS_WHO_IS_INSIDE), engine="script", flavor="script").until_ready()

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: server.score({}).json(), range(16))) == {1}


@pytest.mark.parametrize("rows", [[[1.0], [2.0]], [[1.0, 2.0], [3.0, 4.0]]])
def test_a_bare_matrix_fits_the_one_input_of_an_onnx_model_whatever_its_name(rows: list[list[float]]):
    takes = signature.Signature(kind="tensors", inputs=[signature.Column(name="X", type="float32", shape=[None, len(rows[0])])], outputs=[], sample={})

    given = takes.check(score.columns({"inputs": {"input": rows}}, takes))

    assert given["X"].tolist() == rows


A_TABLE = signature.Signature(kind="table", inputs=[signature.Column(name=name, type="float64") for name in ("age", "income")], outputs=[], sample=[])


@pytest.mark.parametrize(
    ("array", "told"),
    [
        ([[1.0, 2.0, 3.0]], "Row 0 has 3 values; the model takes 2: age, income."),
        ([1.0, 2.0], "An array of one dimension is one column; the model takes 2: age, income."),
        ([[[1.0], [2.0], [3.0]]], "Row 0 has 3 values; the model takes 2: age, income."),
    ],
)
def test_an_array_of_another_shape_is_told_by_its_shape(array: list[Any], told: str):
    with pytest.raises(SignatureMismatch) as caught:
        score.columns({"inputs": {"input": array}}, A_TABLE)
    assert str(caught.value).startswith(told) and "'input'" not in str(caught.value)


def test_an_array_of_one_dimension_fits_a_model_of_one_column():
    one = signature.Signature(kind="table", inputs=A_TABLE.inputs[:1], outputs=[], sample=[])

    assert score.columns({"inputs": {"input": [1.0, 2.0]}}, one) == {"age": [1.0, 2.0]}
