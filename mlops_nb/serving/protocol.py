"""The Open Inference Protocol v2, REST and JSON: requests become columns, arrays become answers.

Specification: https://github.com/kserve/open-inference-protocol, `specification/protocol/inference_rest.md`.  A table's
column is one input tensor of shape [n] or [n, 1]; null stands for a missing value where the signature allows one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import chain
from typing import Any

import msgspec
import numpy as np

from ..errors import SignatureMismatch, closest, listed
from ..signature import Column, Signature

DATATYPES = {
    "BOOL": "bool", "INT8": "int8", "INT16": "int16", "INT32": "int32", "INT64": "int64", "UINT8": "uint8", "UINT16": "uint16",
    "UINT32": "uint32", "UINT64": "uint64", "FP16": "float16", "FP32": "float32", "FP64": "float64", "BYTES": "string",
}  # fmt: skip
_OF_DTYPE = {np.dtype(type_): name for name, type_ in DATATYPES.items() if type_ != "string"}  # a dtype's own name is slow to ask for
_NAMES = {type_: name for name, type_ in DATATYPES.items()} | {"datetime": "BYTES", "json": "BYTES"}


class Tensor(msgspec.Struct):
    """One named tensor of a request or an answer; data flat or nested, row-major."""

    name: str
    shape: list[int]
    datatype: str
    data: list[Any]
    parameters: dict[str, Any] | None = None


class Wanted(msgspec.Struct):
    """An output the caller asks for."""

    name: str
    parameters: dict[str, Any] | None = None


class InferRequest(msgspec.Struct):
    """The body of POST …/infer."""

    inputs: list[Tensor]
    id: str = ""
    parameters: dict[str, Any] | None = None
    outputs: list[Wanted] | None = None


class Answered(msgspec.Struct):
    """One tensor of an answer."""

    name: str
    shape: tuple[int, ...]
    datatype: str
    data: list[Any]


class InferResponse(msgspec.Struct):
    """What POST …/infer answers."""

    model_name: str
    model_version: str
    id: str
    outputs: list[Answered]


decode = msgspec.json.Decoder(InferRequest).decode


def columns(request: InferRequest, signature: Signature | None) -> dict[str, Any]:
    """The request's tensors by name, each a flat list (of a table's column) or an array.  Raises SignatureMismatch."""
    known = {column.name: column for column in signature.inputs} if signature else {}
    if len(request.inputs) == 1 and signature and signature.kind == "table" and _is_matrix(request.inputs[0], known):
        return _split(request.inputs[0], signature.inputs)
    if signature and signature.kind == "table":
        return {tensor.name: _values(tensor, known.get(tensor.name)) for tensor in request.inputs}
    return {tensor.name: _array(tensor) for tensor in request.inputs}


def _is_matrix(tensor: Tensor, known: Mapping[str, Column]) -> bool:
    return len(tensor.shape) == 2 and tensor.name not in known and tensor.shape[1] == len(known)


def _split(tensor: Tensor, inputs: list[Column]) -> dict[str, Any]:
    """One [n, k] matrix for a table of k columns, in the signature's order."""
    flat, width = _flat(tensor), len(inputs)
    return {column.name: flat[place::width] for place, column in enumerate(inputs)}


def _values(tensor: Tensor, column: Column | None) -> list[Any]:
    """A table's column out of a tensor of shape [n] or [n, 1]."""
    if math.prod(tensor.shape[1:]) != 1:
        raise SignatureMismatch(f"expected shape [n] or [n, 1], got {tensor.shape}", column=tensor.name)
    flat = _flat(tensor)
    if column is None:
        return flat
    if _family(tensor.datatype) != _family(_NAMES[column.type]):
        raise SignatureMismatch(f"expected {column.type} (datatype {_NAMES[column.type]}), got datatype {tensor.datatype}", column=tensor.name)
    return [_json_text(text, tensor.name, row) for row, text in enumerate(flat)] if column.type == "json" else flat


def _json_text(text: Any, name: str, row: int) -> Any:
    try:
        return msgspec.json.decode(text) if isinstance(text, str) else text
    except msgspec.DecodeError:
        raise SignatureMismatch('expected JSON text, such as [1, 2] or "red" in quotes', column=name, row=row) from None


