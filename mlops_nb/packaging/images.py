"""From a build context to an image in the container engine, and from there to a registry.

The engine builds through its own interface; only a build with secrets goes through the docker command, because BuildKit alone keeps a secret
out of every layer.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from .. import engine
from ..errors import BadOption, BaseMissing, BaseUnfit, FileMissing, ImageNotBuilt, ImageNotPushed, NoContainerEngine
from ..progress import SILENT, Reporter
from ..settings import Workspace
from ..store import identity
from .context import CONTENT_LABEL, WORKSPACE_LABEL, Context, build_line

if TYPE_CHECKING:
    import docker

_BUILD_SECONDS = 1800.0
_LAST_LINES = 15
_NEEDS_BUILDX = 23
_REFERENCE = re.compile(
    r"(?:(?:[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)*(?::[0-9]{1,5})?/)?"
    r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*"
    r"(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(?:@sha256:[a-f0-9]{64})?",
    re.ASCII,
)
_ID = re.compile(r"(?:sha256:)?[a-f0-9]{12,64}", re.ASCII)


class Image(msgspec.Struct, frozen=True, kw_only=True):
    """One image in the engine."""

    ref: str
    """Its name and tag, such as `delays:3`."""
    digest: str
    """`sha256:…`, by which the engine knows it."""
    content: str
    """The content hash of the context it was built from."""
    bytes: int
    base: str
    base_bytes: int
    """Of the image it stands on."""
    platform: str
    user: str = ""
    pushed: str = ""
    """`registry/name@sha256:…`, by which any engine can pull it; empty until it was pushed."""

    @property
    def added_bytes(self) -> int:
        """Size over its base."""
        return self.bytes - self.base_bytes


def checked_reference(text: str, *, what: str) -> str:
    """*text* when it can name an image.  Raises BadOption."""
    if len(text) > 512 or not (_REFERENCE.fullmatch(text) or _ID.fullmatch(text)):
        raise BadOption(f"{text[:80]!r} is no name of {what}.", hint="a name such as python:3.11-slim or 127.0.0.1:5000/team/delays:3")
    return text


def build(context: Context, *, tag: str, own: str | None = None, secrets: Mapping[str, str] | None = None, report: Reporter = SILENT) -> Image:
    """The image of a context, called *tag*: the one that is there with the same content on the same base, else a new one.

    With *own* that is its name; it gets *tag* too, unless that is the name of another workspace's image.
    *secrets* gives for each of the context's names an environment variable or a file.
    Raises ImageNotBuilt with the build's last lines, or because there is no engine (the context is kept); BaseUnfit for a base that cannot
    take it; FileMissing for a secret that is not there; MissingExtra.
    """
    checked_reference(tag, what="an image")
    with _secret_files(context, secrets or {}) as files:
        try:
            client = engine.client(timeout_seconds=_BUILD_SECONDS)
            base = _base(client, context, report)
            image = _there(client, context, base, own or tag, report) or _built(client, context, base, own or tag, files, report)
            if own:
                _call_too(client, image, tag, report)
            return image
        except NoContainerEngine as error:
            raise ImageNotBuilt(context.ref, why=str(error), folder=str(context.folder), line=build_line(context, tag)) from error


def name_in(registry: str, tag: str) -> str:
    """What an image called *tag* is called in *registry*.  Raises BadOption."""
    return checked_reference(f"{registry.rstrip('/')}/{tag.rpartition('/')[2]}", what="an image in a registry")


def check_secrets(sources: Mapping[str, str]) -> None:
    """Raises FileMissing for one that is neither an environment variable nor a file."""
    for source in sources.values():
        _secret(source)


def push(image: Image, name: str, report: Reporter = SILENT) -> Image:
    """Push the image as *name* (`host:port/path/name:tag`), with the credentials that docker itself has for that registry.

    Raises ImageNotPushed with what the registry said.
    """
    client = engine.client(timeout_seconds=_BUILD_SECONDS)
    repository, tag = _repository_and_tag(name)
    report.step(f"pushing {name}")
    client.api.tag(image.digest, repository, tag)
    try:
        for line in _transferred(client.api.push(repository, tag=tag, stream=True, decode=True)):
            report.log(line)
    except _Ended as ended:
        raise _not_pushed(name, str(ended)) from ended
    digests = client.api.inspect_image(name).get("RepoDigests") or []
    return msgspec.structs.replace(image, pushed=next(digest for digest in digests if digest.startswith(f"{repository}@")))


def pull(client: docker.DockerClient, reference: str, *, platform: str, report: Reporter = SILENT) -> None:
    """Have the engine pull an image, each layer reported as it comes.  Raises docker.errors.APIError."""
    import docker.errors

    repository, tag = _repository_and_tag(reference)
    report.step(f"pulling {reference}")
    try:
        for line in _transferred(client.api.pull(repository, tag=tag, platform=platform, stream=True, decode=True)):
            report.log(line)
    except _Ended as ended:
        raise docker.errors.APIError(str(ended)) from ended


def _transferred(said: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """What an engine says while layers come or go: each state of each layer, and once a second how much of it is there.  Raises _Ended."""
    shown: dict[str, tuple[str, float]] = {}
    for part in said:
        if "error" in part:
            raise _Ended(str(part["error"]).strip())
        layer, status, now = part.get("id", ""), part.get("status", ""), time.monotonic()
        before, at = shown.get(layer, ("", now))
        if status and (status != before or now - at >= 1):
            shown[layer] = status, now
            yield " ".join(filter(None, [layer, status, part.get("progress", "")]))


# ── building ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _base(client: docker.DockerClient, context: Context, report: Reporter) -> dict[str, Any]:
    """What the engine knows of the base, pulled when it is not there.  Raises BaseUnfit."""
    import docker.errors

    try:
        base = client.api.inspect_image(context.base)
    except docker.errors.ImageNotFound:
        try:
            pull(client, context.base, platform=context.platform, report=report)
            base = client.api.inspect_image(context.base)
        except docker.errors.APIError as error:
            raise BaseMissing(context.base, why=not_had(error), there=_bases(client)) from error
    platform = f"{base['Os']}/{base['Architecture']}"
    if platform != context.platform:
        raise BaseUnfit(context.base, why=f"it is for {platform}, and {context.platform} was asked for")
    return base


def not_had(error: BaseException) -> str:
    """Why the engine could not pull an image, for who reads it."""
    said = " ".join(str(getattr(error, "explanation", "") or error).split())
    return next((words for mark, words in _PULLS.items() if mark in said), said[:300])


def _not_pushed(name: str, said: str) -> ImageNotPushed:
    if any(mark in said for mark in _NOT_LET_IN):
        where = name.split("/")[0]
        return ImageNotPushed(name, why=f"{said}", hint=f"docker login {where}, which keeps the credentials that are used here")
    return ImageNotPushed(name, why=next((words for mark, words in _PULLS.items() if mark in said), said))


_NOT_LET_IN = ("denied", "unauthorized", "authentication required", "no basic auth credentials")
_PULLS = {
    "no such host": "the engine reaches no registry: there is no network, or none that leads there",
    "server misbehaving": "the engine reaches no registry: there is no network, or none that leads there",
    "network is unreachable": "the engine reaches no registry: there is no network, or none that leads there",
    "i/o timeout": "its registry does not answer the engine",
    "connection refused": "nobody listens where its registry should be",
    "Client.Timeout": "its registry does not answer the engine",
    "pull access denied": "its registry has no such image, or gives it to nobody who has not logged in",
    "manifest unknown": "its registry has no such image",
    "not found": "its registry has no such image",
    "no matching manifest": "its registry has it for other platforms only",
}
"""What an engine says of a pull, and what that means."""


def _bases(client: docker.DockerClient) -> list[str]:
    """The images of the engine that have a name and are none of our packages, the newest first."""
    plain = [image for image in client.api.images() if CONTENT_LABEL not in (image.get("Labels") or {})]
    return [tag for image in plain for tag in image.get("RepoTags") or () if tag != "<none>:<none>"]


def _call_too(client: docker.DockerClient, image: Image, tag: str, report: Reporter) -> None:
    """Give the image its short name as well, unless that is an image of another workspace, which is said."""
    import docker.errors

    try:
        labels = client.api.inspect_image(tag)["Config"].get("Labels") or {}
    except docker.errors.ImageNotFound:
        labels = {}
    if labels.get(WORKSPACE_LABEL) in (None, identity.workspace_id()[:8]):
        client.api.tag(image.digest, *_repository_and_tag(tag))
    else:
        report.log(f"{tag} is the image of another workspace; this one is {image.ref} (docker tag {image.ref} {tag} makes it this one's)")


def _there(client: docker.DockerClient, context: Context, base: Mapping[str, Any], tag: str, report: Reporter) -> Image | None:
    """The image with this content on this base, tagged so; None when there is none."""
    below = base["RootFS"]["Layers"]
    for known in client.api.images(filters={"label": f"{CONTENT_LABEL}={context.hash}"}):
        if client.api.inspect_image(known["Id"])["RootFS"]["Layers"][: len(below)] == below:
            report.step(f"image {tag} is there")
            client.api.tag(known["Id"], *_repository_and_tag(tag))
            return _image(client, context, base, tag)
    return None


def _built(client: docker.DockerClient, context: Context, base: Mapping[str, Any], tag: str, files: Mapping[str, Path], report: Reporter) -> Image:
    report.step(f"building image {tag}")
    lines = _by_command(context, tag, files) if context.secrets else _by_engine(client, context, tag)
    last: deque[str] = deque(maxlen=_LAST_LINES)
    try:
        for line in filter(_telling, lines):
            last.append(line)
            report.log(line)
    except _Ended as ended:
        raise _why(context, list(last), str(ended)) from ended
    return _image(client, context, base, tag)


def _telling(line: str) -> bool:
    """Whether a line is more than the engine's bookkeeping."""
    return bool(line.strip()) and not line.startswith((" --->", "Removing intermediate container"))


