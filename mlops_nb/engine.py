"""The container engine: where it is, a client to it, and what it can do.

The address is what `container_engine` in [tool.mlops] says — a `unix://`, `tcp://` or `ssh://` address, or the name of a docker context — else
what the docker command would use: `DOCKER_HOST`, then `DOCKER_CONTEXT`, then the current context, then the socket of this machine.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec

from . import ssh
from .errors import MissingExtra, NoContainerEngine
from .settings import Workspace

if TYPE_CHECKING:
    import docker

QUICK_SECONDS = 3.0
"""How long a client waits for the engine to say something, unless told otherwise."""
_OVER_SSH_SECONDS = 10.0
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_clients: dict[tuple[str, float, int], docker.DockerClient] = {}
_making = threading.Lock()


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of an engine that answered."""

    address: str
    version: str
    driver: str
    """The storage driver, such as overlay2."""
    platform: str
    """What its images run on, such as linux/amd64."""
    cores: int
    memory_mb: float
    buildkit: bool
    """Whether it builds with BuildKit when asked to (cache mounts, secrets that stay out of the layers)."""
    gpus: bool
    """Whether it hands NVIDIA GPUs to containers."""
    rootless: bool
    local: bool
    """Whether it runs on this machine, so that its loopback and its files are ours."""


def address() -> str:
    """Where the engine is: `unix:///var/run/docker.sock`, `ssh://user@host` …  Raises NoContainerEngine for a context that does not exist."""
    return _connection()["base_url"]


def is_local(where: str | None = None) -> bool:
    """Whether the engine (or the one at *where*) runs on this machine, judged by its address; what leads over ssh is elsewhere, whatever its name."""
    parts = urlsplit(where or address())
    return parts.scheme in ("unix", "npipe") or (parts.scheme != ssh.SCHEME and parts.hostname in _LOOPBACK)


def socket_address() -> str:
    """By which the docker command reaches the engine as this process does: over ssh, with this workspace's configuration for it."""
    where = address()
    return ssh.door(where).address if ssh.is_meant(where) else where


def client(*, timeout_seconds: float = QUICK_SECONDS, at: str | None = None) -> docker.DockerClient:
    """A client of the engine (or of the one *at* an address), made once in a process for each address and patience.

    A slow task such as a build asks for more patience.  Raises MissingExtra without the docker package; NoContainerEngine, saying what was
    tried, when nobody answers.
    """
    connection = _connection(at)
    key = connection["base_url"], timeout_seconds, os.getpid()
    with _making:
        if key not in _clients:
            _clients[key] = _connected(connection, timeout_seconds)
        return _clients[key]


def facts() -> Facts:
    """What the engine is and can do.  Raises as `client` does."""
    said = ask("info")
    return Facts(
        address=address(), version=said["ServerVersion"], driver=said["Driver"], platform=f"{said['OSType']}/{_architecture(said['Architecture'])}",
        cores=said["NCPU"], memory_mb=said["MemTotal"] / 1e6, buildkit=_at_least(ask("version")["ApiVersion"], "1.39"),
        gpus="nvidia" in said.get("Runtimes", {}) or _has_nvidia_devices(said), rootless=any("rootless" in o for o in said.get("SecurityOptions") or ()),
        local=is_local(),
    )  # fmt: skip


def ask(what: str) -> dict[str, Any]:
    """The engine's answer to `info` or `version`.  Raises as `client` does."""
    import docker.errors
    import requests

    try:
        return getattr(client(), what)()
    except (docker.errors.APIError, requests.RequestException) as error:
        raise silent(error) from error


def silent(error: BaseException | str, *, at: str | None = None) -> NoContainerEngine:
    """The error for an engine (or the one *at* an address) that did not answer, from what the client raised."""
    where = at or address()
    return NoContainerEngine(where, why=_plain(error, where))


def _connection(at: str | None = None) -> dict[str, Any]:
    """What docker.DockerClient takes: base_url, and tls where that is used; *at* an address that was found earlier, by it alone."""
    try:
        from docker.utils import kwargs_from_env
    except ImportError:
        raise MissingExtra("docker", extra="docker", doing="Talking to a container engine") from None
    chosen = at or Workspace.current().settings().container_engine
    if "://" in chosen:
        return {"base_url": chosen}
    if chosen:
        return _of_context(chosen)
    given = kwargs_from_env()
    return given if "base_url" in given else _of_context(os.environ.get("DOCKER_CONTEXT"))


def _of_context(name: str | None) -> dict[str, Any]:
    """The connection of the context called *name*, or of the current one."""
    import docker.errors
    from docker.context import ContextAPI

    try:
        found = ContextAPI.kwargs_from_context(name=name)
    except docker.errors.DockerException as error:
        raise NoContainerEngine(f"context {name}", why=str(error)) from error
    if name and name != "default" and not found:
        raise NoContainerEngine(f"context {name}", why="docker knows no context of this name")
    where = str(found.get("base_url") or "unix:///var/run/docker.sock")
    return found | {"base_url": where.removeprefix("http+")}


def _connected(connection: dict[str, Any], timeout_seconds: float) -> docker.DockerClient:
    """A client that knows which version of its language the engine speaks."""
    import docker
    import docker.errors
    import requests

    where = connection["base_url"]
    if ssh.is_meant(where):
        connection, timeout_seconds = {"base_url": ssh.door(where).address}, max(timeout_seconds, _OVER_SSH_SECONDS)
    try:
        return docker.DockerClient(**connection, version="auto", timeout=timeout_seconds, max_pool_size=20)
    except (docker.errors.DockerException, requests.RequestException, OSError) as error:
        raise NoContainerEngine(where, why=_plain(error, where)) from error


def _plain(error: BaseException | str, where: str) -> str:
    """What went wrong, in the few words of its innermost cause; of a connection over ssh that ended, in ssh's."""
    said = str(error)
    if isinstance(error, BaseException) and isinstance(error.__cause__ or error.__context__, OSError):
        said = str(error.__cause__ or error.__context__)
    if ssh.is_meant(where) and "timed out" not in said and ssh.door(where).trouble:
        return ssh.door(where).trouble
    for mark, words in _CAUSES.items():
        if mark.lower() in said.lower():
            return words
    return " ".join(said.split())[:200] or type(error).__name__


_CAUSES = {
    "No such file or directory": "there is no such socket",
    "FileNotFoundError": "there is no such socket",
    "Connection refused": "nobody listens there",
    "Permission denied": "this user may not use it (the group docker may)",
    "timed out": "it does not answer in time",
    "Name or service not known": "there is no such host",
    "Connection aborted": "it ended the connection",
}


def _architecture(machine: str) -> str:
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)


def _at_least(version: str, least: str) -> bool:
    return [int(part) for part in version.split(".")] >= [int(part) for part in least.split(".")]


def _has_nvidia_devices(said: dict[str, Any]) -> bool:
    """Whether the engine lists NVIDIA's devices by CDI, as Docker 25 and later do."""
    return any("nvidia" in str(device.get("ID", "")) for device in said.get("DiscoveredDevices") or ())
