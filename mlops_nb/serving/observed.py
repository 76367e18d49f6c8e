"""`python -m mlops_nb.serving.observed SPEC.json FOLDER…`: the scoring server itself, watched for what the model reaches for.

The folders are out of sight: opening a file there is refused as if it were not there, as on a machine that has never had it.
What the user's code reads from outside of the version, and which of its functions answer, go to observed.jsonl in the run folder,
one `Seen` a line, each once.  Whoever started it may be killed: the server then ends itself.

Files are seen through the audit event `open` (PEP 578), which code in C that opens files by itself does not raise.  Clocks and random
numbers are seen through `sys.setprofile`, NumPy's older global generator by its state before and after a function.
"""

from __future__ import annotations

import errno
import linecache
import os
import random
import re
import runpy
import sys
import sysconfig
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import msgspec

from .. import processes
from . import failures
from .spec import ServerSpec

_RANDOM_WORDS = re.compile(r"\brandom\b|\brng\b|shuffle|choice|permut|normal|uniform|randint")
_CLOCKS = frozenset({"time", "time_ns", "now", "utcnow", "today", "localtime", "gmtime", "ctime", "strftime"})
_PASSING_ON = ("<frozen", os.__file__)
_SYSTEM = ("/proc/", "/dev/", "/sys/", "/etc/", "/usr/", "/lib")
_SERVERS_OWN = ("AZUREML_", "MLOPS_", "PYTHON")


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """One thing the user's code did."""

    kind: Literal["file", "variable", "clock", "random", "ran"]
    """It read a file or an environment variable, asked a clock, drew random numbers, or (`ran`) this function of it was called."""
    name: str
    there: bool = True
    """Whether the file or the variable was there for it."""
    file: str = ""
    line: int = 0
    where: str = ""
    """The line of the user's code: `cell [12], line 3`, or a file and a line."""


