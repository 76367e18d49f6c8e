"""Bringing containers up beside everything else, and ending them: what all that runs in one has in common.

The agent restarts a container, not the engine: what it died of is told before the next one takes its place.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import engine, packaging
from ..errors import MlopsError, NoContainerEngine
from ..settings import Workspace
from ..store.deployments import Deployment, Reason
from . import containers, local
from .containers import Container

if TYPE_CHECKING:
    import docker

PATIENT_SECONDS = 30.0
_KEPT_LINES = 2000
_MOST_PROCESSES = 4096
_pool = ThreadPoolExecutor(max_workers=8, thread_name_prefix="docker")


class Attempt:
    """One attempt to bring a container up by *run*, which tells why the engine does not run it; an engine that does not answer is waited for."""

    def __init__(self, run: Callable[[], Reason | None]) -> None:
        self.ended_at = float("inf")
        self.failed: Reason | None = None
        self._given_up = threading.Event()
        self._patience = Workspace.current().settings().start_timeout_seconds
        self._future = _pool.submit(self._go_on, run)

    @property
    def under_way(self) -> bool:
        """Whether it is not over yet."""
        return not self._future.done()

    def give_up(self) -> None:
        """Try no more, and return once nothing is being tried."""
        self._given_up.set()
        if not self._future.cancel():
            self._future.result()

    def _go_on(self, run: Callable[[], Reason | None]) -> None:
        deadline = time.monotonic() + self._patience
        while True:
            try:
                self.failed = run()
            except NoContainerEngine as error:
                self.failed = silence(error)
                if time.monotonic() < deadline and not self._given_up.wait(1):
                    continue
            except (MlopsError, OSError) as error:
                self.failed = Reason(kind="cannot start", message=f"{type(error).__name__}: {error}", hint=getattr(error, "hint", ""))
            self.ended_at = time.monotonic()
            return


def bounds() -> dict[str, Any]:
    """What every container is asked for with: no rights, a file system to read, no restart by the engine, a log that ends somewhere."""
    from docker.types import LogConfig

    return {
        "read_only": True,
        "tmpfs": {"/tmp": "size=256m,mode=1777"},
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "pids_limit": _MOST_PROCESSES,
        "restart_policy": {"Name": "no"},
        "healthcheck": {"test": ["NONE"]},  # the agent looks, more often and without a process for each look
        "log_config": LogConfig(type=LogConfig.types.JSON, config={"max-size": "8m", "max-file": "2"}),
        "stop_signal": "SIGTERM",
        "detach": True,
    }


def ran(
    deployment: Deployment, asked: dict[str, Any], *, at: str, first: Callable[[docker.DockerClient], None], give: Callable[[Any, str], None]
) -> Reason | None:  # fmt: skip
    """None once a container runs as *asked* in the engine *at* an address, else why it does not.  Raises NoContainerEngine.

    *first* makes room for it; *give* has what it reads and writes ready for it, and for the user it runs as.
    """
    import docker.errors
    import requests

    client = engine.client(timeout_seconds=PATIENT_SECONDS, at=at)
    try:
        first(client)
        user = _user(client)
        container = client.containers.create(**asked, user=user)
        try:
            give(container, user)
            container.start()
        except docker.errors.APIError:
            container.remove(force=True)
            raise
    except docker.errors.APIError as error:
        return _refused(error, deployment)
    except requests.RequestException as error:
        raise engine.silent(error, at=at) from error
    return None


def _user(client: docker.DockerClient) -> str:
    """Whoever runs this, so that what the container writes is theirs and they can read it; never root of this machine."""
    if any("rootless" in option for option in client.info().get("SecurityOptions") or ()):
        return "0:0"  # which is us, outside
    return f"{os.getuid()}:{os.getgid()}" if os.getuid() else f"{packaging.USER}:{packaging.USER}"


def own(_container: Any, user: str, *, folders: Iterable[Path]) -> None:
    """Where root runs this, the folders it shares with a container belong to the container's user; root reads them anyway."""
    if os.getuid() or user == "0:0":
        return
    owner = int(user.partition(":")[0])
    for folder in folders:
        for path in (folder, *folder.rglob("*")):
            with contextlib.suppress(FileNotFoundError):  # somebody else tidied it away
                os.chown(path, owner, owner, follow_symlinks=False)  # a container may have left a link to what is not its own


def _refused(error: docker.errors.APIError, deployment: Deployment) -> Reason:
    """The engine's own words as a reason."""
    said = explained(error)
    if error.response is not None and error.response.status_code == 404 and "image" in said.lower():
        image = deployment.spec.options.get("image") or deployment.spec.options["image_id"][:19]
        return Reason(kind="image missing", message=f"The image {image} is not in the container engine any more.", hint=_again(deployment))
    if "port is already allocated" in said or "address already in use" in said:
        return Reason(kind="port taken", message="The port it was to be published on is taken.", hint="another --port, or leave it out to get a free one")
    if "device driver" in said:
        return Reason(kind="hardware missing", message="The container engine has no GPU to hand over.", log=said, hint="%mlops hardware")
    return Reason(kind="cannot start", message=f"The container engine refused: {said}", hint=f"%mlops logs {deployment.ref}")


