"""A model version as something that runs elsewhere: a build context anybody can read, and the image that comes of it.

`context_of` needs no container engine; `image_of` builds in the one that `engine` finds.  Both take the same words.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

import msgspec

from .. import registry as models
from .. import store
from ..progress import SILENT, Reporter
from ..reference import ModelRef
from ..store import events, identity
from ..store import packages as table
from ..store.environments import Environment
from ..store.models import ModelVersion
from ..store.packages import Package
from . import context, images
from .contents import CONTENTS, HOME
from .context import MODEL_FOLDER, TOKEN_FILE, Context, Wanted
from .dockerfile import PYTHON, USER
from .images import Image

__all__ = [
    "CONTENTS", "HOME", "MODEL_FOLDER", "PYTHON", "TOKEN_FILE", "USER", "Context", "Image", "Wanted", "context_of", "default_tag", "image_of", "own_tag",
    "package", "packages", "pushed",
]  # fmt: skip


def package(
    ref: ModelRef | str,
    wanted: Wanted,
    *,
    tag: str | None = None,
    build: bool = True,
    registry: str | None = None,
    secrets: Mapping[str, str] | None = None,
    report: Reporter = SILENT,
) -> Package:
    """Lay out the build context of a version, build its image and push it to a registry, as far as asked; and record what came of it.

    *secrets* gives, for each name in `wanted.secrets`, an environment variable or a file.
    Raises as `context_of`, `images.build` and `images.push` do: what names and secrets cannot be before anything is written; the context is
    kept whatever comes after it.
    """
    made = models.provenance(ref)
    name = images.checked_reference(tag or default_tag(made.version, wanted.target), what="an image")
    if registry:
        images.name_in(registry, name)
    images.check_secrets(secrets or {})
    laid_out = context_of(made.version, made.environment, wanted, report=report)
    if not build:
        return _recorded(laid_out, None)
    image = images.build(laid_out, tag=name, own=None if tag else own_tag(name), secrets=secrets, report=report)
    if registry:
        image = images.push(image, images.name_in(registry, name), report)
    return _recorded(laid_out, image)


def context_of(version: ModelVersion, environment: Environment | None, wanted: Wanted, *, report: Reporter = SILENT) -> Context:
    """The build context of a version, written to its folder.  Raises as `context.lay_out` does."""
    if wanted.base:
        images.checked_reference(wanted.base, what="a base image")
    return context.lay_out(version, environment, wanted, report)


def image_of(
    version: ModelVersion,
    environment: Environment | None,
    *,
    base: str | None = None,
    platform: str = "linux/amd64",
    target: str = "docker",
    files: Iterable[str] = (),
    report: Reporter = SILENT,
) -> Image:
    """The image of a version, built when the engine has none with the same content on the same base; recorded.

    It runs as user `USER` with `PYTHON`, its model stands in `MODEL_FOLDER` and its server listens on port 8080.
    Raises as `context_of` and `images.build` do.
    """
    wanted = Wanted(target=target, base=base, platform=platform, files=tuple(files))
    laid_out = context_of(version, environment, wanted, report=report)
    name = default_tag(version, target)
    image = images.build(laid_out, tag=name, own=own_tag(name), report=report)
    _recorded(laid_out, image)
    return image


def packages(ref: ModelRef | str | None = None) -> list[Package]:
    """What was packaged, of one version or of all, newest first.  Raises ModelNotFound, VersionNotFound, AliasNotFound."""
    version = models.get(ref) if ref else None
    with store.reading() as tx:
        return table.every(tx, version.model if version else None, version.version if version else None)


def pushed(version: ModelVersion) -> Package | None:
    """The newest package of this version that a registry holds; its `pushed` is what any engine pulls."""
    return next((found for found in packages(version.ref) if found.pushed), None)


def default_tag(version: ModelVersion, target: str) -> str:
    """`mlops/delays:3`, the short name of its image unless another is given.  An image's name has small letters only."""
    name = "".join(letter if letter.isalnum() else "-" for letter in version.model.lower()).strip("-")
    return f"mlops/{name}{'' if target == 'docker' else f'-{target}'}:{version.version}"


def own_tag(name: str) -> str:
    """`mlops/delays:3-1f0c9a2e`, by which an engine that several workspaces use keeps the images of this one, whoever has the short name."""
    return f"{name}-{identity.workspace_id()[:8]}"


def _recorded(laid_out: Context, image: Image | None) -> Package:
    made = Package(
        content=laid_out.hash, model=laid_out.model, version=laid_out.version, target=laid_out.target, folder=os.fspath(laid_out.folder),
        base=laid_out.base, platform=laid_out.platform, image=image.ref if image else "", digest=image.digest if image else "",
        bytes=image.bytes if image else None, base_bytes=image.base_bytes if image else None, pushed=image.pushed if image else "", time=store.now(),
    )  # fmt: skip
    with store.writing() as tx:
        kept = table.put(tx, made)
        events.record(tx, "ModelPackaged", subject=laid_out.ref, data={key: value for key, value in msgspec.to_builtins(kept).items() if key != "time"})
    return kept
