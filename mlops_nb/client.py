"""Ask an endpoint: data in, answers out, over the same HTTP anybody else would use."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec

from . import keys, store
from .errors import GatewayUnreachable, InvocationFailed
from .reference import ModelRef
from .safety import checked_url
from .settings import Workspace
from .store import deployments as table
from .store import models, state

if TYPE_CHECKING:
    import numpy as np

_BINARY_VALUES = 256
"""From so many numbers on, a request goes out in bytes: below, JSON is as quick and can be read in a log."""


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
        gateway = state.gateway_url(tx)
    sent = body(data, takes_raw=takes_raw)
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {keys.key(endpoint)}"}
    if deployment:
        headers["azureml-model-deployment"] = deployment
    began = time.perf_counter()
    status, answered, text = _sent("POST", f"{gateway}/{endpoint}/score", sent, headers)
    latency_ms = (time.perf_counter() - began) * 1000
    if status != 200:
        name = answered.get("azureml-model-deployment", "")
        raise InvocationFailed(endpoint, status, _said(text), model=running.get(name, ""), deployment=name if name in running else "")
    return Answer(
        endpoint=endpoint, deployment=answered.get("azureml-model-deployment", ""), request_id=answered.get("x-request-id", ""),
        latency_ms=latency_ms, outputs=_decoded(text),
    )  # fmt: skip


class Client:
    """Asks one endpoint over connections that stay open, one for each thread that uses it.

    `Client("delays").predict(frame)` finds the address and the key in the workspace; elsewhere both are given: *url* is the
    endpoint's address as `%mlops endpoints` shows it, *key* what stands after `Bearer`.
    *deployment* passes the split by.  Numbers travel as binary tensors when that pays.
    """

    def __init__(self, endpoint: str, *, url: str | None = None, key: str | None = None, deployment: str | None = None) -> None:
        self.endpoint = endpoint
        self.url = checked_url(url.rstrip("/"), allowed_hosts={urlsplit(url).hostname or ""}) if url else _url_of(endpoint)
        self._headers = {"Authorization": f"Bearer {key or keys.key(endpoint)}"} | ({"azureml-model-deployment": deployment} if deployment else {})
        self._open = threading.local()

    def __repr__(self) -> str:
        return f"Client({self.endpoint!r}, url={self.url!r})"

    def predict(self, data: Any, *, outputs: list[str] | None = None) -> Any:
        """What the model says of *data*: for a DataFrame one with its index, else arrays by output name.

        An output of several numbers a row, such as probabilities, becomes the columns `probabilities_0`, `probabilities_1`, … of
        the frame.  *outputs* picks some.  Raises GatewayUnreachable, SignatureMismatch for data that no request can carry, and
        InvocationFailed with the server's own words, as for an endpoint that runs an entry script: that is asked by `rollout.invoke`.
        """
        from .signature import to_columns

        header, content = _request(to_columns(data), outputs)
        status, answered, text = self._sent(content, header)
        if status != 200:
            raise InvocationFailed(self.endpoint, status, _said(text))
        arrays = _arrays(text, int(answered.get("inference-header-content-length", len(text))))
        return _frame(arrays, data.index) if hasattr(data, "index") and hasattr(data, "iloc") else arrays

    def close(self) -> None:
        """Close this thread's connection."""
        if connection := self._open.__dict__.pop("connection", None):
            connection.close()

    def _sent(self, content: bytes, header: Mapping[str, str]) -> tuple[int, Any, bytes]:
        """The answer; a connection that the other side has closed meanwhile is opened anew, once."""
        path = f"{urlsplit(self.url).path}/v2/models/{self.endpoint}/infer"
        reused = "connection" in self._open.__dict__
        while True:
            connection = self._open.__dict__.setdefault("connection", None) or _connection(self.url)
            self._open.connection = connection
            try:
                connection.request("POST", path, content, self._headers | dict(header))
                response = connection.getresponse()
                return response.status, response.headers, response.read()
            except (OSError, http.client.HTTPException) as error:
                self.close()
                if reused and isinstance(error, ConnectionError):
                    reused = False
                    continue
                raise GatewayUnreachable(self.url, str(error)) from error


def _url_of(endpoint: str) -> str:
    with store.reading() as tx:
        table.endpoint(tx, endpoint)
        return f"{state.gateway_url(tx)}/{endpoint}"


def _connection(url: str) -> http.client.HTTPConnection:
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    return kind(parts.netloc, timeout=Workspace.current().settings().request_timeout_seconds)


def _request(columns: Mapping[str, np.ndarray], outputs: list[str] | None) -> tuple[dict[str, str], bytes]:
    """Headers and body of the protocol's request: numbers in bytes when there are many, else JSON."""
    from .serving import protocol

    binary: list[bytes] = []
    many = sum(array.size for array in columns.values() if array.dtype.kind in "biuf") >= _BINARY_VALUES
    tensors = [protocol.in_bytes(name, array, binary) if many and array.dtype.kind in "biuf" else _in_json(name, array) for name, array in columns.items()]
    asked: dict[str, Any] = {"inputs": tensors, "parameters": {"binary_data_output": many}}
    if outputs is not None:
        asked["outputs"] = [{"name": name} for name in outputs]
    text = msgspec.json.encode(asked)
    if not many:
        return {"Content-Type": "application/json"}, text
    return {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(text))}, b"".join([text, *binary])


def _in_json(name: str, array: np.ndarray) -> dict[str, Any]:
    """A column as a tensor in JSON, a missing value as null."""
    from . import signature
    from .serving import protocol

    shape, type_ = list(array.shape), signature.infer({name: array.ravel()}).inputs[0]
    values = signature.as_lists({name: array.ravel()})[name]
    if type_.type == "json":
        values = [None if value is None else msgspec.json.encode(value).decode() for value in values]
    return {"name": name, "shape": shape, "datatype": protocol.datatype_of(type_), "data": values}


class _Said(msgspec.Struct):
    outputs: list[Any]


def _arrays(text: bytes, length: int) -> dict[str, np.ndarray]:
    """The outputs by name, out of JSON and the bytes after it."""
    import numpy as np

    from .serving import protocol

    tensors = [msgspec.convert(output, protocol.Tensor) for output in msgspec.json.decode(text[:length], type=_Said).outputs]
    protocol.read_bytes(tensors, memoryview(text)[length:])
    dtypes = {tensor.name: object if tensor.datatype == "BYTES" else protocol.DATATYPES[tensor.datatype] for tensor in tensors}
    return {tensor.name: np.array(tensor.data, dtype=dtypes[tensor.name]).reshape(tensor.shape) for tensor in tensors}


def _frame(arrays: Mapping[str, np.ndarray], index: Any) -> Any:
    import pandas as pd

    columns: dict[str, Any] = {}
    for name, array in arrays.items():
        flat = array.reshape(len(array), -1)
        columns |= {name: array} if array.ndim == 1 else {f"{name}_{place}": flat[:, place] for place in range(flat.shape[1])}
    return pd.DataFrame(columns, index=index)


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
