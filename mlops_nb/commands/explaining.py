"""Commands that say by what drift is found, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ..grammar import face
from ..shapes import Listing
from ..vocabulary import A_DEPLOYMENT_NAME, AN_ENDPOINT
from .group import mlops

if TYPE_CHECKING:
    from ..monitoring.causes import Causes
    from ..monitoring.detectors import Listed


@mlops.command(heading="Watching", examples=["detectors"])
def detectors() -> Listing[Listed]:
    """List the drift detectors: what each takes, tells and needs, its licence, and whether it is here."""
    from ..monitoring import detectors as drift_detectors

    return Listing(drift_detectors.every(), what="drift detector")


@mlops.command(heading="Watching", examples=["causes delays", "causes delays --deployment 2"])
@click.argument("endpoint", type=AN_ENDPOINT)
@click.option("--deployment", type=A_DEPLOYMENT_NAME, help="What a check of this one found.")
def causes(endpoint: str, deployment: str | None) -> Causes:
    """Say why the newest drift check alarmed.

    Which features moved, among whose rows, since when (with a 95 % interval), requests that show it, and what it costs in accuracy where labels or
    an estimate tell.
    """
    from ..monitoring import causes as found

    with face().reporting(f"explaining the drift of {endpoint}") as report:
        told = found.of(endpoint, deployment=deployment, report=report)
        report.step(f"{len(told.features)} feature{'s' * (len(told.features) != 1)} moved")
    return told
