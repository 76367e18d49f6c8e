"""Torch modules as ONNX, by running them once; tried and timed beside the module while it is there."""

from __future__ import annotations

import copy
import inspect
from functools import partial
from typing import TYPE_CHECKING, Any

from ..errors import MissingPackage, NotExportable
from . import comparing, reasons, speed
from .comparing import Session
from .reasons import NotConvertible

if TYPE_CHECKING:
    from .comparing import Arrays


_ROWS = (1, 1_000, 100_000)
_SECONDS = 0.05


def from_torch(module: Any, sample: Any) -> tuple[bytes, dict[str, Any]]:
    """A torch module as ONNX with any number of rows, exported by running it on *sample*, and the report of how it was tried there and timed.

    *sample* is a tensor, array or DataFrame (the input `input`), a dict (inputs under its names) or a tuple (named as `forward` does).
    Outputs are called `output`, `output_1`, … or as the dict the module returns.  Raises MissingPackage, NotExportable.
    """
    import torch

    kind = type(module).__name__
    module = copy.deepcopy(module).cpu().eval()
    inputs = {name: _tensor(value, module) for name, value in _named_inputs(module, sample).items()}
    with torch.no_grad():
        expected = _named_answers(module(*inputs.values()))
    content = _exported(module, inputs, list(expected), kind)
    try:
        session, columns = Session(content), {name: tensor.numpy() for name, tensor in inputs.items()}
        report, equal = comparing.compared(session, [("sample", columns, expected)], None)
        if not equal:
            raise NotExportable(kind, f"its answers differ by {report['max_difference']:.2g}")
        timed = speed.of_module(partial(_asked, module), session, columns, rows=_ROWS, seconds=_SECONDS)
    except NotConvertible as why:
        raise NotExportable(kind, str(why)) from why
    return content, report | {"bytes": len(content)} | speed.verdict(timed) | {"engine": "onnxruntime", "batch_engine": "onnxruntime"}


def _asked(module: Any, columns: Arrays, threads: int) -> Arrays:
    """What the module answers, arrays in and arrays out, with so many threads."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.no_grad():
            return _named_answers(module(*map(torch.from_numpy, columns.values())))
    finally:
        torch.set_num_threads(before)


def _exported(module: Any, inputs: dict[str, Any], outputs: list[str], kind: str) -> bytes:
    import torch

    rows = torch.export.Dim("rows")
    try:
        program = torch.onnx.export(
            module, tuple(inputs.values()), input_names=list(inputs), output_names=outputs, dynamo=True, verbose=False,
            dynamic_shapes=tuple({0: rows} for _ in inputs), optimize=True,
        )  # fmt: skip
    except ImportError as error:
        raise MissingPackage(error.name or "onnxscript", doing="Exporting a torch module") from error
    except Exception as error:  # the exporter has no base class for what it cannot do
        raise NotExportable(kind, reasons.in_a_line(error.__cause__ or error)) from error
    return program.model_proto.SerializeToString()


def _named_inputs(module: Any, sample: Any) -> dict[str, Any]:
    if isinstance(sample, dict):
        return sample
    if isinstance(sample, tuple | list) and sample and hasattr(sample[0], "shape"):
        names = list(inspect.signature(module.forward).parameters)
        return dict(zip(names, sample, strict=False))
    return {"input": sample}


def _tensor(value: Any, module: Any) -> Any:
    """*value* as the module takes it: floats of its own precision, and two rows at least, for one row would be exported as a constant."""
    import numpy as np
    import torch

    array = value.detach().cpu() if isinstance(value, torch.Tensor) else torch.from_numpy(np.ascontiguousarray(value))
    if array.is_floating_point():
        array = array.to(next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32))
    return torch.cat([array, array]) if len(array) == 1 else array


def _named_answers(answer: Any) -> Arrays:
    if isinstance(answer, dict):
        return {str(name): value.numpy() for name, value in answer.items()}
    answers = answer if isinstance(answer, tuple | list) else [answer]
    return {f"output_{place}" if place else "output": value.numpy() for place, value in enumerate(answers)}
