"""Changing what the gateway does while it serves, in an order that never leaves a request without a backend."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

from ..errors import GatewayRefused, GatewayUnreachable, MlopsError, PortInUse
from ..settings import Workspace
from . import admin, config, files
from .config import Route

_TAKEN_SECONDS = 5.0
_HEALTHY_SECONDS = 2.0
_WATCHED = {
    "listeners.json": "listener_manager.lds",
    "clusters.json": "cluster_manager.cds",
    "routing.json": f"http.{config.LISTENER}.rds.{config.LISTENER}",
}


def apply(routes: Iterable[Route], *, port: int) -> None:
    """Have the gateway serve exactly these endpoints on *port*; returns once it does.  Writes nothing when nothing changed.

    Without a running gateway the files are what it will start with.  Raises BadName, PortInUse, GatewayRefused.
    """
    routes = list(routes)
    wanted = {
        "listeners.json": config.listeners(port, files.folder() / "routing.json"),
        "clusters.json": config.clusters(routes),
        "routing.json": config.routing(routes, timeout_seconds=Workspace.current().settings().request_timeout_seconds),
    }
    before = {name: files.read(name) for name in wanted}
    if before == wanted:
        return  # the usual case: the agent asks several times a second
    _publish("clusters.json", _together(before["clusters.json"], wanted["clusters.json"]))
    fresh = config.carrying(routes) - _carried(before["routing.json"])
    _until(lambda: fresh <= admin.healthy_clusters(), seconds=_HEALTHY_SECONDS)  # Envoy's health check may lag behind the agent's
    _publish("routing.json", wanted["routing.json"])
    _publish("clusters.json", wanted["clusters.json"])
    _publish("listeners.json", wanted["listeners.json"])


def listen_on(port: int) -> None:
    """Have the gateway listen on *port*, without endpoints when it has none yet.  Raises PortInUse, GatewayRefused."""
    if files.read("routing.json"):
        _publish("listeners.json", config.listeners(port, files.folder() / "routing.json"))
    else:
        apply((), port=port)


def note_splits(changes: dict[str, int]) -> None:
    """Say that the routes in force carry out these changes of the split, endpoint → its number, to whoever waits for one."""
    files.write("splits.json", changes)


def splits_in_force() -> dict[str, int]:
    """The changes last noted; what an agent of an earlier version noted says nothing of them."""
    return {name: noted for name, noted in files.read("splits.json").items() if isinstance(noted, int)}


def _together(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """The clusters of both, so that neither the routes in force nor the next ones lead nowhere."""
    clusters = {cluster["name"]: cluster for cluster in [*old.get("resources", []), *new["resources"]]}
    return new if len(clusters) == len(new["resources"]) else config.discovered(list(clusters.values()))


def _publish(name: str, content: dict[str, Any]) -> None:
    """Replace one file and wait until Envoy works by it; what it refuses is put back.  Raises PortInUse, GatewayRefused."""
    before, refused, said = files.read(name), _refusals(name), files.log_end()
    if not files.write(name, content):
        return
    _until(lambda: _took(name, content) or _refusals(name) > refused, seconds=_TAKEN_SECONDS)
    if _refusals(name) > refused:
        files.write(name, before)
        raise _refusal(name, content, said)


def _refusal(name: str, content: dict[str, Any], said: int) -> MlopsError:
    if name == "listeners.json" and files.bind_failed(after=said):
        return PortInUse(content["resources"][0]["address"]["socket_address"]["port_value"])
    return GatewayRefused(name, files.log())


def _took(name: str, content: dict[str, Any]) -> bool:
    version, warming = f"{_WATCHED[name]}.version_text", "cluster_manager.warming_clusters"
    found = admin.values([version, warming])
    return found.get(version) == content["version_info"] and not found.get(warming)


def _refusals(name: str) -> int:
    """How many contents of this file Envoy has refused so far."""
    try:
        return sum(admin.values([f"{_WATCHED[name]}.update_rejected"]).values())
    except GatewayUnreachable:
        return 0


def _carried(routing: dict[str, Any]) -> set[str]:
    """The clusters that take a share by this routing."""
    hosts = [host for resource in routing.get("resources", []) for host in resource["virtual_hosts"]]
    shares = [rule.get("route", {}).get("weighted_clusters", {}).get("clusters", []) for host in hosts for rule in host["routes"]]
    return {cluster["name"] for clusters in shares for cluster in clusters}


def _until(true: Callable[[], bool], *, seconds: float) -> bool:
    """Wait for *true*, and say whether it came; a gateway that does not answer is not waited for, it reads its files when it starts."""
    deadline = time.monotonic() + seconds
    try:
        while not true():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.005)
    except GatewayUnreachable:
        return False
    return True
