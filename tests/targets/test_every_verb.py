"""Every verb on every target: it works — and is tried beside the target — or is refused before anything is done, naming targets that can."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import living
import pytest

from mlops_nb import monitoring, profiling, rollout, store, targets, traffic
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
