"""What the logic takes of an FPGA and how long it takes: estimated from the model alone, or read from a synthesis report.

The estimate counts multiplications, comparisons, additions and table look-ups of the unrolled design, as the papers behind hls4ml
(arXiv:1804.06913) and conifer (arXiv:2002.02534) describe it, and turns them into the cells of an AMD device:

- a multiplication by a constant that is no power of two takes a DSP for each 27×18 bits, or w²/2 LUTs below 10 bits;
- an addition takes a LUT a bit, a comparison with a constant half of that, the choice of a leaf a quarter of a LUT a bit and leaf;
- sigmoid and tanh are tables of 1024 entries, one BRAM for every two numbers looked up at once;
- a dense layer takes `reuse - 1 + 2 + ⌈log2(inputs)/2⌉` cycles, trees `1 + depth + ⌈log2(trees)⌉`.

Nothing here was calibrated against a synthesis: the band says how far HLS is expected to be off, which prunes, shares and adds registers
as it sees fit.  One published synthesis lies within it: of 4 → 8 relu → 8 relu → 3 in fixed<16,6> on an xc7z020 at 5 ns, Vitis HLS 2025.1
made 0.9 times the DSPs, 2.0 times the LUTs, 4.0 times the flip-flops and 1.6 times the cycles of the estimate
(github.com/Thifjj/Iris_hls4ml_pynqZ2, without its softmax; `tests/fpga/test_synthesis.py`).
"""

from __future__ import annotations

import math
import subprocess
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from ..errors import SynthesisFailed
from ..progress import SILENT, Reporter
from . import tools
from .graphs import Activation, Dense, Forest, Network
from .precision import Precision
from .projects import CLOCK_NS, nearest

METHOD = "operations of the unrolled design counted, after arXiv:1804.06913 and arXiv:2002.02534; not calibrated, one published synthesis lies within the band"
BAND = {"dsp": (0.5, 1.2), "lut": (0.3, 3.0), "ff": (0.3, 5.0), "bram": (0.5, 2.0), "latency_cycles": (0.5, 2.0)}
"""By which factors a synthesis may be off each figure of an estimate."""
_SMALL_BITS = 10
_TABLE_ENTRIES, _BRAM_BITS = 1024, 18_432
SCRIPTS = ("build_hls.tcl", "build_prj.tcl")
"""What builds a project of trees, and one of dense layers."""


class Resources(msgspec.Struct, frozen=True, kw_only=True):
    """What the logic takes."""

    source: str
    """`estimate`, or the tool whose report it is from."""
    dsp: int
    lut: int
    ff: int
    bram: int
    """Blocks of 18 kbit."""
    latency_cycles: int
    interval_cycles: int
    """Cycles from one row to the next."""
    clock_ns: float
    method: str = ""
    band: dict[str, tuple[float, float]] = {}
    share: dict[str, float] = {}
    """Share of the part's cells, where the part's size is known here."""


SIZES: dict[str, tuple[int, int, int, int]] = {
    "xcu250": (12_288, 1_728_000, 3_456_000, 5_376), "xcu200": (6_840, 1_182_240, 2_364_480, 4_320), "xcu50": (5_952, 872_000, 1_743_000, 2_688),
    "xcvu9p": (6_840, 1_182_240, 2_364_480, 4_320), "xcvu13p": (12_288, 1_728_000, 3_456_000, 5_376), "xcku115": (5_520, 663_360, 1_326_720, 4_320),
    "xczu3eg": (360, 70_560, 141_120, 432), "xczu7ev": (1_728, 230_400, 460_800, 624), "xczu9eg": (2_520, 274_080, 548_160, 1_824),
    "xc7z020": (220, 53_200, 106_400, 280), "xc7a35t": (90, 20_800, 41_600, 100), "xc7a100t": (240, 63_400, 126_800, 270),
}  # fmt: skip
"""DSPs, LUTs, flip-flops and blocks of 18 kbit of some parts, from AMD's product tables."""


def estimated(core: Network | Forest, precision: Precision, *, reuse: int, part: str) -> Resources:
    """The estimate for *core*."""
    found = _of_network(core, precision, reuse) if isinstance(core, Network) else _of_forest(core, precision)
    return Resources(source="estimate", clock_ns=CLOCK_NS, method=METHOD, band=BAND, share=shares(found, part), **found)


def shares(found: dict[str, int], part: str) -> dict[str, float]:
    """The shares of the part's cells, nothing for a part whose size is not known here."""
    size = next((size for device, size in SIZES.items() if part.lower().startswith(device)), None)
    return {kind: round(found[kind] / there, 4) for kind, there in zip(("dsp", "lut", "ff", "bram"), size, strict=True)} if size else {}


