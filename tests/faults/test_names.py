"""Names that would do harm where they were taken for more than names: from the data set to the answer, and to what is kept of it."""

from __future__ import annotations

import numpy as np
import pandas as pd
from living import wait_for
from sklearn.linear_model import LogisticRegression

from mlops_nb import datasets, monitoring, registry, rollout, telemetry
from mlops_nb.settings import Workspace

COLUMNS = ['a"b', "c'd; DROP TABLE x;--", "<img src=x onerror=alert(1)>", "back\\slash", "in.x", "time", "e^1", "%s{}", "two words"]


def test_columns_of_any_name_are_registered_served_captured_and_compared(live_workspace: Workspace) -> None:
    frame = pd.DataFrame({name: np.linspace(0, 1, 100) + place for place, name in enumerate(COLUMNS)})
    datasets.register("odd", frame)
    registry.register(LogisticRegression().fit(frame, frame.iloc[:, 0] > 0.5), name="odd", data="odd", tags={"k'\"": "v'; --"}, metrics={"m'\"": 1.0})
    rollout.deploy("odd:1")
    for number in range(4):
        rollout.invoke("odd", frame.sample(25, random_state=number) + 3)

    wait_for(lambda: {len(kept) for kept in telemetry.inputs("odd").values()} == {100}, what="what was asked")
    check = monitoring.check_drift("odd")

    assert set(telemetry.inputs("odd")) == {feature["name"] for feature in check.report["features"] if feature["side"] == "input"} == set(COLUMNS)
    assert check.is_drift
    assert registry.search(tags={"k'\"": "v'; --"}, metric="m'\">0.5")
