"""Commands that say by what drift is found."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..shapes import Listing
from .group import mlops

if TYPE_CHECKING:
    from ..monitoring.detectors import Listed


@mlops.command(heading="Watching", examples=["detectors"])
def detectors() -> Listing[Listed]:
    """List the drift detectors: what each takes, tells and needs, its licence, and whether it is here."""
    from ..monitoring import detectors as drift_detectors

    return Listing(drift_detectors.every(), what="drift detector")
