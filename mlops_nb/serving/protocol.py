"""The Open Inference Protocol v2 over REST: requests become columns, arrays become answers, in JSON or with binary tensors.

Specification: https://github.com/kserve/open-inference-protocol, `specification/protocol/inference_rest.md`; binary tensors:
Triton's `extension_binary_data.md`.  A table's column is one input tensor of shape [n] or [n, 1]; null stands for a missing
value where the signature allows one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
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
    data: Any = None
    """A list, flat or nested; an array once its bytes have been read."""
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
    data: list[Any] | msgspec.UnsetType = msgspec.UNSET
    parameters: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET


class InferResponse(msgspec.Struct):
    """What POST …/infer answers."""

    model_name: str
    model_version: str
    id: str
    outputs: list[Answered]


decode = msgspec.json.Decoder(InferRequest).decode
encode = msgspec.json.Encoder().encode


def columns(request: InferRequest, signature: Signature | None) -> dict[str, Any]:
    """The request's tensors by name, each a flat list (of a table's column) or an array.  Raises SignatureMismatch."""
    known = {column.name: column for column in signature.inputs} if signature else {}
    for place, tensor in enumerate(request.inputs):
        if any(other.name == tensor.name for other in request.inputs[:place]):
            raise SignatureMismatch("two inputs have this name", column=tensor.name)
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
    if (wrong := next((column for column in inputs if _family(tensor.datatype) != _family(_NAMES[column.type])), None)) is not None:
        raise SignatureMismatch(f"expected {wrong.type} (datatype {_NAMES[wrong.type]}), got datatype {tensor.datatype}", column=wrong.name)
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
    return [_json_text(text, tensor.name, row) for row, text in enumerate(list(flat))] if column.type == "json" else flat


def _json_text(text: Any, name: str, row: int) -> Any:
    try:
        return msgspec.json.decode(text) if isinstance(text, str) else text
    except msgspec.DecodeError:
        raise SignatureMismatch('expected JSON text, such as [1, 2] or "red" in quotes', column=name, row=row) from None


def _family(datatype: str) -> str:
    return datatype if datatype in ("BOOL", "BYTES") else "numbers"


def _flat(tensor: Tensor) -> list[Any]:
    _check_datatype(tensor)
    if isinstance(tensor.data, np.ndarray):
        return tensor.data.reshape(-1)  # type: ignore[return-value]
    if type(tensor.data) is not list:
        raise SignatureMismatch('it has no "data" (a list) and no "binary_data_size" among its parameters', column=tensor.name)
    flat = tensor.data
    for _ in tensor.shape[1:]:
        if not flat or type(flat[0]) is not list:
            break
        flat = _opened(flat, tensor)
    if len(flat) != math.prod(tensor.shape):
        raise SignatureMismatch(f"shape {tensor.shape} holds {math.prod(tensor.shape)} values, data has {len(flat)}", column=tensor.name)
    return flat


def _check_datatype(tensor: Tensor) -> None:
    if tensor.datatype not in DATATYPES:
        near = closest(tensor.datatype.upper(), DATATYPES)
        raise SignatureMismatch(f"no datatype {tensor.datatype!r}", column=tensor.name, hint=f"did you mean {near}?" if near else listed(DATATYPES, most=20))
    if any(size < 0 for size in tensor.shape):
        raise SignatureMismatch(f"shape {tensor.shape} has a negative axis", column=tensor.name)


def _opened(nested: list[Any], tensor: Tensor) -> list[Any]:
    if {len(part) if type(part) is list else -1 for part in nested} != {len(nested[0])}:
        raise SignatureMismatch("its nested data is ragged", column=tensor.name)
    return list(chain.from_iterable(nested))


def _array(tensor: Tensor) -> np.ndarray:
    """A tensor as an array of its own datatype.  Raises SignatureMismatch for a value that is not of it."""
    flat = _flat(tensor)
    type_ = DATATYPES[tensor.datatype]
    if isinstance(flat, np.ndarray):
        return flat.reshape(tensor.shape)
    kinds = set(map(type, flat))
    numbers: set[type] = {int, float, type(None)} if type_.startswith("float") else {int}
    good = {bool} if type_ == "bool" else {str, type(None)} if type_ == "string" else numbers
    if not kinds <= good:
        row = next(row for row, value in enumerate(flat) if type(value) not in good)
        raise SignatureMismatch(f"value {row} is {flat[row]!r}, not {tensor.datatype}", column=tensor.name)
    try:
        with np.errstate(over="ignore"):
            array = np.array(flat, dtype=object if type_ == "string" else type_)
    except (OverflowError, ValueError) as error:
        raise SignatureMismatch(f"a value does not fit {tensor.datatype}: {error}", column=tensor.name) from None
    if type_.startswith("float") and np.isinf(array).any():  # JSON has no infinity: that one was too large
        row = int(np.isinf(array).argmax())
        raise SignatureMismatch(f"value {row} is {flat[row]!r}, too large for {tensor.datatype}", column=tensor.name)
    return array.reshape(tensor.shape)


def answer(request: Any, id: str, model: str, version: str, arrays: Mapping[str, np.ndarray]) -> tuple[bytes, bytes]:
    """Header lines and body of the answer; only those outputs that the request names, when it names any.  Raises SignatureMismatch."""
    if not request.outputs and not request.parameters:
        return _JSON, encode(InferResponse(model, version, id, [in_json(name, array) for name, array in arrays.items()]))
    names = [wanted.name for wanted in request.outputs] if request.outputs else list(arrays)
    if unknown := [name for name in names if name not in arrays]:
        raise SignatureMismatch(f"No output {unknown[0]!r}; the model gives {listed(arrays)}.", hint=closest(unknown[0], arrays))
    as_bytes = _binary_outputs(request, names)
    binary: list[bytes] = []
    outputs = [in_bytes(name, arrays[name], binary) if name in as_bytes else in_json(name, arrays[name]) for name in names]
    text = encode(InferResponse(model, version, id, outputs))
    return (_BINARY % len(text), b"".join([text, *binary])) if as_bytes else (_JSON, text)


_JSON = b"content-type: application/json\r\n"
_BINARY = b"content-type: application/octet-stream\r\ninference-header-content-length: %d\r\n"


def in_json(name: str, array: np.ndarray) -> Answered:
    """An array as a tensor of the protocol, its data flat."""
    datatype = _OF_DTYPE.get(array.dtype)
    if datatype or array.dtype.kind in "biuf":
        return Answered(name, array.shape, datatype or "FP64", array.ravel().tolist())
    return Answered(name, array.shape, "BYTES", _texts(array))


def _texts(array: np.ndarray) -> list[str | None]:
    return [_moment(value) for value in array.ravel()] if array.dtype.kind == "M" else [_text(value) for value in array.ravel().tolist()]


# ── binary tensors ───────────────────────────────────────────────────────────────────────────────────────────────────


def decode_binary(body: bytes, header_length: bytes) -> InferRequest:
    """A request whose JSON is followed by its tensors' bytes.  Raises SignatureMismatch, msgspec.MsgspecError."""
    length = int(header_length) if header_length.isdigit() else -1
    if not 0 <= length <= len(body):
        raise SignatureMismatch(f"Inference-Header-Content-Length is {header_length.decode('latin-1')[:40]!r}; the body has {len(body)} bytes.")
    request = decode(body[:length])
    read_bytes(request.inputs, memoryview(body)[length:])
    return request


