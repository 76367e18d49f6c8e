"""The emulation of a model's logic: its stored project compiled on this machine, opened with ctypes, asked row by row.

A shared library is never kept with a model: it is compiled from the project whose hash the store knows, into `run/fpga/` of the
workspace, and opened only while its own hash is the one noted when it was compiled.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from .. import artifacts, processes
from ..errors import CompilerMissing, EmulationNotBuilt, FileChanged, SignatureMismatch
from ..progress import SILENT, Reporter
from ..safety import path_inside
from ..settings import Workspace
from . import boards
from .boards import Board

if TYPE_CHECKING:
    import numpy as np

FOLDER = "fpga"
"""Where a version's projects stand among its files: `fpga/fixed-16-6.tar.gz`."""
_COMPILERS = ("g++", "clang++", "c++")
_FLAGS = ("-O1", "-std=c++17", "-fPIC", "-shared", "-w", "-Ifirmware/ap_types")
_SOURCE = "mlops_bridge.cpp"
"""It includes the logic's own, which compiles in half the time of two."""
_LIBRARY, _NOTED = "emulation.so", "library.json"
_HASH_LETTERS = 32
COMPILE_SECONDS = 300.0


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """What stands in a project's host/host.json: how the host talks to the logic."""

    precision: str
    part: str
    width_in: int
    width_out: int
    low: float
    high: float
    """Numbers beyond these are held at them before they go in."""


def library(archive: Path, *, report: Reporter = SILENT) -> Path:
    """The folder in which the project in *archive* is compiled, compiled now if it is not.

    Raises CompilerMissing, EmulationNotBuilt with the compiler's first lines, FileChanged for a library that is not what was compiled.
    """
    home = path_inside(Workspace.current().run, FOLDER, artifacts.sha256_of(archive)[:_HASH_LETTERS])
    if not (home / _NOTED).exists():
        report.step(f"compiling {archive.name.removesuffix('.tar.gz')} as C++")
        _build(archive, home)
    _check(home)
    return home


def forget(needed: Collection[str], *, older_than_seconds: float = 3600) -> int:
    """Delete what was compiled of projects other than those whose hashes are *needed*, and return the bytes freed.

    What was compiled, or begun, a short while ago stays: it may belong to a conversion or a deployment still going on.
    """
    kept, latest = {sha256[:_HASH_LETTERS] for sha256 in needed}, time.time() - older_than_seconds
    freed = 0
    for home in (Workspace.current().run / FOLDER).glob("*"):
        if home.name not in kept and home.stat().st_mtime < latest:
            freed += sum(file.stat().st_size for file in home.rglob("*") if file.is_file())
            shutil.rmtree(home, ignore_errors=True)
    return freed


def _check(home: Path) -> None:
    noted = msgspec.json.decode((home / _NOTED).read_bytes(), type=dict[str, str])
    if noted != {"sha256": artifacts.sha256_of(home / _LIBRARY)}:
        raise FileChanged(home / _LIBRARY)


def compiler() -> str:
    """The C++ compiler on PATH.  Raises CompilerMissing."""
    found = next(filter(None, map(shutil.which, _COMPILERS)), None)
    if found is None:
        raise CompilerMissing()
    return found


def _build(archive: Path, home: Path) -> None:
    """Compile beside and rename, so that a kill leaves nothing half."""
    command = compiler()
    home.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    scratch = Path(tempfile.mkdtemp(prefix=".building-", dir=home.parent))
    try:
        with tarfile.open(archive) as content:
            content.extractall(scratch, filter="data")
        _compile(command, scratch)
        (scratch / _NOTED).write_bytes(msgspec.json.encode({"sha256": artifacts.sha256_of(scratch / _LIBRARY)}))
        processes.put_in_place(scratch, home, mark=_NOTED)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _compile(command: str, folder: Path) -> None:
    try:
        done = subprocess.run(
            [command, *_FLAGS, _SOURCE, "-o", _LIBRARY], cwd=folder, capture_output=True, text=True, errors="replace", timeout=COMPILE_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise EmulationNotBuilt(f"took longer than {COMPILE_SECONDS:.0f} s") from None
    if done.returncode:
        raise EmulationNotBuilt(f"ended with {done.returncode}", log="\n".join(done.stderr.splitlines()[:12]))


class Logic:
    """The compiled logic of a project: rows of numbers in, rows of numbers out, bit by bit as the FPGA would give them."""

    def __init__(self, home: Path) -> None:
        self.host = msgspec.json.decode((home / "host" / "host.json").read_bytes(), type=Host)
        self._run = ctypes.CDLL(str(home / _LIBRARY)).mlops_run
        self._run.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_long]
        self._run.restype = None

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """[n, width_in] floats as [n, width_out] floats.  Raises SignatureMismatch for a missing value."""
        import numpy as np

        rows = rows[:, : self.host.width_in]
        if np.isnan(rows).any():
            raise SignatureMismatch("a missing value reaches the FPGA, whose fixed-point numbers have none")
        given = np.ascontiguousarray(np.clip(rows, self.host.low, self.host.high), dtype=np.float64)
        answer = np.empty((len(given), self.host.width_out))
        self._run(given.ctypes.data, answer.ctypes.data, len(given))
        return answer


class Emulated:
    """A whole model with its logic emulated, or on a board with an *overlay*: the host's parts are run by ONNX Runtime."""

    def __init__(self, home: Path, *, overlay: str = "") -> None:
        emulated = Logic(home)
        self.logic = Board(boards.check(overlay), emulated.host) if overlay else emulated
        self.before, self.after = Part((home / "host" / "before.onnx").read_bytes()), Part((home / "host" / "after.onnx").read_bytes())

    def __call__(self, columns: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """The model's outputs by the names they have in ONNX.  Raises SignatureMismatch."""
        (rows,) = self.before(columns).values()
        return self.after({"fpga_out": self.logic(rows)})


class Part:
    """One of the host's two graphs, opened by ONNX Runtime with a single thread."""

    def __init__(self, content: bytes) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        self.inputs = self._session.get_inputs()
        self.outputs = [output.name for output in self._session.get_outputs()]

    def __call__(self, columns: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Columns go to inputs by name, else by place; several columns to a single input side by side."""
        import numpy as np

        if len(self.inputs) == 1 and len(columns) > 1:
            columns = {self.inputs[0].name: np.column_stack(list(columns.values()))}
        given = list(columns.values())
        feed = {arg.name: _fed(columns.get(arg.name, given[min(place, len(given) - 1)]), arg) for place, arg in enumerate(self.inputs)}
        return dict(zip(self.outputs, self._session.run(self.outputs, feed), strict=True))


def _fed(column: Any, arg: Any) -> Any:
    element = arg.type.removeprefix("tensor(").removesuffix(")")
    column = column.astype({"float": "float32", "double": "float64", "string": "object"}.get(element, element), copy=False)
    return column.reshape(-1, 1) if column.ndim == 1 and len(arg.shape) == 2 else column
