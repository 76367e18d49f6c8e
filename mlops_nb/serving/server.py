"""The server's routes: which request goes where, what is read out of it, and how its answer is worded."""

from __future__ import annotations

import asyncio
import gzip
import re
import zlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import msgspec
import numpy as np

from ..errors import MissingPackage, MlopsError, SignatureMismatch
from ..signature import Column, Signature, as_lists
from ..version import __version__
from . import arrow, openapi, protocol, score, typed
from .azure import AMLRequest
from .capture import Capture
from .engines import Arrays, Engine
from .entry import Desk, EntryScript
from .hot import JSON_HEAD, Job, Refused, Said, Scorer, header_safe, too_large
from .http import MOST_BYTES, Request
from .metrics import Metrics
from .spec import NOT_CAPTURED, ServerSpec
from .trial import Batching

_JSON = ("application/json", "text/json", "text/plain", "application/x-www-form-urlencoded")  # the last is what curl -d says
_EXTENSIONS = ["binary_tensor_data", "gzip", "arrow_stream"]
_GZIPPED_BYTES = 16_384
"""Shorter answers are sent as they are: on one machine, packing takes longer than sending."""
_GAP = re.compile(rb"[\[:,]\s*-?(?:NaN|Infinity)\b")
_NO_GAP = " NaN and Infinity are no JSON: a missing value is null."

Handler = Callable[[Request], None]