def _of_network(network: Network, precision: Precision, reuse: int) -> dict[str, int]:
    width, dsp, lut, bram, cycles = precision.width, 0, 0, 0, 0
    numbers = network.widths[0]
    for layer in network.layers:
        if isinstance(layer, Dense):
            real = _multiplications(layer, precision)
            at_once = math.ceil(real / reuse)
            dsp += at_once * _dsps(width)
            lut += at_once * (width * width // 2 if width < _SMALL_BITS else 0) + layer.weights.size // reuse * width
            numbers = len(layer.bias)
            cycles += reuse - 1 + 2 + math.ceil(math.log2(len(layer.weights) + 1) / 2)
        else:
            lut, bram, cycles = lut + numbers * width, bram + _tables(layer, numbers, width), cycles + (1 if layer.kind.endswith("elu") else 2)
    return {"dsp": dsp, "lut": lut, "ff": lut // 2 + dsp * width, "bram": bram, "latency_cycles": cycles, "interval_cycles": reuse}


def _multiplications(layer: Dense, precision: Precision) -> int:
    """Weights that are neither nothing nor a power of two once they are of the type: the others are wires."""
    steps = np.abs(np.round(nearest(layer.weights, precision) / precision.step)).astype(np.int64)
    return int(((steps & (steps - 1)) != 0).sum())


def _dsps(width: int) -> int:
    return 0 if width < _SMALL_BITS else math.ceil(width / 27) * math.ceil(width / 18)


def _tables(layer: Activation, numbers: int, width: int) -> int:
    return math.ceil(numbers / 2) * math.ceil(_TABLE_ENTRIES * width / _BRAM_BITS) if layer.kind in ("sigmoid", "tanh") else 0


def _of_forest(forest: Forest, precision: Precision) -> dict[str, int]:
    width, outputs, trees = precision.width, len(forest.base), len(forest.trees)
    inner = sum(int((tree.feature >= 0).sum()) for tree in forest.trees)
    leaves = sum(int((tree.feature < 0).sum()) for tree in forest.trees)
    lut = inner * width // 2 + leaves * width * outputs // 4 + trees * outputs * width
    cycles = 1 + max(tree.depth for tree in forest.trees) + math.ceil(math.log2(trees + 1))
    return {"dsp": 0, "lut": lut, "ff": lut // 2, "bram": 0, "latency_cycles": cycles, "interval_cycles": 1}


# ── a synthesis ──────────────────────────────────────────────────────────────────────────────────────────────────────


def synthesised(project: Path, part: str, *, report: Reporter = SILENT) -> Resources:
    """What the HLS tool on PATH reports of *project*; takes minutes.  Raises HardwareMissing, SynthesisFailed with its last lines."""
    name = tools.required()
    script = next(script for script in SCRIPTS if (project / script).exists())
    report.step(f"synthesising with {name}")
    words = [name, "--mode", "hls", "--tcl", script] if name == "vitis-run" else [name, "-f", script]
    try:
        done = subprocess.run(words, cwd=project, capture_output=True, text=True, errors="replace", timeout=tools.SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise SynthesisFailed(name, f"took longer than {tools.SECONDS / 60:.0f} min") from None
    told = next(iter(sorted(project.rglob("model_csynth.xml"))), None)
    if done.returncode or told is None:
        raise SynthesisFailed(name, f"ended with {done.returncode}", log="\n".join((done.stdout + done.stderr).splitlines()[-12:]))
    return read(told, part, source=name)


def read(file: Path, part: str, *, source: str) -> Resources:
    """A synthesis report (`…_csynth.xml`) of Vitis or Vivado HLS.  Raises SynthesisFailed when it lacks a figure."""
    root = ElementTree.parse(file).getroot()
    found: dict[str, Any] = {name: _figure(root, source, *places) for name, places in _PLACES.items()}
    clock = float(root.findtext("./UserAssignments/TargetClockPeriod") or CLOCK_NS)
    return Resources(source=source, clock_ns=clock, share=shares(found, part), **found)


_LATENCY = "./PerformanceEstimates/SummaryOfOverallLatency"
_PLACES = {
    "dsp": ("./AreaEstimates/Resources/DSP", "./AreaEstimates/Resources/DSP48E"), "lut": ("./AreaEstimates/Resources/LUT",),
    "ff": ("./AreaEstimates/Resources/FF",), "bram": ("./AreaEstimates/Resources/BRAM_18K",),
    "latency_cycles": (f"{_LATENCY}/Worst-caseLatency",), "interval_cycles": (f"{_LATENCY}/Interval-max",),
}  # fmt: skip


def _figure(root: ElementTree.Element, source: str, *places: str) -> int:
    text = next(filter(None, map(root.findtext, places)), None)
    if text is None or not text.strip().isdigit():
        raise SynthesisFailed(source, f"wrote a report without {places[0].rpartition('/')[2]}")
    return int(text)
