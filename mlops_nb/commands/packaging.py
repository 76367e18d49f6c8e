"""Commands that make of a model version what runs elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from ..errors import BadOption
from ..grammar import face
from ..reference import ModelRef
from ..shapes import Listing
from ..vocabulary import A_MODEL, A_PLATFORM, A_SECRET
from .group import mlops

if TYPE_CHECKING:
    from ..store.packages import Package


@mlops.command(
    heading="Packages",
    examples=[
        "package delays:3",
        "package delays:3 --base 127.0.0.1:5000/team/python:3.11 --tag delays:3",
        "package delays:3 --file lookup.csv --output delays-3 --no-build",
        "package delays:3 --push 127.0.0.1:5000/team",
        "package delays:3 --no-wheelhouse --secret pip.conf=pip.conf",
        "package delays@champion --platform linux/arm64 --no-build",
    ],
)
@click.argument("ref", type=A_MODEL)
@click.option("--target", type=click.Choice(["docker", "edge"]), default="docker", help="What the image is: a scoring server, or an edge module.")
@click.option("--base", metavar="IMAGE", help="The image to build upon.  [default: python:VERSION-slim]")
@click.option("--platform", type=A_PLATFORM, default="linux/amd64", help="What it runs on.  [default: linux/amd64]")
@click.option("--file", "files", type=click.Path(), multiple=True, help="A file or folder for its working directory; may be repeated.")
@click.option("--wheelhouse/--no-wheelhouse", default=True, help="Put all wheels in, so that the build needs no network.  [default: wheelhouse]")
@click.option("--secret", "secrets", type=A_SECRET, multiple=True, help="What the build may read and the image never holds; may be repeated.")
@click.option("--output", type=click.Path(file_okay=False), help="Where the build context goes.  [default: in the workspace]")
@click.option("--tag", metavar="NAME", help="The image's name.  [default: mlops/MODEL:VERSION]")
@click.option("--push", "registry", metavar="REGISTRY", help="Push it there, with docker's own credentials.")
@click.option("--build/--no-build", default=True, help="Build the image, or only write its build context.  [default: build]")
def package(
    ref: ModelRef,
    target: str,
    base: str | None,
    platform: str,
    files: Sequence[str],
    wheelhouse: bool,
    secrets: Sequence[tuple[str, str]],
    output: str | None,
    tag: str | None,
    registry: str | None,
    build: bool,
) -> Package:
    """Make a container image of a version.

    Its build context can be read and built by anybody; the same inputs give the same image.
    """
    from .. import packaging

    if registry and not build:
        raise BadOption("An image that is not built cannot be pushed.", hint=f"%mlops package {ref} --push {registry}")
    wanted = packaging.Wanted(
        target=target, base=base, platform=platform, wheelhouse=wheelhouse, files=tuple(files), secrets=tuple(name for name, _ in secrets), output=output
    )
    with face().reporting(f"packaging {ref}") as report:
        made = packaging.package(ref, wanted, tag=tag, build=build, registry=registry, secrets=dict(secrets), report=report)
        report.step(f"packaged {made.ref}")
    return made


@mlops.command(heading="Packages", examples=["packages", "packages delays:3"])
@click.argument("ref", type=A_MODEL, required=False)
def packages(ref: ModelRef | None) -> Listing[Package]:
    """List what was packaged, the newest first."""
    from .. import packaging

    return Listing(packaging.packages(ref), what="package", line=f"package {ref or 'MODEL'}")
