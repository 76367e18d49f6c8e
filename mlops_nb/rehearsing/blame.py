"""Who is to blame: from what went wrong, what was seen and what the experiments say, to one package, cell, column, file or variable.

The symptom decides what is looked at, and in which order: an exception tells where it came from; answers that change from one request
to the next come from chance, a clock, or something kept; answers that depend on their neighbours, from a figure over all rows; steady
ones that are not the notebook's, from what the notebook had around it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from ..distributions import installed
from ..errors import EnvironmentNotBuilt, listed
from ..serving.observed import Seen
from ..serving.substituted import ORDERED, Told
from ..store.deployments import Reason
from ..store.environments import Environment
from ..store.rehearsals import Check, Culprit, Kind
from . import comparing, experiments
from .reading import Code, Found
from .stage import Play

_MISSING = re.compile(r"No module named '([\w.]+)'")
_REGISTER = "and register the model again"


# ── before anything is served ────────────────────────────────────────────────────────────────────────────────────────


def not_built(environment: Environment, error: EnvironmentNotBuilt) -> Culprit:
    """The package that uv's words are about, else the lock as a whole."""
    words = error.detail.lower()
    named = [package for package in environment.packages if f"{package.name.lower()}=={package.version}" in words]
    named = named or [package for package in environment.packages if re.search(rf"\b{re.escape(package.name.lower())}\b", words)]
    lines = [line.strip() for line in error.detail.splitlines() if line.strip(" ×╰─▶│")]
    why = f"it cannot be installed: {' '.join(lines)[:300]}" if lines else str(error)
    if not named:
        return Culprit(kind="package", name="the lock", why=why, fix=f"%mlops environments {environment.ref} --pip")
    package = named[0]
    return Culprit(
        kind="package", name=f"{package.name}=={package.version}", why=why,
        fix=f"put {package.name} on an index that uv is told of (UV_INDEX, UV_FIND_LINKS), or install a version that others can get, {_REGISTER}",
    )  # fmt: skip


def other_version(environment: Environment, name: str, found: str) -> Culprit:
    """The lock names one version and another was installed."""
    locked = next(package.version for package in environment.packages if package.name == name)
    why = f"the lock says {locked}, and {found or 'none'} was installed from it"
    return Culprit(kind="package", name=name, why=why, fix=f"install {name} from an index, {_REGISTER}")


def damaged(path: str, *, there: bool) -> Culprit:
    """A file of the version that is not what was registered."""
    why = "its content on disk is no longer what was registered" if there else "it is gone from the workspace's artifacts"
    return Culprit(kind="file", name=path, why=why, fix="register the model again, or restore the workspace's artifacts from a copy")


# ── it raised ────────────────────────────────────────────────────────────────────────────────────────────────────────


def of_exception(play: Play, python: Path, reason: Reason, seen: Sequence[Seen], tolerance: float) -> Culprit:
    """What an exception is owed to."""
    if reason.kind == "missing package" and (missing := _MISSING.search(reason.message)):
        return _missing_module(play, missing[1], reason)
    if absent := _absent(one for one in seen if reason.kind == "wrong path" or one.where == reason.where or f"'{one.name}'" in reason.message):
        return absent
    if swapped := experiments.with_packages_of_the_notebook(play, tolerance):
        return _moved(*swapped, reason.where)
    if columns := experiments.with_columns_of_the_notebook(play, python, tolerance):
        return _column(columns, f"{reason.message} with it as a request brings it", reason.where)
    if absent := _absent(seen):
        return absent
    return Culprit(kind="cell", name=_place(reason.where) or play.version.ref, where=reason.where, why=reason.message, fix=f"mend that line, {_REGISTER}")


