"""`deploy --to fpga`: the emulation stands behind an endpoint like any model, and says everywhere that it is one."""

from __future__ import annotations

import http.client
from pathlib import Path

import msgspec
import numpy as np
import psutil
import pytest
from living import deployment, wait_for

from mlops_nb import cards, hls, metrics, overview, processes, rollout, store, targets, telemetry
from mlops_nb.errors import BadOption, FileMissing, HardwareMissing, TargetCannot
from mlops_nb.fpga import NAME
from mlops_nb.ports import free_port
from mlops_nb.store import deployments as table
from mlops_nb.store.deployments import DeploymentSpec

from .conftest import NUMBERS

pytestmark = pytest.mark.xdist_group("fpga")


@pytest.fixture(scope="module")
def deployed(network):
    """The network deployed as it is and in emulation, half the requests each."""
    rollout.deploy(network.ref, endpoint="late", name="cpu")
    yield rollout.deploy(network.ref, endpoint="late", name="fpga", to="fpga", traffic=50)
    rollout.down()


def test_it_is_said_to_be_an_emulation_wherever_it_is_shown(deployed):
    view = next(d for d in rollout.endpoints("late")[0].deployments if d.name == "fpga")

    assert view.hardware == deployed.hardware == f"{NAME}, fixed<16,6>"
    in_jupyterlab = {d["ref"]: d["target"] for each in overview.summary()["endpoints"] for d in each["deployments"]}
    assert in_jupyterlab["late/fpga"] == f"fpga, {NAME}, fixed<16,6>" and in_jupyterlab["late/cpu"] == "local"
    assert f'hardware="{NAME}, fixed<16,6>"' in metrics.exposition("late")
    assert "FPGA emulation" in cards.as_text(deployed) and "FPGA emulation" in cards.as_text(rollout.endpoints("late")[0])


def test_its_usage_and_metadata_say_so_too(deployed):
    there = deployment("late/fpga")
    connection = http.client.HTTPConnection("127.0.0.1", there.handle["port"], timeout=10)
    connection.request("GET", "/v2/models/late", headers={"x-mlops-token": Path(there.handle["token_file"]).read_text()})
    told = msgspec.json.decode(connection.getresponse().read())

    assert targets.get("fpga").usage(there).hardware == f"{NAME}, fixed<16,6>"
    assert told["parameters"]["execution_providers"] == [f"{NAME}, fixed<16,6>"]
    assert told["platform"].endswith("fpga_emulation")


def test_the_gateway_leads_to_it_and_it_answers_nearly_as_the_model(deployed, flights):
    rows = flights[NUMBERS].head(200)
    real, emulated = (rollout.invoke("late", rows, deployment=name).outputs for name in ("cpu", "fpga"))

    assert np.mean(np.array(real["label"]) == np.array(emulated["label"])) > 0.97
    assert np.abs(np.array(real["probabilities"]) - np.array(emulated["probabilities"])).max() < 0.05
    assert real["probabilities"] != emulated["probabilities"]


def test_it_answers_one_row_as_it_answers_it_among_many(deployed, flights):
    rows = flights[NUMBERS].head(5)
    many = rollout.invoke("late", rows, deployment="fpga").outputs["probabilities"]

    assert [rollout.invoke("late", rows.iloc[[place]], deployment="fpga").outputs["probabilities"][0] for place in range(5)] == many


def test_the_look_for_stray_servers_of_the_local_target_leaves_it_running(deployed):
    with store.reading() as tx:
        known = [d for d in table.of(tx) if targets.runs_as(d.target) == "local"]
    targets.get("local").end_strays(known)

    assert "late/fpga" in [d.ref for d in known]
    assert targets.get("fpga").alive(deployment("late/fpga"))


def test_another_precision_can_be_asked_for(network):
    spec = DeploymentSpec(options={"precision": "fixed<6,3>"})
    try:
        assert rollout.deploy(network.ref, endpoint="coarse", to="fpga", spec=spec).hardware == f"{NAME}, fixed<6,3>"
    finally:
        rollout.undeploy("coarse")


def test_it_is_held_to_what_was_asked_of_it_as_any_process_is(network, flights):
    spec = DeploymentSpec(cpus=1, memory_mb=2000, port=free_port(), variables={"MODE": "calm"})
    rollout.deploy(network.ref, endpoint="held", to="fpga", spec=spec)
    there = deployment("held/1")
    process = psutil.Process(there.handle["pid"])

    rollout.invoke("held", flights[NUMBERS].head(2))

    assert there.handle["port"] == spec.port and process.environ()["MODE"] == "calm" and len(process.cpu_affinity()) == 1
    assert "ended beyond 2000 MB" in targets.limits(there)
    assert wait_for(lambda: telemetry.requests("held"), what="what it captured")[0]["rows"] == 2
    assert any("deployment.started" in line for line in rollout.logs("held/1"))
    rollout.undeploy("held")
    assert not processes.lives(process)


def test_what_it_has_no_form_for_is_refused_before_anything_is_done(network, register, fitted_trees):
    with pytest.raises(BadOption, match=r"no FPGA form in fixed<20,8>. It has: fixed<6,3>"):
        rollout.deploy(network.ref, endpoint="none", to="fpga", spec=DeploymentSpec(options={"precision": "fixed<20,8>"}))
    with pytest.raises(BadOption, match="has no FPGA form"):
        rollout.deploy(register(fitted_trees, "unconverted").ref, endpoint="none", to="fpga")

    assert "none" not in [view.name for view in rollout.endpoints()]


def test_a_precision_is_no_option_of_the_local_target(network):
    with pytest.raises(TargetCannot, match=r"--precision.*fpga"):
        rollout.deploy(network.ref, endpoint="none", spec=DeploymentSpec(options={"precision": "fixed<16,6>"}))


def test_a_deployment_keeps_its_project_when_the_version_is_converted_anew(network, deployed, flights):
    before = rollout.invoke("late", flights[NUMBERS].head(3), deployment="fpga").outputs
    hls.convert(network.ref, precisions=["fixed<10,4>"])
    there = deployment("late/fpga")
    targets.get("fpga").stop(there)

    assert there.spec.options["precision"] == "fixed<16,6>"
    rollout.up()
    assert rollout.invoke("late", flights[NUMBERS].head(3), deployment="fpga").outputs == before


def test_an_overlay_without_its_board_is_refused_with_what_is_missing(network, tmp_path):
    (tmp_path / "model.bit").write_bytes(b"")
    with pytest.raises(HardwareMissing, match=r"pynq is not installed; .*model.hwh is not beside model.bit"):
        rollout.deploy(network.ref, endpoint="none", to="fpga", spec=DeploymentSpec(options={"overlay": str(tmp_path / "model.bit")}))
    with pytest.raises(FileMissing):
        rollout.deploy(network.ref, endpoint="none", to="fpga", spec=DeploymentSpec(options={"overlay": str(tmp_path / "none.bit")}))
