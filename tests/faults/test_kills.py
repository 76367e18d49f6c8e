"""Nothing is lost when a process is killed: the agent, a server, the gateway, or all of them, under load."""

from __future__ import annotations

import os
import signal
import threading

import psutil
import pytest
from living import X, churn_model, deployment, wait_for

from mlops_nb import agent, errors, rollout, store, traffic
from mlops_nb.settings import Workspace
from mlops_nb.store import state


@pytest.fixture
def churn(live_workspace: Workspace) -> Workspace:
    """Two versions of churn behind one endpoint, half the traffic each."""
    churn_model()
    churn_model()
    rollout.deploy("churn:1")
    rollout.deploy("churn:2", traffic=50)
    return live_workspace


class Load:
    """Asks `churn` from two threads until told to stop; counts what came back."""

    def __init__(self) -> None:
        self.answered: list[str] = []
        self.failed: list[str] = []
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(2)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _ask(self) -> None:
        while not self._ended.is_set():
            try:
                self.answered.append(rollout.invoke("churn", X.head(2)).deployment)
            except errors.MlopsError as error:
                self.failed.append(str(error))

    def more(self, count: int = 50) -> None:
        reached = len(self.answered) + count
        wait_for(lambda: len(self.answered) >= reached, what="more answers")


def agent_pid(workspace: Workspace) -> int:
    return int((workspace.run / "agent.lock").read_text())


def test_killing_the_agent_fails_no_request_and_the_next_one_goes_on(churn: Workspace) -> None:
    with Load() as load:
        load.more()
        os.kill(agent_pid(churn), signal.SIGKILL)
        load.more()
        traffic.split("churn", {"1": 0, "2": 100})
        seen = len(load.answered)
        load.more()
        assert set(load.answered[seen + 2 :]) == {"2"}, "the split was not in force when the command returned"

    assert load.failed == []
    assert agent.running()


def test_a_killed_server_comes_back_by_itself_and_the_other_takes_over(churn: Workspace) -> None:
    before = deployment("churn/1").handle["pid"]
    with Load() as load:
        load.more()
        os.kill(before, signal.SIGKILL)
        wait_for(lambda: (now := deployment("churn/1")).status == "healthy" and now.handle["pid"] != before, what="the restart")
        failed = len(load.failed)
        load.more(100)

    assert len(load.failed) == failed, "requests still fail after it came back"
    assert {"1", "2"} <= set(load.answered[-60:])
    assert deployment("churn/1").restarts == 1


def test_a_killed_gateway_comes_back_at_the_same_address(churn: Workspace) -> None:
    with store.reading() as tx:
        handle = state.get(tx, "gateway")
    url = rollout.url_of("churn")
    psutil.Process(handle["pid"]).kill()

    def answers() -> bool:
        try:
            return bool(rollout.invoke("churn", X.head(1)).outputs)
        except errors.MlopsError:
            return False

    wait_for(answers, what="the gateway")
    assert rollout.url_of("churn") == url


def test_an_agent_killed_between_any_two_steps_of_a_deployment_finishes_it(live_workspace: Workspace) -> None:
    churn_model()
    for wait_seconds in (0.0, 0.1, 0.3, 0.6):
        name = f"at{int(wait_seconds * 10)}"
        rollout.deploy("churn:1", name=name, wait=False)
        threading.Event().wait(wait_seconds)
        try:
            os.kill(agent_pid(live_workspace), signal.SIGKILL)
        except (FileNotFoundError, ValueError, ProcessLookupError):
            pass  # it had not come up yet
        wait_for(lambda name=name: agent.ensure() or deployment(f"churn/{name}").status == "healthy", what=name)

    servers = [
        p
        for p in psutil.process_iter(["cmdline"])
        if str(live_workspace.run) in " ".join(p.info["cmdline"] or []) and "mlops_nb.serving" in " ".join(p.info["cmdline"] or [])
    ]
    assert len(servers) == 4


def test_down_ends_everything_and_up_brings_back_what_is_wanted(churn: Workspace) -> None:
    started = {p.pid for p in _of(churn)}
    assert len(started) >= 4

    rollout.down()
    assert _of(churn) == []

    rollout.up()
    assert rollout.endpoints("churn")[0].deployments[0].status == "healthy"
    wait_for(lambda: rollout.invoke("churn", X.head(1)).deployment in ("1", "2"))


def _of(workspace: Workspace) -> list[psutil.Process]:
    """Every process of this workspace: each names it in its environment or among its arguments."""
    found = []
    for process in psutil.process_iter():
        try:
            named = process.environ().get("MLOPS_HOME") == str(workspace.root) or str(workspace.root) in " ".join(process.cmdline())
            if named and process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue  # it ended while we looked
    return found


@pytest.mark.parametrize("left", [None, "2"], ids=["one that left no word", "one of an earlier schema"])
def test_an_agent_of_an_earlier_version_makes_way_for_this_one_and_what_ran_runs_on(churn: Workspace, left: str | None) -> None:
    word, earlier, server = churn.run / "agent.schema", agent_pid(churn), deployment("churn/1").handle["pid"]
    word.write_text(left) if left else word.unlink()
    (churn.run / "gateway" / "splits.json").write_text('{"resources": []}')  # as an earlier version left it

    traffic.split("churn", {"1": 100, "2": 0})

    assert agent_pid(churn) != earlier
    assert deployment("churn/1").handle["pid"] == server
