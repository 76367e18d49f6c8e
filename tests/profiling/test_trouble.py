"""Profiles of real servers, started and ended for them, and of a deployment that runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest
from living import X, churn_model, deployment, wait_for

from mlops_nb import hardware, profiling, rollout, telemetry
from mlops_nb.errors import HardwareMissing, ModelFailedUnderLoad, UsageError
from mlops_nb.settings import Workspace
from mlops_nb.store.deployments import DeploymentSpec

from .measured import EASY, QUICK, Script, Told, points, servers_of, stored

# ── the model fails ──────────────────────────────────────────────────────────────────────────────────────────────────

FAILS = """
calls = 0
def init():
    pass
def run(raw_data):
    global calls
    calls += 1
    if calls > 40:
        raise ValueError(f"the cache is full after {calls - 1} requests")
    return [0]
"""
DIES = FAILS.replace("raise ValueError", "import os; os.kill(os.getpid(), 9); str")


def test_a_model_that_fails_under_load_tells_its_own_error_and_its_line(script: Script) -> None:
    script(FAILS)

    with pytest.raises(ModelFailedUnderLoad, match=r"ValueError: the cache is full after 40 requests.*score\.py:9.*answered 500"):
        profiling.profile("scripted:1", **QUICK)


def test_a_server_that_dies_under_load_tells_how(script: Script) -> None:
    script(DIES)

    with pytest.raises(ModelFailedUnderLoad, match="SIGKILL"):
        profiling.profile("scripted:1", **QUICK)


def test_what_was_measured_before_the_model_failed_is_kept(script: Script) -> None:
    script("import json\ndef run(raw_data):\n    rows = json.loads(raw_data)['data']\n    assert len(rows) < 3, 'too many rows'\n    return [0]\n")
    told = Told()

    with pytest.raises(ModelFailedUnderLoad, match=r"3 rows a request.*AssertionError: too many rows"):
        profiling.profile("scripted:1", **QUICK | {"batches": [1, 3]}, report=told)

    assert [point.batch for point in points(stored()[0])] == [1] and not stored()[0].complete
    assert told.steps[-1] == "the model failed; 1 of 2 points are kept, --resume measures the rest"


# ── interrupted ──────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def profiling_process(workspace: Workspace) -> Iterator[subprocess.Popen[str]]:
    """The command line, measuring `churn:1` with 1 and 2 rows, once it is at the second."""
    churn_model()
    process = subprocess.Popen([*LINE, "--seconds", "8"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr
    for line in process.stderr:
        if line.startswith("2 of 2"):
            break
    yield process
    process.kill()
    process.communicate()


LINE = [sys.executable, "-m", "mlops_nb", "profile", "churn:1", "--cpus", "1", "--batch", "1,2", "--slo", "p95=400ms"]


def test_an_interrupt_keeps_what_was_measured_and_resume_measures_the_rest(profiling_process: subprocess.Popen[str], workspace: Workspace) -> None:
    profiling_process.send_signal(signal.SIGINT)
    _, said = profiling_process.communicate(timeout=60)

    assert profiling_process.returncode == 130
    assert "interrupted; 1 of 2 points are kept, --resume measures the rest" in said
    assert servers_of(workspace) == []

    resumed = subprocess.run([*LINE[:5], "--seconds", "3", "--resume", "--json"], capture_output=True, text=True, timeout=120)  # all else as before
    result = json.loads(resumed.stdout)["result"]
    assert [(point["cpus"], point["batch"]) for point in result["points"]] == [(1, 1), (1, 2)] and result["complete"]
    assert result["settings"]["objective"] == "p95 ≤ 400 ms" and len(stored()) == 1


def test_a_profile_that_is_killed_leaves_neither_server_nor_load_running(profiling_process: subprocess.Popen[str], workspace: Workspace) -> None:
    below = psutil.Process(profiling_process.pid).children(recursive=True)
    assert len(below) == 2

    os.kill(profiling_process.pid, signal.SIGKILL)

    wait_for(lambda: not any(process.is_running() for process in below), seconds=10, what="both end with whoever measured")
    assert not servers_of(workspace)


def test_a_profile_that_is_killed_before_its_server_is_ready_leaves_none(workspace: Workspace, script: Script) -> None:
    script("import time\ndef init():\n    time.sleep(60)\ndef run(raw_data):\n    return [0]\n")
    process = subprocess.Popen([*LINE[:4], "scripted:1", *LINE[5:]], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(lambda: servers_of(workspace), what="the server's process")

    process.kill()
    process.wait()

    wait_for(lambda: not servers_of(workspace), seconds=10, what="the server ends")


# ── a deployment that runs ───────────────────────────────────────────────────────────────────────────────────────────


def test_a_deployment_is_measured_as_it_runs_outside_its_telemetry(live_workspace: Workspace) -> None:
    churn_model()
    rollout.deploy("churn:1")
    rollout.invoke("churn", X.head(3))

    profile = profiling.profile("churn/1", batches=[1, 8], objective=EASY, seconds=3)

    assert (profile.subject, profile.complete, [point.batch for point in points(profile)]) == ("churn/1", True, [1, 8])
    assert all(point.memory_mb > 10 and point.cold_start_seconds is None for point in points(profile))
    assert wait_for(lambda: telemetry.requests("churn"), what="the one request's line") and len(telemetry.requests("churn")) == 1
    assert deployment("churn/1").status == "healthy"
    assert hardware.proven(deployment("churn/1").handle, "churn") == ["CPUExecutionProvider"]
    with pytest.raises(UsageError, match="is measured as it runs"):
        profiling.profile("churn/1", cpus=[1])
    with pytest.raises(HardwareMissing):
        rollout.deploy("churn:1", name="on-coreml", spec=DeploymentSpec(hardware="coreml"))
    assert [d.name for d in rollout.endpoints("churn")[0].deployments] == ["1"]