def _family(datatype: str) -> str:
    return datatype if datatype in ("BOOL", "BYTES") else "numbers"


def _flat(tensor: Tensor) -> list[Any]:
    if tensor.datatype not in DATATYPES:
        near = closest(tensor.datatype.upper(), DATATYPES)
        raise SignatureMismatch(f"no datatype {tensor.datatype!r}", column=tensor.name, hint=f"did you mean {near}?" if near else listed(DATATYPES, most=20))
    flat = tensor.data
    for _ in tensor.shape[1:]:
        if not flat or type(flat[0]) is not list:
            break
        flat = _opened(flat, tensor)
    if len(flat) != math.prod(tensor.shape):
        raise SignatureMismatch(f"shape {tensor.shape} holds {math.prod(tensor.shape)} values, data has {len(flat)}", column=tensor.name)
    return flat


def _opened(nested: list[Any], tensor: Tensor) -> list[Any]:
    if {len(part) if type(part) is list else -1 for part in nested} != {len(nested[0])}:
        raise SignatureMismatch("its nested data is ragged", column=tensor.name)
    return list(chain.from_iterable(nested))


def _array(tensor: Tensor) -> np.ndarray:
    """A tensor as an array of its own datatype.  Raises SignatureMismatch for a value that is not of it."""
    flat, type_ = _flat(tensor), DATATYPES[tensor.datatype]
    kinds = set(map(type, flat))
    good = {"bool": {bool}, "string": {str, type(None)}}.get(type_) or ({int, float, type(None)} if type_.startswith("float") else {int})
    if not kinds <= good:
        row = next(row for row, value in enumerate(flat) if type(value) not in good)
        raise SignatureMismatch(f"value {row} is {flat[row]!r}, not {tensor.datatype}", column=tensor.name)
    try:
        return np.array(flat, dtype=object if type_ == "string" else type_).reshape(tensor.shape)
    except (OverflowError, ValueError) as error:
        raise SignatureMismatch(f"a value does not fit {tensor.datatype}: {error}", column=tensor.name) from None


def answer(arrays: Mapping[str, np.ndarray], request: InferRequest, *, model: str, version: str, id: str) -> InferResponse:
    """Arrays as the protocol says them; only those that the request names, when it names any.  Raises SignatureMismatch."""
    names = [wanted.name for wanted in request.outputs] if request.outputs else list(arrays)
    if unknown := [name for name in names if name not in arrays]:
        raise SignatureMismatch(f"No output {unknown[0]!r}; the model gives {listed(arrays)}.", hint=closest(unknown[0], arrays))
    return InferResponse(model, version, id, [_answered(name, arrays[name]) for name in names])


def _answered(name: str, array: np.ndarray) -> Answered:
    kind = array.dtype.kind
    if kind in "biuf":
        datatype = _OF_DTYPE.get(array.dtype, "FP64")
        return Answered(name, array.shape, datatype, array.tolist() if array.ndim == 1 else array.ravel().tolist())
    texts = [_moment(value) for value in array.ravel()] if kind == "M" else [_text(value) for value in array.ravel().tolist()]
    return Answered(name, array.shape, "BYTES", texts)


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else msgspec.json.encode(value, enc_hook=plain).decode()


def _moment(value: np.datetime64) -> str | None:
    return None if np.isnat(value) else str(value)


def plain(value: Any) -> Any:
    """What JSON has no word for, as something it has: arrays and numpy numbers as lists and numbers, else as text."""
    if hasattr(value, "to_dict") and hasattr(value, "columns"):
        return value.to_dict(orient="records")
    return value.tolist() if hasattr(value, "tolist") else str(value)


def described(column: Column, *, table: bool) -> dict[str, Any]:
    """A column as the protocol's metadata tells it: -1 for an axis of any length."""
    shape = [-1] if table or not column.shape else [-1 if size is None else size for size in column.shape]
    return {"name": column.name, "datatype": _NAMES[column.type], "shape": shape, "parameters": {"type": column.type, "nullable": column.nullable}}