def read_bytes(tensors: Iterable[Tensor], rest: memoryview) -> None:
    """Give the *tensors* that are said to be in bytes their data out of *rest*, in their order.  Raises SignatureMismatch."""
    for tensor in tensors:
        size = (tensor.parameters or {}).get("binary_data_size")
        if size is None:
            continue
        if type(size) is not int or not 0 <= size <= len(rest):
            raise SignatureMismatch(f"binary_data_size is {size!r}; {len(rest)} bytes are left of the body", column=tensor.name)
        tensor.data, rest = _of_bytes(tensor, rest[:size]), rest[size:]
    if len(rest):
        raise SignatureMismatch(f"The body has {len(rest)} bytes more than its tensors.")


def _of_bytes(tensor: Tensor, given: memoryview) -> np.ndarray:
    """A tensor's values out of its bytes: little-endian, row-major; of BYTES each after its length in four bytes."""
    _check_datatype(tensor)
    count = math.prod(tensor.shape)
    if tensor.datatype == "BYTES":
        values = list(_strings(tensor, given))
        if len(values) != count:
            raise SignatureMismatch(f"shape {tensor.shape} holds {count} values, its bytes {len(values)}", column=tensor.name)
        return np.fromiter(values, dtype=object, count=count)
    dtype = np.dtype(DATATYPES[tensor.datatype]).newbyteorder("<")
    if len(given) != count * dtype.itemsize:
        wanted = count * dtype.itemsize
        raise SignatureMismatch(f"shape {tensor.shape} of {tensor.datatype} takes {wanted} bytes, binary_data_size is {len(given)}", column=tensor.name)
    if tensor.datatype == "BOOL":
        return np.frombuffer(given, dtype=np.uint8) != 0
    return np.frombuffer(bytearray(given), dtype=dtype)  # a copy, because a model may write into its input


