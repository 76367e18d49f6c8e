"""Why it failed, told from the user's side: their exception, their file and line (or cell), and what to do next."""

from __future__ import annotations

import linecache
import os
import re
import sys
import sysconfig
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

import msgspec

from ..errors import MlopsError
from ..store.deployments import Reason
from .spec import Cell, ServerSpec

_OURS = (str(Path(__file__).parent.parent), str(Path(__file__).resolve().parent.parent))  # in an environment of its own it is a link
_INSTALLED = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})
_NO_MEMORY = re.compile(r"bad.?alloc|cannot allocate memory|failed to allocate|unable to allocate|failed to map segment", re.IGNORECASE)


def why(error: BaseException, spec: ServerSpec, *, doing: str) -> Reason:
    """*error* as a reason; *doing* is its kind when the exception itself does not tell: `exception while loading`, `exception in a request`."""
    kind = kind_of(error, doing)
    return Reason(kind=kind, message=message(error), where=where(error, spec), traceback=text(error), hint=_hint(kind, error, spec))


def kind_of(error: BaseException, otherwise: str) -> str:
    """`out of memory`, `missing package`, `wrong path`, `port taken`, or *otherwise*."""
    if isinstance(error, MemoryError) or _NO_MEMORY.search(str(error)):
        return "out of memory"
    if isinstance(error, ImportError):
        return "missing package"
    if isinstance(error, FileNotFoundError | NotADirectoryError | IsADirectoryError) or type(error).__name__ == "NoSuchFile":
        return "wrong path"
    return "port taken" if type(error).__name__ == "PortInUse" else otherwise


def message(error: BaseException) -> str:
    """One line: the exception's type and text."""
    said = " ".join(str(error).split())
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def where(error: BaseException, spec: ServerSpec) -> str:
    """The innermost line of the user's own code: `score.py:12`'s full path, or `cell [12], line 3`; empty when none is in the traceback."""
    frames = [(frame.filename, frame.lineno or 0) for frame in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, SyntaxError) and error.filename:
        frames.append((error.filename, error.lineno or 0))
    return innermost(frames, spec)


def innermost(frames: Sequence[tuple[str, int]], spec: ServerSpec) -> str:
    """The last of *frames* (file and line, outermost first) that is the user's own code, in words; empty when none is."""
    return place_of(frames, {cell.filename: cell.number for cell in spec.cells if cell.filename}, is_users=lambda filename: is_users(filename, spec))


def place_of(frames: Sequence[tuple[str, int]], cells: Mapping[str, int | None], *, is_users: Callable[[str], bool]) -> str:
    """The last of *frames* that is in one of *cells* (filename → number), as `cell [12], line 3`, or in a file of the user's; empty when none is."""
    for filename, line in reversed(frames):
        if filename in cells:
            return f"cell [{cells[filename] if cells[filename] is not None else ' '}], line {line}"
        if is_users(filename):
            return f"{filename}:{line}"
    return ""


def is_users(filename: str, spec: ServerSpec) -> bool:
    """Whether this file is the user's own code: of the model, or neither ours nor installed."""
    return filename.startswith(spec.folder) or is_own(filename)


def is_own(filename: str) -> bool:
    """Whether this file is neither ours nor installed."""
    if filename.startswith("<") or not Path(filename).is_absolute():
        return False
    return not filename.startswith((*_OURS, *_INSTALLED)) and f"{os.sep}site-packages{os.sep}" not in filename


def text(error: BaseException) -> str:
    """The traceback without this server's own frames at its start."""
    return "".join(traceback.format_exception(type(error), error, _from_users(error)))


def _from_users(error: BaseException) -> TracebackType | None:
    """From the first frame of the user's on; without one all of it, unless the error says all there is to see (what is refused, what is no Python)."""
    first = error.__traceback__
    while first is not None and first.tb_frame.f_code.co_filename.startswith((*_OURS, sysconfig.get_path("stdlib"), "<frozen")):
        first = first.tb_next
    return first or (None if isinstance(error, MlopsError | SyntaxError) else error.__traceback__)


def stuck(thread: int, spec: ServerSpec) -> Reason:
    """Why a request that is still being computed in *thread* was given up, and at which line it is."""
    frame = sys._current_frames().get(thread)
    stack = traceback.extract_stack(frame) if frame else traceback.StackSummary()
    users = [entry for entry in stack if not entry.filename.startswith((*_OURS, "<frozen"))]
    return Reason(
        kind="too slow", message=f"run() did not return within {spec.timeout_seconds:g} s", traceback="".join(traceback.format_list(users)),
        where=innermost([(entry.filename, entry.lineno or 0) for entry in stack], spec),
        hint="make run() quicker, or raise request_timeout_seconds in [tool.mlops]",
    )  # fmt: skip


def end(reason: Reason, spec: ServerSpec) -> None:
    """Write failure.json, say it in the log, and end the process with exit code 1."""
    write(reason, Path(spec.run_folder) / "failure.json")
    sys.stderr.write(f"deployment.failed kind={reason.kind!r} where={reason.where!r} {reason.message}\n{reason.traceback}")
    sys.stderr.flush()
    os._exit(1)  # threads that the user's code started do not hold it up


def show_cells(cells: Sequence[Cell]) -> None:
    """Make tracebacks show the source of code that was defined in notebook cells."""
    for cell in cells:
        if cell.filename:
            linecache.cache[cell.filename] = (len(cell.source), None, cell.source.splitlines(keepends=True), cell.filename)


def write(reason: msgspec.Struct, path: Path) -> None:
    """Put *reason* at *path* in one step.  A disk that refuses is told in the log only: there is nowhere else."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, scratch = tempfile.mkstemp(dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(msgspec.json.encode(reason))
        os.replace(scratch, path)
    except OSError as error:
        sys.stderr.write(f"{path} cannot be written: {error}\n")


class Latest:
    """The latest exception of the model's code, left for the owner in request_error.json, once a second at most."""

    def __init__(self, spec: ServerSpec) -> None:
        self._spec = spec
        self._told_at = float("-inf")

    def tell(self, error: BaseException) -> Reason:
        """*error* as a reason."""
        reason = why(error, self._spec, doing="exception in a request")
        if time.monotonic() - self._told_at >= 1:
            self._told_at = time.monotonic()
            write(reason, Path(self._spec.run_folder) / "request_error.json")
            sys.stderr.write(f"request.failed {reason.message}\n{reason.traceback}")
        return reason


def _hint(kind: str, error: BaseException, spec: ServerSpec) -> str:
    if isinstance(error, MlopsError) and error.hint:
        return error.hint
    name = (getattr(error, "name", None) or "").split(".")[0]
    deploy = f"%mlops deploy {spec.model}:{spec.version} --endpoint {spec.endpoint}"
    hints = {
        "missing package": f"pip install {name}, or register again with --code {name}.py if it is your own file" if name else "install what the message names",
        "wrong path": "read files from the folder in AZUREML_MODEL_DIR, and register them with the model",
        "out of memory": f"{deploy} --memory {(spec.memory_mb or 1024) * 2}m",
        "exception while loading": f"mend the code, register it again, then {deploy}",
        "exception in a request": f"%mlops logs {spec.endpoint}/{spec.deployment}",
    }
    return hints.get(kind, "")
