"""Model versions, their aliases, tags and metrics."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any, Literal

import msgspec

from ..errors import AliasNotFound, ModelNotFound, VersionNotFound
from ..reference import ModelRef
from . import state
from .database import Transaction, now

_LAST_VERSION = "last_version/"


class StoredFile(msgspec.Struct, frozen=True, kw_only=True):
    """One file of a model: where it stands in the model's folder, and its content address."""

    path: str
    sha256: str
    bytes: int


class ModelVersion(msgspec.Struct, frozen=True, kw_only=True):
    """One registered version of a model.  Its files never change; tags, aliases and description may."""

    model: str
    version: int
    flavor: str
    """`sklearn`, `onnx`, `xgboost`, `lightgbm`, `torch`, `python` or `script`."""
    engine: Literal["onnxruntime", "python", "script"]
    """What answers requests: `onnxruntime`, `python` (the object itself) or `script` (an entry script)."""
    hash: str
    files: list[StoredFile]
    signature: dict[str, Any] | None = None
    """`mlops_nb.signature.Signature` as JSON."""
    metrics: dict[str, float] = {}
    tags: dict[str, str] = {}
    description: str = ""
    dataset: str | None = None
    """`name:version` of the training data."""
    environment: str | None = None
    """`name:version`."""
    run: str | None = None
    author: str = ""
    trusted: bool = False
    """Whether its pickles may be opened: written by this workspace, or vouched for by the user."""
    conversion: dict[str, Any] = {}
    """How the ONNX form came about: `to`, `equal`, `rows`, `max_difference`, or `reason` when there is none."""
    expected: StoredFile | None = None
    """The rows it was tried on when it was registered, with its answers; a rehearsal asks them again."""
    created_at: datetime
    aliases: list[str] = []

    @property
    def ref(self) -> str:
        """`churn:3`."""
        return f"{self.model}:{self.version}"

    @property
    def bytes(self) -> int:
        """Size of all its files."""
        return sum(file.bytes for file in self.files)


class Headline(msgspec.Struct, frozen=True, kw_only=True):
    """What a list shows of one version, read without its files and signature."""

    model: str
    version: int
    flavor: str
    description: str
    tags: dict[str, str]
    created_at: datetime
    aliases: list[str]
    versions: int
    """How many versions its model has."""

    @property
    def ref(self) -> str:
        """`churn:3`."""
        return f"{self.model}:{self.version}"


def add(tx: Transaction, version: ModelVersion) -> None:
    """Record *version* (without its aliases)."""
    fields = [field for field in version.__struct_fields__ if field != "aliases"]
    marks = ", ".join("?" * len(fields))
    tx.execute(f"INSERT INTO model_versions ({', '.join(fields)}) VALUES ({marks})", [getattr(version, field) for field in fields])


def names(tx: Transaction) -> list[str]:
    """Every model's name."""
    return [row["model"] for row in tx.rows("SELECT DISTINCT model FROM model_versions ORDER BY model")]


def next_version(tx: Transaction, model: str) -> int:
    """The number the next version gets; the number of a deleted newest version is not given twice."""
    newest = tx.value("SELECT max(version) FROM model_versions WHERE model = ?", [model])
    return max(newest or 0, _deleted(tx, model)) + 1


def _deleted(tx: Transaction, model: str) -> int:
    """The highest number that a deleted version had."""
    return int(tx.value("SELECT value::VARCHAR FROM workspace_state WHERE key = ?", [_LAST_VERSION + model]) or 0)


def with_hash(tx: Transaction, model: str, hash: str) -> ModelVersion | None:
    """The newest version of *model* that holds these very bytes."""
    number = tx.value("SELECT max(version) FROM model_versions WHERE model = ? AND hash = ?", [model, hash])
    return get(tx, ModelRef(model, version=number)) if number else None


def get(tx: Transaction, ref: ModelRef) -> ModelVersion:
    """The version that *ref* names.  Raises ModelNotFound, VersionNotFound, AliasNotFound."""
    number = ref.version
    if ref.alias:
        number = tx.value("SELECT version FROM aliases WHERE model = ? AND alias = ?", [ref.name, ref.alias])
    if number is None and not ref.alias:
        found = _first(tx, "SELECT * FROM model_versions v WHERE v.model = ? ORDER BY v.version DESC LIMIT 1", [ref.name])
    else:
        found = _first(tx, "SELECT * FROM model_versions v WHERE v.model = ? AND v.version = ?", [ref.name, number])
    if found:
        return found
    raise _why_not(tx, ref)


def _first(tx: Transaction, sql: str, values: list[Any]) -> ModelVersion | None:
    return next(iter(_with_aliases(tx, sql, values)), None)


def _with_aliases(tx: Transaction, sql: str, values: list[Any]) -> list[ModelVersion]:
    rows = tx.rows(sql, values)
    named: dict[tuple[str, int], list[str]] = {}
    for row in tx.rows("SELECT model, version, alias FROM aliases") if rows else []:
        named.setdefault((row["model"], row["version"]), []).append(row["alias"])
    return msgspec.convert([row | {"aliases": sorted(named.get((row["model"], row["version"]), []))} for row in rows], list[ModelVersion])


def _why_not(tx: Transaction, ref: ModelRef) -> Exception:
    known = [row["version"] for row in tx.rows("SELECT version FROM model_versions WHERE model = ?", [ref.name])]
    if not known:
        return ModelNotFound(ref.name, known=names(tx))
    if ref.alias:
        aliases = [row["alias"] for row in tx.rows("SELECT alias FROM aliases WHERE model = ?", [ref.name])]
        return AliasNotFound(ref.name, ref.alias, known=aliases)
    return VersionNotFound(ref.name, ref.version or 0, known=known)


