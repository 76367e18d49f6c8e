"""The user's entry script, as Azure ML has it: `init()` once, then `run(raw_data)` with each request.

What `run` gets: the body as text (of a GET, its query as a JSON object); with `@rawhttp` the whole request; with
inference_schema's decorators one argument for each key of the body.  A parameter called `request_headers` gets the headers.
A `run` that takes too long is answered 504, see `Desk`.

What it returns: an AMLResponse goes out as it is; anything else as JSON.  Text too: a script that returns `json.dumps(…)`
answers a JSON string that holds JSON, as it does at Azure, whose clients decode twice; AMLResponse sends text as it is.

Around the script stands what Azure puts there: AZUREML_MODEL_DIR leads to the registered files, directly and below `model/`;
whatever came with the script lies beside it, and its folder is the working directory.
"""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from ..errors import HungUp, NotAnEntryScript, ServerEnding, SignatureMismatch, TookTooLong
from ..store.deployments import Reason
from . import azure, failures, protocol
from .azure import AMLRequest
from .spec import ServerSpec

if TYPE_CHECKING:
    from ..signature import Signature
    from .engines import Arrays, Matrix

_SAYING_SECONDS = 0.3
"""For the last answers to reach their callers before the process ends."""
_JSON = [("content-type", "application/json")]
_encode = msgspec.json.Encoder(enc_hook=protocol.plain).encode


class Answered(NamedTuple):
    """What goes back to the caller, and what `run` returned."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    result: Any


class EntryScript:
    """`entry/score.py`, loaded and initialised."""

    name = "script"
    inline = False
    trees_by = ""
    matrix: Matrix | None = None

    def __init__(self, spec: ServerSpec, signature: Signature | None = None) -> None:
        self.signature = signature
        self.providers = [f"Python {sys.version_info.major}.{sys.version_info.minor}"]
        self.operators: dict[str, int] = {}
        self.path = Path(spec.script) if spec.script else Path(spec.folder) / "entry" / "score.py"
        link_files(Path(spec.folder), beside=not spec.script)
        os.environ["AZUREML_MODEL_DIR"] = spec.folder
        os.chdir(self.path.parent)
        azure.provide()
        _import_from(self.path.parent, Path(spec.folder) / "code")
        self.load()

    def load(self) -> None:
        """Execute the script and its `init()`.  Raises NotAnEntryScript, and whatever the script raises."""
        module = _executed(self.path)
        run = getattr(module, "run", None)
        if not callable(run):
            raise NotAnEntryScript(self.path)
        self._arguments = _arguments(run, self.path)
        self._run = run
        if callable(init := getattr(module, "init", None)):
            init()

    def answer(self, request: AMLRequest) -> Answered:
        """What the script says to *request*.  Raises SignatureMismatch for a body that its `run` cannot take, and whatever `run` raises."""
        return _answered(self._run(**self._arguments(request)))

    def feed(self, columns: Arrays) -> Arrays:
        """An entry script reads bodies, not columns.  Raises SignatureMismatch."""
        raise SignatureMismatch("This deployment runs an entry script, which reads the body itself.", hint="POST /score")

    compute = feed


# ── around the script ────────────────────────────────────────────────────────────────────────────────────────────────


def link_files(folder: Path, *, beside: bool = True) -> None:
    """In a version's laid-out folder, let `model/` lead to it, as scripts expect; with *beside*, put what came with the script beside it too."""
    _link(folder, folder / "model")
    for source in (folder / "code", folder) if beside else ():
        for path in sorted(source.iterdir()) if source.is_dir() else ():
            if path.name not in ("entry", "code", "model"):
                _link(path, folder / "entry" / path.name)


def _link(path: Path, place: Path) -> None:
    """A link at *place*, unless something is there; another deployment of this version may be about to make the same."""
    try:
        if not os.path.lexists(place):
            place.symlink_to(os.path.relpath(path, place.parent), target_is_directory=path.is_dir())
    except OSError:
        pass  # there by now, or a system without links: the files are found under their own names


def _import_from(*folders: Path) -> None:
    for folder in reversed([str(folder) for folder in folders if folder.is_dir()]):
        if folder in sys.path:
            sys.path.remove(folder)
        sys.path.insert(0, folder)


def _executed(path: Path) -> ModuleType:
    location = importlib.util.spec_from_file_location("score", path)
    assert location and location.loader
    module = importlib.util.module_from_spec(location)
    sys.modules["score"] = module
    location.loader.exec_module(module)
    return module


