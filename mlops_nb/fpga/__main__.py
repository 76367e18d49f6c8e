"""One model for an FPGA, in a process of its own: `python -m mlops_nb.fpga FOLDER`.

FOLDER holds `job.json` (a Job), `model.onnx`, and `columns.msgpack` with the rows to compare answers on; it gets `answer.json` (an
Answer) and a project for each precision, `fixed-16-6.tar.gz`.
"""

from __future__ import annotations

import contextlib
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from .. import processes
from .. import signature as signatures
from ..conversion.comparing import agreement
from ..conversion.reasons import NotConvertible
from ..errors import MlopsError
from . import comparing, emulation, estimates, projects
from .graphs import CORE_IN, CORE_OUT, Dense, Forest, Network, Split, split
from .precision import Precision

SPLIT_TOLERANCE = 1e-3
"""How far the model in three parts, all of them in floats, may be from the whole."""
MOST_WEIGHTS = 40_000
MOST_NODES = 20_000
"""More would take the C++ compiler minutes and gigabytes."""


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What to convert, and how."""

    signature: signatures.Signature
    precisions: list[Precision]
    part: str
    reuse: int
    synthesise: bool = False
    """Whether the HLS tool on PATH is to report; else resources are estimated."""


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """One precision of the trade-off: what it answers and what it takes."""

    precision: str
    width: int
    file: str
    agreement: comparing.Agreement
    resources: estimates.Resources
    notes: list[str] = []


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a job: the points, or the reason there are none, or the error it ended with."""

    kind: str = ""
    """`dense layers` or `trees`."""
    by: str = ""
    described: str = ""
    """The logic in a line: `4 → 16 relu → 1`, or `20 trees, 3 deep`."""
    points: list[Point] = []
    reason: str = ""
    failed: str = ""
    detail: str = ""


def main(folder: Path) -> None:
    """Answer the job in *folder*; whatever hls4ml and conifer print goes to standard error."""
    try:
        with contextlib.redirect_stdout(sys.stderr):
            answer = _answered(folder)
    except NotConvertible as why:
        answer = Answer(reason=str(why))
    except MlopsError as error:
        answer = Answer(failed=str(error), detail=error.detail)
    except Exception as error:  # hls4ml and conifer raise anything; whoever asked is told what
        answer = Answer(failed=f"{type(error).__name__}: {error}")
    (folder / "answer.json").write_bytes(msgspec.json.encode(answer))


def _answered(folder: Path) -> Answer:
    job = msgspec.json.decode((folder / "job.json").read_bytes(), type=Job)
    rows = msgspec.msgpack.decode((folder / "columns.msgpack").read_bytes())
    truth = None if rows["truth"] is None else np.array(rows["truth"])
    columns = job.signature.check(rows["columns"])
    content = (folder / "model.onnx").read_bytes()
    parts = split(content)
    _check_size(parts)
    wanted, going_in = _checked(content, parts, columns)
    archives = [_write(parts, precision, job, folder) for precision in job.precisions]
    with ThreadPoolExecutor(max_workers=2) as pool:  # the compiler is a process of its own
        homes = list(pool.map(emulation.library, archives))
    points = [
        _point(parts, precision, archive, home, job, columns=columns, wanted=wanted, truth=truth, going_in=going_in, folder=folder)
        for precision, archive, home in zip(job.precisions, archives, homes, strict=True)
    ]
    network = isinstance(parts.core, Network)
    kind, by = ("dense layers", "hls4ml") if network else ("trees", "conifer")
    return Answer(kind=kind, by=by, described=_described(parts.core), points=points)


def _check_size(parts: Split) -> None:
    if isinstance(parts.core, Network):
        weights = sum(layer.weights.size for layer in parts.core.dense)
        if weights > MOST_WEIGHTS:
            raise NotConvertible(f"it has {weights:,} weights, and {MOST_WEIGHTS:,} are the most that are written as logic")
    elif (nodes := sum(len(tree.feature) for tree in parts.core.trees) * len(parts.core.base)) > MOST_NODES:
        raise NotConvertible(f"its trees have {nodes:,} nodes, and {MOST_NODES:,} are the most that are written as logic")


