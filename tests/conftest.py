"""Fixtures every test may use."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from engines import base_image, container_engine
from hypothesis import HealthCheck, settings

from mlops_nb.settings import Workspace

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

__all__ = ["base_image", "container_engine"]  # fixtures for all

OUT = Path(__file__).parent / "out"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or "/usr/bin/chromium"


settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")  # how long an example takes depends on what else the machine does


def pytest_configure() -> None:
    """Let the processes that tests start keep what they compile: else each of hundreds compiles pandas and scikit-learn anew, three times the CPU.

    Let them hear Ctrl-C, too: a suite started in the background inherits that it is ignored.
    """
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workspace]:
    """A fresh workspace, current for this test and the processes it starts; an agent that a command of the test woke ends with it."""
    from mlops_nb import agent, settings

    root = tmp_path / "workspace"
    monkeypatch.setenv("MLOPS_HOME", str(root))
    yield Workspace(root)
    if (root / "run" / "agent.lock").exists():
        with settings.using(root):
            if agent.running():
                agent.stop()


@pytest.fixture
def live_workspace(workspace: Workspace) -> Iterator[Workspace]:
    """A fresh workspace whose processes end with the test."""
    from mlops_nb import rollout

    yield workspace
    rollout.down()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of two megabytes."""
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)], check=True)
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Headless Chromium, one for the tests of a file."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        rebound = "--host-resolver-rules=MAP rebound.example 127.0.0.1"  # a name of somebody else's that leads here
        options = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", rebound]
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=options)
        yield chromium
        chromium.close()


@pytest.fixture
def browser_page(browser: Browser) -> Iterator[Page]:
    """A page with cookies and storage of its own; waits at most 20 s for anything."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(20_000)
    context.set_default_navigation_timeout(60_000)
    yield context.new_page()
    context.close()


@pytest.fixture
def screenshot(request: pytest.FixtureRequest) -> Callable[..., Path]:
    """`screenshot(page, "name")` keeps `tests/out/name.png`, a folder that git ignores."""

    def take(page: Page, name: str) -> Path:
        OUT.mkdir(exist_ok=True)
        path = OUT / f"{re.sub(r'[^A-Za-z0-9._-]+', '-', name)}.png"
        page.screenshot(path=path)
        return path

    return take
