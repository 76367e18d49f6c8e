"""Requests that arrive together are scored together, and nobody notices: each gets what it would have got alone."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import pandas as pd
import psutil
import pytest
from skl2onnx import to_onnx
from sklearn.ensemble import RandomForestClassifier

from mlops_nb import signature

from .scoring_servers import Running, Start, wait_for

RNG = np.random.default_rng(7)
NUMBERS = RNG.normal(size=(400, 5)).astype(np.float32)
TARGET = (NUMBERS[:, 0] + NUMBERS[:, 1] * NUMBERS[:, 2] > 0).astype(int) + (NUMBERS[:, 3] > 1)


@pytest.fixture(scope="module")
def forest_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a forest as ONNX whose one input is a matrix."""
    model = RandomForestClassifier(50, max_depth=6, random_state=0).fit(NUMBERS, TARGET)
    folder = tmp_path_factory.mktemp("forest-file")
    (folder / "model.onnx").write_bytes(to_onnx(model, NUMBERS[:1], options={"zipmap": False}).SerializeToString())
    return folder


@pytest.fixture(scope="module")
def forest(start_once: Start, forest_file: Path) -> Running:
    """A forest as ONNX, which answers the same together and alone."""
    return start_once(forest_file, engine="onnxruntime", signature=signature.infer(NUMBERS).as_json(), capture_payload_percent=0).until_ready()


def asked(number: int) -> dict[str, Any]:
    """A request unlike any other: its own rows, id, parameters, and the outputs it wants."""
    rows = NUMBERS[number : number + 1 + number % 4]
    body: dict[str, Any] = {
        "id": f"request-{number}",
        "inputs": [{"name": "input", "shape": list(rows.shape), "datatype": "FP32", "data": rows.ravel().tolist()}],
    }
    wanted = [["label"], ["probabilities"], ["probabilities", "label"], None][number % 4]
    if wanted:
        body["outputs"] = [{"name": name, "parameters": {"binary_data": False}} for name in wanted]
    return body | ({"parameters": {"note": number}} if number % 3 else {})


async def _together(server: Running, bodies: list[dict[str, Any]]) -> list[httpx.Response]:
    limits = httpx.Limits(max_connections=len(bodies))
    async with httpx.AsyncClient(base_url=server.url, headers={"x-mlops-token": server.token}, timeout=60, trust_env=False, limits=limits) as client:
        return await asyncio.gather(*(client.post("/v2/models/late/infer", json=body) for body in bodies))


def _in_one_turn(server: Running, bodies: list[dict[str, Any]]) -> list[Any]:
    """What each is answered when all of them are there as the server looks up again: it was stopped while they came."""
    wires = [socket.create_connection(("127.0.0.1", server.spec["port"]), timeout=60) for _ in bodies]
    wait_for(lambda: len(psutil.Process(server.process.pid).net_connections("tcp")) > len(bodies), "all callers are connected")
    server.process.send_signal(signal.SIGSTOP)
    try:
        for wire, body in zip(wires, map(msgspec.json.encode, bodies), strict=True):
            head = f"POST /v2/models/late/infer HTTP/1.1\r\nhost: x\r\nx-mlops-token: {server.token}\r\ncontent-length: {len(body)}\r\n\r\n"
            wire.sendall(head.encode() + body)
    finally:
        server.process.send_signal(signal.SIGCONT)
    answers = []
    for wire in wires:
        with wire, wire.makefile("rb") as answer:
            lines = dict(line.lower().split(b": ", 1) for line in iter(answer.readline, b"\r\n") if b": " in line)
            answers.append(msgspec.json.decode(answer.read(int(lines[b"content-length"]))))
    return answers


def test_two_hundred_at_once_get_each_exactly_what_they_get_alone(forest: Running):
    bodies = [asked(number) for number in range(200)]
    alone = [forest.infer(body).content for body in bodies]

    for _ in range(3):
        assert [answer.content for answer in asyncio.run(_together(forest, bodies))] == alone


def test_metadata_says_that_it_batches(forest: Running):
    assert forest.client.get("/v2/models/late").json()["parameters"]["batching"] == "up to 256 rows"


def test_a_bad_row_among_others_fails_its_own_request_only(forest: Running):
    bodies = [asked(number) for number in range(60)]
    for number in range(0, 60, 7):
        bodies[number]["inputs"][0]["data"][0] = "x"

    answers = asyncio.run(_together(forest, bodies))

    assert [answer.status_code for answer in answers] == [400 if number % 7 == 0 else 200 for number in range(60)]


