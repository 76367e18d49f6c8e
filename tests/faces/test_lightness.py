"""Importing the package and loading the extension costs next to nothing."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import mlops_nb

HEAVY = {"numpy", "pandas", "duckdb", "sklearn", "onnxruntime", "msgspec", "click", "plotly", "ipywidgets", "mlops_nb.commands", "mlops_nb.store"}


def loaded_after(code: str) -> set[str]:
    """Names of the modules a fresh interpreter holds after *code*."""
    done = subprocess.run([sys.executable, "-c", f"{code}\nimport json, sys; print(json.dumps(list(sys.modules)))"], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_importing_the_package_imports_nothing_heavy() -> None:
    assert not loaded_after("import mlops_nb") & HEAVY


def test_loading_the_extension_imports_nothing_heavy() -> None:
    shell = "from IPython.core.interactiveshell import InteractiveShell\nInteractiveShell.instance().run_line_magic('load_ext', 'mlops_nb')"

    assert not loaded_after(shell) & HEAVY


def test_help_opens_no_store() -> None:
    assert not loaded_after("from mlops_nb import cli\ncli.answer(['--help'])") & {"duckdb", "numpy", "pandas", "onnxruntime"}


@pytest.mark.parametrize("name", mlops_nb.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(mlops_nb, name) is not None
    assert name in dir(mlops_nb)
