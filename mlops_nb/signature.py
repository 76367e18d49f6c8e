"""What a model takes and gives: columns with names and types, inferred from data and enforced on every request.

A *table* is named columns of equal length; *tensors* are named arrays of any rank whose first axis counts rows.  Inside,
data is a dict of numpy arrays: a missing float is NaN, a missing datetime NaT, and a column of another type that misses a
value is an object array holding None there.  Text stays text: "001" never becomes 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal, Self

import msgspec

from .errors import SignatureMismatch, closest, listed

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

Type = Literal[
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64", "string", "datetime", "json"
]  # fmt: skip

SAMPLE_ROWS = 5
_MOST_KEPT = 200
"""So many columns that do not fit are named where they are counted."""
_SPELLED = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


class Column(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One input or output: a column of a table, or a tensor."""

    name: str
    type: Type
    shape: list[int | None] | None = None
    """A tensor's axes, rows first; None on an axis means any length.  None altogether for a table's column."""
    nullable: bool = False
    """Whether a value may be missing."""
    dtype: str = ""
    """What pandas called it (`category`, `Int64`, `datetime64[us, UTC]`), so that a Python model gets the frame it knew."""
    categories: list[Any] | None = None
    """The categories in the order the model saw them."""
    missing: str = ""
    """How the training frame marked a missing object: `None` or `nan`."""
    infinite: bool = False
    """Whether a number may be infinite."""

    def __str__(self) -> str:
        axes = f"[{', '.join('any' if n is None else str(n) for n in self.shape)}]" if self.shape else ""
        return f"{self.name}: {self.type}{axes}{'?' if self.nullable else ''}"


