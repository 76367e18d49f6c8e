"""Long requests of the protocol in JSON: their numbers become arrays without ever being objects of Python's.

Of what 64 rows of 30 numbers cost, the most was 1,920 floats that were made and freed again.  The lists of numbers are cut out of the
text and read by simdjson (Langdale and Lemire, Parsing Gigabytes of JSON per Second, VLDB Journal 28, 2019), which gives them in
bytes; what is left is short, and read as any request is.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np

try:
    import simdjson
except ImportError:  # there is no wheel of it for every processor
    simdjson = None  # type: ignore[assignment]

_SHORTEST, _LONGEST = 8192, 1024 * 1024
"""Bytes of JSON: shorter texts are as quick to read with a look at each number, and the parser keeps ten bytes for each of the longest."""
_DATA = re.compile(rb'"data"[ \t\r\n]*:[ \t\r\n]*\[')

Decode = Callable[[bytes], Any]
"""Makes a request of its JSON: something with `inputs`, each with a list as `data`."""


def quick(decode: Decode) -> Decode:
    """*decode*, but in a long text with nothing but numbers for data these become arrays of float64.  Without simdjson it is *decode* itself."""
    if simdjson is None:
        return decode
    parser = simdjson.Parser(_LONGEST)

    def read(text: bytes) -> Any:
        if not _SHORTEST <= len(text) <= _LONGEST:
            return decode(text)
        lists, rest = _apart(text)
        if not lists or b"\\" in rest:  # what was found may be no name, or the name be spelled otherwise too
            return decode(text)
        request = decode(rest)
        try:
            for tensor, numbers in zip(request.inputs, lists, strict=True):
                tensor.data = np.frombuffer(parser.parse(numbers).as_buffer(of_type="d"))  # type: ignore[union-attr]
        except (ValueError, TypeError, RuntimeError):  # not a list for each, no numbers, or such as only *decode* takes
            return decode(text)
        return request

    return read


def _apart(text: bytes) -> tuple[list[bytes], bytes]:
    """The lists that are called data, each up to the first bracket that closes, and the text with empty ones in their place."""
    lists: list[bytes] = []
    rest: list[bytes] = []
    place = 0
    while found := _DATA.search(text, place):
        begins, ends = found.end(), text.find(b"]", found.end())
        if ends < 0:
            break
        lists.append(text[begins - 1 : ends + 1])
        rest.append(text[place:begins])
        place = ends
    return lists, b"".join([*rest, text[place:]])
