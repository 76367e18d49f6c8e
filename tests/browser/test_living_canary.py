"""The Rollout page while a canary is really under way: its agent, its servers, its requests, and a person who promotes it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from living import X, churn_model, wait_for
from playwright.sync_api import Browser, Page, expect
from tabs import a_tab, inaccessible, keep, running_dashboard, settle, watched

from mlops_nb import rollout, settings, store, traffic
from mlops_nb.store import deployments
from mlops_nb.store.deployments import TrafficChange

pytestmark = pytest.mark.xdist_group("engine")  # no network that changes meanwhile (test_dashboard.py)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A dashboard of `churn`, whose second version is a canary at 50 % and whose third is a shadow; both were asked a little."""

    def begin() -> None:
        for number in range(3):
            churn_model()
            rollout.deploy(f"churn:{number + 1}", traffic=0 if number else None)
        traffic.mirror("churn/3", 100)
        traffic.canary("churn/2", [50, 100], every_seconds=600.0, why="more flights")
        wait_for(lambda: share_of("2") == 50, what="the canary's first step")
        for _ in range(60):
            rollout.invoke("churn", X.head(1))

    root = tmp_path_factory.mktemp("canary") / ".mlops"
    try:
        with running_dashboard(root, begin) as url:
            yield url
    finally:
        with settings.using(root):
            rollout.down()


@pytest.fixture
def tab(browser: Browser) -> Iterator[Page]:
    with a_tab(browser, color_scheme="light") as page:
        yield page


def test_the_page_shows_step_bounds_evidence_and_copies_live_and_accessibly(address, tab):
    errors = watched(tab)

    settle(tab, f"{address}/rollout?endpoint=churn")

    expect(tab.get_by_text("▶ 50 %   · 100 %")).to_be_visible()
    expect(tab.get_by_text("canary of churn/2", exact=True)).to_be_visible()
    flow = tab.get_by_test_id("stPlotlyChart").first
    expect(flow.get_by_text("copies 100 %")).to_be_visible()
    expect(flow.get_by_text("plan 50 %").first).to_be_visible()
    expect(tab.get_by_text("the candidate's error rate lies in")).to_be_visible(timeout=30_000)  # the agent looks once a second
    assert inaccessible(tab) == []
    keep(tab, "living-canary")
    assert errors == []


def test_a_candidate_is_promoted_with_two_presses_of_which_the_first_says_what_will_happen(address, tab):
    settle(tab, f"{address}/rollout?endpoint=churn")

    tab.get_by_role("button", name="Promote", exact=True).click()
    expect(tab.get_by_text("churn/2 gets 100 % of the requests now (it has 50 %); the canary ends.")).to_be_visible()
    assert inaccessible(tab) == []
    assert in_force().weights["2"] == 50
    tab.get_by_role("button", name="Yes, promote").click()

    expect(tab.get_by_text("Done: %mlops rollouts promote churn")).to_be_visible(timeout=30_000)
    expect(tab.get_by_role("button", name="Promote", exact=True)).to_be_disabled()
    assert (in_force().weights["2"], in_force().why) == (100, "promoted in the dashboard")


def in_force() -> TrafficChange:
    with store.reading() as tx:
        return deployments.traffic_changes(tx, "churn")[0]


def share_of(name: str) -> int:
    return in_force().weights.get(name, 0)
