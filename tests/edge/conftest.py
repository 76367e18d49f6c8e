"""Brokers, devices and a model for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from living import churn_model

from mlops_nb.settings import Workspace
from mlops_nb.store.models import ModelVersion

from .brokers import Mosquitto
from .devices import Device


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Mosquitto]:
    """A broker with TLS and passwords."""
    broker = Mosquitto(tmp_path / "mosquitto").start()
    yield broker
    broker.kill()


@pytest.fixture
def device(tmp_path: Path, mosquitto: Mosquitto) -> Iterator[Callable[..., Device]]:
    """`device(...)` starts a module for `mosquitto`; it ends with the test."""
    made: list[Device] = []

    def start(name: str = "gate-1", **more: Any) -> Device:
        made.append(Device(tmp_path / name, mosquitto.broker, name=name, **more).start())
        return made[-1]

    yield start
    for one in made:
        one.kill()


@pytest.fixture
def churn(workspace: Workspace) -> ModelVersion:
    """`churn:1`, in ONNX."""
    return churn_model()
