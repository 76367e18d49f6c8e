"""`python -m bench.stats [SECTION…] [--write]`: how often drift checks and canaries are wrong, beside others', and how long checks take; seeded.

All of it takes about half an hour of a quiet machine with two cores.  Every figure is printed as it is there; with --write those of the sections
asked for go into docs/statistics.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from . import canaries, checking, drifting, guarded, labelled, peers, reporting, rows

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "statistics.md"
_BESIDE = {"alibi-detect": ["alibi-detect==0.11.4", "scipy<1.12", "numba>=0.57"], "evidently": ["evidently==0.7.23", "pandas<3"]}
"""What is installed for each; neither's own requirements keep out what it cannot be imported with."""


def main() -> int:
    """Print the sections called, all unless given."""
    asked = argparse.ArgumentParser(prog="python -m bench.stats")
    asked.add_argument("names", nargs="*", metavar="SECTION", help=", ".join(SECTIONS))
    asked.add_argument("--write", action="store_true", help="put the figures into docs/statistics.md")
    given = asked.parse_args()
    if unknown := [name for name in given.names if name not in SECTIONS]:
        print(f"No section {unknown[0]!r}. There are: {', '.join(SECTIONS)}.", file=sys.stderr)
        return 2
    for name in given.names or SECTIONS:
        print(f"\n{name} (load average {os.getloadavg()[0]:.1f})", flush=True)
        found = []
        for what, figure in SECTIONS[name]():
            print(f"  {what}: {figure}", flush=True)
            found.append((what, figure))
        if given.write:
            _write(name, found)
    return 0


def _times() -> Iterator[tuple[str, str]]:
    """Of our check, and of others beside it."""
    yield from checking.lines()
    yield from _others("alibi-detect", "ksdrift")


def _others(name: str, asked: str = "") -> Iterator[tuple[str, str]]:
    """The figures of another's drift check, or what is *asked* of it, taken in an environment of its own."""
    try:
        python = peers.installed(name, _BESIDE[name]) if name in _BESIDE else Path(sys.executable)
    except peers.PeerMissing as missing:
        yield name, str(missing)
        return
    # -P: the packages it imports are not to be found among our files
    command = [str(python), "-P", str(Path(__file__).with_name("drift_peers.py")), asked or name]
    log = peers.OUT / f"{name}.log"
    with log.open("w") as errors, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=peers.OUT) as process:
        assert process.stdout
        for line in process.stdout:
            yield tuple(json.loads(line))
    if process.returncode:
        yield name, f"ended early: {(log.read_text().strip().splitlines() or ['without a word'])[-1][:200]}"


def _write(name: str, found: list[tuple[str, str]]) -> None:
    """Put figures between the section's two marks."""
    text = PAGE.read_text()
    before, _, rest = text.partition(f"<!-- {name} -->\n")
    _, mark, after = rest.partition(f"<!-- end of {name} -->")
    rows = "".join(f"| {what} | {figure} |\n" for what, figure in found)
    PAGE.write_text(f"{before}<!-- {name} -->\n| what was drawn | what was found |\n|---|---|\n{rows}{mark}{after}")


SECTIONS = {
    "drift": drifting.lines, "rows": rows.lines, "scipy": partial(_others, "scipy"), "alibi-detect": partial(_others, "alibi-detect"),
    "evidently": partial(_others, "evidently"), "canaries": canaries.lines, "guards": guarded.lines, "labels": labelled.lines, "time": _times,
    "report": reporting.lines,
}  # fmt: skip

if __name__ == "__main__":
    sys.exit(main())