def _again(deployment: Deployment) -> str:
    """The line that deploys it once more, and so builds its image once more."""
    words = ["%mlops", "deploy", deployment.model_ref, "--endpoint", deployment.endpoint, "--to", deployment.target]
    options = deployment.spec.options
    return " ".join([*words, *(f"--{name} {options[name]}" for name in ("device", "run") if options.get(name))])


def explained(error: BaseException) -> str:
    """What an engine said, on one line."""
    return " ".join(str(getattr(error, "explanation", "") or error).split())[:500]


def silence(error: MlopsError) -> Reason:
    """An engine that does not answer, as a reason."""
    return Reason(kind="no engine", message=str(error), hint=error.hint)


def ended(deployment: Deployment, container: Container, *, log: str) -> Reason:
    """What the end of a container looks like from outside."""
    if container.error:
        return Reason(kind="cannot start", message=f"The container engine could not run it: {container.error}", log=log, hint=f"%mlops logs {deployment.ref}")
    killed = " (killed from outside)" if container.exit_code == 137 else ""
    last = next((line for line in reversed(log.splitlines()) if line.strip()), "") if container.exit_code not in (0, 137, 143) else ""
    message = f"Its container ended with exit code {container.exit_code}{killed}{f': {last.strip()[:300]}' if last else '.'}"
    return Reason(kind="exited", message=message, log=log, hint=f"%mlops logs {deployment.ref}")


def counters(container: Container, *, at: str) -> tuple[float | None, float | None]:
    """The CPU time so far in seconds and memory in MB, the file cache not counted; nothing of one that just ended."""
    import docker.errors
    import requests

    try:
        told = engine.client(at=at).api.stats(container.id, stream=False, one_shot=True)
        spent = told["cpu_stats"]["cpu_usage"]["total_usage"] / 1e9
    except (docker.errors.DockerException, requests.RequestException, NoContainerEngine, KeyError):
        return None, None
    memory = told.get("memory_stats") or {}
    details = memory.get("stats") or {}
    cached = details.get("total_inactive_file", details.get("inactive_file", 0))
    return spent, (memory.get("usage", 0) - cached) / 1e6


def said(container: Container | None, *, at: str, lines: int) -> list[str]:
    """The last lines of its log; none of one that is not there, or where the engine does not answer."""
    import docker.errors
    import requests

    if container is None or container.state == "created":
        return []
    try:
        log: bytes = engine.client(at=at).api.logs(container.id, stdout=True, stderr=True, tail=lines)
    except (docker.errors.DockerException, requests.RequestException, NoContainerEngine):
        return []
    return log.decode(errors="replace").splitlines()


def cleared(client: docker.DockerClient, name: str, *, log_folder: Path, seconds: int, last: Callable[[str], object] | None = None) -> None:
    """Remove a container, if there is one, once that has finished what it had, for which it has some seconds; keep its log.

    *last* is called with its id before all it holds goes.
    """
    import docker.errors

    try:
        container = client.containers.get(name)
        if container.status in ("running", "paused", "restarting"):
            container.stop(timeout=seconds)
        if container.status != "created":
            with local.open_log(log_folder) as file:
                file.write(container.logs(tail=_KEPT_LINES))
            if last:
                last(container.id)
        container.remove(force=True, v=True)
    except docker.errors.NotFound:
        pass


def end_strays(belongs: Callable[[Container], bool], names: set[str]) -> None:
    """Remove this workspace's containers that *belong* to a target and are called none of *names*: the agent was killed before it noted that.

    Raises NoContainerEngine when an engine falls silent meanwhile; one that is silent already is passed over.
    """
    for address in _remembered():
        watch = containers.watch(address)
        if watch.silence():
            continue
        seen = watch.containers() if names else watch.look()
        for name in {found.name for found in seen.values() if belongs(found)} - names:
            _remove(address, name)


def _remove(address: str, name: str) -> None:
    import docker.errors
    import requests

    try:
        engine.client(at=address, timeout_seconds=PATIENT_SECONDS).api.remove_container(name, force=True, v=True)
    except docker.errors.APIError:
        pass  # it is being removed already
    except requests.RequestException as error:
        raise engine.silent(error, at=address) from error


# ── which engines ────────────────────────────────────────────────────────────────────────────────────────────────────


def _engines_file() -> Path:
    return Workspace.current().run / "engines"


def remember(address: str) -> None:
    """Note an engine that may have containers of this workspace."""
    if address not in _remembered():
        Workspace.current().run.mkdir(parents=True, exist_ok=True, mode=0o700)
        with _engines_file().open("a", encoding="utf-8") as file:
            file.write(f"{address}\n")


def _remembered() -> list[str]:
    """Every engine that may have containers of this workspace; none where no container was ever wanted."""
    try:
        return _engines_file().read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
