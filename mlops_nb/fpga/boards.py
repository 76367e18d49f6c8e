"""A real board, where this machine is one: the overlay built of a version's HLS project, driven by PYNQ.

Never tried on a board.  What is expected of the overlay stands in every project's README.md: the core behind an AXI DMA called
`axi_dma_0`, which takes and gives a row's numbers as integers of the type's width, rounded up to 16, 32 or 64 bits.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import FileMissing, HardwareMissing
from .precision import Precision

if TYPE_CHECKING:
    import numpy as np

    from .emulation import Host

NAME = "FPGA (PYNQ)"
_DEVICES = ("/dev/xlnk", "/dev/fpga0", "/dev/uio0", "/dev/dri/renderD128")
_DMA = "axi_dma_0"


def check(overlay: str) -> Path:
    """The overlay's file, where a board is here that takes it.  Raises FileMissing, HardwareMissing with what is missing."""
    place = Path(overlay).expanduser().absolute()
    if not place.is_file():
        raise FileMissing(overlay)
    lacking = [] if importlib.util.find_spec("pynq") else ["the package pynq is not installed"]
    if not any(Path(device).exists() for device in _DEVICES):
        lacking.append("no FPGA shows itself among the devices")
    if not place.with_suffix(".hwh").is_file():
        lacking.append(f"{place.with_suffix('.hwh').name} is not beside {place.name}")
    if lacking:
        raise HardwareMissing("a board", reason="; ".join(lacking), available=["the emulation in C++, without --overlay"])
    return place


class Board:
    """The logic of an overlay: rows of numbers in, rows of numbers out."""

    def __init__(self, overlay: Path, host: Host) -> None:
        import pynq

        self.host = host
        self._precision = Precision.parse(host.precision)
        self._overlay: Any = pynq.Overlay(str(overlay))
        self._allocate = pynq.allocate

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """[n, width_in] floats as [n, width_out] floats."""
        import numpy as np

        held = np.clip(rows[:, : self.host.width_in], self.host.low, self.host.high)
        kind = np.int16 if self._precision.width <= 16 else np.int32 if self._precision.width <= 32 else np.int64
        given = self._allocate(shape=held.shape, dtype=kind)
        answer = self._allocate(shape=(len(held), self.host.width_out), dtype=kind)
        given[:] = np.floor(held / self._precision.step)
        dma = getattr(self._overlay, _DMA)
        dma.recvchannel.transfer(answer)
        dma.sendchannel.transfer(given)
        dma.sendchannel.wait()
        dma.recvchannel.wait()
        return np.array(answer, dtype=np.float64) * self._precision.step
