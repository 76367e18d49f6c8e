"""`python -m mlops_nb.edge SPEC.json`: score what comes over MQTT until told to stop.

Exits 0 after SIGTERM or SIGINT, 1 with one line on standard error when it cannot start or its disk takes no more.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import sqlite3
import sys
from pathlib import Path

import msgspec

from ..errors import MlopsError
from .spec import DeviceSpec


def main() -> None:
    """Run the device that the file in argv describes."""
    faulthandler.enable()
    from .module import Module

    folder = ""
    try:
        spec = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=DeviceSpec)
        folder = spec.folder
        module = Module(spec)
        for signaled in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signaled, lambda *_: module.end())
        module.run()
    except (IndexError, msgspec.DecodeError, MlopsError) as error:
        _fail(f"{error or 'python -m mlops_nb.edge SPEC.json'} {getattr(error, 'hint', '')}")
    except (OSError, sqlite3.Error) as error:  # requests it did not acknowledge come again
        _fail(f"{folder or sys.argv[1]}: {error}")
    sys.stderr.flush()
    os._exit(0)  # a model that is still loading does not hold it up


def _fail(why: str) -> None:
    """Say why and end, without a goodbye: the broker then tells by the last will that the device is gone."""
    with contextlib.suppress(OSError):  # a disk that is full takes no log either
        sys.stderr.write(f"module.failed {why.strip()}\n")
        sys.stderr.flush()
    os._exit(1)


main()
