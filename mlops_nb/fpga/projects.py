"""The logic of a model as an HLS project: hls4ml writes dense layers, conifer writes trees.

Runs in the conversion's process only, in a folder of its own.  The same model and settings give the same bytes.
"""

from __future__ import annotations

import gzip
import io
import json
import math
import shutil
import tarfile
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
from onnx import helper, numpy_helper

from .emulation import Host
from .graphs import CORE_IN, CORE_OUT, Activation, Dense, Forest, Network, Split, Tree
from .precision import Precision

CLOCK_NS = 5.0
_MOST_UNROLLED = 4096
"""Weights of a layer that HLS unrolls; more of them go through a memory."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What a project is written for."""

    part: str
    reuse: int = 1
    """How many multiplications share one multiplier, one after the other."""


def written(split: Split, precision: Precision, settings: Settings, folder: Path) -> bytes:
    """The project of *split* as a tar of fixed bytes; *folder* is made and used for writing it."""
    project = folder / "project"
    if isinstance(split.core, Network):
        _write_network(split.core, precision, settings, project)
        before, after = split.before, split.after
    else:
        forest, before, after = _fitted(split, split.core, precision)
        _write_forest(forest, precision, settings, project)
    wide_in, wide_out = split.core.widths
    host = Host(precision=str(precision), part=settings.part, width_in=wide_in, width_out=wide_out, low=precision.low, high=precision.high)
    (project / "build_opt.tcl").write_text(_BUILD_OPTIONS, encoding="utf-8")
    (project / "host").mkdir()
    (project / "host" / "host.json").write_bytes(msgspec.json.format(msgspec.json.encode(host)))
    (project / "host" / "before.onnx").write_bytes(before)
    (project / "host" / "after.onnx").write_bytes(after)
    script = "build_prj.tcl" if isinstance(split.core, Network) else "build_hls.tcl"
    words = {"precision": precision, "part": settings.part, "wide_in": wide_in, "wide_out": wide_out, "script": script}
    (project / "README.md").write_text(_README.format(**words), encoding="utf-8")
    return _tar(project)


def _tar(folder: Path) -> bytes:
    """The folder's files without times, owners or order of their own."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                entry = tarfile.TarInfo(str(file.relative_to(folder)))
                entry.size, entry.mode = file.stat().st_size, 0o644
                with file.open("rb") as content:
                    tar.addfile(entry, content)
    return gzip.compress(out.getvalue(), mtime=0)


# ── dense layers, by hls4ml ──────────────────────────────────────────────────────────────────────────────────────────


def _write_network(network: Network, precision: Precision, settings: Settings, project: Path) -> None:
    from hls4ml.model import ModelGraph
    from hls4ml.utils.config import create_config

    layers, names = _described(network, precision)
    config = create_config(output_dir=str(project), project_name="model", backend="Vitis", part=settings.part, clock_period=CLOCK_NS, io_type="io_parallel")
    text = str(precision)[: -len(">")] + ">"
    widest = max(layer.weights.size for layer in network.dense)
    config["HLSConfig"] = {
        "Model": {"Precision": {"default": text}, "ReuseFactor": settings.reuse, "Strategy": strategy(widest)},
        "LayerName": {name: {"Precision": {"accum": "auto", "result": text, "weight": text, "bias": text}} for name in names},
    }
    config["WriterConfig"] = {"Namespace": None, "WriteWeightsTxt": False, "WriteTar": False, "TBOutputStream": "both"}
    config["Stamp"] = "mlops"
    graph = ModelGraph.from_layer_list(config, layers)
    graph.write()
    for place in ("hls4ml_config.yml", "build_lib.sh", "tb_data"):  # they name the folder of now, or are not needed
        file = project / place
        shutil.rmtree(file) if file.is_dir() else file.unlink(missing_ok=True)
    (project / "mlops_bridge.cpp").write_text(_NETWORK_BRIDGE % network.widths, encoding="utf-8")


def strategy(weights: int) -> str:
    """hls4ml's way of writing a layer with so many weights."""
    return "Latency" if weights <= _MOST_UNROLLED else "Resource"


def _described(network: Network, precision: Precision) -> tuple[list[dict[str, Any]], list[str]]:
    """The layers as hls4ml's front ends hand them over, and the names of the dense ones."""
    wide = network.widths[0]
    described: list[dict[str, Any]] = [{"class_name": "InputLayer", "name": "x", "input_shape": [wide]}]
    names = []
    for place, layer in enumerate(network.layers):
        before = described[-1]["name"]
        if isinstance(layer, Dense):
            names.append(name := f"dense_{place}")
            shape = {"n_in": layer.weights.shape[0], "n_out": layer.weights.shape[1]}
            weights = {"weight_data": nearest(layer.weights, precision), "bias_data": nearest(layer.bias, precision), "use_bias": True}
            described.append({"class_name": "Dense", "name": name, "inputs": [before], **shape, **weights})
        else:
            described.append(_activation(layer, f"{layer.kind}_{place}", before))
    return described, names