class Picky:
    """Raises for a number below zero, whoever's it is; takes its time."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def predict(self, frame: pd.DataFrame) -> dict[str, Any]:
        """Twice the number."""
        import time

        time.sleep(self.seconds)
        if (frame["a"] < 0).any():
            raise ValueError("below zero")
        return {"twice": (frame["a"] * 2).to_numpy()}


@pytest.fixture
def picky(start: Start, pickled: Callable[[Any], Path]) -> Iterator[Callable[..., Running]]:
    import sys

    import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    known = signature.infer(pd.DataFrame({"a": [1.0, 2.0, 3.0]})).as_json()
    yield lambda seconds=0.02, **changes: start(pickled(Picky(seconds)), flavor="python", signature=known, **changes).until_ready()
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def test_data_that_makes_the_common_call_raise_fails_its_own_request_only(picky: Callable[..., Running]):
    server = picky()
    values = [-1.0 if number == 5 else float(number) for number in range(24)]

    with ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(lambda value: server.score([{"a": value}]), values))

    assert [answer.status_code for answer in answers] == [500 if value < 0 else 200 for value in values]
    assert [answer.json()["twice"] for answer in answers if answer.status_code == 200] == [[value * 2] for value in values if value >= 0]


def test_more_than_may_wait_are_told_to_come_again(picky: Callable[..., Running]):
    server = picky(most_waiting=4)

    with ThreadPoolExecutor(24) as pool:
        answers = list(pool.map(lambda value: server.score([{"a": float(value)}]), range(48)))

    refused = [answer for answer in answers if answer.status_code == 429]
    assert refused and {answer.headers["retry-after"] for answer in refused} == {"1"}
    assert {answer.status_code for answer in answers} == {200, 429}


class Counting:
    """Takes its time, and answers with all it was ever asked."""

    def __init__(self) -> None:
        self.asked: list[float] = []

    def predict(self, frame: pd.DataFrame) -> dict[str, Any]:
        import json
        import time

        if (frame["a"] >= 0).all():  # else it is tried before it is served
            self.asked += frame["a"].tolist()
            time.sleep(0.5)
        return {"asked": [json.dumps(self.asked)] * len(frame)}


def test_who_hung_up_while_waiting_is_not_computed_for(start: Start, pickled: Callable[[Any], Path]):
    import sys

    import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    known = signature.infer(pd.DataFrame({"a": [-1.0, -2.0]})).as_json()
    server = start(pickled(Counting()), flavor="python", signature=known, capture_payload_percent=100).until_ready()
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(server.score, [{"a": 1.0}])
        wait_for(lambda: server.metric("mlops_requests_in_flight"), "the model computes")
        for _ in range(5):
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(f"{server.url}/score", json=[{"a": 5.0}], headers={"x-mlops-token": server.token}, timeout=0.02, trust_env=False)
        last = server.score([{"a": 2.0}])

    assert first.result().json() == {"asked": ["[1.0]"]} and last.json() == {"asked": ["[1.0, 2.0]"]}
    assert [line["status"] for line in server.until_lines(7)].count(499) == 5


class Centred:
    """Answers with the distance from the mean of what it is asked with."""

    def predict(self, frame: pd.DataFrame) -> Any:
        return frame["a"] - frame["a"].mean()


def test_a_model_that_looks_at_its_other_rows_is_not_batched(start: Start, pickled: Callable[[Any], Path]):
    import sys

    import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    server = start(pickled(Centred()), flavor="python", signature=signature.infer(pd.DataFrame({"a": [1.0, 2.0]})).as_json()).until_ready()
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])

    assert "'output' differs" in server.client.get("/v2/models/late").json()["parameters"]["batching"]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda n: server.score([{"a": float(n)}]).json(), range(16))) == [{"output": [0.0]}] * 16


class AlmostAlone:
    """Answers some rows otherwise beside others: those that begin with 1 and end with 3, which none of its sample does."""

    def predict(self, frame: pd.DataFrame) -> Any:
        return frame["a"] + frame["b"] + ((frame["a"] == 1) & (frame["b"] == 3)) * (len(frame) > 1)


def test_a_model_that_answers_a_few_rows_otherwise_beside_others_is_not_batched(start: Start, pickled: Callable[[Any], Path]):
    import sys

    import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    known = signature.infer(pd.DataFrame({"a": [1, 2, 3, 4, 5], "b": [1, 2, 3, 4, 5]})).as_json()
    server = start(pickled(AlmostAlone()), flavor="python", signature=known).until_ready()
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])

    assert "differs from the answers to single rows" in server.client.get("/v2/models/late").json()["parameters"]["batching"]


def test_answers_on_one_connection_come_in_the_order_of_the_questions(forest: Running):
    """HTTP/1.1 pipelining: the second question is sent before the first is answered."""
    import socket

    head = f"Host: x\r\nx-mlops-token: {forest.token}\r\n"
    with socket.create_connection(("127.0.0.1", forest.spec["port"]), timeout=10) as wire:
        body = b'{"inputs":[{"name":"input","shape":[1,5],"datatype":"FP32","data":[1,2,3,4,5]}]}'
        ask = f"POST /v2/models/late/infer HTTP/1.1\r\n{head}content-length: {len(body)}\r\nx-request-id: ".encode()
        wire.sendall(b"".join(ask + b"n%d\r\n\r\n" % number + body for number in range(20)) + f"GET /v2 HTTP/1.1\r\n{head}connection: close\r\n\r\n".encode())
        answered = b"".join(iter(lambda: wire.recv(65536), b""))

    ids = [line.removeprefix(b"x-request-id: ") for line in answered.split(b"\r\n") if line.startswith(b"x-request-id")]
    assert ids == [b"n%d" % number for number in range(20)]
    assert answered.rstrip().endswith(b"}") and b'"extensions"' in answered


FORMS = {
    "a tensor": lambda rows: rows,
    "a table of the matrix's type": lambda rows: pd.DataFrame(rows, columns=list("abcde")),
    "a table of another type": lambda rows: pd.DataFrame(rows, columns=list("abcde")).astype("float64"),
}


@pytest.mark.parametrize("form", FORMS)
def test_of_many_at_once_each_is_kept_with_what_it_asked_and_was_answered(start: Start, forest_file: Path, form: str):
    """Those that were scored together are put down together."""
    server = start(forest_file, engine="onnxruntime", signature=signature.infer(FORMS[form](NUMBERS)).as_json()).until_ready()
    parts = [NUMBERS[number : number + 1 + number % 4] for number in range(300)]
    inputs = [{name: np.asarray(values) for name, values in ({"input": rows} if form == "a tensor" else FORMS[form](rows)).items()} for rows in parts]
    bodies = [
        {
            "id": f"request-{number}",
            "inputs": [{"name": name, "shape": list(array.shape), "datatype": "FP64", "data": array.ravel().tolist()} for name, array in given.items()],
        }
        for number, given in enumerate(inputs)
    ]

    answers = _in_one_turn(server, bodies)

    kept = {line["id"]: line for line in server.until_lines(len(bodies))}
    for number, (given, answer) in enumerate(zip(inputs, answers, strict=True)):
        line = kept[f"request-{number}"]
        assert {name: np.array(values, given[name].dtype).tolist() for name, values in line["inputs"].items()} == {
            n: array.tolist() for n, array in given.items()
        }
        told = {output["name"]: np.array(output["data"]).reshape(output["shape"]).tolist() for output in answer["outputs"]}
        assert line["outputs"] == told


class Clipping:
    """Writes into what it is given."""

    def predict(self, rows: np.ndarray) -> np.ndarray:
        """Each row's sum of what is above zero."""
        np.clip(rows, 0, None, out=rows)
        return rows.sum(axis=1)


