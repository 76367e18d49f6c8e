"""A real container engine for the tests, and an image to build upon: there is no registry to pull one from.

A running engine is used where one answers.  Otherwise one is started for the tests alone, shared by everybody who tests on this machine at the same
time; whoever leaves last ends it, and nothing of it remains.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "mlops_nb_tests"
BASE_IMAGE = "mlops-nb-tests/python:bookworm"
_HOME = Path(tempfile.gettempdir()) / f"mlops-nb-engine-{os.getuid()}"  # short: a socket's path has a limit
_PACKAGES = "python3,python3-pip,python3-venv,ca-certificates"
_LEFT_OUT = ("var/cache/apt/archives/*.deb", "var/lib/apt/lists/*", "proc/*", "sys/*", "dev/*", "usr/share/doc/*", "usr/share/locale/*", "usr/share/man/*")
_DRIVERS = ("overlay2", "vfs")


@pytest.fixture(scope="session")
def container_engine() -> Iterator[str]:
    """The address of an engine that answers; DOCKER_HOST leads to it meanwhile."""
    with _an_engine() as address:
        before = os.environ.get("DOCKER_HOST")
        os.environ["DOCKER_HOST"] = address
        yield address
        os.environ.pop("DOCKER_HOST")
        if before:
            os.environ["DOCKER_HOST"] = before


@pytest.fixture(scope="session")
def base_image(container_engine: str) -> str:
    """The name of an image with Debian's Python 3.11, pip and venv, as `python:3.11-slim` would be."""
    with _locked("base.lock"):
        if not _docker("image", "inspect", BASE_IMAGE, check=False):
            tar = _debian()
            path = "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
            _docker("import", "--change", path, "--change", 'CMD ["/bin/bash"]', str(tar), BASE_IMAGE)
    return BASE_IMAGE


@contextmanager
def _an_engine() -> Iterator[str]:
    running = os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
    if _answers(running):
        yield running
        return
    _HOME.mkdir(mode=0o700, exist_ok=True)
    with (_HOME / "users").open("w") as users:
        with _locked("start.lock"):
            address = _started()
            fcntl.flock(users, fcntl.LOCK_SH)
        yield address
        with _locked("start.lock"):
            if _nobody_else(users):
                _end()


def _nobody_else(users: IO[str]) -> bool:
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _started() -> str:
    """The address of the tests' own engine, started unless it runs."""
    address = f"unix://{_HOME}/docker.sock"
    if _answers(address):
        return address
    for driver in _DRIVERS:  # overlay2 is not to be had on every file system
        if _came_up(driver, address):
            return address
    raise AssertionError(f"dockerd does not come up:\n{(_HOME / 'log').read_text()[-3000:]}")


def _came_up(driver: str, address: str) -> bool:
    shutil.rmtree(_HOME / "root", ignore_errors=True)
    places = [f"--data-root={_HOME}/root", f"--exec-root={_HOME}/exec", f"--pidfile={_HOME}/pid", f"--host={address}"]
    with (_HOME / "log").open("ab") as log:
        process = subprocess.Popen(["dockerd", f"--storage-driver={driver}", *places], stdout=log, stderr=log, start_new_session=True)
    deadline = time.monotonic() + 60
    while not _answers(address):
        if process.poll() is not None or time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def _end() -> None:
    pid = int((_HOME / "pid").read_text())
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + 60
    while Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes():  # a zombie has an empty one
        assert time.monotonic() < deadline, "dockerd does not end"
        time.sleep(0.1)
    for mounted in sorted((line.split()[1] for line in Path("/proc/mounts").read_text().splitlines() if line.split()[1].startswith(str(_HOME))), reverse=True):
        subprocess.run(["umount", mounted], check=False)
    shutil.rmtree(_HOME, ignore_errors=True)


def _answers(address: str) -> bool:
    import docker
    import docker.errors
    import requests

    try:
        return bool(docker.DockerClient(base_url=address, timeout=5, use_ssh_client=True).ping())
    except (docker.errors.DockerException, requests.RequestException):
        return False


def _debian() -> Path:
    """Debian with Python as one tar, made once on a machine."""
    tar = CACHE / "debian-bookworm-python.tar"
    if tar.exists():
        return tar
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
        root, unfinished = Path(scratch) / "root", Path(scratch) / "tar"
        subprocess.run(["debootstrap", "--variant=minbase", f"--include={_PACKAGES}", "bookworm", str(root)], check=True, stdout=subprocess.DEVNULL)
        left_out = [f"--exclude=./{path}" for path in _LEFT_OUT]
        subprocess.run(["tar", "-C", str(root), "--numeric-owner", "--one-file-system", *left_out, "-cf", str(unfinished), "."], check=True)
        unfinished.rename(tar)
    return tar


def _docker(*words: str, check: bool = True) -> bool:
    done = subprocess.run(["docker", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0 or not check, done.stderr
    return done.returncode == 0


@contextmanager
def _locked(name: str) -> Iterator[None]:
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / name).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
