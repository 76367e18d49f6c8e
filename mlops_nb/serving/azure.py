"""The names that Azure ML's entry scripts import, for the server's process: `AMLRequest`, `AMLResponse`, `rawhttp`.

Written from the public contract (docs.microsoft.com, "Author entry scripts for advanced scenarios"; the interface of
azureml-inference-server-http), so that an unchanged script runs where no package of Azure's is installed.  Azure's own server
puts its classes under these names too, whatever azureml-contrib-services is there.
"""

from __future__ import annotations

import importlib
import importlib.util
import io
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from email.message import Message
from email.parser import BytesHeaderParser
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar
from urllib.parse import parse_qsl

F = TypeVar("F", bound=Callable[..., Any])
_TOOK_RAW = "_takes_raw_http"


def rawhttp(run: F) -> F:
    """Have `run` called with the whole request, an AMLRequest, rather than with its body as text."""
    setattr(run, _TOOK_RAW, True)
    return run


def takes_raw(run: Callable[..., Any]) -> bool:
    """Whether `run` was marked with `@rawhttp`, below other decorators too."""
    inner: Any = run
    while inner is not None:
        if getattr(inner, _TOOK_RAW, False):
            return True
        inner = getattr(inner, "__wrapped__", None)
    return False


class Several(dict[str, Any]):
    """Values by name, where a name may come more than once: `d["a"]` is its first, `getlist("a")` all of them."""

    def __init__(self, pairs: Iterable[tuple[str, Any]] = ()) -> None:
        self._all: dict[str, list[Any]] = {}
        for name, value in pairs:
            self._all.setdefault(name, []).append(value)
        super().__init__({name: values[0] for name, values in self._all.items()})

    def getlist(self, name: str) -> list[Any]:
        """Every value of *name*, in the order they came."""
        return list(self._all.get(name, ()))


class Headers(Mapping[str, str]):
    """A request's headers; their names are the same in upper and lower case."""

    def __init__(self, pairs: Iterable[tuple[str, str]]) -> None:
        self._values = {name.title(): value for name, value in pairs}

    def __getitem__(self, name: str) -> str:
        return self._values[name.title()]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"Headers({sorted(self._values)})"  # names only: a value may be a secret, and scripts print requests


class UploadedFile:
    """One file of a form."""

    def __init__(self, name: str, filename: str, content_type: str, content: bytes) -> None:
        self.name, self.filename, self.content_type = name, filename, content_type
        self.stream = io.BytesIO(content)

    def read(self, size: int = -1) -> bytes:
        """Its content."""
        return self.stream.read(size)

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to a place in it, as a file does."""
        return self.stream.seek(offset, whence)

    def tell(self) -> int:
        """The place in it."""
        return self.stream.tell()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it to *path*."""
        with Path(path).open("wb") as file:
            shutil.copyfileobj(self.stream, file)


class AMLRequest:
    """One HTTP request, as `@rawhttp` scripts get it."""

    def __init__(self, *, method: str = "POST", path: str = "/score", query: str = "", headers: Iterable[tuple[str, str]] = (), body: bytes = b"") -> None:
        self.method, self.path, self.headers = method, path, Headers(headers)
        self.query_string = query.encode()
        self.full_path = f"{path}?{query}"
        self.args = Several(parse_qsl(query, keep_blank_values=True))
        self.data = body
        self._form: tuple[Several, Several] | None = None

    def __repr__(self) -> str:
        return f"<AMLRequest {self.full_path!r} [{self.method}]>"

    @property
    def url(self) -> str:
        """The address that was asked."""
        return f"http://{self.headers.get('Host', 'localhost')}{self.full_path.removesuffix('?')}"

    @property
    def content_type(self) -> str:
        """What the body is, such as `image/png`; empty when nobody says."""
        return self.headers.get("Content-Type", "")

    @property
    def mimetype(self) -> str:
        """The content type without its parameters."""
        return self.content_type.partition(";")[0].strip().lower()

    @property
    def content_length(self) -> int:
        """Bytes in the body."""
        return len(self.data)

    @property
    def stream(self) -> io.BytesIO:
        """The body to read from."""
        return io.BytesIO(self.data)

    @property
    def is_json(self) -> bool:
        """Whether the body is said to be JSON."""
        return self.mimetype == "application/json" or self.mimetype.endswith("+json")

    def get_data(self, cache: bool = True, as_text: bool = False, parse_form_data: bool = False) -> Any:
        """The body's bytes, or with *as_text* its text."""
        return self.data.decode() if as_text else self.data

    def get_json(self, force: bool = False, silent: bool = False, cache: bool = True) -> Any:
        """The body as JSON; None where it is not said to be, unless *force*.  Raises ValueError unless *silent*."""
        if not (force or self.is_json):
            return None
        try:
            return json.loads(self.data)
        except ValueError:
            if silent:
                return None
            raise

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return self.get_json()

    @property
    def form(self) -> Several:
        """The text fields of a form."""
        return self._fields()[0]

    @property
    def files(self) -> Several:
        """The files of a form."""
        return self._fields()[1]

    def _fields(self) -> tuple[Several, Several]:
        if self._form is None:
            self._form = _form(self.content_type, self.data)
        return self._form


