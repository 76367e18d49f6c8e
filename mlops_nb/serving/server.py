"""The server's loop: routes, requests in, answers out, everything counted and captured."""

from __future__ import annotations

import asyncio
import hmac
import secrets
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

from ..errors import MlopsError, SignatureMismatch
from ..signature import Column, Signature, as_lists
from ..version import __version__
from . import failures, openapi, protocol, score
from .azure import AMLRequest
from .capture import Capture, Record
from .engines import Arrays, Engine, predict
from .entry import Desk, EntryScript
from .metrics import Metrics
from .spec import NOT_CAPTURED, ServerSpec

MOST_BYTES = 256_000_000
INLINE_ROWS = 256
"""Larger batches run beside the loop, so that health answers meanwhile."""
_JSON = ("application/json", "text/json", "text/plain", "application/x-www-form-urlencoded")  # the last is what curl -d says

Handler = Callable[[Any, Any], Awaitable[None]]


class Refused(MlopsError):
    """A request that is answered with *status* before any model sees it."""

    def __init__(self, status: int, text: str, *, hint: str = "") -> None:
        super().__init__(text, hint=hint)
        self.http_status = status


class Asked(NamedTuple):
    """A request as the engine takes it, and how to word its answer."""

    columns: Mapping[str, Any]
    word: Callable[[Arrays, str], Any]
    id: str = ""