# ── in ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _arguments(run: Callable[..., Any], path: Path) -> Callable[[AMLRequest], dict[str, Any]]:
    """How a request becomes the arguments of this `run`."""
    names = [p.name for p in inspect.signature(run).parameters.values() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    wanted = [name for name in names if name != "request_headers"]
    if not wanted:
        raise NotAnEntryScript(path)
    if azure.takes_raw(run):
        read: Callable[[AMLRequest], dict[str, Any]] = lambda request: {wanted[0]: request}  # noqa: E731 - one of three, chosen once
    elif _has_schema(run):
        read = lambda request: _by_schema(request, run, wanted)  # noqa: E731
    else:
        read = lambda request: {wanted[0]: _text(request)}  # noqa: E731
    if "request_headers" in names:
        return lambda request: read(request) | {"request_headers": dict(request.headers)}
    return read


def _text(request: AMLRequest) -> str:
    if request.method == "GET":
        return msgspec.json.encode(_query(request)).decode()
    try:
        return request.data.decode()
    except UnicodeDecodeError:
        raise SignatureMismatch("The body is not text in UTF-8, which run(raw_data) takes.", hint="@rawhttp on run() takes any bytes") from None


def _query(request: AMLRequest) -> dict[str, Any]:
    """A GET's parameters, each as JSON where it is JSON; one that comes several times is a list."""
    several = {name: [_json_or_text(value) for value in request.args.getlist(name)] for name in request.args}
    return {name: values if len(values) > 1 else values[0] for name, values in several.items()}


def _json_or_text(value: str) -> Any:
    try:
        return msgspec.json.decode(value)
    except msgspec.DecodeError:
        return value


def _has_schema(run: Callable[..., Any]) -> bool:
    """Whether `run` has decorators of inference_schema, which the script itself imported."""
    module = sys.modules.get("inference_schema.schema_util")
    return bool(module and module.is_schema_decorated(run))


def _by_schema(request: AMLRequest, run: Callable[..., Any], wanted: list[str]) -> dict[str, Any]:
    """The body's keys as arguments, in upper or lower case; those with a default may be absent."""
    body = _json_or_text(_text(request))
    if not isinstance(body, Mapping):
        raise SignatureMismatch(f"The body must be a JSON object with the keys {', '.join(wanted)}.")
    given = {str(name).lower(): value for name, value in body.items()}
    parameters = inspect.signature(run).parameters
    lacking = [name for name in wanted if name.lower() not in given and parameters[name].default is inspect.Parameter.empty]
    if lacking:
        raise SignatureMismatch(f"The body lacks {', '.join(lacking)}.", hint=f"a JSON object with the keys {', '.join(wanted)}")
    return {name: given[name.lower()] for name in wanted if name.lower() in given}


# ── out ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _answered(result: Any) -> Answered:
    if hasattr(result, "status_code") and hasattr(result, "get_data"):  # an AMLResponse, or Flask's own
        body = result.get_data()
        return Answered(int(result.status_code), list(_headers(result.headers)), body.encode() if isinstance(body, str) else body, None)
    return Answered(200, _JSON, _encode(result), result)


def _headers(headers: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for name, value in headers.items():
        text = str(value)
        if not (name.isascii() and text.isascii() and f"{name}{text}".isprintable()):
            raise ValueError(f"the response header {name!r} holds a character that no header can")
        if name.lower() not in ("content-length", "transfer-encoding", "connection"):
            yield name.lower(), text


# ── in time ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class Desk:
    """Gives the script one request at a time, in a thread of its own, and looks at the clock.

    A thread cannot be stopped.  So once `run` has overrun its time, its caller is told (504), those who wait behind it are told
    (503), the reason is written to failure.json with the line at which `run` was, and the process ends; whoever started the
    server, such as the agent, starts it again.
    """

    def __init__(self, script: EntryScript, spec: ServerSpec) -> None:
        self._script, self._spec = script, spec
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="script")
        self._stuck: asyncio.Future[Reason] | None = None

    async def answer(self, request: AMLRequest, gone: Callable[[], bool]) -> Answered:
        """What the script says; it is not asked where the caller is *gone* when its turn has come.

        Raises HungUp, TookTooLong, ServerEnding, and as `EntryScript.answer`.
        """
        loop = asyncio.get_running_loop()
        self._stuck = self._stuck or loop.create_future()
        turn = _Turn(self._script.answer, request, gone)
        call = loop.run_in_executor(self._pool, turn)
        while not call.done() and not self._stuck.done() and (left := turn.left(self._spec.timeout_seconds)) > 0:
            ends: set[asyncio.Future[Any]] = {call, self._stuck}
            await asyncio.wait(ends, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        if call.done():
            return call.result()
        call.add_done_callback(_heed)
        if self._stuck.done():
            raise ServerEnding(self._stuck.result().message)
        reason = failures.stuck(turn.thread, self._spec)
        self._stuck.set_result(reason)
        loop.call_later(_SAYING_SECONDS, failures.end, reason, self._spec)
        raise TookTooLong(f"{reason.message} ({reason.where})" if reason.where else reason.message)


class _Turn:
    """One call of the script: since when it runs, and in which thread."""

    def __init__(self, call: Callable[[AMLRequest], Answered], request: AMLRequest, gone: Callable[[], bool]) -> None:
        self._call, self._request, self._gone = call, request, gone
        self._since: float | None = None
        self.thread = 0

    def __call__(self) -> Answered:
        if self._gone():
            raise HungUp
        self.thread, self._since = threading.get_ident(), time.monotonic()
        try:
            return self._call(self._request)
        except SystemExit as error:
            raise RuntimeError(f"the model's code called exit({error.code!r})") from error

    def left(self, limit: float) -> float:
        """Seconds it may still take; all of them while it waits for those before it."""
        return limit if self._since is None else self._since + limit - time.monotonic()


def _heed(call: asyncio.Future[Answered]) -> None:
    """Look at how a call that nobody waits for any more ended, so that asyncio does not complain."""
    if not call.cancelled():
        call.exception()
