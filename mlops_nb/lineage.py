"""What came from what: data and code → model version (→ package → image) → deployment → endpoint; and the way back."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any, Literal

import msgspec

from . import store
from .errors import LineageRootNotFound
from .reference import ModelRef
from .store import lineage as table
from .store import models

Kind = Literal["dataset", "run", "environment", "model", "package", "image", "deployment", "endpoint"]
KINDS: tuple[Kind, ...] = ("dataset", "run", "environment", "model", "package", "image", "deployment", "endpoint")


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """One recorded thing.  `id` is `kind:label`, such as `model:churn:3` or `endpoint:churn`."""

    id: str
    kind: Kind
    label: str
    details: dict[str, Any] = {}
    """What a person asks next, such as `rows`, `notebook`, `commit`, `status`; `missing` when only its name is still known."""


class Edge(msgspec.Struct, frozen=True, kw_only=True):
    """*source* went into *target*; `label` says how."""

    source: str
    target: str
    label: str


class Lineage(msgspec.Struct, frozen=True, kw_only=True):
    """A directed graph without cycles: every edge goes from what was used to what came of it."""

    nodes: list[Node]
    edges: list[Edge]


def graph(ref: str | None = None) -> Lineage:
    """Everything recorded; with *ref*, only that thing and what is up- and downstream of it.

    *ref* is a model version (`churn:3`, `churn@champion`), a deployment (`churn/3`), an endpoint, a dataset version, a bare
    model or dataset name (its newest version), or a node's id.  Where names coincide an endpoint goes before a model, and a
    model before a dataset; an id such as `dataset:churn:1` says which.  Raises LineageRootNotFound.
    """
    with store.reading() as tx:
        origins = table.origins(tx)
        aliased = _aliased(tx, ref)
    whole = _drawn(origins)
    return around(whole, root(whole, aliased or ref)) if ref else whole


def root(lineage: Lineage, ref: str) -> str:
    """The id of the node that *ref* names.  Raises LineageRootNotFound."""
    known = {node.id for node in lineage.nodes}
    newest = {
        f"{node.kind}:{_name(node)}": node.id for node in lineage.nodes if "missing" not in node.details
    }  # nodes stand oldest first, so the last one stays
    tries = [ref, *(f"{kind}:{ref}" for kind in ("endpoint", "model", "dataset", "deployment", "environment", "run"))]
    found = next((newest.get(name, name) for name in tries if name in known or name in newest), None)
    if found is None:
        raise LineageRootNotFound(ref, known=[node.label for node in lineage.nodes if node.kind != "run"])
    return found


def around(lineage: Lineage, id: str) -> Lineage:
    """The part of *lineage* that is *id*, upstream of it or downstream of it."""
    kept = {id} | _reached(lineage, id, forwards=False) | _reached(lineage, id, forwards=True)
    return Lineage(nodes=[n for n in lineage.nodes if n.id in kept], edges=[e for e in lineage.edges if e.source in kept and e.target in kept])


def upstream(lineage: Lineage, id: str) -> list[Node]:
    """All that *id* was made from: for a model version its data, code and environment."""
    reached = _reached(lineage, id, forwards=False)
    return [node for node in lineage.nodes if node.id in reached]


def downstream(lineage: Lineage, id: str) -> list[Node]:
    """All that came of *id*: for a dataset version the models trained on it and the endpoints that serve them."""
    reached = _reached(lineage, id, forwards=True)
    return [node for node in lineage.nodes if node.id in reached]


def live_endpoints(lineage: Lineage, id: str) -> list[str]:
    """Names of the endpoints where something made from *id* answers requests now."""
    healthy = {node.id for node in [*downstream(lineage, id), *(n for n in lineage.nodes if n.id == id)] if node.details.get("status") == "healthy"}
    return sorted({edge.target.removeprefix("endpoint:") for edge in lineage.edges if edge.source in healthy})


def _reached(lineage: Lineage, id: str, *, forwards: bool) -> set[str]:
    next_to = defaultdict(list)
    for edge in lineage.edges:
        here, there = (edge.source, edge.target) if forwards else (edge.target, edge.source)
        next_to[here].append(there)
    reached: set[str] = set()
    waiting = list(next_to[id])
    while waiting:
        node = waiting.pop()
        if node not in reached:
            reached.add(node)
            waiting += next_to[node]
    return reached


def _name(node: Node) -> str:
    return node.label.partition(":")[0] if node.kind in ("dataset", "model", "environment") else node.label


def _aliased(tx: store.Transaction, ref: str | None) -> str | None:
    """`churn@champion` as the version it stands for.  Raises ModelNotFound, AliasNotFound."""
    return models.get(tx, ModelRef.parse(ref)).ref if ref and "@" in ref else None


def _drawn(origins: table.Origins) -> Lineage:
    nodes = {node.id: node for node in _nodes(origins)}
    edges = list(_edges(origins))
    for id in [end for edge in edges for end in (edge.source, edge.target)]:
        if id not in nodes:
            kind, _, label = id.partition(":")
            nodes[id] = Node(id=id, kind=kind, label=label, details={"missing": True})  # type: ignore[arg-type]
    return Lineage(nodes=list(nodes.values()), edges=edges)


def _nodes(origins: table.Origins) -> Iterable[Node]:
    for row in origins.datasets:
        yield _node("dataset", f"{row['name']}:{row['version']}", row)
    for row in origins.runs:
        yield _node("run", row["id"], row)
    for row in origins.environments:
        yield _node("environment", f"{row['name']}:{row['version']}", row)
    for row in origins.models:
        yield _node("model", f"{row['model']}:{row['version']}", row)
    for row in origins.packages:
        yield _node("package", _package(row), row)
    for digest, row in {row["digest"]: row for row in origins.packages if row["digest"]}.items():
        yield _node("image", _short(digest), {name: row[name] for name in ("digest", "image", "pushed", "platform", "created_at")})
    for row in origins.deployments:
        yield _node("deployment", f"{row['endpoint']}/{row['name']}", row)
    for row in origins.endpoints:
        yield _node("endpoint", row["name"], row)


def _node(kind: Kind, label: str, row: dict[str, Any]) -> Node:
    return Node(id=f"{kind}:{label}", kind=kind, label=label, details={key: value for key, value in row.items() if value is not None})


def _package(row: dict[str, Any]) -> str:
    """A package by its content: an image's name can be given to another."""
    return str(row["content"][:12])


