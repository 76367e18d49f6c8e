"""The build context: all that an image needs, in a folder that anybody can read."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import subprocess
import sys
import sysconfig
import zipfile
from io import BytesIO
from pathlib import Path
from platform import machine

import msgspec
import pytest
import yaml
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from dockerfile_parse import DockerfileParser
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlops_nb import environments, lineage, packaging, store
from mlops_nb.errors import BadName, BadOption, FileMissing, ImageNotBuilt, MlopsError, UnsafePath, UnsafeText, WheelsMissing
from mlops_nb.packaging import CONTENTS, Context, Wanted, contents, context, dockerfile, images, wheels
from mlops_nb.registry import Provenance
from mlops_nb.serving.spec import ServerSpec
from mlops_nb.settings import Workspace
from mlops_nb.store import events
from mlops_nb.store.environments import Environment
from mlops_nb.store.environments import Package as Distribution
from mlops_nb.trees import compiled

BASE = "python:3.11-slim"
NASTY = st.text(alphabet=st.sampled_from(list("ab ${}()\"'`\\#\n\r\t{{}}ONBUILD\u2028=<>&;|é")), max_size=40) | st.text(max_size=30)


def laid_out(made: Provenance, **wanted: object) -> Context:
    return packaging.context_of(made.version, made.environment, Wanted(**wanted))  # type: ignore[arg-type]


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def spec_of(context: Context) -> ServerSpec:
    return msgspec.json.decode((context.folder / "version" / "spec.json").read_bytes(), type=ServerSpec)


def parsed(text: str) -> DockerfileParser:
    return DockerfileParser(fileobj=BytesIO(text.encode()))


# ── what is in it ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_stage_names_the_base_and_the_platform(churn: Provenance) -> None:
    text = (laid_out(churn).folder / "Dockerfile").read_text()

    froms = [line for line in text.splitlines() if line.startswith("FROM")]
    assert froms == [f"FROM --platform=linux/amd64 {BASE} AS packages", "FROM packages AS server", f"FROM --platform=linux/amd64 {BASE}"]


def test_the_requirements_lock_exactly_the_files_of_the_wheelhouse(churn: Provenance) -> None:
    folder = laid_out(churn).folder

    locked = set(re.findall(r"--hash=sha256:([0-9a-f]{64})", (folder / "requirements.txt").read_text()))
    there = {hashlib.sha256(wheel.read_bytes()).hexdigest() for wheel in (folder / "wheelhouse").glob("*.whl") if not wheel.name.startswith("pip-")}
    assert locked == there
    assert len((folder / "requirements.txt").read_text().splitlines()) == len(there)


def test_a_model_that_onnx_runtime_answers_needs_no_library_it_was_trained_with(churn: Provenance) -> None:
    names = re.findall(r"^(\S+)==", (laid_out(churn).folder / "requirements.txt").read_text(), re.MULTILINE)

    assert {"onnxruntime", "numpy"} <= set(names)
    assert not {"scikit-learn", "scipy", "pandas", "duckdb", "jupyterlab", "click"} & set(names)


def test_a_converted_model_leaves_its_pickle_at_home(churn: Provenance) -> None:
    context = laid_out(churn)

    assert [file.path for file in spec_of(context).files] == ["model.onnx"]
    assert [path.name for path in (context.folder / "version" / "model").rglob("*")] == ["model.onnx"]


def test_a_python_object_takes_its_packages_and_its_local_modules_along(doubler: Provenance) -> None:
    context = laid_out(doubler)

    assert (context.folder / "version" / "model" / "code" / "doubling.py").is_file()
    assert f"numpy=={next(p.version for p in doubler.environment.packages if p.name == 'numpy')} " in (context.folder / "requirements.txt").read_text()  # type: ignore[union-attr]


def test_the_same_inputs_make_the_same_bytes(churn: Provenance, tmp_path: Path) -> None:
    one, other = laid_out(churn, output=str(tmp_path / "one")), laid_out(churn, output=str(tmp_path / "other"))

    assert one.hash == other.hash
    assert files_of(one.folder) == files_of(other.folder)


def test_another_base_or_file_makes_another_content(churn: Provenance, tmp_path: Path) -> None:
    (tmp_path / "lookup.csv").write_text("a,b\n")

    hashes = {laid_out(churn, **words).hash for words in ({}, {"base": "python:3.11"}, {"files": (str(tmp_path / "lookup.csv"),)})}  # type: ignore[arg-type]

    assert len(hashes) == 3


def test_a_context_is_written_anew_without_what_was_in_it(churn: Provenance, tmp_path: Path) -> None:
    (tmp_path / "lookup.csv").write_text("a,b\n")
    laid_out(churn, files=(str(tmp_path / "lookup.csv"),))

    assert not (laid_out(churn).folder / "files").exists()


def test_whoever_runs_in_the_image_can_read_everything(churn: Provenance) -> None:
    folder = laid_out(churn).folder

    assert all(path.stat().st_mode & 0o004 for name in ("server", "version", "wheelhouse") for path in (folder / name).rglob("*"))


def test_the_notebooks_cells_do_not_leave_the_workspace(doubler: Provenance) -> None:
    assert spec_of(laid_out(doubler)).cells == []


def test_the_labels_tell_where_it_came_from(churn: Provenance) -> None:
    context = laid_out(churn)

    labels = parsed((context.folder / "Dockerfile").read_text()).labels
    assert labels["org.opencontainers.image.title"] == "churn"
    assert labels["org.opencontainers.image.version"] == "1"
    assert labels["org.mlops-nb.dataset"] == "customers:1"
    assert labels["org.mlops-nb.environment"] == churn.environment.ref  # type: ignore[union-attr]
    assert labels["org.mlops-nb.content"] == context.hash
    assert (context.folder / "version" / labels["org.mlops-nb.sbom"].rpartition("/")[2]).is_file()
    assert churn.run and churn.run.git and labels["org.opencontainers.image.revision"] == churn.run.git.commit


def test_the_bill_of_materials_is_cyclonedx(churn: Provenance) -> None:
    text = (laid_out(churn).folder / "version" / "sbom.cdx.json").read_text()

    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    bill = msgspec.json.decode(text)
    kinds = {component["name"]: component for component in bill["components"]}
    assert kinds["churn"]["type"] == "machine-learning-model"
    assert kinds["numpy"]["purl"].startswith("pkg:pypi/numpy@") and kinds["numpy"]["hashes"][0]["alg"] == "SHA-256"
    assert kinds["msgspec"]["licenses"]


def test_the_readme_says_how_to_build_and_ask_it(churn: Provenance) -> None:
    said = (laid_out(churn).folder / "README.md").read_text()

    assert "docker build --platform linux/amd64 --tag churn:1 ." in said
    assert "-p 127.0.0.1:8080:8080" in said


# ── our own code ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_server_comes_without_the_notebooks_parts(churn: Provenance) -> None:
    server = laid_out(churn).folder / "server" / "mlops_nb"

    there = {path.relative_to(server).parts[0] for path in server.rglob("*.py")}
    assert "serving" in there
    assert not there & {"notebook", "commands", "cli.py", "agent.py", "rollout.py", "gateway", "monitoring", "targets", "server_extension.py", "registry.py"}


@pytest.mark.parametrize("target", CONTENTS)
def test_no_module_of_ours_that_an_image_imports_is_missing(churn: Provenance, target: str) -> None:
    """Every module is imported from the context alone: without this project, and without duckdb, pandas and all that only notebooks need."""
    folder = laid_out(churn, target=target).folder
    modules = [name for name in contents.modules(CONTENTS[target]) if name != "mlops_nb.edge.__main__"]  # which starts
    program = (
        "import importlib, sys; sys.path[:0] = sys.argv[1:3]\n"
        "class No:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name in ('duckdb', 'pandas', 'click', 'IPython'): raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, No())\n"
        "for name in sys.argv[3:]: assert importlib.import_module(name).__file__.startswith(sys.argv[1]), name"
    )
    command = [sys.executable, "-I", "-S", "-c", program, str(folder / "server"), sysconfig.get_path("purelib"), *modules]

    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr


def test_what_the_servers_functions_import_is_there_too() -> None:
    """`contents.modules` reads sources; the interpreter is asked here: every `from .. import` below serving/ leads to a module that is packed."""
    packed = contents.modules(CONTENTS["docker"])

    assert {"mlops_nb.packing", "mlops_nb.serving.entry", "mlops_nb.serving.azure", "mlops_nb.serving.openapi", "mlops_nb.signature"} <= set(packed)


# ── what is refused ──────────────────────────────────────────────────────────────────────────────────────────────────


@settings(max_examples=300)
@given(value=NASTY, other=NASTY)
def test_whatever_a_label_says_it_stays_a_label(value: str, other: str) -> None:
    recipe = dockerfile.Recipe(base=BASE, platform="linux/amd64", python="3.11", contents=CONTENTS["docker"], labels={"one": value, "two": other, "end": "x"})
    try:
        text = dockerfile.text(recipe)
    except UnsafeText:
        assert re.search(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]", value + other)
        return
    plain = dockerfile.text(msgspec.structs.replace(recipe, labels={"one": "1", "two": "2", "end": "x"}))

    read = parsed(text)
    assert [step["instruction"] for step in read.structure] == [step["instruction"] for step in parsed(plain).structure]
    assert words_of(read.structure[-1]["value"]) == [f"one={value}", f"two={other}", "end=x"]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=NASTY, field=st.sampled_from(["description", "dataset", "model", "hash", "flavor"]), environment=st.booleans())
def test_whatever_a_version_says_of_itself_is_refused_or_changes_no_step(churn: Provenance, text: str, field: str, environment: bool) -> None:
    said = msgspec.structs.replace(churn.version, **{field: text})
    recorded = msgspec.structs.replace(churn.environment, name=text) if environment else churn.environment
    plain = [step["instruction"] for step in parsed((laid_out(churn).folder / "Dockerfile").read_text()).structure]
    try:
        context = packaging.context_of(said, recorded, Wanted())
    except MlopsError:
        return
    assert [step["instruction"] for step in parsed((context.folder / "Dockerfile").read_text()).structure] == plain
    assert msgspec.json.decode((context.folder / "version" / "sbom.cdx.json").read_bytes())["components"][0]["type"] == "machine-learning-model"


@given(text=NASTY)
def test_wherever_a_context_lies_the_line_that_builds_it_names_that_folder_alone(text: str) -> None:
    made = Context(folder=Path("/contexts") / f"x{text}", hash="", model="churn", version=1, target="docker", base=BASE, platform="linux/amd64")
    try:
        line = context.build_line(made, "churn:1")
    except UnsafeText:
        return
    assert shlex.split(line) == ["docker", "build", "--platform", "linux/amd64", "--tag", "churn:1", str(made.folder)]


@given(name=NASTY, version=NASTY)
def test_a_conda_package_stays_one_entry_of_the_environment_file(name: str, version: str) -> None:
    packages = [Distribution(name=name, version=version, conda=True), Distribution(name="numpy", version="2.0", conda=True)]
    environment = Environment(
        name=name, version=1, hash="", python="3.11", platform="", interpreter="", packages=packages, manager="conda", created_at=store.now()
    )
    try:
        text = environments.conda(environment)
    except UnsafeText:
        return
    assert list(yaml.safe_load(text)) == ["name", "channels", "dependencies"]
    assert yaml.safe_load(text)["dependencies"] == ["python=3.11", f"{name.lower()}={version}", "numpy=2.0"]


def words_of(line: str) -> list[str]:
    """The words of an instruction as the engine's own lexer reads them: in double quotes a backslash takes the meaning of `"`, `$` and itself."""
    words, current, quoted, letters = [], "", False, iter(line)
    for letter in letters:
        if letter == '"':
            quoted = not quoted
        elif letter == "\\" and quoted:
            following = next(letters)
            current += following if following in '"$\\' else letter + following
        elif letter == "$":
            raise AssertionError("a variable would be put in here")
        elif letter == " " and not quoted:
            words, current = [*words, current] if current else words, ""
        else:
            current += letter
    assert not quoted
    return [*words, current]


