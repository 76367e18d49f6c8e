"""Two versions of churn behind one endpoint, the second without traffic."""

from __future__ import annotations

import pytest
from living import churn_model

from mlops_nb import rollout
from mlops_nb.settings import Workspace


@pytest.fixture
def churn(live_workspace: Workspace) -> Workspace:
    churn_model()
    churn_model()
    rollout.deploy("churn:1")
    rollout.deploy("churn:2", traffic=0)
    return live_workspace
