"""Where a version is rehearsed: a scratch folder that ends with the block, and in it a scoring server that knows nothing of the notebook."""

from __future__ import annotations

import http.client
import os
import secrets
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from .. import artifacts, processes, rebuilding
from ..expected import Expected
from ..ports import free_port
from ..progress import Reporter
from ..serving.observed import Seen
from ..serving.spec import Cell, ServerSpec
from ..settings import Workspace
from ..store.deployments import Reason
from ..store.environments import Environment
from ..store.models import ModelVersion
from ..targets import local

_KEPT_VARIABLES = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "SSL_CERT_FILE", "SSL_CERT_DIR", "LD_LIBRARY_PATH", "SYSTEMROOT")
_STOP_SECONDS = 8.0


class Play(NamedTuple):
    """What is rehearsed, and where."""

    version: ModelVersion
    environment: Environment
    cells: Sequence[Cell]
    hidden: Sequence[str]
    """Folders that must not be seen: where the notebook stood."""
    asked: Expected
    variables: Mapping[str, str]
    folder: Path
    report: Reporter


class Broken(Exception):
    """The server did not come up, or did not answer."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.message)
        self.reason = reason


@contextmanager
def scratch() -> Iterator[Path]:
    """A new folder, outside of every notebook's, that is gone after the block; those of rehearsals that were killed go too."""
    with processes.scratch(Path(tempfile.gettempdir()), prefix="mlops-rehearsal-") as folder:
        yield folder


class Server:
    """A scoring server that answers."""

    def __init__(self, spec: ServerSpec, token: str, *, raw: bool) -> None:
        self.spec = spec
        self._raw = raw
        self._headers = {"Content-Type": "application/json", "x-mlops-token": token}
        self._connection = http.client.HTTPConnection("127.0.0.1", spec.port, timeout=spec.timeout_seconds + 5)

    def ask(self, columns: Mapping[str, list[Any]], rows: Sequence[int]) -> Any:
        """What it says to these *rows* of *columns*, sent as `invoke` sends them.  Raises Broken."""
        chosen = {name: [values[row] for row in rows] for name, values in columns.items()}
        sent = {"data": [dict(zip(chosen, row, strict=True)) for row in zip(*chosen.values(), strict=True)]} if self._raw else {"inputs": chosen}
        try:
            self._connection.request("POST", "/score", msgspec.json.encode(sent), self._headers)
            response = self._connection.getresponse()
            body = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise Broken(_told(self.spec) or Reason(kind="exited", message=f"the server ended while it was asked ({type(error).__name__})")) from error
        if response.status != 200:
            said = body.decode(errors="replace")
            raise Broken(_told(self.spec) or Reason(kind="refused", message=f"it answered {response.status}: {said[:300]}"))
        return msgspec.json.decode(body)

    def close(self) -> None:
        """Let the connection go."""
        self._connection.close()


@contextmanager
def served(play: Play, python: Path, *, engine: str = "") -> Iterator[Server]:
    """A server of the version in the environment of *python*, in a folder where nothing else is; ended with the block.

    *engine* is what answers in the place of the version's own.  Raises Broken with the model's own error.
    """
    folder = Path(tempfile.mkdtemp(prefix="server-", dir=play.folder))
    spec = spec_of(play, folder, engine or play.version.engine)
    token = secrets.token_urlsafe(24)
    local.write_private(Path(spec.token_file), token.encode())
    local.write_private(folder / "spec.json", msgspec.json.encode(spec))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [str(python), "-m", "mlops_nb.serving.observed", str(folder / "spec.json"), *play.hidden], cwd=folder / "elsewhere", env=variables(play, folder),
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    server = Server(spec, token, raw=spec.engine == "script")
    try:
        _until_ready(process, spec, folder)
        yield server
    finally:
        server.close()
        _end(process)


def seen(server_folders: Path) -> list[Seen]:
    """What every server that ran below this folder was seen to reach for, each thing once."""
    lines = [line for file in sorted(server_folders.glob("server-*/observed.jsonl")) for line in file.read_bytes().splitlines()]
    return list(dict.fromkeys(msgspec.json.decode(line, type=Seen) for line in lines))


def laid_out(play: Play, folder: Path) -> Path:
    """The version's files in *folder*, as a server finds them."""
    return artifacts.lay_out(play.version.files, folder)


def spec_of(play: Play, folder: Path, engine: Any) -> ServerSpec:
    """What a process that serves from *folder* has to know; the version's files are laid out there, and an empty folder to stand in."""
    version = play.version
    (folder / "elsewhere").mkdir()
    return ServerSpec(
        endpoint=version.model, deployment="rehearsal", model=version.model, version=version.version, folder=str(laid_out(play, folder / "model")),
        files=version.files, flavor=version.flavor, engine=engine, signature=version.signature, port=free_port(), token_file=str(folder / "token"),
        run_folder=str(folder), capture_folder=str(folder / "capture"), capture_payload_percent=0.0, cells=list(play.cells),
        timeout_seconds=Workspace.current().settings().request_timeout_seconds, variables=dict(play.variables), trusted=version.trusted,
    )  # fmt: skip


def variables(play: Play, folder: Path) -> dict[str, str]:
    """Little of this process's: a model that needs one of the notebook's variables must be seen to miss it.  The home folder is an empty one."""
    home = folder / "home"
    home.mkdir()
    kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    ours = {"HOME": str(home), "PYTHONPATH": str(rebuilding.ourselves(folder)), "PYTHONNOUSERSITE": "1", "PYTHONUNBUFFERED": "1"}
    return kept | ours | dict(play.variables)


def _until_ready(process: subprocess.Popen[bytes], spec: ServerSpec, folder: Path) -> None:
    deadline = time.monotonic() + Workspace.current().settings().start_timeout_seconds
    while not local.ready(spec.port):
        if process.poll() is not None or (folder / "failure.json").exists():
            log = "\n".join((folder / "log").read_text(errors="replace").splitlines()[-12:])
            raise Broken(_told(spec) or Reason(kind="exited", message=f"its server ended with exit code {process.wait()}", log=log))
        if time.monotonic() > deadline:
            raise Broken(Reason(kind="too slow", message=f"it was not ready within {Workspace.current().settings().start_timeout_seconds:.0f} s"))
        time.sleep(0.01)


def _told(spec: ServerSpec) -> Reason | None:
    """What the server wrote of its failure."""
    for name in ("failure.json", "request_error.json"):
        try:
            return msgspec.json.decode((Path(spec.run_folder) / name).read_bytes(), type=Reason)
        except FileNotFoundError:
            continue
    return None


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask it to end, and kill it with all it started when it does not."""
    process.terminate()
    try:
        process.wait(_STOP_SECONDS)
    except BaseException:  # too slow, or a second Ctrl-C
        processes.kill_group(process.pid)
        process.wait()
        raise
    finally:
        processes.kill_group(process.pid)
