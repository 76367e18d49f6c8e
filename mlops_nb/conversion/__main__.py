"""One conversion in a process of its own: `python -m mlops_nb.conversion FOLDER` opens a registered model and tries its ONNX form.

FOLDER holds `job.json` (a Job) and `columns.msgpack`, the rows to compare answers on; it gets `answer.json` (an Answer) and, where
there is a form that answers the same, `model.onnx`.  The caller has made sure that the model may be opened.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import msgspec

from .. import conversion, flavors, processes
from ..conversion import Conversion, NotConvertible, Options
from ..flavors import ModelFile
from ..signature import Signature
from . import speed


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What to convert, and how."""

    folder: str
    """The model's files laid out."""
    file: str
    """The file in it that holds the model."""
    format: str
    signature: Signature
    options: Options
    memory_mb: int
    """What the process may take."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a job: a report, or the reason the model stays as it is, or the error that opening it ended with."""

    report: dict[str, Any] = {}
    reason: str = ""
    failed: str = ""


def main(folder: Path) -> None:
    """Answer the job in *folder*."""
    job = msgspec.json.decode((folder / "job.json").read_bytes(), type=Job)
    _bound_memory(job.memory_mb)
    columns = job.signature.check(msgspec.msgpack.decode((folder / "columns.msgpack").read_bytes()))
    try:
        done = _converted(job, columns)
        if done.onnx:
            (folder / "model.onnx").write_bytes(done.onnx)
        answer = Answer(report=done.report)
    except NotConvertible as why:
        answer = Answer(reason=str(why))
    except Exception as error:  # the model's own code may raise anything; whoever asked is told what
        answer = Answer(failed=f"{type(error).__name__}: {error}")
    (folder / "answer.json").write_bytes(msgspec.json.encode(answer))


def _converted(job: Job, columns: dict[str, Any]) -> Conversion:
    file = ModelFile(Path(job.folder) / job.file, job.format)
    if job.format == "onnx":
        return conversion.reworked(_with_weights(file.path), columns, job.options)
    code = Path(job.folder) / "code"
    if code.is_dir():
        sys.path.insert(0, str(code))
    return conversion.fully(flavors.opened(file), job.signature, speed.data_of(columns, job.signature), job.options)


def _with_weights(path: Path) -> bytes:
    """The graph in one piece, also where its weights are in files beside it."""
    import onnx

    return onnx.load(path).SerializeToString()


def _bound_memory(megabytes: int) -> None:
    """Let no more be taken than that, where the system can see to it."""
    if sys.platform == "win32":
        return
    import resource

    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = megabytes * 1024 * 1024
    resource.setrlimit(resource.RLIMIT_DATA, (wanted if most == resource.RLIM_INFINITY else min(wanted, most), most))


if __name__ == "__main__":
    os.umask(0o077)
    processes.end_with(os.getppid())
    main(Path(sys.argv[1]))
