"""Entry scripts written for Azure ML run unchanged."""

from __future__ import annotations

import io
import json

import joblib
import numpy as np
import pytest
from sklearn.linear_model import Ridge

from entry.conftest import Serve

# In the manner of the public samples "sklearn_regression_model" and "author entry scripts for advanced scenarios".
REGRESSION = """
import json
import logging
import os

import joblib
import numpy


def init():
    global model
    model_path = os.path.join(os.getenv("AZUREML_MODEL_DIR"), "model/sklearn_regression_model.pkl")
    model = joblib.load(model_path)
    logging.info("Init complete")


def run(raw_data):
    logging.info("Request received")
    data = json.loads(raw_data)["data"]
    data = numpy.array(data)
    result = model.predict(data)
    return result.tolist()
"""

RAW = """
from azureml.contrib.services.aml_request import AMLRequest, rawhttp
from azureml.contrib.services.aml_response import AMLResponse
import json


def init():
    print("This is init()")


@rawhttp
def run(request: AMLRequest):
    print(f"Request: [{request}]")
    if request.method == "GET":
        return AMLResponse(str.encode(request.full_path), 200)
    if request.files:
        said = {name: [file.filename, len(file.read())] for name, file in request.files.items()}
        return AMLResponse(said | dict(request.form), 201, json_str=True)
    if request.content_type == "image/png":
        return AMLResponse(bytes(reversed(request.get_data(False))), 200, {"Content-Type": "image/png", "X-Turned": "yes"})
    return AMLResponse("bad request", 500)
"""


@pytest.fixture(scope="module")
def regression() -> bytes:
    file = io.BytesIO()
    joblib.dump(Ridge().fit(np.arange(20).reshape(10, 2), np.arange(10.0)), file)
    return file.getvalue()


def test_a_public_sample_finds_its_model_where_azure_puts_it(serve: Serve, regression: bytes):
    server = serve(REGRESSION, {"sklearn_regression_model.pkl": regression})

    assert server.score({"data": [[0, 1], [18, 19]]}).json() == pytest.approx([0, 9], abs=0.1)


def test_raw_http_takes_any_method_body_and_form(serve: Serve):
    server = serve(RAW)

    assert server.client.get("/score?a=1&b=2").text == "/score?a=1&b=2"
    image = server.client.post("/score", content=b"\x89PNG\r\n\x00", headers={"content-type": "image/png"})
    assert (image.content, image.headers["content-type"], image.headers["x-turned"]) == (b"\x00\n\rGNP\x89", "image/png", "yes")
    form = server.client.post("/score", data={"who": "ü"}, files={"photo": ("p.png", b"\r\n--\x00\xff\r\n", "image/png")})
    assert (form.status_code, form.json()) == (201, {"photo": ["p.png", 8], "who": "ü"})


def test_a_response_of_500_is_sent_as_the_script_made_it(serve: Serve):
    answer = serve(RAW).client.post("/score", content=b"?", headers={"content-type": "text/plain"})

    assert (answer.status_code, answer.text) == (500, "bad request")


def test_what_a_script_says_its_answer_is_comes_first(serve: Serve):
    source = """
from azureml.contrib.services.aml_request import rawhttp
from azureml.contrib.services.aml_response import AMLResponse


@rawhttp
def run(request):
    response = AMLResponse(message=b"abc", status_code=200)
    response.mimetype = request.args["kind"]
    return response
"""
    server = serve(source)

    assert server.client.get("/score?kind=image/jpg").headers.get_list("content-type") == ["image/jpg"]
    assert server.client.get("/score?kind=text/csv").headers.get_list("content-type") == ["text/csv; charset=utf-8"]


def test_a_json_string_is_answered_as_a_string_as_azure_does(serve: Serve):
    server = serve("import json\ndef run(raw_data):\n    return json.dumps({'result': [1]})\n")

    assert json.loads(server.score({}).json()) == {"result": [1]}


def test_a_query_and_the_headers_reach_a_plain_script(serve: Serve):
    server = serve("def run(raw_data, request_headers):\n    return [raw_data, request_headers['X-Who'], 'X-Mlops-Token' in request_headers]\n")

    answer = server.client.get("/score?a=1&a=x&b=[1,2]", headers={"x-who": "me"}).json()

    assert (json.loads(answer[0]), answer[1:]) == ({"a": [1, "x"], "b": [1, 2]}, ["me", False])


def test_files_that_came_along_lie_beside_the_script(serve: Serve):
    source = """
import os
from labels import LABELS
with open(os.path.join(os.path.dirname(__file__), "words.txt")) as file:
    WORDS = file.read()
def run(raw_data):
    with open("./more/numbers.txt") as file:
        return [LABELS, WORDS, file.read()]
"""
    server = serve(source, {"code/labels.py": b"LABELS = 'a'", "code/words.txt": b"b", "more/numbers.txt": b"c"})

    assert server.score({}).json() == ["a", "b", "c"]


def test_names_of_the_first_sdk_lead_to_the_model(serve: Serve, regression: bytes):
    source = """
import os
from azureml.core.model import Model
def init():
    global path
    path = Model.get_model_path("ridge")
def run(raw_data):
    return os.path.basename(path)
"""
    assert serve(source, {"ridge.pkl": regression}).score({}).json() == "ridge.pkl"


def test_a_body_that_is_no_text_is_refused_for_a_script_that_wants_text(serve: Serve):
    answer = serve("def run(raw_data):\n    return raw_data\n").client.post("/score", content=b"\xff")

    assert answer.status_code == 400 and "@rawhttp" in answer.json()["error"]


SCHEMA = """
import numpy as np
from inference_schema.schema_decorators import input_schema, output_schema
from inference_schema.parameter_types.numpy_parameter_type import NumpyParameterType
from inference_schema.parameter_types.standard_py_parameter_type import StandardPythonParameterType


def init():
    pass


@input_schema("data", NumpyParameterType(np.array([[1.0, 2.0]])))
@input_schema("factor", StandardPythonParameterType(2))
@output_schema(NumpyParameterType(np.array([3.0])))
def run(data, factor=1):
    return (data.sum(axis=1) * factor).tolist()
"""


def test_a_schema_turns_the_body_into_arguments(serve: Serve):
    server = serve(SCHEMA)

    assert server.score({"data": [[1, 2], [3, 4]], "factor": 10}).json() == [30, 70]
    lacking = server.score({"factor": 10})
    assert lacking.status_code == 400 and "data" in lacking.json()["error"]
