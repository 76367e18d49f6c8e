"""The image of an edge module, run as a device would, against a real broker."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from edge.brokers import Mosquitto
from living import wait_for

from mlops_nb import engine, packaging
from mlops_nb.edge.requester import Answered, Requester
from mlops_nb.fleet import provisioning
from mlops_nb.registry import Provenance
from mlops_nb.settings import Workspace

pytestmark = pytest.mark.xdist_group("engine")


@pytest.fixture
def mosquitto(tmp_path: Path, workspace: Workspace) -> Iterator[Mosquitto]:
    """A broker with TLS and passwords, named in the workspace's settings."""
    broker = Mosquitto(tmp_path / "mosquitto").start()
    workspace.root.mkdir(parents=True, exist_ok=True)
    named = {"edge_broker": broker.broker.url, "edge_ca": broker.broker.ca_file, "edge_credentials": broker.broker.credentials_file}
    (workspace.root / "config.toml").write_text("".join(f'{name} = "{value}"\n' for name, value in named.items()))
    yield broker
    broker.kill()


def test_a_device_in_a_container_answers_with_the_model_that_came_in_its_image(
    churn: Provenance, base_image: str, mosquitto: Mosquitto, tmp_path: Path
) -> None:
    folder = provisioning.write("gate-1", tmp_path / "gate-1", packaged=f"{packaging.HOME}/spec.json")
    for path in (folder, *folder.iterdir()):
        os.chown(path, packaging.USER, packaging.USER)
    image = packaging.image_of(churn.version, churn.environment, base=base_image, target="edge")
    mounted = {str(folder): {"bind": "/var/lib/mlops", "mode": "rw"}}

    client = engine.client(timeout_seconds=60)
    container = client.containers.run(image.digest, detach=True, network_mode="host", read_only=True, cap_drop=["ALL"], volumes=mounted)
    try:
        wait_for(lambda: b"link.up" in container.logs(), seconds=60, what="the device")
        (answer,) = asked(mosquitto, {"data": [{"age": 40, "income": 50.0}]})
    finally:
        container.remove(force=True)
        client.api.remove_image(image.ref, force=True)

    assert answer.status == 200 and answer.said["model"] == "churn:1" and set(answer.said["outputs"]) == {"label", "probabilities"}


def asked(mosquitto: Mosquitto, body: Any) -> list[Answered]:
    got: list[Answered] = []
    requester = Requester(mosquitto.broker, "gate-1/in", got.append)
    requester.ask(body)
    wait_for(lambda: not requester.waiting, what="the answer")
    requester.close()
    return got
