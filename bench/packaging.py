"""Container images: size over the base, time to the first answer, and what a new version of the same environment costs.

Needs a container engine, and MLOPS_BENCH_BASE or the tests' base image in it, or a registry that has python:3.11-slim.
"""

from __future__ import annotations

import http.client
import os
import time
from statistics import median
from typing import TYPE_CHECKING

from mlops_nb import engine, packaging, registry
from mlops_nb.errors import BaseUnfit, MissingExtra, NoContainerEngine
from mlops_nb.packaging import Image, Wanted, context
from mlops_nb.targets.local import free_port

from . import examples, workspaces
from .table import Figure

if TYPE_CHECKING:
    from mlops_nb.store.models import ModelVersion

ROUNDS = 5
_TESTS_BASE = "mlops-nb-tests/python:bookworm"
_SIZE, _REBUILT, _ANSWER = "an ONNX model's image, over its base", "a new version of the same environment, to its image", "container to the first answer"


def measure() -> list[Figure]:
    """The images of two versions of one pipeline, beside their base: what it weighs, and what a container of it takes to run `python3 -c pass`."""
    with workspaces.fresh():
        try:
            base = _base()
            first, second = _versions()
            image = _image(first, base)
        except (NoContainerEngine, MissingExtra, BaseUnfit) as error:
            return [Figure(name=name, value=None, unit=unit, note=str(error)) for name, unit in ((_SIZE, "MB"), (_REBUILT, "s"), (_ANSWER, "s"))]
        began = time.perf_counter()
        newer = _image(second, base)
        rebuilt = time.perf_counter() - began
        plain, answers = [median(step(what) for _ in range(ROUNDS)) for step, what in ((_bare, base), (_first_answer, image.ref))]
        for ref in (image.ref, newer.ref):
            engine.client(timeout_seconds=60).api.remove_image(ref, force=True)
    empty = Figure(name="a container of the base that runs `python3 -c pass`", value=plain, unit="s")
    below = Figure(name="the base image", value=image.base_bytes / 1e6, unit="MB")
    return [
        below,
        Figure(name=_SIZE, value=image.added_bytes / 1e6, unit="MB", baseline=below.name, at_most=150),
        empty,
        Figure(name=_ANSWER, value=answers, unit="s", baseline=empty.name, at_most=1.5),
        Figure(name=_REBUILT, value=rebuilt, unit="s", at_most=3),
    ]


def _base() -> str:
    """The image to build upon: the one that was named, the tests' where it is, else the official one."""
    known = {tag for image in engine.client(timeout_seconds=30).api.images() for tag in image.get("RepoTags") or ()}
    return os.environ.get("MLOPS_BENCH_BASE") or (_TESTS_BASE if _TESTS_BASE in known else context.default_base("3.11"))


def _versions() -> tuple[ModelVersion, ModelVersion]:
    made = []
    for seed in (1, 2):
        frame, late = examples.flights(seed=seed)
        made.append(registry.register(examples.pipeline(frame, late), name="bench-delays", sample=frame).version)
    return made[0], made[1]


def _image(version: ModelVersion, base: str) -> Image:
    made = registry.provenance(version.ref)
    packaging.context_of(made.version, made.environment, Wanted(base=base))  # the wheels are fetched once; the build is what is measured
    return packaging.image_of(made.version, made.environment, base=base)


def _bare(base: str) -> float:
    began = time.perf_counter()
    engine.client(timeout_seconds=60).containers.run(base, ["python3", "-c", "pass"], remove=True)
    return time.perf_counter() - began


def _first_answer(ref: str) -> float:
    """Seconds from `docker run` to the first answer about the model."""
    port, began = free_port(), time.perf_counter()
    ports, variables = {"8080/tcp": ("127.0.0.1", port)}, {"MLOPS_OPEN": "1"}
    container = engine.client(timeout_seconds=60).containers.run(ref, detach=True, read_only=True, ports=ports, environment=variables)
    while not _answers(port):
        time.sleep(0.01)
    seconds = time.perf_counter() - began
    container.remove(force=True)
    return seconds


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/v2/models/bench-delays")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
