"""`python -m mlops_nb.edge SPEC.json`: score what comes over MQTT until told to stop.

Exits 0 after SIGTERM or SIGINT, 1 with one line on standard error when it cannot start.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
from pathlib import Path

import msgspec

from ..errors import MlopsError
from .spec import DeviceSpec


def main() -> None:
    """Run the device that the file in argv describes."""
    faulthandler.enable()
    from .module import Module

    try:
        module = Module(msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=DeviceSpec))
    except (IndexError, OSError, msgspec.DecodeError, MlopsError) as error:
        sys.stderr.write(f"module.failed {error or 'python -m mlops_nb.edge SPEC.json'} {getattr(error, 'hint', '')}\n")
        sys.exit(1)
    for signaled in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signaled, lambda *_: module.end())
    module.run()
    sys.stderr.flush()
    os._exit(0)  # a model that is still loading does not hold it up


main()