def _short(digest: str) -> str:
    """An image by its digest, as the docker command shows it."""
    return digest.removeprefix("sha256:")[:12]


def _edges(origins: table.Origins) -> Iterable[Edge]:
    """The environment is upstream of model and deployment alike: so everything made or run with it is downstream of it, and no
    other model that shares it is upstream of anything here."""
    uses_of_run = Counter(row["run"] for row in [*origins.datasets, *origins.models] if row["run"])
    for row in origins.datasets:
        if row["run"]:
            yield Edge(source=f"run:{row['run']}", target=f"dataset:{row['name']}:{row['version']}", label="registered")
    for row in origins.models:
        yield from _edges_to_model(row, shared_run=uses_of_run[row["run"]] > 1)
    for row in origins.packages:
        yield Edge(source=f"model:{row['model']}:{row['version']}", target=f"package:{_package(row)}", label="packaged as")
        if row["digest"]:
            yield Edge(source=f"package:{_package(row)}", target=f"image:{_short(row['digest'])}", label="built as")
    built = {name: row["digest"] for row in origins.packages if row["digest"] for name in (row["digest"], row["pushed"]) if name}
    environments = {f"{row['model']}:{row['version']}": row["environment"] for row in origins.models}
    for row in origins.deployments:
        yield from _edges_of_deployment(row, environments)
        if digest := built.get(row["image_id"]) or built.get(row["image"]):
            yield Edge(source=f"image:{_short(digest)}", target=f"deployment:{row['endpoint']}/{row['name']}", label="run by")


def _edges_to_model(row: dict[str, Any], *, shared_run: bool) -> Iterable[Edge]:
    """A run stands between its data and its model, unless it made more than this: then its data would seem to be in all of that."""
    model = f"model:{row['model']}:{row['version']}"
    if row["dataset"] and row["run"] and not shared_run:
        yield Edge(source=f"dataset:{row['dataset']}", target=f"run:{row['run']}", label="used by")
    elif row["dataset"]:
        yield Edge(source=f"dataset:{row['dataset']}", target=model, label="trained")
    if row["run"]:
        yield Edge(source=f"run:{row['run']}", target=model, label="made")
    if row["environment"]:
        yield Edge(source=f"environment:{row['environment']}", target=model, label="made in")


def _edges_of_deployment(row: dict[str, Any], environments: dict[str, str | None]) -> Iterable[Edge]:
    model, deployment = f"{row['model']}:{row['version']}", f"deployment:{row['endpoint']}/{row['name']}"
    yield Edge(source=f"model:{model}", target=deployment, label="runs as")
    if environments.get(model):
        yield Edge(source=f"environment:{environments[model]}", target=deployment, label="runs in")
    yield Edge(source=deployment, target=f"endpoint:{row['endpoint']}", label="answers for")
