"""What does the statistics of a drift check: counts over the reference's bins, scipy, or alibi-detect, here or in an environment of its own.

alibi-detect 0.11.4 is the last version under the Apache licence 2.0 and runs on Python up to 3.11; 0.12 and later are under
the Business Source Licence 1.1, which does not allow production use.  Beside a notebook's packages it would hold numpy below
2 and pandas below 3, so `install` makes an environment that only the check's process uses.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec

from .. import processes, rebuilding
from ..errors import BadOption, DriftCheckFailed, EngineInstallFailed, EngineMissing, LicenceNotAccepted, MissingExtra, suggested
from ..progress import SILENT, Reporter
from ..version import __version__

NAMES = ("histograms", "alibi-detect", "scipy")
_APACHE, _BUSINESS = "Apache-2.0", "Business Source Licence 1.1"
_BUSINESS_WORDS = f"{_BUSINESS}: not free for production use"


class Engine(msgspec.Struct, frozen=True, kw_only=True):
    """One engine as it is on this machine."""

    name: str
    version: str = ""
    licence: str
    ready: bool
    python: str = ""
    """The interpreter it runs under."""
    where: str = ""
    """`this environment` or the folder of its own."""

    @property
    def note(self) -> str:
        """What a report must say of its licence, or nothing."""
        return f"alibi-detect {self.version} is under the {_BUSINESS_WORDS}." if self.licence == _BUSINESS else ""


class Recipe(msgspec.Struct, frozen=True):
    """A version of alibi-detect that installs, and for which Python."""

    version: str
    requirements: tuple[str, ...]
    python: str
    licence: str
    tensorflow: tuple[str, ...] = ()
    """What it needs beside for the detectors that work with TensorFlow."""


_LINUX, _ELSEWHERE = "sys_platform == 'linux' and platform_machine == 'x86_64'", "sys_platform != 'linux' or platform_machine != 'x86_64'"
RECIPES = (
    Recipe(
        "0.11.4", ("alibi-detect==0.11.4", "scipy<1.12"), ">=3.10,<3.12", _APACHE,
        (f"tensorflow-cpu>=2.12,<2.13; {_LINUX}", f"tensorflow>=2.12,<2.13; {_ELSEWHERE}", "tensorflow-probability<0.21"),
    ),
    Recipe("0.13.0", ("alibi-detect==0.13.0",), ">=3.10,<3.13", _BUSINESS, ("alibi-detect[tensorflow]==0.13.0",)),
)  # fmt: skip
TENSORFLOW = "tensorflow"
_TIMEOUT_SECONDS = 900.0


def every() -> list[Engine]:
    """All engines, ready or not."""
    return [_histograms(), alibi_detect(), _scipy()]


def choose(name: str | None = None) -> Engine:
    """The engine to use: *name*; `auto` is histograms.

    Raises BadOption, EngineMissing, MissingExtra.
    """
    if name not in (*NAMES, "auto", None):
        raise BadOption(f"No drift engine named {name!r}. There are: auto, {', '.join(NAMES)}.", hint=suggested(str(name), (*NAMES, "auto"), "auto"))
    histograms, alibi_detect, scipy = every()
    if name in ("histograms", "auto", None):
        return histograms
    if name == "alibi-detect" and not alibi_detect.ready:
        raise EngineMissing("alibi-detect")
    if name == "alibi-detect":
        return alibi_detect
    if not scipy.ready:
        raise MissingExtra("scipy", extra="drift", doing="A drift check")
    return scipy


def _histograms() -> Engine:
    return Engine(name="histograms", version=__version__, licence="Apache-2.0", ready=True, python=sys.executable, where="this environment")


def _scipy() -> Engine:
    there = importlib.util.find_spec("scipy") is not None
    version = importlib.metadata.version("scipy") if there else ""
    return Engine(name="scipy", version=version, licence="BSD-3-Clause", ready=there, python=sys.executable if there else "", where="this environment" * there)


def alibi_detect(*, needs: str = "") -> Engine:
    """alibi-detect as it is here, with what some of its detectors need (`tensorflow`) beside it; without that the smallest environment there is."""
    if importlib.util.find_spec("alibi_detect") is not None and (not needs or importlib.util.find_spec(needs) is not None):
        there = importlib.metadata.distribution("alibi-detect")
        return _ready(there, python=sys.executable, where="this environment")
    for recipe in RECIPES:
        for home in [_home(recipe, TENSORFLOW)] if needs else [_home(recipe), _home(recipe, TENSORFLOW)]:
            if home.is_dir() and (found := _installed(home)):
                return _ready(found, python=str(rebuilding.python_in(home)), where=str(home))
    return Engine(name="alibi-detect", licence=f"{_APACHE} up to 0.11.4, {_BUSINESS} since", ready=False)


def _ready(found: importlib.metadata.Distribution, *, python: str, where: str) -> Engine:
    """The engine under the licence that its own metadata state."""
    stated = [words for field in ("License-Expression", "License") for words in found.metadata.get_all(field) or []]
    licence = _APACHE if any("apache" in words.lower() for words in stated) else _BUSINESS
    return Engine(name="alibi-detect", version=found.version, licence=licence, ready=True, python=python, where=where)


def _installed(home: Path) -> importlib.metadata.Distribution | None:
    places = [str(place) for place in (*home.glob("lib/python*/site-packages"), home / "Lib" / "site-packages")]
    return next(iter(importlib.metadata.distributions(name="alibi-detect", path=places)), None)


# ── installing ───────────────────────────────────────────────────────────────────────────────────────────────────────


def install(name: str, *, accept_licence: bool = False, needs: str = "", report: Reporter = SILENT) -> Engine:
    """Make *name* ready in an environment of its own (about 800 MB), shared by all workspaces of this user and usable offline.

    Where this machine has a Python up to 3.11, that is alibi-detect 0.11.4 (Apache-2.0).  Otherwise it is 0.13, which needs
    *accept_licence*.  With *needs*, `tensorflow`, another environment of about 2 GB is made for the detectors that work with it.
    Built beside and renamed, so that a kill leaves nothing half.
    Raises BadOption, LicenceNotAccepted, MissingExtra (uv), EngineInstallFailed with uv's last lines.
    """
    if needs and (needs != TENSORFLOW or name != "alibi-detect"):
        raise BadOption(f"{name} has no detector that needs {needs!r}.", hint="%mlops engines install alibi-detect --with tensorflow")
    found = alibi_detect(needs=needs) if name == "alibi-detect" else next((engine for engine in every() if engine.name == name), None)
    if found is None:
        raise BadOption(f"No drift engine named {name!r}. There are: {', '.join(NAMES)}.", hint=suggested(name, NAMES, "alibi-detect"))
    if found.ready:
        report.step(f"{found.name} {found.version} is ready")
        return found
    if name == "scipy":
        raise MissingExtra("scipy", extra="drift", doing="The scipy engine")
    recipe, python = _recipe(accept_licence)
    report.step(f"installing alibi-detect {recipe.version} ({recipe.licence})")
    _build(recipe, python, report, needs)
    report.step(f"alibi-detect {recipe.version} is ready")
    return alibi_detect(needs=needs)


def _recipe(accept_licence: bool) -> tuple[Recipe, str]:
    for recipe in RECIPES:
        if python := _python(recipe.python):
            if recipe.licence == _BUSINESS and not accept_licence:
                raise LicenceNotAccepted(
                    "alibi-detect", version=recipe.version, licence=_BUSINESS_WORDS, free=f"{RECIPES[0].version}, which needs Python 3.10 or 3.11"
                )
            return recipe, python
    raise EngineInstallFailed("alibi-detect", why="no Python 3.10, 3.11 or 3.12 was found on this machine")


def _python(versions: str) -> str | None:
    """This interpreter if its version is among *versions*, else one that uv finds on this machine; none is downloaded."""
    low, high = (tuple(int(part) for part in bound.lstrip("<>=").split(".")) for bound in versions.split(","))
    if low <= sys.version_info[:2] < high:
        return sys.executable
    found = subprocess.run([_uv(), "python", "find", "--no-python-downloads", "--system", versions], capture_output=True, text=True, check=False)
    return found.stdout.strip() or None


def _build(recipe: Recipe, python: str, report: Reporter, needs: str) -> None:
    home = _home(recipe, needs)
    requirements = (*recipe.requirements, *(recipe.tensorflow if needs else ()))
    home.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{home.name}-", dir=home.parent))
    try:
        _run([_uv(), "venv", "--relocatable", "--allow-existing", "--python", python, str(scratch)], report)
        _run([_uv(), "pip", "install", "--python", str(rebuilding.python_in(scratch)), "--only-binary", ":all:", *requirements], report)
        report.step("importing it once")
        _run([str(rebuilding.python_in(scratch)), "-c", f"import {', '.join(('alibi_detect.cd', *filter(None, [needs])))}"], report)
        processes.put_in_place(scratch, home)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _run(command: list[str], report: Reporter) -> None:
    """Run one step.  Raises EngineInstallFailed with its last lines."""
    ended, lines = processes.reported(command, report, env=rebuilding.variables())
    if ended:
        raise EngineInstallFailed("alibi-detect", why=f"{Path(command[0]).name} ended with {ended}", detail="\n".join(lines[-8:]))


def answer(engine: Engine, script: Path, job: str) -> str:
    """What *script* says of *job* under the engine's interpreter.  Raises DriftCheckFailed with its last lines when it ends without an answer."""
    try:
        done = subprocess.run(
            [engine.python, str(script)], input=job, capture_output=True, text=True, env=environment_for(engine), timeout=_TIMEOUT_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise DriftCheckFailed(f"took longer than {_TIMEOUT_SECONDS:.0f} s") from None
    if done.returncode:
        ended = f"was killed by signal {-done.returncode}" if done.returncode < 0 else f"ended with {done.returncode}"
        raise DriftCheckFailed(ended, detail="\n".join(done.stderr.strip().splitlines()[-6:]))
    return done.stdout


def environment_for(engine: Engine) -> dict[str, str]:
    """The environment variables to run it with: in its own environment, nothing that would lead it to this one's packages."""
    return dict(os.environ) if engine.python == sys.executable else rebuilding.variables()


def _home(recipe: Recipe, needs: str = "") -> Path:
    named = os.environ.get("MLOPS_ENGINES")
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return (Path(named).expanduser() if named else Path(cache) / "mlops_nb" / "engines") / "-".join(filter(None, ("alibi-detect", recipe.version, needs)))


def _uv() -> str:
    return rebuilding.uv(extra="drift", doing="Installing a drift engine")
