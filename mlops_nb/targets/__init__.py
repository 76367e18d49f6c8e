"""Where a deployment can run: one protocol, one module per place.

A target says in ABILITIES what it can do; what it cannot is refused before anything is done, naming the targets that can.  It says in
TRAFFIC who divides an endpoint's requests among its deployments: the `gateway` of this workspace, the target's `own` means, or none.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, Protocol

import msgspec

from .. import store
from ..errors import BadOption, MlopsError, TargetCannot, closest, listed
from ..progress import Reporter
from ..store import deployments as table
from ..store.deployments import Deployment, DeploymentSpec, Reason
from ..store.environments import Environment
from ..store.models import ModelVersion

NAMES = ("local", "docker", "kubernetes", "fpga", "edge")
"""Every target this version of the package can run on."""
_RUN_BY = {"fpga": "local"}

ABILITIES: Mapping[str, str] = {
    "traffic": "take a share of an endpoint's requests",
    "invoke": "be asked over HTTP from here",
    "logs": "show a log",
    "usage": "tell what it uses now",
    "capture": "keep what it was asked and answered in this workspace",
    "cpus": "limit cores (--cpus)",
    "memory": "limit memory (--memory)",
    "gpus": "hand over GPUs (--gpus)",
    "port": "listen on a port of your choice (--port)",
    "variables": "set environment variables (--env)",
    "hardware": "run on a provider of your choice (--hardware)",
    "isolated": "run in an environment of its own (--isolated, --environment)",
    "replace": "be given another version in place",
}
"""What a target may be able to do, and how an error words it."""


class Observed(msgspec.Struct, frozen=True, kw_only=True):
    """What a target sees of a deployment now."""

    state: Literal["starting", "healthy", "unhealthy", "gone"]
    reason: Reason | None = None
    """Why it is not healthy; of a healthy one, the latest exception a request raised in the user's code."""
    unreachable: bool = False
    """Whether the place it runs in does not answer — an engine, an API server — so that nothing can be done about it now."""
    mending: bool = False
    """Whether the place restarts by itself what fails in it, so that the agent must not."""
    away: bool = False
    """Whether it may stay out of reach for as long as it likes, as a device does, and is waited for."""
    answer: str = ""
    """What its health check came to while it starts, where it was asked."""


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What a deployment uses now, and what it runs as."""

    cpus: float | None = None
    """Cores in use, on average since it was last looked at or over the target's own window."""
    cpu_seconds: float | None = None
    """CPU time it has taken so far, where the place counts that."""
    memory_mb: float | None = None
    restarts: int | None = None
    """How often the target itself restarted it, beside the agent's count."""
    image: str = ""
    """The image's digest, where it runs from one."""
    where: str = ""
    """The container, pod, device or process it is."""
    pid: int | None = None
    """Its process, where that is one of this machine."""
    hardware: str = ""
    """What executes the model, as the server proved it; an emulation says so here."""


class Target(Protocol):
    """Where a deployment can run.  Every verb may be repeated: the agent calls it until what is matches what should be.

    The agent calls all but `check` and `prepare`, in a loop that serves every deployment: a verb answers within half a second, and
    `stop` and `end_strays` within their drain time.
    """

    ABILITIES: frozenset[str]
    OPTIONS: frozenset[str]
    """The keys of `DeploymentSpec.options` that it understands."""
    TRAFFIC: Literal["gateway", "own", "none"]

    def check(self, version: ModelVersion, environment: Environment | None, spec: DeploymentSpec) -> None:
        """Refuse what cannot come to run there, before anything is done: raises the error that says why."""

    def prepare(self, version: ModelVersion, environment: Environment | None, spec: DeploymentSpec, *, ref: str, report: Reporter) -> Mapping[str, Any] | None:
        """Do what takes long — build an environment or an image — in the process of whoever deploys *ref*, telling how it goes.

        What `start` has to know of it, such as the image, is returned and kept among the deployment's options.
        """

    def start(self, deployment: Deployment, version: ModelVersion, *, context: dict[str, Any]) -> dict[str, Any]:
        """Begin running it and return the handle by which any process finds it again.

        With TRAFFIC `gateway` the handle has `port` (on 127.0.0.1) and `token_file`; with `own` it may have `url`.
        *context* has `cells` (of the notebook that made it) and `environment` (the one it is to run in, or None).
        """

    def observe(self, deployment: Deployment) -> Observed:
        """How it is."""

    def alive(self, deployment: Deployment) -> bool:
        """Whether it is there at all; asked many times a second, so it may answer from what was seen less than a second ago."""

    def usage(self, deployment: Deployment) -> Usage:
        """What it uses now."""

    def share(self, endpoint: str, deployments: Sequence[Deployment], weights: Mapping[str, int]) -> None:
        """Bring the endpoint's split in force, where TRAFFIC is `own`; called when it or the deployments changed."""

    def stop(self, deployment: Deployment) -> None:
        """End it; nothing of it remains running when this returns."""

    def end_strays(self, known: Iterable[Deployment]) -> None:
        """End what runs there for this workspace and is none of the *known*."""

    def logs(self, deployment: Deployment, *, lines: int) -> list[str]:
        """Its log's last lines."""