class Signature(msgspec.Struct, frozen=True, kw_only=True):
    """The inputs a model takes, the outputs it gives, and a few rows it was made with."""

    kind: Literal["table", "tensors"]
    inputs: list[Column]
    outputs: list[Column] = []
    sample: list[dict[str, Any]] | dict[str, Any] = []
    """The first rows as JSON, five at most: records of a table, or one nested list per tensor."""
    series: bool = False
    """The model was made with one pandas Series or list (of texts, say), not with a frame of one column."""

    @classmethod
    def from_json(cls, shape: Mapping[str, Any]) -> Self:
        """The signature that `as_json` wrote.  Raises msgspec.ValidationError."""
        return msgspec.convert(dict(shape), cls)

    def as_json(self) -> dict[str, Any]:
        """Builtin values that any JSON encoder takes."""
        return msgspec.to_builtins(self)

    def check(self, columns: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """*columns* (arrays or lists by name) as arrays of the signature's types, in its order.

        Raises SignatureMismatch naming the column, what was expected, what came, and the first offending row.
        """
        self.check_names(columns)
        one = _checked_column if self.kind == "table" else _checked_tensor
        arrays = {column.name: one(column, columns[column.name]) for column in self.inputs}
        _check_lengths(arrays)
        return arrays

    def sample_columns(self) -> list[dict[str, np.ndarray]]:
        """Each row of the sample as checked columns of one row."""
        if isinstance(self.sample, dict):
            rows = min((len(values) for values in self.sample.values()), default=0)
            return [self.check({name: values[n : n + 1] for name, values in self.sample.items()}) for n in range(rows)]
        return [self.check({name: [value] for name, value in row.items()}) for row in self.sample]

    def check_names(self, columns: Collection[str]) -> None:
        """Raises SignatureMismatch naming the columns that are unknown, and those that lack."""
        if len(columns) == len(self.inputs) and all(column.name in columns for column in self.inputs):
            return
        wanted = [column.name for column in self.inputs]
        unknown = [name for name in columns if name not in wanted]
        lacking = [name for name in wanted if name not in columns]
        near = closest(str(unknown[0]), lacking or wanted) if unknown else ""
        predicted = f"; register with --target {lacking[0]} if that is what it predicts" if len(lacking) == 1 and not unknown else ""
        hint = f"did you mean {near}?" if near else f"columns of this model: {listed(wanted, most=20)}{predicted}"
        raise SignatureMismatch(_unfit(unknown, lacking), hint=hint, whole=_unfit(unknown, lacking, most=_MOST_KEPT))

    def table_of(self, data: Any) -> dict[str, Any]:
        """Columns out of what a caller gave (see `to_columns`), lists of bare rows taken in the signature's order."""
        if self.kind == "table" and _is_rows(data):
            return _by_position(data, self.inputs)
        if self.kind == "tensors" and not _is_frame(data) and not isinstance(data, Mapping):
            return {self.inputs[0].name: data}
        if self.kind == "tensors" and _is_frame(data):
            return {self.inputs[0].name: data.to_numpy()}
        return to_columns(data)


# ── inferring ────────────────────────────────────────────────────────────────────────────────────────────────────────


def infer(data: Any, *, outputs: Any = None) -> Signature:
    """The signature of *data*: a DataFrame, a dict of arrays, a numpy array, or a list of records.

    *outputs* may be columns, or predictions (an array, or arrays by name) made from *data*.  What it was inferred from
    always passes `Signature.check`.  Raises SignatureMismatch for a value that no request can carry.
    """
    columns = to_columns(data)
    table = _is_frame(data) or (all(getattr(array, "ndim", 1) == 1 for array in columns.values()) and not _is_array(data))
    if table:
        described = [_described(name, array) for name, array in columns.items()]
        inputs = [_known_to_pandas(column, data, place) for place, column in enumerate(described)] if _is_frame(data) else described
    else:
        inputs = [_described_tensor(name, array) for name, array in columns.items()]
    series = table and not isinstance(data, Mapping) and (data.ndim == 1 if _is_frame(data) else not _are_records(data))
    signature = Signature(kind="table" if table else "tensors", inputs=inputs, outputs=outputs_of(outputs), series=series)
    return msgspec.structs.replace(signature, sample=_sample(signature.kind, columns))


def outputs_of(outputs: Any) -> list[Column]:
    """Predictions (an array, or arrays by name) as columns; columns as they are."""
    if outputs is None:
        return []
    if isinstance(outputs, list) and all(isinstance(column, Column) for column in outputs):
        return outputs
    named = outputs if isinstance(outputs, Mapping) else {"output": outputs}
    return [_described_tensor(name, _array(values)) for name, values in named.items()]


def _described(name: str, array: np.ndarray) -> Column:
    type_, nullable = _type_of(name, array)
    return Column(name=name, type=type_, nullable=nullable, infinite=_has_infinity(type_, array))


def _described_tensor(name: str, array: np.ndarray) -> Column:
    type_, nullable = _type_of(name, array)
    return Column(name=name, type=type_, shape=[None, *array.shape[1:]], nullable=nullable, infinite=_has_infinity(type_, array))


def _has_infinity(type_: Type, array: np.ndarray) -> bool:
    import numpy as np

    if not type_.startswith("float"):
        return False
    with np.errstate(over="ignore"):
        return bool(np.isinf(array.astype(type_ if array.dtype.kind == "f" else np.float64)).any())


def _type_of(name: str, array: np.ndarray) -> tuple[Type, bool]:
    import numpy as np

    kind = array.dtype.kind
    if kind in "biu":
        return array.dtype.name, False  # type: ignore[return-value]
    if kind == "f":
        return (array.dtype.name if array.dtype.itemsize <= 8 else "float64"), bool(np.isnan(array).any())  # type: ignore[return-value]
    if kind == "M":
        return "datetime", bool(np.isnat(array).any())
    if kind == "m":
        return "int64", bool(np.isnat(array).any())
    if kind in "US":
        return "string", False
    if kind == "O":
        return _type_of_objects(array.ravel().tolist())
    raise SignatureMismatch(f"it holds {array.dtype}, which no request can carry", column=name, hint="turn it into numbers, text, booleans or dates")


def _type_of_objects(values: list[Any]) -> tuple[Type, bool]:
    kinds = set(map(type, values))
    nullable = type(None) in kinds
    kinds.discard(type(None))
    if not kinds:
        return "json", True
    for type_, fits in _OBJECTS:
        if all(fits(kind) for kind in kinds):
            if type_ == "float64":
                return type_, nullable or any(value != value for value in values)
            if type_ == "int64" and not all(value is None or -(2**63) <= value < 2**63 for value in values):
                return "json", nullable
            return type_, nullable
    return "json", nullable


def _is_bool(kind: type) -> bool:
    return kind is bool or kind.__name__ in ("bool", "bool_")


def _is_int(kind: type) -> bool:
    return not _is_bool(kind) and (issubclass(kind, int) or _of_numpy(kind, "int"))


def _is_number(kind: type) -> bool:
    return _is_int(kind) or issubclass(kind, float | Decimal) or _of_numpy(kind, "float")


def _of_numpy(kind: type, word: str) -> bool:
    return kind.__module__ == "numpy" and word in kind.__name__


_OBJECTS: list[tuple[Type, Callable[[type], bool]]] = [
    ("bool", _is_bool),
    ("int64", _is_int),
    ("float64", _is_number),
    ("string", lambda kind: issubclass(kind, str | bytes)),
    ("datetime", lambda kind: issubclass(kind, date)),
]


def _known_to_pandas(column: Column, frame: pd.DataFrame, place: int) -> Column:
    series = _series(frame, place)
    dtype = str(series.dtype)
    if dtype == "category":
        return msgspec.structs.replace(column, dtype=dtype, categories=_jsonable(_plain(series.cat.categories.to_series())))
    gaps = series[series.isna()].tolist() if dtype == "object" else []
    return msgspec.structs.replace(column, dtype=dtype, missing=("None" if gaps[0] is None else "nan") if gaps else "")


def _sample(kind: str, columns: Mapping[str, np.ndarray]) -> list[dict[str, Any]] | dict[str, Any]:
    head = {name: _jsonable(array[:SAMPLE_ROWS]) for name, array in columns.items()}
    if kind == "tensors":
        return head
    return [dict(zip(head, row, strict=True)) for row in zip(*head.values(), strict=True)]


# ── columns out of anything ──────────────────────────────────────────────────────────────────────────────────────────


def to_columns(data: Any) -> dict[str, np.ndarray]:
    """A DataFrame, Series, dict of arrays (or one record), list of records, or array as arrays by name.  Raises SignatureMismatch."""
    if _is_frame(data):
        return _frame_columns(data)
    if isinstance(data, Mapping):
        one_record = data and all(_is_scalar(value) for value in data.values())
        return to_columns([data]) if one_record else {str(name): _array(values) for name, values in data.items()}
    if _are_records(data):
        names = list(dict.fromkeys(name for row in data for name in row))
        return {str(name): _array([row.get(name) for row in data]) for name in names}
    if not (data.ndim if _is_array(data) else isinstance(data, list | tuple)):
        raise SignatureMismatch(f"A {type(data).__name__} is not data for a model.", hint="a DataFrame, a dict of columns, records or an array")
    return {"input": _array(data)}


def _is_scalar(value: Any) -> bool:
    return isinstance(value, str | bytes) or (not isinstance(value, Sequence | Mapping) and getattr(value, "ndim", 0) == 0)


def _is_frame(data: Any) -> bool:
    kind = type(data)
    return any(base.__module__.split(".")[0] == "pandas" and base.__name__ in ("DataFrame", "Series") for base in kind.__mro__)


def _is_array(data: Any) -> bool:
    return hasattr(data, "__array__") and not _is_frame(data)


def _are_records(data: Any) -> bool:
    return isinstance(data, list | tuple) and bool(data) and all(isinstance(row, Mapping) for row in data)


def _is_rows(data: Any) -> bool:
    if _is_array(data):
        return bool(data.ndim == 2)
    return isinstance(data, list | tuple) and bool(data) and all(isinstance(row, list | tuple) for row in data)


def _by_position(rows: Sequence[Sequence[Any]], columns: list[Column]) -> dict[str, Any]:
    for number, row in enumerate(rows):
        if len(row) != len(columns):
            raise SignatureMismatch(f"Row {number} has {len(row)} values; the model takes {len(columns)}: {listed([c.name for c in columns], most=20)}.")
    by_column = list(zip(*rows, strict=True))
    return {column.name: list(by_column[place]) for place, column in enumerate(columns)}


def _frame_columns(frame: pd.DataFrame | pd.Series) -> dict[str, np.ndarray]:
    if frame.ndim == 1:
        return {str(frame.name if frame.name is not None else "input"): _plain(frame)}
    names = [column_name(name) for name in frame.columns]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise SignatureMismatch("two columns have this name", column=twice, hint="df.loc[:, ~df.columns.duplicated()]")
    return {name: _plain(_series(frame, place)) for place, name in enumerate(names)}


def column_name(label: Any) -> str:
    """A column's label as a name: levels of a MultiIndex joined by `_`."""
    return "_".join(map(str, label)) if isinstance(label, tuple) else str(label)


def _series(frame: pd.DataFrame | pd.Series, place: int) -> pd.Series:
    return frame if frame.ndim == 1 else frame.iloc[:, place]


def _plain(series: pd.Series) -> np.ndarray:
    """A pandas column as numpy holds it here."""
    import numpy as np

    dtype = series.dtype
    if isinstance(dtype, np.dtype) and dtype.kind != "O":
        return series.to_numpy()
    name = str(dtype)
    if name.startswith("datetime64"):
        return series.dt.tz_convert("UTC").dt.tz_localize(None).to_numpy()
    if name.startswith("Sparse"):
        return _plain(series.sparse.to_dense())
    if name.startswith(("period", "interval")):
        series = series.astype(object).map(str, na_action="ignore")
    if getattr(dtype, "kind", "O") == "f":
        return series.to_numpy(dtype=getattr(dtype, "numpy_dtype", "float64"), na_value=math.nan)
    missing = series.isna().to_numpy()
    if not missing.any() and getattr(dtype, "kind", "O") in "biuf":
        return series.to_numpy(dtype=getattr(dtype, "numpy_dtype", None))
    values = series.tolist()
    return _objects([None if gone else value for value, gone in zip(values, missing.tolist(), strict=True)])


def _array(values: Any) -> np.ndarray:
    """Anything array-like as numpy holds it here; lists keep what their members are."""
    import numpy as np

    if _is_frame(values):
        return _plain(values)
    if _is_array(values):
        array = np.asarray(values)
        return _objects(array.tolist()) if array.dtype.kind in "US" and array.ndim == 1 else array
    if not isinstance(values, list | tuple):
        values = list(values) if isinstance(values, Iterable) and not isinstance(values, str | bytes | Mapping) else [values]
    kinds = set(map(type, values))
    if kinds <= {int, float} or kinds == {bool}:
        return _numbers(values)
    return _nested(values) if kinds <= {list, tuple} else _objects(values)


def _numbers(values: Sequence[Any]) -> np.ndarray:
    import numpy as np

    array = np.array(values) if len(values) else np.array([], dtype=np.float64)
    return array if array.dtype.kind in "bif" else _objects(values)


def _nested(values: Sequence[Any]) -> np.ndarray:
    import numpy as np

    try:
        array = np.array(values)
    except ValueError:  # rows of different lengths
        return _objects(values)
    if array.dtype.kind in "bif":
        return array
    array = np.array(values, dtype=object)
    return array if array.size and not isinstance(array.flat[0], Mapping) else _objects(values)


def _objects(values: Iterable[Any]) -> np.ndarray:
    import numpy as np

    values = values if isinstance(values, list) else list(values)
    return np.fromiter(values, dtype=object, count=len(values))


# ── checking ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _checked_column(column: Column, values: Any) -> np.ndarray:
    if type(values) is list:
        return _from_list(column, values)
    if _is_frame(values):
        values = _plain(values)
    if _is_array(values):
        import numpy as np

        values = np.asarray(values)
        if values.ndim == 2 and values.shape[1] == 1 and column.type != "json":
            values = values[:, 0]
        if values.ndim != 1:
            raise SignatureMismatch(f"expected one value a row, got an array of shape {list(values.shape)}", column=column.name)
        return _from_array(column, values)
    if not isinstance(values, list | tuple):
        raise SignatureMismatch(f"expected a list of {column.type}, got {_shown(values)}", column=column.name)
    return _from_list(column, values)


def _checked_tensor(column: Column, values: Any) -> np.ndarray:
    if not _is_array(values) and not _is_frame(values) and not isinstance(values, list | tuple):
        raise SignatureMismatch(f"expected a nested list of {column.type}, got {_shown(values)}", column=column.name)
    array = _array(values)
    _check_shape(column, array.shape)
    return _from_array(column, array.reshape(-1)).reshape(array.shape)


def _check_shape(column: Column, shape: tuple[int, ...]) -> None:
    wanted = column.shape or [None]
    if len(shape) == len(wanted) and all(want is None or want == got for want, got in zip(wanted, shape, strict=True)):
        return
    axes = ", ".join("any" if n is None else str(n) for n in wanted)
    raise SignatureMismatch(f"expected shape [{axes}], got {list(shape)}", column=column.name)


def _check_lengths(arrays: Mapping[str, np.ndarray]) -> None:
    first = next(iter(arrays), "")
    for name, array in arrays.items():
        if len(array) != len(arrays[first]):
            raise SignatureMismatch(f"it has {len(array)} rows, {first!r} has {len(arrays[first])}", column=name)


def _from_array(column: Column, array: np.ndarray) -> np.ndarray:
    """A one-dimensional array as the column's type, without a Python loop for numbers."""
    kind, type_ = array.dtype.kind, column.type
    if kind in "OUS" or type_ in ("string", "json"):
        return _from_list(column, array.tolist() if kind != "M" else [_iso(value) for value in array])
    if kind == "m":
        return _from_durations(column, array)
    if type_ == "datetime":
        return _dates(column, array) if kind == "M" else _refuse(column, array.tolist(), 0)
    if (kind == "b") != (type_ == "bool") or kind not in "biuf":
        return _refuse(column, array.tolist(), 0) if len(array) else array.astype(type_)
    return _narrowed(column, array)


def _from_durations(column: Column, array: np.ndarray) -> np.ndarray:
    import numpy as np

    if column.type != "int64":
        return _refuse(column, array.tolist(), 0)
    gone, whole = np.isnat(array), array.astype("m8[ns]").astype(np.int64)
    return whole if not gone.any() else _from_list(column, [None if out else value for value, out in zip(whole.tolist(), gone.tolist(), strict=True)])


def _dates(column: Column, array: np.ndarray) -> np.ndarray:
    import numpy as np

    _check_missing(column, np.isnat(array))
    return array


def _narrowed(column: Column, array: np.ndarray) -> np.ndarray:
    """Numbers as the column's numeric type; a value that it cannot hold is refused, not wrapped."""
    import numpy as np

    type_ = column.type
    if array.dtype == type_:
        return _check_floats(column, array) if array.dtype.kind == "f" else array
    if type_.startswith("float"):
        with np.errstate(over="ignore"):
            return _check_floats(column, array.astype(type_), array)
    return _whole(column, array)


def _whole(column: Column, array: np.ndarray) -> np.ndarray:
    import numpy as np

    if array.dtype.kind == "f":
        gone = np.isnan(array)
        if gone.any():
            _check_missing(column, gone)
            return _from_list(column, [None if value != value else value for value in array.tolist()])
        _check_rows(column, array, array == np.floor(array), "expected whole numbers ({type})")
    limits = np.iinfo(column.type)
    # Compared as Python ints would be: float(limits.max) of a 64-bit type is one too many.
    fits = (array >= limits.min) & ((array <= limits.max) if array.dtype.kind != "f" else (array < float(limits.max) + (1 if limits.bits < 64 else 0)))
    _check_rows(column, array, fits, "expected {type} (" + f"{limits.min} … {limits.max})")
    return array.astype(column.type)


def _check_rows(column: Column, array: np.ndarray, good: np.ndarray, expected: str) -> None:
    if not good.all():
        row = int((~good).argmax())
        raise SignatureMismatch(f"{expected.format(type=column.type)}, got {_shown(array[row].item())}", column=column.name, row=row)


def _check_floats(column: Column, array: np.ndarray, given: np.ndarray | None = None) -> np.ndarray:
    """The array, once it holds no missing and no infinite number that its column may not hold; *given* is what it was made of."""
    import numpy as np

    with np.errstate(over="ignore", invalid="ignore"):
        fine = math.isfinite(squares(array))  # one sum tells of most arrays that all is well
    if not fine:
        _check_missing(column, np.isnan(array))
        if not column.infinite:
            _check_rows(column, array if given is None else given, ~np.isinf(array), "expected a finite number ({type})")
    return array


def squares(numbers: np.ndarray) -> float:
    """The sum of a flat array's squares, in parts so short that BLAS wakes no threads for them: these go on spinning for a while."""
    if len(numbers) <= _ON_ONE_THREAD:
        return numbers.dot(numbers)
    parts = (numbers[first : first + _ON_ONE_THREAD] for first in range(0, len(numbers), _ON_ONE_THREAD))
    return sum(part.dot(part) for part in parts)


_ON_ONE_THREAD = 8192


def _check_missing(column: Column, gone: np.ndarray) -> None:
    if not column.nullable and gone.any():
        _raise_missing(column, int(gone.argmax()))


def _raise_missing(column: Column, row: int) -> None:
    raise SignatureMismatch(
        f"expected {column.type}, got a missing value",
        column=column.name,
        row=row,
        hint="fill it, or register with data that misses values here",
    )


def _from_list(column: Column, values: Sequence[Any]) -> np.ndarray:
    """A list as the column's type.  The set of its members' types decides, so that plain numbers cost no Python loop."""
    import numpy as np

    type_, kinds = column.type, set(map(type, values))
    if len(kinds) == 1 and _OWN_KIND.get(type_) in kinds:
        return _own(column, values)
    if type(None) in kinds:
        if not column.nullable:
            _raise_missing(column, next(row for row, value in enumerate(values) if value is None))
        kinds.discard(type(None))
    if type_ == "json":
        return _objects(values)
    if type_ == "string":
        return _texts(column, values, kinds)
    if type_ == "datetime":
        return _moments(column, values, kinds)
    if type_ == "bool":
        return _truths(column, values, kinds)
    if type_.startswith("float"):
        return _floats(column, values, kinds)
    if None in values:
        present = [row for row, value in enumerate(values) if value is not None]
        return _with_gaps(len(values), present, _ints(column, [values[row] for row in present], kinds).tolist())
    return _ints(column, values, kinds) if len(values) else np.array([], dtype=type_)


_OWN_KIND: dict[str, type] = {"float64": float, "float32": float, "int64": int, "string": str, "bool": bool}


def _own(column: Column, values: Sequence[Any]) -> np.ndarray:
    """The common case, kept short for speed: every member already is of the column's kind."""
    import numpy as np

    if column.type == "string":
        return _objects(values)
    if column.type == "int64":
        try:
            return np.array(values, dtype=np.int64)
        except OverflowError:
            return _ints(column, values, {int})
    if column.type == "float32":
        return _floats(column, values, {float})
    array = np.array(values)
    return _check_floats(column, array) if array.dtype.kind == "f" else array


def _with_gaps(rows: int, present: list[int], values: list[Any]) -> np.ndarray:
    import numpy as np

    array = np.full(rows, None, dtype=object)
    for row, value in zip(present, values, strict=True):
        array[row] = value
    return array


def _texts(column: Column, values: Sequence[Any], kinds: set[type]) -> np.ndarray:
    if kinds <= {str}:
        return _objects(values)
    _refuse_other(column, values, kinds, lambda kind: issubclass(kind, str | bytes))
    try:
        return _objects([value.decode() if isinstance(value, bytes) else (None if value is None else str(value)) for value in values])
    except UnicodeDecodeError as error:
        raise SignatureMismatch(f"expected text in UTF-8 ({error.reason})", column=column.name) from None


def _moments(column: Column, values: Sequence[Any], kinds: set[type]) -> np.ndarray:
    import numpy as np

    _refuse_other(column, values, kinds, lambda kind: issubclass(kind, str | date) or kind is np.datetime64)
    texts = [_moment(column, value, row) for row, value in enumerate(values)]
    array = np.array(texts, dtype="datetime64")
    if array.dtype == "datetime64":  # nothing but NaT: give it a unit
        array = array.astype("datetime64[us]")
    _check_missing(column, np.isnat(array))
    return array


def _moment(column: Column, value: Any, row: int) -> Any:
    import numpy as np

    if value is None or isinstance(value, np.datetime64):
        return "NaT" if value is None else value
    try:
        text = value.isoformat() if isinstance(value, date) else value
        text = _in_utc(text)
        np.datetime64(text)
    except ValueError:
        raise SignatureMismatch(f"expected a date and time in ISO 8601, got {_shown(value)}", column=column.name, row=row, hint="2013-01-31T17:05:00") from None
    return text


def _in_utc(text: str) -> str:
    text = text.strip()
    if text.endswith(("Z", "z")):
        return text[:-1]
    if len(text) > 19 and (text[-6:-5] in "+-" or text[-5:-4] in "+-"):
        return datetime.fromisoformat(text).astimezone(UTC).replace(tzinfo=None).isoformat()
    return text


def _truths(column: Column, values: Sequence[Any], kinds: set[type]) -> np.ndarray:
    import numpy as np

    _refuse_other(column, values, kinds, _is_bool)
    return _objects([None if value is None else bool(value) for value in values]) if None in values else np.array(values, dtype=bool)


def _floats(column: Column, values: Sequence[Any], kinds: set[type]) -> np.ndarray:
    import numpy as np

    if str in kinds:
        values = [_SPELLED.get(value, value) if isinstance(value, str) else value for value in values]
        kinds = set(map(type, values)) - {type(None)}
    _refuse_other(column, values, kinds, _is_number)
    with np.errstate(over="ignore"):
        try:
            given = np.array(values, dtype=np.float64)
            array = given.astype(column.type)
        except OverflowError:
            row = next(row for row, value in enumerate(values) if isinstance(value, int) and abs(value) > 10**308)
            raise SignatureMismatch(f"expected {column.type}, got a number too large", column=column.name, row=row) from None
        return _check_floats(column, array, given)


def _ints(column: Column, values: Sequence[Any], kinds: set[type]) -> np.ndarray:
    import numpy as np

    _refuse_other(column, values, kinds, _is_number)
    if not all(_is_int(kind) for kind in kinds):
        row = next((row for row, value in enumerate(values) if value != value or value in (math.inf, -math.inf) or value != int(value)), None)
        if row is not None:
            raise SignatureMismatch(f"expected whole numbers ({column.type}), got {_shown(values[row])}", column=column.name, row=row)
        values = [int(value) for value in values]
    try:
        return _whole(column, np.array(values, dtype=np.uint64 if column.type == "uint64" and min(values, default=0) >= 0 else np.int64))
    except OverflowError:
        limits = np.iinfo(column.type)
        row = next(row for row, value in enumerate(values) if not limits.min <= value <= limits.max)
        raise SignatureMismatch(f"expected {column.type} ({limits.min} … {limits.max}), got {_shown(values[row])}", column=column.name, row=row) from None


def _refuse_other(column: Column, values: Sequence[Any], kinds: set[type], fits: Callable[[type], bool]) -> None:
    wrong = {kind for kind in kinds if not fits(kind)}
    if wrong:
        _refuse(column, values, next(row for row, value in enumerate(values) if type(value) in wrong))


def _refuse(column: Column, values: Sequence[Any], row: int) -> Any:
    raise SignatureMismatch(f"expected {column.type}, got {_shown(values[row]) if len(values) else 'nothing'}", column=column.name, row=row)


def _shown(value: Any) -> str:
    kind = {str: "text", int: "the number", float: "the number", bool: "the truth value"}.get(type(value), type(value).__name__)
    text = repr(value)
    return f"{kind} {text if len(text) <= 60 else text[:57] + '…'}"


def _unfit(unknown: list[str], lacking: list[str], *, most: int = 8) -> str:
    named = [f"{what} {_columns(names, most)}" for what, names in (("unknown", unknown), ("missing", lacking)) if names]
    return f"The data does not fit the model: {' and '.join(named)}."


def _columns(names: list[str], most: int) -> str:
    return f"column{'s' * (len(names) > 1)} {listed([repr(name) for name in names], most=most)}"


# ── back to frames and JSON ──────────────────────────────────────────────────────────────────────────────────────────


def as_frame(columns: Mapping[str, np.ndarray], signature: Signature | None = None) -> pd.DataFrame:
    """The DataFrame of *columns*; with a signature, of the dtypes (categories, nullable types, time zones) the model was made with."""
    import pandas as pd

    known = {column.name: column for column in signature.inputs} if signature else {}
    return pd.DataFrame({name: _series_of(array, known.get(name)) for name, array in columns.items()})


def _series_of(array: np.ndarray, column: Column | None) -> pd.Series:
    import pandas as pd

    if column is None:
        return pd.Series(array.tolist() if array.dtype.kind == "O" else array)
    if column.dtype == "category":
        return _categorical(array, column)
    if column.dtype == "object" or column.type == "json":
        return _object_series(array, column)
    series = pd.Series(array.tolist() if array.dtype.kind == "O" else array, dtype=_dtype_for(array, column))
    return series if not column.dtype or str(series.dtype) == column.dtype else _recast(series, column.dtype)


def _object_series(array: np.ndarray, column: Column) -> pd.Series:
    import pandas as pd

    gap = None if column.missing == "None" else math.nan
    values = array.astype("M8[us]").tolist() if array.dtype.kind == "M" else array.tolist()
    return pd.Series([gap if value is None else value for value in values], dtype=object)


def _dtype_for(array: np.ndarray, column: Column) -> str | None:
    """A dtype that can hold these values and their gaps; None lets pandas choose."""
    if column.type in ("string", "json") or array.dtype.kind != "O":
        return None
    if column.type == "bool":
        return "boolean"
    return column.type.replace("uint", "UInt").replace("int", "Int") if column.type.startswith(("int", "uint")) else None


def _categorical(array: np.ndarray, column: Column) -> pd.Series:
    """A category the model never saw is added at the end, so that the model, not we, decides about it."""
    import pandas as pd

    categories = list(column.categories or [])
    values = pd.Series(array.tolist()) if array.dtype.kind == "O" else pd.Series(array)
    if column.type == "datetime":
        categories = list(pd.to_datetime(categories))
    known = set(categories)
    unseen = [value for value in dict.fromkeys(values.dropna().tolist()) if value not in known]
    return pd.Series(pd.Categorical(values, categories=categories + unseen))


def _recast(series: pd.Series, dtype: str) -> pd.Series:
    """The column under the dtype the model knew; as it is where these values cannot take it."""
    try:
        if dtype.startswith("datetime64") and "," in dtype:
            return series.dt.tz_localize("UTC").astype(dtype)
        if dtype.startswith("timedelta64"):
            return series.astype("timedelta64[ns]").astype(dtype)
        return series.astype(dtype)
    except (TypeError, ValueError):
        return series


def as_lists(columns: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Columns as JSON carries them: NaN and NaT as null, infinities spelled out, dates in ISO 8601."""
    return {name: _jsonable(_array(values)) for name, values in columns.items()}


def _jsonable(array: np.ndarray) -> list[Any]:
    import numpy as np

    kind = array.dtype.kind
    if kind == "M":
        return [_iso(value) for value in array] if array.ndim == 1 else [_jsonable(row) for row in array]
    if kind == "m":
        return [None if np.isnat(value) else int(value.astype("m8[ns]").astype(np.int64)) for value in array]
    if kind == "f" and not np.isfinite(array).all():
        return _plain_value(array.tolist())
    return _plain_value(array.tolist()) if kind in "OS" else array.tolist()


def _iso(value: np.datetime64) -> str | None:
    import numpy as np

    return None if np.isnat(value) else str(value)


def _plain_value(value: Any) -> Any:
    """One value as JSON carries it; what JSON has no word for is given as text."""
    if isinstance(value, float):
        return value if math.isfinite(value) else (None if value != value else ("Infinity" if value > 0 else "-Infinity"))
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain_value(member) for member in value]
    if isinstance(value, Mapping):
        return {str(key): _plain_value(member) for key, member in value.items()}
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, date):
        return (value.astimezone(UTC).replace(tzinfo=None) if isinstance(value, datetime) and value.tzinfo else value).isoformat()
    if isinstance(value, Decimal):
        return float(value)
    return _plain_value(value.tolist()) if hasattr(value, "tolist") and hasattr(value, "dtype") else str(value)
