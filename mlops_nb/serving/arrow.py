"""Arrow IPC streams: a table in, a table of outputs back.  pyarrow is imported when the first one comes.

It is a large import, so a server that gets no Arrow does without.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import MissingPackage, SignatureMismatch

if TYPE_CHECKING:
    import pyarrow

CONTENT_TYPE = "application/vnd.apache.arrow.stream"
_HEAD = f"content-type: {CONTENT_TYPE}\r\n".encode()


def columns(body: bytes) -> dict[str, Any]:
    """The stream's columns by name.  Raises SignatureMismatch for bytes that are no stream, MissingPackage without pyarrow."""
    arrow = _pyarrow()
    try:
        with arrow.ipc.open_stream(body) as stream:
            table = arrow.Table.from_batches(_uncompressed(arrow, body, stream), schema=stream.schema)
        table.validate(full=True)
    except (arrow.ArrowException, OSError, ValueError, IndexError) as error:
        raise SignatureMismatch(f"The body is not an Arrow IPC stream: {str(error).splitlines()[0] if str(error) else type(error).__name__}.") from None
    if twice := next((name for name in table.column_names if table.column_names.count(name) > 1), None):
        raise SignatureMismatch("two columns have this name", column=twice)
    return {name: _column(column) for name, column in zip(table.column_names, table.columns, strict=True)}


def _pyarrow() -> Any:
    try:
        import pyarrow
        import pyarrow.ipc
    except ImportError:
        raise MissingPackage("pyarrow", doing=f"Reading {CONTENT_TYPE}") from None
    return pyarrow


def _uncompressed(arrow: Any, body: bytes, stream: Any) -> list[Any]:
    """The record batches, once every message of the stream is seen to be stored plainly: a few compressed bytes could hold gigabytes."""
    for message in arrow.ipc.MessageReader.open_stream(body):
        if message.type in ("record batch", "dictionary") and _is_compressed(message.metadata.to_pybytes()):
            raise ValueError("its buffers are compressed; send it plain, or with Content-Encoding: gzip")
    return list(stream)


def _is_compressed(message: bytes) -> bool:
    """Whether a message's flatbuffer (Arrow's Message.fbs) names a BodyCompression; dictionaries hold their record batch inside."""
    header = _at(message, _table(message, 0), 2)
    kind = _at(message, _table(message, 0), 1)
    if header is None or kind is None:
        return False
    batch: int | None = _table(message, header)
    if message[kind] == 2:
        inner = _at(message, _table(message, header), 1)
        batch = None if inner is None else _table(message, inner)
    return batch is not None and _at(message, batch, 3) is not None


def _table(message: bytes, place: int) -> int:
    return place + int.from_bytes(message[place : place + 4], "little")


def _at(message: bytes, table: int, slot: int) -> int | None:
    """Where a table's field is, or None when it has none."""
    vtable = table - int.from_bytes(message[table : table + 4], "little", signed=True)
    entry = 4 + 2 * slot
    if entry + 2 > int.from_bytes(message[vtable : vtable + 2], "little"):
        return None
    offset = int.from_bytes(message[vtable + entry : vtable + entry + 2], "little")
    return table + offset if offset else None


def _column(column: pyarrow.ChunkedArray) -> Any:
    import pyarrow.types as types

    kind = column.type
    if types.is_dictionary(kind):
        return _column(column.cast(kind.value_type))
    if types.is_timestamp(kind) or types.is_date(kind):
        return column.to_numpy().astype("datetime64[us]")
    if (types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)) and not (column.null_count and not types.is_floating(kind)):
        return column.to_numpy()
    return column.to_pylist()


def answer(arrays: Mapping[str, np.ndarray]) -> tuple[bytes, bytes]:
    """Header lines and the stream of the outputs, one column each; an output of several numbers a row is a column of lists."""
    arrow = _pyarrow()
    table = arrow.table({name: arrow.array(array if array.ndim == 1 else array.tolist()) for name, array in arrays.items()})
    sink = arrow.BufferOutputStream()
    with arrow.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return _HEAD, sink.getvalue().to_pybytes()
