"""Cores and memory that a local deployment is held to, seen from outside of it."""

from __future__ import annotations

import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest
from living import ROWS, churn_model, deployment, wait_for

from mlops_nb import cards, datasets, hardware, processes, registry, rollout, targets, telemetry
from mlops_nb.errors import DeploymentFailed
from mlops_nb.ports import free_port
from mlops_nb.settings import Workspace
from mlops_nb.store.deployments import DeploymentSpec

pytestmark = pytest.mark.xdist_group("limits")

ASKS = """
import os, threading
def run(raw_data):
    return sorted(os.sched_getaffinity(0))
"""


TELLS = """
import os
from concurrent.futures import ThreadPoolExecutor
def run(raw_data):
    return os.environ["MODE"]
"""


def cores_of(ref: str) -> set[int]:
    """Every core that any thread of the deployment's process may run on."""
    process = psutil.Process(deployment(ref).handle["pid"])
    return set().union(*(os.sched_getaffinity(thread.id) for thread in process.threads()))


def test_deployments_are_held_to_cores_of_their_own_and_say_so(live_workspace: Workspace) -> None:
    churn_model()
    there = hardware.cores()

    first, second = (rollout.deploy("churn:1", name=name, spec=DeploymentSpec(cpus=1)) for name in ("a", "b"))
    free = rollout.deploy("churn:1", name="c")

    assert [len(cores_of(f"churn/{name}")) for name in "abc"] == [1, 1, len(there)]
    assert len(there) == 1 or cores_of("churn/a") != cores_of("churn/b")
    (core,) = cores_of("churn/a")
    assert first.limits == f"held to core {core}" and f"held to core {core}" in cards.as_text(first)
    assert second.limits and free.limits == "" and "limits" not in cards.as_text(free)


def test_half_a_core_is_a_core_and_the_code_in_it_sees_no_other(live_workspace: Workspace, tmp_path) -> None:
    (tmp_path / "score.py").write_text(ASKS)
    datasets.register("customers", ROWS)
    registry.register(tmp_path, name="asking", entry="score.py", data="customers")

    rollout.deploy("asking:1", spec=DeploymentSpec(cpus=0.5, memory_mb=900))

    assert rollout.invoke("asking", ROWS.head(1)).outputs == sorted(cores_of("asking/1"))
    assert len(cores_of("asking/1")) == 1
    assert targets.limits(deployment("asking/1")).endswith("; ended beyond 900 MB")


def test_a_server_listens_where_it_was_told_with_the_variables_it_was_given_and_is_gone_once_withdrawn(live_workspace: Workspace, tmp_path) -> None:
    (tmp_path / "score.py").write_text(TELLS)
    datasets.register("customers", ROWS)
    registry.register(tmp_path, name="telling", entry="score.py", data="customers")
    port = free_port()

    rollout.deploy("telling:1", spec=DeploymentSpec(port=port, variables={"MODE": "calm"}))

    there = deployment("telling/1")
    assert there.handle["port"] == port and rollout.invoke("telling", ROWS.head(1)).outputs == "calm"
    usage = targets.get("local").usage(there)
    assert usage.pid == there.handle["pid"] and usage.memory_mb > 10
    assert wait_for(lambda: telemetry.requests("telling"), what="what it captured")[0]["rows"] == 1
    process = psutil.Process(usage.pid)
    rollout.undeploy("telling")
    assert not processes.lives(process)


def in_flight(ref: str) -> int:
    """Requests that a server has not answered yet."""
    handle = deployment(ref).handle
    told = httpx.get(f"http://127.0.0.1:{handle['port']}/metrics", headers={"x-mlops-token": Path(handle["token_file"]).read_text()}, trust_env=False).text
    return int(re.search(r"^mlops_requests_in_flight\S* (\d+)$", told, re.M)[1])


def test_all_who_asked_before_a_withdrawal_are_answered_though_that_takes_long(live_workspace: Workspace, tmp_path) -> None:
    (tmp_path / "score.py").write_text("import time\ndef run(raw_data):\n    time.sleep(1)\n    return raw_data\n")
    registry.register(tmp_path, name="slow", entry="score.py")
    rollout.deploy("slow:1")

    with ThreadPoolExecutor(9) as pool:
        answers = [pool.submit(rollout.invoke, "slow", f"request {number}") for number in range(9)]
        wait_for(lambda: (done := sum(answer.done() for answer in answers)) >= 1 and done + in_flight("slow/1") == 9, what="the first answer, and all requests")
        rollout.undeploy("slow")

    assert [answer.result().outputs for answer in answers] == [f"request {number}" for number in range(9)]


def test_a_server_started_again_is_held_to_as_many_cores(live_workspace: Workspace) -> None:
    churn_model()
    rollout.deploy("churn:1", spec=DeploymentSpec(cpus=1))
    before = deployment("churn/1").handle["pid"]

    psutil.Process(before).kill()

    wait_for(lambda: deployment("churn/1").handle.get("pid") not in (None, before) and deployment("churn/1").status == "healthy", what="its next process")
    assert len(cores_of("churn/1")) == 1


def test_a_model_that_takes_more_memory_than_it_may_is_ended_and_says_how_much(live_workspace: Workspace, tmp_path) -> None:
    (tmp_path / "score.py").write_text("def init():\n    global kept\n    kept = bytearray(700_000_000)\ndef run(raw_data):\n    return [0]\n")
    datasets.register("customers", ROWS)
    registry.register(tmp_path, name="large", entry="score.py", data="customers")

    with pytest.raises(DeploymentFailed, match=r"[Mm]emory"):
        rollout.deploy("large:1", spec=DeploymentSpec(memory_mb=400))
