"""Every verb on every target: it works — and is tried beside the target — or is refused before anything is done, naming targets that can."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import living
import pytest

from mlops_nb import agreement, alerts, labels, monitoring, performance, profiling, replaying, rollout, store, targets, traffic
from mlops_nb.errors import MlopsError, TargetCannot
from mlops_nb.settings import Workspace
from mlops_nb.store import deployments as table
from mlops_nb.store.deployments import Deployment, DeploymentSpec

SPECS: dict[str, DeploymentSpec] = {
    "cpus": DeploymentSpec(cpus=1),
    "memory": DeploymentSpec(memory_mb=512),
    "gpus": DeploymentSpec(gpus="all"),
    "port": DeploymentSpec(port=18080),
    "variables": DeploymentSpec(variables={"MODE": "calm"}),
    "hardware": DeploymentSpec(hardware="cuda"),
    "isolated": DeploymentSpec(isolated=True),
}
"""What deploying with an option asks of a target."""
VERBS: dict[str, Callable[[], Any]] = {
    "traffic": lambda: traffic.split("there", {"1": 100}),
    "invoke": lambda: rollout.invoke("there", living.X.head(1)),
    "logs": lambda: rollout.logs("there/1"),
    "usage": lambda: targets.get(living.deployment("there/1").target).usage(living.deployment("there/1")),
    "capture": lambda: monitoring.check_drift("there"),
}
"""What is asked of a deployment that runs, by the ability it takes."""
ELSEWHERE = {"replace"}
"""Abilities that say how a target does what all do, so that nothing asks for them by name."""
PROOFS: dict[str, dict[str, str]] = {
    "prepare": {
        "local": "entry/test_isolated.py::test_a_version_whose_packages_differ_here_is_deployed_with_its_own",
        "docker": "docker/test_target.py::test_a_version_is_built_answers_and_what_it_was_asked_is_kept_here",
        "kubernetes": "kubernetes/test_deploying.py::test_what_the_cluster_would_not_take_is_told_before_anything_is_done",
        "fpga": "fpga/test_deploy.py::test_another_precision_can_be_asked_for",
        "edge": "edge/test_target.py::test_a_version_is_deployed_to_a_device_asked_replaced_and_withdrawn",
    },
    "start": {
        "local": "targets/test_limits.py::test_a_server_listens_where_it_was_told_with_the_variables_it_was_given_and_is_gone_once_withdrawn",
        "docker": "docker/test_target.py::test_a_version_is_built_answers_and_what_it_was_asked_is_kept_here",
        "kubernetes": "kubernetes/test_deploying.py::test_a_deployment_comes_up_with_all_that_belongs_to_it",
        "fpga": "fpga/test_deploy.py::test_the_gateway_leads_to_it_and_it_answers_nearly_as_the_model",
        "edge": "edge/test_target.py::test_a_version_is_deployed_to_a_device_asked_replaced_and_withdrawn",
    },
    "observe": {
        "local": "faults/test_why.py::test_one_that_hangs_tells_what_its_health_check_came_to",
        "docker": "docker/test_target.py::test_a_paused_container_is_told_as_such",
        "kubernetes": "kubernetes/test_deploying.py::test_a_pod_that_falls_is_left_to_the_cluster_and_told",
        "fpga": "fpga/test_deploy.py::test_a_deployment_keeps_its_project_when_the_version_is_converted_anew",
        "edge": "edge/test_target.py::test_a_version_that_the_device_cannot_run_is_a_failed_deployment_that_says_so_and_the_old_one_goes_on",
    },
    "stop": {
        "local": "targets/test_limits.py::test_a_server_listens_where_it_was_told_with_the_variables_it_was_given_and_is_gone_once_withdrawn",
        "docker": "docker/test_target.py::test_a_version_is_built_answers_and_what_it_was_asked_is_kept_here",
        "kubernetes": "kubernetes/test_deploying.py::test_withdrawing_leaves_nothing_on_the_cluster",
        "fpga": "fpga/test_deploy.py::test_it_is_held_to_what_was_asked_of_it_as_any_process_is",
        "edge": "edge/test_target.py::test_a_version_is_deployed_to_a_device_asked_replaced_and_withdrawn",
    },
    "traffic": {
        "local": "journeys/test_the_slice.py::test_both_versions_serve_half_the_traffic_each",
        "docker": "docker/test_target.py::test_a_split_between_a_process_and_a_container_drops_nothing_under_load",
        "kubernetes": "kubernetes/test_deploying.py::test_weights_move_by_a_patch_of_the_route_and_back",
        "fpga": "fpga/test_deploy.py::test_the_gateway_leads_to_it_and_it_answers_nearly_as_the_model",
    },
    "invoke": {
        "local": "journeys/test_the_slice.py::test_both_versions_serve_half_the_traffic_each",
        "docker": "docker/test_target.py::test_a_version_is_built_answers_and_what_it_was_asked_is_kept_here",
        "fpga": "fpga/test_deploy.py::test_the_gateway_leads_to_it_and_it_answers_nearly_as_the_model",
    },
    "logs": {
        "local": "faults/test_why.py::test_the_command_line_shows_the_same",
        "docker": "docker/test_target.py::test_a_version_is_built_answers_and_what_it_was_asked_is_kept_here",
        "kubernetes": "kubernetes/test_deploying.py::test_the_log_and_the_usage_are_read_from_the_cluster",
        "fpga": "fpga/test_deploy.py::test_it_is_held_to_what_was_asked_of_it_as_any_process_is",
        "edge": "edge/test_containers.py::test_a_device_in_a_container_answers_with_no_more_rights_than_it_needs",
    },
    "usage": {
        "local": "targets/test_limits.py::test_a_server_listens_where_it_was_told_with_the_variables_it_was_given_and_is_gone_once_withdrawn",
        "docker": "docker/test_target.py::test_a_version_is_built_answers_and_what_it_was_asked_is_kept_here",
        "kubernetes": "kubernetes/test_deploying.py::test_the_log_and_the_usage_are_read_from_the_cluster",
        "fpga": "fpga/test_deploy.py::test_its_usage_and_metadata_say_so_too",
        "edge": "edge/test_containers.py::test_a_device_in_a_container_answers_with_no_more_rights_than_it_needs",
    },
    "capture": {
        "local": "journeys/test_the_slice.py::test_july_has_drifted_from_winter",
        "docker": "docker/test_target.py::test_a_version_is_built_answers_and_what_it_was_asked_is_kept_here",
        "fpga": "fpga/test_deploy.py::test_it_is_held_to_what_was_asked_of_it_as_any_process_is",
        "edge": "edge/test_target.py::test_each_device_is_judged_for_drift_by_what_it_was_asked_within_one_budget",
    },
    "cpus": {
        "local": "targets/test_limits.py::test_deployments_are_held_to_cores_of_their_own_and_say_so",
        "docker": "docker/test_target.py::test_a_version_is_built_answers_and_what_it_was_asked_is_kept_here",
        "kubernetes": "kubernetes/test_deploying.py::test_what_the_line_says_is_what_the_cluster_runs",
        "fpga": "fpga/test_deploy.py::test_it_is_held_to_what_was_asked_of_it_as_any_process_is",
        "edge": "edge/test_containers.py::test_a_device_in_a_container_answers_with_no_more_rights_than_it_needs",
    },
    "memory": {
        "local": "targets/test_limits.py::test_a_model_that_takes_more_memory_than_it_may_is_ended_and_says_how_much",
        "docker": "docker/test_target.py::test_a_container_that_takes_too_much_memory_tells_its_limit",
        "kubernetes": "kubernetes/test_deploying.py::test_what_the_line_says_is_what_the_cluster_runs",
        "fpga": "fpga/test_deploy.py::test_it_is_held_to_what_was_asked_of_it_as_any_process_is",
    },
    "gpus": {
        "local": "test_gpus.py::test_the_one_with_most_free_memory_is_handed_over_first",
        "docker": "docker/test_target.py::test_gpus_are_asked_of_the_engine_as_devices",
        "kubernetes": "kubernetes/test_deploying.py::test_what_the_line_says_is_what_the_cluster_runs",
    },
    "port": {
        "local": "targets/test_limits.py::test_a_server_listens_where_it_was_told_with_the_variables_it_was_given_and_is_gone_once_withdrawn",
        "docker": "docker/test_target.py::test_a_taken_port_is_told",
        "fpga": "fpga/test_deploy.py::test_it_is_held_to_what_was_asked_of_it_as_any_process_is",
    },
    "variables": {
        "local": "targets/test_limits.py::test_a_server_listens_where_it_was_told_with_the_variables_it_was_given_and_is_gone_once_withdrawn",
        "docker": "docker/test_target.py::test_a_script_that_raises_tells_its_own_line",
        "kubernetes": "kubernetes/test_deploying.py::test_what_the_line_says_is_what_the_cluster_runs",
        "fpga": "fpga/test_deploy.py::test_it_is_held_to_what_was_asked_of_it_as_any_process_is",
    },
    "hardware": {"local": "entry/test_isolated.py::test_hardware_whose_runtime_is_not_here_is_brought_into_the_environment_and_proved"},
    "isolated": {
        "local": "entry/test_isolated.py::test_a_version_whose_packages_differ_here_is_deployed_with_its_own",
        "docker": "docker/test_target.py::test_a_version_is_built_answers_and_what_it_was_asked_is_kept_here",
    },
    "replace": {"edge": "edge/test_target.py::test_a_version_is_deployed_to_a_device_asked_replaced_and_withdrawn"},
}
"""For each verb of the protocol and each ability: the test that tries it on each target that has it, where the target's real component is."""
KSERVE = "kubernetes/test_kserve.py::"
BY_KSERVE: dict[str, str] = {
    "traffic": "test_traffic_moves_between_both_styles_and_each_is_withdrawn_alone",
    "logs": "test_the_line_brings_it_up_and_the_route_leads_to_what_kserve_made",
    "usage": "test_what_it_uses_is_read_from_the_pods_that_kserve_made",
    "cpus": "test_a_deployment_is_one_inference_service_in_the_standard_mode",
    "memory": "test_a_deployment_is_one_inference_service_in_the_standard_mode",
    "gpus": "test_a_deployment_is_one_inference_service_in_the_standard_mode",
    "variables": "test_a_deployment_is_one_inference_service_in_the_standard_mode",
}
"""The same for `--style kserve` on a cluster, which is to lack nothing that a plain Deployment has."""
EVERYWHERE = {"prepare", "start", "observe", "stop", "logs"}
OPTIONS = sorted(set().union(*(targets.get(name).OPTIONS for name in targets.NAMES)))
PAGE = Path(__file__).parents[2] / "docs" / "targets.md"