class Server:
    """One deployment's HTTP face.  Granian calls it with (scope, protocol) for every request (its RSGI interface)."""

    def __init__(self, spec: ServerSpec, engine: Engine, capture: Capture, *, outputs: list[Column], quick: bool) -> None:
        self.spec, self.engine, self.capture = spec, engine, capture
        self.signature: Signature | None = engine.signature
        self.outputs = outputs
        self.metrics = Metrics(endpoint=spec.endpoint, deployment=spec.deployment, model=spec.model, version=str(spec.version))
        self.in_flight = 0
        self._script = Desk(engine, spec) if isinstance(engine, EntryScript) else None
        self._inline = engine.inline and quick
        self._pool = ThreadPoolExecutor(max_workers=2 if engine.inline else 1, thread_name_prefix="model")
        self._token = Path(spec.token_file).read_text().strip().encode()
        self._encode = msgspec.json.Encoder(enc_hook=protocol.plain).encode
        self._process, self._numbers = secrets.token_hex(6), count(1)
        self._told_at = float("-inf")
        self._routes = self._table()

    # ── routes ──

    def _table(self) -> dict[str, tuple[str, Handler]]:
        routes: dict[str, tuple[str, Handler]] = {
            "/v2/health/live": ("GET", self._page({"live": True})),
            "/v2/health/ready": ("GET", self._page({"ready": True})),
            "/v2": ("GET", self._page({"name": "mlops_nb", "version": __version__, "extensions": []})),
            "/score": ("GET POST", self._run_script) if self._script else ("POST", partial(self._ask, self._read_score)),
            "/metrics": ("GET", self._metrics_page),
            "/swagger.json": ("GET", self._page(openapi.document(self.spec, self.signature, self.outputs))),
        }
        for name in dict.fromkeys((self.spec.endpoint, self.spec.model)):
            for base in (f"/v2/models/{name}", f"/v2/models/{name}/versions/{self.spec.version}"):
                routes[base] = ("GET", self._page(self._metadata(name)))
                routes[f"{base}/ready"] = ("GET", self._page({"name": name, "ready": True}))
                routes[f"{base}/infer"] = ("POST", partial(self._ask, self._read_infer))
        return routes

    def _metadata(self, name: str) -> dict[str, Any]:
        table = self.signature is not None and self.signature.kind == "table"
        return {
            "name": name,
            "versions": [str(self.spec.version)],
            "platform": f"{self.spec.flavor}_{self.engine.name}",
            "inputs": [protocol.described(column, table=table) for column in (self.signature.inputs if self.signature else [])],
            "outputs": [protocol.described(column, table=False) for column in self.outputs],
            "parameters": {
                "model": self.spec.model,
                "deployment": self.spec.deployment,
                "engine": self.engine.name,
                "execution_providers": self.engine.providers,
                "hardware": self.spec.hardware,
            },
        }

    def _runtime(self) -> dict[str, Any]:
        return {"engine": self.engine.name, "execution_providers": self.engine.providers}

    async def __rsgi__(self, scope: Any, proto: Any) -> None:
        """One request.  All but health wants the token, so that nobody gets around the gateway's keys."""
        path = scope.path
        if not hmac.compare_digest((scope.headers.get("x-mlops-token") or "").encode(), self._token) and not path.startswith("/v2/health/"):
            return self._refuse(proto, Refused(401, "Ask through the workspace's gateway: the header x-mlops-token is missing or wrong."))
        route = self._routes.get(path)
        if route is None:
            return self._refuse(proto, self._no_route(path))
        method, handler = route
        if scope.method not in method.split():
            return self._refuse(proto, Refused(405, f"{path} takes {' and '.join(method.split())}, not {scope.method}."))
        return await handler(scope, proto)

    def _no_route(self, path: str) -> Refused:
        parts = path.split("/")
        if parts[1:3] == ["v2", "models"] and len(parts) > 3 and parts[3] not in (self.spec.endpoint, self.spec.model):
            return Refused(404, f"No model {parts[3]!r} here; this is {self.spec.model!r} (version {self.spec.version}).")
        if parts[1:3] == ["v2", "models"] and len(parts) > 5 and parts[4] == "versions" and parts[5] != str(self.spec.version):
            return Refused(404, f"No version {parts[5]} of {self.spec.model!r} here; this is version {self.spec.version}.")
        return Refused(404, f"No route {path!r}.", hint=f"POST /score or /v2/models/{self.spec.endpoint}/infer")

    def _page(self, content: dict[str, Any]) -> Handler:
        body, headers = msgspec.json.encode(content), self._headers("")

        async def answer(scope: Any, proto: Any) -> None:
            proto.response_bytes(200, headers, body)

        return answer

    async def _metrics_page(self, scope: Any, proto: Any) -> None:
        capture = self.capture
        text = self.metrics.text(waiting=capture.waiting, dropped=capture.dropped, write_errors=capture.write_errors, in_flight=self.in_flight)
        proto.response_str(200, [("content-type", "text/plain; version=0.0.4; charset=utf-8")], text)

    # ── asking the model ──

    async def _ask(self, read: Callable[[bytes], Asked], scope: Any, proto: Any) -> None:
        """Decode, check, predict, word the answer; whatever goes wrong is worded too, and all of it counted and captured."""
        moment, started, headers = time.time(), time.perf_counter(), scope.headers
        given = _header_safe(headers.get("x-request-id"))
        id = given or self._new_id()
        columns: Arrays = {}
        arrays: Arrays | None = None
        status, rows, error = 200, 0, None
        self.in_flight += 1
        try:
            asked = read(await _body(headers, proto, _JSON))
            id = given or _header_safe(asked.id) or id
            columns = self.signature.check(asked.columns) if self.signature else {name: np.asarray(values) for name, values in asked.columns.items()}
            rows = _rows(columns)
            arrays = await self._predict(columns, rows)
            answer = self._encode(asked.word(arrays, asked.id or id))
        except MlopsError as refusal:
            status, error, answer = _refusal(refusal)
        except (Exception, SystemExit) as raised:  # the model's own code: told to the caller and to the owner, and the server goes on
            status, error, answer = self._raised(raised)
        self._answer(proto, status, answer, id)
        payload = partial(_payload, columns, arrays) if columns and self.capture.sampled() else None
        self._finish(Record(moment, id, status, (time.perf_counter() - started) * 1000, rows, payload, rows * len(columns) if payload else 0, error), headers)

    def _read_infer(self, body: bytes) -> Asked:
        request = _decoded(protocol.decode, body)
        return Asked(protocol.columns(request, self.signature), partial(self._word_infer, request), request.id)

    def _word_infer(self, request: protocol.InferRequest, arrays: Arrays, id: str) -> protocol.InferResponse:
        return protocol.answer(arrays, request, model=self.spec.model, version=str(self.spec.version), id=id)

    def _read_score(self, body: bytes) -> Asked:
        return Asked(score.columns(_decoded(score.decode, body), self.signature), lambda arrays, _: score.answer(arrays))

    async def _predict(self, columns: Arrays, rows: int) -> Arrays:
        if not rows:
            raise SignatureMismatch("The request has no rows.", hint="at least one row")
        if self._inline and rows <= INLINE_ROWS:
            return predict(self.engine, columns)
        return await asyncio.get_running_loop().run_in_executor(self._pool, _guarded, partial(predict, self.engine), columns)

    async def _run_script(self, scope: Any, proto: Any) -> None:
        """Have the user's entry script answer the request."""
        moment, started, headers = time.time(), time.perf_counter(), scope.headers
        id = _header_safe(headers.get("x-request-id")) or self._new_id()
        status, error, text, result, told = 200, None, None, None, []
        self.in_flight += 1
        try:
            body = await _body(headers, proto, ())
            text = body.decode(errors="replace")
            request = AMLRequest(method=scope.method, path=scope.path, query=scope.query_string, headers=_public(headers), body=body)
            status, told, answer, result = await self._script.answer(request)
        except MlopsError as refusal:
            status, error, answer = _refusal(refusal)
        except Exception as raised:  # the script's own code: told to the caller and to the owner, and the server goes on
            status, error, answer = self._raised(raised)
        proto.response_bytes(status, list((dict(self._headers(id)) | dict(told)).items()), answer)
        payload = partial(_script_payload, self.signature, text, result) if text is not None and self.capture.sampled() else None
        rows = len(result) if isinstance(result, list) else 1
        self._finish(Record(moment, id, status, (time.perf_counter() - started) * 1000, rows, payload, len(text or "") // 8, error), headers)

    # ── in and out ──

    def _new_id(self) -> str:
        return f"{self._process}-{next(self._numbers):x}"

    def _headers(self, id: str) -> list[tuple[str, str]]:
        headers = [("content-type", "application/json"), ("azureml-model-deployment", self.spec.deployment)]
        return [*headers, ("x-request-id", id)] if id else headers

    def _answer(self, proto: Any, status: int, body: bytes, id: str) -> None:
        proto.response_bytes(status, self._headers(id), body)

    def _refuse(self, proto: Any, refusal: Refused) -> None:
        self._answer(proto, refusal.http_status, _refusal(refusal)[2], "")

    def _finish(self, record: Record, headers: Any) -> None:
        self.in_flight -= 1
        self.metrics.count(record.status, record.latency_ms / 1000, record.rows)
        if not hmac.compare_digest((headers.get(NOT_CAPTURED) or "").encode(), self._token):
            self.capture.put(record)

    def _raised(self, error: BaseException) -> tuple[int, str, bytes]:
        reason = failures.why(error, self.spec, doing="exception in a request")
        self._tell(reason)
        return 500, reason.message, msgspec.json.encode({"error": reason.message + (f" ({reason.where})" if reason.where else "")})

    def _tell(self, reason: Any) -> None:
        """Leave the latest exception for the owner, once a second at most."""
        if time.monotonic() - self._told_at < 1:
            return
        self._told_at = time.monotonic()
        failures.write(reason, Path(self.spec.run_folder) / "request_error.json")
        sys.stderr.write(f"request.failed {reason.message}\n{reason.traceback}")


async def _body(headers: Any, proto: Any, kinds: tuple[str, ...]) -> bytes:
    """The body, whole.  Raises Refused for a content type that is not of *kinds* (if any are given) and for a body too large."""
    kind = headers.get("content-type")
    if kinds and kind and kind != "application/json" and not _is_one_of(kind, kinds):
        raise Refused(415, f"Content type {kind[:80]!r} is not taken.", hint="content-type: application/json")
    length = headers.get("content-length")
    if length is not None:
        if int(length) > MOST_BYTES:
            raise _too_large()
        return await proto()
    chunks = bytearray()
    async for chunk in proto:
        chunks += chunk
        if len(chunks) > MOST_BYTES:
            raise _too_large()
    return bytes(chunks)


def _guarded(call: Callable[[Any], Any], argument: Any) -> Any:
    """A model that calls exit() must not take the server's loop with it."""
    try:
        return call(argument)
    except SystemExit as error:
        raise RuntimeError(f"the model's code called exit({error.code!r})") from error


def _decoded(decode: Callable[[bytes], Any], body: bytes) -> Any:
    try:
        return decode(body)
    except msgspec.ValidationError as error:
        raise Refused(400, f"The request is not as the protocol wants it: {error}.") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Refused(400, f"The body is not JSON: {error}.") from None


def _public(headers: Any) -> list[tuple[str, str]]:
    """A request's headers, without those that are between the gateway and us."""
    return [(name, value) for name, value in headers.items() if name not in ("x-mlops-token", NOT_CAPTURED)]


def _is_one_of(kind: str, kinds: tuple[str, ...]) -> bool:
    plain = kind.partition(";")[0].strip().lower()
    return plain in kinds or plain.endswith("+json")


def _too_large() -> Refused:
    return Refused(413, f"The body is larger than {MOST_BYTES // 1_000_000} MB.", hint="several requests")


def _refusal(error: MlopsError) -> tuple[int, str, bytes]:
    text = f"{error} ({error.hint})" if error.hint else str(error)
    return error.http_status, str(error), msgspec.json.encode({"error": text})


def _header_safe(id: str | None) -> str:
    return id if id and len(id) <= 128 and id.isascii() and id.isprintable() else ""


def _rows(columns: Arrays) -> int:
    first = next(iter(columns.values()), None)
    return len(first) if first is not None and first.ndim else 1


def _payload(columns: Arrays, arrays: Arrays | None) -> tuple[dict[str, Any], dict[str, Any] | None]:
    return _lists(columns), _lists(arrays) if arrays is not None else None


def _lists(arrays: Arrays) -> dict[str, Any]:
    """Arrays as the line's encoder takes them; it writes NaN as null."""
    return {name: array.tolist() for name, array in arrays.items()} if all(array.dtype.kind != "M" for array in arrays.values()) else as_lists(arrays)


def _script_payload(signature: Signature | None, text: str, result: Any) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """An entry script's body as columns where it is rows that fit the signature, else as it came."""
    inputs: dict[str, Any] = {"body": [text]}
    if signature:
        try:
            inputs = as_lists(signature.check(score.columns(score.decode(text), signature)))
        except (SignatureMismatch, msgspec.DecodeError):
            pass  # exempt from the signature
    if isinstance(result, dict) and all(isinstance(values, list) for values in result.values()):
        return inputs, result
    return inputs, None if result is None else {"output": result if isinstance(result, list) else [result]}
