"""The lines a user says about edge devices."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from living import churn_model

from mlops_nb import commands, errors, registry, rollout
from mlops_nb.cli import Terminal
from mlops_nb.settings import Workspace

from .brokers import Mosquitto
from .test_manifest import SCHEMA

pytestmark = pytest.mark.xdist_group("mosquitto")


def say(line: str) -> Any:
    return commands.run(shlex.split(line), Terminal(quiet=True))


def use(workspace: Workspace, **settings: str) -> None:
    workspace.root.mkdir(parents=True, exist_ok=True)
    (workspace.root / "config.toml").write_text("".join(f'{name} = "{value}"\n' for name, value in settings.items()))


def test_a_version_goes_to_a_device_and_the_fleet_shows_it(live_workspace: Workspace, mosquitto: Mosquitto) -> None:
    use(live_workspace, edge_broker=mosquitto.broker.url, edge_ca=mosquitto.broker.ca_file, edge_credentials=mosquitto.broker.credentials_file)
    churn_model()
    assert say("edge devices") == []
    assert say("edge broker")["tls"] is True

    deployed = say("deploy churn:1 --to edge --device gate-1 --run process --topic-in gates/1/in --topic-out gates/1/out")

    assert (deployed.deployment, deployed.status, deployed.url) == ("churn/gate-1", "healthy", f"{mosquitto.broker.url}/gates/1/in")
    assert say("edge devices gate-1").wanted == "churn:1"
    with pytest.raises(errors.TargetCannot, match="edge cannot be asked over HTTP") as refused:
        rollout.invoke("churn", [{"age": 1}])
    assert "to gates/1/in with any MQTT client" in refused.value.hint
    secret = mosquitto.broker.credentials()
    assert secret is not None
    assert not [place for place in live_workspace.root.rglob("*") if place.is_file() and secret.password.encode() in place.read_bytes()]


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ("", "names its device"),
        ("--device gate-1", "No MQTT broker is set"),
        ("--device gate/1", "cannot be a device"),
        ("--device gate-1 --topic-in 'a/#'", "cannot be the topic of requests"),
        ("--device gate-1 --topic-in mlops/devices/x/desired", "cannot be the topic of requests"),
        ("--device gate-1 --topic-in a --topic-out a", "cannot share the topic"),
        ("--device gate-1 --memory 512m", "cannot limit memory"),
        ("--device gate-1 --env A=b", "cannot set environment variables"),
    ],
)
def test_what_a_device_cannot_do_is_refused_before_anything_is_done(workspace: Workspace, words: str, error: str) -> None:
    churn_model()
    with pytest.raises(errors.MlopsError, match=error):
        say(f"deploy churn:1 --to edge {words}")
    assert say("endpoints") == []


def test_a_device_is_named_only_to_the_edge(workspace: Workspace) -> None:
    churn_model()
    with pytest.raises(errors.TargetCannot, match=r"--device\. Targets that can: edge"):
        say("deploy churn:1 --device gate-1")


def test_an_entry_script_is_refused_naming_the_targets_that_run_it(workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "score.py").write_text("def run(raw_data):\n    return 1\n")
    registry.register(None, name="scripted", entry=tmp_path / "score.py")
    with pytest.raises(errors.TargetCannot, match="local, docker"):
        say("deploy scripted:1 --to edge --device gate-1")


def test_a_broker_that_does_not_answer_is_said(workspace: Workspace, mosquitto: Mosquitto) -> None:
    use(workspace, edge_broker=mosquitto.broker.url, edge_ca=mosquitto.broker.ca_file, edge_credentials=mosquitto.broker.credentials_file)
    mosquitto.kill()
    with pytest.raises(errors.BrokerUnreachable, match="refused"):
        say("edge broker")
    churn_model()
    with pytest.raises(errors.BrokerUnreachable):
        say("deploy churn:1 --to edge --device gate-1")
    assert say("endpoints") == []


def test_a_manifest_is_shown_or_written(workspace: Workspace, tmp_path: Path) -> None:
    churn_model()
    shown = json.loads("\n".join(say("edge manifest churn:1 --image registry.example.org/churn:1")))
    say(f"edge manifest churn:1 --image registry.example.org/churn:1 --output {tmp_path}/m.json")
    jsonschema.validate(shown, SCHEMA)
    assert json.loads((tmp_path / "m.json").read_text()) == shown
