"""What a drift check found.  It holds shares and no rows, so it may be kept, sent and drawn."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec


class FeatureDrift(msgspec.Struct, frozen=True, kw_only=True):
    """One feature, before and now."""

    name: str
    side: str = "input"
    """`input`, `prediction` (what the model answered) or `label` (what turned out to be true)."""
    type: str
    """`number`, `category`, or `not compared`."""
    test: str
    """The name of the test that decided; `none` where there was too little to test."""
    statistic: float | None = None
    p_value: float | None = None
    p_adjusted: float | None = None
    """The p-value corrected for the number of tests of the check."""
    threshold: float | None = None
    """Of a distance or an online detector: what the statistic must reach."""
    effect: float | None = None
    """Share of the rows, 0–1, that lies elsewhere now."""
    effect_name: str = ""
    minimum_effect: float = 0.0
    """An effect below this is no drift, however significant."""
    is_drift: bool = False
    is_small_change: bool = False
    """It changed, which chance alone does not explain, and by less than counts."""
    kind: str = ""
    """What drifts most: `values`, `missing`, or `new` (beyond the range, or of no category that was there); empty without drift."""
    span: int = 1
    """How many of the newest windows, taken together, say so."""
    new: float = 0.0
    """Share of the window's rows, 0–1, with a category, or beyond the range, that the training data never showed."""
    missing_reference: float = 0.0
    missing_window: float = 0.0
    missing_p_adjusted: float | None = None
    """Of the test whether the share of missing values changed; None where nothing is missing."""
    summary: str = ""
    """In words: `mean 12.3 → 18.9 (+0.8 σ)`, `new category 'HA' 4.0 %`."""
    silenced: str = ""
    """Who wants to hear no more of it, until when and why; it raises no alert then."""
    histogram: dict[str, Any] = {}
    """`reference` and `window`: shares per bin; with them the bins' `edges`, or the `categories` (None stands for the rest)."""

    @property
    def is_together(self) -> bool:
        """Whether it stands for all features, which a detector looked at as one."""
        return self.type == "together"

    @property
    def size(self) -> float:
        """Share of the rows, 0–1, that it moved: by values, by new ones, or by what is missing, whichever is most."""
        return max(self.effect or 0.0, self.new, abs(self.missing_window - self.missing_reference))


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """Something about the data themselves, whatever the model makes of them."""

    feature: str
    kind: str
    """`missing`, `gone`, `new categories`, `out of range`, `stuck`, `new column`, or `refused` (requests of another schema)."""
    share: float | None = None
    """Of the window's rows, 0–1; of `refused` and `new column` of its requests."""
    threshold: float | None = None
    """The share from which it counts; of missing values that became fewer, below which."""
    is_alarm: bool = False
    by_chance: bool = True
    """Whether chance could bring it about, which the budget of false alarms keeps small; False of a fact."""
    words: str = ""
    """In words that need no report beside them: `missing in 12 % of the rows, 0.4 % before`."""


class Compared(msgspec.Struct, frozen=True, kw_only=True):
    """One side of the comparison: a data set, or a window of time."""

    rows: int
    compared: int
    """Rows the tests saw; less than `rows` where a fixed sample was taken."""
    dataset: str | None = None
    """Of the reference its name: a data set's, or which requests."""
    kind: str = "training data"
    """Of the reference: `training data` or `past requests`."""
    since: datetime | None = None
    until: datetime | None = None


class DriftReport(msgspec.Struct, frozen=True, kw_only=True):
    """The verdict over all features, those that drift first."""

    is_drift: bool
    engine: str
    """The detector and its version."""
    reference: Compared
    window: Compared
    alpha: float
    """The chance of any false alarm that one check has; 0 of a detector with thresholds of its own, which `promise` tells."""
    correction: str
    promise: str = ""
    """How many false alarms the thresholds allow, in words."""
    spans: list[int] = []
    """How many of the newest windows were tested together."""
    features: list[FeatureDrift]
    quality: list[Finding] = []
    """What is wrong with the data themselves, alarms first."""
    causes: dict[str, Any] = {}
    """A `causes.Causes`, once they were asked for."""
    notes: list[str] = []
    """What the reader should know: samples taken, columns not compared, too few rows, an engine's licence."""
    asked: dict[str, str] = {}
    """What was said of windows and the budget, by option: `window`, `budget`, `every`, `effect`; the rest was as the settings have it."""

    @property
    def drifted(self) -> list[FeatureDrift]:
        """The features that drift."""
        return [feature for feature in self.features if feature.is_drift]

    @property
    def compared(self) -> int:
        """How many features were compared, each by itself or all as one."""
        return sum(feature.type != "not compared" and not feature.is_together for feature in self.features)

    @property
    def how(self) -> str:
        """The detector and what it was held to: `histograms, alpha 0.0033, Holm`."""
        return told_how(self.engine, self.alpha, self.correction)

    @property
    def differing(self) -> str:
        """`2 of 8 features differ: hour, temp`; or that all do together, where a detector looked at them as one and so names none."""
        drifted = self.drifted
        if any(feature.is_together for feature in drifted):
            return "All features together differ"
        named = ", ".join(feature.name for feature in drifted[:8]) + (f" and {len(drifted) - 8} more" if len(drifted) > 8 else "")
        return f"{len(drifted)} of {self.compared} features differ" + (f": {named}" if named else "")


def told_how(engine: str, alpha: float, correction: str) -> str:
    """A detector, and the level and correction of its tests; those of one that has thresholds of its own are in its promise."""
    corrected = f", corrected by {correction}" if correction not in ("", "none") else ""
    return f"{engine}, alpha {alpha:.3g}{corrected}" if alpha else engine
