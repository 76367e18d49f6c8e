"""Rehearse a version: build its environment from nothing, serve it where nothing of the notebook is, and ask what the notebook asked.

`stage` is where it happens, `comparing` asks in several ways, `experiments` change one thing and ask again, `reading` looks into the
user's code, and `blame` names the one package, cell, column, file or variable that makes the difference.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from .. import artifacts, datasets, expected, rebuilding, registry, signature, store
from ..distributions import normalised
from ..errors import BadOption, EnvironmentNotBuilt, FileChanged, RehearsalFailed
from ..expected import Expected
from ..progress import SILENT, Reporter
from ..reference import ModelRef
from ..serving import frames
from ..serving.spec import Cell
from ..signature import Signature
from ..store import events
from ..store import rehearsals as table
from ..store.environments import Environment
from ..store.models import ModelVersion
from ..store.rehearsals import Check, Culprit, Rehearsal
from ..store.runs import Run
from . import blame, comparing, experiments, stage
from .stage import Broken, Play

TOLERANCE = 1e-6
"""Of an answer in proportion to its size: what is left to floating point where the packages are the same."""
COARSE_TOLERANCE = 1e-4
"""Of a model in ONNX, as converting allows, and of answers in 32 bits or fewer."""


class Outcome(NamedTuple):
    """What came of it."""

    passed: bool
    culprit: Culprit | None = None
    checks: list[Check] = []
    seen: list[Culprit] = []
    packages: int = 0


def rehearse(
    ref: ModelRef | str, *, data: Any = None, answers: Any = None, variables: Mapping[str, str] | None = None, tolerance: float | None = None,
    report: Reporter = SILENT,
) -> Rehearsal:  # fmt: skip
    """Serve a version in its environment, rebuilt from nothing, and compare what it answers with what it answered in the notebook.

    It is asked the rows it was registered with, or *data*, and is to give the answers it gave then, or *answers* (one for each row):
    all together, once more, in another order and row by row, each within *tolerance* in proportion to the answer's size.  Nothing of
    the notebook is there: neither its folder nor its environment variables, except for *variables*.  The result is recorded.
    Raises ModelNotFound, VersionNotFound, AliasNotFound, BadOption, SignatureMismatch, MissingExtra (uv), and RehearsalFailed, which
    names the culprit and holds the rehearsal.
    """
    version = registry.get(ref)
    origin = registry.provenance(ModelRef(version.model, version=version.version))
    if origin.environment is None:
        raise BadOption(f"{version.ref} was registered without an environment, so there is nothing to rebuild.", hint="register the model again")
    asked, source = _asked(version, data, answers)
    began = time.monotonic()
    with stage.scratch() as folder:
        play = Play(version, origin.environment, _cells(origin.run), _hidden(origin.run, asked), asked, variables or {}, folder, report)
        outcome = _played(play, _tolerance(version, tolerance))
    rehearsal = Rehearsal(
        id=uuid.uuid4().hex, model=version.model, version=version.version, passed=outcome.passed, environment=origin.environment.ref,
        packages=outcome.packages, rows=asked.rows, compared_with=source, max_difference=_worst(outcome.checks), checks=outcome.checks,
        culprit=outcome.culprit and _worded(outcome.culprit, origin.run), seen=[_worded(one, origin.run) for one in outcome.seen],
        seconds=time.monotonic() - began, time=store.now(),
    )  # fmt: skip
    _record(rehearsal)
    if not rehearsal.passed:
        raise RehearsalFailed(rehearsal)
    return rehearsal


def every(ref: ModelRef | None = None) -> list[Rehearsal]:
    """Rehearsals (of a model, or of one version of it), newest first.  Raises ModelNotFound, VersionNotFound, AliasNotFound."""
    version = registry.get(ref).version if ref and (ref.version or ref.alias) else None
    with store.reading() as tx:
        return table.latest(tx, ref.name if ref else None, version)


# ── the play ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _played(play: Play, tolerance: float) -> Outcome:
    if culprit := _damaged(play.version):
        return Outcome(passed=False, culprit=culprit)
    try:
        python = rebuilding.build_in(play.folder / "environment", play.environment, play.report, runtime=experiments.runtime(play))
    except EnvironmentNotBuilt as error:
        return Outcome(passed=False, culprit=blame.not_built(play.environment, error))
    if culprit := _other_version(play.environment, python):
        return Outcome(passed=False, culprit=culprit)
    play.report.step(f"serving {play.version.ref} there, with nothing of the notebook around it")
    return _asked_there(play, python, tolerance)._replace(packages=len(play.environment.packages))


def _asked_there(play: Play, python: Path, tolerance: float) -> Outcome:
    try:
        with stage.served(play, python) as server:
            play.report.step(f"asking {play.asked.rows} rows together, again, in another order and row by row")
            checks = comparing.every_way(server, play.asked, tolerance) if play.asked.rows else []
    except Broken as broken:
        play.report.step("looking for what made it fail")
        return Outcome(passed=False, culprit=blame.of_exception(play, python, broken.reason, stage.seen(play.folder), tolerance))
    seen = stage.seen(play.folder)
    if not any(check.differ for check in checks):
        return Outcome(passed=True, checks=checks, seen=list(blame.noted(seen)))
    play.report.step("looking for what makes the answers differ")
    culprit = blame.of_answers(play, python, checks, seen, tolerance)
    return Outcome(passed=False, culprit=culprit, checks=checks, seen=[other for other in blame.noted(seen) if other != culprit])


def _damaged(version: ModelVersion) -> Culprit | None:
    """The first file that is not, byte for byte, what was registered."""
    for file in version.files:
        place = artifacts.address(file.sha256)
        try:
            if not place.exists():
                return blame.damaged(file.path, there=False)
            artifacts.check([msgspec.structs.replace(file, path=place.name)], place.parent)
        except FileChanged:
            return blame.damaged(file.path, there=True)
    return None


def _other_version(environment: Environment, python: Path) -> Culprit | None:
    there = rebuilding.installed_in(python)
    wrong = [package for package in environment.packages if not package.source and there.get(normalised(package.name)) != package.version]
    return blame.other_version(environment, wrong[0].name, there.get(normalised(wrong[0].name), "")) if wrong else None


def _tolerance(version: ModelVersion, asked: float | None) -> float:
    if asked is not None:
        return asked
    coarse = any(output["type"] in ("float32", "float16") for output in (version.signature or {}).get("outputs", []))
    usual = COARSE_TOLERANCE if coarse or version.engine != "python" else TOLERANCE
    return max(usual, version.conversion.get("tolerance", 0.0)) if version.engine == "onnxruntime" else usual


def _worst(checks: list[Check]) -> float | None:
    against = next((check for check in checks if check.name == comparing.NOTEBOOKS), None)
    return against.max_difference if against else None


def _record(rehearsal: Rehearsal) -> None:
    told = {"culprit": str(rehearsal.culprit)} if rehearsal.culprit else {}
    with store.writing() as tx:
        table.add(tx, rehearsal)
        events.record(tx, "RehearsalPassed" if rehearsal.passed else "RehearsalFailed", subject=rehearsal.ref, data={"rows": rehearsal.rows, **told})


# ── what is asked ────────────────────────────────────────────────────────────────────────────────────────────────────


def _asked(version: ModelVersion, data: Any, answers: Any) -> tuple[Expected, str]:
    """The rows to send with the answers to be given, and whose these are.  Raises SignatureMismatch, BadOption."""
    kept = expected.read(version.expected) if version.expected else None
    if data is None and answers is None and kept:
        return kept, "the registration"
    if data is None and answers is not None and not kept:
        raise BadOption(f"{version.ref} was registered without rows, so nobody knows what these answers belong to.", hint="--data the rows they were given to")
    known = kept or Expected(rows=0, columns={}, outputs={})
    known = _of_rows(version, data, known) if data is not None else known if kept else _of_rows(version, _rows_of(version), known)
    if answers is None:
        return known, ""
    return msgspec.structs.replace(known, outputs=_outputs(version, answers, known.rows)), "the caller"


def _of_rows(version: ModelVersion, data: Any, known: Expected) -> Expected:
    """*known* with these rows, if there are any, and no answers to them."""
    if data is None or not len(data):
        return msgspec.structs.replace(known, rows=0, columns={}, outputs={})
    head = expected.first(data, expected.MOST_ROWS)
    columns = signature.as_lists(signature.to_columns(head))
    if version.signature:
        Signature.from_json(version.signature).check(columns)
    return msgspec.structs.replace(known, rows=len(next(iter(columns.values()), ())), columns=columns, outputs={}, frame=frames.pickled(head))


def _rows_of(version: ModelVersion) -> Any:
    """Rows of a version that came with no answers: its data set's, else those its signature keeps."""
    known = Signature.from_json(version.signature) if version.signature else None
    if version.dataset and (known is None or known.kind == "table"):
        return datasets.frame(version.dataset, columns=[column.name for column in known.inputs] if known else None, most=expected.MOST_ROWS)
    return known.sample if known else None


