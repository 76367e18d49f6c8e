"""Tensors as bytes, bodies in gzip, tables in Arrow; and what is wrong with them is said."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from sklearn.pipeline import Pipeline

from mlops_nb import signature

from .scoring_servers import Running, Start

DATATYPES = {
    "BOOL": ("?", TensorProto.BOOL), "INT8": ("i1", TensorProto.INT8), "INT16": ("i2", TensorProto.INT16), "INT32": ("i4", TensorProto.INT32),
    "INT64": ("i8", TensorProto.INT64), "UINT8": ("u1", TensorProto.UINT8), "UINT16": ("u2", TensorProto.UINT16), "UINT32": ("u4", TensorProto.UINT32),
    "UINT64": ("u8", TensorProto.UINT64), "FP16": ("f2", TensorProto.FLOAT16), "FP32": ("f4", TensorProto.FLOAT), "FP64": ("f8", TensorProto.DOUBLE),
    "BYTES": ("O", TensorProto.STRING),
}  # fmt: skip
MATRIX = {name: np.array([[0, 1], [1, 0], [1, 1]], dtype=dtype) for name, (dtype, _) in DATATYPES.items() if name != "BYTES"}
MATRIX["BYTES"] = np.array([["", "ü"], ["日本", "a\0b"], ["x" * 300, "y"]], dtype=object)


@pytest.fixture(scope="module")
def mirror(start_once: Start, tmp_path_factory: pytest.TempPathFactory) -> Running:
    """A model with one input and one output of every datatype, each answered as it came."""
    pairs = [(f"in_{name}", f"out_{name}", kind) for name, (_, kind) in DATATYPES.items()]
    values = [[helper.make_tensor_value_info(pair[side], pair[2], ["rows", 2]) for pair in pairs] for side in (0, 1)]
    nodes = [helper.make_node("Identity", [given], [answered]) for given, answered, _ in pairs]
    model = helper.make_model(helper.make_graph(nodes, "g", *values), opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    folder = tmp_path_factory.mktemp("mirror")
    onnx.save(model, folder / "model.onnx")
    return start_once(folder, engine="onnxruntime", flavor="onnx", signature=None).until_ready()


@pytest.fixture(scope="module")
def numbers(start_once: Start, tmp_path_factory: pytest.TempPathFactory) -> Running:
    """A model that answers a matrix of finite floats and a vector of whole numbers as they came."""
    pairs = [("x", "x_out", TensorProto.FLOAT, ["rows", 2]), ("n", "n_out", TensorProto.INT64, ["rows"])]
    values = [[helper.make_tensor_value_info(pair[side], pair[2], pair[3]) for pair in pairs] for side in (0, 1)]
    nodes = [helper.make_node("Identity", [given], [answered]) for given, answered, *_ in pairs]
    folder = tmp_path_factory.mktemp("numbers")
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", *values), opset_imports=[helper.make_opsetid("", 17)], ir_version=9), folder / "model.onnx")
    known = signature.infer({"x": np.ones((3, 2), dtype=np.float32), "n": np.arange(3)}).as_json()
    return start_once(folder, engine="onnxruntime", flavor="onnx", signature=known).until_ready()


def in_bytes(array: np.ndarray) -> bytes:
    if array.dtype.kind != "O":
        return array.tobytes()
    return b"".join(len(text.encode()).to_bytes(4, "little") + text.encode() for text in array.ravel())


def ask(server: Running, tensors: list[tuple[str, str, Any]], *, binary: bool, answer: dict[str, Any], **headers: str) -> Any:
    """POST …/infer with *tensors* in bytes or JSON."""
    inputs, rest = [], b""
    for name, datatype, array in tensors:
        tensor: dict[str, Any] = {"name": name, "shape": list(array.shape), "datatype": datatype}
        if binary:
            given = in_bytes(array)
            tensor["parameters"], rest = {"binary_data_size": len(given)}, rest + given
        else:
            tensor["data"] = array.tolist()
        inputs.append(tensor)
    text = json.dumps({"inputs": inputs} | answer).encode()
    if binary:
        headers |= {"inference-header-content-length": str(len(text)), "content-type": "application/octet-stream"}
    return server.client.post("/v2/models/late/infer", content=text + rest, headers=headers)


def read(response: Any) -> dict[str, Any]:
    """Outputs by name as lists, out of JSON or bytes."""
    length = int(response.headers.get("inference-header-content-length", len(response.content)))
    told, rest = json.loads(response.content[:length]), response.content[length:]
    outputs = {}
    for tensor in told["outputs"]:
        dtype = DATATYPES[tensor["datatype"]][0]
        if (size := tensor.get("parameters", {}).get("binary_data_size")) is None:
            outputs[tensor["name"]] = np.array(tensor["data"], dtype=dtype).reshape(tensor["shape"]).tolist()
            continue
        given, rest = rest[:size], rest[size:]
        values = texts_of(given) if dtype == "O" else np.frombuffer(given, dtype=dtype)
        outputs[tensor["name"]] = np.array(values, dtype=dtype).reshape(tensor["shape"]).tolist()
    assert not rest
    return outputs


def texts_of(given: bytes) -> list[str]:
    texts = []
    while given:
        size = int.from_bytes(given[:4], "little")
        texts.append(given[4 : 4 + size].decode())
        given = given[4 + size :]
    return texts


@pytest.mark.parametrize("back", ["json", "binary"])
@pytest.mark.parametrize("there", ["json", "binary"])
def test_every_datatype_comes_back_as_it_went(mirror: Running, there: str, back: str):
    tensors = [(f"in_{name}", name, array) for name, array in MATRIX.items()]
    answer = ask(mirror, tensors, binary=there == "binary", answer={"parameters": {"binary_data_output": back == "binary"}})

    assert answer.status_code == 200, answer.text
    assert read(answer) == {f"out_{name}": array.tolist() for name, array in MATRIX.items()}


def test_other_bytes_after_the_same_json_get_their_own_answers(numbers: Running):
    for start in range(6):
        x, n = np.arange(start, start + 6, dtype=np.float32).reshape(3, 2), np.arange(start, start + 3)

        answer = ask(numbers, [("x", "FP32", x), ("n", "INT64", n)], binary=True, answer={"parameters": {"binary_data_output": True}})

        assert read(answer) == {"x_out": x.tolist(), "n_out": n.tolist()}


def test_each_answer_carries_the_id_of_its_request(numbers: Running):
    tensors = [("x", "FP32", np.ones((1, 2), dtype=np.float32)), ("n", "INT64", np.ones(1, dtype=np.int64))]
    answers = [ask(numbers, tensors, binary=True, answer={"id": id}) for id in ("a", "b", "a")]

    assert [answer.json()["id"] for answer in answers] == ["a", "b", "a"]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_number_that_may_not_be_is_refused_by_its_tensor_after_good_ones_of_the_same_json(numbers: Running, bad: float):
    n = np.ones(2, dtype=np.int64)
    statuses = []
    for value in (1.0, bad, 2.0):
        answer = ask(numbers, [("x", "FP32", np.array([[1, 2], [3, value]], dtype=np.float32)), ("n", "INT64", n)], binary=True, answer={})
        statuses.append(answer.status_code)
        assert answer.status_code == 200 or "'x'" in answer.json()["error"]

    assert statuses == [200, 400, 200]


def test_tensors_in_another_order_or_type_are_answered_alike(numbers: Running):
    x, n = np.array([[0.5, 1.5]], dtype=np.float32), np.array([7])
    orders = [[("x", "FP32", x), ("n", "INT64", n)], [("n", "INT64", n), ("x", "FP32", x)], [("x", "FP64", x.astype(float)), ("n", "INT32", n.astype("i4"))]]

    assert [read(ask(numbers, tensors, binary=True, answer={})) for tensors in orders] == [{"x_out": x.tolist(), "n_out": [7]}] * 3


def test_each_output_says_itself_whether_it_comes_in_bytes(mirror: Running):
    tensors = [(f"in_{name}", name, array) for name, array in MATRIX.items()]
    wanted = [{"name": "out_FP32", "parameters": {"binary_data": False}}, {"name": "out_BYTES"}, {"name": "out_INT8"}]
    answer = ask(mirror, tensors, binary=True, answer={"outputs": wanted, "parameters": {"binary_data_output": True}})

    told = json.loads(answer.content[: int(answer.headers["inference-header-content-length"])])["outputs"]
    assert [("data" in tensor, tensor["name"]) for tensor in told] == [(True, "out_FP32"), (False, "out_BYTES"), (False, "out_INT8")]
    assert list(read(answer)) == ["out_FP32", "out_BYTES", "out_INT8"]


def test_the_extensions_are_listed(mirror: Running):
    assert mirror.client.get("/v2").json()["extensions"] == ["binary_tensor_data", "gzip", "arrow_stream"]


FLIGHT = [("carrier", "BYTES", np.array(["UA"], dtype=object)), ("distance", "FP64", np.array([500.5])), ("hour", "INT64", np.array([7]))]


def test_a_tables_columns_go_in_as_bytes(onnx_server: Running):
    in_json, in_binary = (read(ask(onnx_server, FLIGHT, binary=binary, answer={})) for binary in (False, True))

    assert in_binary == in_json


BROKEN = {
    "truncated": (lambda header, rest: (header, rest[:-3]), "'hour': binary_data_size is 8; 5 bytes are left"),
    "too long": (lambda header, rest: (header, rest + b"xy"), "2 bytes more"),
    "a size that is not the shape's": (lambda header, rest: (header.replace(b'"binary_data_size": 8', b'"binary_data_size": 4', 1), rest), "'distance'"),
    "a negative size": (lambda header, rest: (header.replace(b'"binary_data_size": 8', b'"binary_data_size": -8', 1), rest), "'distance'"),
    "a size that is text": (lambda header, rest: (header.replace(b'"binary_data_size": 8', b'"binary_data_size": "8"', 1), rest), "'distance'"),
    "a text that ends early": (lambda header, rest: (header, b"\xff\0\0\0" + rest[4:]), "'carrier': its bytes end within a value"),
    "text that is not UTF-8": (lambda header, rest: (header, rest[:4] + b"\xff\xfe" + rest[6:]), "'carrier': expected text in UTF-8"),
    "not a number": (lambda header, rest: (header, rest[:6] + np.array([np.nan]).tobytes() + rest[14:]), "'distance' (row 0): expected float64, got a missing"),
    "infinity": (lambda header, rest: (header, rest[:6] + np.array([-np.inf]).tobytes() + rest[14:]), "'distance' (row 0): expected a finite number"),
}  # fmt: skip


@pytest.mark.parametrize("fault", BROKEN)
def test_broken_bytes_are_400_and_name_the_tensor(onnx_server: Running, fault: str):
    change, message = BROKEN[fault]
    sizes = [{"name": name, "shape": [1], "datatype": kind, "parameters": {"binary_data_size": len(in_bytes(array))}} for name, kind, array in FLIGHT]
    header, rest = change(json.dumps({"inputs": sizes}).encode(), b"".join(in_bytes(array) for _, _, array in FLIGHT))
    answer = onnx_server.client.post("/v2/models/late/infer", content=header + rest, headers={"inference-header-content-length": str(len(header))})

    assert (answer.status_code, message in answer.json()["error"]) == (400, True), answer.text


@pytest.mark.parametrize("length", ["-1", "x", "999999", "", "1e3"])
def test_a_header_length_that_cannot_be_is_400(onnx_server: Running, length: str):
    assert onnx_server.client.post("/v2/models/late/infer", content=b"{}", headers={"inference-header-content-length": length}).status_code == 400


@given(body=st.binary(max_size=200), length=st.integers(0, 220))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_bytes_make_the_server_stumble(onnx_server: Running, body: bytes, length: int):
    header = json.dumps(
        {"inputs": [{"name": "carrier", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": max(0, len(body) - 3)}}]}
    ).encode()
    for content, size in ((body, length), (header + body, len(header))):
        answer = onnx_server.client.post("/v2/models/late/infer", content=content, headers={"inference-header-content-length": str(size)})
        assert answer.status_code == 400


# ── gzip ──

ROW = {"carrier": "UA", "distance": 500.5, "hour": 7}


def test_a_gzipped_body_is_understood(onnx_server: Running):
    packed = onnx_server.client.post("/score", content=gzip.compress(json.dumps([ROW]).encode()), headers={"content-encoding": "gzip"})

    assert packed.json() == onnx_server.score([ROW]).json()


def test_a_long_answer_is_gzipped_for_those_who_take_it(onnx_server: Running):
    plain, packed = (onnx_server.client.post("/score", json=[ROW] * 2000, headers={"accept-encoding": coding}) for coding in ("identity", "gzip"))

    assert (packed.headers.get("content-encoding"), plain.headers.get("content-encoding")) == ("gzip", None)
    assert packed.json() == plain.json()


WRONG_GZIP = {
    "not gzip": (b"[]", "gzip", 400),
    "cut off": (gzip.compress(json.dumps([ROW]).encode())[:-4], "gzip", 400),
    "something after it": (gzip.compress(b"[]") + b"x", "gzip", 400),
    "another coding": (b"[]", "br", 415),
    "a bomb": (gzip.compress(bytes(70_000_000), 9), "gzip", 413),
}  # fmt: skip


@pytest.mark.parametrize("fault", WRONG_GZIP)
def test_a_gzip_that_is_none_is_refused(onnx_server: Running, fault: str):
    content, coding, status = WRONG_GZIP[fault]

    assert onnx_server.client.post("/score", content=content, headers={"content-encoding": coding}).status_code == status


def test_a_body_of_a_hundred_megabytes_is_413(onnx_server: Running):
    sized, chunked = bytes(100_000_000), (bytes(1_000_000) for _ in range(100))

    assert [onnx_server.client.post("/score", content=content).status_code for content in (sized, chunked)] == [413, 413]


@pytest.mark.parametrize("path", ["/score", "/v2/models/late/infer"])
def test_a_body_nested_too_deeply_is_400(onnx_server: Running, path: str):
    assert onnx_server.client.post(path, content=b"[" * 100_000 + b"]" * 100_000).status_code == 400


# ── Arrow ──

ARROW = "application/vnd.apache.arrow.stream"


def stream_of(table: pa.Table, **options: Any) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, **options) as stream:
        stream.write_table(table)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize("path", ["/score", "/v2/models/late/infer"])
def test_a_frame_goes_in_and_comes_back_as_arrow(python_server: Running, late: Pipeline, flights: pd.DataFrame, path: str):
    body = stream_of(pa.Table.from_pandas(flights.head(60), preserve_index=False))
    answer = python_server.client.post(path, content=body, headers={"content-type": ARROW, "accept": ARROW})

    assert answer.headers["content-type"] == ARROW
    table = pa.ipc.open_stream(answer.content).read_all()
    assert table["probabilities"].to_pylist() == late.predict_proba(flights.head(60)).tolist()


def test_arrow_in_json_out(onnx_server: Running):
    body = stream_of(pa.table({name: [value] for name, value in ROW.items()}))

    assert onnx_server.client.post("/score", content=body, headers={"content-type": ARROW}).json() == onnx_server.score([ROW]).json()


WRONG_ARROW = {
    "no stream": (b"not arrow", "not an Arrow IPC stream"),
    "cut off": (stream_of(pa.table({name: [value] for name, value in ROW.items()}))[:-60], "not an Arrow IPC stream"),
    "a null": (stream_of(pa.table({**{name: [value] for name, value in ROW.items()}, "hour": pa.array([None], pa.int64())})), "Column 'hour' (row 0)"),
    "compressed": (stream_of(pa.table({name: [value] for name, value in ROW.items()}), options=pa.ipc.IpcWriteOptions(compression="zstd")), "compressed"),
    "a column twice": (stream_of(pa.table([[1], [2]], names=["hour", "hour"])), "two columns have this name"),
}  # fmt: skip


@pytest.mark.parametrize("fault", WRONG_ARROW)
def test_arrow_that_does_not_fit_is_400_and_says_why(onnx_server: Running, fault: str):
    body, message = WRONG_ARROW[fault]
    answer = onnx_server.client.post("/score", content=body, headers={"content-type": ARROW})

    assert (answer.status_code, message in answer.json()["error"]) == (400, True), answer.text


def test_without_pyarrow_arrow_is_415_and_says_what_to_install(start: Start, late_onnx: Path, flights_signature: dict[str, Any], tmp_path: Path):
    (tmp_path / "pyarrow.py").write_text("raise ImportError('gone')\n")
    server = start(late_onnx, engine="onnxruntime", signature=flights_signature, environment={"PYTHONPATH": str(tmp_path)}).until_ready()

    answer = server.client.post("/score", content=b"", headers={"content-type": ARROW})

    assert (answer.status_code, "pip install pyarrow" in answer.json()["error"]) == (415, True)
