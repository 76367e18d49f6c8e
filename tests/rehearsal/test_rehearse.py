"""A rehearsal says what was asked and compared, is recorded, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
from living import ROWS, X, Y, wait_for
from sklearn.linear_model import LogisticRegression

from mlops_nb import artifacts, datasets, expected, registry, rehearsing, store
from mlops_nb.cards import as_html, as_text
from mlops_nb.errors import BadOption, RehearsalFailed, SignatureMismatch
from mlops_nb.rehearsing import comparing
from mlops_nb.settings import Workspace
from mlops_nb.store import events
from rehearsal.conftest import BEGIN, REGISTER, Notebook, blamed

TWICE = "class Model:\n    def predict(self, X):\n        return X[:, 0] * 2\n\nmodel = Model()"
READS_A_VARIABLE = f"""
import os
{BEGIN}

class Model:
    def predict(self, X):
        return X[:, 0] * float(os.environ.get("SCALE", "1"))

model = Model()
os.environ["SCALE"] = "2"
{REGISTER}
"""
SLOW = f"""
import time
{BEGIN}

class Model:
    begun = None

    def predict(self, X):
        return X[:, 0] * 2

    def __setstate__(self, state):
        print("slow from here on", flush=True)
        time.sleep(600)

model = Model()
model.name = "slow"
{REGISTER}

