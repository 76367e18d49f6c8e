"""Whether an endpoint is still asked what its model was trained for."""

from .drift import check_drift
from .figures import distribution_figure, figure
from .over_time import DriftMap, Part, drift_map, parts_of, window_check
from .reports import Compared, DriftReport, FeatureDrift, Finding

__all__ = [
    "check_drift", "figure", "distribution_figure", "DriftReport", "FeatureDrift", "Compared", "drift_map", "parts_of", "window_check", "DriftMap",
    "Part", "Finding",
]  # fmt: skip
