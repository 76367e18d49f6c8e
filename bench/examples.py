"""What the figures are measured on: synthetic flights, a pipeline, a forest.  Imports nothing of this project: a peer's interpreter uses it too."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    import pandas as pd

_NUMBERS = ("distance", "hour", "departure_delay", "wind", "visibility", "pressure")
_TEXTS = {"carrier": ("UA", "AA", "DL", "B6"), "origin": ("JFK", "LGA", "EWR"), "month": ("jan", "feb", "mar")}


def flights(rows: int = 4000, *, seed: int = 0) -> tuple[pd.DataFrame, np.ndarray]:
    """Six columns of numbers and three of text, and whether each flight was late."""
    import numpy as np
    import pandas as pd

    random = np.random.default_rng(seed)
    frame = pd.DataFrame({name: random.normal(size=rows) for name in _NUMBERS} | {name: random.choice(words, size=rows) for name, words in _TEXTS.items()})
    return frame, ((frame["departure_delay"] + 0.5 * frame["wind"] + random.normal(size=rows)) > 1).to_numpy().astype(int)


def pipeline(frame: pd.DataFrame, late: np.ndarray) -> Any:
    """A fitted ColumnTransformer and LogisticRegression."""
    from sklearn.compose import ColumnTransformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    columns = ColumnTransformer([("numbers", StandardScaler(), list(_NUMBERS)), ("texts", OneHotEncoder(handle_unknown="ignore"), list(_TEXTS))])
    return make_pipeline(columns, LogisticRegression(max_iter=200)).fit(frame, late)


def forest(*, features: int = 30, rows: int = 5000, named: Callable[[Any], Any] = lambda data: data) -> tuple[Any, np.ndarray]:
    """A random forest of 100 trees, 8 deep, fitted on what *named* makes of these rows."""
    import numpy as np
    from sklearn.ensemble import RandomForestClassifier

    random = np.random.default_rng(0)
    data = random.normal(size=(rows, features)).astype("float32")
    return RandomForestClassifier(100, max_depth=8, random_state=0).fit(named(data), (data[:, :3].sum(axis=1) > 0).astype(int)), data