def _activation(layer: Activation, name: str, before: str) -> dict[str, Any]:
    kinds = {"leaky_relu": ("LeakyReLU", "leakyrelu"), "elu": ("ELU", "elu")}
    class_name, kind = kinds.get(layer.kind, ("Activation", layer.kind))
    parameter = {"activ_param": layer.alpha} if layer.kind in kinds else {}
    return {"class_name": class_name, "activation": kind, "name": name, "inputs": [before], **parameter}


def nearest(numbers: np.ndarray, precision: Precision) -> np.ndarray:
    """The numbers of the type nearest to those given; C++ alone would take the next lower."""
    return np.clip(np.round(numbers / precision.step) * precision.step, precision.low, precision.high)


_NETWORK_BRIDGE = """\
// The emulation's door: rows of doubles in, rows of doubles out.
#include "firmware/model.cpp"

extern "C" void mlops_run(const double *x, double *y, long rows) {
    const int wide_in = %d, wide_out = %d;
    for (long row = 0; row < rows; row++) {
        input_t in[wide_in];
        result_t out[wide_out];
        for (int i = 0; i < wide_in; i++) in[i] = x[row * wide_in + i];
        model(in, out);
        for (int i = 0; i < wide_out; i++) y[row * wide_out + i] = out[i].to_double();
    }
}
"""


# ── trees, by conifer ────────────────────────────────────────────────────────────────────────────────────────────────


def _fitted(split: Split, forest: Forest, precision: Precision) -> tuple[Forest, bytes, bytes]:
    """The forest with thresholds and sums shifted by powers of two into the type's range, and the host's parts that shift back.

    Every feature gets a shift of its own; a number beyond all its thresholds may be held at the range's end, for it goes the same ways.
    """
    up = np.array([_shift(_largest_threshold(forest, feature), precision) for feature in range(forest.features)])
    out = _shift(sum(np.abs(tree.value).max(axis=0) for tree in forest.trees).max() + np.abs(forest.base).max(), precision)  # type: ignore[union-attr]
    trees = [
        Tree(t.feature, np.where(t.feature >= 0, t.threshold * up[np.maximum(t.feature, 0)], 0.0), t.left, t.right, nearest(t.value * out, precision))
        for t in forest.trees
    ]
    before = _multiplied(split.before, CORE_IN, up, at_end=True)
    after = _multiplied(split.after, CORE_OUT, np.array([1.0 / out]), at_end=False)
    return Forest(trees, forest.base * out, forest.features, forest.or_equal), before, after


def _largest_threshold(forest: Forest, feature: int) -> float:
    return max((float(np.abs(t.threshold[t.feature == feature]).max(initial=0.0)) for t in forest.trees), default=0.0)


def _shift(largest: float, precision: Precision) -> float:
    """The power of two by which numbers up to *largest* fill the type's range without leaving it."""
    room = precision.high - precision.step
    return 1.0 if largest == 0 or room <= 0 else 2.0 ** math.floor(math.log2(room / largest))


def _multiplied(content: bytes, name: str, factors: np.ndarray, *, at_end: bool) -> bytes:
    """A host's graph whose output (or input) *name* is multiplied; a feature that no tree looks at is left out."""
    model = onnx.load_from_string(content)
    for node in model.graph.node:
        node.input[:] = [f"{each}_shifted" if each == name and not at_end else each for each in node.input]
        node.output[:] = [f"{each}_unshifted" if each == name and at_end else each for each in node.output]
    model.graph.initializer.append(numpy_helper.from_array(factors, f"{name}_factors"))
    if at_end:
        model.graph.initializer.append(numpy_helper.from_array(np.arange(len(factors)), f"{name}_taken"))
        model.graph.node.append(helper.make_node("Gather", [f"{name}_unshifted", f"{name}_taken"], [f"{name}_seen"], axis=1))
        model.graph.node.append(helper.make_node("Mul", [f"{name}_seen", f"{name}_factors"], [name]))
    else:
        model.graph.node.insert(0, helper.make_node("Mul", [name, f"{name}_factors"], [f"{name}_shifted"]))
    return model.SerializeToString()