class Watch:
    """Takes note of what this process does from now on."""

    def __init__(self, spec: ServerSpec, hidden: list[str]) -> None:
        self._spec = spec
        self._cells = {cell.filename for cell in spec.cells if cell.filename}
        self._mine: dict[str, bool] = {}
        self._noted: set[tuple[str, str, str, int]] = set()
        self._file = (Path(spec.run_folder) / "observed.jsonl").open("ab", buffering=0)
        self._hidden = tuple(_below(folder) for folder in hidden)
        self._around = _below(spec.run_folder)  # the server's own files, and the empty folder that it stands in
        roots = (sys.prefix, sys.base_prefix, sysconfig.get_path("stdlib"), spec.folder, str(Path(__file__).parent.parent))
        self._ours = tuple({_below(form) for root in roots for form in (root, str(Path(root).resolve()))})
        self._busy = threading.local()

    def begin(self) -> None:
        """From here on."""
        sys.addaudithook(self._audit)
        environ: Any = os._Environ  # type: ignore[attr-defined]
        self._read = environ.__getitem__
        environ.__getitem__ = lambda variables, name: self._variable(variables, name)
        threading.setprofile(self._profile)  # requests are answered in threads; in the main one it would slow every import down tenfold

    # ── files ──

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event != "open" or getattr(self._busy, "noting", False):
            return
        path, mode, flags = arguments
        reads = (mode is None or "r" in mode or "+" in mode) and not (isinstance(flags, int) and flags & os.O_WRONLY)
        if not reads or not isinstance(path, str | bytes | os.PathLike):
            return
        place = os.path.realpath(os.fsdecode(path))
        if place.startswith((*self._ours, *_SYSTEM)):
            return
        there, hidden = os.path.lexists(place), place.startswith(self._hidden) and not place.startswith(self._around)
        if frame := self._users(sys._getframe(1)):
            self._note("file", os.fsdecode(path), frame, there=there and not hidden)
        if there and hidden:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), os.fsdecode(path))

    # ── variables ──

    def _variable(self, variables: Any, name: str) -> str:
        frame = sys._getframe(2)
        while frame.f_back and frame.f_code.co_filename.startswith(_PASSING_ON):
            frame = frame.f_back
        if self._is_users(frame) and not name.startswith(_SERVERS_OWN):
            self._note("variable", name, frame, there=name in variables._data or os.fsencode(name) in variables._data)
        return self._read(variables, name)

    # ── clocks, random numbers, functions ──

    def _profile(self, frame: FrameType, event: str, argument: Any) -> None:
        if event == "c_call":
            self._built_in(frame, argument)
        elif event == "call":
            self._called(frame)
        elif event == "return" and self._is_users(frame):
            self._returned(frame)

    def _built_in(self, frame: FrameType, function: Any) -> None:
        name, owner = getattr(function, "__name__", ""), getattr(function, "__self__", None)
        if name == "urandom":
            if users := self._users(frame):
                self._note("random", "os.urandom", users)
        elif isinstance(owner, random.Random):
            if self._is_users(frame) and name not in ("seed", "setstate", "getstate"):
                self._note("random", f"random.{name}", frame)
        elif name in _CLOCKS and self._is_users(frame) and (owner is time or getattr(owner, "__module__", "") == "datetime"):
            self._note("clock", f"{getattr(owner, '__name__', 'time')}.{name}", frame)

    def _called(self, frame: FrameType) -> None:
        if self._is_users(frame):
            if not frame.f_code.co_name.startswith("<"):
                self._note("ran", frame.f_code.co_qualname, frame, line=frame.f_code.co_firstlineno)
            self._states().append(_numpys_state())
        elif frame.f_back and frame.f_code.co_filename == random.__file__ and not frame.f_code.co_name.startswith(("_", "seed")):
            if self._is_users(frame.f_back):
                self._note("random", f"random.{frame.f_code.co_name}", frame.f_back)
            elif frame.f_code.co_name == "getrandbits" and (users := self._users(frame)):
                self._note("random", "a generator without a seed", users)

    def _returned(self, frame: FrameType) -> None:
        states = self._states()
        before = states.pop() if states else None
        if before is None or (after := _numpys_state()) == before:
            return
        self._note("random", "numpy.random", frame, line=_line_of_chance(frame))
        states[:] = [after] * len(states)  # its callers did not draw them

    def _states(self) -> list[Any]:
        return self._busy.__dict__.setdefault("states", [])

    # ── noting ──

    def _users(self, frame: FrameType | None) -> FrameType | None:
        """The innermost frame of the user's code."""
        while frame is not None and not self._is_users(frame):
            frame = frame.f_back
        return frame

    def _is_users(self, frame: FrameType) -> bool:
        name = frame.f_code.co_filename
        if name not in self._mine:
            self._mine[name] = name in self._cells or failures.is_users(name, self._spec)
        return self._mine[name]

    def _note(self, kind: Any, name: str, frame: FrameType, *, there: bool = True, line: int = 0) -> None:
        file, line = frame.f_code.co_filename, line or frame.f_lineno or 0
        key = (kind, name, file, line)
        if key in self._noted or getattr(self._busy, "noting", False):
            return
        self._busy.noting = True
        self._noted.add(key)
        seen = Seen(kind=kind, name=name, there=there, file=file, line=line, where=failures.innermost([(file, line)], self._spec))
        self._file.write(msgspec.json.encode(seen) + b"\n")
        self._busy.noting = False


def _below(folder: str) -> str:
    return folder.rstrip(os.sep) + os.sep


def _numpys_state() -> Any:
    """The state of NumPy's global generator, once there is one."""
    numpy = sys.modules.get("numpy.random")
    if numpy is None or not hasattr(numpy, "get_state"):
        return None
    _, key, position, has_gauss, gauss = numpy.get_state()
    return key.tobytes(), position, has_gauss, gauss


def _line_of_chance(frame: FrameType) -> int:
    """The line of a function that draws random numbers, as far as its words tell."""
    code = frame.f_code
    lines = sorted({line for _, _, line in code.co_lines() if line})
    return next((line for line in lines if _RANDOM_WORDS.search(linecache.getline(code.co_filename, line))), code.co_firstlineno)


def main() -> None:
    """Watch, then serve."""
    spec_file, *hidden = sys.argv[1:]
    processes.end_with(os.getppid())
    Watch(msgspec.json.decode(Path(spec_file).read_bytes(), type=ServerSpec), hidden).begin()
    sys.argv = [sys.argv[0], spec_file]
    runpy.run_module("mlops_nb.serving", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
