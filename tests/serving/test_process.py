"""The server as a process: many callers at once, health under load, and a graceful end."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
from onnx import TensorProto, helper
from sklearn.pipeline import Pipeline

from .scoring_servers import Running, Start, wait_for

SLEEPY = """
import json, pathlib, time

def run(raw):
    seconds = json.loads(raw)
    pathlib.Path("FOLDER/inside").touch()
    time.sleep(seconds)
    return seconds
"""


@pytest.fixture
def sleepy(start: Start, script: Callable[[str], Path], tmp_path: Path) -> Running:
    """A server whose script sleeps for the seconds it is asked, and says (by a file) when it is inside."""
    return start(script(SLEEPY.replace("FOLDER", str(tmp_path))), engine="script", flavor="script").until_ready()


def test_each_of_many_callers_at_once_gets_its_own_answer(onnx_server: Running, late: Pipeline, flights: Any):
    rows = flights.head(300)
    expected = late.predict_proba(rows)

    def ask(number: int) -> tuple[str, list[float]]:
        row = rows.iloc[number]
        body = [{"carrier": row.carrier, "distance": float(row.distance), "hour": int(row.hour)}]
        answer = onnx_server.score(body, **{"x-request-id": f"n{number}"})
        return answer.headers["x-request-id"], answer.json()["probabilities"][0]

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(ask, range(300)))

    assert [id for id, _ in answers] == [f"n{number}" for number in range(300)]
    np.testing.assert_allclose([probabilities for _, probabilities in answers], expected, atol=1e-5)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="Linux tells how many pages a process got")
def test_memory_that_one_request_took_is_kept_for_the_next(onnx_server: Running, flights: Any):
    body = flights.sample(30_000, replace=True, random_state=0).to_dict("list")

    def pages() -> int:
        stat = Path(f"/proc/{onnx_server.process.pid}/stat").read_text()
        return int(stat.rpartition(")")[2].split()[7])

    def pages_of(count: int) -> float:
        before = pages()
        for _ in range(count):
            onnx_server.score(body).raise_for_status()
        return (pages() - before) / count

    pages_of(10)
    rounds = [pages_of(20) for _ in range(3)]  # a thread that had none yet gets memory of its own, so one of them may tell more

    assert min(rounds) < 250, f"{rounds} of 4 KB; about 460 in each where all was given back"


def test_health_answers_while_a_request_takes_long(sleepy: Running, tmp_path: Path):
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(sleepy.score, 1.5)
        wait_for((tmp_path / "inside").exists, "the request is inside")
        ready = sleepy.client.get("/v2/health/ready", timeout=1).status_code

        assert (ready, slow.done(), slow.result().json()) == (200, False, 1.5)


def test_a_stop_finishes_what_is_in_flight_and_exits_0(sleepy: Running, tmp_path: Path):
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(sleepy.score, 1.0)
        wait_for((tmp_path / "inside").exists, "the request is inside")
        code = sleepy.stop()

        assert (slow.result().json(), code) == (1.0, 0)


def test_a_stop_does_not_wait_for_ever(sleepy: Running, tmp_path: Path):
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(sleepy.score, 3600)
        wait_for((tmp_path / "inside").exists, "the request is inside")
        sleepy.process.send_signal(signal.SIGTERM)

        assert sleepy.process.wait(15) == 0
        assert isinstance(slow.exception(), httpx.TransportError)


def test_no_request_fails_while_a_server_stops_accepting(onnx_server_of_its_own: Running):
    """Answered, or never accepted: nobody gets half an answer."""
    server, halves = onnx_server_of_its_own, []

    def ask() -> None:
        while True:
            try:
                answer = httpx.post(
                    server.url + "/score", json=[{"carrier": "UA", "distance": 1.0, "hour": 1}], headers={"x-mlops-token": server.token}, trust_env=False
                )
            except httpx.ConnectError:
                return
            except httpx.TransportError as error:
                halves.append(error)
                return
            assert answer.status_code == 200

    callers = [threading.Thread(target=ask) for _ in range(4)]
    for caller in callers:
        caller.start()
    wait_for(lambda: server.metric("mlops_requests_total") > 100, "load")
    server.stop()
    for caller in callers:
        caller.join()

    # A connection that the kernel had accepted and the server had not read yet is closed unread: at most one per caller.
    assert len(halves) <= 4


@pytest.fixture
def onnx_server_of_its_own(start: Start, late_onnx: Path, flights_signature: dict[str, Any]) -> Running:
    return start(late_onnx, engine="onnxruntime", signature=flights_signature).until_ready()


def test_it_is_one_process(onnx_server_of_its_own: Running):
    assert psutil.Process(onnx_server_of_its_own.process.pid).children() == []


def test_kill_9_frees_the_port_at_once(onnx_server_of_its_own: Running):
    onnx_server_of_its_own.stop(signal.SIGKILL)

    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", onnx_server_of_its_own.spec["port"]))


def test_it_listens_on_this_machine_only(onnx_server: Running):
    listening = [c.laddr.ip for c in psutil.Process(onnx_server.process.pid).net_connections("tcp") if c.status == psutil.CONN_LISTEN]

    assert set(listening) == {"127.0.0.1"}


def test_the_token_is_in_no_argument_and_no_log(onnx_server: Running):
    assert onnx_server.token not in " ".join(psutil.Process(onnx_server.process.pid).cmdline())
    assert onnx_server.token not in (onnx_server.folder / "log").read_text()


def test_variables_are_there_when_the_script_loads(start: Start, script: Callable[[str], Path]):
    folder = script('import os\nMODE = os.environ["MODE"]\ndef run(raw):\n    return MODE\n')

    assert start(folder, engine="script", flavor="script", variables={"MODE": "night"}).until_ready().score({}).json() == "night"


def test_neither_pandas_nor_sklearn_is_loaded_for_an_onnx_model(onnx_server: Running):
    mapped = [Path(m.path).parts[-3:] for m in psutil.Process(onnx_server.process.pid).memory_maps()]
    modules = {part.partition(".")[0] for parts in mapped for part in parts}

    assert "numpy" in modules
    assert not {"pandas", "sklearn", "scipy", "_duckdb"} & modules


def test_metrics_count_requests_errors_rows_and_time(onnx_server_of_its_own: Running):
    server = onnx_server_of_its_own
    server.score([{"carrier": "UA", "distance": 1.0, "hour": 1}] * 3)
    server.score([{}])

    counted = [
        server.metric(f"mlops_{name}") for name in ("requests_total", "request_errors_total", "rows_total", "request_seconds_count", "requests_in_flight")
    ]

    assert counted == [2, 1, 3, 2, 0]


def test_swagger_describes_what_scoring_takes(onnx_server: Running):
    score = onnx_server.client.get("/swagger.json").json()["paths"]["/score"]["post"]
    content = score["requestBody"]["content"]["application/json"]

    record = content["schema"]["properties"]["data"]["items"]
    assert (record["required"], record["properties"]["hour"]) == (["carrier", "distance", "hour"], {"type": "integer", "format": "int64"})
    assert onnx_server.score(content["example"]).status_code == 200


def test_a_large_batch_is_answered_whole(onnx_server: Running, late: Pipeline, flights: Any):
    rows = flights.sample(30_000, replace=True, random_state=1)
    body = {"inputs": {name: rows[name].tolist() for name in rows}}

    assert onnx_server.score(body).json()["label"] == late.predict(rows).tolist()


def test_cpus_set_the_threads_of_onnx_runtime(start: Start, tmp_path: Path):
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [None]) for name in "xy")
    model = helper.make_model(
        helper.make_graph([helper.make_node("Abs", ["x"], ["y"])], "g", [x], [y]), opset_imports=[helper.make_opsetid("", 17)], ir_version=9
    )
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())

    one, four = (start(tmp_path, engine="onnxruntime", flavor="onnx", cpus=cpus).until_ready() for cpus in (1, 4))

    threads = [psutil.Process(server.process.pid).num_threads() for server in (one, four)]
    assert threads[1] - threads[0] >= 3
