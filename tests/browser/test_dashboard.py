"""The dashboard as it really runs, in a real browser.  Leaves a picture of every page in tests/out/screenshots."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from contextlib import suppress

import a_busy_workspace
import pytest
from a_canary_under_way import a_canary, listened_to
from living import churn_model
from playwright.sync_api import Browser, Page, expect
from playwright.sync_api import TimeoutError as PressUnseen
from tabs import SCREENSHOTS, a_tab, inaccessible, keep, running_dashboard, settle, watched

from mlops_nb import hardware, profiling

# Containers come and go with network interfaces, and Chromium drops what it is loading whenever one does: never beside the tests of the engine.
pytestmark = pytest.mark.xdist_group("engine")

PAGES = {
    "overview": "",
    "models": "models?model=delays:2",
    "models-compared": "models?model=delays:3&with=delays:2",
    "lineage": "lineage",
    "lineage-of-a-model": "lineage?root=delays:2",
    "profiling": "profiling",
    "hardware": "hardware",
    "deployments": "deployments?deployment=delays/3",
    "rollout": "rollout?endpoint=delays&period=1h",
    "performance": "performance?endpoint=delays",
    "drift": "drift?endpoint=delays",
    "events": "events",
    "targets": "targets",
}
VANDALISED = {
    "models": "models?model=vandal:1",
    "lineage": "lineage?root=vandal:1",
    "profiling": "profiling?endpoint=vandal",
    "deployments": "deployments?deployment=vandal/1",
    "rollout": "rollout?endpoint=vandal",
    "drift": "drift?endpoint=vandal",
    "events": "events",
    "targets": "targets",
}


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A dashboard that runs on a workspace as after some weeks of use, with a canary under way."""

    def fill() -> None:
        a_busy_workspace.fill()
        a_canary(reason="the step has not lasted its time", why="deeper trees")

    with running_dashboard(tmp_path_factory.mktemp("busy") / "flights" / ".mlops", fill) as url, listened_to():
        yield url