def search(
    tx: Transaction,
    model: str | None = None,
    *,
    tags: Mapping[str, str] | None = None,
    text: str | None = None,
    metric: tuple[str, str, float] | None = None,
    most: int = 200,
    skip: int = 0,
) -> list[ModelVersion]:
    """Versions, newest first: of *model*, with every one of *tags*, with *text* in name, description or tags, with *metric* (name, comparison, value)."""
    where, values = _conditions(model, tags, text, metric)
    return _with_aliases(tx, f"SELECT * FROM model_versions v WHERE {where} ORDER BY v.created_at DESC, v.version DESC LIMIT ? OFFSET ?", [*values, most, skip])


def count(tx: Transaction, *, text: str | None = None) -> tuple[int, int]:
    """How many models and how many versions there are, with *text* as for `search`."""
    where, values = _conditions(None, None, text, None)
    row = tx.rows(f"SELECT count(DISTINCT v.model) AS models, count(*) AS versions FROM model_versions v WHERE {where}", values)[0]
    return row["models"], row["versions"]


def _conditions(model: str | None, tags: Mapping[str, str] | None, text: str | None, metric: tuple[str, str, float] | None) -> tuple[str, list[Any]]:
    where: list[str] = ["true"]
    values: list[Any] = []
    if model:
        where.append("v.model = ?")
        values.append(model)
    for key, value in (tags or {}).items():
        where.append("json_extract_string(v.tags, ?) = ?")
        values += ['$."' + key.replace('"', '\\"') + '"', value]
    if text:
        where.append("contains(lower(v.model || ' ' || v.description || ' ' || v.tags::VARCHAR), lower(?))")
        values.append(text)
    if metric:
        name, comparison, bound = metric
        where.append(f"json_extract(v.metrics, ?)::DOUBLE {_COMPARISONS[comparison]} ?")
        values += ['$."' + name.replace('"', '\\"') + '"', bound]
    return " AND ".join(where), values


def headlines(tx: Transaction, *, newest: int = 5, most_models: int = 50) -> list[Headline]:
    """The *newest* versions and all that bear an alias, of the models registered last: by model, newest first."""
    sql = """
        WITH recent AS (SELECT model, count(*) AS versions FROM model_versions GROUP BY model ORDER BY max(created_at) DESC, model LIMIT ?),
             named AS (SELECT model, version, list(alias ORDER BY alias) AS aliases FROM aliases GROUP BY model, version)
        SELECT v.model, v.version, v.flavor, v.description, v.tags, v.created_at, to_json(coalesce(named.aliases, [])) AS aliases, recent.versions
        FROM model_versions v JOIN recent USING (model) LEFT JOIN named USING (model, version)
        QUALIFY row_number() OVER (PARTITION BY v.model ORDER BY v.version DESC) <= ? OR named.aliases IS NOT NULL
        ORDER BY v.model, v.version DESC"""
    return tx.rows(sql, [most_models, newest], as_=Headline)


_COMPARISONS = {">": ">", "<": "<", ">=": ">=", "<=": "<=", "=": "=", "==": "="}


def set_alias(tx: Transaction, version: ModelVersion, alias: str, *, author: str) -> None:
    """Make *alias* name this version, taking it from any other."""
    drop_alias(tx, version.model, alias)
    tx.execute("INSERT INTO aliases VALUES (?, ?, ?, ?, ?)", [version.model, alias, version.version, now(), author])


def drop_alias(tx: Transaction, model: str, alias: str) -> None:
    """Make *alias* name nothing."""
    tx.execute("DELETE FROM aliases WHERE model = ? AND alias = ?", [model, alias])


def set_tags(tx: Transaction, version: ModelVersion, tags: Mapping[str, str]) -> None:
    """Replace this version's tags."""
    tx.execute("UPDATE model_versions SET tags = ? WHERE model = ? AND version = ?", [dict(tags), version.model, version.version])


def set_conversion(tx: Transaction, version: ModelVersion, *, engine: str, files: list[StoredFile], conversion: Mapping[str, Any]) -> None:
    """Record a form of the model made after its registration."""
    sql = "UPDATE model_versions SET engine = ?, files = ?, conversion = ? WHERE model = ? AND version = ?"
    tx.execute(sql, [engine, files, dict(conversion), version.model, version.version])


def delete(tx: Transaction, version: ModelVersion) -> None:
    """Forget this version; its number is not given again."""
    state.put(tx, _LAST_VERSION + version.model, max(version.version, _deleted(tx, version.model)))
    tx.execute("DELETE FROM aliases WHERE model = ? AND version = ?", [version.model, version.version])
    tx.execute("DELETE FROM model_versions WHERE model = ? AND version = ?", [version.model, version.version])


def is_trusted(tx: Transaction, sha256: str, *, places: Collection[str]) -> bool:
    """Whether a version that may be opened holds this very content at one of *places*."""
    rows = tx.rows("SELECT files FROM model_versions WHERE trusted AND contains(files::VARCHAR, ?)", [sha256])
    return any(file["sha256"] == sha256 and file["path"] in places for row in rows for file in row["files"])


def files_in_use(tx: Transaction) -> set[str]:
    """Content addresses that some model version or data set still needs."""
    models = tx.rows("SELECT files, expected FROM model_versions")
    data = tx.rows("SELECT file FROM datasets")
    expected = {row["expected"]["sha256"] for row in models if row["expected"]}
    return {file["sha256"] for row in models for file in row["files"]} | expected | {row["file"] for row in data}
