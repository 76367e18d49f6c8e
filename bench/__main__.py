"""`python -m bench [FAMILY…] [--minutes N]`: measure, print one table, write bench/out/figures.json; N minutes of load for memory (1)."""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from mlops_nb import hardware
from mlops_nb.errors import closest, listed

from . import table

FAMILIES = {name: name for name in ("startup", "metadata", "registering", "deploying", "trees", "serving", "keeping", "telemetry")} | {"packaging": "images"}
"""Each family with the module that measures it.  None may be called as a library is: other servers' environments start scripts of this folder."""
QUIET_LOAD = 1.5
OUT = Path(__file__).parent / "out" / "figures.json"


def main(words: Sequence[str]) -> int:
    """Measure the families called (all unless given); 2 for one that is not there."""
    asked = argparse.ArgumentParser(prog="python -m bench")
    asked.add_argument("names", nargs="*", metavar="FAMILY")
    asked.add_argument("--minutes", type=float, default=1)
    given = asked.parse_args(words)
    names, options = given.names, {"serving": {"minutes": given.minutes}}
    if unknown := [name for name in names if name not in FAMILIES]:
        near = closest(unknown[0], FAMILIES)
        print(
            f"No figures called {unknown[0]!r}. There are: {listed(FAMILIES)}.\n{f'Did you mean {near}?' if near else 'python -m bench startup'}",
            file=sys.stderr,
        )
        return 2
    figures: list[table.Figure] = []
    before = os.getloadavg()[0]
    for name in names or FAMILIES:
        print(f"measuring {name} …", file=sys.stderr, flush=True)
        figures += importlib.import_module(f".{FAMILIES[name]}", __package__).measure(**options.get(name, {}))
    print(f"{_conditions(before)}\n\n{table.as_text(figures)}")
    table.write(figures, OUT)
    print(f"\nwritten to {OUT}", file=sys.stderr)
    return 0


def _conditions(load_before: float) -> str:
    """What the figures were measured on, and a warning where others used it too."""
    cpu, quiet = hardware.asked("cpu"), load_before <= QUIET_LOAD
    packages = ", ".join(f"{name} {version(name)}" for name in ("onnxruntime", "numpy", "granian"))
    told = f"{cpu.device}, {cpu.cores} cores; Python {platform.python_version()}, {packages}; load average {load_before:.2f} before"
    return told if quiet else f"{told}\nNOT QUIET: a load average above {QUIET_LOAD} before means that others used the machine; read ratios and CPU times only."


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
