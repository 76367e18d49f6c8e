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
import subprocess
import sys
import sysconfig
import tempfile
from importlib import metadata
from pathlib import Path

import msgspec

from . import environments, hardware
from .distributions import normalised
from .errors import EnvironmentMissing, EnvironmentNotBuilt, MissingExtra
from .progress import SILENT, Reporter
from .store.environments import Environment

SERVER_NEEDS = ("cloudpickle", "httptools", "msgspec", "numpy", "orjson", "packaging", "psutil")
"""What `mlops_nb.serving` imports besides the model's own packages and its runtime."""
OLDEST_PYTHON = (3, 11)
_LAST_LINES = 12


def build(environment: Environment, report: Reporter = SILENT, *, runtime: str | None = None) -> Path:
    """The interpreter of *environment*, built when it is not there yet; uv's lines are reported as they come.

    *runtime* is the package that brings ONNX Runtime, in the place of another such that was locked; None for a model that needs none.
    Raises EnvironmentNotBuilt with uv's last lines, MissingExtra (uv).
    """
    home = _home(environment, runtime)
    if _interpreter(home).exists():
        report.step(f"environment {environment.ref} is there")
        return _interpreter(home)
    report.step(f"building environment {environment.ref} with {len(environment.packages)} packages{f' and {runtime}' if runtime else ''}")
    _build(environment, home, _content(environment, runtime), report)
    return _interpreter(home)


def build_in(folder: Path, environment: Environment, report: Reporter = SILENT, *, runtime: str | None = None) -> Path:
    """The interpreter of *environment*, built in *folder* from nothing, whatever environments are kept; uv's cache of wheels is used.

    Raises EnvironmentNotBuilt with uv's last lines, MissingExtra (uv).
    """
    report.step(f"building environment {environment.ref} from nothing, with {len(environment.packages)} packages")
    folder.mkdir(parents=True)
    _build_at(folder, environment, _content(environment, runtime), report)
    return _interpreter(folder)


def installed_in(python: Path) -> dict[str, str]:
    """Versions of what is installed for the interpreter *python* of an environment that was built, by normalised name."""
    folders = [str(folder) for folder in python.parent.parent.glob("lib/python*/site-packages")] or [str(python.parent.parent / "Lib/site-packages")]
    return {normalised(distribution.name): distribution.version for distribution in metadata.distributions(path=folders)}


def interpreter(environment: Environment, *, runtime: str | None = None) -> Path:
    """The interpreter of an environment that was built, with the same *runtime*.  Raises EnvironmentMissing."""
    found = _interpreter(home := _home(environment, runtime))
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
    _run([uv(), "pip", "install", "--no-config", "--python", str(_interpreter(folder)), "-r", str(wanted)], environment, report)


def _content(environment: Environment, runtime: str | None) -> str:
    """The requirements, pinned ones first."""
    others = hardware.RUNTIMES - {runtime} if runtime else frozenset()
    kept = [package for package in environment.packages if package.name.lower() not in others]
    pinned = environments.requirements(msgspec.structs.replace(environment, packages=kept))
    names = {package.name.lower() for package in kept}
    return pinned + "".join(f"{name}\n" for name in (*SERVER_NEEDS, *filter(None, [runtime])) if name not in names)


def _python(environment: Environment) -> str:
    """This interpreter when it is of the same minor version, else what uv is to find or fetch."""
    return sys.executable if _minor(environment) == sys.version_info[:2] else ".".join(map(str, _minor(environment)))


def _minor(environment: Environment) -> tuple[int, ...]:
    return tuple(int(part) for part in environment.python.split(".")[:2])


def _run(command: list[str], environment: Environment, report: Reporter) -> None:
    """Run one step, its lines reported as they come.  Raises EnvironmentNotBuilt with the last of them."""
    lines: list[str] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", env=variables()) as process:
        assert process.stdout
        try:
            for line in process.stdout:
                lines.append(line.rstrip())
                report.log(lines[-1])
        except BaseException:  # Ctrl-C: uv would go on installing
            process.kill()
            raise
    if process.returncode:
        why = f"uv {command[1]} ended with {process.returncode}"
        raise EnvironmentNotBuilt(environment.ref, why=why, log="\n".join(lines[-_LAST_LINES:]))


def _put_in_place(scratch: Path, home: Path) -> None:
    if home.is_dir() and not _interpreter(home).exists():
        shutil.rmtree(home)  # its base Python is gone
    try:
        scratch.rename(home)
    except OSError:
        if not _interpreter(home).exists():
            raise
        # another process was faster; its environment is as good


def _home(environment: Environment, runtime: str | None) -> Path:
    wanted = _content(environment, runtime).splitlines()[1:]
    content = "\n".join([".".join(map(str, _minor(environment))), sysconfig.get_platform(), platform.machine(), *wanted])
    return _root() / hashlib.sha256(content.encode()).hexdigest()[:16]


def _root() -> Path:
    named = os.environ.get("MLOPS_ENVIRONMENTS")
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(named).expanduser().absolute() if named else Path(cache) / "mlops_nb" / "environments"


def _interpreter(home: Path) -> Path:
    return home / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def uv(*, extra: str = "isolated", doing: str = "Building an environment") -> str:
    """uv's binary: from its wheel, else from PATH.  Raises MissingExtra, which tells *doing* what needs it and the *extra* that brings it."""
    if importlib.util.find_spec("uv") is not None:
        from uv import find_uv_bin

        return find_uv_bin()
    if found := shutil.which("uv"):
        return found
    raise MissingExtra("uv", extra=extra, doing=doing)