def _write_forest(forest: Forest, precision: Precision, settings: Settings, project: Path) -> None:
    import conifer
    import hls4ml

    kind = precision.ap_type
    config = {
        "Backend": "xilinxhls", "ProjectName": "model", "OutputDir": str(project), "XilinxPart": settings.part, "ClockPeriod": CLOCK_NS, "Unroll": True,
        "Precision": kind, "InputPrecision": kind, "ThresholdPrecision": kind, "ScorePrecision": kind, "WeightPrecision": "ap_fixed<2,2>",
        "AcceleratorConfig": None,
    }  # fmt: skip
    project.mkdir(parents=True)
    conifer.model.make_model(_ensemble(forest), config).write()
    for place in ("model.json", "bridge.cpp", "tb_data"):  # the first names this machine and its user, the others are conifer's own emulation's
        file = project / place
        shutil.rmtree(file) if file.is_dir() else file.unlink(missing_ok=True)
    types = Path(hls4ml.__file__).parent / "templates" / "vivado" / "ap_types"
    shutil.copytree(types, project / "firmware" / "ap_types")
    (project / "mlops_bridge.cpp").write_text(_FOREST_BRIDGE % forest.widths, encoding="utf-8")


def _ensemble(forest: Forest) -> dict[str, Any]:
    """The forest as conifer's converters hand it over; a single sum is its case of two classes."""
    outputs = len(forest.base)
    return {
        "n_classes": outputs if outputs > 2 else 2, "n_features": forest.features, "n_trees": len(forest.trees),
        "max_depth": max(tree.depth for tree in forest.trees), "init_predict": forest.base.tolist(), "norm": 1, "library": "onnx",
        "splitting_convention": "<=" if forest.or_equal else "<",
        "trees": [[_conifer_tree(tree, output, forest.features) for output in range(outputs)] for tree in forest.trees],
    }  # fmt: skip


def _conifer_tree(tree: Tree, output: int, features: int) -> dict[str, Any]:
    leaf = tree.feature < 0
    weight = (np.arange(features) == tree.feature[:, None]).astype(int)
    return json.loads(json.dumps({
        "feature": tree.feature.tolist(), "weight": weight.tolist(), "threshold": np.where(leaf, 0.0, tree.threshold).tolist(),
        "value": np.where(leaf, tree.value[:, output], 0.0).tolist(), "children_left": tree.left.tolist(), "children_right": tree.right.tolist(),
    }))  # fmt: skip


_FOREST_BRIDGE = """\
// The emulation's door: rows of doubles in, rows of doubles out.
#include "firmware/BDT.cpp"

extern "C" void mlops_run(const double *x, double *y, long rows) {
    const int wide_in = %d, wide_out = %d;
    for (long row = 0; row < rows; row++) {
        input_arr_t in;
        score_t out[BDT::fn_classes(n_classes)];
        for (int i = 0; i < wide_in; i++) in[i] = x[row * wide_in + i];
        bdt.decision_function(in, out);
        for (int i = 0; i < wide_out; i++) y[row * wide_out + i] = out[i].to_double();
    }
}
"""

_BUILD_OPTIONS = """\
# What the build script does: C synthesis alone.  `export 1` packages the core as an IP as well.
array set opt {
    reset      1
    csim       0
    synth      1
    cosim      0
    validation 0
    export     0
    vsynth     0
    fifo_opt   0
}
"""
"""The generators' own would have the circuit simulated too, with test data that a project does not carry."""

_README = """\
# HLS project for {part}, {precision}

The logic takes {wide_in} numbers and gives {wide_out}; top function `model`.

- `firmware/` is what is synthesised; `firmware/ap_types/` are the open-source headers the emulation is compiled with.
- `host/` is what the host does in floats: `before.onnx` makes the numbers that go in (held within `low` and `high` of `host.json`),
  `after.onnx` makes the model's answer of what comes out.
- `mlops_bridge.cpp` is the emulation's door and no part of the logic.

With Vitis HLS on PATH, synthesise it here: `vitis_hls -f {script}` (from 2025.1 on `vitis-run --mode hls --tcl {script}`); `build_opt.tcl` says
what is done, and the report is `*/solution1/syn/report/model_csynth.rpt`.

For a board with PYNQ: export the core as an IP (`export 1` in `build_opt.tcl`), connect it to an AXI DMA (or AXI master) in a block design
of the board, and build the overlay: `model.bit` and `model.hwh`.  The driver that is expected opens it with `pynq.Overlay("model.bit")`, writes
{wide_in} numbers of {precision} a row as integers (number × 2^(bits after the point), rounded down) of 16, 32 or 64 bits to `axi_dma_0`, and
reads {wide_out} back the same way: `%mlops deploy MODEL --to fpga --overlay model.bit` on the board's own Linux.
"""
