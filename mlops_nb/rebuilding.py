"""An environment of its own for a model version: what was locked when it was registered, built by uv, kept by its content.

A deployment with `--isolated` runs in it, so a version whose packages differ from the notebook's answers with exactly those it was made
with.  Besides the locked packages it holds what the scoring server itself imports, and for a model in ONNX the package that brings ONNX
Runtime for its hardware, both without versions, so that the model's pins decide.  This package's own code is not installed there: the server
finds it through a link, whatever its version.

Environments lie in `~/.cache/mlops_nb/environments` (or MLOPS_ENVIRONMENTS), one folder for each content, shared by all workspaces
of a user.  One is built beside and renamed, so that a kill leaves nothing half; one that is there needs neither uv nor a network.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import platform
import shutil
import sys
import sysconfig
import tempfile
from importlib import metadata
from pathlib import Path

import msgspec

from . import environments, hardware, processes
from .distributions import installed, normalised
from .errors import EnvironmentMissing, EnvironmentNotBuilt, MissingExtra
from .progress import SILENT, Reporter
from .store.environments import Environment

SERVER_NEEDS = ("cloudpickle", "httptools", "msgspec", "numpy", "orjson", "packaging", "psutil")
"""What `mlops_nb.serving` imports besides the model's own packages and its runtime."""
SERVER_GAINS = ("pysimdjson", "uvloop")
"""What it answers quicker with.  Not every Python and processor has wheels of these, and images go without: they are 21 MB."""
OLDEST_PYTHON = (3, 11)
_LAST_LINES = 12
_PYTHON = "Scripts/python.exe" if os.name == "nt" else "bin/python"


def build(environment: Environment, report: Reporter = SILENT, *, runtime: str | None = None) -> Path:
    """The interpreter of *environment*, built when it is not there yet; uv's lines are reported as they come.

    *runtime* is the package that brings ONNX Runtime, in the place of another such that was locked; None for a model that needs none.
    Raises EnvironmentNotBuilt with uv's last lines, MissingExtra (uv).
    """
    home = _home(environment, runtime)
    if python_in(home).exists():
        report.step(f"environment {environment.ref} is there")
        return python_in(home)
    report.step(f"building environment {environment.ref} with {len(environment.packages)} packages{f' and {runtime}' if runtime else ''}")
    _build(environment, home, _content(environment, runtime), report)
    return python_in(home)


def build_in(folder: Path, environment: Environment, report: Reporter = SILENT, *, runtime: str | None = None) -> Path:
    """The interpreter of *environment*, built in *folder* from nothing, whatever environments are kept; uv's cache of wheels is used.

    Raises EnvironmentNotBuilt with uv's last lines, MissingExtra (uv).
    """
    report.step(f"building environment {environment.ref} from nothing, with {len(environment.packages)} packages")
    folder.mkdir(parents=True)
    _build_at(folder, environment, _content(environment, runtime), report)
    return python_in(folder)


def installed_in(python: Path) -> dict[str, str]:
    """Versions of what is installed for the interpreter *python* of an environment that was built, by normalised name."""
    folders = [str(folder) for folder in python.parent.parent.glob("lib/python*/site-packages")] or [str(python.parent.parent / "Lib/site-packages")]
    return {normalised(distribution.name): distribution.version for distribution in metadata.distributions(path=folders)}


def interpreter(environment: Environment, *, runtime: str | None = None) -> Path:
    """The interpreter of an environment that was built, with the same *runtime*.  Raises EnvironmentMissing."""
    found = python_in(home := _home(environment, runtime))
    if not found.exists():
        raise EnvironmentMissing(environment.ref, str(home))
    return found


def ourselves(folder: Path) -> Path:
    """A folder below *folder* for PYTHONPATH, which holds a link to this package and nothing else of the environment around it."""
    place = folder / "python"
    place.mkdir(exist_ok=True)
    link, package = place / __package__, Path(__file__).parent
    if link.is_symlink() and link.readlink() == package:
        return place
    if os.path.lexists(link):
        link.unlink()
    link.symlink_to(package, target_is_directory=True)
    return place


