"""Rows as a notebook had them, in bytes that another environment can read: a frame goes in parts, since pandas may hold a column, or
its columns' names, with packages that only happened to be installed there (Arrow, say)."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import Any, NamedTuple


class Part(NamedTuple):
    """One column of a frame."""

    name: Any
    dtype: str
    values: list[Any]
    categories: list[Any] | None


def pickled(rows: Any) -> bytes:
    """*rows* as they are; nothing for what only its own process can hold."""
    try:
        return pickle.dumps(_in_parts(rows) if hasattr(rows, "iloc") and hasattr(rows, "columns") else rows, protocol=5)
    except (pickle.PicklingError, TypeError, AttributeError):
        return b""


def _in_parts(frame: Any) -> list[Part]:
    parts = []
    for place, name in enumerate(frame.columns.tolist()):
        series = frame.iloc[:, place]
        categories = series.cat.categories.tolist() if str(series.dtype) == "category" else None
        parts.append(Part(name, str(series.dtype), series.tolist(), categories))
    return parts


def unpickled(content: bytes) -> Any:
    """What `pickled` was given, from bytes that this workspace wrote."""
    rows = pickle.loads(content)
    return _together(rows) if isinstance(rows, list) and rows and all(isinstance(part, Part) for part in rows) else rows


def _together(parts: Sequence[Part]) -> Any:
    import pandas as pd

    columns = [pd.Series(part.values, dtype=pd.CategoricalDtype(part.categories) if part.categories is not None else part.dtype) for part in parts]
    return pd.concat(columns, axis="columns", keys=range(len(parts))).set_axis([part.name for part in parts], axis="columns")
