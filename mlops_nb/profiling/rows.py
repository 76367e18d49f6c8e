"""What is sent: the rows of the data set that the model was trained on, as requests."""

from __future__ import annotations

from typing import Any

import msgspec

from .. import datasets
from ..errors import BadOption
from ..signature import Signature, as_lists, to_columns
from ..store.models import ModelVersion

_MOST_ROWS = 4096
_MOST_BODIES = 64
_MOST_BYTES = 16_000_000


def bodies(version: ModelVersion, batch: int) -> list[str]:
    """Requests of *batch* rows each, different ones as far as there are rows; the rows begin anew when there are too few.

    An entry script gets the rows of its data set as `{"data": [[…], …]}`.  Raises BadOption when there are no rows to send.
    """
    columns = _columns(version, most=min(_MOST_ROWS, batch * _MOST_BODIES))
    rows = len(next(iter(columns.values()), []))
    if not rows:
        raise BadOption(f"{version.ref} came with no rows that could be sent.", hint="register it with --data DATASET")
    starts = range(0, max(1, rows - batch + 1), batch)
    made = [_body(version, columns, start, batch) for start in starts[:_MOST_BODIES]]
    return made[: max(1, _MOST_BYTES // max(map(len, made)))]


def _columns(version: ModelVersion, *, most: int) -> dict[str, list[Any]]:
    signature = Signature.from_json(version.signature) if version.signature else None
    if version.dataset and (signature is None or signature.kind == "table"):
        names = [column.name for column in signature.inputs] if signature else None
        return as_lists(to_columns(datasets.frame(version.dataset, columns=names, most=most)))
    if signature is None:
        return {}
    names = [column.name for column in signature.inputs]
    sample = signature.sample
    return {name: list(sample[name]) for name in names} if isinstance(sample, dict) else {name: [row[name] for row in sample] for name in names}


def _body(version: ModelVersion, columns: dict[str, list[Any]], start: int, batch: int) -> str:
    sent = {name: [values[(start + place) % len(values)] for place in range(batch)] for name, values in columns.items()}
    request = {"data": [list(row) for row in zip(*sent.values(), strict=True)]} if version.engine == "script" else {"inputs": sent}
    return msgspec.json.encode(request).decode()