class Server:
    """One deployment's HTTP face: `http.Listener` calls it with each request."""

    def __init__(self, spec: ServerSpec, engine: Engine, capture: Capture, *, outputs: list[Column], quick: bool, batching: Batching) -> None:
        self.spec, self.engine, self.capture = spec, engine, capture
        self.signature: Signature | None = engine.signature
        self.outputs, self._batching = outputs, batching.told
        self._named = spec.model, str(spec.version)
        self.metrics = Metrics(endpoint=spec.endpoint, deployment=spec.deployment, model=spec.model, version=str(spec.version))
        self.scorer = Scorer(spec, engine, capture, self.metrics, quick=quick, batch_rows=batching.rows)
        self._script: Any = Desk(engine, spec) if isinstance(engine, EntryScript) else None
        self._asking: set[asyncio.Task[None]] = set()
        self._infer_body, self._score_body = typed.inferrer(self.signature, engine), typed.scorer(self.signature, engine)
        self._binary_body = typed.binary(self.signature, engine)
        self._routes = self._table()

    # ── routes ──

    def _table(self) -> dict[str, tuple[tuple[str, ...], Handler]]:
        routes: dict[str, tuple[tuple[str, ...], Handler]] = {
            "/v2/health/live": (("GET",), self._page({"live": True})),
            "/v2/health/ready": (("GET",), self._page({"ready": True})),
            "/v2": (("GET",), self._page({"name": "mlops_nb", "version": __version__, "extensions": _EXTENSIONS})),
            "/score": (("GET", "POST"), self._ask_script) if self._script else (("POST",), partial(self.scorer.ask, self._read_score)),
            "/metrics": (("GET",), self._metrics_page),
            "/swagger.json": (("GET",), self._page(openapi.document(self.spec, self.signature, self.outputs))),
        }
        for name in dict.fromkeys((self.spec.endpoint, self.spec.model)):
            for base in (f"/v2/models/{name}", f"/v2/models/{name}/versions/{self.spec.version}"):
                routes[base] = (("GET",), self._page(self._metadata(name)))
                routes[f"{base}/ready"] = (("GET",), self._page({"name": name, "ready": True}))
                routes[f"{base}/infer"] = (("POST",), partial(self.scorer.ask, self._read_infer))
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
                **({"operators": self.engine.operators} if self.engine.operators else {}),
                **({"trees": self.engine.trees_by} if self.engine.trees_by else {}),
                "batching": self._batching,
            },
        }

    def __call__(self, request: Request) -> None:
        """Answer one request.  All but health wants the token, so that nobody gets around the gateway's keys."""
        path = request.path
        if not request.welcome and not path.startswith("/v2/health/"):
            return self._refuse(request, Refused(401, "Ask through the workspace's gateway: the header x-mlops-token is missing or wrong."))
        route = self._routes.get(path) or self._routes.get(path.partition("?")[0])
        if route is None:
            return self._refuse(request, self._no_route(path.partition("?")[0]))
        methods, handler = route
        if request.method not in methods:
            return self._refuse(request, Refused(405, f"{path[:200]} takes {' and '.join(methods)}, not {request.method}."))
        return handler(request)

    def welcomes(self, request: Request) -> bool:
        """Whether the caller knows the token; asked before any of the body is kept."""
        return self.scorer.trusts(_word(request.headers))

    def _no_route(self, path: str) -> Refused:
        parts = path.split("/")
        if parts[1:3] == ["v2", "models"] and len(parts) > 3 and parts[3] not in (self.spec.endpoint, self.spec.model):
            return Refused(404, f"No model {parts[3]!r} here; this is {self.spec.model!r} (version {self.spec.version}).")
        if parts[1:3] == ["v2", "models"] and len(parts) > 5 and parts[4] == "versions" and parts[5] != str(self.spec.version):
            return Refused(404, f"No version {parts[5]} of {self.spec.model!r} here; this is version {self.spec.version}.")
        return Refused(404, f"No route {path!r}.", hint=f"POST /score or /v2/models/{self.spec.endpoint}/infer")

    def _page(self, content: dict[str, Any]) -> Handler:
        body, head = msgspec.json.encode(content), self._head(JSON_HEAD)
        return lambda request: request.answer(200, head, body)

    def _metrics_page(self, request: Request) -> None:
        capture = self.capture
        text = self.metrics.text(
            waiting=capture.waiting, dropped=capture.dropped, write_errors=capture.write_errors, in_flight=self.scorer.in_flight, queued=self.scorer.waiting
        )
        request.answer(200, self._head(b"content-type: text/plain; version=0.0.4; charset=utf-8\r\n"), text.encode())

    def _refuse(self, request: Request, refusal: Refused) -> None:
        text = f"{refusal} ({refusal.hint})" if refusal.hint else str(refusal)
        request.answer(refusal.http_status, self._head(JSON_HEAD), msgspec.json.encode({"error": text}))

    def _head(self, kind: bytes) -> bytes:
        return b"%bazureml-model-deployment: %b\r\n" % (kind, self.spec.deployment.encode())

    # ── the protocol's infer ──

    def _read_infer(self, job: Job) -> None:
        body, kind = _content(job.request)
        length = job.request.headers.get(b"inference-header-content-length")
        fitting = self._binary_body(body, length) if length is not None else self._infer_body(body) if kind is None else None
        if fitting:
            job.feed, job.given, job.rows, asked = fitting
            job.word = self._word_infer(job, asked)
            return None
        if kind == arrow.CONTENT_TYPE:
            return self._read_arrow(job, body)
        decode = protocol.decode if length is None else partial(protocol.decode_binary, header_length=length)
        asked = _decoded(decode, body)
        job.id = _given_id(job.request) or header_safe(asked.id) or job.id
        return self._check(job, protocol.columns(asked, self.signature), self._word_infer(job, asked))

    def _word_infer(self, job: Job, asked: Any) -> Callable[[Arrays], Said]:
        if asked.id and not _given_id(job.request):
            job.id = header_safe(asked.id) or job.id
        return self._packed(job, partial(protocol.answer, asked, asked.id or job.id, *self._named))

    # ── Azure ML's score ──

    def _read_score(self, job: Job) -> None:
        body, kind = _content(job.request)
        if kind == arrow.CONTENT_TYPE:
            return self._read_arrow(job, body)
        if kind is None and (fitting := self._score_body(body)):
            job.feed, job.given, job.rows, _ = fitting
            job.word = self._word_score(job)
            return None
        return self._check(job, score.columns(_decoded(score.decode, body), self.signature), self._word_score(job))

    def _read_arrow(self, job: Job, body: bytes) -> None:
        try:
            columns = arrow.columns(body)
        except MissingPackage as missing:
            raise Refused(415, str(missing), hint=missing.hint) from None
        self._check(job, columns, self._word_score(job))

    def _word_score(self, job: Job) -> Callable[[Arrays], Said]:
        if arrow.CONTENT_TYPE.encode() in job.request.headers.get(b"accept", b""):
            return arrow.answer
        return self._packed(job, _score_answer)

    # ── in and out ──

    def _check(self, job: Job, given: Mapping[str, Any], word: Callable[[Arrays], Said]) -> None:
        """The careful way: columns against the signature, each fault named.  Raises SignatureMismatch."""
        columns = self.signature.check(given) if self.signature else {name: np.asarray(values) for name, values in given.items()}
        job.rows = _rows(columns)
        if not job.rows:
            raise SignatureMismatch("The request has no rows.", hint="at least one row")
        job.given = columns
        job.feed, job.word = self.engine.feed(columns), word

    def _packed(self, job: Job, word: Callable[[Arrays], Said]) -> Callable[[Arrays], Said]:
        """*word*, whose long answers are gzipped when the caller takes that."""
        if b"gzip" not in job.request.headers.get(b"accept-encoding", b""):
            return word

        def packed(arrays: Arrays) -> Said:
            head, body = word(arrays)
            if len(body) < _GZIPPED_BYTES:
                return head, body
            return head + b"content-encoding: gzip\r\nvary: accept-encoding\r\n", gzip.compress(body, 1)

        return packed

    # ── an entry script ──

    def _ask_script(self, request: Request) -> None:
        task = asyncio.get_running_loop().create_task(self._run_script(request))
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)

    async def _run_script(self, request: Request) -> None:
        """Have the user's entry script answer the request."""
        job = self.scorer.begin(request)
        try:
            self.scorer.admit(request)
            body = _inflated(request)
            path, _, query = request.path.partition("?")
            text = body.decode(errors="replace")
            job.payload = partial(_script_payload, self.signature, text)
            asked = AMLRequest(method=request.method, path=path, query=query, headers=_public(request), body=body)
            status, told, answer, result = await self._script.answer(asked, lambda: request.gone)
        except (Exception, SystemExit) as error:  # the script's own code: told to the caller and to the owner, and the server goes on
            return self.scorer.fail(job, error)
        job.rows = len(result) if isinstance(result, list) else 1
        head = "".join(f"{name}: {value}\r\n" for name, value in told).encode("latin-1")
        return self.scorer.finish(job, status, (head, answer), result)


