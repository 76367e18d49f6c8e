"""Long requests of the protocol in JSON: their numbers become an array without ever being objects of Python's.

Of what 64 rows of 30 numbers cost, the most was 1,920 floats that were made and freed again.  simdjson (Langdale and Lemire, Parsing
Gigabytes of JSON per Second, VLDB Journal 28, 2019) keeps a text in a form of its own, and gives the numbers of a list as bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

try:
    import simdjson
except ImportError:  # there is no wheel of it for every processor
    simdjson = None  # type: ignore[assignment]

SHORTEST, _LONGEST = 8192, 4 * 1024 * 1024
"""Bytes of JSON: shorter texts are as quick to read with a look at each number, and the parser keeps ten bytes for each of the longest."""
_NOT_PLAIN = (ValueError, TypeError, KeyError, RuntimeError)

Reader = Callable[[bytes], "dict[str, Any] | None"]


def reader() -> Reader | None:
    """What gives a request as dictionaries and lists, but `data` as arrays of float64; None where simdjson is not installed.

    It gives None for a text that is very long, is no JSON, names something twice, has other lists than those of plain tensors, or has
    anything but numbers for data.
    """
    if simdjson is None:
        return None
    parser = simdjson.Parser(_LONGEST)

    def read(text: bytes) -> dict[str, Any] | None:
        if len(text) > _LONGEST or text[:1] != b"{":
            return None
        try:
            return _plain(parser.parse(text), text)  # what is parsed must be gone before the next one is
        except _NOT_PLAIN:
            return None

    return read


def _plain(parsed: Any, text: bytes) -> dict[str, Any] | None:
    """The request, or None where it is not plain: a list more than these is one in the data, which simdjson flattens without a word."""
    tensors = [_once(tensor) for tensor in parsed["inputs"]]
    request = _once(parsed) | {"inputs": tensors}
    lists = sum(isinstance(value, list | np.ndarray) for part in (request, *tensors) for value in part.values())
    return request if _has(lists, text) else None


def _once(parsed: Any) -> dict[str, Any]:
    """An object's values by name, those of `inputs` left out.  Raises ValueError where a name stands twice."""
    keys = list(parsed)
    if len(set(keys)) < len(keys):
        raise ValueError
    return {key: _whole(key, parsed[key]) for key in keys if key != "inputs"}


def _whole(key: str, value: Any) -> Any:
    if isinstance(value, simdjson.Array):
        return np.frombuffer(value.as_buffer(of_type="d")) if key == "data" else value.as_list()
    return value.as_dict() if isinstance(value, simdjson.Object) else value


def _has(lists: int, text: bytes) -> bool:
    """Whether so many lists begin in *text*, and no more."""
    place = -1
    for _ in range(lists):
        place = text.find(b"[", place + 1)  # bytes.count takes thirty times as long
        if place < 0:
            return False
    return text.find(b"[", place + 1) < 0
