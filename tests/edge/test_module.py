"""The module on a device, against a real broker."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from living import wait_for

from mlops_nb.edge import bodies
from mlops_nb.edge.requester import Answered, Requester
from mlops_nb.store.models import ModelVersion

from .brokers import Mosquitto
from .devices import Device, desired, publish

pytestmark = pytest.mark.xdist_group("mosquitto")
A_ROW = {"data": [{"age": 40, "income": 50.0}]}


def answers_to(mosquitto: Mosquitto, asked: list[Any], **how: Any) -> list[Answered]:
    """What a device says to each."""
    got: list[Answered] = []
    requester = Requester(mosquitto.broker, "gates/in", got.append)
    try:
        ids = [requester.ask(said, **how) for said in asked]
        wait_for(lambda: not requester.waiting, what="answers")
    finally:
        requester.close()
    return sorted(got, key=lambda answer: ids.index(answer.id))


def test_a_device_fetches_its_model_and_answers_in_json_and_cbor(mosquitto: Mosquitto, device: Callable[..., Device], churn: ModelVersion) -> None:
    publish(mosquitto.broker, desired(churn, "g1"))
    device().until_running("g1")

    (in_json,) = answers_to(mosquitto, [A_ROW])
    (in_cbor,) = answers_to(mosquitto, [A_ROW], kind=bodies.CBOR)

    assert in_json.status == in_cbor.status == 200
    assert in_json.said["model"] == "churn:1" and set(in_json.said["outputs"]) == {"label", "probabilities"}
    assert in_json.said["outputs"]["label"] == in_cbor.said["outputs"]["label"]
    assert in_json.said["id"] == in_json.id