_encode = msgspec.json.Encoder(enc_hook=protocol.plain).encode


def _score_answer(arrays: Arrays) -> Said:
    return JSON_HEAD, _encode(score.answer(arrays))


def _content(request: Request) -> tuple[bytes, str | None]:
    """The body, inflated, and its content type; None for JSON under any of its names.  Raises Refused."""
    headers = request.headers
    kind = headers.get(b"content-type")
    body = _inflated(request) if b"content-encoding" in headers else request.body
    if kind is None or kind == b"application/json":
        return body, None
    plain = kind.decode("latin-1").partition(";")[0].strip().lower()
    if plain in _JSON or plain.endswith("+json"):
        return body, None
    if plain == arrow.CONTENT_TYPE or (plain == "application/octet-stream" and b"inference-header-content-length" in request.headers):
        return body, plain
    binary = "inference-header-content-length tells how long the JSON before the binary data is" if plain == "application/octet-stream" else ""
    raise Refused(415, f"Content type {plain[:80]!r} is not taken.", hint=binary or "content-type: application/json")


def _inflated(request: Request) -> bytes:
    """The body without its gzip.  Raises Refused, also for one that would inflate beyond what is taken."""
    coding = request.headers.get(b"content-encoding", b"identity").strip().lower()
    if coding in (b"identity", b""):
        return request.body
    if coding not in (b"gzip", b"x-gzip"):
        raise Refused(415, f"Content encoding {coding.decode('latin-1')[:40]!r} is not taken.", hint="gzip, or none")
    unpacker = zlib.decompressobj(wbits=31)
    try:
        body = unpacker.decompress(request.body, MOST_BYTES + 1)
    except zlib.error as error:
        raise Refused(400, f"The body is not gzip: {error}.") from None
    if len(body) > MOST_BYTES:
        raise too_large()
    if not unpacker.eof or unpacker.unused_data:
        raise Refused(400, "The body is not one whole gzip stream.")
    return body


def _decoded(decode: Callable[[bytes], Any], body: bytes) -> Any:
    try:
        return decode(body)
    except msgspec.ValidationError as error:
        raise Refused(400, f"The request is not as the protocol wants it: {error}.") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Refused(400, f"The body is not JSON: {error}.{_NO_GAP if _GAP.search(body) else ''}") from None
    except RecursionError:
        raise Refused(400, "The body is nested too deeply.") from None


def _given_id(request: Request) -> str:
    return header_safe(request.headers.get(b"x-request-id", b""))


def _public(request: Request) -> list[tuple[str, str]]:
    """A request's headers, without those that are between the gateway and us."""
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in request.headers.items() if name not in _OURS]


_OURS = (b"x-mlops-token", NOT_CAPTURED.encode())


def _word(headers: Mapping[bytes, bytes]) -> bytes | None:
    """The token as the gateway says it, or as callers say it where a server stands alone behind somebody else's gateway."""
    if (word := headers.get(b"x-mlops-token")) is not None:
        return word
    scheme, _, said = headers.get(b"authorization", b"").partition(b" ")
    return said.strip() if scheme.lower() == b"bearer" else None


def _rows(columns: Arrays) -> int:
    first = next(iter(columns.values()), None)
    return len(first) if first is not None and first.ndim else 1


def _script_payload(signature: Signature | None, text: str, result: Any) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """An entry script's body as columns where it is rows that fit the signature, else as it came."""
    inputs: dict[str, Any] = {"body": [text]}
    if signature:
        try:
            inputs = as_lists(signature.check(score.columns(score.decode(text), signature)))
        except (MlopsError, msgspec.DecodeError):
            pass  # exempt from the signature
    if isinstance(result, dict) and all(isinstance(values, list) for values in result.values()):
        return inputs, result
    return inputs, None if result is None else {"output": result if isinstance(result, list) else [result]}
