"""The gateway's process."""

from __future__ import annotations

import os
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from mlops_nb import gateway, keys, settings
from mlops_nb.errors import GatewayUnavailable, GatewayUnreachable, PortInUse
from mlops_nb.settings import Workspace

from .conftest import Gate, Server, a_gate, eventually


def test_a_gateway_can_be_started_before_there_is_any_endpoint(gate: Gate) -> None:
    assert gateway.observe(gate.handle)
    assert gate.ask("/").status == 404


def test_starting_twice_keeps_the_one_that_runs(gate: Gate) -> None:
    assert gateway.start(gate.port) == gate.handle


def test_killed_and_started_again_it_serves_what_it_served(gate: Gate, red: Server) -> None:
    gate.send(red.taking(100))
    os.kill(gate.handle["pid"], signal.SIGKILL)
    eventually(lambda: not gateway.observe(gate.handle))

    gate.start()

    assert gate.ask().body["name"] == "red"


def test_what_is_applied_while_it_is_down_is_served_when_it_is_up(gate: Gate, red: Server, blue: Server) -> None:
    gate.send(red.taking(100))
    gateway.stop(gate.handle)
    gate.send(blue.taking(100))

    gate.start()

    assert gate.ask().body["name"] == "blue"


def test_stopped_it_is_gone_and_stopping_again_is_nothing(gate: Gate) -> None:
    gateway.stop(gate.handle)
    gateway.stop(gate.handle)

    assert not psutil.pid_exists(gate.handle["pid"])
    assert not gateway.observe(gate.handle)


def test_one_that_nobody_wrote_down_is_stopped_too(gate: Gate) -> None:
    gateway.stop({"pid": os.getpid(), "port": gate.port})

    assert not psutil.pid_exists(gate.handle["pid"])
    assert psutil.pid_exists(os.getpid())


def test_another_process_with_its_pid_is_not_taken_for_it(gate: Gate) -> None:
    assert not gateway.observe(gate.handle | {"pid": os.getpid()})


def test_a_request_under_way_is_answered_before_it_stops(gate: Gate, red: Server) -> None:
    gate.send(red.taking(100))
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(gate.ask, "/delays/sleep=0.7")
        eventually(lambda: any(row["active"] for row in gateway.counters()))
        gateway.stop(gate.handle)

        assert slow.result().status == 200


def test_a_taken_port_is_said_with_who_holds_it_and_leaves_no_process(workspace: Workspace) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortInUse, match=f"Port {port} is taken by .*pid {os.getpid()}"):
            gateway.start(port)

    assert not gateways_of(workspace)


def test_after_a_taken_port_another_one_works(workspace: Workspace, red: Server) -> None:
    with pytest.raises(PortInUse):
        gateway.start(red.port)

    with a_gate() as gate:
        gate.send(red.taking(100))
        assert gate.ask().status == 200


def test_two_workspaces_run_side_by_side(tmp_path: Path, red: Server, blue: Server) -> None:
    with settings.using(tmp_path / "a"), a_gate() as first:
        first.send(red.taking(100))
        key = keys.key("delays")
        with settings.using(tmp_path / "b"), a_gate() as second:
            second.send(blue.taking(100))

            assert (first.ask(key=key).body["name"], second.ask().body["name"]) == ("red", "blue")
            assert second.ask(key=key).status == 401
        assert first.ask().body["name"] == "red"


@pytest.mark.parametrize("folder", ["deep/" * 30 + "ws", "with space and ünïcode/ws"])
def test_a_workspace_may_lie_deep_or_have_an_odd_path(tmp_path: Path, red: Server, folder: str) -> None:
    with settings.using(tmp_path / folder), a_gate() as gate:
        gate.send(red.taking(100))

        assert gate.ask().body["name"] == "red"
        assert gateway.counters()[0]["requests"] == 1


def test_no_secret_is_in_its_arguments_environment_or_log(gate: Gate, red: Server, workspace: Workspace) -> None:
    gate.send(red.taking(100))
    gate.ask()
    process = psutil.Process(gate.handle["pid"])
    seen = " ".join(process.cmdline()) + str(process.environ()) + (workspace.run / "gateway" / "envoy.log").read_text()

    assert keys.key("delays") not in seen
    assert red.token not in seen


def test_only_the_owner_can_read_its_files_or_reach_its_own_door(gate: Gate, red: Server, workspace: Workspace) -> None:
    gate.send(red.taking(100))
    folder = workspace.run / "gateway"

    names = {"admin.sock", "bootstrap.json", "clusters.json", "envoy.log", "listeners.json", "routing.json"}

    assert {(file.name, file.stat().st_mode & 0o777) for file in folder.iterdir()} == {(name, 0o600) for name in names}
    assert folder.stat().st_mode & 0o777 == 0o700


def test_it_listens_on_this_machine_alone(gate: Gate) -> None:
    listening = [c.laddr.ip for c in psutil.Process(gate.handle["pid"]).net_connections("inet") if c.status == psutil.CONN_LISTEN]

    assert set(listening) == {"127.0.0.1"}


def test_it_is_in_a_session_of_its_own(gate: Gate) -> None:
    assert os.getsid(gate.handle["pid"]) != os.getsid(0)


def test_without_an_envoy_the_machine_is_said_to_have_none(workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "envoy").mkdir()
    (tmp_path / "envoy" / "__init__.py").write_text("'''Somebody else's package of this name.'''")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(GatewayUnavailable, match="No Envoy on this machine"):
        gateway.start(1)


def test_counters_of_a_gateway_that_does_not_run_say_so(workspace: Workspace) -> None:
    with pytest.raises(GatewayUnreachable, match="does not answer"):
        gateway.counters()


def gateways_of(workspace: Workspace) -> list[psutil.Process]:
    return [p for p in psutil.process_iter(["cmdline"]) if str(workspace.run / "gateway" / "bootstrap.json") in (p.info["cmdline"] or [])]
