"""A first profile of a deployment: latency, throughput, CPU and memory by batch size, measured on the running server itself."""

from __future__ import annotations

import http.client
import time
import uuid
from pathlib import Path
from typing import Any

import msgspec
import psutil

from . import datasets, store
from .errors import BadOption, DeploymentNotFound, InvocationFailed
from .progress import SILENT, Reporter
from .reference import DeploymentRef, ModelRef
from .signature import Signature, as_lists, to_columns
from .store import checks, events, models
from .store import deployments as table
from .store.checks import Profile
from .store.deployments import Deployment

BATCHES = (1, 32, 256)
_SECONDS_EACH = 1.0
_MOST_REQUESTS = 500
NOT_CAPTURED = "x-mlops-uncaptured"
"""Header by which the profiler, which holds the server's token, keeps its own requests out of the telemetry."""


def profile(ref: DeploymentRef | str, *, batches: tuple[int, ...] = BATCHES, report: Reporter = SILENT) -> Profile:
    """Send a healthy deployment its model's own rows, one request after the other, about a second per batch size; keep and return what was measured.

    Latency is in ms as a client on this machine sees it without the gateway; CPU in percent of one core; memory is the
    server's resident MB.  The requests are kept out of the telemetry.
    Raises EndpointNotFound, DeploymentNotFound, BadOption when it is not healthy, InvocationFailed with the model's own error.
    """
    ref = ref if isinstance(ref, DeploymentRef) else DeploymentRef.parse(ref)
    deployment, version = _healthy(ref)
    if not version.signature:
        raise BadOption(f"{version.ref} has no signature, so there are no rows to send.", hint="register it with --data")
    rows = _rows(version, most=max(batches))
    points = []
    for batch in batches:
        report.step(f"measuring {batch} row{'s' * (batch > 1)} a request")
        points.append(_measured(deployment, _body(rows, batch), batch))
    result = Profile(
        id=str(uuid.uuid4()), endpoint=deployment.endpoint, deployment=deployment.name, model=deployment.model, version=deployment.version,
        hardware=_hardware(deployment), points=points, time=store.now(),
    )  # fmt: skip
    with store.writing() as tx:
        checks.add_profile(tx, result)
        events.record(tx, "ModelProfiled", subject=deployment.ref, data={"hardware": result.hardware})
    return result


def _healthy(ref: DeploymentRef) -> tuple[Deployment, models.ModelVersion]:
    with store.reading() as tx:
        table.endpoint(tx, ref.endpoint)
        known = table.of(tx, ref.endpoint)
        found = next((d for d in known if ref.name in (None, d.name)), None)
        if not found:
            raise DeploymentNotFound(ref.endpoint, ref.name or "", known=[d.name for d in known])
        version = models.get(tx, ModelRef(found.model, version=found.version))
    if found.status != "healthy":
        raise BadOption(f"{found.ref} is {found.status}; only a healthy deployment can be measured.", hint=f"%mlops logs {found.ref}")
    return found, version


def _rows(version: models.ModelVersion, *, most: int) -> dict[str, list[Any]]:
    """Columns of at least *most* rows: the training data's own, else the signature's sample over and over."""
    signature = Signature.from_json(version.signature or {})
    names = [column.name for column in signature.inputs]
    if version.dataset and signature.kind == "table":
        columns = as_lists(to_columns(datasets.frame(version.dataset, columns=names, most=most)))
    elif isinstance(signature.sample, dict):
        columns = {name: list(signature.sample[name]) for name in names}
    else:
        columns = {name: [row[name] for row in signature.sample] for name in names}
    return {name: (values * (most // max(1, len(values)) + 1))[:most] for name, values in columns.items()}


def _body(rows: dict[str, list[Any]], batch: int) -> bytes:
    return msgspec.json.encode({"inputs": {name: values[:batch] for name, values in rows.items()}})


def _measured(deployment: Deployment, body: bytes, batch: int) -> dict[str, Any]:
    process = psutil.Process(deployment.handle["pid"])
    connection = http.client.HTTPConnection("127.0.0.1", deployment.handle["port"], timeout=60)
    headers = {"Content-Type": "application/json", "x-mlops-token": Path(deployment.handle["token_file"]).read_text(), NOT_CAPTURED: "1"}
    _ask(connection, deployment, body, headers)
    took: list[float] = []
    busy, began = _cpu_seconds(process), time.perf_counter()
    while len(took) < _MOST_REQUESTS and time.perf_counter() - began < _SECONDS_EACH:
        sent = time.perf_counter()
        _ask(connection, deployment, body, headers)
        took.append((time.perf_counter() - sent) * 1000)
    seconds = time.perf_counter() - began
    connection.close()
    return {
        "batch": batch,
        "requests": len(took),
        "p50_ms": _percentile(took, 50),
        "p95_ms": _percentile(took, 95),
        "p99_ms": _percentile(took, 99),
        "rows_per_second": len(took) * batch / seconds,
        "cpu_percent": (_cpu_seconds(process) - busy) / seconds * 100,
        "memory_mb": process.memory_info().rss / 1e6,
    }


def _ask(connection: http.client.HTTPConnection, deployment: Deployment, body: bytes, headers: dict[str, str]) -> None:
    connection.request("POST", "/score", body, headers)
    response = connection.getresponse()
    text = response.read()
    if response.status != 200:
        raise InvocationFailed(deployment.ref, response.status, text.decode(errors="replace")[:500])


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def _percentile(values: list[float], percent: float) -> float:
    """Nearest-rank percentile."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def _hardware(deployment: Deployment) -> str:
    cores = f", {deployment.spec.cpus:g} cores" if deployment.spec.cpus else ""
    return f"{deployment.spec.hardware}{cores}"
