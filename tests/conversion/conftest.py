"""A workspace with a data set and models of several kinds, registered without their ONNX forms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mlops_nb import datasets, registry, settings
from mlops_nb.store.models import ModelVersion

ROWS = 1500


@pytest.fixture(scope="module", autouse=True)
def workspace_of_module(tmp_path_factory):
    """One workspace for the module: its models are only read, or are a test's own."""
    with settings.using(tmp_path_factory.mktemp("conversion") / "workspace") as workspace:
        yield workspace


@pytest.fixture(scope="session")
def flights() -> pd.DataFrame:
    """Delay, hour and carrier of flights, and whether they were late; one, far down, was very late."""
    random = np.random.default_rng(7)
    frame = pd.DataFrame({"delay": random.normal(size=ROWS), "hour": random.integers(0, 24, ROWS) / 2, "carrier": random.choice(["UA", "DL"], ROWS)})
    frame.loc[1200, "delay"] = 9.0
    return frame.assign(late=((frame.delay + frame.hour / 12) > 0.5).astype(int))


@pytest.fixture(scope="module")
def register(flights, workspace_of_module) -> Callable[..., ModelVersion]:
    """Register a model that was fitted on the flights, as it is unless told to convert."""
    datasets.register("flights", flights)

    def registered(model: Any, name: str, *, convert: bool = False, **more: Any) -> ModelVersion:
        return registry.register(model, name=name, data="flights", convert=convert, **more).version

    return registered