@given(text=NASTY)
def test_what_is_no_images_name_reaches_no_dockerfile(text: str) -> None:
    try:
        images.checked_reference(text, what="a base image")
    except BadOption:
        return
    assert re.fullmatch(r"[A-Za-z0-9._:/@-]+", text)


@pytest.mark.parametrize("name", ["python:3.11-slim", "127.0.0.1:5000/team/python", "a/b/c:d@sha256:" + "0" * 64, "localhost:5000/x", "sha256:" + "a" * 64])
def test_usual_names_of_images_are_let_through(name: str) -> None:
    assert images.checked_reference(name, what="a base image") == name


@pytest.mark.parametrize("name", ["", "-x", "python 3", "python\nRUN x", "Python", "a//b", "$BASE", "python:3.11 AS x", "../x", "a@sha256:0"])
def test_other_names_are_refused_before_anything_is_written(churn: Provenance, name: str) -> None:
    if name:  # an empty one is not given
        with pytest.raises(BadOption, match="is no name of a base image"):
            laid_out(churn, base=name)
    assert not (Workspace.current().root / "packages").exists()


def test_a_symlink_that_leads_out_is_refused_before_anything_is_written(churn: Provenance, tmp_path: Path) -> None:
    folder = tmp_path / "lookup"
    (folder / "deep").mkdir(parents=True)
    (folder / "inside.txt").write_text("x")
    (folder / "deep" / "link").symlink_to("../inside.txt")
    assert (laid_out(churn, files=(str(folder),), output=str(tmp_path / "fine")).folder / "files" / "lookup" / "deep" / "link").read_text() == "x"

    for link, target in (("out", "/etc/passwd"), ("up", "../.."), ("gone", "nowhere")):
        (folder / "deep" / link).symlink_to(target)
        with pytest.raises(UnsafePath, match=rf"deep/{link}' is a link that leads outside what was named, to /"):
            laid_out(churn, files=(str(folder),), output=str(tmp_path / "out"))
        (folder / "deep" / link).unlink()
    (tmp_path / "named").symlink_to("/etc/passwd")
    with pytest.raises(UnsafePath, match="named"):
        laid_out(churn, files=(str(tmp_path / "named"),), output=str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_what_is_no_plain_file_is_refused(churn: Provenance, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    with pytest.raises(BadOption, match="pipe is no plain file"):
        laid_out(churn, files=(str(tmp_path / "pipe"),))
    with pytest.raises(FileMissing, match=r"nothing\.txt"):
        laid_out(churn, files=(str(tmp_path / "nothing.txt"),))


def test_a_folder_that_holds_something_else_is_left_alone(churn: Provenance, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")

    with pytest.raises(BadOption, match="is not an empty folder"):
        laid_out(churn, output=str(tmp_path))
    assert (tmp_path / "mine.txt").read_text() == "precious"


@pytest.mark.parametrize(
    ("words", "said"), [({"platform": "windows/amd64"}, "No platform 'windows/amd64'"), ({"target": "toaster"}, "No kind of image 'toaster'")]
)
def test_words_that_mean_nothing_are_refused(churn: Provenance, words: dict[str, str], said: str) -> None:
    with pytest.raises(BadOption, match=said):
        laid_out(churn, **words)


@settings(max_examples=30)
@given(name=NASTY)
def test_a_secrets_name_is_plain_or_refused(name: str) -> None:
    try:
        context._contents(Wanted(secrets=(name,)))
    except BadName:
        return
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name)


# ── packages ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_compiled_code_goes_into_images_for_the_processor_it_is_for(churn: Provenance) -> None:
    here, other = ("linux/amd64", "linux/arm64") if machine() == "x86_64" else ("linux/arm64", "linux/amd64")

    assert compiled_in(laid_out(churn, platform=here, wheelhouse=False)) == (compiled.LIBRARY.read_bytes() if sys.platform == "linux" else None)
    assert compiled_in(laid_out(churn, platform=other, wheelhouse=False)) is None


def compiled_in(context: Context) -> bytes | None:
    """The compiled code among the server's modules."""
    file = context.folder / "server" / "mlops_nb" / "trees" / compiled.LIBRARY.name
    return file.read_bytes() if file.exists() else None


def test_wheels_are_those_of_the_platform(churn: Provenance) -> None:
    context = laid_out(churn, platform="linux/arm64")

    wheelhouse = list((context.folder / "wheelhouse").glob("*.whl"))
    assert [wheel for wheel in wheelhouse if wheel.name.startswith("numpy-") and "aarch64" in wheel.name]
    assert {wheel.name.removesuffix(".whl").rpartition("-")[2].rpartition("_")[2] for wheel in wheelhouse} <= {"aarch64", "any"}
    assert {processor for wheel in wheelhouse for processor in processors_of(wheel)} == {_AARCH64}


_AARCH64 = 0xB7


def processors_of(wheel: Path) -> set[int]:
    """The processors that a wheel's programs and libraries are for, as their ELF headers say."""
    with zipfile.ZipFile(wheel) as archive:
        heads = [archive.open(name).read(20) for name in archive.namelist() if ".so" in name]
    return {int.from_bytes(head[18:20], "little") for head in heads if head.startswith(b"\x7fELF")}


def test_without_a_wheelhouse_the_packages_are_locked_all_the_same(churn: Provenance) -> None:
    context = laid_out(churn, wheelhouse=False)

    assert not (context.folder / "wheelhouse").exists()
    assert re.search(r"numpy==\S+ \\\n    --hash=sha256:[0-9a-f]{64}", (context.folder / "requirements.txt").read_text())


def test_what_was_fetched_once_is_not_fetched_again(doubler: Provenance, monkeypatch: pytest.MonkeyPatch) -> None:
    first = laid_out(doubler)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")

    assert laid_out(doubler).hash == first.hash


def test_a_version_that_no_index_has_is_named(workspace: Workspace) -> None:
    with pytest.raises(WheelsMissing, match=r"the wheels for Python 3\.11 on linux/amd64") as caught:
        wheels.lock([Distribution(name="numpy", version="0.0.77")], python="3.11", platform="linux/amd64", wheelhouse=True)
    assert "numpy==0.0.77" in caught.value.detail


def test_a_conda_environment_becomes_an_environment_file(doubler: Provenance) -> None:
    assert doubler.environment
    packages = [msgspec.structs.replace(package, conda=True) for package in doubler.environment.packages]
    by_conda: Environment = msgspec.structs.replace(doubler.environment, manager="conda", packages=packages)

    context = packaging.context_of(doubler.version, by_conda, Wanted())

    wanted = (context.folder / "environment.yml").read_text()
    assert '"numpy=' in wanted and "msgspec" not in wanted and "pip" not in wanted
    locked = (context.folder / "requirements.txt").read_text()
    assert "msgspec==" in locked and "numpy==" not in locked
    assert context.base.startswith("mambaorg/micromamba:")
    assert "COPY environment.yml" in (context.folder / "Dockerfile").read_text()


def test_a_package_hangs_on_its_model_version(churn: Provenance) -> None:
    made = packaging.package(churn.version.ref, Wanted(), build=False)

    shown = lineage.graph("customers:1")
    edge = next(edge for edge in shown.edges if edge.label == "packaged as")
    assert (edge.source, edge.target) == ("model:churn:1", f"package:{made.content[:12]}")


# ── what is recorded ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_without_an_engine_the_context_is_kept_and_the_line_is_said(churn: Provenance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")

    with pytest.raises(ImageNotBuilt, match="there is no such socket") as caught:
        packaging.package(churn.version.ref, Wanted())

    folder = Path(caught.value.folder)
    assert (folder / "Dockerfile").is_file() and (folder / "version" / "model" / "model.onnx").is_file()
    assert caught.value.hint == f"docker build --platform linux/amd64 --tag mlops/churn:1 {folder}"


def test_a_package_is_recorded_once_for_its_content(churn: Provenance) -> None:
    made = [packaging.package(churn.version.ref, Wanted(), build=False) for _ in range(2)]

    assert [package.content for package in packaging.packages("churn:1")] == [made[0].content]
    assert packaging.pushed(churn.version) is None
    with store.reading() as tx:
        assert events.count(tx, subject="churn:1", what="ModelPackaged") == 2
