"""Which engine answers, and how alibi-detect gets an environment of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest

from mlops_nb import monitoring
from mlops_nb.errors import BadOption, EngineInstallFailed, EngineMissing, LicenceNotAccepted, MissingExtra
from mlops_nb.monitoring import engines

from .conftest import flights

ONE_INSTALLATION = pytest.mark.xdist_group("alibi-detect")


class Lines:
    """Keeps what it was told."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.lines: list[str] = []

    def step(self, text: str) -> None:
        """A new thing is being done."""
        self.steps.append(text)

    def log(self, line: str) -> None:
        """A line of uv's."""
        self.lines.append(line)


class Interrupting(Lines):
    """Somebody presses Ctrl-C at the first line."""

    def log(self, line: str) -> None:
        super().log(line)
        raise KeyboardInterrupt


@pytest.fixture
def no_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of engines."""
    monkeypatch.setenv("MLOPS_ENGINES", str(tmp_path / "engines"))
    return tmp_path / "engines"


def test_auto_is_histograms_which_are_always_there(no_engine):
    assert engines.choose().name == engines.choose("auto").name == "histograms"


def test_both_engines_are_listed_with_their_licences(no_engine):
    histograms, alibi_detect, scipy = engines.every()

    assert (histograms.name, histograms.ready) == ("histograms", True)
    assert (alibi_detect.name, alibi_detect.ready) == ("alibi-detect", False)
    assert "Apache-2.0 up to 0.11.4" in alibi_detect.licence and "Business Source" in alibi_detect.licence
    assert (scipy.name, scipy.ready, scipy.licence) == ("scipy", True, "BSD-3-Clause")


def test_alibi_detect_asked_for_and_missing_tells_how_to_install_it(no_engine):
    with pytest.raises(EngineMissing) as told:
        engines.choose("alibi-detect")

    assert told.value.hint.startswith("%mlops engines install alibi-detect")


def test_an_unknown_engine_is_told_with_the_nearest(no_engine):
    with pytest.raises(BadOption) as told:
        engines.install("alibi-detekt")

    assert told.value.hint == "did you mean alibi-detect?"


def test_installing_what_is_there_does_nothing(no_engine):
    report = Lines()

    assert engines.install("scipy", report=report).name == "scipy"
    assert report.steps == [f"scipy {engines.every()[2].version} is ready"]


def test_without_uv_the_extra_is_named(no_engine, monkeypatch):
    monkeypatch.setitem(sys.modules, "uv", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setenv("PATH", "")

    with pytest.raises(MissingExtra, match="uv") as told:
        engines._uv()

    assert told.value.hint == "pip install 'mlops_nb[drift]'"


def test_a_licence_that_is_not_free_is_never_taken_silently(no_engine, monkeypatch):
    monkeypatch.setattr(engines, "_python", lambda versions: None if versions == engines.RECIPES[0].python else sys.executable)

    with pytest.raises(LicenceNotAccepted, match=r"Business Source Licence 1\.1: not free for production use.*0\.11\.4") as told:
        engines.install("alibi-detect")

    assert "--accept-licence" in told.value.hint
    assert not no_engine.exists()


def test_an_installation_that_is_interrupted_ends_what_it_started(no_engine, monkeypatch, tmp_path):
    slow = tmp_path / "uv"
    slow.write_text("#!/bin/sh\necho $$\nexec sleep 60\n")
    slow.chmod(0o700)
    monkeypatch.setattr(engines, "_uv", lambda: str(slow))
    monkeypatch.setattr(engines, "_python", lambda versions: sys.executable)
    report = Interrupting()

    with pytest.raises(KeyboardInterrupt):
        engines.install("alibi-detect", report=report)

    assert not psutil.pid_exists(int(report.lines[0]))
    assert list(no_engine.iterdir()) == []


def test_a_failed_installation_shows_the_last_lines_and_leaves_nothing(no_engine, monkeypatch):
    monkeypatch.setattr(engines, "RECIPES", (engines.Recipe("9.9", ("alibi-detect==9.9.9",), ">=3.10,<3.13", "Apache-2.0"),))
    monkeypatch.setenv("UV_NO_INDEX", "1")

    with pytest.raises(EngineInstallFailed) as told:
        engines.install("alibi-detect")

    assert "alibi-detect" in told.value.detail
    assert list(no_engine.iterdir()) == []


@ONE_INSTALLATION
def test_the_installed_engine_is_there_for_whoever_asks_for_it(alibi_detect):
    assert engines.choose("alibi-detect") == alibi_detect
    assert engines.choose().name == "histograms"
    assert alibi_detect.ready and Path(alibi_detect.python).exists()


@ONE_INSTALLATION
def test_the_engine_needs_neither_this_package_nor_the_network(alibi_detect, tmp_path):
    code = "import importlib.util as u; import alibi_detect; print([m for m in ('mlops_nb', 'duckdb', 'msgspec') if u.find_spec(m)])"
    offline = {**engines.environment_for(alibi_detect), "http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9", "UV_OFFLINE": "1"}

    done = subprocess.run([alibi_detect.python, "-c", code], capture_output=True, text=True, env=offline, cwd=tmp_path, check=True)

    assert done.stdout.strip() == "[]"


@ONE_INSTALLATION
def test_alibi_detect_and_scipy_agree_on_what_drifts(alibi_detect, delays):
    asked = flights(2000, seed=1, dep_delay=np.random.default_rng(2).normal(18, 8, 2000))
    asked["carrier"] = np.where(np.arange(2000) % 3 == 0, "HA", asked["carrier"])
    asked.loc[np.arange(2000) % 5 == 0, "distance"] = np.nan
    delays.ask(asked)

    by_alibi_detect, by_scipy = (monitoring.check_drift("delays", engine=name) for name in ("alibi-detect", "scipy"))

    assert by_alibi_detect.engine == "alibi-detect" and by_alibi_detect.report["engine"] == f"alibi-detect {alibi_detect.version}"
    for key in ("name", "test", "is_drift", "effect", "summary"):
        assert [f[key] for f in by_alibi_detect.report["features"]] == [f[key] for f in by_scipy.report["features"]]

    without_yates = [n for n, f in enumerate(by_scipy.report["features"]) if f["name"] != "wet"]  # alibi-detect corrects tables of two by two
    ours, theirs = ([check.report["features"][n]["statistic"] for n in without_yates] for check in (by_scipy, by_alibi_detect))
    assert theirs == pytest.approx(ours, rel=1e-4)


@ONE_INSTALLATION
def test_numbers_alone_go_through_alibi_detect_too(alibi_detect, delays):
    delays.deploy("2", version=2, inputs=flights(10, seed=0)[["distance", "dep_delay"]])
    delays.ask(flights(1000, seed=1)[["distance", "dep_delay"]], deployment="2")

    check = monitoring.check_drift("delays", deployment="2", engine="alibi-detect")

    assert not check.is_drift
    assert {f["test"] for f in check.report["features"]} == {"Kolmogorov–Smirnov"}


@ONE_INSTALLATION
def test_the_notebooks_python_path_does_not_reach_the_engine(alibi_detect, delays, tmp_path, monkeypatch):
    (tmp_path / "numpy").mkdir()
    (tmp_path / "numpy" / "__init__.py").write_text("raise SystemError('not this one')")
    monkeypatch.setitem(os.environ, "PYTHONPATH", str(tmp_path))
    delays.ask(flights(500, seed=1))

    assert monitoring.check_drift("delays", engine="alibi-detect").engine == "alibi-detect"


@ONE_INSTALLATION
def test_the_licence_is_the_one_that_the_installed_metadata_state(alibi_detect):
    stated = (Path(alibi_detect.where) / "lib").glob(f"python*/site-packages/alibi_detect-{alibi_detect.version}.dist-info/METADATA")
    apache = any("License: Apache" in line for line in next(stated).read_text(encoding="utf-8").splitlines())

    assert alibi_detect.licence == ("Apache-2.0" if apache else "Business Source Licence 1.1")
