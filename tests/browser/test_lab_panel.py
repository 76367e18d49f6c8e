"""The MLOps panel of JupyterLab, as a person sees it in a browser."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest
from living import wait_for
from playwright.sync_api import Locator, Page, Route, expect
from playwright.sync_api import TimeoutError as PlaywrightTimeout

from mlops_nb import dashboards, registry, rollout, store
from mlops_nb.errors import InvocationFailed
from mlops_nb.settings import using
from mlops_nb.store import alerts, checks, deployments, models
from mlops_nb.store.checks import DriftCheck
from mlops_nb.store.deployments import Deployment, DeploymentSpec, Reason
from mlops_nb.store.models import ModelVersion
from mlops_nb.telemetry import files

pytestmark = pytest.mark.xdist_group("engine")  # one server for all of these, and no network that changes meanwhile (test_dashboard.py)
MARKUP = "<img src=x onerror=\"window.pwned='yes'\">"


NO_LIGHTGBM = Reason(kind="missing package", message="ModuleNotFoundError: No module named 'lightgbm'", where="cell [12], line 3")


@pytest.fixture
def open_lab(lab, browser_page: Page):
    """`open_lab()` opens JupyterLab with the MLOps panel shown, and returns the page."""

    def open_(path: str = "") -> Page:
        browser_page.goto(f"{lab.url}lab{path}?token={lab.token}&reset")
        tab = browser_page.get_by_role("tab", name="MLOps")
        tab.wait_for(state="attached")
        tab.click()
        panel(browser_page).wait_for()
        return browser_page

    return open_


def test_panel_lists_models_with_versions_and_aliases(lab, open_lab):
    register("delays", 1, aliases=["champion"], tags={"team": "ops"})
    register("delays", 2)
    register("iris", 1)

    page = open_lab()

    versions = panel(page).get_by_role("list", name="Versions of delays").get_by_role("listitem")
    expect(versions).to_have_count(2)
    expect(versions.nth(0)).to_contain_text("delays:2")
    expect(versions.nth(1)).to_contain_text("delays:1")
    expect(versions.nth(1)).to_contain_text("@champion")
    expect(versions.nth(1)).to_contain_text("team=ops")
    expect(panel(page).get_by_role("list", name="Versions of iris").get_by_role("listitem")).to_have_count(1)


def test_panel_shows_deployments_with_health_and_share(lab, open_lab, screenshot):
    register("delays", 1, aliases=["champion"])
    register("delays", 2, description="Trained on the first quarter")
    deploy("delays", 1, status="healthy")
    deploy(
        "delays",
        2,
        status="failed",
        reason=Reason(kind="missing package", message="ModuleNotFoundError: No module named 'lightgbm'", where="cell [12], line 3"),
    )
    split("delays", {"1": 90, "2": 10})

    page = open_lab()

    rows = panel(page).get_by_role("list", name="Deployments of delays").get_by_role("listitem")
    expect(rows).to_have_count(2)
    expect(rows.nth(0)).to_contain_text("healthy")
    expect(rows.nth(0)).to_contain_text("delays/1")
    expect(rows.nth(0)).to_contain_text("90%")
    expect(rows.nth(1)).to_contain_text("failed")
    expect(rows.nth(1)).to_contain_text("10%")
    expect(rows.nth(1)).to_contain_text("ModuleNotFoundError: No module named 'lightgbm' (cell [12], line 3)")
    screenshot(page, "lab-panel")


def test_what_nothing_was_ever_asked_of_is_untried_until_it_was(lab, open_lab):
    register("delays", 1)
    deploy("delays", 1, status="healthy")
    row = panel(open_lab()).get_by_role("list", name="Deployments of delays").get_by_role("listitem")
    expect(row).to_contain_text("healthy, untried")

    folder = files.folder("delays", "1")
    folder.mkdir(parents=True)
    asked = {"time": store.now().isoformat(), "id": "r1", "status": 200, "latency_ms": 1.0, "rows": 1, "error": None, "inputs": None, "outputs": None}
    (folder / f"closed-{time.time_ns()}.jsonl").write_text(json.dumps(asked) + "\n")

    expect(row).not_to_contain_text("untried")
    expect(row).to_contain_text("healthy")


def test_each_health_has_a_shape_of_its_own(lab, open_lab):
    register("delays", 1)
    statuses = ["pending", "starting", "healthy", "unhealthy", "restarting", "failed", "stopped"]
    for number, status in enumerate(statuses, start=1):
        deploy("delays", 1, name=str(number), status=status)

    page = open_lab()

    shapes = panel(page).get_by_role("list", name="Deployments of delays").locator(".mlops-Health path")
    expect(shapes).to_have_count(len(statuses))
    assert len(set(shapes.evaluate_all("paths => paths.map(path => path.getAttribute('d'))"))) == len(statuses)


def test_panel_and_status_bar_follow_the_store(lab, open_lab):
    register("delays", 1)
    deploy("delays", 1, status="starting")
    page = open_lab()
    row = panel(page).get_by_role("list", name="Deployments of delays").get_by_role("listitem")
    expect(row).to_contain_text("starting")
    expect(status_bar(page)).to_have_text("0 live · 0 alerts")

    observe("delays", "1", status="healthy")
    split("delays", {"1": 100})
    expect(row).to_contain_text("healthy")
    expect(row).to_contain_text("100%")
    expect(status_bar(page)).to_have_text("1 live · 0 alerts")

    observe("delays", "1", status="failed", reason=Reason(kind="exited", message="killed by signal 9"))
    expect(row).to_contain_text("killed by signal 9")
    expect(status_bar(page)).to_have_text("0 live · 1 alert")


def test_panel_says_when_it_is_not_up_to_date_and_recovers(lab, open_lab):
    register("delays", 1)
    page = open_lab()
    versions = panel(page).get_by_role("list", name="Versions of delays").get_by_role("listitem")
    expect(versions).to_have_count(1)

    refusal = {"ok": False, "error": "Another process has held the store for 30 s.", "code": "StoreBusy", "hint": "%mlops status shows who"}
    page.route("**/mlops_nb/summary*", lambda route: route.fulfill(status=409, json=refusal))
    expect(panel(page).get_by_role("alert")).to_contain_text("Another process has held the store for 30 s. %mlops status shows who")
    expect(versions).to_have_count(1)

    page.unroute("**/mlops_nb/summary*")
    panel(page).get_by_role("button", name="Refresh models and deployments").click()
    expect(panel(page).get_by_role("alert")).to_have_count(0)


def test_drift_is_an_alert_that_names_the_features(lab, open_lab):
    register("delays", 1)
    deploy("delays", 1, status="healthy")
    find_drift("delays", ["distance", "dep_delay"])

    shown = panel(open_lab()).get_by_role("list", name="Alerts", exact=True)

    expect(shown).to_contain_text("drift")
    expect(shown).to_contain_text("distance, dep_delay")


def test_a_rule_that_fires_is_told_with_what_was_seen_and_has_a_shape_of_its_own(lab, open_lab, screenshot):
    register("delays", 1)
    deploy("delays", 1, status="failed", reason=Reason(kind="exited", message="killed by signal 9"))
    find_drift("delays", ["distance"])
    fire("delays", "error_rate > 5% for 5m", value="7.1 % of 1,204 requests")

    page = open_lab()

    shown = panel(page).get_by_role("list", name="Alerts", exact=True)
    rule = shown.get_by_role("listitem").filter(has_text="error_rate > 5% for 5m")
    expect(rule).to_contain_text("alert")
    expect(rule).to_contain_text("7.1 % of 1,204 requests")
    expect(rule.locator("time")).to_have_count(1)
    expect(shown.locator(".mlops-Health path")).to_have_count(3)
    assert len(set(shown.locator(".mlops-Health path").evaluate_all("paths => paths.map(path => path.getAttribute('d'))"))) == 3
    screenshot(page, "lab-alerts")


def test_an_alert_opens_the_dashboard_where_it_is_told(lab, open_lab):
    register("delays", 1)
    deploy("delays", 1, status="healthy")
    find_drift("delays", ["distance"])
    page = open_lab()
    try:
        with page.expect_popup(timeout=60_000) as opened:
            panel(page).get_by_role("button", name="Show delays in the dashboard").click()

        opened.value.wait_for_url("**/drift?endpoint=delays", timeout=60_000)
        expect(opened.value.get_by_role("heading", name="Drift", exact=True)).to_be_visible(timeout=60_000)
    finally:
        dashboards.stop()


def test_the_launcher_and_a_menu_offer_the_dashboard(lab, open_lab):
    page = open_lab()

    expect(page.locator(".jp-LauncherCard").filter(has_text="MLOps dashboard")).to_be_visible()
    page.get_by_role("menuitem", name="MLOps", exact=True).click()
    for label in ("Open dashboard", "Deploy a model…", "Show models and deployments"):
        expect(page.get_by_role("menuitem", name=label, exact=True)).to_be_visible()


def test_empty_workspace_shows_the_line_to_paste_and_stays_empty(lab, open_lab):
    page = open_lab()

    expect(panel(page)).to_contain_text("%mlops register")
    expect(status_bar(page)).to_have_text("0 live · 0 alerts")
    assert not (lab.root / ".mlops").exists()


def test_markup_in_any_text_stays_text(lab, open_lab):
    register("delays", 1, aliases=[MARKUP], tags={MARKUP: MARKUP}, description=MARKUP)
    deploy("delays", 1, name=MARKUP, status="failed", reason=Reason(kind="exited", message=MARKUP, where=MARKUP))
    find_drift("delays", [MARKUP])

    page = open_lab()

    expect(panel(page).get_by_role("list", name="Versions of delays")).to_contain_text("@" + MARKUP)
    expect(panel(page).get_by_role("list", name="Alerts", exact=True).get_by_role("listitem")).to_have_count(2)
    assert panel(page).locator("img").count() == 0
    assert page.evaluate("window.pwned") is None


def test_palette_offers_the_commands_under_mlops(lab, open_lab):
    page = open_lab()

    palette = search_palette(page, "mlops")

    offered = palette.locator(".lm-CommandPalette-itemLabel")
    expect(palette.locator(".lm-CommandPalette-header").first).to_contain_text("MLOps", ignore_case=True)
    for label in ["Deploy a model…", "Open dashboard", "Refresh models and deployments", "Show models and deployments"]:
        expect(offered.get_by_text(label, exact=True)).to_be_visible()


def test_deploy_dialog_shows_the_same_line_for_a_notebook(lab, open_lab, screenshot):
    register("delays", 1)
    register("delays", 2)
    deploy("delays", 1, status="healthy")
    page = open_lab()

    panel(page).get_by_role("button", name="Deploy delays:2…").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_label("Model version")).to_have_value("delays:2")
    dialog.get_by_label("Traffic (percent)").fill("10")

    expect(dialog.get_by_role("status")).to_have_text("%mlops deploy delays:2 --endpoint delays --traffic 10")
    screenshot(page, "lab-deploy-dialog")


def answered_by_iris() -> list[int] | None:
    try:
        return rollout.invoke("iris", {"x": [0.0, 9.0]}).outputs["label"]
    except InvocationFailed:
        return None


def test_deploying_from_the_panel_brings_a_model_to_life(lab, open_lab, iris_model):
    page = open_lab()
    panel(page).get_by_role("button", name="Deploy iris:1…").click()
    page.get_by_role("dialog").get_by_role("button", name="Deploy").click()

    row = panel(page).get_by_role("list", name="Deployments of iris").get_by_role("listitem")

    expect(row).to_contain_text("healthy", timeout=60_000)
    expect(row).to_contain_text("100%")
    assert wait_for(answered_by_iris, what="the gateway to know of it") == [0, 1]


def test_dashboard_opens_in_a_tab_of_its_own(lab, open_lab):
    page = open_lab()
    try:
        with page.expect_popup(timeout=60_000) as opened:
            panel(page).get_by_role("button", name="Dashboard", exact=True).click()

        expect(opened.value.get_by_text("Overview").first).to_be_visible(timeout=60_000)
        assert opened.value.url.startswith(f"{lab.url}mlops_nb/at/")  # by way of the Jupyter server: the browser may be on another machine
    finally:
        dashboards.stop()


def test_panel_is_that_of_the_workspace_near_the_open_document(lab, open_lab):
    register("delays", 1)
    elsewhere = lab.root / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "notes.txt").write_text("here")
    with using(elsewhere / ".mlops"):
        register("iris", 1)

    page = open_lab("/tree/elsewhere/notes.txt")

    expect(panel(page).get_by_role("list", name="Models", exact=True)).to_contain_text("iris:1")
    expect(panel(page)).not_to_contain_text("delays")


def test_panel_and_its_dialog_are_of_the_document_in_front_though_that_changed_while_it_was_read(lab, open_lab):
    for folder, model in (("first", "delays"), ("second", "arrivals")):
        with using(lab.root / folder / ".mlops"):
            register(model, 1)
        (lab.root / folder / f"{folder}.txt").write_text("open me")
    page = open_lab("/tree/first/first.txt")
    expect(panel(page)).to_contain_text("delays:1")
    held: list[Route] = []
    page.route("**/mlops_nb/summary?folder=first*", lambda route: held.append(route))
    page.evaluate("() => void window.jupyterapp.commands.execute('mlops:refresh')")
    wait_for(lambda: page.wait_for_timeout(50) or held, what="the reading to be on its way")

    page.evaluate("() => window.jupyterapp.commands.execute('docmanager:open', {path: 'second/second.txt'})")
    expect(page.get_by_role("tab", name="second.txt")).to_have_attribute("aria-selected", "true")
    page.evaluate("() => void window.jupyterapp.commands.execute('mlops:deploy')")
    for route in held:
        route.continue_()

    expect(page.get_by_role("dialog").get_by_label("Model version")).to_have_value("arrivals:1")
    expect(panel(page)).to_contain_text("arrivals:1")


def test_hidden_panel_asks_no_more(lab, open_lab):
    page = open_lab()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "mlops_nb/summary" in request.url else None)
    page.get_by_role("tab", name="MLOps").click()
    expect(panel(page)).to_be_hidden()
    page.wait_for_timeout(1000)
    asked.clear()

    page.wait_for_timeout(2500)

    assert asked == []


@pytest.fixture
def iris_model(lab) -> Iterator[None]:
    """A registered model `iris:1`, and an end to all that runs it."""
    import pandas
    from sklearn.linear_model import LogisticRegression

    table = pandas.DataFrame({"x": [0.0, 1.0, 8.0, 9.0]})
    registry.register(LogisticRegression().fit(table, [0, 0, 1, 1]), name="iris", sample=table)
    yield
    rollout.down()


def panel(page: Page) -> Locator:
    return page.get_by_role("region", name="MLOps", exact=True)


def search_palette(page: Page, text: str) -> Locator:
    """The palette with *text* typed, opened again until it stays: whatever takes the focus while the page loads closes it."""
    palette = page.locator(".jp-ModalCommandPalette")
    for _ in range(20):
        page.keyboard.press("Control+Shift+C")
        try:
            palette.locator("input").fill(text, timeout=1000)
            expect(palette.locator(".lm-CommandPalette-header")).to_have_count(1, timeout=1000)
            return palette
        except (AssertionError, PlaywrightTimeout):
            continue
    raise AssertionError("the palette did not stay open")


def status_bar(page: Page) -> Locator:
    return page.locator(".mlops-Status")


def register(model: str, version: int, *, aliases: list[str] | None = None, **fields: object) -> None:
    made = ModelVersion(
        model=model, version=version, flavor="sklearn", engine="onnxruntime", hash=f"{model}{version}", files=[], created_at=store.now(), **fields
    )
    with store.writing() as tx:
        models.add(tx, made)
        for alias in aliases or []:
            models.set_alias(tx, made, alias, author="ada")


def deploy(endpoint: str, version: int, *, name: str | None = None, status: str, reason: Reason | None = None) -> None:
    deployment = Deployment(
        endpoint=endpoint, name=name or str(version), model=endpoint, version=version, target="local", spec=DeploymentSpec(), wanted="running",
        generation=1, status=status, reason=reason, created_at=store.now(), changed_at=store.now(),
    )  # fmt: skip
    with store.writing() as tx:
        deployments.ensure_endpoint(tx, endpoint, author="ada")
        deployments.put(tx, deployment)


def observe(endpoint: str, name: str, *, status: str, reason: Reason | None = None) -> None:
    with store.writing() as tx:
        deployments.observe(tx, deployments.get(tx, endpoint, name), status=status, reason=reason)


def split(endpoint: str, weights: dict[str, int]) -> None:
    with store.writing() as tx:
        deployments.set_traffic(tx, endpoint, weights, author="ada", why="")


def find_drift(endpoint: str, features: list[str]) -> None:
    report = {"features": [{"name": name, "is_drift": True} for name in features]}
    with store.writing() as tx:
        checks.add_drift_check(tx, DriftCheck(id="d", endpoint=endpoint, dataset="flights:1", engine="scipy", is_drift=True, report=report, time=store.now()))


def fire(endpoint: str, condition: str, *, value: str) -> None:
    with store.writing() as tx:
        rule = alerts.add(tx, endpoint, condition, author="ada")
        alerts.change(tx, rule, firing=True, since=store.now(), value=value)
