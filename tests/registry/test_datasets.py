"""Registered data: the same content is the same version, types stay what they are, the profile counts."""

from __future__ import annotations

from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pytest

from mlops_nb import datasets, errors
from mlops_nb.settings import Workspace

MIXED = pd.DataFrame(
    {
        "id": ["001", "002", None],
        "amount": [1.5, None, 3.0],
        "kind": pd.Categorical(["a", "b", "a"]),
        "when": pd.to_datetime(["2013-01-01", "2013-02-01", None]),
        'odd "name"; --': [1, 2, 3],
        "sure": [True, False, True],
    }
)


def test_types_and_missing_values_are_described(workspace: Workspace) -> None:
    version = datasets.register("mixed", MIXED)

    assert {c["name"]: (c["type"], c["nullable"]) for c in version.schema} == {
        "id": ("string", True), "amount": ("float64", True), "kind": ("string", False), "when": ("datetime", True),
        'odd "name"; --': ("int64", False), "sure": ("bool", False),
    }  # fmt: skip
    assert version.rows == 3
    assert datasets.frame("mixed", columns=["id"])["id"].tolist()[:2] == ["001", "002"]


def test_the_same_rows_are_the_same_version_and_others_the_next(workspace: Workspace) -> None:
    assert datasets.register("mixed", MIXED).ref == "mixed:1"
    assert datasets.register("mixed", MIXED.copy()).ref == "mixed:1"
    assert datasets.register("mixed", MIXED.assign(amount=0.0)).ref == "mixed:2"
    assert datasets.get("mixed").version == 2
    assert datasets.get("mixed:1").version == 1


def test_one_missing_value_in_many_rows_counts(workspace: Workspace) -> None:
    rows = pd.DataFrame({"x": [None, *range(200_000)]}, dtype="float64")
    assert datasets.register("many", rows).schema[0]["nullable"]


@pytest.mark.parametrize("suffix", ["csv", "parquet", "json"])
def test_files_are_taken_too(workspace: Workspace, tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"it's data.{suffix}"
    plain = pd.DataFrame({"a": [1, 2], "b": ["x", "y"]})
    if suffix == "csv":
        plain.to_csv(file, index=False)
    elif suffix == "json":
        plain.to_json(file, orient="records")
    else:
        duckdb.from_df(plain).write_parquet(str(file))

    assert datasets.register("from_file", file).rows == 2


def test_the_rows_of_an_array_are_rows(workspace: Workspace) -> None:
    version = datasets.register("matrix", np.arange(6.0).reshape(3, 2))

    assert version.rows == 3 and [column["name"] for column in version.schema] == ["column0", "column1"]
    assert datasets.frame("matrix").to_numpy().tolist() == [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]


def test_an_array_of_three_dimensions_is_no_table(workspace: Workspace) -> None:
    with pytest.raises(errors.BadOption, match=r"shape \(2, 3, 4\)") as caught:
        datasets.register("cube", np.zeros((2, 3, 4)))
    assert "X.reshape(len(X), -1)" in caught.value.hint


def test_distinct_values_are_counted_not_estimated(workspace: Workspace) -> None:
    values = np.random.default_rng(0).integers(0, 600, 900) / 7

    (profiled,) = datasets.register("counted", pd.DataFrame({"x": values})).profile

    assert profiled["unique"] == len(np.unique(values))


@pytest.mark.parametrize("columns", [["Age", "age"], ["x", "x"]])
def test_columns_that_a_table_cannot_tell_apart_are_refused(workspace: Workspace, columns: list[str]) -> None:
    with pytest.raises(errors.BadOption, match="one and the same"):
        datasets.register("twins", pd.DataFrame([[1, 2]], columns=columns))


def test_a_file_name_is_no_pattern(workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "data[1].csv").write_text("x\n1\n")
    (tmp_path / "data1.csv").write_text("x\n999\n")

    datasets.register("downloaded", tmp_path / "data[1].csv")

    assert datasets.frame("downloaded")["x"].tolist() == [1]
    assert datasets.read(tmp_path / "data[1].csv") == {"x": [1]}


@pytest.mark.parametrize(("data", "kind"), [("nowhere.csv", errors.FileMissing), ("setup.exe", errors.FileMissing), (object(), errors.BadOption)])
def test_what_is_no_table_is_refused_and_nothing_kept(workspace: Workspace, data: object, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        datasets.register("nothing", data)
    assert datasets.every() == []


def test_an_unknown_name_suggests_the_nearest(workspace: Workspace) -> None:
    datasets.register("customers", MIXED)
    with pytest.raises(errors.DatasetNotFound) as caught:
        datasets.get("custmers")
    assert caught.value.hint == "did you mean customers?"


def test_an_unknown_version_of_a_data_set_leads_to_the_data_sets(workspace: Workspace) -> None:
    datasets.register("customers", MIXED)
    with pytest.raises(errors.VersionNotFound) as caught:
        datasets.get("customers:7")
    assert caught.value.hint == "%mlops datasets customers"


def test_the_same_rows_registered_again_keep_what_is_said_of_them_now(workspace: Workspace) -> None:
    datasets.register("mixed", MIXED, description="first", tags={"team": "ops"})

    assert datasets.register("mixed", MIXED).description == "first"
    again = datasets.register("mixed", MIXED, description="January", tags={"stage": "trial"})

    assert (again.ref, again.description, again.tags) == ("mixed:1", "January", {"team": "ops", "stage": "trial"})
    assert datasets.get("mixed:1") == again


def test_a_dict_of_columns_and_a_list_of_records_are_tables(workspace: Workspace) -> None:
    columns = datasets.register("columns", {"id": ["001", "002", None], "amount": [1.5, None, 3.0], "count": [1, 2, 3]})
    records = datasets.register("records", [{"id": "001", "amount": 1.5, "count": 1}, {"id": "002", "count": 2}, {"amount": 3.0, "count": 3}])

    shape = [("id", "string", True), ("amount", "float64", True), ("count", "int64", False)]
    assert [(c["name"], c["type"], c["nullable"]) for c in columns.schema] == [(c["name"], c["type"], c["nullable"]) for c in records.schema] == shape
    assert datasets.frame("records")["id"].tolist()[:2] == ["001", "002"]
    assert datasets.frame("columns")["amount"].tolist()[::2] == datasets.frame("records")["amount"].tolist()[::2] == [1.5, 3.0]


def test_a_series_is_a_column_of_its_name(workspace: Workspace) -> None:
    assert datasets.register("named", pd.Series([1, 2], name="price")).schema[0]["name"] == "price"
    assert datasets.register("nameless", pd.Series([1, 2])).schema[0]["name"] == "value"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (None, "None is no table."),
        (42, "This int is no table."),
        ([1, 2], "This list is no table."),
        ([], "An empty list is no table."),
        ({}, "An empty dict is no table."),
        ({"a": [1, 2], "b": [1]}, "The columns are not of one length: a has 2, b has 1."),
        ({"a": [[1, 2], [3, 4]]}, "Column 'a' has rows of several values."),
        ({"Age": [1], "age": [2]}, "Columns 'Age' and 'age' are one and the same to a table."),
        (object(), "This object is no table."),
    ],
)
def test_what_is_no_table_is_refused_in_plain_words(workspace: Workspace, data: object, said: str) -> None:
    with pytest.raises(errors.BadOption) as refused:
        datasets.register("nothing", data)
    assert str(refused.value).startswith(said)
    assert datasets.every() == []
