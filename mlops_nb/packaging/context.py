"""A folder from which anybody can build the image, with `docker build` and nothing of this package.

    Dockerfile  .dockerignore  README.md  sbom.cdx.json
    requirements.txt  wheelhouse/     the packages, locked with hashes
    environment.yml                   those that conda brings, where it made the environment
    server/                           our own modules that the image runs
    files/                            what was added with --file
    version/                          spec.json, the bill of materials, and the model's files

The same inputs give the same bytes, and so the same content hash, which is a label of the image.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import shutil
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from .. import artifacts, environments, registry
from ..errors import BadOption, FileMissing, UnsafePath, listed
from ..progress import SILENT, Reporter
from ..rebuilding import OLDEST_PYTHON
from ..safety import checked_name, path_inside, text_for
from ..serving import entry
from ..serving.spec import ServerSpec
from ..settings import Workspace
from ..store.environments import Environment, Package
from ..store.identity import workspace_id
from ..store.models import ModelVersion
from . import contents as inside
from . import dockerfile, sbom, wheels
from .contents import CONTENTS, HOME, Contents
from .wheels import ARCHITECTURES, Locked

MODEL_FOLDER = f"{HOME}/model"
TOKEN_FILE = "/run/secrets/mlops-token"  # a place in the image, not a secret
CONTENT_LABEL, WORKSPACE_LABEL = "org.mlops-nb.content", "org.mlops-nb.packaged-in"
"""The image's labels with the hash of its content, and with the short id of the workspace that made it, which is no part of the content."""


class Context(msgspec.Struct, frozen=True, kw_only=True):
    """A folder that holds all a build needs."""

    folder: Path
    hash: str
    """Of all it holds; the image's label `org.mlops-nb.content`."""
    model: str
    version: int
    target: str
    base: str
    platform: str
    secrets: tuple[str, ...] = ()
    wheelhouse: bool = True
    """Whether a build needs no network."""

    @property
    def ref(self) -> str:
        """`churn:3`."""
        return f"{self.model}:{self.version}"


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What may be asked of a package."""

    target: str = "docker"
    base: str | None = None
    """None takes the official Python image, by its short name, or micromamba's for a conda environment."""
    platform: str = "linux/amd64"
    wheelhouse: bool = True
    files: tuple[str, ...] = ()
    """Files and folders that stand in the working directory of the image."""
    secrets: tuple[str, ...] = ()
    """Names under which the build finds secrets in /run/secrets; `pip.conf`, `netrc` and `condarc` are used as what they are."""
    output: str | None = None
    """A new or empty folder, or one that held such a context before; None takes one in the workspace."""


