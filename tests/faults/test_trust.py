"""Opening a pickle runs code: nothing opens one that was changed since it was registered, or that nobody vouched for."""

from __future__ import annotations

import os
import pickle
import sys
from pathlib import Path

import pytest
from living import churn_model, deployment

from mlops_nb import artifacts, cards, errors, lineage, overview, registry, rollout
from mlops_nb.settings import Workspace
from mlops_nb.store.models import ModelVersion


class Canary:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, nest: Path) -> None:
        self.nest = nest

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.nest),)


@pytest.fixture
def nest(tmp_path: Path) -> Path:
    return tmp_path / "the canary flew"


def tampered(version: ModelVersion, nest: Path, *, place: str = "model.pkl") -> None:
    """Put a canary where the version's pickle is kept."""
    kept = artifacts.address(next(file.sha256 for file in version.files if file.path == place))
    kept.chmod(0o600)
    kept.write_bytes(pickle.dumps(Canary(nest)))


@pytest.fixture
def churn(live_workspace: Workspace) -> ModelVersion:
    """A version that is served by its pickle."""
    from living import ROWS, X, Y
    from sklearn.linear_model import LogisticRegression

    from mlops_nb import datasets

    datasets.register("customers", ROWS)
    return registry.register(LogisticRegression().fit(X, Y), name="churn", data="customers", convert=False).version


def test_a_pickle_changed_after_registration_is_not_opened_in_the_server(churn: ModelVersion, nest: Path) -> None:
    tampered(churn, nest)

    with pytest.raises(errors.DeploymentFailed, match="no longer what was registered"):
        rollout.deploy("churn:1")

    assert not nest.exists()
    assert "register the model again" in deployment("churn/1").reason.hint


def test_nor_after_it_was_laid_out(churn: ModelVersion, nest: Path) -> None:
    laid_out = registry.laid_out(churn) / "model.pkl"
    laid_out.unlink()
    laid_out.write_bytes(pickle.dumps(Canary(nest)))

    rollout.deploy("churn:1")

    assert not nest.exists()


def test_nor_in_this_process(churn: ModelVersion, nest: Path) -> None:
    tampered(churn, nest)

    with pytest.raises(errors.FileChanged):
        registry.load("churn:1")
    assert not nest.exists()


def test_looking_at_it_opens_nothing(churn: ModelVersion, nest: Path) -> None:
    tampered(churn, nest)

    registry.search()
    registry.provenance("churn:1")
    lineage.graph("churn:1")
    overview.summary()
    cards.as_html(registry.get("churn:1"))

    assert not nest.exists()


def test_registering_the_same_again_mends_it(churn: ModelVersion, nest: Path) -> None:
    model = registry.load("churn:1")
    tampered(churn, nest)

    registry.register(model, name="churn", data="customers", convert=False)

    assert registry.load("churn:2").coef_.tolist() == model.coef_.tolist()
    assert registry.load("churn:1").coef_.tolist() == model.coef_.tolist()


def test_a_pickle_beside_an_entry_script_is_not_loaded_without_trust(workspace: Workspace, tmp_path: Path, nest: Path) -> None:
    folder = tmp_path / "made elsewhere"
    folder.mkdir()
    (folder / "model.pkl").write_bytes(pickle.dumps(Canary(nest)))
    (folder / "score.py").write_text("def run(raw_data):\n    return 1\n")
    registry.register(folder, name="foreign", entry="score.py")

    with pytest.raises(errors.BadOption, match="entry script"):
        registry.load("foreign:1")
    assert not nest.exists()


def test_a_converted_model_is_checked_too(live_workspace: Workspace) -> None:
    version = churn_model()
    kept = artifacts.address(next(file.sha256 for file in version.files if file.path == "model.onnx"))
    kept.chmod(0o600)
    kept.write_bytes(kept.read_bytes() + b"\0")

    with pytest.raises(errors.DeploymentFailed, match="no longer what was registered"):
        rollout.deploy("churn:1")


def test_code_slipped_in_beside_a_pickle_of_ours_is_not_imported_without_trust(
    workspace: Workspace, tmp_path: Path, nest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cleaning.py").write_text("class Cleaner:\n    def predict(self, X):\n        return X\n")
    monkeypatch.syspath_prepend(tmp_path)
    import cleaning

    registry.register(cleaning.Cleaner(), name="cleaner")
    monkeypatch.delitem(sys.modules, "cleaning")
    folder = registry.download("cleaner:1", tmp_path / "downloaded")
    registry.register(folder, name="cleaner")  # as it was: ours
    (folder / "code" / "cleaning.py").write_text(f"import os\nos.mkdir({str(nest)!r})\nclass Cleaner: pass\n")

    with pytest.raises(errors.TrustNeeded):
        registry.register(folder, name="cleaner")
    assert not nest.exists()


def test_an_entry_script_that_a_folder_brings_along_is_not_taken_without_trust(workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "made" / "entry").mkdir(parents=True)
    (tmp_path / "made" / "entry" / "score.py").write_text("def run(raw_data):\n    return 1\n")

    with pytest.raises(errors.TrustNeeded, match="entry script"):
        registry.register(tmp_path / "made", name="foreign")
    assert registry.register(tmp_path / "made", name="foreign", trust=True).version.engine == "script"
    folder = registry.download("foreign:1", tmp_path / "downloaded")
    assert registry.register(folder, name="foreign").version.ref == "foreign:2"