@pytest.fixture
def churn(workspace: Workspace) -> str:
    """`churn:1`."""
    return living.churn_model().ref


def planted(target: str) -> None:
    """A deployment on *target* as if it were healthy, with nothing behind it."""
    deployment = Deployment(
        endpoint="there", name="1", model="churn", version=1, target=target, spec=DeploymentSpec(), wanted="running", generation=1, status="healthy",
        created_at=store.now(), changed_at=store.now(),
    )  # fmt: skip
    with store.writing() as tx:
        table.ensure_endpoint(tx, "there", author="a test")
        table.put(tx, deployment)


def able(ability: str) -> list[str]:
    return [name for name in targets.NAMES if ability in targets.get(name).ABILITIES]


def refused_for(ability: str) -> list[str]:
    return [name for name in targets.NAMES if ability not in targets.get(name).ABILITIES]


def test_every_ability_is_tried_here() -> None:
    assert set(targets.ABILITIES) == {*SPECS, *VERBS, *ELSEWHERE}
    for name in targets.NAMES:
        assert set(targets.get(name).ABILITIES) <= set(targets.ABILITIES)
        assert targets.get(name).TRAFFIC in ("gateway", "own", "none")


@pytest.mark.parametrize("verb", sorted({*EVERYWHERE, *targets.ABILITIES}))
def test_what_a_target_can_do_is_tried_on_it_by_a_test_that_is_there(verb: str) -> None:
    can = set(targets.NAMES) if verb in EVERYWHERE else set(able(verb))

    assert set(PROOFS[verb]) == can
    for proof in PROOFS[verb].values():
        assert is_there(proof), proof


