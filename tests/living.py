"""Things that live in a workspace, for tests that need them running: made through the public functions only."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression

from mlops_nb import datasets, registry, store
from mlops_nb.store import deployments as table
from mlops_nb.store.deployments import Deployment
from mlops_nb.store.models import ModelVersion

ROWS = pd.DataFrame({"age": [20, 35, 50, 65] * 25, "income": np.linspace(10, 90, 100), "left": [0, 0, 1, 1] * 25})
X, Y = ROWS[["age", "income"]], ROWS["left"]


def churn_model() -> ModelVersion:
    """The next version of `churn`: a logistic regression that converts to ONNX, with its training data registered."""
    datasets.register("customers", ROWS)
    return registry.register(LogisticRegression().fit(X, Y), name="churn", data="customers").version


def wait_for(true: Callable[[], Any], *, seconds: float = 90.0, what: str = "it") -> Any:
    """The first true value that *true* gives; fails the test when none comes in time."""
    deadline = time.monotonic() + seconds
    while not (value := true()):
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s for {what}"
        time.sleep(0.05)
    return value


def deployment(ref: str) -> Deployment:
    """The deployment `endpoint/name` as the store has it now."""
    endpoint, _, name = ref.partition("/")
    with store.reading() as tx:
        return table.get(tx, endpoint, name)
