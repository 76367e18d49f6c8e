"""What is done to an ONNX graph itself: another operator set, optimised ahead, weights in 8 bits."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import Any

from ..errors import listed
from . import reasons
from .reasons import NotConvertible

_LEVELS = {"basic": "ORT_ENABLE_BASIC", "extended": "ORT_ENABLE_EXTENDED", "all": "ORT_ENABLE_ALL"}
_IN_8_BITS = ("MatMulInteger", "ConvInteger", "QLinear", "DynamicQuantize", "DequantizeLinear", "QAttention", "QEmbed")


def reworked(content: bytes, *, quantize: str | None, optimize: str, opset: int | None = None) -> tuple[bytes, dict[str, Any]]:
    """*content* in the operator set *opset*, then quantized, then optimised, and what was made of it.  Raises NotConvertible."""
    made: dict[str, Any] = {}
    if opset:
        content = _in_opset(content, opset)
    if quantize:  # first, for the operators that optimising makes of several have no 8-bit form
        before = len(content)
        content, count = _in_8_bits(content)
        made |= {"quantized": quantize, "quantized_nodes": count, "bytes_before": before}
    if optimize != "none":
        content, made["optimized"] = _optimized(content, optimize), optimize
    return content, made | {"opset": _opset(content), "bytes": len(content)}


def _opset(content: bytes) -> int:
    import onnx

    return next((entry.version for entry in onnx.load_from_string(content).opset_import if entry.domain in ("", "ai.onnx")), 0)


def _in_opset(content: bytes, opset: int) -> bytes:
    import onnx
    import onnx.version_converter

    try:
        return onnx.version_converter.convert_version(onnx.load_from_string(content), opset).SerializeToString()
    except Exception as error:  # it raises bare RuntimeErrors and those of its C++ side
        raise NotConvertible(f"it cannot be written in operator set {opset}: {reasons.in_a_line(error)}") from error


def _optimized(content: bytes, level: str) -> bytes:
    """The graph as ONNX Runtime has it after optimising for this machine."""
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "optimized.onnx"
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, _LEVELS[level])
        options.optimized_model_filepath = str(place)
        try:
            onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's exceptions share no base class
            raise reasons.of_runtime(error) from error
        return place.read_bytes()


def _in_8_bits(content: bytes) -> tuple[bytes, int]:
    """The graph with its large weights in 8 bits and their inputs quantized as they come, and how many operators are.  Raises NotConvertible for none."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    logging.getLogger().addFilter(_without_advice)
    try:
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder) / "quantized.onnx"
            quantize_dynamic(onnx.load_from_string(content), place, weight_type=QuantType.QInt8, per_channel=True)
            quantized = place.read_bytes()
    except Exception as error:  # it raises what it likes for graphs it does not understand
        raise NotConvertible(f"quantizing it failed: {reasons.in_a_line(error)}") from error
    finally:
        logging.getLogger().removeFilter(_without_advice)
    if not (count := sum(node.op_type.startswith(_IN_8_BITS) for node in onnx.load_from_string(quantized).graph.node)):
        kinds = dict.fromkeys(node.op_type for node in onnx.load_from_string(content).graph.node)
        raise NotConvertible(f"nothing in it can be quantized: 8 bits can stand for the weights of MatMul, Gemm or Conv, and it is made of {listed(kinds)}")
    return quantized, count


def _without_advice(record: logging.LogRecord) -> bool:
    return "pre-processing before quantization" not in record.getMessage()
