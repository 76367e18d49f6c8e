"""What stands in an ONNX file, read without the onnx package, which a server would need for nothing else.

The file is Protocol Buffers: fields of a number, a wire type and a value (https://protobuf.dev/programming-guides/encoding/); the
numbers are those of onnx.proto.  A forest's attributes are lists of a hundred thousand numbers, so lists are read all at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np

_VARINT, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5
_LISTS = {7: (_FOUR, _BYTES), 8: (_VARINT, _BYTES), 9: (_BYTES,)}
"""An attribute's lists of floats, of whole numbers and of text, and how they may be written."""
_TYPES = {1: "<f4", 6: "<i4", 7: "<i8", 11: "<f8"}
"""numpy's names of a tensor's types: FLOAT, INT32, INT64, DOUBLE."""
_STRING = 8


class Node(NamedTuple):
    """One operator of a graph."""

    kind: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, Any]
    """Numbers, text, and lists as arrays (of numbers) or lists (of text); None where it is something else."""


class Graph(NamedTuple):
    """The operators in their order, the constants, and the names that go in and come out."""

    nodes: list[Node]
    constants: dict[str, Any]
    inputs: list[str]
    outputs: list[str]


def read(content: bytes | memoryview) -> Graph:
    """The graph of the model that a file's *content* is, whose constants are views of it.  Raises ValueError or IndexError for what is no such content."""
    parts = [value for number, value in _fields(memoryview(content)) if number == 7]
    if len(parts) != 1:
        raise ValueError("no graph")
    graph = Graph([], {}, [], [])
    for number, value in _fields(parts[0]):
        if number == 1:
            graph.nodes.append(_node(value))
        elif number == 5:
            name, tensor = _tensor(value)
            graph.constants[name] = tensor
        elif number in (11, 12):
            (graph.inputs if number == 11 else graph.outputs).append(_text(_only(value, 1)))
    graph.inputs[:] = [name for name in graph.inputs if name not in graph.constants]
    return graph


def _node(data: memoryview) -> Node:
    node, kind = Node("", [], [], {}), ""
    for number, value in _fields(data):
        if number in (1, 2):
            (node.inputs if number == 1 else node.outputs).append(_text(value))
        elif number == 4:
            kind = _text(value)
        elif number == 5:
            name, held = _attribute(value)
            node.attributes[name] = held
    return node._replace(kind=kind)


def _attribute(data: memoryview) -> tuple[str, Any]:
    name, held = "", None
    place = 0
    while place < len(data):
        if data[place] & 7 in _LISTS.get(number := data[place] >> 3, ()):
            held, place = {7: _floats, 8: _whole, 9: _texts}[number](data, place)
            continue
        number, value, place = _field(data, place)
        if number == 1:
            name = _text(value)
        elif number == 2:
            held = _float(value)
        elif number == 3:
            held = _signed(value)
        elif number == 4:
            held = _text(value)
        elif number == 5:
            held = _tensor(value)[1]
    return name, held


def _tensor(data: memoryview) -> tuple[str, Any]:
    """The name and the values, flat; None where they are of another type or stand in another file."""
    import numpy as np

    name, type_, raw, texts, parts = "", 0, None, [], {4: memoryview(b""), 7: memoryview(b""), 10: memoryview(b"")}
    for number, value in _fields(data):
        if number == 2:
            type_ = value
        elif number == 6:
            texts.append(_text(value))
        elif number == 8:
            name = _text(value)
        elif number == 9:
            raw = value
        elif number in parts and isinstance(value, memoryview):
            parts[number] = value
        elif number in (*parts, 13, 14):  # numbers one by one, or a place elsewhere
            return name, None
    if type_ == _STRING:
        return name, texts
    if type_ not in _TYPES:
        return name, None
    if raw is not None:
        return name, np.frombuffer(raw, dtype=_TYPES[type_])
    return name, _varints(parts[7]).astype(np.int64) if type_ == 7 else np.frombuffer(parts[10 if type_ == 11 else 4], dtype=_TYPES[type_])