def variables() -> dict[str, str]:
    """The environment variables to run another interpreter with: nothing that would lead it to the packages of this one."""
    return {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}


# ── building ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _build(environment: Environment, home: Path, content: str, report: Reporter) -> None:
    home.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{home.name}-", dir=home.parent))
    try:
        _build_at(scratch, environment, content, report)
        _put_in_place(scratch, home)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _build_at(folder: Path, environment: Environment, content: str, report: Reporter) -> None:
    if _minor(environment) < OLDEST_PYTHON:
        oldest = ".".join(map(str, OLDEST_PYTHON))
        raise EnvironmentNotBuilt(environment.ref, why=f"it has Python {environment.python}, and the scoring server needs {oldest} at least")
    wanted = folder / "requirements.txt"
    wanted.write_text(content, encoding="utf-8")
    _run([uv(), "venv", "--quiet", "--relocatable", "--allow-existing", "--python", _python(environment), str(folder)], environment, report)
    _run([uv(), "pip", "install", "--no-config", "--python", str(python_in(folder)), "-r", str(wanted)], environment, report)


def _content(environment: Environment, runtime: str | None) -> str:
    """The requirements, pinned ones first."""
    others = hardware.RUNTIMES - {runtime} if runtime else frozenset()
    kept = [package for package in environment.packages if package.name.lower() not in others]
    pinned = environments.requirements(msgspec.structs.replace(environment, packages=kept))
    names = {package.name.lower() for package in kept}
    return pinned + "".join(f"{name}\n" for name in (*SERVER_NEEDS, *_gains(environment.python), *filter(None, [runtime])) if name not in names)


def _gains(python: str) -> list[str]:
    """What a server on *python*, such as 3.11, may also have: that which is installed here, where it is the same Python."""
    same = python.split(".")[:2] == [str(part) for part in sys.version_info[:2]]
    return [name for name in SERVER_GAINS if same and normalised(name) in installed()]


def _python(environment: Environment) -> str:
    """This interpreter when it is of the same minor version, else what uv is to find or fetch."""
    return sys.executable if _minor(environment) == sys.version_info[:2] else ".".join(map(str, _minor(environment)))


def _minor(environment: Environment) -> tuple[int, ...]:
    return tuple(int(part) for part in environment.python.split(".")[:2])


def _run(command: list[str], environment: Environment, report: Reporter) -> None:
    """Run one step.  Raises EnvironmentNotBuilt with its last lines."""
    ended, lines = processes.reported(command, report, env=variables())
    if ended:
        raise EnvironmentNotBuilt(environment.ref, why=f"uv {command[1]} ended with {ended}", log="\n".join(lines[-_LAST_LINES:]))


def _put_in_place(scratch: Path, home: Path) -> None:
    if home.is_dir() and not python_in(home).exists():
        shutil.rmtree(home)  # its base Python is gone
    processes.put_in_place(scratch, home, mark=_PYTHON)


def _home(environment: Environment, runtime: str | None) -> Path:
    wanted = _content(environment, runtime).splitlines()[1:]
    content = "\n".join([".".join(map(str, _minor(environment))), sysconfig.get_platform(), platform.machine(), *wanted])
    return _root() / hashlib.sha256(content.encode()).hexdigest()[:16]


def _root() -> Path:
    named = os.environ.get("MLOPS_ENVIRONMENTS")
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(named).expanduser().absolute() if named else Path(cache) / "mlops_nb" / "environments"


def python_in(home: Path) -> Path:
    """The interpreter of an environment in the folder *home*."""
    return home / _PYTHON


def uv(*, extra: str = "isolated", doing: str = "Building an environment") -> str:
    """uv's binary: from its wheel, else from PATH.  Raises MissingExtra, which tells *doing* what needs it and the *extra* that brings it."""
    if importlib.util.find_spec("uv") is not None:
        from uv import find_uv_bin

        return find_uv_bin()
    if found := shutil.which("uv"):
        return found
    raise MissingExtra("uv", extra=extra, doing=doing)
