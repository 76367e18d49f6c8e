"""Tabs of a real browser on a dashboard that really runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, ConsoleMessage, Page

from mlops_nb import dashboards, settings

SCREENSHOTS = Path(__file__).parents[1] / "out" / "screenshots"
HARMLESS = ("/_stcore/health", "/_stcore/host-config")
"""Streamlit asks for these below a page's own address first, and finds them one level up."""
DRAWN = """() => {
    const seen = (selector) => [...document.querySelectorAll(selector)].filter((element) => element.checkVisibility({ visibilityProperty: true }));
    return document.querySelector('[data-testid=stApp]')?.dataset.testScriptState === 'notRunning'
        && seen('[data-testid=stSkeleton]').length === 0
        && seen('[data-testid=stPlotlyChart]').every((chart) => chart.querySelector('.main-svg'))
        && seen('[data-testid=stDataFrame]').every((table) => table.querySelector('canvas'));
}"""
"""The script has run, and what is not in a closed tab is there."""


@contextmanager
def running_dashboard(root: Path, fill: Callable[[], object]) -> Iterator[str]:
    """The address of a dashboard of the workspace *root*, which *fill* has put something into."""
    before = os.environ.get("MLOPS_HOME")
    os.environ["MLOPS_HOME"] = str(root)
    try:
        with settings.using(root):
            fill()
            url = dashboards.start()
        yield url
        with settings.using(root):
            dashboards.stop()
    finally:
        os.environ.pop("MLOPS_HOME") if before is None else os.environ.update(MLOPS_HOME=before)


@contextmanager
def a_tab(browser: Browser, **wishes) -> Iterator[Page]:
    """A tab with cookies and storage of its own."""
    context = browser.new_context(**{"viewport": {"width": 1360, "height": 900}, "reduced_motion": "reduce"} | wishes)
    context.set_default_timeout(30_000)
    yield context.new_page()
    context.close()


def watched(page: Page) -> list[str]:
    """Errors of the page's console, as they come."""
    errors: list[str] = []

    def note(message: ConsoleMessage) -> None:
        if message.type == "error" and not message.location.get("url", "").endswith(HARMLESS):
            errors.append(f"{message.text} {message.location.get('url', '')}")

    page.on("console", note)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("dialog", lambda dialog: (errors.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    return errors


def settle(page: Page, url: str) -> None:
    """Open *url* and return once its script has run and every figure and table is drawn."""
    page.goto(url)
    page.get_by_role("heading", level=1).wait_for()
    page.wait_for_function(DRAWN)


def keep(page: Page, name: str) -> None:
    """A picture of the whole page."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    tall = page.evaluate("document.querySelector('[data-testid=stMainBlockContainer]').scrollHeight")
    page.set_viewport_size({"width": 1360, "height": min(max(tall, 700), 2600)})
    page.wait_for_function(DRAWN)
    page.screenshot(path=SCREENSHOTS / f"{name}.png")


def inaccessible(page: Page) -> list[str]:
    """What of the page breaks WCAG 2 A or AA by axe-core's rules, twice in a row: rule, and where.

    While Streamlit draws a part anew, what it replaces fades, and has too little contrast for a moment.
    """
    found = _broken_rules(page)
    if found:
        page.wait_for_timeout(3000)
        page.wait_for_function(DRAWN)
        again = _broken_rules(page)
        found = [each for each in found if each in again]
    return found


def _broken_rules(page: Page) -> list[str]:
    found = Axe().run(page, options={"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]}).response["violations"]
    return [f"{rule['id']}: {node['target']} {node['html'][:200]}" for rule in found for node in rule["nodes"]]
