"""A model whose class stands in a module beside the notebook."""

from __future__ import annotations

from typing import Any

import numpy as np


class Doubler:
    """Says twice what it is given."""

    def predict(self, rows: Any) -> np.ndarray:
        return np.asarray(rows) * 2
