"""Register, find, alias, tag, download, delete: what a version keeps and what it refuses."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from living import ROWS, X, Y, churn_model
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression

from mlops_nb import artifacts, cli, datasets, errors, registry, store
from mlops_nb.settings import Workspace
from mlops_nb.store import events


class Remembers(ClassifierMixin, BaseEstimator):
    """A classifier that remembers no column names."""

    def fit(self, X: pd.DataFrame, y: pd.Series) -> Remembers:
        self.classes_ = np.unique(y)
        return self

    def predict(self, X: pd.DataFrame) -> np.ndarray:
        return np.zeros(len(X), dtype=int)


def columns(version: registry.ModelVersion) -> list[str]:
    return [column["name"] for column in version.signature["inputs"]]


def test_what_was_registered_says_how_commands_name_it(workspace: Workspace) -> None:
    datasets.register("customers", ROWS)

    assert registry.register(LogisticRegression().fit(X, Y), name="churn", data="customers", convert=False).ref == "churn:1"


def test_versions_count_up_and_a_deleted_number_is_not_given_again(workspace: Workspace) -> None:
    assert [churn_model().version for _ in range(3)] == [1, 2, 3]
    registry.delete("churn:3")

    assert churn_model().version == 4


def test_whoever_deletes_is_asked_with_a_size_that_is_not_nothing(workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    registry.register(LogisticRegression().fit(X, Y), name="churn", convert=False)

    assert cli.answer(["delete", "churn:1"]) == 2

    asked = re.search(r"Delete churn:1 and ([0-9.,]+) (bytes|kB) of files\?", capsys.readouterr().err)
    assert asked and float(asked[1].replace(",", "")) > 0


def test_the_same_bytes_again_are_told(workspace: Workspace) -> None:
    model = LogisticRegression().fit(X, Y)
    datasets.register("customers", ROWS)
    registry.register(model, name="churn", data="customers")

    assert registry.register(model, name="churn", data="customers").same_as == "churn:1"


def test_the_target_column_is_no_input(workspace: Workspace) -> None:
    datasets.register("customers", ROWS)
    version = registry.register(Remembers().fit(X, Y), name="churn", data="customers", target="left").version

    assert columns(version) == ["age", "income"]


def test_a_model_that_remembers_no_columns_takes_those_of_its_last_version(workspace: Workspace) -> None:
    churn_model()

    assert columns(registry.register(Remembers().fit(X, Y), name="churn", data="customers").version) == ["age", "income"]
    assert columns(registry.register(Remembers().fit(X, Y), name="churn").version) == ["age", "income"]


def test_a_model_that_may_have_taken_its_target_for_an_input_is_told_of_target(workspace: Workspace) -> None:
    datasets.register("customers", ROWS)

    assert "--target" in registry.register(Remembers().fit(X, Y), name="unsure", data="customers").note
    assert registry.register(LogisticRegression().fit(X, Y), name="sure", data="customers").note == ""


def test_a_target_the_data_lacks_is_told_with_the_nearest(workspace: Workspace) -> None:
    datasets.register("customers", ROWS)
    with pytest.raises(errors.SignatureMismatch, match="no column 'lef'") as caught:
        registry.register(Remembers().fit(X, Y), name="churn", data="customers", target="lef")
    assert caught.value.hint == "did you mean left?"
    assert registry.search() == []


def test_a_model_trained_on_other_columns_is_refused_before_anything_is_kept(workspace: Workspace) -> None:
    datasets.register("other", pd.DataFrame({"height": [1.0, 2.0]}))
    with pytest.raises(errors.SignatureMismatch, match="age, income"):
        registry.register(LogisticRegression().fit(X, Y), name="churn", data="other")
    assert registry.search() == []


def test_an_object_without_predict_is_refused_in_two_lines(workspace: Workspace) -> None:
    with pytest.raises(errors.NotAModel) as caught:
        registry.register(object(), name="nothing")
    assert len(caught.value._render_traceback_()) == 2
    assert registry.search() == []


def test_data_given_for_a_model_leads_to_the_data_sets(workspace: Workspace) -> None:
    for data in (X, np.zeros((2, 2))):
        with pytest.raises(errors.NotAModel, match="is data and no model") as caught:
            registry.register(data, name="nothing")
        assert caught.value.hint == "%mlops dataset register NAME DATA"


class Grumpy(Remembers):
    """A classifier that fails on the rows it is given."""

    def predict(self, X: pd.DataFrame) -> np.ndarray:
        return X["not there"].to_numpy()


def test_a_model_that_raises_on_its_own_rows_is_refused_with_its_exception_and_line(workspace: Workspace) -> None:
    line = Grumpy.predict.__code__.co_firstlineno + 1
    with pytest.raises(errors.CannotAnswer, match=rf"KeyError: 'not there' \({re.escape(__file__)}:{line}\)") as caught:
        registry.register(Grumpy().fit(X, Y), name="churn", sample=X)
    assert "mend its predict()" in caught.value.hint and 'X["not there"]' in caught.value.detail
    assert registry.search() == []


def test_a_model_that_was_not_fitted_is_told_in_whole_sentences(workspace: Workspace) -> None:
    with pytest.raises(errors.CannotAnswer, match=r"before using this estimator\. Nothing was kept\."):
        registry.register(LogisticRegression(), name="churn", sample=X)


def test_a_model_that_nothing_was_asked_of_says_so(workspace: Workspace) -> None:
    assert "--sample X[:100] would try it" in registry.register(Remembers().fit(X, Y), name="churn").note
    assert registry.register(Remembers().fit(X, Y), name="churn", sample=X).note == ""


def test_search_by_tag_metric_and_text(workspace: Workspace) -> None:
    datasets.register("customers", ROWS)
    for auc, team in ((0.6, "ops"), (0.7, "ops"), (0.8, "sales")):
        registry.register(
            LogisticRegression(C=auc).fit(X, Y), name="churn", data="customers", metrics={"auc": auc}, tags={"team": team}, description=f"C is {auc}"
        )

    assert [v.version for v in registry.search(tags={"team": "ops"})] == [2, 1]
    assert [v.version for v in registry.search("churn", metric="auc>0.65")] == [3, 2]
    assert [v.version for v in registry.search(text="C IS 0.8")] == [3]
    assert registry.search(tags={'te"am': "ops"}) == []
    with pytest.raises(errors.BadOption, match="compare"):
        registry.search(metric="auc is good")


def test_an_alias_is_taken_only_from_the_version_that_has_it(workspace: Workspace) -> None:
    churn_model()
    churn_model()
    registry.set_alias("churn:1", "champion")

    with pytest.raises(errors.BadOption, match="champion names churn:1, not churn:2"):
        registry.drop_alias("churn:2", "champion")
    assert registry.get("churn@champion").version == 1

    assert registry.drop_alias("churn@champion", "champion").version == 1
    registry.set_alias("churn:2", "champion")
    assert registry.drop_alias("churn", "champion").version == 2


def test_an_alias_moves_from_version_to_version(workspace: Workspace) -> None:
    churn_model()
    churn_model()
    registry.set_alias("churn:1", "champion")
    registry.set_alias("churn:2", "champion")

    assert registry.get("churn@champion").version == 2
    assert registry.get("churn:1").aliases == []
    with pytest.raises(errors.AliasNotFound, match="champion") as caught:
        registry.get("churn@champoin")
    assert caught.value.hint == "did you mean champion?"


def test_tags_are_set_and_removed(workspace: Workspace) -> None:
    churn_model()
    registry.tag("churn:1", {"team": "ops", "<b>": "'; --"})

    assert registry.tag("churn:1", {"team": None}).tags == {"<b>": "'; --"}
    assert registry.get("churn:1").tags == {"<b>": "'; --"}


def test_download_gives_every_file_and_spares_a_folder_in_use(workspace: Workspace, tmp_path: Path) -> None:
    version = churn_model()
    place = registry.download("churn:1", tmp_path / "out")

    assert {str(p.relative_to(place)) for p in place.rglob("*") if p.is_file()} == {file.path for file in version.files}
    with pytest.raises(errors.BadOption, match="not an empty folder"):
        registry.download("churn:1", place)


def test_delete_frees_the_bytes_that_only_it_needs(workspace: Workspace) -> None:
    first = churn_model()
    second = churn_model()
    shared = {f.sha256 for f in first.files} & {f.sha256 for f in second.files}
    expected = registry.deletable_bytes("churn:2")

    assert registry.delete("churn:2") == expected
    assert all(artifacts.address(sha256).exists() for sha256 in shared)
    assert registry.delete("churn:1") > 0
    assert not any(artifacts.address(file.sha256).exists() for file in (*first.files, *second.files))


def test_git_commit_and_uncommitted_changes_are_recorded(workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = tmp_path / "project"
    project.mkdir()
    (project / "train.py").write_text("x = 1\n")
    git = ["git", "-c", "user.name=Ada", "-c", "user.email=ada@example.org"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *words], cwd=project, check=True)
    (project / "train.py").write_text("x = 2\n")
    monkeypatch.chdir(project)

    state = registry.provenance(churn_model().ref).run.git

    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=project, capture_output=True, text=True, check=True).stdout.strip()
    assert (state.commit, state.dirty) == (head, True)
    assert "+x = 2" in state.diff


def test_what_happened_is_told_in_events(workspace: Workspace) -> None:
    churn_model()
    registry.set_alias("churn:1", "champion")
    registry.delete("churn:1")

    with store.reading() as tx:
        assert [event.type for event in events.latest(tx, subject="churn:1")] == ["mlops.ModelDeleted", "mlops.AliasSet", "mlops.ModelRegistered"]


@pytest.mark.parametrize("name", ["../x", "a/b", "", "<img>", "a b", "con", "x" * 101, "é"])
def test_a_name_that_cannot_be_a_path_is_refused(workspace: Workspace, name: str) -> None:
    with pytest.raises(errors.BadName):
        registry.register(LogisticRegression().fit(X, Y), name=name)


def test_rows_that_hold_the_target_too_give_a_signature_without_it(workspace: Workspace) -> None:
    version = registry.register(LogisticRegression().fit(X, Y), name="churn", sample=ROWS).version

    assert columns(version) == ["age", "income"]
