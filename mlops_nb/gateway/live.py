"""Changing what the gateway does while it serves, in an order that never leaves a request without a backend."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

from ..errors import GatewayRefused, GatewayUnreachable
from ..settings import Workspace
from . import admin, config, files
from .config import Route

_TAKEN_SECONDS = 5.0
_HEALTHY_SECONDS = 2.0
_VERSIONS = {
    "listeners.json": "listener_manager.lds.version_text",
    "clusters.json": "cluster_manager.cds.version_text",
    "routing.json": f"http.{config.LISTENER}.rds.{config.LISTENER}.version_text",
}


def apply(routes: Iterable[Route], *, port: int) -> None:
    """Have the gateway serve exactly these endpoints on *port*; returns once it does.  Writes nothing when nothing changed.

    Without a running gateway the files are what it will start with.  Raises BadName, GatewayRefused when Envoy does not take them.
    """
    routes = list(routes)
    wanted = {
        "listeners.json": config.listeners(port, files.folder() / "routing.json"),
        "clusters.json": config.clusters(routes),
        "routing.json": config.routing(routes, timeout_seconds=Workspace.current().settings().request_timeout_seconds),
    }
    before = {name: files.read(name) for name in wanted}
    if before == wanted:
        return
    if not _running():
        for name, content in wanted.items():
            files.write(name, content)
        return
    _publish("clusters.json", _together(before["clusters.json"], wanted["clusters.json"]))
    _until(lambda: _healthy(config.carrying(routes) - _carried(before["routing.json"])), seconds=_HEALTHY_SECONDS)
    _publish("routing.json", wanted["routing.json"])
    _publish("clusters.json", wanted["clusters.json"])
    _publish("listeners.json", wanted["listeners.json"])


def _together(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """The clusters of both, so that neither the routes in force nor the next ones lead nowhere."""
    clusters = {cluster["name"]: cluster for cluster in [*old.get("resources", []), *new["resources"]]}
    return new if len(clusters) == len(new["resources"]) else config.discovered(list(clusters.values()))


def _publish(name: str, content: dict[str, Any]) -> None:
    """Write one file and wait until Envoy works by it.  Raises GatewayRefused."""
    if not files.write(name, content):
        return
    if not _until(lambda: _took(name, content["version_info"]), seconds=_TAKEN_SECONDS) and _running():
        raise GatewayRefused(name, files.folder() / "envoy.log")


def _took(name: str, version: str) -> bool:
    stat = _VERSIONS[name]
    found = admin.values([stat, "cluster_manager.warming_clusters"])
    return found.get(stat) == version and not found.get("cluster_manager.warming_clusters")


def _carried(routing: dict[str, Any]) -> set[str]:
    """The clusters that take a share by this routing."""
    hosts = [host for resource in routing.get("resources", []) for host in resource["virtual_hosts"]]
    shares = [rule.get("route", {}).get("weighted_clusters", {}).get("clusters", []) for host in hosts for rule in host["routes"]]
    return {cluster["name"] for clusters in shares for cluster in clusters}


def _healthy(clusters: set[str]) -> bool:
    """Whether Envoy's own health check has passed on all of these; one that fails it is not waited for long."""
    if not clusters:
        return True
    names = {name.rpartition("@")[0] for name in clusters}
    return names <= {f"{row['endpoint']}/{row['deployment']}" for row in admin.counters() if row["healthy"]}


def _running() -> bool:
    try:
        return admin.ask("/ready", timeout_seconds=1.0).startswith(b"LIVE")
    except GatewayUnreachable:
        return False


def _until(true: Callable[[], bool], *, seconds: float) -> bool:
    """Wait for *true*, and say whether it came; a gateway that ended meanwhile is waited for no longer."""
    deadline = time.monotonic() + seconds
    try:
        while not true():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.005)
    except GatewayUnreachable:
        return False
    return True