def _form(content_type: str, body: bytes) -> tuple[Several, Several]:
    """Text fields and files of a body that is a form (RFC 7578)."""
    said = Message()
    said["content-type"] = content_type
    if said.get_content_type() == "application/x-www-form-urlencoded" and content_type:
        return Several(parse_qsl(body.decode(), keep_blank_values=True)), Several()
    boundary = said.get_boundary()
    if not boundary:
        return Several(), Several()
    fields: list[tuple[str, str]] = []
    files: list[tuple[str, UploadedFile]] = []
    for part in re.split(rb"(?:^|\r\n)--" + re.escape(boundary.encode()) + rb"(?:--)?[ \t]*(?=\r\n|$)", body)[1:-1]:
        head, _, content = part.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        headers = BytesHeaderParser().parsebytes(head + b"\r\n\r\n")
        name = str(headers.get_param("name", "", header="content-disposition"))
        if (filename := headers.get_filename()) is not None:
            files.append((name, UploadedFile(name, filename, headers.get_content_type(), content)))
        else:
            fields.append((name, content.decode()))
    return Several(fields), Several(files)


class AMLResponse:
    """An answer that is sent as it is: text or bytes, a status, headers.  With *json_str* the message is written as JSON; None is `{}`."""

    def __init__(
        self, message: Any, status_code: int, response_headers: Mapping[str, str] | None = None, json_str: bool = False, run_function_failed: bool = False
    ) -> None:
        self.status_code = status_code
        as_json = message is None or json_str
        self._body = json.dumps({} if message is None else message).encode() if as_json else _bytes(message)
        self.headers = {"Content-Type": "application/json" if as_json else "text/html; charset=utf-8"} | dict(response_headers or {})
        self.run_function_failed = run_function_failed

    def get_data(self, as_text: bool = False) -> Any:
        """The body."""
        return self._body.decode() if as_text else self._body

    @property
    def data(self) -> bytes:
        """The body."""
        return self._body

    @property
    def content_type(self) -> str:
        """What the body is, such as `image/png`; may be set, as `mimetype` may."""
        return next((value for name, value in self.headers.items() if name.lower() == "content-type"), "")

    @content_type.setter
    def content_type(self, value: str) -> None:
        self.headers = {name: said for name, said in self.headers.items() if name.lower() != "content-type"} | {"Content-Type": value}

    @property
    def mimetype(self) -> str:
        """The same without its parameters; text is sent as UTF-8."""
        return self.content_type.partition(";")[0].strip().lower()

    @mimetype.setter
    def mimetype(self, value: str) -> None:
        self.content_type = f"{value}; charset=utf-8" if value.startswith("text/") else value


def _bytes(message: Any) -> bytes:
    if isinstance(message, str):
        return message.encode()
    if isinstance(message, bytes | bytearray | memoryview):
        return bytes(message)
    if isinstance(message, Mapping):  # a script that forgot json_str
        return json.dumps(message).encode()
    return b"".join(map(_bytes, message))


class Model:
    """`azureml.core.model.Model`, of which a script of the first SDK asks one thing."""

    @staticmethod
    def get_model_path(model_name: str, version: int | None = None, _workspace: Any = None) -> str:
        """The model's only file, else the folder that holds its files."""
        folder = Path(os.environ["AZUREML_MODEL_DIR"])
        files = [path for path in folder.iterdir() if path.is_file()]
        return str(files[0] if len(files) == 1 else folder)


def provide() -> None:
    """Put these names where entry scripts look for them; packages that are installed stay as they are."""
    for request in ("azureml.contrib.services.aml_request", "azureml_inference_server_http.api.aml_request"):
        _put(request, AMLRequest=AMLRequest, rawhttp=rawhttp)
        _put(request.replace("aml_request", "aml_response"), AMLResponse=AMLResponse)
    if not _is_there("azureml.core"):
        _put("azureml.core.model", Model=Model)
        sys.modules["azureml.core"].Model = Model  # type: ignore[attr-defined]


def _put(name: str, **things: Any) -> None:
    module = _module(name)
    for word, thing in things.items():
        setattr(module, word, thing)
    sys.modules[name] = module
    parent, _, last = name.rpartition(".")
    if parent:
        if parent not in sys.modules and not _is_there(parent):
            _put(parent)
        elif parent not in sys.modules:
            importlib.import_module(parent)
        setattr(sys.modules[parent], last, module)


def _module(name: str) -> ModuleType:
    module = ModuleType(name, "Provided by mlops_nb while an entry script is served.")
    module.__path__ = []
    return module


def _is_there(name: str) -> bool:
    try:
        return name in sys.modules or importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False
