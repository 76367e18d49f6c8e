"""The dashboard's process: one per workspace, found again, ended."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import msgspec
import psutil
import pytest

from mlops_nb import dashboards, settings
from mlops_nb.errors import MissingExtra, PortInUse


@pytest.fixture(autouse=True)
def ended(workspace):
    """Whatever a test starts ends with it."""
    yield
    dashboards.stop()


def test_it_answers_on_loopback_alone_once_started(workspace):
    url = dashboards.start()

    with urllib.request.urlopen(f"{url}/_stcore/health") as answer:
        assert answer.read() == b"ok"
    listening = [connection.laddr.ip for connection in psutil.Process(pid(workspace)).net_connections("tcp") if connection.status == psutil.CONN_LISTEN]
    assert listening == ["127.0.0.1"]


def test_no_other_site_may_put_it_in_a_frame(workspace):
    with urllib.request.urlopen(f"{dashboards.start()}/rollout") as answer:
        assert answer.headers["Content-Security-Policy"] == "frame-ancestors 'self'"
        assert answer.headers["X-Frame-Options"] == "SAMEORIGIN"


def test_behind_a_jupyterhub_it_is_told_by_the_way_a_browser_reaches_it(monkeypatch):
    assert dashboards.seen_from_here("http://127.0.0.1:8501") == "http://127.0.0.1:8501"

    monkeypatch.setenv("JUPYTERHUB_SERVICE_PREFIX", "/user/ada/")
    assert dashboards.seen_from_here("http://127.0.0.1:8501") == "/user/ada/mlops_nb/at/8501/"

    monkeypatch.setenv("JUPYTERHUB_PUBLIC_URL", "https://hub.example/user/ada/")
    assert dashboards.seen_from_here("http://127.0.0.1:8501") == "https://hub.example/user/ada/mlops_nb/at/8501/"


def test_a_second_start_gives_the_one_that_runs(workspace):
    with ThreadPoolExecutor(2) as both:
        first, second = both.map(lambda _: dashboards.start(), range(2))

    assert first == second == dashboards.address()


def test_another_process_finds_it_and_stops_it(workspace):
    url = dashboards.start()

    found = subprocess.run(
        [sys.executable, "-c", "from mlops_nb import dashboards; print(dashboards.address(), dashboards.stop())"], capture_output=True, text=True, check=True
    )

    assert found.stdout.split() == [url, "True"]
    assert dashboards.address() is None


def test_a_copy_of_the_workspace_neither_finds_nor_stops_it(workspace, tmp_path):
    url = dashboards.start()
    copy = tmp_path / "copy"
    (copy / "run").mkdir(parents=True)
    (copy / "run" / "dashboard.json").write_bytes((workspace.run / "dashboard.json").read_bytes())

    with settings.using(copy):
        assert dashboards.address() is None
        assert not dashboards.stop()

    assert dashboards.address() == url


def test_it_comes_back_at_the_address_it_had_after_a_kill(workspace):
    url = dashboards.start()
    os.kill(pid(workspace), signal.SIGKILL)

    assert dashboards.start() == url


def test_stopping_what_does_not_run_says_so(workspace):
    assert dashboards.stop() is False


def test_another_process_that_took_its_pid_is_left_alone(workspace):
    workspace.run.mkdir(parents=True)
    (workspace.run / "dashboard.json").write_bytes(msgspec.json.encode(dashboards.Running(os.getpid(), 8501)))

    assert dashboards.address() is None
    assert dashboards.stop() is False


def test_a_port_in_use_is_refused(workspace):
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(PortInUse, match=str(taken.getsockname()[1])):
        dashboards.start(port=taken.getsockname()[1])


def test_without_streamlit_the_extra_is_named(workspace, monkeypatch):
    monkeypatch.setitem(sys.modules, "streamlit", None)

    with pytest.raises(MissingExtra) as caught:
        dashboards.start()

    assert caught.value.hint == "pip install 'mlops_nb[dashboard]'"


def test_its_log_is_kept_in_the_workspace(workspace):
    dashboards.start()

    assert (workspace.run / "dashboard.log").exists()


def pid(workspace) -> int:
    return msgspec.json.decode((workspace.run / "dashboard.json").read_bytes())["pid"]
