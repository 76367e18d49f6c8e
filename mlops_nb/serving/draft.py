"""`python -m mlops_nb.serving.draft FOLDER`: load an entry script, have it answer one sample, and say how that went.

FOLDER holds spec.json (a ServerSpec) and, if there is one, sample.json; tried.json is written there, a Tried or a Broke.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

import msgspec

from .. import processes
from ..store.deployments import Reason
from . import failures
from .spec import ServerSpec


class Tried(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """How an entry script did."""

    init_ms: float
    run_ms: float | None = None
    """None when there was no sample."""
    status: int = 200
    answer: str = ""
    """The body of what it answered, as text."""


class Broke(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Why it did not."""

    reason: Reason


def main() -> None:
    """Try the script; exits 0 when it answered and 1 when it raised or took too long."""
    processes.end_with(os.getppid())
    folder = Path(sys.argv[1])
    spec = msgspec.json.decode((folder / "spec.json").read_bytes(), type=ServerSpec)
    sample = (folder / "sample.json").read_bytes() if (folder / "sample.json").exists() else None
    failures.show_cells(spec.cells)
    from . import entry  # noqa: F401 - before the clock starts

    _end_after(spec, folder, threading.get_ident())
    try:
        told: Tried | Broke = try_out(spec, sample)
    except (Exception, SystemExit) as error:  # whatever the user's code raises is what they must be told
        told = Broke(reason=failures.why(error, spec, doing="exception in the script"))
    _end(told, folder)


def try_out(spec: ServerSpec, sample: bytes | None) -> Tried:
    """Load, `init()`, and `run()` where there is a sample.  Raises whatever the script raises."""
    from .azure import AMLRequest
    from .entry import EntryScript

    began = time.perf_counter()
    script = EntryScript(spec)
    ready = time.perf_counter()
    if sample is None:
        return Tried(init_ms=(ready - began) * 1000)
    answered = script.answer(AMLRequest(headers=[("Content-Type", "application/json")], body=sample))
    run_ms = (time.perf_counter() - ready) * 1000
    return Tried(init_ms=(ready - began) * 1000, run_ms=run_ms, status=answered.status, answer=answered.body.decode(errors="replace"))


def _end_after(spec: ServerSpec, folder: Path, thread: int) -> None:
    alarm = threading.Timer(spec.timeout_seconds, lambda: _end(Broke(reason=failures.stuck(thread, spec)), folder))
    alarm.daemon = True
    alarm.start()


def _end(told: Tried | Broke, folder: Path) -> None:
    failures.write(told, folder / "tried.json")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1 if isinstance(told, Broke) else 0)  # threads that the script started do not hold it up


if __name__ == "__main__":
    main()