# ── fields ──


def _fields(data: memoryview) -> Iterator[tuple[int, Any]]:
    place = 0
    while place < len(data):
        number, value, place = _field(data, place)
        yield number, value


def _field(data: memoryview, place: int) -> tuple[int, Any, int]:
    """One field's number and value, and where the next begins."""
    tag, place = _varint(data, place)
    wire = tag & 7
    if wire == _VARINT:
        value, place = _varint(data, place)
        return tag >> 3, value, place
    size = {_EIGHT: 8, _FOUR: 4}.get(wire)
    if size is None:
        if wire != _BYTES:
            raise ValueError("no such wire type")
        size, place = _varint(data, place)
    if place + size > len(data):
        raise ValueError("it ends too early")
    return tag >> 3, data[place : place + size], place + size


def _varint(data: bytes | memoryview, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
        shift += 7


def _only(data: memoryview, number: int) -> memoryview:
    return next(value for each, value in _fields(data) if each == number)


def _text(value: memoryview) -> str:
    return str(value, "utf-8")


def _float(value: memoryview) -> float:
    import numpy as np

    return float(np.frombuffer(value, dtype="<f4")[0])


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


# ── lists, from the first of them to the last: (what they are, where the next field begins) ──


def _floats(data: memoryview, place: int) -> tuple[np.ndarray, int]:
    import numpy as np

    if data[place] & 7 == _BYTES:
        _, value, place = _field(data, place)
        return np.frombuffer(value, dtype="<f4"), place
    rest = np.frombuffer(data, dtype=np.dtype([("tag", "u1"), ("value", "<f4")]), count=(len(data) - place) // 5, offset=place)
    if not len(rest):
        raise ValueError("it ends too early")
    count = _run(rest["tag"] == data[place])
    return rest["value"][:count].copy(), place + 5 * count


def _whole(data: memoryview, place: int) -> tuple[np.ndarray, int]:
    import numpy as np

    if data[place] & 7 == _BYTES:
        _, value, place = _field(data, place)
        return _varints(value), place
    # A tag below 128 is a varint itself: tags and numbers by turns.
    words = _varints(data[place:])
    count = _run(words[: len(words) // 2 * 2 : 2] == data[place])
    ends = np.flatnonzero(np.frombuffer(data, dtype=np.uint8, offset=place) < 0x80)
    return words[1 : 2 * count : 2], place + int(ends[2 * count - 1]) + 1


def _texts(data: memoryview, place: int) -> tuple[list[str], int]:
    tag, rest, found, at = data[place], bytes(data[place:]), [], 0
    while at < len(rest) and rest[at] == tag:
        # A forest has tens of thousands, each of a few letters.
        size, begins = (rest[at + 1], at + 2) if rest[at + 1] < 0x80 else _varint(rest, at + 1)
        at = begins + size
        found.append(rest[begins:at])
    if at > len(rest):
        raise ValueError("it ends too early")
    words = {value: value.decode() for value in set(found)}
    return [words[value] for value in found], place + at


def _run(alike: np.ndarray) -> int:
    """How many are true before the first that is not."""
    return len(alike) if alike.all() else int(alike.argmin())


def _varints(data: bytes | memoryview) -> np.ndarray:
    """Numbers of seven bits a byte, the lowest first, each but the last byte marked."""
    import numpy as np

    octets = np.frombuffer(data, dtype=np.uint8)
    ends = np.flatnonzero(octets < 0x80)
    starts = np.concatenate([[0], ends[:-1] + 1]) if len(ends) else ends
    values, sizes = np.zeros(len(ends), dtype=np.uint64), ends - starts + 1
    for byte in range(int(sizes.max(initial=0))):
        longer = sizes > byte
        values[longer] |= (octets[starts[longer] + byte] & np.uint8(0x7F)).astype(np.uint64) << np.uint64(7 * byte)
    return values.view(np.int64)