def _strings(tensor: Tensor, given: memoryview) -> Iterator[str]:
    place = 0
    while place < len(given):
        end = place + 4 + int.from_bytes(given[place : place + 4], "little")
        if end > len(given) or place + 4 > len(given):
            raise SignatureMismatch(f"its bytes end within a value (at {place} of {len(given)})", column=tensor.name)
        try:
            yield str(given[place + 4 : end], "utf-8")
        except UnicodeDecodeError as error:
            raise SignatureMismatch(f"expected text in UTF-8 ({error.reason})", column=tensor.name) from None
        place = end


def _binary_outputs(request: Any, names: Iterable[str]) -> set[str]:
    """The outputs that are asked for in bytes: each by `binary_data`, or all by `binary_data_output`."""
    every = bool((request.parameters or {}).get("binary_data_output"))
    own = {wanted.name: bool((wanted.parameters or {}).get("binary_data", every)) for wanted in request.outputs or ()}
    return {name for name in names if own.get(name, every)}


def in_bytes(name: str, array: np.ndarray, binary: list[bytes]) -> Answered:
    """An array as a tensor of the protocol whose bytes are put at the end of *binary*."""
    datatype = _OF_DTYPE.get(array.dtype, "FP64") if array.dtype.kind in "biuf" else "BYTES"
    if datatype == "BYTES":
        texts = [(text or "").encode() for text in _texts(array)]
        given = b"".join(part for text in texts for part in (len(text).to_bytes(4, "little"), text))
    else:
        given = array.astype(np.dtype(DATATYPES[datatype]).newbyteorder("<"), copy=False).tobytes()
    binary.append(given)
    return Answered(name, array.shape, datatype, parameters={"binary_data_size": len(given)})


# ── words ────────────────────────────────────────────────────────────────────────────────────────────────────────────


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


def datatype_of(column: Column) -> str:
    """The protocol's word for a column's type."""
    return _NAMES[column.type]


def described(column: Column, *, table: bool) -> dict[str, Any]:
    """A column as the protocol's metadata tells it: -1 for an axis of any length."""
    shape = [-1] if table or not column.shape else [-1 if size is None else size for size in column.shape]
    return {"name": column.name, "datatype": _NAMES[column.type], "shape": shape, "parameters": {"type": column.type, "nullable": column.nullable}}