class _Ended(Exception):
    """What the engine did ended before its end; says how."""


def _by_engine(client: docker.DockerClient, context: Context, tag: str) -> Iterator[str]:
    """The lines of a build by the engine's own builder.  Raises _Ended."""
    said = client.api.build(path=str(context.folder), tag=tag, rm=True, forcerm=True, decode=True, platform=context.platform)
    for part in said:
        yield from _COLOURS.sub("", str(part.get("stream") or part.get("status") or "")).splitlines()
        if "error" in part:
            raise _Ended(str(part["error"]).strip())


def _by_command(context: Context, tag: str, files: Mapping[str, Path]) -> Iterator[str]:
    """The lines of a build by BuildKit, which mounts the secret *files* for one step and keeps them out of all layers.  Raises _Ended."""
    secrets = [word for name, file in files.items() for word in ("--secret", f"id={name},src={file}")]
    where = [f"--platform={context.platform}", f"--tag={tag}", str(context.folder)]
    command = [_docker_with_buildkit(context, tag), "build", "--progress=plain", *secrets, *where]
    variables = os.environ | {"DOCKER_BUILDKIT": "1"} | engine.variables()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", env=variables) as process:
        assert process.stdout
        try:
            yield from (line.rstrip() for line in process.stdout)
        except BaseException:  # Ctrl-C, or nobody listens any more: docker would go on building
            process.kill()
            raise
    if process.returncode:
        raise _Ended(f"docker build ended with {process.returncode}")


