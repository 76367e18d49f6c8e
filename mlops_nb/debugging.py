"""Run a model or an entry script in the foreground: no agent, no gateway, no Docker, but a debugger, and what is saved answers at once.

The server is a process of its own that loads the code anew within itself, so that a debugger stays attached.
"""

from __future__ import annotations

import importlib.util
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from . import artifacts, drafting, processes, registry
from .errors import FileMissing, MissingExtra
from .ports import free_port
from .reference import ModelRef
from .safety import path_inside
from .serving.spec import Cell, ServerSpec
from .settings import Workspace

_STOP_SECONDS = 3.0


def debug(
    subject: Path | ModelRef, *, say: Callable[[str], None], model: Path | ModelRef | None = None, port: int | None = None, sample: bytes | None = None
) -> int:
    """Serve *subject* (an entry script, or a registered version) until interrupted or ended, and return its process's exit code.

    *say* gets a line for each thing that happens: where it answers, where the debugger listens, each load, request and exception.
    *model* is what a script's AZUREML_MODEL_DIR leads to; *sample* is a request's body to ask after each load.
    Raises MissingExtra (debugpy), FileMissing, and as `registry.get`.
    """
    if importlib.util.find_spec("debugpy") is None:
        raise MissingExtra("debugpy", extra="notebook", doing="Debugging")
    with _scratch() as folder, _spec(subject, model, folder, port or free_port()) as spec:
        (folder / "spec.json").write_bytes(msgspec.json.encode(spec))
        header = _with_token(folder)
        if sample is not None:
            (folder / "sample.json").write_bytes(sample)
        say(f"serving {_code_of(spec)}, loaded anew when it is saved; Ctrl-C (■ in a notebook) ends it")
        say(f"try: curl -H @{header} -d '{{\"data\": …}}' http://127.0.0.1:{spec.port}/score")
        return _run(folder, say)


def _run(folder: Path, say: Callable[[str], None]) -> int:
    command = [sys.executable, "-X", "frozen_modules=off", "-m", "mlops_nb.serving.debugged", str(folder)]
    variables = os.environ | {"PYTHONUNBUFFERED": "1", "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True, env=variables
    ) as process:
        assert process.stdout
        with suppress(KeyboardInterrupt):
            try:
                for line in process.stdout:
                    say(line.rstrip("\n"))
            finally:
                _end(process)
    return 0 if process.returncode in (0, -signal.SIGTERM, -signal.SIGKILL) else process.returncode


def _end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()


@contextmanager
def _scratch() -> Iterator[Path]:
    """A folder of this workspace for one debugged server, gone afterwards."""
    place = Workspace.current().run / "debug"
    place.mkdir(parents=True, exist_ok=True, mode=0o700)
    with processes.scratch(place, prefix=".server-") as folder:
        yield folder


def _with_token(folder: Path) -> Path:
    """Write the server's token, and the header with it as a file that `curl -H @FILE` reads; both for the owner's eyes only."""
    token = secrets.token_urlsafe(24)
    for name, text in (("token", token), ("header", f"x-mlops-token: {token}\n")):
        with os.fdopen(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
    return folder / "header"


@contextmanager
def _spec(subject: Path | ModelRef, model: Path | ModelRef | None, folder: Path, port: int) -> Iterator[ServerSpec]:
    if isinstance(subject, ModelRef):
        yield msgspec.structs.replace(_spec_of_version(subject, folder), port=port)
        return
    script = subject.expanduser().absolute()
    if not script.is_file():
        raise FileMissing(subject)
    with drafting.folder_of(model) as files:
        yield msgspec.structs.replace(drafting.spec_of(script, files, folder, timeout_seconds=0), port=port)


def _spec_of_version(ref: ModelRef, folder: Path) -> ServerSpec:
    made = registry.provenance(ref)
    version = made.version
    cells = [Cell(number=cell.number, filename=cell.filename, source=cell.source) for cell in (made.run.cells if made.run else [])]
    return ServerSpec(
        endpoint=version.model, deployment="debug", model=version.model, version=version.version, folder=str(_working_copy(ref)), flavor=version.flavor,
        engine=version.engine, signature=version.signature, port=0, token_file=str(folder / "token"), run_folder=str(folder), capture_folder=str(folder),
        cells=cells, trusted=version.trusted,
    )  # fmt: skip


def _working_copy(ref: ModelRef) -> Path:
    """A copy of the version's files that may be edited, and is still there the next time; the version itself never changes."""
    version = registry.get(ref)
    folder = path_inside(Workspace.current().run, "debug", f"{version.model}-{version.version}-{version.hash[:8]}")
    if not folder.exists():
        artifacts.copy_out(version.files, folder)
    return folder


def _code_of(spec: ServerSpec) -> str:
    if spec.script:
        return spec.script
    script = Path(spec.folder) / "entry" / "score.py"
    return str(script) if script.is_file() else f"{spec.model}:{spec.version}"