def _missing_module(play: Play, module: str, reason: Reason) -> Culprit:
    top = module.partition(".")[0]
    local = [folder for folder in play.hidden if (Path(folder) / f"{top}.py").exists() or (Path(folder) / top / "__init__.py").exists()]
    if local:
        file = f"{top}.py" if (Path(local[0]) / f"{top}.py").exists() else top
        why = "it is imported when the model answers, lies in the notebook's folder and did not travel with the version"
        return Culprit(kind="file", name=file, where=reason.where, why=why, fix=f"register the model again with --code {file}")
    owner = next((distribution.name for distribution in installed().values() if distribution.has(module) or top in distribution.tops), top)
    why = f"{module} is imported when the model answers, by a name that is made only then, so it is not in the lock"
    return Culprit(kind="package", name=owner, where=reason.where, why=why, fix=f"write import {module} in the function that needs it, {_REGISTER}")


def _absent(seen: Iterable[Seen]) -> Culprit | None:
    """The latest file or variable that the user's code looked for in vain."""
    for one in reversed(list(seen)):
        if one.kind in ("file", "variable") and not one.there:
            return of_surroundings(one)
    return None


def of_surroundings(one: Seen) -> Culprit:
    """A file, variable, clock or random number that the answers take from around the version."""
    kind, why, fix = _SURROUNDINGS[one.kind, one.there]
    name = one.name if kind != "cell" else _place(one.where)
    return Culprit(kind=kind, name=name, where=one.where, why=why.format(name=one.name), fix=fix.format(name=one.name))


_KEEP_CONTENT = f"read it where the model is made and keep the content in an attribute, {_REGISTER}; an entry script finds files in AZUREML_MODEL_DIR"
_GIVE_VALUE = "--env {name}=VALUE, here and when it is deployed, or put the value into the code"
_SURROUNDINGS: dict[tuple[str, bool], tuple[Kind, str, str]] = {
    ("file", False): ("file", "the model reads it when it answers, and it did not travel with the version", _KEEP_CONTENT),
    ("file", True): ("file", "the model reads it when it answers, and it is not part of the version", _KEEP_CONTENT),
    ("variable", False): ("variable", "the model reads it when it answers, and only the notebook's surroundings have it", _GIVE_VALUE),
    ("variable", True): ("variable", "the model reads it when it answers", _GIVE_VALUE),
    ("clock", True): ("cell", "the answers depend on the clock ({name})", f"let the time be a column, {_REGISTER}"),
    ("random", True): (
        "cell",
        "the answers depend on random numbers that no seed fixes ({name})",
        f"draw them from numpy.random.default_rng(SEED), made anew in each call, {_REGISTER}",
    ),
}


# ── it answered otherwise ────────────────────────────────────────────────────────────────────────────────────────────


def of_answers(play: Play, python: Path, checks: Sequence[Check], seen: Sequence[Seen], tolerance: float) -> Culprit | None:
    """What answers are owed to that are not the same; None when they are, or when nothing that was looked at explains it."""
    differing = {check.name for check in checks if check.differ}
    code, ran = Code(play.cells), [one for one in seen if one.kind == "ran"]
    if comparing.AGAIN in differing:
        return _unsteady(code, ran, seen)
    if differing & {comparing.SHUFFLED, comparing.APART}:
        return _of_neighbours(code, ran)
    return _of_the_notebook(play, python, code, seen, tolerance) if differing else None


def _unsteady(code: Code, ran: Sequence[Seen], seen: Sequence[Seen]) -> Culprit | None:
    """Two answers to the same rows are not the same: chance, the clock, or something that is kept from one request to the next."""
    for kind in ("random", "clock"):
        if around := next((one for one in seen if one.kind == kind), None):
            return of_surroundings(around)
    if found := code.changing_state(ran):
        why = f"it changes {found.name} with every request, and the next answer depends on it"
        return _in_cell(found, why, f"compute the answer from the rows alone, {_REGISTER}")
    if found := code.drawing(ran):
        return _in_cell(found, "its answers change from one request to the next", f"draw random numbers from a seed made anew in each call, {_REGISTER}")
    return _the_functions(ran, "its answers change from one request to the next")


def _of_neighbours(code: Code, ran: Sequence[Seen]) -> Culprit | None:
    if found := code.over_rows(ran):
        why = f"the answer to a row depends on the rows beside it: {found.name} goes over all rows of a request"
        return _in_cell(found, why, f"learn that figure in fit() and keep it, {_REGISTER}")
    return _the_functions(ran, "the answer to a row depends on the rows beside it")


