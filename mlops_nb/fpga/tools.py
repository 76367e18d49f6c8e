"""The HLS tool that may be on PATH: what synthesises a project, and why there is none."""

from __future__ import annotations

import shutil

from ..errors import HardwareMissing

NAMES = ("vitis-run", "vitis_hls", "vivado_hls")
SECONDS = 3600.0
"""Patience with one synthesis."""


def found() -> str | None:
    """The HLS tool on PATH, by name."""
    return next(filter(shutil.which, NAMES), None)


def required() -> str:
    """The same.  Raises HardwareMissing when there is none."""
    name = found()
    if name is None:
        reason = f"none of AMD's HLS tools ({', '.join(NAMES)}) is on PATH; without --synthesise resources are estimated"
        raise HardwareMissing("a synthesis", reason=reason, available=["the emulation in C++"])
    return name
