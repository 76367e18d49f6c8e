"""A full disk and a gateway that is not there: told in two lines, with the state before intact."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from living import X, churn_model
from sklearn.neighbors import KNeighborsClassifier

from mlops_nb import errors, registry, rollout, settings
from mlops_nb.settings import Workspace


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk takes root, which CI is")
def test_a_disk_that_fills_up_while_registering_leaves_what_was_there(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLOPS_HOME", str(small_disk / "workspace"))
    rows = pd.DataFrame(np.random.default_rng(0).normal(size=(40_000, 20)))
    remembers_all = KNeighborsClassifier().fit(rows.to_numpy(), rows[0] > 0)

    with pytest.raises(errors.StoreFull) as caught:
        registry.register(remembers_all, name="large", convert=False)

    assert len(caught.value._render_traceback_()) == 2
    assert registry.search() == []
    assert [place for place in (small_disk / "workspace" / "artifacts").rglob("*") if place.is_file()] == []


def test_a_gateway_that_does_not_run_is_told_with_what_starts_it(live_workspace: Workspace) -> None:
    churn_model()
    rollout.deploy("churn:1")
    rollout.down()

    with pytest.raises(errors.GatewayUnreachable) as caught:
        rollout.invoke("churn", X.head())

    assert caught.value.hint == "%mlops up"
    rollout.up()
    assert rollout.invoke("churn", X.head()).deployment == "1"


def test_a_stopped_workspace_can_be_copied_and_serves_in_its_new_place(live_workspace: Workspace, tmp_path: Path) -> None:
    churn_model()
    rollout.deploy("churn:1")
    rollout.down()

    shutil.copytree(live_workspace.root, tmp_path / "elsewhere")  # raises for a socket or a pipe

    with settings.using(tmp_path / "elsewhere"):
        rollout.up()
        assert rollout.invoke("churn", X.head()).deployment == "1"
        rollout.down()
