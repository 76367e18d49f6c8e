"""The figures' table and JSON file."""

from __future__ import annotations

import importlib
import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

import msgspec
import pytest
from packaging.requirements import Requirement

from bench import __main__ as bench
from bench import table
from bench.table import Figure

ROOT = Path(__file__).parent.parent


@pytest.fixture
def figures() -> list[Figure]:
    return [
        Figure(name="bare", value=0.02, unit="s"),
        Figure(name="ours", value=0.03, unit="s", baseline="bare", at_most=0.05),
        Figure(name="slow", value=0.08, unit="s", baseline="bare", at_most=0.05),
        Figure(name="peer", value=None, unit="s", baseline="bare", note="peer is not installed"),
    ]


def test_a_ratio_is_the_value_by_its_baselines_value(figures: list[Figure], tmp_path: Path) -> None:
    table.write(figures, tmp_path / "out" / "figures.json")

    written = msgspec.json.decode((tmp_path / "out" / "figures.json").read_bytes())

    assert written["ours"] == {"value": 0.03, "unit": "s", "baseline": "bare", "ratio": 1.5}


def test_what_could_not_be_measured_is_there_without_a_value(figures: list[Figure]) -> None:
    assert table.as_json(figures)["peer"] == {"value": None, "unit": "s", "baseline": "bare", "ratio": None}


def test_the_table_says_which_goals_are_met_and_which_missed(figures: list[Figure]) -> None:
    lines = table.as_text(figures).splitlines()

    assert [line.rsplit(", ", 1)[-1] for line in lines if "≤" in line] == ["met", "MISSED"]


def test_the_table_says_why_a_figure_is_missing(figures: list[Figure]) -> None:
    assert "peer is not installed" in table.as_text(figures)


def test_every_line_of_the_table_names_its_baseline_with_its_value(figures: list[Figure]) -> None:
    line = next(line for line in table.as_text(figures).splitlines() if line.startswith("ours"))

    assert "bare: 0.02" in line


def test_an_unknown_family_is_refused_with_the_nearest_one() -> None:
    asked = subprocess.run([sys.executable, "-m", "bench", "metadat"], cwd=ROOT, capture_output=True, text=True, check=False)

    assert (asked.returncode, "Did you mean metadata?" in asked.stderr) == (2, True)


def test_every_family_has_a_module_that_measures_it() -> None:
    assert "packaging" in bench.FAMILIES
    assert all(callable(importlib.import_module(f"bench.{module}").measure) for module in bench.FAMILIES.values())


def test_no_file_of_the_benchmarks_hides_a_library_from_a_script_that_is_started_there() -> None:
    libraries = {Requirement(line).name.replace("-", "_") for line in requires("mlops_nb") or ()}

    assert [file.name for file in (ROOT / "bench").glob("*.py") if file.stem in libraries] == []
