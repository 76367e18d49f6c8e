"""The dashboard by way of the Jupyter server, as a browser on another machine has it behind a JupyterHub."""

from __future__ import annotations

import http.server
import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator

import a_busy_workspace
import pytest
from playwright.sync_api import Page, expect

from mlops_nb import dashboards

pytestmark = pytest.mark.xdist_group("engine")  # one server for all of these (test_dashboard.py)


@pytest.fixture
def told() -> Iterator[int]:
    """The port of a server that answers with the headers it was asked with."""

    class Teller(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps({"path": self.path, **self.headers}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Teller) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def test_nobody_comes_by_without_the_jupyter_servers_leave(lab, told):
    assert asked(lab, told, "/drift", token=False) is None


def test_the_dashboard_is_asked_as_from_this_machine_and_told_no_secret_of_the_jupyter_server(lab, told):
    heard = asked(lab, told, "/drift?endpoint=delays", Origin="http://hub.example", Cookie="session=secret")

    assert heard["path"] == "/drift?endpoint=delays"
    assert (heard["Host"], heard["Origin"]) == (f"127.0.0.1:{told}", f"http://127.0.0.1:{told}")
    assert not {"Authorization", "Cookie"} & set(heard)


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