def _outputs(version: ModelVersion, answers: Any, rows: int) -> dict[str, list[Any]]:
    """A caller's answers by output name: those of a frame or dict as they are, else the first output's.  Raises BadOption."""
    named = answers if isinstance(answers, Mapping) else {str(name): answers[name] for name in answers.columns} if hasattr(answers, "columns") else None
    outputs = (version.signature or {}).get("outputs") or [{"name": "answer"}]
    found = signature.as_lists(named if named is not None else {outputs[0]["name"]: answers})
    if short := next((name for name, values in found.items() if len(values) < rows), None):
        raise BadOption(f"There are {rows} rows and {len(found[short])} answers.", hint="--data X --answers model.predict(X)")
    return {name: values[:rows] for name, values in found.items()}


def _worded(culprit: Culprit, run: Run | None) -> Culprit:
    """As it is in a notebook; in a script, which is recorded as one cell, with the script's name."""
    if run is None or run.kind != "script" or not culprit.where.startswith("cell [1], line "):
        return culprit
    script = Path(run.cells[0].filename)
    where = culprit.where.replace("cell [1], line ", f"{script}:")
    return msgspec.structs.replace(culprit, where=where, name=script.name if culprit.kind == "cell" else culprit.name)


def _cells(run: Run | None) -> list[Cell]:
    return [Cell(number=cell.number, filename=cell.filename, source=cell.source) for cell in (run.cells if run else [])]


def _hidden(run: Run | None, asked: Expected) -> list[str]:
    """Where the notebook stood and where it lies."""
    folders = [asked.folder, str(Path(run.notebook).parent) if run and run.notebook else ""]
    return [folder for folder in dict.fromkeys(folders) if folder]
