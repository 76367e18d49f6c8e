"""What a model takes is inferred from its data, and enforced with words that name the column."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal

from mlops_nb.errors import SignatureMismatch
from mlops_nb.signature import Signature, as_frame, as_lists, infer, to_columns

THREE = {
    "int64": [1, 2, 3],
    "int8": np.array([1, 2, 3], dtype="int8"),
    "uint64": np.array([1, 2, 2**64 - 1], dtype="uint64"),
    "float64": [1.5, 2.0, 3.0],
    "float16": np.array([1, 2, 3], dtype="float16"),
    "bool": [True, False, True],
    "string": ["001", "1", "ü"],
    "datetime": pd.to_datetime(["2013-01-01T05:17:00.000000001", "2013-01-02", "2013-01-03"], format="ISO8601"),
    "json": [[1], [2, 3], {"a": None}],
}
PANDAS = {
    "Int64 with a gap": (pd.array([1, None, 3], dtype="Int64"), "int64?"),
    "UInt8": (pd.array([1, 2, 3], dtype="UInt8"), "uint8"),
    "boolean with a gap": (pd.array([True, None, False], dtype="boolean"), "bool?"),
    "Float32 with a gap": (pd.array([1.5, None, 2], dtype="Float32"), "float32?"),
    "string with a gap": (pd.array(["a", None, "c"], dtype="string"), "string?"),
    "str with a gap": (["a", None, "c"], "string?"),
    "floats with a gap": ([1.5, None, 2], "float64?"),
    "text categories with a gap": (pd.Categorical(["b", None, "a"], categories=["b", "a", "z"]), "string?"),
    "number categories": (pd.Categorical([3, 1, 3]), "int64"),
    "time in a zone with a gap": (pd.to_datetime(["2020-01-01T01:00", None, "2020-07-01"], format="ISO8601").tz_localize("Europe/Berlin"), "datetime?"),
    "durations with a gap": (pd.to_timedelta([1, None, 3], unit="s"), "int64?"),
    "months": (pd.period_range("2020-01", periods=3, freq="M"), "string"),
    "objects of text, None missing": (pd.Series(["a", None, "c"], dtype=object), "string?"),
    "objects of text, nan missing": (pd.Series(["a", np.nan, "c"], dtype=object), "string?"),
    "a mixture": (pd.Series([1, "a", None], dtype=object), "json?"),
    "nothing at all": (pd.Series([None, None, None], dtype=object), "json?"),
}  # fmt: skip


@pytest.mark.parametrize("type_", THREE)
def test_a_columns_type_is_inferred(type_: str):
    column = infer(pd.DataFrame({"x": THREE[type_]})).inputs[0]

    assert (column.type, column.nullable) == (type_, False)


@pytest.mark.parametrize("kind", PANDAS)
def test_what_pandas_knows_is_understood(kind: str):
    values, told = PANDAS[kind]

    assert str(infer(pd.DataFrame({"x": values})).inputs[0]) == f"x: {told}"


@pytest.mark.parametrize("kind", PANDAS)
def test_a_frame_comes_back_as_it_was_after_json(kind: str):
    frame = pd.DataFrame({"x": PANDAS[kind][0], "other": [1, 2, 3]}, index=[7, 7, 9])
    signature = infer(frame)
    sent = msgspec.json.decode(msgspec.json.encode(as_lists(to_columns(frame))))

    assert_frame_equal(as_frame(signature.check(sent), signature), frame.reset_index(drop=True))


@pytest.mark.parametrize("type_", THREE)
def test_every_type_goes_through_json_unchanged(type_: str):
    columns = to_columns(pd.DataFrame({"x": THREE[type_]}))
    signature = infer(columns)
    sent = msgspec.json.decode(msgspec.json.encode(as_lists(columns)))

    np.testing.assert_array_equal(signature.check(sent)["x"], signature.check(columns)["x"])


# ── the property ──

_GAPS = {"allow_nan": True, "allow_infinity": True}
COLUMNS = st.one_of(
    st.just("Int64").map(lambda d: (st.none() | st.integers(-(2**63), 2**63 - 1), d)),
    st.just("boolean").map(lambda d: (st.none() | st.booleans(), d)),
    st.just("float64").map(lambda d: (st.floats(**_GAPS), d)),
    st.just("Float64").map(lambda d: (st.none() | st.floats(allow_nan=False), d)),
    st.just("object").map(lambda d: (st.none() | st.text(), d)),
    st.just("object").map(lambda d: (st.none() | st.integers() | st.text() | st.booleans() | st.lists(st.integers(-9, 9), max_size=2), d)),
    st.just("str").map(lambda d: (st.none() | st.text(), d)),
    st.just("category").map(lambda d: (st.none() | st.sampled_from(["a", "001", "ü"]), d)),
    st.just("category").map(lambda d: (st.none() | st.integers(0, 3), d)),
    st.just("datetime64[us]").map(lambda d: (st.none() | st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 30)), d)),
    st.just("datetime64[us, Asia/Tokyo]").map(lambda d: (st.none() | st.datetimes(datetime(1800, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC)), d)),
    *(st.just(name).map(lambda d: (st.integers(int(np.iinfo(d).min), int(np.iinfo(d).max)), d)) for name in ("int8", "int32", "int64", "uint8", "uint64")),
    st.just("bool").map(lambda d: (st.booleans(), d)),
)  # fmt: skip


@st.composite
def frames(draw: st.DrawFn) -> pd.DataFrame:
    rows = draw(st.integers(0, 6))
    names = draw(st.lists(st.text(max_size=6), min_size=1, max_size=4, unique=True))
    columns = {}
    for name in names:
        values, dtype = draw(COLUMNS)
        columns[name] = pd.Series(draw(st.lists(values, min_size=rows, max_size=rows)), dtype=dtype)
    return pd.DataFrame(columns)


@given(frame=frames())
@settings(max_examples=300, deadline=None)
def test_the_frame_a_signature_was_inferred_from_always_validates(frame: pd.DataFrame):
    columns = infer(frame).check(to_columns(frame))

    assert [len(array) for array in columns.values()] == [len(frame)] * len(frame.columns)


@given(frame=frames())
@settings(max_examples=300, deadline=None)
def test_so_does_what_json_made_of_it(frame: pd.DataFrame):
    signature = Signature.from_json(msgspec.json.decode(msgspec.json.encode(infer(frame).as_json())))
    columns = to_columns(frame)
    huge = any(isinstance(v, int) and abs(v) >= 2**63 for a in columns.values() if a.dtype.kind == "O" for v in a)
    sent = as_lists(columns) if huge else msgspec.json.decode(msgspec.json.encode(as_lists(columns)))

    back, straight = as_frame(signature.check(sent), signature), as_frame(signature.check(columns), signature)
    if not any(column.type == "json" for column in signature.inputs):  # of other objects, JSON keeps the value and not the kind
        assert_frame_equal(back, straight)


@given(frame=frames())
@settings(max_examples=100, deadline=None)
def test_its_sample_validates_too(frame: pd.DataFrame):
    signature = infer(frame)

    assert len(signature.sample_columns()) == min(5, len(frame))


# ── enforcement ──

LATE = infer(
    pd.DataFrame({"carrier": ["UA"], "distance": [1.5], "hour": [7], "small": np.array([1], "uint8"), "day": pd.to_datetime(["2013-01-01"]), "on": [True]})
)
GOOD = {"carrier": ["UA", "AA"], "distance": [1.0, 2.0], "hour": [1, 2], "small": [1, 2], "day": ["2013-01-01", "2013-01-02T03:04:05Z"], "on": [True, False]}
BAD = {
    "a number for text": ({"carrier": ["UA", 1]}, "Column 'carrier' (row 1): expected string, got the number 1"),
    "text for a number": ({"distance": [1.0, "2"]}, "Column 'distance' (row 1): expected float64, got text '2'"),
    "a truth for a number": ({"distance": [True, 1.0]}, "Column 'distance' (row 0): expected float64, got the truth value True"),
    "a number for a truth": ({"on": [1, False]}, "Column 'on' (row 0): expected bool, got the number 1"),
    "half": ({"hour": [1, 2.5]}, "Column 'hour' (row 1): expected whole numbers (int64), got the number 2.5"),
    "infinity for a whole number": ({"hour": [1, float("inf")]}, "Column 'hour' (row 1): expected whole numbers (int64), got the number inf"),
    "an array of halves": ({"hour": np.array([1, 2.5])}, "Column 'hour' (row 1): expected whole numbers (int64), got the number 2.5"),
    "too large": ({"small": [1, 256]}, "Column 'small' (row 1): expected uint8 (0 … 255), got the number 256"),
    "negative": ({"small": np.array([-1, 1])}, "Column 'small' (row 0): expected uint8 (0 … 255), got the number -1"),
    "far too large": ({"hour": [1, 2**64]}, "Column 'hour' (row 1): expected int64"),
    "2**63 as a float": ({"hour": np.array([1.0, 2.0**63])}, "Column 'hour' (row 1): expected int64"),
    "missing": ({"distance": [1.0, None]}, "Column 'distance' (row 1): expected float64, got a missing value"),
    "nan": ({"distance": np.array([1.0, np.nan])}, "Column 'distance' (row 1): expected float64, got a missing value"),
    "missing text": ({"carrier": ["UA", None]}, "Column 'carrier' (row 1): expected string, got a missing value"),
    "no date": ({"day": ["2013-01-01", "yesterday"]}, "Column 'day' (row 1): expected a date and time in ISO 8601, got text 'yesterday'"),
    "a number for a date": ({"day": ["2013-01-01", 5]}, "Column 'day' (row 1): expected datetime, got the number 5"),
    "no list": ({"hour": 3}, "Column 'hour': expected a list of int64, got the number 3"),
    "a table in a column": ({"hour": np.ones((2, 2), int)}, "Column 'hour': expected one value a row, got an array of shape [2, 2]"),
    "other lengths": ({"hour": [1, 2, 3]}, "Column 'hour': it has 3 rows, 'carrier' has 2"),
    "a list for text": ({"carrier": ["UA", ["AA"]]}, "Column 'carrier' (row 1): expected string, got list ['AA']"),
}  # fmt: skip


@pytest.mark.parametrize("fault", BAD)
def test_what_does_not_fit_is_named_with_its_column_and_row(fault: str):
    change, message = BAD[fault]

    with pytest.raises(SignatureMismatch) as told:
        LATE.check(GOOD | change)

    assert str(told.value).startswith(message)


FINE = {
    "whole floats": {"hour": [1.0, 2]},
    "ints for floats": {"distance": [1, 2]},
    "another width": {"distance": np.array([1, 2], "float32"), "hour": np.array([1, 2], "int8")},
    "decimals": {"distance": [Decimal("1.5"), 2]},
    "numpy scalars": {"distance": [np.float32(1), np.int8(2)], "on": [np.True_, False]},
    "dates": {"day": [date(2013, 1, 1), datetime(2013, 1, 1, tzinfo=UTC)]},
    "bytes": {"carrier": [b"UA", "AA"]},
    "one column of a matrix": {"hour": np.array([[1], [2]])},
    "a series": {"hour": pd.Series([1, 2], index=[4, 5])},
}  # fmt: skip


@pytest.mark.parametrize("kind", FINE)
def test_what_means_the_same_is_taken(kind: str):
    columns = LATE.check(GOOD | FINE[kind])

    assert {name: array.dtype.kind for name, array in columns.items()} == {"carrier": "O", "distance": "f", "hour": "i", "small": "u", "day": "M", "on": "b"}


def test_columns_come_in_the_signatures_order():
    assert list(LATE.check(dict(reversed(GOOD.items())))) == list(GOOD)


def test_a_misspelt_column_gets_the_nearest_name():
    with pytest.raises(SignatureMismatch, match="unknown column 'distanse' and missing column 'distance'") as told:
        LATE.check({("distanse" if name == "distance" else name): values for name, values in GOOD.items()})

    assert told.value.hint == "did you mean distance?"


def test_a_zone_is_turned_into_utc():
    east = datetime(2013, 1, 1, 5, tzinfo=timezone(timedelta(hours=5)))

    days = LATE.check(GOOD | {"day": [east, "2013-01-01T05:00:00+05:00"]})["day"]

    assert [str(day)[:16] for day in days] == ["2013-01-01T00:00"] * 2


def test_nanoseconds_are_kept():
    assert str(LATE.check(GOOD | {"day": ["2013-01-01T00:00:00.123456789", "2013-01-01"]})["day"][0]).endswith(".123456789")


def test_two_columns_of_one_name_are_told():
    with pytest.raises(SignatureMismatch, match="'a'"):
        infer(pd.DataFrame([[1, 2]], columns=["a", "a"]))


def test_complex_numbers_are_told():
    with pytest.raises(SignatureMismatch, match="complex128"):
        infer({"z": np.array([1j])})


def test_an_unseen_category_is_kept_for_the_model_to_judge():
    frame = pd.DataFrame({"x": pd.Categorical(["a", "b"])})
    signature = infer(frame)

    made = as_frame(signature.check({"x": ["c", "a"]}), signature)["x"]

    assert (made.tolist(), made.cat.categories.tolist()) == (["c", "a"], ["a", "b", "c"])


# ── tensors, records and the rest ──


def test_a_matrix_is_one_tensor_called_input():
    signature = infer(np.zeros((4, 3), "float32"), outputs={"label": np.array([0, 1]), "probabilities": np.zeros((2, 2))})

    assert (signature.kind, str(signature.inputs[0])) == ("tensors", "input: float32[any, 3]")
    assert [str(column) for column in signature.outputs] == ["label: int64[any]", "probabilities: float64[any, 2]"]


def test_a_tensor_of_another_shape_is_told():
    with pytest.raises(SignatureMismatch, match=r"Column 'input': expected shape \[any, 3\], got \[1, 2\]"):
        infer(np.zeros((4, 3))).check({"input": [[1, 2]]})


@given(shape=st.lists(st.integers(0, 3), min_size=2, max_size=4), dtype=st.sampled_from(["float32", "float64", "int64", "uint8", "bool"]))
def test_tensors_of_any_rank_validate_and_go_through_json(shape: list[int], dtype: str):
    array = np.ones(shape, dtype)
    signature = infer(array)

    assert signature.check({"input": array})["input"].shape == array.shape
    if array.size:
        np.testing.assert_array_equal(signature.check(as_lists({"input": array}))["input"], array)


def test_a_dict_with_an_image_and_a_number_is_tensors():
    signature = infer({"image": np.zeros((2, 8, 8, 3), "uint8"), "age": np.array([1, 2])})

    assert [str(column) for column in signature.inputs] == ["image: uint8[any, 8, 8, 3]", "age: int64[any]"]


@pytest.mark.parametrize("data", [[{"a": 1, "b": "x"}, {"a": 2}], {"a": [1, 2], "b": ["x", None]}, pd.DataFrame({"a": [1, 2], "b": ["x", None]})])
def test_records_columns_and_frames_say_the_same(data: Any):
    signature = infer(data)

    assert (signature.kind, [str(column) for column in signature.inputs]) == ("table", ["a: int64", "b: string?"])
    assert signature.sample == [{"a": 1, "b": "x"}, {"a": 2, "b": None}]


def test_a_record_is_one_row():
    assert {name: array.tolist() for name, array in to_columns({"a": 1, "b": "x"}).items()} == {"a": [1], "b": ["x"]}


@pytest.mark.parametrize("data", [pd.Series(["good", "bad"], name="review"), ["good", "bad"]])
def test_texts_alone_are_a_series(data: Any):
    assert infer(data).series


def test_a_number_is_no_data():
    with pytest.raises(SignatureMismatch, match="int is not data"):
        to_columns(3)


def test_levels_of_column_names_are_joined():
    frame = pd.DataFrame([[1, 2]], columns=pd.MultiIndex.from_tuples([("a", 1), ("b", 2)]))

    assert [column.name for column in infer(frame).inputs] == ["a_1", "b_2"]


def test_pandas_is_not_imported_without_a_frame():
    code = "import sys; from mlops_nb import signature; signature.infer({'a': [1.0]}).check({'a': [1]}); print('pandas' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_a_lone_missing_column_may_be_what_the_model_predicts() -> None:
    with pytest.raises(SignatureMismatch) as caught:
        infer(pd.DataFrame({"distance": [1.0], "late": [True]})).check({"distance": [2.0]})

    assert "--target late" in caught.value.hint