def lay_out(version: ModelVersion, environment: Environment | None, wanted: Wanted, report: Reporter = SILENT) -> Context:
    """Write the context of *version*.  Whatever is wrong is said before anything is written.

    Raises BadOption, BadName, FileMissing, UnsafePath (a symlink that leads out), UnsafeText, FileChanged, WheelsMissing, MissingExtra.
    """
    contents = _contents(wanted)
    folder = _folder(version, wanted)
    files = _files_to_add(wanted.files, folder / "files")
    python = _python(environment)
    conda = environment is not None and environment.manager == "conda" and version.engine != "onnxruntime"
    packages = inside.packages(version, environment, contents)
    from_index = [package for package in packages if not (conda and package.conda)]
    locked = wheels.lock(from_index, python=python, platform=wanted.platform, wheelhouse=wanted.wheelhouse, report=report)
    recipe = dockerfile.Recipe(
        base=wanted.base or default_base(python, conda=conda),
        platform=wanted.platform,
        python=python,
        contents=contents,
        pip=locked.pip,
        conda=conda,
        files_go_to=_files_folder(version) if files else "",
        working_folder=posixpath.dirname(contents.spec) if contents.spec != f"{HOME}/spec.json" else f"{HOME}/files",
        lean=version.engine == "onnxruntime",
        secrets=wanted.secrets,
        labels=_labels(version, environment),
    )
    written = dockerfile.text(recipe)
    report.step(f"writing the build context of {version.ref}")
    _emptied(folder)
    _packages(folder, locked)
    if conda:
        _write(folder / "environment.yml", environments.conda(_by_conda(environment, packages), pip=not locked.pip))
    _server(folder, contents, wanted.platform)
    for place, file in files.items():
        _copy(file, place)
    _version(folder, version, contents, sbom.document(version, packages, locked.wheels, python=python))
    digest = _hash(folder, written)
    context = Context(
        folder=folder, hash=digest, model=version.model, version=version.version, target=wanted.target, base=recipe.base, platform=wanted.platform,
        secrets=wanted.secrets, wheelhouse=bool(locked.folder) and not conda,
    )  # fmt: skip
    ours = {CONTENT_LABEL: digest, WORKSPACE_LABEL: workspace_id()[:8]}
    _write(folder / "Dockerfile", dockerfile.text(msgspec.structs.replace(recipe, labels={**recipe.labels, **ours})))
    _write(folder / ".dockerignore", "*\n!requirements.txt\n!environment.yml\n!wheelhouse/\n!server/\n!files/\n!version/\n")
    _write(folder / "README.md", _readme(context, contents))
    return context


def default_base(python: str, *, conda: bool = False) -> str:
    """The base of an image for a Python such as `3.11`, unless another one is named."""
    return "mambaorg/micromamba:bookworm-slim" if conda else f"python:{python}-slim"


def build_line(context: Context, tag: str) -> str:
    """What somebody with an engine says to build it."""
    secrets = "".join(f" --secret id={name},src=FILE" for name in context.secrets)
    kit = "DOCKER_BUILDKIT=1 " if context.secrets else ""
    return f"{kit}docker build --platform {context.platform}{secrets} --tag {tag} {text_for('shell', str(context.folder))}"


# ── what was asked ───────────────────────────────────────────────────────────────────────────────────────────────────


def _contents(wanted: Wanted) -> Contents:
    if wanted.platform not in ARCHITECTURES:
        raise BadOption(f"No platform {wanted.platform!r}. Platforms: {listed(ARCHITECTURES)}.", hint="--platform linux/amd64")
    if wanted.target not in CONTENTS:
        raise BadOption(f"No kind of image {wanted.target!r}. Kinds: {listed(CONTENTS)}.", hint="--target docker")
    for name in wanted.secrets:
        checked_name(name, what="secret")
    return CONTENTS[wanted.target]


def _python(environment: Environment | None) -> str:
    """The minor version the image needs.  Raises BadOption for one that the server does not run on."""
    said = environment.python if environment else ".".join(map(str, OLDEST_PYTHON))
    minor = tuple(int(part) for part in said.split(".")[:2])
    if minor < OLDEST_PYTHON:
        oldest = ".".join(map(str, OLDEST_PYTHON))
        raise BadOption(f"It was made with Python {said}, and the scoring server needs {oldest} at least.", hint="register the model again with a newer Python")
    return ".".join(map(str, minor))


def _folder(version: ModelVersion, wanted: Wanted) -> Path:
    """Where the context goes.  Raises BadOption for a folder that holds something else."""
    if wanted.output is None:
        name = f"{version.model}-{version.version}-{wanted.target}-{wanted.platform.replace('/', '-')}"
        return path_inside(Workspace.current().root / "packages", name)
    folder = Path(wanted.output).expanduser().absolute()
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not (folder / "version" / "spec.json").is_file())):
        raise BadOption(f"{folder} is not an empty folder, nor one that holds a package; nothing was written.", hint="--output NEW_FOLDER")
    return folder