def get(name: str) -> Target:
    """The target called *name*.  Raises BadOption when there is none."""
    if name in NAMES:
        return importlib.import_module(f".{name}", __name__)  # type: ignore[return-value]
    near = closest(name, NAMES)
    raise BadOption(f"No target {name!r}. Targets: {listed(NAMES)}.", hint=f"--to {near or NAMES[0]}")


def usage(deployment: Deployment) -> Usage:
    """What a deployment uses now; nothing where its place does not answer."""
    try:
        return get(deployment.target).usage(deployment)
    except MlopsError:
        return Usage()


def require(name: str, *abilities: str) -> None:
    """Raises TargetCannot when the target called *name* lacks one of *abilities*, naming those that have it."""
    for ability in abilities:
        if ability not in get(name).ABILITIES:
            raise TargetCannot(name, ABILITIES[ability], able=[other for other in NAMES if ability in get(other).ABILITIES])


def require_http(deployment: Deployment) -> None:
    """Raises TargetCannot for a deployment that is not asked over HTTP from here; says how it is asked instead, where its target knows."""
    said = _own_words(deployment, "asked_instead")
    if "invoke" not in get(deployment.target).ABILITIES:
        able = [other for other in NAMES if "invoke" in get(other).ABILITIES]
        raise TargetCannot(deployment.target, ABILITIES["invoke"], able=able, instead=said(deployment) if said else "")


def require_gateway(name: str, what: str) -> None:
    """Raises TargetCannot when requests to what runs on the target called *name* do not pass this workspace's gateway, which alone can do *what*."""
    if get(name).TRAFFIC != "gateway":
        raise TargetCannot(name, what, able=[other for other in NAMES if get(other).TRAFFIC == "gateway"])


def require_kept(endpoint: str) -> None:
    """Raises TargetCannot where all that runs behind *endpoint* runs where nothing it is asked is kept in this workspace."""
    there = _behind(endpoint)
    if there and not any("capture" in get(name).ABILITIES for name in there):
        require(there[0], "capture")


def over_http(endpoint: str) -> bool:
    """Whether *endpoint* is asked over HTTP from here, as far as anything runs behind it."""
    there = _behind(endpoint)
    return not there or any("invoke" in get(name).ABILITIES for name in there)


def _behind(endpoint: str) -> list[str]:
    """The targets of an endpoint's deployments, as far as this version knows them."""
    with store.reading() as tx:
        return [deployment.target for deployment in table.of(tx, endpoint) if deployment.target in NAMES]


def check(name: str, version: ModelVersion, environment: Environment | None, spec: DeploymentSpec) -> None:
    """Refuse what the target called *name* cannot do, before anything is done.  Raises BadOption, TargetCannot, or what the target raises."""
    target = get(name)
    require(name, *_asked_for(spec))
    for option in spec.options:
        if option not in target.OPTIONS:
            able = [other for other in NAMES if option in get(other).OPTIONS]
            raise TargetCannot(name, f"understand --{option.replace('_', '-')}", able=able)
    target.check(version, environment, spec)


def runs_as(name: str) -> str:
    """The target that sees to the processes of the one called *name*: itself, or the one that an emulation is run by."""
    return _RUN_BY.get(name, name)


def hardware(deployment: Deployment) -> str:
    """What a deployment runs on, as every face shows it: what was asked for, or the emulation that stands in for it."""
    said = _own_words(deployment, "hardware")
    return said(deployment) if callable(said) else deployment.spec.hardware


def limits(deployment: Deployment) -> str:
    """What holds a deployment to its cores and memory where it runs, in words; nothing when nothing does."""
    said = _own_words(deployment, "limits")
    if callable(said):
        return said(deployment)
    spec = deployment.spec
    return ", ".join(filter(None, [f"{spec.cpus:g} core{'s' * (spec.cpus != 1)}" if spec.cpus else "", f"{spec.memory_mb} MB" if spec.memory_mb else ""]))


def _own_words(deployment: Deployment, verb: str) -> Any:
    """The target's own function called *verb*, where it has one; a deployment of a newer version's target is shown all the same."""
    return getattr(get(deployment.target), verb, None) if deployment.target in NAMES else None


def may_share(name: str, other: str) -> bool:
    """Whether deployments on the two targets can stand behind one endpoint."""
    return name == other or get(name).TRAFFIC == get(other).TRAFFIC == "gateway"


def _asked_for(spec: DeploymentSpec) -> list[str]:
    """The abilities that *spec* takes."""
    asked = {
        "cpus": spec.cpus,
        "memory": spec.memory_mb,
        "gpus": spec.gpus,
        "port": spec.port,
        "variables": spec.variables,
        "hardware": spec.hardware != "cpu",
        "isolated": spec.isolated,
    }
    return [ability for ability, value in asked.items() if value]
