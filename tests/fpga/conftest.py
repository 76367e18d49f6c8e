"""A workspace with a network, trees and a regression registered, and the network's FPGA forms made once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from mlops_nb import datasets, hls, registry, settings
from mlops_nb.store.models import ModelVersion

NUMBERS = ["delay", "hour", "distance"]
PRECISIONS = ("fixed<6,3>", "fixed<10,4>", "fixed<16,6>")


@pytest.fixture(scope="session")
def place(tmp_path_factory) -> Path:
    """Where the workspace of these tests is."""
    return tmp_path_factory.mktemp("fpga") / "workspace"


@pytest.fixture(scope="module", autouse=True)
def workspace_of_module(place):
    """That workspace, current for the module: compiling is what takes time here."""
    with settings.using(place) as workspace:
        yield workspace


@pytest.fixture(scope="session")
def flights() -> pd.DataFrame:
    """Delay, hour and distance in miles of flights, and whether they were late."""
    random = np.random.default_rng(7)
    frame = pd.DataFrame({"delay": random.normal(size=600), "hour": random.uniform(0, 12, 600), "distance": random.uniform(90, 2600, 600)})
    return frame.assign(late=(frame.delay + frame.hour / 12 + frame.distance / 5000 > 0.8).astype(int))


@pytest.fixture(scope="session")
def fitted_network(flights) -> Pipeline:
    """A network of one hidden layer behind a scaler."""
    return make_pipeline(StandardScaler(), MLPClassifier((8,), max_iter=300, random_state=0)).fit(flights[NUMBERS], flights.late)


@pytest.fixture(scope="session")
def fitted_trees(flights) -> GradientBoostingClassifier:
    """Twelve boosted trees on the columns as they are."""
    return GradientBoostingClassifier(n_estimators=12, max_depth=3, random_state=0).fit(flights[NUMBERS], flights.late)


@pytest.fixture(scope="session")
def register(flights, place) -> Callable[..., ModelVersion]:
    """Register a model that was fitted on the flights."""
    with settings.using(place):
        datasets.register("flights", flights)
    return lambda model, name, **more: registry.register(model, name=name, data="flights", **more).version


@pytest.fixture(scope="session")
def registered(register, fitted_network, place) -> ModelVersion:
    """The network as it was registered."""
    with settings.using(place):
        return register(fitted_network, "network")


@pytest.fixture(scope="session")
def network(registered, place) -> ModelVersion:
    """The network, with an FPGA form in each of three precisions."""
    with settings.using(place):
        return hls.convert(registered.ref, precisions=PRECISIONS).version


@pytest.fixture(scope="session")
def trees(register, fitted_trees, place) -> ModelVersion:
    """The trees, with an FPGA form."""
    with settings.using(place):
        return hls.convert(register(fitted_trees, "trees").ref, precisions=["fixed<12,4>"]).version
