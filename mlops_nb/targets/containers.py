"""This workspace's containers as the engine showed them a moment ago.

A thread of its own looks at them, so that nobody who asks — the agent's loop, which serves every deployment — ever waits for an engine.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from .. import engine
from ..errors import MlopsError
from ..settings import Workspace
from ..store.identity import workspace_id

if TYPE_CHECKING:
    import docker

WORKSPACE, DEPLOYMENT, GENERATION = "org.mlops-nb.workspace", "org.mlops-nb.deployment", "org.mlops-nb.generation"
"""Labels by which a container is found again: whose it is, which deployment, and which of its generations."""
DEVICE = "org.mlops-nb.device"
"""Label of a container that is an edge device, which has no generations of its own."""
_EVERY_SECONDS = 0.25
_FORGOTTEN_SECONDS = 15.0
"""Nobody having asked for so long, nobody looks any more."""
_SILENT_SECONDS = engine.QUICK_SECONDS + 1.0
_FIRST_SECONDS = 1.0


class Container(msgspec.Struct, frozen=True, kw_only=True):
    """One container of this workspace."""

    id: str
    name: str
    image: str
    """The id of its image, `sha256:…`."""
    labels: Mapping[str, str]
    state: str
    """`created`, `running`, `paused`, `restarting`, `removing`, `exited` or `dead`."""
    port: int | None = None
    """Where the engine's machine publishes it on its loopback; None unless it runs."""
    pid: int | None = None
    """Its first process, as this machine numbers it; None unless it runs, or where the engine keeps its processes elsewhere."""
    exit_code: int | None = None
    out_of_memory: bool = False
    """Whether the engine saw the kernel kill it at its limit."""
    error: str = ""


class Watch:
    """Keeps looking at one engine while somebody asks."""

    def __init__(self, address: str, mark: str) -> None:
        self.address = address
        self._mark = mark
        self.looked_at = float("-inf")
        """When the latest look that was answered began, by the monotonic clock."""
        self._trouble: MlopsError | None = None
        self._seen: dict[str, Container] = {}
        self._asked_at = float("-inf")
        self._answered = threading.Event()
        self._told = threading.Event()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None

    def containers(self) -> dict[str, Container]:
        """The containers by name, as of a moment ago."""
        self._ask()
        return self._seen

    def silence(self, *, patience_seconds: float = 0.0) -> MlopsError | None:
        """Why the engine tells nothing; None while it answers.  A first answer, which over ssh takes its time, is waited for with *patience_seconds*."""
        self._ask()
        self._told.wait(patience_seconds)
        if self._trouble or time.monotonic() - self.looked_at < _SILENT_SECONDS:
            return self._trouble
        return engine.silent("timed out", at=self.address)

    def look(self) -> dict[str, Container]:
        """The containers as of now.  Raises NoContainerEngine, at once where the engine is known to be silent."""
        if self._trouble:
            raise self._trouble
        began = time.monotonic()
        self._seen = self._listed()
        self.looked_at = began
        return self._seen

    def _ask(self) -> None:
        """Have the thread run; a first answer is waited for, though not for long."""
        self._asked_at = time.monotonic()
        with self._starting:
            if self._thread is None or not self._thread.is_alive():
                self._answered.clear()
                self._told.clear()
                self._thread = threading.Thread(target=self._look_on, name="containers", daemon=True)
                self._thread.start()
        if not self._answered.wait(_FIRST_SECONDS):
            self._answered.set()  # waited for once

    def _look_on(self) -> None:
        while time.monotonic() - self._asked_at < _FORGOTTEN_SECONDS:
            began = time.monotonic()
            try:
                self._seen = self._listed()
                self.looked_at, self._trouble = began, None
            except MlopsError as error:
                self._trouble = error
            self._told.set()
            self._answered.set()
            time.sleep(_SILENT_SECONDS / 2 if self._trouble else _EVERY_SECONDS)

    def _listed(self) -> dict[str, Container]:
        import docker.errors
        import requests

        try:
            client = engine.client(at=self.address)
            rows = client.api.containers(all=True, filters={"label": f"{WORKSPACE}={self._mark}"})
            return {found.name: found for row in rows if (found := self._container(client, row))}
        except (docker.errors.DockerException, requests.RequestException) as error:
            raise engine.silent(error, at=self.address) from error

    def _container(self, client: docker.DockerClient, row: dict[str, Any]) -> Container | None:
        """One row of the list, with what the engine tells of it when it is asked; that is done once for each state."""
        import docker.errors

        name = row["Names"][0].removeprefix("/")
        known, port = self._seen.get(name), next((published["PublicPort"] for published in row["Ports"] if "PublicPort" in published), None)
        if known and (known.id, known.state, known.port) == (row["Id"], row["State"], port):
            return known
        found = Container(id=row["Id"], name=name, image=row["ImageID"], labels=row["Labels"], state=row["State"], port=port)
        try:
            state = client.api.inspect_container(found.id)["State"]
        except docker.errors.NotFound:
            return None
        if found.state == "running":
            return msgspec.structs.replace(found, pid=(state["Pid"] or None) if engine.is_local(self.address) else None)
        return msgspec.structs.replace(found, exit_code=state["ExitCode"], out_of_memory=bool(state["OOMKilled"]), error=state["Error"])


def watch(address: str) -> Watch:
    """The process's one watch of the current workspace's containers in the engine at *address*."""
    key = address, workspace_mark(address)
    with _making:
        return _watches.setdefault(key, Watch(*key))


def workspace_mark(address: str) -> str:
    """What tells this workspace's containers from others' in the engine at *address*: its place on the disk, which tells it from a copy.

    An engine of another machine may be that of many; there its identity is part of it, because homes have the same places on many machines.
    """
    place = str(Workspace.current().root.resolve())
    whose = place if engine.is_local(address) else f"{workspace_id()}/{place}"
    return hashlib.sha256(whose.encode()).hexdigest()[:16]


_watches: dict[tuple[str, str], Watch] = {}
_making = threading.Lock()
