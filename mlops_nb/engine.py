"""The container engine: where it is, a client to it, and what it can do.

The address is what `container_engine` in [tool.mlops] says — a `unix://`, `tcp://` or `ssh://` address, or the name of a docker context — else
what the docker command would use: `DOCKER_HOST`, then `DOCKER_CONTEXT`, then the current context, then the socket of this machine.

One at a `tcp://` address may speak TLS: with the certificates of its context, or of `DOCKER_CERT_PATH` and `DOCKER_TLS_VERIFY`.  Where they are is
noted for the agent, which may have been started without either.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec

from . import ssh
from .errors import MissingExtra, NoContainerEngine
from .settings import Workspace

if TYPE_CHECKING:
    import docker
    from docker.tls import TLSConfig

QUICK_SECONDS = 3.0
"""How long a client waits for the engine to say something, unless told otherwise."""
_OVER_SSH_SECONDS = 10.0
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_clients: dict[tuple[str, float, int], docker.DockerClient] = {}
_making = threading.Lock()


class Certificates(msgspec.Struct, frozen=True):
    """Where the files are with which an engine is spoken to."""

    cert: list[str]
    """The certificate and its key; none where nobody is asked for one."""
    ca: str
    verify: bool

    @classmethod
    def of(cls, tls: TLSConfig) -> Certificates:
        return cls([str(Path(file).absolute()) for file in tls.cert or ()], str(Path(tls.ca_cert).absolute()) if tls.ca_cert else "", bool(tls.verify))


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


def variables() -> dict[str, str]:
    """By which the docker command reaches the engine as this process does: over ssh, with this workspace's configuration for it."""
    connection = _connection()
    where, tls = connection["base_url"], connection.get("tls")
    if ssh.is_meant(where):
        return {"DOCKER_HOST": ssh.door(where).address}
    if not tls or not tls.cert:
        return {"DOCKER_HOST": where}
    return {"DOCKER_HOST": where, "DOCKER_CERT_PATH": str(Path(tls.cert[0]).parent), "DOCKER_TLS_VERIFY": "1" if tls.verify else ""}


def client(*, timeout_seconds: float = QUICK_SECONDS, at: str | None = None) -> docker.DockerClient:
    """A client of the engine (or of the one *at* an address), made once in a process for each address and patience.

    A slow task such as a build asks for more patience.  Raises MissingExtra without the docker package; NoContainerEngine, saying what was
    tried, when nobody answers.
    """
    connection = _connection(at)
    key = connection["base_url"], timeout_seconds, os.getpid()
    with _making:
        known = _clients.get(key)  # once: they may be forgotten at any time
        if known is None:
            known = _clients[key] = _connected(connection, timeout_seconds)
        return known


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
    """What docker.DockerClient takes: base_url, and tls where that is used.

    One *at* an address that was found earlier is spoken to with the certificates that lead there now, else with those that did when it answered last.
    """
    if at is None:
        return _chosen()
    if not _may_speak_tls(at):
        return {"base_url": at}
    try:
        now = _chosen()
    except NoContainerEngine:
        now = {}
    return {"base_url": at} | _noted(at) | (now if now.get("base_url") == at else {})


def _chosen() -> dict[str, Any]:
    """The connection that the settings, else the environment, else docker's contexts lead to."""
    try:
        import docker  # noqa: F401 - whether it is there
    except ImportError:
        raise MissingExtra("docker", extra="docker", doing="Talking to a container engine") from None
    chosen = Workspace.current().settings().container_engine
    if chosen and "://" not in chosen:
        return _of_context(chosen)
    if address := chosen or os.environ.get("DOCKER_HOST"):
        return _of_address(address)
    return _of_context(os.environ.get("DOCKER_CONTEXT"))


def _may_speak_tls(where: str) -> bool:
    return urlsplit(where).scheme in ("tcp", "https")


def _of_address(where: str) -> dict[str, Any]:
    """The connection to an address, with the certificates that the environment names, as `docker -H` would take them."""
    import docker.errors
    from docker.utils import kwargs_from_env

    if not _may_speak_tls(where):
        return {"base_url": where}
    try:
        return kwargs_from_env({**os.environ, "DOCKER_HOST": where})
    except docker.errors.TLSParameterError as error:
        why = f"not all of cert.pem, key.pem and ca.pem are in {os.environ.get('DOCKER_CERT_PATH') or '~/.docker'} (DOCKER_CERT_PATH)"
        raise NoContainerEngine(where, why=why) from error


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
    if connection.get("tls"):
        connection = connection | {"tls": _by_its_own_authority(connection["tls"])}
    try:
        found = docker.DockerClient(**connection, version="auto", timeout=timeout_seconds, max_pool_size=20)
    except (docker.errors.DockerException, requests.RequestException, OSError) as error:
        raise NoContainerEngine(where, why=_plain(error, where)) from error
    if _may_speak_tls(where):
        _note(where, connection.get("tls"))
    return found


# ── TLS ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _by_its_own_authority(tls: TLSConfig) -> TLSConfig:
    """The same, for a client that asks nobody else who signed the engine's certificate: requests would take REQUESTS_CA_BUNDLE for it first."""
    from docker.tls import TLSConfig

    class OwnAuthority(TLSConfig):
        def configure_client(self, client: Any) -> None:
            super().configure_client(client)
            client.trust_env = False

    return OwnAuthority(client_cert=tls.cert, ca_cert=tls.ca_cert, verify=tls.verify)


def _notes() -> Path:
    return Workspace.current().run / "engine-certificates.json"


def _all_noted() -> dict[str, Certificates]:
    try:
        return msgspec.json.decode(_notes().read_bytes(), type=dict[str, Certificates])
    except (FileNotFoundError, msgspec.DecodeError):
        return {}


def _noted(where: str) -> dict[str, Any]:
    """The certificates with which the engine at an address was spoken to before, as far as they are there."""
    import docker.errors
    from docker.tls import TLSConfig

    known = _all_noted().get(where)
    if not known:
        return {}
    try:
        return {"tls": TLSConfig(client_cert=known.cert or None, ca_cert=known.ca or None, verify=known.verify)}
    except docker.errors.TLSParameterError as error:
        raise NoContainerEngine(where, why="the certificates it was reached with are gone") from error


def _note(where: str, tls: TLSConfig | None) -> None:
    """Note with which certificates an engine answered."""
    before = _all_noted()
    after = {address: known for address, known in before.items() if address != where} | ({where: Certificates.of(tls)} if tls else {})
    if after != before:
        _notes().parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        scratch = _notes().with_suffix(f".{os.getpid()}")
        scratch.write_bytes(msgspec.json.encode(after))
        scratch.replace(_notes())


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
    "HTTP request to an HTTPS server": "it speaks TLS (DOCKER_TLS_VERIFY=1 and DOCKER_CERT_PATH, or a docker context, say with which certificates)",
    "CERTIFICATE_VERIFY_FAILED": "its certificate was not signed by the ca.pem it is to be known by",
    "CERTIFICATE_REQUIRED": "it lets in only whom its authority signed, and no certificate was shown",
    "WRONG_VERSION_NUMBER": "it does not speak TLS",
    "Connection aborted": "it ended the connection",
}


def _architecture(machine: str) -> str:
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)


def _at_least(version: str, least: str) -> bool:
    return [int(part) for part in version.split(".")] >= [int(part) for part in least.split(".")]


def _has_nvidia_devices(said: dict[str, Any]) -> bool:
    """Whether the engine lists NVIDIA's devices by CDI, as Docker 25 and later do."""
    return any("nvidia" in str(device.get("ID", "")) for device in said.get("DiscoveredDevices") or ())
