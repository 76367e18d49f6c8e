"""The packages of an image, locked with hashes; and their wheels, so that a build needs no network.

Wheelhouses lie in `~/.cache/mlops_nb/wheelhouses` (or MLOPS_WHEELHOUSES), one folder for each set of pins, Python and platform, shared by all
workspaces of a user: packing a new version of the same environment downloads nothing.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from email.parser import HeaderParser
from pathlib import Path

import msgspec
from packaging.utils import parse_wheel_filename

from .. import environments, processes, rebuilding
from ..errors import WheelsMissing
from ..progress import SILENT, Reporter
from ..store.environments import Package

ARCHITECTURES = {"linux/amd64": "x86_64", "linux/arm64": "aarch64"}
"""Every platform an image can be for, and what wheels call its processor."""
_OLDEST_GLIBC, _NEWEST_GLIBC = 5, 28
"""Of `manylinux_2_N`: bases with the C library of 2018 or later run what comes out."""
_LAST_LINES = 12


class Wheel(msgspec.Struct, frozen=True, kw_only=True):
    """One wheel file, and what its metadata says of its licence."""

    name: str
    version: str
    file: str
    sha256: str
    licence: str = ""
    """An SPDX expression or a name, as the wheel has it."""


class Locked(msgspec.Struct, frozen=True, kw_only=True):
    """Exact packages for one Python and platform."""

    requirements: str
    """pip's requirements file, with hashes."""
    folder: str = ""
    """Where the wheels are; empty when the build is to fetch them."""
    wheels: list[Wheel] = []
    pip: str = ""
    """The file name of pip's own wheel, which installs the others; not one of `wheels`."""


def lock(packages: Sequence[Package], *, python: str, platform: str, wheelhouse: bool, report: Reporter = SILENT) -> Locked:
    """The packages locked, with their wheels at hand unless *wheelhouse* is false.  *python* is such as `3.11`.

    Raises WheelsMissing with the installer's last lines, MissingExtra (uv).
    """
    home = _home(packages, python, platform, wheelhouse)
    if (home / "locked.json").exists():
        return msgspec.json.decode((home / "locked.json").read_bytes(), type=Locked)
    report.step(f"{'fetching wheels' if wheelhouse else 'locking packages'} for Python {python} on {platform}: {len(packages)} packages")
    home.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{home.name}-", dir=home.parent))
    try:
        locked = (_fetched if wheelhouse else _compiled)(packages, python, platform, scratch, report)
        locked = msgspec.structs.replace(locked, folder=str(home) if wheelhouse else "")
        (scratch / "locked.json").write_bytes(msgspec.json.encode(locked))
        processes.put_in_place(scratch, home, mark="locked.json")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return locked


def _fetched(packages: Sequence[Package], python: str, platform: str, folder: Path, report: Reporter) -> Locked:
    """The wheels in *folder*, and requirements with the hashes of exactly these files."""
    pinned = [environments.requirement(package) for package in packages]
    command = [*_pip(), "download", "--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--no-input", "--progress-bar=off", f"--dest={folder}"]
    _run([*command, *_fitting(python, platform), *pinned, "pip"], f"the wheels for Python {python} on {platform}", report)
    found = sorted(map(_wheel, folder.glob("*.whl")), key=lambda wheel: wheel.name)
    wheels = [wheel for wheel in found if wheel.name != "pip"]
    pip = next(wheel.file for wheel in found if wheel.name == "pip")
    return Locked(requirements="".join(f"{wheel.name}=={wheel.version} --hash=sha256:{wheel.sha256}\n" for wheel in wheels), wheels=wheels, pip=pip)


def _compiled(packages: Sequence[Package], python: str, platform: str, folder: Path, report: Reporter) -> Locked:
    """Requirements with the hashes of every file that the index has of these versions."""
    wanted = folder / "requirements.in"
    wanted.write_text("".join(f"{environments.requirement(package)}\n" for package in packages), encoding="utf-8")
    fitting = [f"--python-version={python}", f"--python-platform={ARCHITECTURES[platform]}-manylinux_2_{_NEWEST_GLIBC}"]
    plainly = ["--quiet", "--no-config", "--no-deps", "--no-header", "--no-annotate"]
    command = [rebuilding.uv(doing="Locking packages"), "pip", "compile", "--generate-hashes", *plainly, *fitting]
    locked = folder / "requirements.txt"
    _run([*command, str(wanted), "--output-file", str(locked)], f"the lock for Python {python} on {platform}", report)
    return Locked(requirements=locked.read_text(encoding="utf-8"))


def _fitting(python: str, platform: str) -> Iterator[str]:
    """pip's options for wheels that run on that Python and platform."""
    processor = ARCHITECTURES[platform]
    yield from (f"--python-version={python}", "--implementation=cp")
    for minor in range(_NEWEST_GLIBC, _OLDEST_GLIBC - 1, -1):
        yield f"--platform=manylinux_2_{minor}_{processor}"
    for name in ("manylinux2014", "manylinux2010", "manylinux1", "linux"):
        yield f"--platform={name}_{processor}"


def _wheel(file: Path) -> Wheel:
    name, version, _, _ = parse_wheel_filename(file.name)
    return Wheel(name=name, version=str(version), file=file.name, sha256=hashlib.sha256(file.read_bytes()).hexdigest(), licence=_licence(file))


def _licence(file: Path) -> str:
    """What a wheel says of its licence, where that is short enough to be a name."""
    with zipfile.ZipFile(file) as archive:
        place = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        said = HeaderParser().parsestr(archive.read(place).decode("utf-8", "replace"))
    classified = [line.rpartition(" :: ")[2] for line in said.get_all("Classifier") or [] if line.startswith("License ::")]
    stated = [said.get("License-Expression") or "", said.get("License") or "", *classified]
    return next((text for text in map(str.strip, stated) if text and len(text) < 80 and "\n" not in text), "")


def _run(command: list[str], doing: str, report: Reporter) -> None:
    """Run one step.  Raises WheelsMissing with its last lines."""
    ended, lines = processes.reported(command, report, env=rebuilding.variables())
    if ended:
        raise WheelsMissing(doing, log="\n".join(lines[-_LAST_LINES:]))


def _pip() -> list[str]:
    """pip as a command: this interpreter's own, else the one that uv brings.  Raises MissingExtra."""
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-m", "pip"]
    return [rebuilding.uv(doing="Fetching wheels"), "tool", "run", "pip"]


def _home(packages: Sequence[Package], python: str, platform: str, wheelhouse: bool) -> Path:
    content = [python, platform, str(wheelhouse), str(_NEWEST_GLIBC), *sorted(environments.requirement(package) for package in packages)]
    named = os.environ.get("MLOPS_WHEELHOUSES")
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    root = Path(named).expanduser().absolute() if named else Path(cache) / "mlops_nb" / "wheelhouses"
    return root / hashlib.sha256("\n".join(content).encode()).hexdigest()[:16]
