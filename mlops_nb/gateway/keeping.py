"""Keeps the gateway running with the routes that the deployments call for: the agent has it take a step at every look."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .. import keys, splits, store
from ..errors import MlopsError, PortInUse
from ..ports import free_port
from ..settings import Workspace
from ..store import deployments as table
from ..store import state
from ..store.deployments import Deployment
from . import files, live, process
from .config import Backend, Route

log = logging.getLogger("mlops_nb.agent")

_LOOK_SECONDS = 0.5


class Keeper:
    """Keeps one gateway running with the routes that the deployments call for."""

    def __init__(self) -> None:
        self._handle: dict[str, Any] | None = None
        self._troubled = True  # until it is seen not to be: an earlier agent may have left its word
        self._looked_at = 0.0
        self._noted: dict[str, int] | None = None
        self._port = 0
        self._applied: tuple[Any, ...] = ()
        """What was last wanted, and the files as they were then: with the same again there is nothing to do."""

    def step(self, endpoints: Iterable[str], deployments: list[Deployment], changes: dict[str, table.TrafficChange]) -> None:
        """Bring routes and process in line."""
        endpoints = list(endpoints)
        if not endpoints and not self._handle:
            return
        settings = Workspace.current().settings()
        port = self._port = settings.gateway_port or self._port or _kept_port()
        routes = [_route(name, [d for d in deployments if d.endpoint == name], changes.get(name)) for name in endpoints]
        try:
            if self._applied != (wanted := (routes, port, settings.request_timeout_seconds, files.marks())):
                live.apply(routes, port=port)
                self._applied = wanted
        except MlopsError as error:  # what Envoy served before, it serves still
            self._troubled = True
            _note_trouble(error)
            return
        noted = {name: change.sequence for name, change in changes.items()}
        if self._noted != noted:
            live.note_splits(noted)
            self._noted = noted
        if time.monotonic() - self._looked_at < _LOOK_SECONDS and self._handle and not self._troubled:
            return
        self._looked_at = time.monotonic()
        self._handle = self._handle or _kept_handle()
        if not (self._handle and process.observe(self._handle)):
            self._handle = _started_gateway(routes, port)
            self._port = int((self._handle or {}).get("port") or port)
        if self._handle and self._troubled:
            self._troubled = False
            _note_trouble(None)

    @property
    def pids(self) -> set[int]:
        """Of its process, while there is one."""
        return {self._handle["pid"]} if self._handle else set()

    def stop(self) -> None:
        """End the gateway's process, this one's or one that an earlier agent started."""
        process.stop(self._handle or {})
        self._handle = None


def _kept_port() -> int:
    """The port of a gateway for which the user set none: picked once and kept."""
    with store.reading() as tx:
        kept = state.get(tx, "gateway_port")
    return kept or _new_port()


def _new_port() -> int:
    port = free_port()
    with store.writing() as tx:
        state.put(tx, "gateway_port", port)
    return port


def _started_gateway(routes: list[Route], port: int) -> dict[str, Any] | None:
    """Its handle, on another port where *port* is taken and the user did not choose it; None when there is none, and why is noted."""
    try:
        handle = _on_a_free_port(routes, port)
    except MlopsError as error:
        log.warning("gateway.failed port=%s %s", port, error)
        _note_trouble(error)
        return None
    log.info("gateway.started pid=%s port=%s", handle.get("pid"), handle.get("port"))
    with store.writing() as tx:
        state.put(tx, "gateway", handle)
        state.put(tx, "gateway_trouble", None)
    return handle


def _on_a_free_port(routes: list[Route], port: int) -> dict[str, Any]:
    try:
        return process.start(port)
    except PortInUse:
        if Workspace.current().settings().gateway_port:
            raise
    port = _new_port()
    live.apply(routes, port=port)
    return process.start(port)


def _note_trouble(error: MlopsError | None) -> None:
    """Keep why there is no gateway where every face finds it; tell it once, and take it back once it is over."""
    said = error.as_json() if error else None
    with store.reading() as tx:
        known = state.get(tx, "gateway_trouble")
    if known != said:
        with store.writing() as tx:
            state.put(tx, "gateway_trouble", said)


def _kept_handle() -> dict[str, Any] | None:
    with store.reading() as tx:
        return state.get(tx, "gateway")


def _route(endpoint: str, deployments: list[Deployment], change: table.TrafficChange | None) -> Route:
    reachable = {d.name: d for d in deployments if d.wanted == "running" and d.handle.get("port")}
    able = {d.name for d in reachable.values() if d.status == "healthy"}
    laid_out = change.slots or list(change.weights.items()) if change else []
    slots = [(name, count) for name, count in splits.able_slots(laid_out, able) if name in reachable and count > 0]
    shares: dict[str, int] = {}
    for name, count in slots:
        shares[name] = shares.get(name, 0) + count
    backends = [Backend(name=n, port=d.handle["port"], token=_read(d.handle["token_file"]), weight=shares.get(n, 0)) for n, d in reachable.items()]
    leaving = [d for d in deployments if d.wanted == "stopped" and d.status == "healthy" and d.handle.get("port")]
    mirrors = [(name, percent) for name, percent in change.mirrors.items() if name in able and percent] if change else []
    return Route(
        endpoint=endpoint, key=keys.key(endpoint), backends=tuple(backends), slots=tuple(slots), sticky=splits.sticky(change.sticky) if change else None,
        mirrors=tuple(mirrors), leaving=tuple(Backend(name=d.name, port=d.handle["port"], token="", weight=0) for d in leaving),
    )  # fmt: skip


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