def _files_to_add(paths: Iterable[str], into: Path) -> dict[Path, Path]:
    """Every file below *paths*, by where it goes below *into*.

    Raises FileMissing; UnsafePath for a symlink that leads out of what was named; BadOption for what is no plain file, and for two of one name.
    """
    found: dict[Path, Path] = {}
    for path in paths:
        top = Path(path).expanduser().absolute()
        if not os.path.lexists(top):
            raise FileMissing(path)
        root = (top if top.is_dir() and not top.is_symlink() else top.parent).resolve()
        for file in _walked(top):
            place, real = path_inside(into, file.relative_to(top.parent).as_posix()), file.resolve()
            if file.is_symlink() and not (real.is_relative_to(root) and real.exists()):
                raise UnsafePath(file.relative_to(top.parent), link_to=real)
            if not real.is_file() or found.get(place, real) != real:
                raise BadOption(f"{file} is no plain file, or one of two with this name.", hint="--file FILE_OR_FOLDER, each with a name of its own")
            found[place] = real
    return found


def _walked(top: Path) -> list[Path]:
    """Everything below a folder that is no folder itself, links to folders included as what they are; or the file itself."""
    if top.is_symlink() or not top.is_dir():
        return [top]
    return sorted(path for path in top.rglob("*") if path.is_symlink() or not path.is_dir())


# ── what is written ──────────────────────────────────────────────────────────────────────────────────────────────────


def _files_folder(version: ModelVersion) -> str:
    """Where the user's code runs: an entry script beside itself, as elsewhere."""
    return f"{MODEL_FOLDER}/entry" if version.engine == "script" else f"{HOME}/files"


def _labels(version: ModelVersion, environment: Environment | None) -> dict[str, str]:
    """The image's labels that have a value; those of the Open Container Initiative where there is one for it."""
    run = registry.provenance(version.ref).run
    git = run.git if run else None
    values = {
        "org.opencontainers.image.title": version.model,
        "org.opencontainers.image.version": str(version.version),
        "org.opencontainers.image.created": version.created_at.isoformat(),
        "org.opencontainers.image.revision": git.commit if git else "",
        "org.opencontainers.image.description": " ".join(version.description.split()),
        "org.mlops-nb.model": version.ref,
        "org.mlops-nb.model-hash": version.hash,
        "org.mlops-nb.dataset": version.dataset or "",
        "org.mlops-nb.sbom": f"{HOME}/sbom.cdx.json",
        "org.mlops-nb.environment": environment.ref if environment else "",
        "org.mlops-nb.uncommitted-changes": "true" if git and git.dirty else "",
    }
    return {name: value for name, value in values.items() if value}


def _emptied(folder: Path) -> None:
    """The folder, with nothing of an earlier context in it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("wheelhouse", "server", "files", "version"):
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in ("Dockerfile", "requirements.txt", "environment.yml"):
        (folder / name).unlink(missing_ok=True)


def _packages(folder: Path, locked: Locked) -> None:
    _write(folder / "requirements.txt", locked.requirements)
    if locked.folder:
        for name in [*(wheel.file for wheel in locked.wheels), locked.pip]:
            _link(Path(locked.folder) / name, folder / "wheelhouse" / name)


def _by_conda(environment: Environment | None, packages: Sequence[Package]) -> Environment:
    """The part of the environment that conda brings: the interpreter, and what was installed by it."""
    assert environment
    return msgspec.structs.replace(environment, packages=[package for package in packages if package.conda])


def _server(folder: Path, contents: Contents, platform: str) -> None:
    for file in [*inside.modules(contents).values(), *inside.libraries(contents, platform)]:
        _copy(file, folder / "server" / inside.place(file))


def _version(folder: Path, version: ModelVersion, contents: Contents, bill: bytes) -> None:
    source, places = registry.checked(version), inside.model_files(version)
    for place in places:
        _copy(path_inside(source, place), path_inside(folder / "version" / "model", place))
    if version.engine == "script":
        entry.link_files(folder / "version" / "model")  # here, because an image cannot be written to
    spec = server_spec(version, contents)
    _write(folder / "version" / "spec.json", msgspec.json.format(msgspec.json.encode(spec), indent=2).decode() + "\n")
    _write(folder / "version" / "sbom.cdx.json", bill.decode())


def server_spec(version: ModelVersion, contents: Contents) -> ServerSpec:
    """What the server of an image is told.  The notebook's cells stay here: an image goes places, and nobody has read them for that."""
    places = inside.model_files(version)
    return ServerSpec(
        endpoint=version.model, deployment=str(version.version), model=version.model, version=version.version, folder=MODEL_FOLDER,
        files=[file for file in version.files if file.path in places], flavor=version.flavor, engine=version.engine, signature=version.signature,
        port=contents.port or 0, host="0.0.0.0", token_file=TOKEN_FILE, run_folder="", capture_folder="", trusted=version.trusted,
    )  # fmt: skip


