"""An image of a conda environment, installed by a real solver from a real channel, which is within the base image: none can be reached here."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import msgspec
import numpy as np
import pytest
from doubling import Doubler
from living import wait_for

from mlops_nb import engine, packaging, registry
from mlops_nb.packaging import Wanted, images, wheels
from mlops_nb.ports import free_port
from mlops_nb.settings import Workspace
from mlops_nb.store.environments import Package

pytestmark = pytest.mark.xdist_group("engine")
_FILES = Path(__file__).parent / "conda"
_PYTHON = "3.11.2"
_WHO = """
import importlib.metadata as m, json, os, sys
installers = [m.distribution(name).read_text("INSTALLER").strip() for name in ("numpy", "msgspec")]
print(json.dumps({"installers": installers, "known to conda": sorted(os.listdir(sys.prefix + "/conda-meta"))}))
"""
_BASE = "mlops-nb-tests/conda:bookworm"


@pytest.fixture
def conda_base(base_image: str, workspace: Workspace, tmp_path: Path) -> str:
    """The base image with a channel of Python and numpy, and a micromamba that knows how to install from it."""
    needed = [Package(name="py-rattler", version="0.28.0", direct=True), Package(name="numpy", version=np.__version__, direct=True)]
    locked = wheels.lock(needed, python="3.11", platform="linux/amd64", wheelhouse=True)
    for wheel in locked.wheels:
        shutil.copyfile(Path(locked.folder) / wheel.file, tmp_path / wheel.file)
    for file in _FILES.iterdir():
        shutil.copy(file, tmp_path / file.name)
    (tmp_path / "Dockerfile").write_text(
        f"FROM {base_image}\n"
        "COPY *.whl make_channel.py /build/\n"
        "RUN python3 -m zipfile -e /build/py_rattler-*.whl /opt/rattler && python3 /build/make_channel.py /opt/channel/conda-forge && rm -r /build\n"
        "COPY micromamba /usr/local/bin/\n"
        "RUN chmod +x /usr/local/bin/micromamba\n"
        "ENV CHANNEL_ALIAS=file:///opt/channel\n"
    )
    engine.client(timeout_seconds=300).images.build(path=str(tmp_path), tag=_BASE, rm=True)
    return _BASE


@pytest.fixture
def container(conda_base: str, workspace: Workspace) -> Iterator[tuple[object, int]]:
    """A container of a model whose numpy and Python came from conda, and its port."""
    made = registry.provenance(registry.register(Doubler(), name="doubler", sample=np.ones((3, 2)), convert=False).version.ref)
    assert made.environment
    by_conda = [msgspec.structs.replace(package, conda=True) for package in made.environment.packages]
    environment = msgspec.structs.replace(made.environment, manager="conda", python=_PYTHON, packages=by_conda)
    laid_out = packaging.context_of(made.version, environment, Wanted(base=conda_base))
    image = images.build(laid_out, tag="mlops-nb-tests/doubler:conda")
    port = free_port()
    client = engine.client(timeout_seconds=60)
    running = client.containers.run(image.ref, detach=True, read_only=True, ports={"8080/tcp": ("127.0.0.1", port)}, environment={"MLOPS_OPEN": "1"})
    yield running, port
    running.remove(force=True)
    client.api.remove_image(image.ref, force=True)


def test_a_model_of_a_conda_environment_answers_from_what_conda_installed(container: tuple[object, int]) -> None:
    running, port = container

    wait_for(lambda: _answers(port), seconds=60, what="the container")
    answer = httpx.post(f"http://127.0.0.1:{port}/score", json={"data": [[1.5, 2.0]]}, trust_env=False)

    assert answer.json()["output"] == [[3.0, 4.0]]
    told = msgspec.json.decode(running.exec_run([packaging.PYTHON, "-c", _WHO]).output)  # type: ignore[attr-defined]
    assert told["installers"] == ["conda", "pip"]
    assert [name.split("-")[0] for name in told["known to conda"] if name.endswith(".json")] == ["numpy", "python"]


def _answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/v2/health/ready", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False
