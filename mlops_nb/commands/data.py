"""Commands on data sets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from ..grammar import face
from ..reference import ModelRef
from ..shapes import Listing
from ..vocabulary import A_DATASET, A_DATASET_NAME, A_TAG, DATA
from .group import mlops

if TYPE_CHECKING:
    from ..store.datasets import DatasetVersion


@mlops.group(heading="Data")
def dataset() -> None:
    """Register data sets."""


@dataset.command(
    "register",
    examples=["%dataset register flights_q1 df --description 'flights of January to March'", "dataset register flights_q1 flights.csv --tag source=bts"],
)
@click.argument("name", type=A_DATASET_NAME)
@click.argument("data", type=DATA)
@click.option("--description", default="", metavar="TEXT", help="What these rows are.")
@click.option("--tag", "tags", type=A_TAG, multiple=True, help="A tag; may be repeated.")
def register_dataset(name: str, data: str, description: str, tags: Sequence[tuple[str, str]]) -> DatasetVersion:
    """Keep data as the next version of a data set.

    DATA is an expression in a notebook that gives a DataFrame, an array, a dict of columns or a list of records, or the path of a CSV, Parquet or JSON file.
    """
    from .. import datasets

    meant = face().meaning(data)
    with face().reporting(f"registering {name}") as report:
        report.step("copying, hashing and profiling the rows")
        version = datasets.register(name, meant, description=description, tags=dict(tags))
        report.step(f"{version.ref} holds {version.rows:,} rows")
    return version


@mlops.command("datasets", heading="Data", examples=["datasets", "datasets flights_q1"])
@click.argument("ref", type=A_DATASET, required=False)
def list_datasets(ref: ModelRef | None) -> DatasetVersion | Listing[DatasetVersion]:
    """List the data sets, or show one."""
    from .. import datasets

    if ref:
        return datasets.get(ref)
    return Listing(datasets.every(), what="data set", line="dataset register NAME DATA")
