"""Two things at once, and the moment between two steps: no process is left that nobody knows of, and none of another workspace's is touched."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import psutil
import pytest
from living import X, churn_model, deployment, wait_for

from mlops_nb import agent, errors, reconcile, registry, rollout, settings, store
from mlops_nb.settings import Workspace
from mlops_nb.store import deployments as table
from mlops_nb.store import state
from mlops_nb.store.deployments import Deployment


def servers(workspace: Workspace) -> list[psutil.Process]:
    """This workspace's scoring servers."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if "mlops_nb.serving" in words and words[-1].startswith(f"{workspace.run.resolve()}{os.sep}"):
            found.append(process)
    return found


def of_the_workspace(workspace: Workspace) -> list[psutil.Process]:
    """Every process that names the workspace among its arguments or works in its folder."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        try:
            named = str(workspace.root) in " ".join(process.info["cmdline"] or []) or process.cwd().startswith(str(workspace.root))
            if named and process.pid != os.getpid() and process.info["status"] != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue  # it ended while we looked
    return found


@pytest.fixture
def by_hand(live_workspace: Workspace) -> Iterator[reconcile.World]:
    """A world that takes its steps when the test says so; no agent beside it."""
    churn_model()
    yield reconcile.World()


def wanted(*, name: str = "1") -> Deployment:
    version = registry.get("churn:1")
    with store.writing() as tx:
        return rollout._wanted(tx, version, endpoint="churn", name=name, target="local", spec=table.DeploymentSpec(), traffic=None)


def test_withdrawn_while_its_server_starts_nothing_keeps_running(by_hand: reconcile.World, live_workspace: Workspace) -> None:
    read_before = wanted()
    with store.writing() as tx:
        table.want(tx, read_before, "stopped", author="ada")

    reconcile._begin(read_before, status="starting")

    wait_for(lambda: not servers(live_workspace), what="the server's end")


def test_a_server_that_a_killed_agent_did_not_note_down_is_ended(by_hand: reconcile.World, live_workspace: Workspace) -> None:
    reconcile._started(wanted())
    assert len(servers(live_workspace)) == 1
    unknown = servers(live_workspace)[0].pid

    by_hand.step()

    wait_for(lambda: unknown not in {server.pid for server in servers(live_workspace)}, what="the server's end")
    wait_for(lambda: deployment("churn/1").handle, what="another one")


def test_a_deployment_that_cannot_be_settled_keeps_no_other_from_it(by_hand: reconcile.World) -> None:
    wanted(name="0")
    with store.writing() as tx:
        tx.execute("UPDATE deployments SET target = 'moon'")
        tx.execute("UPDATE deployments SET status = 'healthy'")
    wanted(name="1")

    with pytest.raises(errors.BadOption):
        by_hand.step()

    assert deployment("churn/1").status == "starting"


def test_a_version_whose_files_are_gone_is_told_as_such(by_hand: reconcile.World, live_workspace: Workspace) -> None:
    shutil.rmtree(live_workspace.artifacts)

    with pytest.raises(errors.DeploymentFailed, match="No such file"):
        rollout.deploy("churn:1")


def test_deployed_again_while_being_withdrawn_it_comes_up_and_can_be_withdrawn(live_workspace: Workspace) -> None:
    churn_model()
    rollout.deploy("churn:1")
    first = deployment("churn/1").handle["pid"]
    with store.writing() as tx:
        table.want(tx, table.get(tx, "churn", "1"), "stopped", author="ada")

    rollout.deploy("churn:1")

    assert [server.pid for server in servers(live_workspace)] == [deployment("churn/1").handle["pid"]] != [first]
    rollout.undeploy("churn")
    assert not servers(live_workspace)


def test_an_endpoint_deleted_while_another_deploys_to_it_leaves_no_server(live_workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    churn_model()
    rollout.deploy("churn:1")
    undeploy, late = rollout.undeploy, ["2"]

    def undeploy_and_then_somebody_deploys(ref: object) -> list[str]:
        gone = undeploy(ref)
        if late:
            rollout.deploy("churn:1", name=late.pop(), wait=False)
        return gone

    monkeypatch.setattr(rollout, "undeploy", undeploy_and_then_somebody_deploys)

    assert rollout.delete_endpoint("churn") == ["churn/1", "churn/2"]
    assert not servers(live_workspace)


def test_of_two_processes_that_deploy_the_same_at_once_both_get_the_one_server(live_workspace: Workspace) -> None:
    churn_model()
    command = [sys.executable, "-m", "mlops_nb", "--json", "deploy", "churn:1"]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(2)]

    assert [process.wait(60) for process in both] == [0, 0]
    for process in both:
        process.stdout.close()
    assert len(servers(live_workspace)) == 1


def test_down_during_a_deployment_ends_the_waiting_and_stays_down(live_workspace: Workspace, tmp_path) -> None:
    entry = tmp_path / "score.py"
    entry.write_text("import time\n\ndef init():\n    time.sleep(60)\n\ndef run(raw_data):\n    return 1\n")
    registry.register(None, name="slow", entry=entry)
    deploying = subprocess.Popen([sys.executable, "-m", "mlops_nb", "deploy", "slow:1"])
    wait_for(lambda: servers(live_workspace), what="the server")

    rollout.down()

    assert deploying.wait(30) == 1
    assert not agent.running() and not servers(live_workspace)


def test_an_agent_that_was_wanted_before_down_does_not_begin_after_it(live_workspace: Workspace) -> None:
    """As one does that a waiting deployment started in the instant before `down` took the lock."""
    with store.writing():
        pass
    wanted = agent.stopped_times()
    rollout.down()

    late = subprocess.run([sys.executable, "-m", "mlops_nb.agent", str(wanted)], timeout=30)

    assert late.returncode == 0 and not agent.running()
    with pytest.raises(errors.WorkspaceStopped):
        agent.ensure(stops=wanted)
    agent.ensure()
    assert agent.running()


def test_down_is_quick_though_the_agents_parent_never_asks_for_it(live_workspace: Workspace) -> None:
    """A kernel that started the agent leaves a zombie behind, which is no agent."""
    with store.writing():
        pass
    parent = subprocess.Popen(
        [sys.executable, "-c", "from mlops_nb import agent; agent.ensure(); print('up', flush=True); input()"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert parent.stdout.readline() == b"up\n"
    done = threading.Event()
    threading.Thread(target=lambda: (rollout.down(), done.set())).start()

    in_time = done.wait(15)

    parent.communicate(b"\n")
    assert in_time and not agent.running()


def test_a_copy_of_a_running_workspace_leaves_the_original_alone(live_workspace: Workspace, tmp_path) -> None:
    churn_model()
    rollout.deploy("churn:1")
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-r", str(live_workspace.root), str(copy)], check=True)
    before = {process.pid for process in of_the_workspace(live_workspace)}

    with settings.using(copy), pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLOPS_HOME", str(copy))
        rollout.up()
        answer = rollout.invoke("churn", X.head(2))
        assert deployment("churn/1").handle["pid"] not in before
        rollout.down()

    assert {process.pid for process in of_the_workspace(live_workspace)} == before
    assert rollout.invoke("churn", X.head(2)).outputs == answer.outputs


def test_the_agent_of_a_deleted_workspace_ends_what_ran_in_it_and_itself(live_workspace: Workspace) -> None:
    churn_model()
    rollout.deploy("churn:1")
    started = {process.pid for process in of_the_workspace(live_workspace)}
    assert len(started) >= 3

    shutil.rmtree(live_workspace.root)

    wait_for(lambda: not started & {process.pid for process in of_the_workspace(live_workspace)}, what="the end of all")
    assert not live_workspace.root.exists()


def test_a_moved_workspace_is_served_where_it_is_now(live_workspace: Workspace, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    churn_model()
    rollout.deploy("churn:1")
    moved = Workspace(tmp_path / "moved")
    live_workspace.root.rename(moved.root)
    wait_for(lambda: not servers(live_workspace), what="the end of the servers that were started in the old place")
    monkeypatch.setenv("MLOPS_HOME", str(moved.root))

    rollout.up()

    assert rollout.invoke("churn", X.head(1)).deployment == "1"
    assert len(servers(moved)) == 1


def test_trouble_of_the_gateway_that_is_over_is_told_no_longer(live_workspace: Workspace) -> None:
    churn_model()
    rollout.deploy("churn:1")
    with store.writing() as tx:
        state.put(tx, "gateway_trouble", errors.PortInUse(1).as_json())
    os.kill(int((live_workspace.run / "agent.lock").read_text()), signal.SIGKILL)
    wait_for(lambda: not agent.running(), what="the agent's end")

    rollout.up()

    wait_for(lambda: not rollout.status().gateway_trouble, what="the all-clear")


def test_the_gateway_forgets_the_last_endpoint_too(live_workspace: Workspace) -> None:
    import httpx

    churn_model()
    url = rollout.deploy("churn:1").url
    rollout.delete_endpoint("churn")

    wait_for(lambda: httpx.get(f"{url}/v2").status_code == 404, what="404")


@pytest.mark.parametrize("name", ["routing.json", "clusters.json", "listeners.json"])
def test_what_the_gateway_works_by_is_written_again_where_it_was_deleted(live_workspace: Workspace, name: str) -> None:
    churn_model()
    rollout.deploy("churn:1")
    file = live_workspace.run / "gateway" / name
    before = file.read_bytes()

    file.unlink()

    wait_for(lambda: file.exists() and file.read_bytes() == before, seconds=20, what=name)
    assert rollout.invoke("churn", X.head()).deployment == "1"
