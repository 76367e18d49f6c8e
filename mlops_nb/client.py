"""Ask an endpoint: data in, answers out, over the same HTTP anybody else would use."""

from __future__ import annotations

import http.client
import time
from typing import Any
from urllib.parse import urlsplit

import msgspec

from . import keys, store
from .errors import GatewayUnreachable, InvocationFailed
from .reference import ModelRef
from .safety import checked_url
from .settings import Workspace
from .store import deployments as table
from .store import models, state


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What an endpoint answered, which deployment answered it, and how long that took."""

    endpoint: str
    deployment: str
    request_id: str
    latency_ms: float
    """From sending the request to having the answer."""
    outputs: Any
    """Output name → one value per row; or whatever an entry script returned."""


def invoke(endpoint: str, data: Any, *, deployment: str | None = None) -> Answer:
    """Send *data* (a DataFrame, array, dict of columns or list of records; text goes as it is) to *endpoint*.

    *deployment* picks one and passes the split by.  Raises EndpointNotFound, DeploymentNotFound, GatewayUnreachable, and
    InvocationFailed with the server's own words.
    """
    with store.reading() as tx:
        table.endpoint(tx, endpoint)
        if deployment:
            table.get(tx, endpoint, deployment)
        running = {d.name: f"{d.model}:{d.version}" for d in table.of(tx, endpoint)}
        takes_raw = any(models.get(tx, ModelRef.parse(ref)).engine == "script" for ref in running.values())
        port = Workspace.current().settings().gateway_port or state.get(tx, "gateway_port") or 0
    sent = body(data, takes_raw=takes_raw)
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {keys.key(endpoint)}"}
    if deployment:
        headers["azureml-model-deployment"] = deployment
    began = time.perf_counter()
    status, answered, text = _sent("POST", f"http://127.0.0.1:{port}/{endpoint}/score", sent, headers)
    latency_ms = (time.perf_counter() - began) * 1000
    if status != 200:
        name = answered.get("azureml-model-deployment", "")
        raise InvocationFailed(endpoint, status, _said(text), model=running.get(name, ""), deployment=name if name in running else "")
    return Answer(
        endpoint=endpoint, deployment=answered.get("azureml-model-deployment", ""), request_id=answered.get("x-request-id", ""),
        latency_ms=latency_ms, outputs=_decoded(text),
    )  # fmt: skip


def ready(url: str, endpoint: str, *, deployment: str | None = None) -> str:
    """Why the endpoint at *url* (or this *deployment* of it) does not answer its health check, or an empty string when it does."""
    headers = {"Authorization": f"Bearer {keys.key(endpoint)}"} | ({"azureml-model-deployment": deployment} if deployment else {})
    try:
        status, _, text = _sent("GET", f"{url}/v2/health/ready", b"", headers)
    except GatewayUnreachable as error:
        return str(error)
    return "" if status == 200 else _said(text) or f"it answers {status}"


def body(data: Any, *, takes_raw: bool) -> bytes:
    """*data* as an endpoint takes it: a model's columns, or with *takes_raw* what entry scripts expect, `{"data": [rows]}`."""
    from . import signature

    if isinstance(data, bytes):
        return data
    if isinstance(data, str):
        return data.encode()
    if takes_raw and isinstance(data, dict | list):
        return msgspec.json.encode(data)
    if takes_raw and hasattr(data, "tolist"):
        return msgspec.json.encode({"data": data.tolist()})
    columns = signature.as_lists(signature.to_columns(data))
    return msgspec.json.encode({"data": _records(columns)} if takes_raw else {"inputs": columns})


def _records(columns: dict[str, list[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _sent(method: str, url: str, body: bytes, headers: dict[str, str]) -> tuple[int, Any, bytes]:
    parts = urlsplit(checked_url(url))
    timeout = Workspace.current().settings().request_timeout_seconds
    connection = http.client.HTTPConnection(parts.netloc, timeout=timeout)
    try:
        connection.request(method, parts.path, body, headers)
        response = connection.getresponse()
        return response.status, response.headers, response.read()
    except (OSError, http.client.HTTPException) as error:
        raise GatewayUnreachable(f"{parts.scheme}://{parts.netloc}", str(error)) from error
    finally:
        connection.close()


def _decoded(text: bytes) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text.decode(errors="replace")


def _said(text: bytes) -> str:
    told = _decoded(text)
    return str(told.get("error", told)) if isinstance(told, dict) else str(told)[:500]
