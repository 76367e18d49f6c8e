"""Images built by a real engine, and containers of them that are asked over HTTP."""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest
from living import X, churn_model, wait_for
from sklearn.linear_model import LogisticRegression

from mlops_nb import engine, packaging, registry, rollout
from mlops_nb.client import invoke
from mlops_nb.errors import BadOption, BaseMissing, BaseUnfit, FileMissing, ImageNotBuilt, ImageNotPushed, ImageOfAnother
from mlops_nb.packaging import Image, Wanted, context, images
from mlops_nb.ports import free_port
from mlops_nb.progress import SILENT
from mlops_nb.registry import Provenance
from mlops_nb.settings import Workspace, using
from mlops_nb.store.deployments import DeploymentSpec
from mlops_nb.store.models import ModelVersion
from mlops_nb.store.packages import Package
from mlops_nb.targets import docker

pytestmark = pytest.mark.xdist_group("engine")
NASTY = 'it\'s "quoted" $HOME ${PATH} $(touch /no) `touch /no` {{.Id}} # ONBUILD RUN \\ é'
A_SECRET = "correct-horse-battery-staple-7141"


class Reported:
    """What a build says."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.lines: list[str] = []

    def step(self, text: str) -> None:
        self.steps.append(text)

    def log(self, line: str) -> None:
        self.lines.append(line)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """One workspace for this file: an image takes seconds to build, and most tests look at the same."""
    with pytest.MonkeyPatch.context() as patched:
        root = tmp_path_factory.mktemp("packaged") / "workspace"
        patched.setenv("MLOPS_HOME", str(root))
        yield Workspace(root)


@pytest.fixture(scope="module")
def churn(workspace: Workspace) -> Provenance:
    """A model in ONNX."""
    return registry.provenance(churn_model().ref)


@pytest.fixture(scope="module")
def build(base_image: str, workspace: Workspace) -> Iterator[Callable[..., Image]]:
    """Builds the image of what `provenance` gave, and takes all away at the end; what the engine cached of them stays for the next time."""
    made: set[str] = set()

    def build(what: Provenance, *, secrets: dict[str, str] | None = None, report: Any = SILENT, **wanted: Any) -> Image:
        words = {"base": base_image, "secrets": tuple(secrets or ())} | wanted
        laid_out = packaging.context_of(what.version, what.environment, Wanted(**words))
        image = images.build(laid_out, tag=f"mlops-nb-tests/{what.version.model}:{os.getpid()}-{len(made)}", secrets=secrets, report=report)
        made.add(image.ref)
        return image

    yield build
    for ref in made:
        with contextlib.suppress(Exception):  # one that a test took away itself
            engine.client(timeout_seconds=60).api.remove_image(ref, force=True)


@pytest.fixture(scope="module")
def churn_image(churn: Provenance, build: Callable[..., Image]) -> Image:
    return build(churn)


@pytest.fixture
def run(workspace: Workspace) -> Iterator[Callable[..., Running]]:
    """Runs a container and waits until it answers."""
    started: list[Running] = []

    def run(image: Image, **options: Any) -> Running:
        started.append(Running(image, options))
        return started[-1]

    yield run
    for running in started:
        running.container.remove(force=True)


class Running:
    """A container of a package: read-only, without any capability, published on loopback."""

    def __init__(self, image: Image, options: dict[str, Any]) -> None:
        port = free_port()
        usual: dict[str, Any] = {"environment": {"MLOPS_OPEN": "1"}, "read_only": True, "cap_drop": ["ALL"], "ports": {"8080/tcp": ("127.0.0.1", port)}}
        self.container = engine.client(timeout_seconds=60).containers.run(image.digest, detach=True, **usual | options)
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10, trust_env=False)

    def until_ready(self) -> Running:
        wait_for(self._ready, seconds=60, what="the container")
        return self

    def _ready(self) -> bool:
        self.container.reload()
        assert self.container.status != "exited", self.container.logs().decode()
        try:
            return self.client.get("/v2/health/ready").status_code == 200
        except httpx.TransportError:
            return False


# ── answers ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_container_of_an_onnx_model_answers_as_the_local_server_does(churn: Provenance, churn_image: Image, run: Callable[..., Running]) -> None:
    rollout.deploy(churn.version.ref, endpoint="churn")
    local = invoke("churn", X).outputs
    rollout.down()

    container = run(churn_image).until_ready().client
    there = container.post("/score", json={"data": X.to_dict("records")}).json()
    tensors = [{"name": name, "shape": [len(X)], "datatype": kind, "data": X[name].tolist()} for name, kind in (("age", "INT64"), ("income", "FP64"))]
    by_protocol = container.post("/v2/models/churn/infer", json={"inputs": tensors}).json()

    assert there == local
    assert {output["name"]: output["data"] for output in by_protocol["outputs"]}["label"] == local["label"]


def test_a_container_of_a_python_object_answers_as_the_object(doubler: Provenance, build: Callable[..., Image], run: Callable[..., Running]) -> None:
    rows = np.array([[1.5, 2.0], [3.25, -4.0]])

    answer = run(build(doubler)).until_ready().client.post("/score", json={"data": rows.tolist()})

    assert answer.status_code == 200, answer.text
    assert answer.json()["output"] == (rows * 2).tolist()


def test_a_container_of_an_entry_script_reads_the_files_that_came_with_it(
    adder: Provenance, build: Callable[..., Image], run: Callable[..., Running], tmp_path: Path
) -> None:
    (tmp_path / "lookup").mkdir()
    (tmp_path / "lookup" / "cities.json").write_text('{"JFK": "New York"}')

    answer = run(build(adder, files=(str(tmp_path / "lookup"),))).until_ready().client.post("/score", json={"data": [1, 2, 39]})

    assert answer.json() == {"sum": 42, "known": {"JFK": "New York"}}


def test_a_container_asks_for_the_token_that_is_mounted(churn_image: Image, run: Callable[..., Running], tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("open-sesame\n")
    token.chmod(0o644)
    mount = {str(token): {"bind": packaging.TOKEN_FILE, "mode": "ro"}}

    running = run(churn_image, environment={}, volumes=mount).until_ready()

    assert running.client.get("/v2/models/churn").status_code == 401
    assert running.client.get("/v2/models/churn", headers={"x-mlops-token": "open-sesame"}).status_code == 200


def test_a_container_that_was_given_neither_token_nor_leave_says_so_and_ends(churn_image: Image, run: Callable[..., Running]) -> None:
    running = run(churn_image, environment={})

    assert running.container.wait(timeout=60)["StatusCode"] == 1
    assert b"/run/secrets/mlops-token is not there: mount a file" in running.container.logs()


def test_a_container_is_nobody_and_the_engine_finds_it_healthy(churn_image: Image, run: Callable[..., Running]) -> None:
    running = run(churn_image).until_ready()

    assert churn_image.user == "10001:10001"
    assert running.container.exec_run(["id", "-u"]).output.strip() == b"10001"
    config = running.container.image.attrs["Config"]
    assert running.container.exec_run(config["Healthcheck"]["Test"][1:]).exit_code == 0
    bill = msgspec.json.decode(running.container.exec_run(["cat", config["Labels"]["org.mlops-nb.sbom"]]).output)
    assert bill["bomFormat"] == "CycloneDX"


# ── layers ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_new_version_of_the_same_environment_changes_the_last_layer_alone(churn_image: Image, build: Callable[..., Image]) -> None:
    model = LogisticRegression(C=0.01).fit(X, [0, 1] * 50)
    reported = Reported()

    second = build(registry.provenance(registry.register(model, name="churn", data="customers").version.ref), report=reported)

    layers = [layers_of(image) for image in (churn_image, second)]
    assert layers[0][:-1] == layers[1][:-1] and layers[0][-1] != layers[1][-1]
    assert len([line for line in reported.lines if line.startswith("Step")]) > 10


def test_the_same_inputs_are_built_once(churn: Provenance, churn_image: Image, build: Callable[..., Image]) -> None:
    reported = Reported()

    second = build(churn, report=reported)

    assert second.digest == churn_image.digest
    assert reported.steps == [f"image {second.ref} is there"]


def test_workspaces_of_one_engine_keep_their_images_apart(workspace: Workspace, base_image: str, tmp_path: Path) -> None:
    """The short name stays whose it was; whoever asks for it by that name gets their own all the same."""
    version, mine = _packaged("apart", LogisticRegression(), base_image)
    with using(tmp_path / "theirs"):
        their_version, theirs = _packaged("apart", LogisticRegression(C=7.0), base_image)
        prepared = docker.prepare(their_version, None, DeploymentSpec(options={"image": "mlops/apart:1"}), ref="apart/1", report=SILENT)

    try:
        assert mine.image != theirs.image and mine.image.startswith("mlops/apart:1-") and theirs.image.startswith("mlops/apart:1-")
        assert engine.client().api.inspect_image("mlops/apart:1")["Id"] == mine.digest
        assert prepared["image_id"] == theirs.digest
        with pytest.raises(ImageOfAnother, match="holds apart:1 of another workspace"):
            docker.prepare(version, None, DeploymentSpec(options={"image": theirs.image}), ref="apart/1", report=SILENT)
    finally:
        for digest in (mine.digest, theirs.digest):
            engine.client(timeout_seconds=60).api.remove_image(digest, force=True)


def _packaged(name: str, model: LogisticRegression, base: str) -> tuple[ModelVersion, Package]:
    version = registry.register(model.fit(X, [0, 1] * 50), name=name, sample=X).version
    return version, packaging.package(version.ref, Wanted(base=base))


def test_an_image_adds_at_most_150_megabytes_to_its_base(churn_image: Image) -> None:
    assert 0 < churn_image.added_bytes <= 150e6


def test_a_context_builds_alone_without_a_network_and_its_labels_come_back_as_they_were_meant(churn: Provenance, base_image: str, tmp_path: Path) -> None:
    version = msgspec.structs.replace(churn.version, description=NASTY)
    laid_out = packaging.context_of(version, churn.environment, Wanted(base=base_image, output=str(tmp_path / "it's here")))
    line, tag = context.build_line(laid_out, "mlops-nb-tests/alone:1") + " --network none --no-cache", "mlops-nb-tests/alone:1"

    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False, env=os.environ | {"DOCKER_BUILDKIT": "0"})

    assert done.returncode == 0, done.stderr
    config = engine.client().api.inspect_image(tag)["Config"]
    assert config["Labels"]["org.opencontainers.image.description"] == NASTY
    assert config["Labels"]["org.mlops-nb.content"] == laid_out.hash
    assert not config.get("OnBuild")
    engine.client(timeout_seconds=60).api.remove_image(tag, force=True)


def layers_of(image: Image) -> list[str]:
    return engine.client().api.inspect_image(image.digest)["RootFS"]["Layers"]


# ── bases ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def other_base(base_image: str) -> Iterator[Callable[[str], str]]:
    """The base image after a shell command."""
    made = []

    def other(command: str) -> str:
        tag = f"mlops-nb-tests/base-{len(made)}:{os.getpid()}"
        file = io.BytesIO(f"FROM {base_image}\nRUN {command}\n".encode())
        engine.client(timeout_seconds=60).images.build(fileobj=file, tag=tag, rm=True)
        made.append(tag)
        return tag

    yield other
    for tag in made:
        engine.client(timeout_seconds=60).api.remove_image(tag, force=True)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("rm /usr/bin/python3", "it has no python3"),
        ("rm -r /usr/lib/python3.11/venv", "the python3 of the base image has no venv"),
        ("rm /usr/bin/python3 && printf '#!/bin/sh\\nexec /usr/bin/python3.11 -c \"import sys; sys.version_info = (3, 9); exec(sys.argv[1])\" \"$2\"\\n'"
         " > /usr/bin/python3 && chmod +x /usr/bin/python3", r"it has Python 3\.9, and the packages are for 3\.11"),
    ],
)  # fmt: skip
def test_a_base_that_cannot_take_the_packages_is_told_why(
    churn: Provenance, build: Callable[..., Image], other_base: Callable[[str], str], command: str, said: str
) -> None:
    with pytest.raises(BaseUnfit, match=said):
        build(churn, base=other_base(command))


def test_a_base_that_nobody_has_is_named(churn: Provenance, build: Callable[..., Image]) -> None:
    with pytest.raises(BaseMissing, match=r"nobody listens where its registry should be.* Images that are there: .*mlops-nb-tests/python:bookworm") as caught:
        build(churn, base="127.0.0.1:9/nobody/has:this")
    assert caught.value.hint.startswith("docker pull 127.0.0.1:9/nobody/has:this ") and "--base" in caught.value.hint


def test_a_base_for_another_processor_is_refused_before_the_build(churn: Provenance, build: Callable[..., Image]) -> None:
    with pytest.raises(BaseUnfit, match="it is for linux/amd64, and linux/arm64 was asked for"):
        build(churn, platform="linux/arm64")


def test_a_conda_environment_needs_a_base_with_conda(doubler: Provenance, build: Callable[..., Image]) -> None:
    assert doubler.environment
    by_conda = msgspec.structs.replace(doubler, environment=msgspec.structs.replace(doubler.environment, manager="conda"))

    with pytest.raises(BaseUnfit, match="it has neither micromamba nor mamba nor conda"):
        build(by_conda)


# ── secrets ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_secret_reaches_the_build_and_no_layer_of_the_image(
    doubler: Provenance, build: Callable[..., Image], monkeypatch: pytest.MonkeyPatch, workspace: Workspace
) -> None:
    monkeypatch.setenv("THE_PIP_CONF", f"[global]\nno-color = true\n# {A_SECRET}\n")

    image = build(doubler, secrets={"pip.conf": "THE_PIP_CONF"})

    assert "RUN --mount=type=secret,id=pip.conf export PIP_CONFIG_FILE=/run/secrets/pip.conf;" in dockerfile_of(doubler)
    api = engine.client(timeout_seconds=60).api
    assert A_SECRET not in msgspec.json.encode(api.history(image.digest)).decode() + msgspec.json.encode(api.inspect_image(image.digest)).decode()
    for name, content in added_files(image):
        assert A_SECRET.encode() not in content, name
    assert not [path for path in workspace.root.rglob("*") if path.is_file() and A_SECRET.encode() in path.read_bytes()]


def test_a_build_that_fails_over_its_secret_shows_the_builds_own_words(doubler: Provenance, build: Callable[..., Image], tmp_path: Path) -> None:
    """A step is cached whatever its secrets hold, so this build has one more than any other."""
    (tmp_path / "pip.conf").write_text("[global]\nrequire-virtualenv = perhaps\n")

    with pytest.raises(ImageNotBuilt, match="docker build ended with 1") as caught:
        build(doubler, secrets={"pip.conf": str(tmp_path / "pip.conf"), "netrc": str(tmp_path / "pip.conf")})
    assert "perhaps" in caught.value.detail


def test_a_build_that_fails_says_in_one_line_what_its_step_complained_of(doubler: Provenance, base_image: str, tmp_path: Path) -> None:
    laid_out = packaging.context_of(doubler.version, doubler.environment, Wanted(base=base_image, output=str(tmp_path / "spoilt")))
    locked = laid_out.folder / "requirements.txt"
    locked.write_text(locked.read_text().replace("sha256:", "sha256:0"))

    with pytest.raises(ImageNotBuilt) as caught:
        images.build(laid_out, tag="mlops-nb-tests/spoilt:1")

    assert re.match(r"No image of \S+ was built: (ERROR: )?[^/&]{10,300}\. Its build context is in ", str(caught.value)), str(caught.value)


def test_a_secret_that_is_not_there_is_missed_before_the_build(doubler: Provenance, build: Callable[..., Image]) -> None:
    with pytest.raises(FileMissing, match="NO_SUCH_VARIABLE"):
        build(doubler, secrets={"netrc": "NO_SUCH_VARIABLE"})


def dockerfile_of(made: Provenance) -> str:
    name = f"{made.version.model}-{made.version.version}-docker-linux-amd64"
    return (Workspace.current().root / "packages" / name / "Dockerfile").read_text()


def added_files(image: Image) -> Iterator[tuple[str, bytes]]:
    """Every file of the layers that an image has over its base."""
    saved = io.BytesIO(b"".join(engine.client(timeout_seconds=120).api.get_image(image.digest)))
    with tarfile.open(fileobj=saved) as archive:
        manifest = msgspec.json.decode(archive.extractfile("manifest.json").read())[0]  # type: ignore[union-attr]
        for layer in manifest["Layers"][1:]:
            with tarfile.open(fileobj=archive.extractfile(layer)) as files:
                yield from ((file.name, files.extractfile(file).read()) for file in files if file.isfile())  # type: ignore[union-attr]


# ── registries ───────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def image_registry(tmp_path: Path) -> Iterator[str]:
    """A registry of ours on loopback."""
    address = f"127.0.0.1:{free_port()}"
    settings = {"version": "0.1", "storage": {"filesystem": {"rootdirectory": str(tmp_path / "registry")}}, "http": {"addr": address}}
    (tmp_path / "registry.yml").write_bytes(msgspec.json.encode(settings))
    with (tmp_path / "registry.log").open("wb") as log:
        process = subprocess.Popen(["docker-registry", "serve", str(tmp_path / "registry.yml")], stdout=log, stderr=log)
    wait_for(lambda: answers(f"http://{address}/v2/"), what="the registry")
    yield address
    process.terminate()
    process.wait()


def answers(url: str) -> bool:
    try:
        return httpx.get(url, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture
def small_image(base_image: str) -> Iterator[Image]:
    """An image of a few bytes: what goes to a registry is sent whole."""
    client = engine.client(timeout_seconds=60)
    nothing = io.BytesIO()
    with tarfile.open(fileobj=nothing, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("word"), io.BytesIO())
    client.api.import_image_from_data(nothing.getvalue(), repository="mlops-nb-tests/small", tag="1")
    made = client.api.inspect_image("mlops-nb-tests/small:1")
    yield Image(ref="mlops-nb-tests/small:1", digest=made["Id"], content="", bytes=0, base="", base_bytes=0, platform="linux/amd64")
    client.api.remove_image(made["Id"], force=True)  # with every name that it was given meanwhile


def test_an_image_goes_to_a_registry_and_comes_back(small_image: Image, image_registry: str) -> None:
    pushed = images.push(small_image, images.name_in(f"{image_registry}/team", small_image.ref)).pushed

    assert pushed.startswith(f"{image_registry}/team/small@sha256:")
    api = engine.client(timeout_seconds=60).api
    api.remove_image(f"{image_registry}/team/small:1", force=True)
    api.pull(pushed)
    assert api.inspect_image(pushed)["Id"] == small_image.digest
    api.remove_image(pushed, force=True)


def test_a_version_is_deployed_from_a_registry_when_nobody_else_has_its_image(workspace: Workspace, base_image: str, image_registry: str) -> None:
    version = registry.register(LogisticRegression(C=3.0).fit(X, [0, 1] * 50), name="pushed", sample=X).version
    made, api = packaging.package(version.ref, Wanted(base=base_image), registry=f"{image_registry}/team"), engine.client(timeout_seconds=60).api
    api.remove_image(made.digest, force=True)
    reported = Reported()

    deployed = rollout.deploy(version.ref, to="docker", spec=DeploymentSpec(options={"image": made.pushed}), report=reported)

    assert made.pushed.startswith(f"{image_registry}/team/pushed@sha256:") and f"pulling {made.pushed}" in reported.steps
    assert any(line.startswith("Status: Downloaded newer image") for line in reported.lines)
    assert deployed.status == "healthy" and len(invoke("pushed", X).outputs["label"]) == len(X)
    rollout.down()
    api.remove_image(made.pushed, force=True)


def test_what_a_registry_says_is_passed_on(small_image: Image) -> None:
    with pytest.raises(ImageNotPushed, match=r"127\.0\.0\.1:9/team/small:1 was not pushed: nobody listens where its registry should be\.") as caught:
        images.push(small_image, "127.0.0.1:9/team/small:1")
    assert "docker login" not in caught.value.hint
    with pytest.raises(BadOption, match="is no name of an image in a registry"):
        images.name_in("not a registry", small_image.ref)