def test_what_a_cluster_can_do_is_tried_in_both_styles() -> None:
    assert set(BY_KSERVE) == set(targets.get("kubernetes").ABILITIES)
    for test in BY_KSERVE.values():
        assert is_there(KSERVE + test), test


def is_there(proof: str) -> bool:
    """Whether the test is there that `file::name` names."""
    path, _, test = proof.partition("::")
    found = ast.walk(ast.parse((Path(__file__).parents[1] / path).read_text(encoding="utf-8")))
    return test in {node.name for node in found if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize(("ability", "name"), [(ability, name) for ability in SPECS for name in refused_for(ability)])
def test_an_option_that_a_target_lacks_is_refused_before_anything_is_stored(churn: str, ability: str, name: str) -> None:
    with pytest.raises(TargetCannot, match=re.escape(f"The target {name} cannot {targets.ABILITIES[ability]}.")) as refused:
        rollout.deploy(churn, to=name, spec=SPECS[ability])

    assert all(other in str(refused.value) for other in able(ability))
    assert rollout.endpoints() == []


@pytest.mark.parametrize(("option", "name"), [(option, name) for option in OPTIONS for name in targets.NAMES if option not in targets.get(name).OPTIONS])
def test_another_targets_option_is_refused_before_anything_is_stored(churn: str, option: str, name: str) -> None:
    with pytest.raises(TargetCannot) as refused:
        rollout.deploy(churn, to=name, spec=DeploymentSpec(options={option: "x"}))

    assert all(other in str(refused.value) for other in targets.NAMES if option in targets.get(other).OPTIONS)
    assert rollout.endpoints() == []


@pytest.mark.parametrize(("ability", "name"), [(ability, name) for ability in SPECS for name in able(ability)])
def test_an_option_that_a_target_has_is_not_called_lacking(churn: str, ability: str, name: str) -> None:
    version, environment = rollout._with_environment(rollout.ModelRef.parse(churn), SPECS[ability])
    try:
        targets.check(name, version, environment, SPECS[ability])
    except TargetCannot:
        raise
    except MlopsError as error:  # no engine, no cluster, no GPU here: that is another matter, and said so
        assert error.hint


@pytest.mark.parametrize(("ability", "name"), [(ability, name) for ability in VERBS for name in refused_for(ability)])
def test_a_verb_that_a_target_lacks_is_refused_and_changes_nothing(churn: str, ability: str, name: str) -> None:
    planted(name)
    with store.reading() as tx:
        before = table.of(tx), table.traffic(tx, "there")

    with pytest.raises(TargetCannot, match=re.escape(f"The target {name} cannot")) as refused:
        VERBS[ability]()

    assert all(other in str(refused.value) for other in able(ability))
    with store.reading() as tx:
        assert (table.of(tx), table.traffic(tx, "there")) == before


READS_WHAT_WAS_KEPT: dict[str, Callable[[], Any]] = {
    "drift": lambda: monitoring.check_drift("there"),
    "canary": lambda: traffic.canary("there/1"),
    "replay": lambda: replaying.replay("churn:1", endpoint="there"),
    "performance": lambda: performance.of("there"),
    "labels": lambda: labels.record("there", {"request_id": ["a"], "label": [1]}),
    "agreement": lambda: agreement.of_shadow("there/1"),
    "an alert by errors": lambda: alerts.add("there", "error_rate > 5% for 5m"),
    "an alert by silence": lambda: alerts.add("there", "no requests for 1h"),
    "an alert by drift": lambda: alerts.add("there", "drift"),
}


@pytest.mark.parametrize(("reader", "name"), [(reader, name) for reader in READS_WHAT_WAS_KEPT for name in refused_for("capture")])
def test_whatever_reads_requests_is_refused_where_none_is_kept(churn: str, reader: str, name: str) -> None:
    planted(name)

    with pytest.raises(TargetCannot) as refused:
        READS_WHAT_WAS_KEPT[reader]()

    assert all(other in str(refused.value) for other in able("capture"))
    assert alerts.of("there") == [] and not (Workspace.current().telemetry / "endpoint=there" / "labels").exists()


@pytest.mark.parametrize("name", refused_for("invoke"))
def test_what_is_not_asked_over_http_is_not_measured_as_it_runs(churn: str, name: str) -> None:
    planted(name)

    with pytest.raises(TargetCannot, match="be asked over HTTP from here"):
        profiling.profile("there/1")


@pytest.mark.parametrize("name", targets.NAMES)
def test_only_targets_behind_the_gateway_share_an_endpoint(churn: str, name: str) -> None:
    planted(name)
    for other in targets.NAMES:
        if other != name and not targets.may_share(other, name):
            with pytest.raises(MlopsError):
                rollout.deploy(churn, endpoint="there", name="2", to=other)
    with store.reading() as tx:
        assert [deployment.name for deployment in table.of(tx)] == ["1"]


def the_table() -> str:
    """What each target can do, as the page shows it."""
    head = ["| what | " + " | ".join(targets.NAMES) + " |", "|---|" + "---|" * len(targets.NAMES)]
    for ability, words in targets.ABILITIES.items():
        head.append(f"| {words} | " + " | ".join("yes" if name in able(ability) else "–" for name in targets.NAMES) + " |")
    divides = {"gateway": "the gateway", "own": "the cluster", "none": "nobody"}
    head.append("| who divides an endpoint's requests | " + " | ".join(divides[targets.get(name).TRAFFIC] for name in targets.NAMES) + " |")
    return "\n".join(head)


def test_the_page_says_what_each_target_can_do() -> None:
    assert the_table() in PAGE.read_text(encoding="utf-8"), f"docs/targets.md should have this table:\n{the_table()}"
