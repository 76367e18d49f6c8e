"""Two versions of churn behind one endpoint, and the dashboard's pages opened by Streamlit's own test runner."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from living import churn_model
from streamlit.testing.v1 import AppTest

from mlops_nb import dashboards, rollout
from mlops_nb.settings import Workspace

OpenPage = Callable[..., AppTest]


@pytest.fixture
def churn(live_workspace: Workspace) -> Workspace:
    """Two versions of churn behind one endpoint, the second without traffic."""
    churn_model()
    churn_model()
    rollout.deploy("churn:1")
    rollout.deploy("churn:2", traffic=0)
    return live_workspace


@pytest.fixture
def open_page(workspace: Workspace) -> OpenPage:
    """`open_page("rollout", endpoint="delays")`: the page as a browser gets it from that address."""

    def open_it(name: str, **params: str) -> AppTest:
        app = AppTest.from_file(str(dashboards.folder() / "app.py"), default_timeout=60)
        app.run()
        app.query_params.clear()
        app.query_params.update(params)
        return app.switch_page(f"views/{name}.py").run()

    return open_it
