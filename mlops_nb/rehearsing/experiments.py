"""What would the answers be if one thing were as it was in the notebook?  Each experiment changes one thing and asks again."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from .. import rebuilding
from ..distributions import normalised
from ..errors import EnvironmentNotBuilt
from ..serving.substituted import GIVEN, ORDERED, SENT, Told
from ..store.environments import Environment, Package
from . import comparing, stage
from .stage import Broken, Play

_MOST_PACKAGES = 4
_SECONDS = 120.0


def moved(play: Play) -> list[tuple[Package, str]]:
    """Packages whose version in the lock is not the one that the notebook had, those that the model imports itself first, with that version."""
    had = {normalised(name): version for name, version in play.asked.packages.items()}
    found = [(package, had[key]) for package in play.environment.packages if (key := normalised(package.name)) in had and had[key] != package.version]
    return sorted(found, key=lambda pair: not pair[0].direct)


def with_packages_of_the_notebook(play: Play, tolerance: float) -> tuple[Package, str] | None:
    """The package with whose notebook's version, and all others as they are locked, the answers are the notebook's; None when it is none of them."""
    for package, version in moved(play)[:_MOST_PACKAGES]:
        play.report.step(f"asking again with {package.name} {version} in the place of {package.version}")
        others = [other for other in play.environment.packages if other.name != package.name]
        swapped = msgspec.structs.replace(play.environment, packages=[*others, msgspec.structs.replace(package, version=version, source="")])
        if _agrees(play, swapped, tolerance, play.folder / f"environment-{normalised(package.name)}"):
            return package, version
    return None


def as_the_object(play: Play, python: Path, tolerance: float) -> bool:
    """Whether the object itself, in the place of its ONNX form, gives the notebook's answers."""
    if play.version.engine != "onnxruntime" or not any(file.path == "model.pkl" for file in play.version.files):
        return False
    play.report.step("asking the object itself in the place of its ONNX form")
    return _answers_agree(play, python, tolerance, engine="python")


def with_columns_of_the_notebook(play: Play, python: Path, tolerance: float) -> list[Told]:
    """The columns with which, each taken from the notebook, a request's rows get the notebook's answers; the order of all of them is such a form too."""
    if play.version.engine != "python" or not play.asked.frame or not play.asked.outputs:
        return []
    play.report.step("asking again with one column after another as the notebook had it")
    told = {one.form: one for one in _told(play, python)}
    if not told or _fits(play, told[SENT], tolerance) or not _fits(play, told[GIVEN], tolerance):
        return []
    forms = [one for form, one in told.items() if form not in (GIVEN, SENT)]
    return [one for one in forms if _fits(play, one, tolerance)] or [one for one in forms if one.form != ORDERED and one.kinds[0] != one.kinds[1]]


def _agrees(play: Play, environment: Environment, tolerance: float, folder: Path) -> bool:
    try:
        python = rebuilding.build_in(folder, environment, runtime=runtime(play))
    except EnvironmentNotBuilt:
        return False  # nobody has that version any more: the experiment tells nothing
    return _answers_agree(play, python, tolerance)


def runtime(play: Play) -> str | None:
    """The package of ONNX Runtime, for a version that is served by it."""
    return "onnxruntime" if play.version.engine == "onnxruntime" else None


def _answers_agree(play: Play, python: Path, tolerance: float, *, engine: str = "") -> bool:
    try:
        with stage.served(play, python, engine=engine) as server:
            return comparing.agrees(server, play.asked, tolerance)
    except Broken:
        return False


def _fits(play: Play, told: Told, tolerance: float) -> bool:
    return told.outputs is not None and comparing.same(told.outputs, play.asked, tolerance)


def _told(play: Play, python: Path) -> Sequence[Told]:
    """The answers to each form of the rows, from a process of its own; none when it ends without them."""
    folder = play.folder / "substituted"
    folder.mkdir()
    (folder / "spec.json").write_bytes(msgspec.json.encode(stage.spec_of(play, folder, "python")))
    (folder / "columns.json").write_bytes(msgspec.json.encode(play.asked.columns))
    (folder / "rows.pkl").write_bytes(play.asked.frame)
    command = [str(python), "-m", "mlops_nb.serving.substituted", str(folder)]
    options: dict[str, Any] = {"cwd": folder / "elsewhere", "env": stage.variables(play, folder), "stdin": subprocess.DEVNULL, "capture_output": True}
    try:
        subprocess.run(command, timeout=_SECONDS, check=False, **options)
        return msgspec.json.decode((folder / "told.json").read_bytes(), type=list[Told])
    except (subprocess.TimeoutExpired, FileNotFoundError):
        return []