from mlops_nb import rehearsing
rehearsing.rehearse("model")
"""


@pytest.fixture
def script(tmp_path: Path, elsewhere: Workspace) -> Callable[[str], Path]:
    """Runs a program text as a script of its own, which has to end well."""

    def run(text: str) -> Path:
        path = tmp_path / "train.py"
        path.write_text(text)
        subprocess.run([sys.executable, str(path)], check=True, cwd=tmp_path, capture_output=True)
        return path

    return run


# ── what it says ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_scikit_learn_model_passes_with_the_rows_and_answers_of_its_registration(elsewhere: Workspace, no_environments_kept: Path):
    datasets.register("customers", ROWS)
    registry.register(LogisticRegression().fit(X, Y), name="churn", data="customers", convert=False)

    rehearsal = rehearsing.rehearse("churn")

    assert rehearsal.passed and rehearsal.rows == 100 and rehearsal.compared_with == "the registration" and rehearsal.packages > 4
    assert [check.name for check in rehearsal.checks] == [comparing.NOTEBOOKS, comparing.AGAIN, comparing.SHUFFLED, comparing.APART]
    assert rehearsal.max_difference is not None and rehearsal.max_difference < 1e-9
    assert "passed" in as_text(rehearsal) and "passed" in as_html(rehearsal)
    assert not no_environments_kept.exists() and not list(Path(tempfile.gettempdir()).glob(f"mlops-rehearsal-{os.getpid()}-*"))


def mlops(*words: str) -> subprocess.CompletedProcess[str]:
    """What the command line says."""
    return subprocess.run([sys.executable, "-m", "mlops_nb", *words], capture_output=True, text=True, check=False)


def test_it_is_recorded_with_an_event_and_listed(script: Callable[[str], Path]):
    script(f"{BEGIN}\n{TWICE}\n{REGISTER}")
    rehearsing.rehearse("model")

    assert [rehearsal.passed for rehearsal in rehearsing.every()] == [True]
    with store.reading() as tx:
        assert [event.subject for event in events.latest(tx, what="RehearsalPassed")] == ["model:1"]
    listed = mlops("rehearsals", "model:1")
    assert listed.returncode == 0 and "model:1" in listed.stdout and "passed" in listed.stdout


def test_a_failed_one_ends_with_exit_code_5_and_says_why_in_json(script: Callable[[str], Path]):
    path = script(READS_A_VARIABLE)

    done = mlops("rehearse", "model:1", "--json")

    told = json.loads(done.stdout)
    assert done.returncode == 5 and told["code"] == "RehearsalFailed" and not told["rehearsal"]["passed"]
    assert told["rehearsal"]["culprit"]["name"] == "SCALE" and told["rehearsal"]["culprit"]["where"] == f"{path}:9"
    with store.reading() as tx:
        assert "SCALE" in events.latest(tx, what="RehearsalFailed")[0].data["culprit"]


def test_with_the_variable_given_it_passes_and_says_that_the_answers_depend_on_it(script: Callable[[str], Path]):
    script(READS_A_VARIABLE)

    rehearsal = rehearsing.rehearse("model", variables={"SCALE": "2"})

    assert rehearsal.passed and [(one.kind, one.name) for one in rehearsal.seen] == [("variable", "SCALE")]


def test_a_script_is_named_where_a_notebook_would_have_a_cell(script: Callable[[str], Path]):
    path = script(f"{BEGIN}\n{TWICE.replace('* 2', '* 2 + np.random.rand(len(X))')}\n{REGISTER}")

    culprit = blamed()

    assert (culprit.kind, culprit.name, culprit.where) == ("cell", "train.py", f"{path}:6")


def test_the_magic_takes_rows_and_answers_from_the_notebook(notebook: Notebook):
    notebook.run(TWICE, REGISTER, "%load_ext mlops_nb", "held = model.predict(X)")

    shown = notebook.kernel.run("done = %mlops rehearse model --data X --answers held\nprint(done.passed, done.compared_with)")

    assert "True the caller" in shown


def test_labels_alone_are_compared_with_the_labels_of_a_classifier(elsewhere: Workspace):
    datasets.register("customers", ROWS)
    model = LogisticRegression().fit(X, Y)
    registry.register(model, name="churn", data="customers", convert=False)
    held = model.predict(X)

    assert rehearsing.rehearse("churn", data=X, answers=held).passed
    with pytest.raises(RehearsalFailed, match=r"1 of \d+ answers differ") as told:
        rehearsing.rehearse("churn", data=X, answers=np.where(np.arange(len(held)) == 2, 1 - held, held))
    assert "row 2: label" in told.value.detail


def test_answers_that_are_not_the_models_fail_with_the_first_row_that_differs(script: Callable[[str], Path]):
    script(f"{BEGIN}\n{TWICE}\n{REGISTER}")

    with pytest.raises(RehearsalFailed) as told:
        rehearsing.rehearse("model", answers=np.array([0.0, 4.0, 8.0, 12.5, 16.0, 20.0]))

    assert "row 3: output 12.5, now output 12" in told.value.detail and "1 of 5 answers differ" in str(told.value)
    assert rehearsing.rehearse("model", answers=np.array([0.0, 4.0, 8.0, 12.5, 16.0, 20.0]), tolerance=0.1).passed


def test_rows_that_do_not_fit_and_answers_that_are_too_few_are_refused_before_anything_is_built(script: Callable[[str], Path]):
    script(f"{BEGIN}\n{TWICE}\n{REGISTER}")

    with pytest.raises(SignatureMismatch):
        rehearsing.rehearse("model", data=np.zeros((3, 5)))
    with pytest.raises(BadOption, match="5 rows and 2 answers"):
        rehearsing.rehearse("model", answers=[1.0, 2.0])
    assert not rehearsing.every()


def test_an_entry_script_is_asked_the_rows_it_is_given(elsewhere: Workspace, tmp_path: Path):
    (tmp_path / "score.py").write_text("import json\n\ndef run(raw_data):\n    return [2 * row['a'] for row in json.loads(raw_data)['data']]\n")
    registry.register(None, name="double", entry=tmp_path / "score.py")

    assert rehearsing.rehearse("double", data={"a": [1, 2, 3]}, answers=[2, 4, 6]).passed
    with pytest.raises(RehearsalFailed):
        rehearsing.rehearse("double", data={"a": [1, 2, 3]}, answers=[2, 4, 7])
    assert rehearsing.rehearse("double").rows == 0


def test_a_version_that_was_registered_before_answers_were_kept_is_compared_with_itself(script: Callable[[str], Path]):
    script(f"{BEGIN}\n{TWICE}\n{REGISTER}")
    with store.writing() as tx:
        tx.execute("UPDATE model_versions SET expected = NULL")

    rehearsal = rehearsing.rehearse("model")

    assert rehearsal.passed and rehearsal.rows == 5 and rehearsal.compared_with == ""
    assert [check.name for check in rehearsal.checks] == [comparing.AGAIN, comparing.SHUFFLED, comparing.APART]


# ── what it leaves ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_interrupted_or_killed_it_leaves_no_server(elsewhere: Workspace, tmp_path: Path, how: signal.Signals):
    (tmp_path / "slow.py").write_text(SLOW)
    rehearsal = subprocess.Popen([sys.executable, str(tmp_path / "slow.py")], cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    mine = f"mlops-rehearsal-{rehearsal.pid}-"
    servers = lambda: [p for p in psutil.process_iter(["cmdline"]) if mine in " ".join(p.info["cmdline"] or [])]  # noqa: E731
    wait_for(lambda: any("slow from here on" in log.read_text() for log in Path(tempfile.gettempdir()).glob(f"{mine}*/server-*/log")), what="the server")

    rehearsal.send_signal(how)

    rehearsal.wait(30)
    wait_for(lambda: not servers(), what="the server's end")
    if how == signal.SIGKILL:
        with rehearsing.stage.scratch():
            pass
    assert not list(Path(tempfile.gettempdir()).glob(f"{mine}*"))


def test_rows_that_were_only_shown_are_not_kept_but_for_those_that_the_signature_has(script: Callable[[str], Path]):
    script(f"{BEGIN}\n{TWICE}\n{REGISTER}")
    kept = registry.get("model").expected

    assert kept and expected.read(kept).rows == 5


def test_the_kept_answers_go_with_the_version(script: Callable[[str], Path]):
    script(f"{BEGIN}\n{TWICE}\n{REGISTER}")
    kept = registry.get("model").expected
    assert kept and expected.read(kept).outputs == {"output": [0.0, 4.0, 8.0, 12.0, 16.0]}

    would_free = registry.deletable_bytes("model:1")

    assert registry.delete("model:1") == would_free and not artifacts.address(kept.sha256).exists()