@pytest.fixture(scope="module")
def vandalised_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A dashboard on a workspace full of words that would do harm if they were taken for more than words."""

    def fill() -> None:
        a_busy_workspace.fill()
        a_busy_workspace.vandalise()

    with running_dashboard(tmp_path_factory.mktemp("vandalised") / ".mlops", fill) as url:
        yield url


def test_a_page_whose_name_was_made_to_lead_here_reads_nothing(address: str, browser_page: Page) -> None:
    """DNS rebinding: to the browser, the page and the dashboard are one and the same site."""
    browser_page.goto(f"http://rebound.example:{address.rpartition(':')[2]}/models?model=delays:2")

    expect(browser_page.get_by_text("rebound.example is not an allowed host")).to_be_visible(timeout=30_000)
    expect(browser_page.get_by_text("delays")).to_have_count(0)


@pytest.fixture
def light_tab(browser: Browser) -> Iterator[Page]:
    """A tab of a browser that prefers light."""
    with a_tab(browser, color_scheme="light") as page:
        yield page


@pytest.mark.parametrize(("name", "scheme"), [*((name, "light") for name in PAGES), *((name, "dark") for name in ("overview", "lineage", "rollout", "drift"))])
def test_a_page_renders_without_an_error_is_accessible_and_asks_nobody_but_this_machine(address, browser, name, scheme):
    with a_tab(browser, color_scheme=scheme) as tab:
        errors = watched(tab)
        asked: list[str] = []
        tab.on("request", lambda request: asked.append(request.url))

        settle(tab, f"{address}/{PAGES[name]}")

        keep(tab, f"{name}-{scheme}")
        assert errors == []
        assert [url for url in asked if not url.startswith((f"{address}/", "data:", "blob:"))] == []
        expect(tab.get_by_test_id("stException")).to_have_count(0)
        assert inaccessible(tab) == []


def test_the_first_visitor_may_come_by_a_link(tmp_path, light_tab):
    with running_dashboard(tmp_path, a_busy_workspace.fill) as url:
        settle(light_tab, f"{url}/drift?endpoint=delays")

        expect(light_tab.get_by_test_id("stSidebar").get_by_role("link", name="Rollout traffic")).to_be_visible()


@pytest.mark.parametrize("name", VANDALISED)
def test_markup_in_a_users_words_is_inert(vandalised_address, light_tab, name):
    errors = watched(light_tab)

    settle(light_tab, f"{vandalised_address}/{VANDALISED[name]}")

    assert light_tab.locator("img[onerror], a[href^='javascript'], [src='x']").count() == 0
    assert errors == []


def test_a_choice_goes_into_the_address_and_the_back_button_takes_it_back(address, light_tab):
    settle(light_tab, f"{address}/rollout?endpoint=delays")

    light_tab.get_by_role("combobox", name="Endpoint").click()
    light_tab.get_by_role("option", name="churn").click()
    light_tab.wait_for_url("**/rollout?endpoint=churn*")
    light_tab.go_back()

    expect(light_tab.get_by_role("combobox", name="Endpoint")).to_have_value("delays")


def test_the_choice_of_endpoint_goes_along_to_another_page(address, light_tab):
    settle(light_tab, f"{address}/rollout?endpoint=delays")

    light_tab.get_by_test_id("stSidebar").get_by_role("link", name="Drift").click()

    light_tab.wait_for_url("**/drift?endpoint=delays*")


def test_a_press_on_a_cell_of_the_drift_map_shows_how_that_feature_was_distributed(address, light_tab):
    settle(light_tab, f"{address}/drift?endpoint=delays")
    expect(light_tab.get_by_role("combobox", name="Feature of the map")).to_have_value("temp")

    cells = light_tab.locator(".stPlotlyChart").filter(has=light_tab.locator(".heatmaplayer .hm")).locator(".scatterlayer .trace").first.locator(".point")
    for _ in range(5):  # a chart that is drawn anew under the pointer sees no press
        cells.last.click(force=True)
        with suppress(PressUnseen):
            light_tab.wait_for_url("**cell=*", timeout=8_000)
            break

    light_tab.wait_for_url("**cell=*")
    feature = light_tab.get_by_role("combobox", name="Feature of the map")
    expect(feature).not_to_have_value("temp")
    verdict = re.compile(re.escape(feature.input_value()) + " — (no drift|not tested)")  # the newest window may have few rows yet
    expect(light_tab.get_by_text(verdict).first).to_be_visible()


def test_an_alert_leads_to_why(address, light_tab):
    settle(light_tab, address)

    light_tab.get_by_test_id("stMain").get_by_role("link", name="Why").first.click()

    light_tab.wait_for_url("**/d*?*delays*")


def test_rollout_says_how_old_its_figures_are_and_goes_on_counting(address, light_tab):
    settle(light_tab, f"{address}/rollout?endpoint=delays")

    light_tab.get_by_test_id("stCheckbox").get_by_text("Pause").click()

    expect(light_tab.get_by_text("paused, updated 3 s ago")).to_be_visible(timeout=20_000)


def test_targets_reads_its_figures_again_by_itself(address, light_tab):
    settle(light_tab, f"{address}/targets")

    expect(light_tab.get_by_text(re.compile(r"live, updated [34] s ago"))).to_be_visible(timeout=30_000)
    expect(light_tab.get_by_text(re.compile(r"live, updated [01] s ago"))).to_be_visible(timeout=30_000)


def test_the_downloaded_events_hold_them_all_and_no_formula(vandalised_address, light_tab):
    settle(light_tab, f"{vandalised_address}/events")

    with light_tab.expect_download() as download:
        light_tab.get_by_role("button", name="Download CSV").click()

    rows = list(csv.DictReader(io.StringIO(download.value.path().read_text())))
    assert len(rows) > 70
    assert '\'=HYPERLINK("http://evil.example","open")' in {row["subject"] for row in rows}


def test_what_was_really_measured_is_shown_with_its_limits_environment_and_hardware(tmp_path, light_tab):
    def measure() -> None:
        churn_model()
        profiling.profile("churn:1", cpus=[1], batches=[1, 16], objective="p95=400ms", seconds=3)

    with running_dashboard(tmp_path / ".mlops", measure) as url:
        errors = watched(light_tab)
        settle(light_tab, f"{url}/profiling")

        expect(light_tab.get_by_text("churn:1: cores by CPU affinity; memory is measured, not limited; environment: as here")).to_be_visible()
        expect(light_tab.get_by_text("one instance keeps p95 ≤ 400 ms").first).to_be_visible()
        expect(light_tab.get_by_test_id("stPlotlyChart")).to_have_count(3, timeout=30_000)
        keep(light_tab, "profiling-measured")

        settle(light_tab, f"{url}/hardware")
        expect(light_tab.get_by_text(hardware.cpu_model()).first).to_be_attached()
        keep(light_tab, "hardware-here")
        assert errors == []


def test_a_picture_for_the_readme(address, browser):
    with a_tab(browser, color_scheme="light") as page:
        settle(page, f"{address}/{PAGES['rollout']}")
        keep(page, "readme")

    assert (SCREENSHOTS / "readme.png").stat().st_size > 50_000
