"""Container images: size over the base, time to the first answer, and what a new version of the same environment costs.

Needs a container engine, and MLOPS_BENCH_BASE or the tests' base image in it, or a registry that has python:3.11-slim.
"""

from __future__ import annotations

import io
import os
import time
from statistics import median
from typing import TYPE_CHECKING, Any

import httpx
import msgspec

from mlops_nb import engine, packaging, registry
from mlops_nb.errors import BaseUnfit, MissingExtra, NoContainerEngine
from mlops_nb.packaging import Image, context
from mlops_nb.ports import free_port
from mlops_nb.targets.local import ready

from . import examples, workspaces
from .table import Figure

if TYPE_CHECKING:
    from mlops_nb.store.models import ModelVersion

ROUNDS = 5
_TESTS_BASE = "mlops-nb-tests/python:bookworm"
_SIZE, _REBUILT, _ANSWER = "an ONNX model's image, over its base", "a new version of the same environment, to its image", "container to the first answer"


def measure() -> list[Figure]:
    """The images of two versions of one pipeline, beside their base: what it weighs, and what a container of it and a build upon it take."""
    with workspaces.fresh():
        try:
            base = _base()
            first, second = _versions()
            image, flight = _image(first, base), examples.flights(seed=1)[0].head(1)
        except (NoContainerEngine, MissingExtra, BaseUnfit) as error:
            return [Figure(name=name, value=None, unit=unit, note=str(error)) for name, unit in ((_SIZE, "MB"), (_REBUILT, "s"), (_ANSWER, "s"))]
        began = time.perf_counter()
        newer = _image(second, base)
        rebuilt = time.perf_counter() - began
        touched = median(_touched(base) for _ in range(ROUNDS))
        plain = median(_bare(base) for _ in range(ROUNDS))
        answers = median(_first_answer(image.ref, {"data": msgspec.json.decode(flight.to_json(orient="records", date_format="iso"))}) for _ in range(ROUNDS))
        for image_id in (image.digest, newer.digest):
            engine.client(timeout_seconds=60).api.remove_image(image_id, force=True)
    empty = Figure(name="a container of the base that runs `python3 -c pass`", value=plain, unit="s")
    build = Figure(name="a build of one label upon the base", value=touched, unit="s")
    below = Figure(name="the base image", value=image.base_bytes / 1e6, unit="MB")
    return [
        below,
        Figure(name=_SIZE, value=image.added_bytes / 1e6, unit="MB", baseline=below.name, at_most=150),
        empty,
        Figure(name=_ANSWER, value=answers, unit="s", baseline=empty.name, at_most=1.5),
        build,
        Figure(name=_REBUILT, value=rebuilt, unit="s", baseline=build.name, at_most=3),
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
    return packaging.image_of(made.version, made.environment, base=base)


def _bare(base: str) -> float:
    began = time.perf_counter()
    engine.client(timeout_seconds=60).containers.run(base, ["python3", "-c", "pass"], remove=True)
    return time.perf_counter() - began


def _touched(base: str) -> float:
    """Seconds that the engine takes for the least there is to build: a label that it has not seen."""
    lines, began = f"FROM {base}\nLABEL made={time.time_ns()}\n", time.perf_counter()
    image, _ = engine.client(timeout_seconds=60).images.build(fileobj=io.BytesIO(lines.encode()), rm=True)
    seconds = time.perf_counter() - began
    engine.client(timeout_seconds=60).api.remove_image(image.id, force=True)
    return seconds


def _first_answer(ref: str, body: dict[str, Any]) -> float:
    """Seconds from `docker run` to the first answer of the model."""
    port, began = free_port(), time.perf_counter()
    ports, variables = {"8080/tcp": ("127.0.0.1", port)}, {"MLOPS_OPEN": "1"}
    container = engine.client(timeout_seconds=60).containers.run(ref, detach=True, read_only=True, ports=ports, environment=variables)
    while not ready(port):
        time.sleep(0.005)
    httpx.post(f"http://127.0.0.1:{port}/score", json=body, trust_env=False).raise_for_status()
    seconds = time.perf_counter() - began
    container.remove(force=True)
    return seconds
