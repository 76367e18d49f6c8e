"""The dashboard's pages, run by Streamlit's own test runner, without a browser."""

from __future__ import annotations

from collections.abc import Callable

import a_busy_workspace
import pytest
from streamlit.testing.v1 import AppTest

from mlops_nb import dashboards

PAGES = ("overview", "models", "lineage", "profiling", "hardware", "deployments", "rollout", "performance", "drift", "events", "fleet", "targets")

OpenPage = Callable[..., AppTest]


@pytest.fixture
def open_page(workspace) -> OpenPage:
    """`open_page("models", model="delays:2")`: the page as a browser gets it from that address."""

    def open_it(name: str, **params: str) -> AppTest:
        app = AppTest.from_file(str(dashboards.folder() / "app.py"), default_timeout=60)
        app.run()
        app.query_params.clear()
        app.query_params.update(params)
        return app.switch_page(f"views/{name}.py").run()

    return open_it


@pytest.fixture
def busy(workspace) -> None:
    """The current workspace as after some weeks of use."""
    a_busy_workspace.fill()


@pytest.fixture
def vandalised(busy) -> None:
    """The same, with words in it that would do harm if they were taken for more than words."""
    a_busy_workspace.vandalise()