def _checked(content: bytes, parts: Split, columns: dict[str, Any]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The whole model's answers and what goes into the logic, once the three parts in floats answer the same.  Raises NotConvertible."""
    wanted = emulation.Part(content)(columns)
    going_in = emulation.Part(parts.before)(columns)[CORE_IN]
    if np.isnan(going_in).any():
        raise NotConvertible("values that are missing reach the logic, whose fixed-point numbers have none; impute them before")
    answers = emulation.Part(parts.after)({CORE_OUT: parts.core(going_in)})
    answers, wanted = _plain(answers), _plain(wanted)
    named = {("label" if "label" in name else name): values for name, values in wanted.items()}
    found = agreement({("label" if "label" in name else name): values for name, values in answers.items()}, named, SPLIT_TOLERANCE)
    if not found.equal:
        raise NotConvertible(f"split into parts it answers otherwise ({found.labels_differ} labels, by up to {found.max_difference:.2g}), already in floats")
    return wanted, going_in


def _plain(answers: dict[str, Any]) -> dict[str, np.ndarray]:
    """Outputs as arrays, a ZipMap's dicts as columns."""
    return {
        name: np.array([list(row.values()) for row in values]) if isinstance(values, list) and values and isinstance(values[0], dict) else np.asarray(values)
        for name, values in answers.items()
    }


def _write(parts: Split, precision: Precision, job: Job, folder: Path) -> Path:
    scratch = folder / precision.slug
    scratch.mkdir()
    archive = folder / f"{precision.slug}.tar.gz"
    archive.write_bytes(projects.written(parts, precision, projects.Settings(part=job.part, reuse=job.reuse), scratch))
    return archive


def _point(
    parts: Split, precision: Precision, archive: Path, home: Path, job: Job, *,
    columns: dict[str, Any], wanted: dict[str, np.ndarray], truth: np.ndarray | None, going_in: np.ndarray, folder: Path,
) -> Point:  # fmt: skip
    answers = _plain(emulation.Emulated(home)(columns))
    if job.synthesise:
        resources = estimates.synthesised(folder / precision.slug / "project", job.part)
    else:
        resources = estimates.estimated(parts.core, precision, reuse=job.reuse, part=job.part)
    return Point(
        precision=str(precision), width=precision.width, file=archive.name, agreement=comparing.compared(answers, wanted, truth), resources=resources,
        notes=_notes(parts.core, precision, going_in, resources),
    )  # fmt: skip


def _notes(core: Network | Forest, precision: Precision, going_in: np.ndarray, resources: estimates.Resources) -> list[str]:
    """What of the numbers does not fit the type, and of the logic the part."""
    notes = [f"takes {share:.0%} of the part's {kind.upper()}s" for kind, share in resources.share.items() if share > 1]
    if isinstance(core, Forest):
        return notes  # its numbers are shifted to fit
    beyond = float(np.mean((going_in < precision.low) | (going_in > precision.high)))
    if beyond:
        largest = float(np.abs(going_in).max())
        bits = 1 + int(np.ceil(np.log2(largest + 1)))
        notes.append(
            f"{beyond:.1%} of the inputs lie beyond {precision} and are held at its ends (the largest is {largest:,.6g}: {bits} bits before the point)"
        )
    heavy = max(float(np.abs(layer.weights).max(initial=0)) for layer in core.dense)
    if heavy > precision.high:
        notes.append(f"weights reach {heavy:.3g} and are held at {precision.high:.3g}")
    return notes


def _described(core: Network | Forest) -> str:
    if isinstance(core, Forest):
        return f"{len(core.trees)} trees, {max(tree.depth for tree in core.trees)} deep"
    words = [str(core.widths[0])]
    for layer in core.layers:
        words += [f"→ {len(layer.bias)}"] if isinstance(layer, Dense) else [layer.kind]
    return " ".join(words)


if __name__ == "__main__":
    os.umask(0o077)
    processes.end_with(os.getppid())
    main(Path(sys.argv[1]))
