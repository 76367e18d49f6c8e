"""The FPGA target: a version's logic emulated bit by bit in C++, by a scoring server of the local target's kind.

It is an emulation and says so wherever it is shown.  On a board's own Linux, an overlay built of the HLS project that `convert --to fpga`
keeps answers instead (`--overlay`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from .. import artifacts, fpga
from ..errors import BadOption, DeploymentFailed, EmulationNotBuilt, FileMissing
from ..fpga import boards, emulation
from ..store.deployments import Deployment
from ..store.models import StoredFile
from . import Usage, local

if TYPE_CHECKING:
    from ..progress import Reporter
    from ..store.deployments import DeploymentSpec
    from ..store.environments import Environment
    from ..store.models import ModelVersion

ABILITIES = frozenset({"traffic", "invoke", "logs", "usage", "capture", "cpus", "memory", "port", "variables"})
OPTIONS: frozenset[str] = frozenset({"precision", "overlay"})
TRAFFIC = "gateway"

alive, limits, logs, observe, stop = local.alive, local.limits, local.logs, local.observe, local.stop


def check(version: ModelVersion, environment: Environment | None, spec: DeploymentSpec) -> None:
    """Raises BadOption for a version without an FPGA form in that precision, CompilerMissing, HardwareMissing without a board for the overlay."""
    if overlay := spec.options.get("overlay"):
        boards.check(overlay)
    _project(version, spec.options.get("precision"))
    emulation.compiler()


def prepare(version: ModelVersion, environment: Environment | None, spec: DeploymentSpec, *, ref: str, report: Reporter) -> Mapping[str, Any]:
    """Compile the emulation, and say which precision it has.  Raises DeploymentFailed with the compiler's first lines."""
    precision, project = _project(version, spec.options.get("precision"))
    try:
        emulation.library(artifacts.address(project.sha256), report=report)
    except FileNotFoundError:
        raise FileMissing(artifacts.address(project.sha256)) from None
    except EmulationNotBuilt as error:
        raise DeploymentFailed(ref, message=str(error), log=error.detail, hint=error.hint) from error
    overlay = {"overlay": str(boards.check(spec.options["overlay"]))} if spec.options.get("overlay") else {}
    return {"precision": precision, "project": msgspec.to_builtins(project), **overlay}


def start(deployment: Deployment, version: ModelVersion, *, context: dict[str, Any]) -> dict[str, Any]:
    """Start the scoring server and return its handle: pid, port, token_file, and the hardware it stands in for.  Raises PortInUse."""
    options = deployment.spec.options
    started = local.start(deployment, version, context=context | _served(options))
    return started | {"hardware": hardware(deployment)}


def _served(options: Mapping[str, Any]) -> dict[str, Any]:
    """What the server is told beside what any is."""
    return {"engine": "fpga", "form": msgspec.convert(options["project"], StoredFile), "overlay": options.get("overlay", "")}


def hardware(deployment: Deployment) -> str:
    """What faces show: that it is emulated, or on a board, and in which numbers."""
    name = boards.NAME if deployment.spec.options.get("overlay") else fpga.NAME
    return ", ".join(filter(None, [name, deployment.spec.options.get("precision")]))


def usage(deployment: Deployment) -> Usage:
    """CPU and memory of the process that emulates."""
    return msgspec.structs.replace(local.usage(deployment), hardware=hardware(deployment))


def share(endpoint: str, deployments: Sequence[Deployment], weights: Mapping[str, int]) -> None:
    """Nothing: the gateway divides the requests."""


def end_strays(known: Iterable[Deployment]) -> None:
    """Nothing: the local target's own look finds this target's servers too."""


def _project(version: ModelVersion, precision: str | None) -> tuple[str, StoredFile]:
    """The precision to run and its project.  Raises BadOption."""
    form = version.conversion.get("fpga")
    if not form:
        raise BadOption(f"{version.ref} has no FPGA form.", hint=f"%mlops convert {version.ref} --to fpga")
    wanted = precision or form["chosen"]
    point = next((point for point in form["points"] if point["precision"] == wanted), None)
    if point is None:
        there = ", ".join(point["precision"] for point in form["points"])
        raise BadOption(f"{version.ref} has no FPGA form in {wanted}. It has: {there}.", hint=f"%mlops convert {version.ref} --to fpga")
    place = f"{emulation.FOLDER}/{point['file']}"
    return wanted, next(file for file in version.files if file.path == place)
