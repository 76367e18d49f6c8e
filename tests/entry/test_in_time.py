"""A script that hangs or crashes costs its own request, is told, and is started again."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import msgspec
import pytest
from living import deployment, wait_for

from entry.conftest import Serve
from mlops_nb import registry, rollout, store
from mlops_nb.errors import GatewayUnreachable, InvocationFailed
from mlops_nb.settings import Workspace
from mlops_nb.store import events
from mlops_nb.store.deployments import Reason

HANGS = """
import json
import time

def run(raw_data):
    if json.loads(raw_data) == "hang":
        while True:
            time.sleep(0.01)
    return "quick"
"""


CRASHES = """
import os
hang = run

def run(raw_data):
    return os._exit(3) if json.loads(raw_data) == "crash" else hang(raw_data)
"""


def test_a_run_that_hangs_is_answered_504_with_its_line_and_ends_the_server(serve: Serve):
    server = serve(HANGS, timeout_seconds=0.5)

    answer = server.score("hang")

    assert answer.status_code == 504 and "did not return within 0.5 s" in answer.json()["error"]
    assert "score.py:8" in answer.json()["error"]
    assert server.process.wait(30) == 1
    told = msgspec.json.decode((server.run_folder / "failure.json").read_bytes(), type=Reason)
    assert (told.kind, told.where.rsplit("/", 1)[-1]) == ("too slow", "score.py:8") and "while True" not in told.message


def test_those_behind_a_run_that_hangs_are_told_to_ask_again(serve: Serve):
    server = serve(HANGS, timeout_seconds=0.5)

    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(server.score, ["hang", "hang"]))

    assert sorted(answer.status_code for answer in answers) == [503, 504]


def test_waiting_for_others_is_not_counted_as_running(serve: Serve):
    server = serve("import time\ndef run(raw_data):\n    time.sleep(0.3)\n    return 1\n", timeout_seconds=0.8)

    with ThreadPoolExecutor(5) as pool:
        assert {answer.status_code for answer in pool.map(server.score, range(5))} == {200}


COUNTS = """
import json
import pathlib
import time

calls = []

def run(raw_data):
    calls.append(raw_data)
    asked = pathlib.Path(json.loads(raw_data))
    asked.touch()
    while asked.name == "first" and not asked.with_name("go on").exists():
        time.sleep(0.01)
    return len(calls)
"""


def test_a_caller_who_hung_up_while_waiting_costs_the_script_nothing(serve: Serve, tmp_path: Path):
    server = serve(COUNTS)

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(server.score, str(tmp_path / "first"))
        wait_for((tmp_path / "first").exists)
        for _ in range(5):
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(f"{server.url}/score", json=str(tmp_path / "left"), headers={"x-mlops-token": server.token}, timeout=0.02, trust_env=False)
        (tmp_path / "go on").touch()
        last = server.score(str(tmp_path / "last"))

    assert (first.result().json(), last.json()) == (1, 2) and not (tmp_path / "left").exists()
    left = [line for line in server.until_lines(7) if line["status"] == 499]
    assert len(left) == 5 and left[0]["error"] == "The caller hung up before the model had time for the request."


def test_a_script_that_raises_a_timeout_of_its_own_is_an_ordinary_exception(serve: Serve):
    server = serve("def run(raw_data):\n    raise TimeoutError('the database')\n")

    answer = server.score({})

    assert answer.status_code == 500 and json.loads(answer.text)["error"].startswith("TimeoutError: the database")


def test_a_deployment_that_hangs_or_crashes_is_started_again_and_says_why(live_workspace: Workspace, tmp_path: Path):
    live_workspace.root.mkdir()
    (live_workspace.root / "config.toml").write_text("request_timeout_seconds = 1\n")
    (tmp_path / "score.py").write_text(HANGS + "\n\n" + CRASHES)
    registry.register(None, name="hangs", entry=tmp_path / "score.py")
    rollout.deploy("hangs")

    with pytest.raises(InvocationFailed, match=r"504: .*run\(\) did not return .*score\.py:8"):
        rollout.invoke("hangs", '"hang"')
    wait_for(lambda: deployment("hangs/1").restarts == 1, what="the restart")
    wait_for(lambda: deployment("hangs/1").status == "healthy", what="health")
    assert wait_for(lambda: answer_of("hangs", '"x"'), what="an answer") == "quick"

    with pytest.raises(InvocationFailed):
        rollout.invoke("hangs", '"crash"')
    wait_for(lambda: deployment("hangs/1").restarts == 2, what="the restart")
    assert wait_for(lambda: answer_of("hangs", '"x"'), what="an answer") == "quick"

    with store.reading() as tx:
        told = [event.data["reason"] for event in events.latest(tx, subject="hangs/1", what="DeploymentRestarting")]
    assert "exit code 3" in told[0] and "run() did not return within 0.9 s" in told[1]


def answer_of(endpoint: str, body: str) -> object:
    try:
        return rollout.invoke(endpoint, body).outputs
    except (InvocationFailed, GatewayUnreachable):
        return None  # it is being started again
