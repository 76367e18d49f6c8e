"""`POST /score`, as Azure ML's online endpoints take it: the shapes in which people send rows, and the answer by output name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from ..errors import SignatureMismatch, listed
from ..signature import Signature, to_columns

_WRAPPERS = ("input_data", "inputs", "data", "dataframe_split", "dataframe_records", "instances")
_SHAPES = '[{"column": value}, …], {"data": […]}, {"input_data": {"columns": […], "data": [[…]]}} or {"inputs": {"column": […]}}'

decode = msgspec.json.Decoder().decode


def columns(body: Any, signature: Signature | None) -> dict[str, Any]:
    """A decoded body as columns by name.  Raises SignatureMismatch."""
    names = [column.name for column in signature.inputs] if signature else []
    return _opened(body, signature, names)


def _opened(body: Any, signature: Signature | None, names: list[str]) -> dict[str, Any]:
    if isinstance(body, dict):
        return _of_object(body, signature, names)
    if isinstance(body, list) and body:
        return _of_rows(body, signature, names)
    raise SignatureMismatch("The body has no rows." if body in ([], None) else "The body is not rows of data.", hint=_SHAPES)


def _of_object(body: dict[str, Any], signature: Signature | None, names: list[str]) -> dict[str, Any]:
    """Columns, one record, pandas' split form, or a wrapper around whatever may be sent."""
    if names and body.keys() >= set(names):
        return _columns(body)
    if "columns" in body and "data" in body:
        return _split(body)
    for wrapper in _WRAPPERS:
        if wrapper in body and wrapper not in names:
            return _opened(body[wrapper], signature, names)
    return _fitted(_columns(body), signature, names)


def _of_rows(rows: list[Any], signature: Signature | None, names: list[str]) -> dict[str, Any]:
    """Records; or rows without names, in the signature's order."""
    if not any(type(row) is dict for row in rows):
        return signature.table_of(rows) if signature else to_columns(rows)
    if (wrong := next((number for number, row in enumerate(rows) if type(row) is not dict), None)) is not None:
        raise SignatureMismatch(f"Row {wrong} is no record of columns, as others are.", hint=_SHAPES)
    return _records(rows, signature, names)


def _fitted(columns: dict[str, Any], signature: Signature | None, names: list[str]) -> dict[str, Any]:
    """A frame sent to a model made with a bare matrix, or a bare matrix sent to one made with a frame, fits by place when the widths agree."""
    values = list(columns.values())
    if not signature or columns.keys() & set(names):
        return columns
    if signature.kind == "table" and len(values) == 1 and all(type(row) is list and len(row) == len(names) for row in values[0]):
        return signature.table_of(values[0])
    if signature.kind == "table" and columns.keys() == {"input"} and isinstance(values[0], list) and values[0]:
        return _by_place(values[0], signature, names)
    if signature.kind == "tensors" and len(names) == len(values) == 1 and all(type(row) is list for row in values[0]):
        return {names[0]: values[0]}
    if signature.kind == "tensors" and len(names) == 1 and (signature.inputs[0].shape or [])[1:] == [len(values)]:
        return {names[0]: [list(row) for row in zip(*values, strict=False)]}
    return columns


def _by_place(array: list[Any], signature: Signature, names: list[str]) -> dict[str, Any]:
    """A bare array, which has no names for columns (`to_columns` calls it `input`).  Raises SignatureMismatch."""
    if all(type(row) is list for row in array):
        return signature.table_of(array)
    if len(names) == 1:
        return {names[0]: array}
    wanted = f"the model takes {len(names)}: {listed(names, most=20)}"
    raise SignatureMismatch(f"An array of one dimension is one column; {wanted}.", hint="X.reshape(1, -1) is one row")


def _columns(body: dict[str, Any]) -> dict[str, Any]:
    """Columns by name, or one record."""
    if any(isinstance(values, list) for values in body.values()) or not body:
        return body
    return {name: [value] for name, value in body.items()}


def _split(body: dict[str, Any]) -> dict[str, Any]:
    """pandas' `to_dict("split")`."""
    names, rows = body["columns"], body["data"]
    if not isinstance(rows, list) or not isinstance(names, list):
        raise SignatureMismatch('"columns" and "data" must be lists.', hint=_SHAPES)
    names = list(map(str, names))
    if len(set(names)) < len(names):
        raise SignatureMismatch("two columns have this name", column=next(name for name in names if names.count(name) > 1))
    for number, row in enumerate(rows):
        if not isinstance(row, list) or len(row) != len(names):
            raise SignatureMismatch(f'Row {number} does not have {len(names)} values, one for each of "columns".')
    return {name: list(values) for name, values in zip(names, zip(*rows, strict=True), strict=True)} if rows else {name: [] for name in names}


def _records(rows: Sequence[Mapping[str, Any]], signature: Signature | None, names: list[str]) -> dict[str, Any]:
    if not signature:
        return to_columns(rows)
    try:
        found = {name: [row[name] for row in rows] for name in names}
    except KeyError:
        found = _with_gaps(rows, signature)
    if unknown := [name for row in rows if len(row) > len(names) or row.keys() - found.keys() for name in row if name not in found]:
        signature.check_names(dict.fromkeys([*found, *unknown]))
    return found


def _with_gaps(rows: Sequence[Mapping[str, Any]], signature: Signature) -> dict[str, Any]:
    """A key that a row lacks is a missing value where one may be."""
    given = dict.fromkeys(name for row in rows for name in row)
    lacking = [column.name for column in signature.inputs if column.name not in given]
    if lacking:
        return {name: [row.get(name) for row in rows] for name in given}  # the signature's check names both sides
    for column in signature.inputs:
        if not column.nullable and (row := next((n for n, r in enumerate(rows) if column.name not in r), None)) is not None:
            raise SignatureMismatch(f"expected {column.type}, got nothing", column=column.name, row=row)
    return {column.name: [row.get(column.name) for row in rows] for column in signature.inputs}


def answer(arrays: Mapping[str, np.ndarray]) -> dict[str, list[Any]]:
    """`{output name: [values]}`, NaN as null."""
    return {name: array.tolist() if array.dtype.kind != "M" else [None if np.isnat(v) else str(v) for v in array] for name, array in arrays.items()}
