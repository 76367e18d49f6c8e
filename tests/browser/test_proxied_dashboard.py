"""The dashboard by way of the Jupyter server, as a browser on another machine has it behind a JupyterHub."""

from __future__ import annotations

import http.cookiejar
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import a_busy_workspace
import pytest
from living import wait_for
from playwright.sync_api import Page, expect

from mlops_nb import dashboards, ports
from mlops_nb.ports import free_port

pytestmark = pytest.mark.xdist_group("engine")  # one server for all of these (test_dashboard.py)


TELLER = """
import http.server, json, sys

class Teller(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps({"path": self.path, **self.headers}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[-1].rpartition("=")[2])), Teller).serve_forever()
"""
"""A server that answers with the headers it was asked with."""


@pytest.fixture
def teller(tmp_path: Path) -> Iterator[Callable[..., int]]:
    """Starts one, gives its port: as a dashboard is started, or otherwise."""
    (tmp_path / "streamlit").mkdir()
    (tmp_path / "streamlit" / "__init__.py").touch()
    (tmp_path / "streamlit" / "__main__.py").write_text(TELLER)
    with ExitStack() as stack:

        def start(*, page: Path) -> int:
            port = free_port()
            command = [sys.executable, "-m", "streamlit", "run", str(page), f"--server.port={port}"]
            process = stack.enter_context(subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(tmp_path)}, stderr=subprocess.DEVNULL))
            stack.callback(process.kill)
            wait_for(lambda: ports.taken(port), what="the teller")
            return port

        yield start


@pytest.fixture
def told(teller: Callable[..., int]) -> int:
    """The port of one that was started as a dashboard."""
    return teller(page=dashboards.folder() / "served.py")


def test_nobody_comes_by_without_the_jupyter_servers_leave(lab, told):
    assert asked(lab, told, "/drift", token=False) is None


def test_the_dashboard_is_asked_as_from_this_machine_and_told_no_secret_of_the_jupyter_server(lab, told):
    heard = asked(lab, told, "/drift?endpoint=delays", Origin="http://hub.example", Cookie="session=secret")

    assert heard["path"] == "/drift?endpoint=delays"
    assert (heard["Host"], heard["Origin"]) == (f"127.0.0.1:{told}", f"http://127.0.0.1:{told}")
    assert not {"Authorization", "Cookie"} & set(heard)


def test_the_dashboard_of_a_notebook_whose_python_is_another_is_reached(lab, teller, tmp_path):
    assert asked(lab, teller(page=tmp_path / "site-packages" / "mlops_nb" / "dashboard" / "served.py"), "/drift")


def test_nothing_but_a_dashboard_is_reached(lab, teller):
    port = teller(page=Path("somebody_elses.py"))

    assert urllib.request.urlopen(f"http://127.0.0.1:{port}/").status == 200
    assert asked(lab, port, "/drift") is None


def test_another_sites_page_in_the_same_browser_reaches_no_dashboard(lab, told):
    cookies = http.cookiejar.CookieJar()
    browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(cookies))
    browser.open(f"{lab.url}lab?token={lab.token}").read()

    def status(**headers: str) -> int:
        try:
            return browser.open(urllib.request.Request(f"{lab.url}mlops_nb/at/{told}/drift", headers=headers)).status
        except urllib.error.HTTPError as error:
            return error.code

    assert (status(), status(Origin=lab.url.rstrip("/")), status(Origin="https://elsewhere.example")) == (200, 200, 403)


def test_a_page_of_the_dashboard_comes_alive_behind_the_jupyter_server(lab, browser_page: Page):
    a_busy_workspace.fill()
    try:
        here = dashboards.behind(dashboards.start(), lab.url)
        browser_page.goto(f"{lab.url}lab?token={lab.token}")

        browser_page.goto(f"{here}drift?endpoint=delays")

        expect(browser_page.get_by_role("heading", name="Drift", exact=True)).to_be_visible(timeout=60_000)
        browser_page.get_by_test_id("stSidebar").get_by_role("link", name="Events").click()
        expect(browser_page.get_by_role("heading", name="Events", exact=True)).to_be_visible(timeout=60_000)
        assert browser_page.url.startswith(f"{here}events")
    finally:
        dashboards.stop()


def asked(lab, port: int, path: str, *, token: bool = True, **headers: str) -> dict[str, str] | None:
    request = urllib.request.Request(f"{lab.url}mlops_nb/at/{port}{path}", headers=headers)
    if token:
        request.add_header("Authorization", f"token {lab.token}")
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer) if "json" in answer.headers.get("Content-Type", "json") and "login" not in answer.url else None
    except urllib.error.HTTPError:
        return None
