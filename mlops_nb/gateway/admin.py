"""What Envoy says of itself, asked at its own door: a socket that only the owner can open."""

from __future__ import annotations

import http.client
import re
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec

from ..errors import GatewayUnreachable
from . import files
from .config import LISTENER, named_by

_COUNTED = {
    "upstream_rq_completed": "requests",
    "upstream_rq_2xx": "status_2xx",
    "upstream_rq_4xx": "status_4xx",
    "upstream_rq_5xx": "status_5xx",
    "upstream_rq_active": "active",
}
_TIMED = "upstream_rq_time"
_QUANTILES = {50: "p50_ms", 95: "p95_ms", 99: "p99_ms"}
_STAT = re.compile(rf"cluster\.(?P<name>[^.]+)\.(?P<what>{'|'.join([*_COUNTED, _TIMED])})")
_ASKED = rf"^cluster\.[^.]+\.({'|'.join([*_COUNTED, _TIMED])})$"


class _AtSocket(http.client.HTTPConnection):
    """HTTP over a socket in the file system."""

    def __init__(self, path: Path, *, timeout_seconds: float) -> None:
        super().__init__("localhost", timeout=timeout_seconds)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def ask(path: str, *, method: str = "GET", timeout_seconds: float = 2.0) -> bytes:
    """Envoy's answer.  Raises GatewayUnreachable when there is none, or a refusal."""
    connection = _AtSocket(files.admin_socket(), timeout_seconds=timeout_seconds)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        body = answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise GatewayUnreachable("its own socket", str(error)) from None
    finally:
        connection.close()
    if answer.status != 200:
        raise GatewayUnreachable("its own socket", f"{answer.status} {body[:200].decode(errors='replace')}")
    return body


def values(names: Iterable[str]) -> dict[str, Any]:
    """These of Envoy's counters, gauges and texts, as far as it has them.  Raises GatewayUnreachable."""
    pattern = "^(" + "|".join(re.escape(name) for name in names) + ")$"
    return {stat["name"]: stat["value"] for stat in _stats(pattern) if "name" in stat}


def serving(port: int) -> bool:
    """Whether Envoy is up and listens on *port*."""
    try:
        body = msgspec.json.decode(ask("/listeners?format=json"))
        listening = [status["local_address"]["socket_address"]["port_value"] for status in body.get("listener_statuses", [])]
        return port in listening and ask("/ready").startswith(b"LIVE")
    except GatewayUnreachable:
        return False


def active_requests() -> int:
    """How many requests Envoy is working on.  Raises GatewayUnreachable."""
    return sum(values([f"http.{LISTENER}.downstream_rq_active"]).values())


def counters() -> list[dict[str, Any]]:
    """Per deployment: `endpoint, deployment, requests, status_2xx, status_4xx, status_5xx, active, healthy, p50_ms, p95_ms, p99_ms`.

    Counted since its server was first routed to, or the gateway started; a restart of either begins at 0.  Percentiles are None until a
    few seconds after the first answer.  Raises GatewayUnreachable.
    """
    able = {name.rpartition("@")[0] for name in healthy_clusters()}
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for stat in _stats(_ASKED):
        if found := _STAT.fullmatch(stat.get("name", "")):
            _row(rows, found["name"])[_COUNTED[found["what"]]] += stat["value"]
        for name, quantiles in _percentiles(stat).items():
            _row(rows, name).update(quantiles)
    return [row | {"healthy": "/".join(named) in able} for named, row in sorted(rows.items())]


def _row(rows: dict[tuple[str, str], dict[str, Any]], stat: str) -> dict[str, Any]:
    named = endpoint, deployment = named_by(stat)
    nothing = dict.fromkeys(_COUNTED.values(), 0) | dict.fromkeys(_QUANTILES.values())
    return rows.setdefault(named, {"endpoint": endpoint, "deployment": deployment} | nothing)


def healthy_clusters() -> set[str]:
    """The clusters whose server passes its health check.  Raises GatewayUnreachable."""
    clusters = msgspec.json.decode(ask("/clusters?format=json")).get("cluster_statuses", [])
    return {cluster["name"] for cluster in clusters if any(_passes(host["health_status"]) for host in cluster.get("host_statuses", []))}


def _passes(health: dict[str, Any]) -> bool:
    return not health.get("failed_active_health_check") and health.get("eds_health_status") == "HEALTHY"


def _percentiles(stat: dict[str, Any]) -> dict[str, dict[str, float | None]]:
    """`{cluster: {p50_ms: …}}` of Envoy's block of histograms."""
    block = stat.get("histograms", {})
    at = {place: _QUANTILES[quantile] for place, quantile in enumerate(block.get("supported_quantiles", [])) if quantile in _QUANTILES}
    timed = {found["name"]: each["values"] for each in block.get("computed_quantiles", []) if (found := _STAT.fullmatch(each["name"]))}
    return {name: {called: quantiles[place]["cumulative"] for place, called in at.items()} for name, quantiles in timed.items()}


def _stats(pattern: str) -> list[dict[str, Any]]:
    return msgspec.json.decode(ask(f"/stats?format=json&filter={quote(pattern)}"))["stats"]