def _docker_with_buildkit(context: Context, tag: str) -> str:
    """A docker command that builds with BuildKit: from 23 on it needs its buildx, before it does so by itself.  Raises ImageNotBuilt."""
    for folder in [*os.environ.get("PATH", "").split(os.pathsep), "/usr/bin"]:
        command = shutil.which("docker", path=folder)
        if command and (_succeeds(command, "buildx", "version") or _major(command) < _NEEDS_BUILDX):
            return command
    why = "secrets need BuildKit, and no docker command with buildx is on PATH"
    raise ImageNotBuilt(context.ref, why=why, folder=str(context.folder), line=build_line(context, tag))


def _succeeds(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _major(command: str) -> int:
    said = re.search(r"version (\d+)", subprocess.run([command, "--version"], capture_output=True, text=True, check=False).stdout)
    return int(said[1]) if said else _NEEDS_BUILDX


@contextmanager
def _secret_files(context: Context, secrets: Mapping[str, str]) -> Iterator[dict[str, Path]]:
    """For each secret a file of ours alone, for the time of the build.  Raises FileMissing for one that is neither a variable nor a file."""
    Workspace.current().run.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(prefix="secrets-", dir=Workspace.current().run) as folder:
        files = {}
        for number, name in enumerate(context.secrets):
            content = _secret(secrets.get(name, name))
            files[name] = Path(folder) / str(number)
            with os.fdopen(os.open(files[name], os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(content)
        yield files


def _secret(source: str) -> bytes:
    if source in os.environ:
        return os.environ[source].encode()
    path = Path(source).expanduser()
    if not path.is_file():
        raise FileMissing(source)
    return path.read_bytes()


def _why(context: Context, last: list[str], ended: str) -> BaseUnfit | ImageNotBuilt:
    """The error that a build's last lines amount to."""
    said = next((match[1] for line in reversed(last) if (match := _OUR_WORDS.match(line))), None)
    if said:
        return BaseUnfit(context.base, why=said.replace("the base image", "it", 1) if said.startswith("the base image") else said)
    for mark, why in _SIGNS.items():
        if mark in ended or any(mark in line for line in last):
            return BaseUnfit(context.base, why=why.format(platform=context.platform))
    return ImageNotBuilt(context.ref, why=_last_words(last) or ended, folder=str(context.folder), log="\n".join(last))


def _last_words(last: list[str]) -> str:
    """The last complaint of the step that ended a build, which says more than how that step is written; nothing where it did not complain."""
    by_buildkit = any(line.startswith("#") for line in last)
    said = [match[1] for line in last if (match := _STEPS_OWN.fullmatch(line))] if by_buildkit else [line for line in last if not line.startswith("Step ")]
    return next((line.strip()[:300] for line in reversed(said) if _COMPLAINT.search(line)), "")


_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_STEPS_OWN = re.compile(r"#\d+ [\d.]+ (.*)")
_COMPLAINT = re.compile(r"error\b|\bfailed\b|\bdenied\b|not found\b|no such\b|\b(?:could|can) ?not\b", re.IGNORECASE)
_OUR_WORDS = re.compile(r"(?:#\d+ [\d.]+ )?mlops: (.+)")
_SIGNS = {
    "exec format error": "this engine cannot run programs for {platform}; it needs QEMU's binfmt handlers, or an engine on such a machine",
    '"/bin/sh": stat /bin/sh: no such file': "it has no shell",
}
"""What a build says, and what that means."""


def _image(client: docker.DockerClient, context: Context, base: Mapping[str, Any], tag: str) -> Image:
    made = client.api.inspect_image(tag)
    return Image(
        ref=tag, digest=made["Id"], content=context.hash, bytes=made["Size"], base=context.base, base_bytes=base["Size"], platform=context.platform,
        user=made["Config"].get("User", ""),
    )  # fmt: skip


def _repository_and_tag(ref: str) -> tuple[str, str]:
    """`host:5000/team/delays:3` in two; the tag is `latest` where none is said, a digest stays one."""
    if "@" in ref:
        repository, _, digest = ref.partition("@")
        return repository, digest
    name, colon, tag = ref.rpartition(":")
    return (name, tag) if colon and "/" not in tag else (ref, "latest")