def _of_the_notebook(play: Play, python: Path, code: Code, seen: Sequence[Seen], tolerance: float) -> Culprit | None:
    """Steady answers, and not the notebook's."""
    ran = [one for one in seen if one.kind == "ran"]
    if swapped := experiments.with_packages_of_the_notebook(play, tolerance):
        return _moved(*swapped, "")
    if experiments.as_the_object(play, python, tolerance):
        why = "it answers otherwise than the object it was made from"
        return Culprit(kind="file", name="model.onnx", why=why, fix=f"%mlops convert {play.version.ref}, which serves the object again where they differ")
    if columns := experiments.with_columns_of_the_notebook(play, python, tolerance):
        return _column(columns, "the answers are the notebook's only with it as the notebook had it", "")
    if absent := _absent(seen):
        return absent
    for place, why in play.asked.changed.items():
        return Culprit(kind="file", name=place, why=why, fix=f"restart the kernel, run the cells in order, {_REGISTER}")
    return _of_cells(code, ran) or next((of_surroundings(one) for one in seen if one.kind in ("clock", "random", "variable", "file")), None)


def _of_cells(code: Code, ran: Sequence[Seen]) -> Culprit | None:
    """A cell that was run after the answers were made, or that changed what no version carries."""
    if again := code.rebound(ran):
        where = code.where(again.last.filename, again.line)
        why = f"it gives {again.name} another meaning than cell [{again.first.number}] did, and the model uses {again.name} when it answers"
        return Culprit(kind="cell", name=_place(where), where=where, why=why, fix="restart the kernel, run the cells in order, predict and register again")
    if found := code.patched():
        return _in_cell(
            found, f"it changes {found.name} in the notebook's process, which does not travel", f"let the model call a function of its own, {_REGISTER}"
        )
    return None


def _moved(package: object, had: str, where: str) -> Culprit:
    name, locked = getattr(package, "name", ""), getattr(package, "version", "")
    why = f"the notebook had {had} in memory and the lock says {locked}; with {had} the answers are the notebook's"
    return Culprit(kind="package", name=name, where=where, why=why, fix=f"restart the kernel so that it imports what is installed, train {_REGISTER}")


def _column(columns: Sequence[Told], why: str, where: str) -> Culprit:
    first = columns[0]
    if first.form == ORDERED:
        told = f"the model goes by the order of the columns: the notebook had {first.kinds[0]}, and a request brings {first.kinds[1]}"
        return Culprit(kind="column", name=first.kinds[0], where=where, why=told, fix=f"let the model pick its columns by name, {_REGISTER}")
    names = listed([one.form for one in columns], most=4)
    told = f"{why}: {first.kinds[0]} there, {first.kinds[1]} here"
    return Culprit(
        kind="column", name=names, where=where, why=told, fix=f"turn {first.form} into numbers, text or dates before it goes into the model, {_REGISTER}"
    )


def _in_cell(found: Found, why: str, fix: str) -> Culprit:
    return Culprit(kind="cell", name=_place(found.where), where=found.where, why=why, fix=fix)


def _the_functions(ran: Sequence[Seen], why: str) -> Culprit | None:
    """Where no line is known: the first function of the user's that answers."""
    return next((Culprit(kind="cell", name=_place(one.where), where=one.where, why=f"{one.name}(): {why}", fix=f"mend it, {_REGISTER}") for one in ran), None)


def _place(where: str) -> str:
    """`cell [12]` of `cell [12], line 3`, the file's name of a file and a line."""
    if where.startswith("cell "):
        return where.partition(",")[0]
    return Path(where.rpartition(":")[0] or where).name


# ── nothing differed ─────────────────────────────────────────────────────────────────────────────────────────────────


def noted(seen: Iterable[Seen]) -> Iterator[Culprit]:
    """What the answers depend on besides the version, whether or not it made a difference; random numbers that came out the same twice have a seed."""
    for one in seen:
        if one.kind in ("clock", "variable", "file"):
            yield of_surroundings(one)
