"""What a version answers to rows of its training data, in a process of its own: a job on stdin, a row of answers per line of a file.

It loads the model as a scoring server does, so the user's code runs here and nowhere else.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import numpy as np

from ..serving import engines, score
from ..serving.protocol import plain
from ..serving.spec import ServerSpec
from ..signature import Signature

_BATCH = 1000


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """Which rows a model is to answer, and where the answers go."""

    spec: ServerSpec
    rows: str
    """A Parquet file."""
    columns: list[str]
    """Those of the file that go in, in the order of the model's inputs."""
    answers: str
    """JSON lines: each answered row as `{"label": …, "probabilities[0]": …}`."""


def run(job: Job) -> None:
    """Answer all rows.  Raises whatever the model raises."""
    engine = engines.load(job.spec)
    assert engine.signature
    chosen = ", ".join('"' + name.replace('"', '""') + '"' for name in job.columns)
    with duckdb.connect(":memory:", config={"autoinstall_known_extensions": False}) as connection, Path(job.answers).open("wb") as out:
        rows = connection.execute(f"SELECT {chosen} FROM read_parquet(?)", [job.rows])
        while batch := rows.fetchmany(_BATCH):
            answered = engines.predict(engine, engine.signature.check(_asked(engine.signature, batch)))
            out.writelines(msgspec.json.encode(row, enc_hook=plain) + b"\n" for row in _flat(answered))


def _asked(signature: Signature, batch: list[tuple[Any, ...]]) -> dict[str, Any]:
    if signature.kind == "tensors":
        [column] = signature.inputs
        shape = [length or -1 for length in (column.shape or [None])[1:]]
        return {column.name: np.array(batch, dtype=np.float64).reshape(len(batch), *shape).astype(column.type)}
    return {column.name: [_value(row[place]) for row in batch] for place, column in enumerate(signature.inputs)}


def _value(value: Any) -> Any:
    return value.isoformat() if isinstance(value, date) else float(value) if isinstance(value, Decimal) else value


def _flat(answered: engines.Arrays) -> Iterator[dict[str, Any]]:
    """One row after the other, an array's elements as columns of their own."""
    elements: dict[str, Any] = {}
    for name, array in answered.items():
        if array.ndim == 1:
            elements[name] = array
        else:
            flat = array.reshape(len(array), -1)
            elements |= {f"{name}[{n}]": flat[:, n] for n in range(flat.shape[1])}
    told = score.answer(elements)
    return (dict(zip(told, row, strict=True)) for row in zip(*told.values(), strict=True))


def main() -> None:
    """Do the job on stdin."""
    with contextlib.redirect_stdout(sys.stderr):
        run(msgspec.json.decode(sys.stdin.buffer.read(), type=Job))


if __name__ == "__main__":
    main()
