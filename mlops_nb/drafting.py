"""Write an entry script from a cell and try it at once: `init()` and one `run()`, in a fresh process, as a server would."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from . import processes, registry
from .errors import EntryScriptFailed, FileMissing
from .progress import SILENT, Reporter
from .reference import ModelRef
from .serving.draft import Broke, Tried
from .serving.spec import ServerSpec
from .settings import Workspace
from .store.deployments import Reason


def write(path: Path, source: str) -> Path:
    """Put *source* at *path*, ending in one line end."""
    path = path.expanduser().absolute()
    path.write_text(source.rstrip("\n") + "\n", encoding="utf-8")
    return path


def try_out(script: Path, *, sample: bytes | None = None, model: Path | ModelRef | None = None, cell: bool = False, report: Reporter = SILENT) -> Tried:
    """How *script* does with *sample* as a request's body; what it prints is reported.

    *model* is what AZUREML_MODEL_DIR leads to: a file, a folder or a registered version.  With *cell* the script is the body of a
    notebook's cell, and its lines are told as the cell counts them.  Raises FileMissing, and EntryScriptFailed with the exception.
    """
    script = script.expanduser().absolute()
    if not script.is_file():
        raise FileMissing(script)
    with folder_of(model) as files, tempfile.TemporaryDirectory(prefix="mlops-") as scratch:
        told = _tried(script, files, Path(scratch), sample, report)
    if isinstance(told, Broke):
        raise _failure(script, told.reason, cell=cell)
    return told


@contextmanager
def folder_of(model: Path | ModelRef | None) -> Iterator[Path]:
    """A folder that holds the model's files, to be an entry script's AZUREML_MODEL_DIR within the block.  Raises as `registry.get`, FileMissing."""
    if isinstance(model, ModelRef):
        yield registry.checked(registry.get(model))
        return
    with processes.scratch(Path(tempfile.gettempdir()), prefix="mlops-model-") as folder:
        for path in _files(model):
            (folder / path.name).symlink_to(path)
        yield folder


def _files(model: Path | None) -> list[Path]:
    if model is None:
        return []
    model = model.expanduser().absolute()
    if not model.exists():
        raise FileMissing(model)
    return sorted(model.iterdir()) if model.is_dir() else [model]


def spec_of(script: Path, files: Path, run_folder: Path, *, timeout_seconds: float) -> ServerSpec:
    """What a process needs to run a script that is still being written."""
    return ServerSpec(
        endpoint=script.stem, deployment="draft", model=script.stem, version=0, folder=str(files), script=str(script), flavor="script", engine="script",
        port=0, token_file=str(run_folder / "token"), run_folder=str(run_folder), capture_folder=str(run_folder), timeout_seconds=timeout_seconds, trusted=True,
    )  # fmt: skip


def _tried(script: Path, files: Path, scratch: Path, sample: bytes | None, report: Reporter) -> Tried | Broke:
    spec = spec_of(script, files, scratch, timeout_seconds=Workspace.current().settings().request_timeout_seconds)
    (scratch / "spec.json").write_bytes(msgspec.json.encode(spec))
    if sample is not None:
        (scratch / "sample.json").write_bytes(sample)
    command = [sys.executable, "-m", "mlops_nb.serving.draft", str(scratch)]
    ended, printed = processes.reported(command, report)
    try:
        return msgspec.json.decode((scratch / "tried.json").read_bytes(), type=Tried | Broke)
    except FileNotFoundError:
        reason = Reason(kind="exited", message=f"its process ended with exit code {ended}", traceback="\n".join(printed))
        return Broke(reason=reason)


def _failure(script: Path, reason: Reason, *, cell: bool) -> EntryScriptFailed:
    file, _, line = reason.where.rpartition(":")
    in_script = file == str(script)
    where = f"cell line {int(line) + 1}, {script.name}:{line}" if cell and in_script else f"{script.name}:{line}" if in_script else reason.where
    hint = reason.hint if reason.kind in ("missing package", "wrong path", "too slow") else f"%mlops debug {script.name}, for a breakpoint"
    return EntryScriptFailed(script.name, message=reason.message, where=where, detail=reason.traceback, hint=hint)