def _hash(folder: Path, written: str) -> str:
    """Of every file with its place and permission, and of the Dockerfile without this hash."""
    whole = hashlib.sha256(written.encode())
    for file in sorted(path for path in folder.rglob("*") if path.is_symlink() or path.is_file()):
        place = file.relative_to(folder).as_posix()
        if place.split("/")[0] in ("requirements.txt", "environment.yml", "wheelhouse", "server", "files", "version"):
            executable = bool(file.lstat().st_mode & stat.S_IXUSR)
            content = f"-> {file.readlink()}" if file.is_symlink() else artifacts.sha256_of(file)
            whole.update(f"{place}\0{executable}\0{content}\n".encode())
    return whole.hexdigest()


def _write(place: Path, text: str) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(text, encoding="utf-8")
    place.chmod(0o644)


def _copy(source: Path, place: Path) -> None:
    """A copy that whoever runs in the image can read; only whether it can be executed is kept of its permissions."""
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, place)
    place.chmod(0o755 if source.stat().st_mode & stat.S_IXUSR else 0o644)


def _link(source: Path, place: Path) -> None:
    """The wheel itself where links can go there: a hundred megabytes need not be written again."""
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, place)
    except OSError:
        shutil.copyfile(source, place)


def _readme(context: Context, contents: Contents) -> str:
    tag = f"{context.model}:{context.version}"
    token, openly = f"--mount type=bind,src=$PWD/token,dst={TOKEN_FILE},readonly", "-e MLOPS_OPEN=1"
    network = "It needs no network but for the base image." if context.wheelhouse else "It fetches packages from an index or a channel."
    asking = [
        "Run it, with a word of your choice that callers must bring:\n",
        "    (umask 022; openssl rand -hex 24 > token)",
        f"    docker run --read-only --cap-drop ALL -p 127.0.0.1:8080:{contents.port} {token} {tag}",
        f'    curl -H "Authorization: Bearer $(cat token)" http://127.0.0.1:8080/v2/models/{context.model}\n',
        f"`{openly}` instead of the mount answers whoever reaches the port.",
    ]
    return "\n".join([
        f"# {context.ref} as a container\n",
        f"Build it: `{build_line(msgspec.structs.replace(context, folder=Path()), tag)}`. {network}\n",
        *(asking if contents.port else _mounted(contents)),
        "\n`requirements.txt` locks the packages by hash, `version/sbom.cdx.json` lists them (CycloneDX), `server/` is the code that answers and",
        "`version/model/` what it was given. The label `org.opencontainers.image.created` is the time of the model version, so that the same",
        f"inputs build the same image; `{CONTENT_LABEL}` is their hash.\n",
    ])  # fmt: skip


def _mounted(contents: Contents) -> list[str]:
    """How an image runs whose specification is its owner's, with secrets beside."""
    folder = posixpath.dirname(contents.spec)
    return [
        f"It runs `python -m {contents.module} {contents.spec}`. Mount the folder that `mlops edge provision DEVICE` wrote at {folder}, owned by",
        f"user {dockerfile.USER}; the model in the image is what it answers with until it is told otherwise.",
    ]
