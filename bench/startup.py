"""What `import mlops_nb` and `%load_ext mlops_nb` add to a bare interpreter and a bare notebook shell: whole processes, timed."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from functools import partial

from . import timing
from .table import Figure

ROUNDS = 11
_SHELL = "from ipykernel.zmqshell import ZMQInteractiveShell; shell = ZMQInteractiveShell.instance()"
_CODE = {
    "bare interpreter": "pass",
    "import mlops_nb": "import mlops_nb",
    "bare notebook shell": _SHELL,
    "%load_ext mlops_nb": f"{_SHELL}; shell.run_line_magic('load_ext', 'mlops_nb')",
}


def measure() -> list[Figure]:
    """Two bare processes, and what we add to each."""
    with tempfile.TemporaryDirectory() as folder:
        seconds = timing.medians({name: _process(code, folder) for name, code in _CODE.items()}, rounds=ROUNDS)
    return [
        Figure(name="bare interpreter", value=seconds["bare interpreter"], unit="s"),
        _added(seconds, "import mlops_nb", to="bare interpreter"),
        Figure(name="bare notebook shell", value=seconds["bare notebook shell"], unit="s"),
        _added(seconds, "%load_ext mlops_nb", to="bare notebook shell"),
    ]


def _added(seconds: dict[str, float], name: str, *, to: str) -> Figure:
    return Figure(name=f"{name}, added", value=max(0.0, seconds[name] - seconds[to]), unit="s", baseline=to, at_most=0.15)


def _process(code: str, folder: str) -> timing.Timed:
    environment = os.environ | {"IPYTHONDIR": f"{folder}/ipython", "MLOPS_HOME": f"{folder}/.mlops"}
    return timing.timed(partial(subprocess.run, [sys.executable, "-c", code], cwd=folder, env=environment, check=True))