@pytest.mark.parametrize("count", [1, 40])
def test_what_a_model_writes_into_its_input_is_not_kept_as_what_was_asked(start: Start, pickled: Callable[[Any], Path], count: int):
    import sys

    import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    rows = -np.arange(1.0, 40 * count + 1).reshape(count, 20, 2)
    server = start(pickled(Clipping()), flavor="python", signature=signature.infer(rows[0]).as_json()).until_ready()
    tensors = [{"name": "input", "shape": [20, 2], "datatype": "FP64", "data": one.ravel().tolist()} for one in rows]
    bodies = [{"id": f"{number}", "inputs": [tensor]} for number, tensor in enumerate(tensors)]

    _in_one_turn(server, bodies)

    kept = {line["id"]: line["inputs"] for line in server.until_lines(count)}
    assert kept == {f"{number}": {"input": one.tolist()} for number, one in enumerate(rows)}


def test_an_uncaptured_request_with_the_token_leaves_no_line(start: Start, late_onnx: Path, flights_signature: dict[str, Any]):
    server = start(late_onnx, engine="onnxruntime", signature=flights_signature).until_ready()
    row = {"carrier": "UA", "distance": 500.5, "hour": 7}

    server.score([row], **{"x-mlops-uncaptured": server.token})
    server.score([row], **{"x-mlops-uncaptured": "guessed", "x-request-id": "kept"})

    assert [line["id"] for line in server.until_lines(1)] == ["kept"]


def test_health_answers_while_many_wait(picky: Callable[..., Running]):
    server = picky(seconds=0.3)
    with ThreadPoolExecutor(20) as pool:
        waiting = [pool.submit(server.score, [{"a": 1.0}]) for _ in range(20)]

        assert server.client.get("/v2/health/ready", timeout=2).status_code == 200
        assert not all(answer.done() for answer in waiting)
