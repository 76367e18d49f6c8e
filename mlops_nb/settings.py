"""Which workspace, and how it wants things: `--workspace`, `MLOPS_HOME`, `[tool.mlops]` in pyproject.toml, else `.mlops`."""

from __future__ import annotations

import os
import tomllib
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import msgspec

from .errors import BadOption, closest

if TYPE_CHECKING:
    from collections.abc import Iterator

_chosen: Path | None = None  # one per process, threads included
_chosen_here: ContextVar[Path | None] = ContextVar("workspace", default=None)


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a user may set in `[tool.mlops]` of pyproject.toml or in the workspace's own config.toml (which wins)."""

    workspace: str | None = None
    gateway_port: int = 0
    """Port of the gateway on 127.0.0.1; 0 picks a free one once and keeps it."""
    capture_payload_percent: float = 100.0
    """Share of requests whose inputs and outputs are kept; every request's time, status and latency always are."""
    capture_max_mb: int = 2048
    """Telemetry beyond this size is dropped, oldest first."""
    capture_days: int = 30
    """Telemetry older than this is dropped."""
    request_timeout_seconds: float = 60.0
    start_timeout_seconds: float = 60.0
    drift_engine: str = "auto"
    """`auto`, `histograms`, `alibi-detect` or `scipy`."""
    drift_alpha: float = 0.01
    drift_budget: str = "1/30d"
    """False alarms of drift that are allowed in a period."""
    drift_effect: float = 0.03
    """The share of rows that must lie elsewhere before it counts as drift."""
    allowed_hosts: tuple[str, ...] = ()
    kubeconfig: str | None = None
    """How to reach Kubernetes clusters; None means `KUBECONFIG`, else `~/.kube/config`, else the pod's own account."""
    kubernetes_context: str | None = None
    """Which of its contexts; None means its current one."""
    kubernetes_gateway: str | None = None
    """`name` or `namespace/name` of the Gateway through which endpoints on a cluster are reached."""
    edge_broker: str = ""
    """The MQTT broker that edge devices belong to: `mqtts://host:8883`, or `mqtt://host:1883`; nothing is contacted without one."""
    edge_ca: str = ""
    """The CA that signed the broker's certificate, as a file; empty means the system's."""
    edge_credentials: str = ""
    """A file of two lines, user and password, that only its owner can read."""
    container_engine: str = ""
    """A `unix://`, `tcp://` or `ssh://` address, or a docker context's name; empty means as the docker command finds it."""
    ssh_config: str = ""
    """The configuration file that the ssh client is told to use for an engine on another machine; empty means its own."""


class Workspace(msgspec.Struct, frozen=True):
    """One folder that holds everything: copy it, inspect it, delete it."""

    root: Path

    @classmethod
    def current(cls, here: Path | None = None) -> Self:
        """The workspace in force in the folder *here* (the working directory unless given).

        The chosen one, then `MLOPS_HOME`, then as pyproject.toml says, then the nearest `.mlops` above, else `./.mlops`.
        """
        if chosen := _chosen_here.get() or _chosen:
            return cls(chosen)
        if home := os.environ.get("MLOPS_HOME"):
            return cls(Path(home).expanduser().absolute())
        here = here or Path.cwd()
        for folder in (here, *here.parents):
            if named := _tool_table(folder / "pyproject.toml").get("workspace"):
                return cls((folder / str(named)).absolute())
            if (folder / ".mlops").is_dir():
                return cls(folder / ".mlops")
        return cls(here / ".mlops")

    @property
    def store(self) -> Path:
        """The metadata: one DuckDB file."""
        return self.root / "store.duckdb"

    @property
    def artifacts(self) -> Path:
        """Content-addressed files."""
        return self.root / "artifacts"

    @property
    def telemetry(self) -> Path:
        """What was asked and answered."""
        return self.root / "telemetry"

    @property
    def keys(self) -> Path:
        """Endpoint keys, one file each, readable by the owner alone."""
        return self.root / "keys"

    @property
    def run(self) -> Path:
        """Pids, sockets, logs, generated configuration; safe to delete when nothing runs."""
        return self.root / "run"

    def settings(self) -> Settings:
        """This workspace's settings.  Raises BadOption naming the wrong one."""
        table = _tool_table(self.root.parent / "pyproject.toml") | _toml(self.root / "config.toml")
        try:
            return msgspec.convert(table, Settings)
        except msgspec.ValidationError as error:
            unknown = sorted(set(table) - set(Settings.__struct_fields__))
            hint = (
                f"did you mean {closest(unknown[0], Settings.__struct_fields__)}?"
                if unknown and closest(unknown[0], Settings.__struct_fields__)
                else f"look into {self.root / 'config.toml'}"
            )
            raise BadOption(f"[tool.mlops]: {error}.", hint=hint) from None


@contextmanager
def using(root: str | os.PathLike[str] | None) -> Iterator[Workspace]:
    """Within the block, *root* is the current workspace (None changes nothing)."""
    global _chosen
    before = _chosen
    if root:
        choose(root)
    try:
        yield Workspace.current()
    finally:
        _chosen = before


@contextmanager
def using_here(root: str | os.PathLike[str]) -> Iterator[Workspace]:
    """Within the block, and for this thread or task alone, *root* is the current workspace: for a server that answers for several folders at once."""
    token = _chosen_here.set(Path(root).expanduser().absolute())
    try:
        yield Workspace.current()
    finally:
        _chosen_here.reset(token)


def choose(root: str | os.PathLike[str]) -> None:
    """Make *root* the current workspace of this process from here on."""
    global _chosen
    _chosen = Path(root).expanduser().absolute()


def _tool_table(pyproject: Path) -> dict[str, Any]:
    return _toml(pyproject).get("tool", {}).get("mlops", {})


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadOption(f"{path} is not TOML: {error}", hint="mend the file") from None
