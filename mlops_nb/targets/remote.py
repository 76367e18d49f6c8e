"""A container of an engine on another machine: what it reads is handed to it, what it writes is fetched, and a tunnel leads to its port.

Both machines' files stay where they are.  The container's folder is a volume that ends with it; the token enters it through the engine, and
what is written there — why it failed, what it was asked — is copied into the run folder and the telemetry, where a local server's would be.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from .. import engine, packaging
from ..errors import MlopsError
from .containers import Container

if TYPE_CHECKING:
    import docker

_TOLD = ("failure.json", "request_error.json")
_TELEMETRY = re.compile(r"live-\d+\.jsonl|closed-\d+\.jsonl|signature\.json", re.ASCII)
_FIRST_PROCESS = "live-1.jsonl"
_EVERY_SECONDS = 1.0
_PATIENT_SECONDS = 30.0
_FORGOTTEN_SECONDS = 15.0
_MOST_BYTES = 1 << 30
_DELETE = "import os, sys\nfor path in sys.argv[1:]:\n    os.path.exists(path) and os.unlink(path)"


def hand_over(container: Any, user: str, *, place: str, files: Mapping[str, bytes], folders: Iterable[str]) -> None:
    """Give a container that has not started its *files* and empty *folders* in the volume at *place*; they are its user's alone."""
    owner = int(user.partition(":")[0])
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for name in folders:
            archive.addfile(_entry(name, owner, kind=tarfile.DIRTYPE, mode=0o700))
        for name, body in files.items():
            archive.addfile(_entry(name, owner, size=len(body), mode=0o600), io.BytesIO(body))
    container.put_archive(place, content.getvalue())


def _entry(name: str, owner: int, *, mode: int, kind: bytes = tarfile.REGTYPE, size: int = 0) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode, entry.size, entry.uid, entry.gid, entry.mtime = kind, mode, size, owner, owner, int(time.time())
    return entry


class Fetcher:
    """Brings home what one deployment's container writes: by a thread while somebody asks, and once more when the container ends."""

    def __init__(self, address: str, *, run: tuple[str, Path], capture: tuple[str, Path]) -> None:
        self._address = address
        self._run, self._run_here = run
        self._capture, self._here = capture
        self._told: tuple[str, ...] = ("", "")
        self._seen: tuple[str, ...] = ()
        self._one_at_a_time = threading.Lock()
        self._asked_at = float("-inf")
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None

    def go_on(self, container: Container) -> None:
        """Fetch from now on what it writes, until nobody asked for some seconds."""
        self._asked_at = time.monotonic()
        with self._starting:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._fetch_on, args=(container.id,), name="fetch", daemon=True)
                self._thread.start()

    def fetch(self, container: str) -> bool:
        """Whether what there was could be fetched now; a container or an engine that is gone has nothing."""
        import docker.errors
        import requests

        try:
            client = engine.client(at=self._address, timeout_seconds=_PATIENT_SECONDS)
            with self._one_at_a_time:
                self._fetch_told(client, container)
                self._fetch_lines(client, container)
            return True
        except (docker.errors.DockerException, requests.RequestException, tarfile.TarError, MlopsError):
            return False

    def _fetch_on(self, container: str) -> None:
        while time.monotonic() - self._asked_at < _FORGOTTEN_SECONDS:
            began = time.monotonic()
            if not self.fetch(container):
                return  # whoever asks again has it begin again
            time.sleep(max(_EVERY_SECONDS, 5 * (time.monotonic() - began)))

    def _fetch_told(self, client: docker.DockerClient, container: str) -> None:
        """Why it failed, and the latest exception of a request, when either was written since."""
        told = tuple(_stamp(client, container, f"{self._run}/{name}") for name in _TOLD)
        if told == self._told:
            return
        with _files(client, container, self._run, wanted=_TOLD.__contains__) as files:
            for name, content in files:
                self._put(content, self._run_here / name)
        self._told = told

    def _fetch_lines(self, client: docker.DockerClient, container: str) -> None:
        """Its telemetry, when there is something new: what it closed is ours then and deleted there, what it still writes is copied.

        The first closed file is the copied one gone on, so that the copy is completed and then called as it is: no reader sees a line twice.
        """
        seen = tuple(_stamp(client, container, place) for place in (self._capture, f"{self._capture}/{_FIRST_PROCESS}"))
        if seen == self._seen:
            return
        with _files(client, container, self._capture, wanted=_TELEMETRY.fullmatch) as files:
            for name, content in files:
                self._take(name, content)
        _delete(client, container, [f"{self._capture}/{name}" for name, _ in files if name.startswith("closed-")])
        self._seen = seen

    def _take(self, name: str, content: IO[bytes]) -> None:
        if not name.startswith("closed-"):
            self._put(content, self._here / name)
        elif name not in self._fetched() and not (self._here / name).exists():
            self._put(content, self._here / _FIRST_PROCESS)
            (self._here / _FIRST_PROCESS).rename(self._here / name)
            self._note(name)

    def _put(self, content: IO[bytes], place: Path) -> None:
        """Write a file whole or not at all."""
        scratch = self._run_here / ".fetched"
        with os.fdopen(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            shutil.copyfileobj(content, file)
        scratch.replace(place)

    def _fetched(self) -> set[str]:
        try:
            return set((self._run_here / "fetched").read_text(encoding="ascii").split())
        except FileNotFoundError:
            return set()

    def _note(self, name: str) -> None:
        with (self._run_here / "fetched").open("a", encoding="ascii") as file:
            file.write(f"{name}\n")


@contextmanager
def _files(client: docker.DockerClient, container: str, place: str, *, wanted: Callable[[str], object]) -> Iterator[list[tuple[str, IO[bytes]]]]:
    """The plain files with *wanted* names in a folder of the container, by name; none where there is no such folder."""
    import docker.errors

    try:
        stream, _ = client.api.get_archive(container, place)
    except docker.errors.NotFound:
        yield []
        return
    with tempfile.TemporaryFile() as whole:
        for part in stream:
            whole.write(part)
            if whole.tell() > _MOST_BYTES:
                raise tarfile.TarError("more than may be fetched at once")
        whole.seek(0)
        with tarfile.open(fileobj=whole) as archive:
            found = {member.name.rpartition("/")[2]: archive.extractfile(member) for member in archive if member.isfile()}
            yield sorted((name, content) for name, content in found.items() if content and wanted(name))


def _stamp(client: docker.DockerClient, container: str, place: str) -> str:
    """What changes when the file or folder does: its size and time; empty where it is not there."""
    url = f"{client.api.base_url}/v{client.api.api_version}/containers/{container}/archive"
    answer = client.api.head(url, params={"path": place}, timeout=_PATIENT_SECONDS)
    return str(answer.headers.get("X-Docker-Container-Path-Stat", ""))


def _delete(client: docker.DockerClient, container: str, paths: list[str]) -> None:
    """Delete files in a container that runs; what one that ended holds goes with it."""
    import docker.errors

    if not paths:
        return
    try:
        made = client.api.exec_create(container, [packaging.PYTHON, "-I", "-S", "-c", _DELETE, *paths])
        client.api.exec_start(made["Id"])
    except docker.errors.APIError as error:
        if error.status_code != 409:
            raise
