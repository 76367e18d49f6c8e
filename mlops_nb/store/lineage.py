"""What came from what: the few columns of the other files' tables that lineage needs, without their large ones."""

from __future__ import annotations

from typing import Any

import msgspec

from .database import Transaction


class Origins(msgspec.Struct, frozen=True, kw_only=True):
    """Every recorded thing with the names of what it was made from; one dict per row, columns as in the tables."""

    datasets: list[dict[str, Any]]
    runs: list[dict[str, Any]]
    environments: list[dict[str, Any]]
    models: list[dict[str, Any]]
    packages: list[dict[str, Any]]
    deployments: list[dict[str, Any]]
    endpoints: list[dict[str, Any]]


def origins(tx: Transaction) -> Origins:
    """Everything in the store, oldest first, as one state of it."""
    return Origins(
        datasets=tx.rows("SELECT name, version, rows, bytes, hash, author, run, created_at FROM datasets ORDER BY created_at"),
        runs=tx.rows(
            "SELECT id, kind, notebook, json_array_length(cells) AS cells, json_extract_string(git, '$.commit') AS commit,"
            " json_extract(git, '$.dirty')::VARCHAR = 'true' AS dirty, author, host, python, started_at FROM runs ORDER BY started_at"
        ),
        environments=tx.rows("SELECT name, version, python, json_array_length(packages) AS packages, created_at FROM environments ORDER BY created_at"),
        models=tx.rows("SELECT model, version, flavor, engine, dataset, environment, run, author, created_at FROM model_versions ORDER BY created_at"),
        packages=tx.rows("SELECT content, model, version, target, base, platform, image, digest, pushed, time AS created_at FROM packages ORDER BY time"),
        deployments=tx.rows(
            "SELECT endpoint, name, model, version, target, json_extract_string(spec, '$.hardware') AS hardware, status, wanted, created_at,"
            " json_extract_string(spec, '$.options.image_id') AS image_id, json_extract_string(spec, '$.options.image') AS image"
            " FROM deployments ORDER BY created_at"
        ),
        endpoints=tx.rows("SELECT name, author, created_at FROM endpoints ORDER BY created_at"),
    )
