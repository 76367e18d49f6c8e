"""Faults planted in real notebooks: each is blamed by name, with the line that needs it and what to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mlops_nb import artifacts, registry, store
from mlops_nb.settings import Workspace
from mlops_nb.store.environments import Package
from rehearsal.conftest import REGISTER, Notebook, Packages, blamed, failed

TWICE = """
class Model:
    def predict(self, X):
        return X[:, 0] * 2

model = Model()
"""


def calls_in(body: str, *, begin: str = "") -> str:
    """A cell with a model whose `predict` does what *body* says."""
    lines = "\n".join(f"        {line}" for line in body.strip().splitlines())
    return f"{begin}\n\nclass Model:\n    def predict(self, X):\n{lines}\n\nmodel = Model()\n"


# ── package ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_package_imported_by_a_name_that_is_made_when_it_answers(notebook_with: Callable[[], Notebook], packages: Packages):
    packages.wheel("tinyscale", "1.0", "FACTOR = 2\n")
    packages.install("tinyscale==1.0")
    notebook = notebook_with()
    notebook.run(calls_in("import importlib\nscale = importlib.import_module('tiny' + 'scale')\nreturn X[:, 0] * scale.FACTOR"), REGISTER)

    culprit = blamed()

    assert (culprit.kind, culprit.name) == ("package", "tinyscale")
    assert culprit.where.startswith("cell [2], line ") and "import tinyscale" in culprit.fix


def test_a_package_that_was_upgraded_while_the_notebook_had_the_old_one_in_memory(notebook_with: Callable[[], Notebook], packages: Packages):
    for version, factor in (("1.0", 2), ("2.0", 3)):
        packages.wheel("tinyscale", version, f"__version__ = '{version}'\nFACTOR = {factor}\n")
    packages.install("tinyscale==1.0")
    notebook = notebook_with()
    notebook.run("import tinyscale", calls_in("return X[:, 0] * tinyscale.FACTOR"))
    packages.install("tinyscale==2.0")
    notebook.run(REGISTER)

    culprit = blamed()

    assert (culprit.kind, culprit.name) == ("package", "tinyscale")
    assert "1.0 in memory and the lock says 2.0; with 1.0 the answers are the notebook's" in culprit.why


def test_a_lock_that_was_changed_after_the_registration(notebook_with: Callable[[], Notebook], packages: Packages):
    for version, factor in (("1.0", 2), ("2.0", 3)):
        packages.wheel("tinyscale", version, f"__version__ = '{version}'\nFACTOR = {factor}\n")
    packages.install("tinyscale==1.0")
    notebook_with().run("import tinyscale", calls_in("return X[:, 0] * tinyscale.FACTOR"), REGISTER)
    locked_otherwise("tinyscale", "2.0")

    culprit = blamed()

    assert (culprit.kind, culprit.name) == ("package", "tinyscale") and "with 1.0 the answers are the notebook's" in culprit.why


def test_a_version_that_nobody_can_install(notebook_with: Callable[[], Notebook], packages: Packages):
    packages.wheel("tinyscale", "1.0", "FACTOR = 2\n")
    packages.install("tinyscale==1.0")
    notebook_with().run("import tinyscale", calls_in("return X[:, 0] * tinyscale.FACTOR"), REGISTER)
    locked_otherwise("tinyscale", "1.0.post9")

    culprit = blamed()

    assert (culprit.kind, culprit.name) == ("package", "tinyscale==1.0.post9") and "cannot be installed" in culprit.why


def locked_otherwise(name: str, version: str) -> None:
    """Put another version into the lock of the only environment."""
    environment = registry.provenance("model").environment
    assert environment
    packages = [Package(name=p.name, version=version if p.name == name else p.version, direct=p.direct) for p in environment.packages]
    with store.writing() as tx:
        tx.execute("UPDATE environments SET packages = ?", [packages])


# ── file ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_file_read_from_where_the_notebook_stands(notebook: Notebook, write: Callable[[str, str], Path]):
    write("factor.txt", "2")
    notebook.run(calls_in("return X[:, 0] * float(open('factor.txt').read())"), REGISTER)

    culprit = blamed()

    assert (culprit.kind, culprit.name, culprit.where) == ("file", "factor.txt", "cell [2], line 3")
    assert "did not travel" in culprit.why


def test_a_file_read_by_its_whole_path_though_it_is_still_there(notebook: Notebook, write: Callable[[str, str], Path]):
    file = write("factor.txt", "2")
    notebook.run(calls_in(f"with open({str(file)!r}) as file:\n    return X[:, 0] * float(file.read())"), REGISTER)

    culprit = blamed()

    assert file.exists() and (culprit.kind, culprit.name) == ("file", str(file)) and culprit.where.startswith("cell [2], line ")


def test_a_file_whose_absence_is_passed_over_in_silence(notebook: Notebook, write: Callable[[str, str], Path]):
    write("factor.txt", "2")
    notebook.run(calls_in("try:\n    return X[:, 0] * float(open('factor.txt').read())\nexcept OSError:\n    return X[:, 0]"), REGISTER)

    culprit = blamed()

    assert (culprit.kind, culprit.name) == ("file", "factor.txt")


def test_a_stored_file_that_was_damaged(notebook: Notebook):
    notebook.run(TWICE, REGISTER)
    stored = next(file for file in registry.get("model").files if file.path == "model.pkl")
    place = artifacts.address(stored.sha256)
    place.chmod(0o600)
    place.write_bytes(place.read_bytes()[:-1] + b"!")

    culprit = blamed()

    assert (culprit.kind, culprit.name) == ("file", "model.pkl") and "no longer what was registered" in culprit.why


def test_a_local_module_that_was_edited_after_it_was_imported(notebook: Notebook, write: Callable[[str, str], Path]):
    write("scaling.py", "def scaled(values):\n    return values * 2\n")
    notebook.run("import scaling", calls_in("return scaling.scaled(X[:, 0])"))
    write("scaling.py", "# thrice\n\ndef scaled(values):\n    return values * 3\n")
    notebook.run(REGISTER)

    culprit = blamed()

    assert (culprit.kind, culprit.name) == ("file", "scaling.py") and "scaled() was edited after the notebook imported it" in culprit.why


def test_a_local_module_imported_by_a_name_that_is_made_when_it_answers(notebook: Notebook, write: Callable[[str, str], Path]):
    write("scaling.py", "FACTOR = 2\n")
    notebook.run(calls_in("import importlib\nreturn X[:, 0] * importlib.import_module('scal' + 'ing').FACTOR"), REGISTER)

    culprit = blamed()

    assert (culprit.kind, culprit.name) == ("file", "scaling.py") and "--code scaling.py" in culprit.fix


def test_an_onnx_form_that_answers_otherwise_than_the_object(notebook: Notebook):
    notebook.run(
        "from sklearn.linear_model import LinearRegression",
        "model = LinearRegression().fit(X, X[:, 0] * 2)\nother = LinearRegression().fit(X, X[:, 0] * 3)",
        "registry.register(model, name='model', sample=X); registry.register(other, name='other', sample=X)",
    )
    forms = {name: next(file for file in registry.get(name).files if file.path == "model.onnx") for name in ("model", "other")}
    version = registry.get("model")
    with store.writing() as tx:
        files = [forms["other"] if file.path == "model.onnx" else file for file in version.files]
        tx.execute("UPDATE model_versions SET files = ?, engine = 'onnxruntime' WHERE model = 'model'", [files])

    culprit = blamed()

    assert (culprit.kind, culprit.name) == ("file", "model.onnx") and "convert model:1" in culprit.fix


# ── variable ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_environment_variable_that_only_the_notebook_has(notebook: Notebook):
    notebook.run("import os\nos.environ['SCALE'] = '2'", calls_in("return X[:, 0] * float(os.environ['SCALE'])"), REGISTER)

    culprit = blamed()

    assert (culprit.kind, culprit.name, culprit.where) == ("variable", "SCALE", "cell [3], line 3") and "--env SCALE=" in culprit.fix


def test_an_environment_variable_with_another_value_where_it_is_not_set(notebook: Notebook):
    notebook.run("import os\nos.environ['SCALE'] = '2'", calls_in("return X[:, 0] * float(os.environ.get('SCALE', 1))"), REGISTER)

    rehearsal = failed()

    assert rehearsal.culprit and (rehearsal.culprit.kind, rehearsal.culprit.name) == ("variable", "SCALE")
    assert {check.name: check.differ for check in rehearsal.checks}["the notebook's answers"] == 4


# ── cell ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_global_that_a_later_cell_changed(notebook: Notebook):
    notebook.run("FACTOR = 2", calls_in("return X[:, 0] * FACTOR"), "held = model.predict(X)", "FACTOR = 3", REGISTER)

    culprit = notebook.culprit("data=X, answers=held")

    assert (culprit.kind, culprit.name, culprit.where) == ("cell", "cell [5]", "cell [5], line 1")
    assert "FACTOR" in culprit.why and "cell [2]" in culprit.why


def test_a_cell_that_was_edited_and_run_again(notebook: Notebook):
    notebook.run("def scaled(x):\n    return x * 2", calls_in("return scaled(X[:, 0])"), "held = model.predict(X)")
    notebook.run("offset = 1\n\ndef scaled(x):\n    return x * 3", REGISTER)

    culprit = notebook.culprit("data=X, answers=held")

    assert (culprit.kind, culprit.name, culprit.where) == ("cell", "cell [5]", "cell [5], line 3") and "scaled" in culprit.why


def test_a_library_that_a_cell_changed_in_memory(notebook: Notebook):
    notebook.run("import math\nmath.tau = 2.0", calls_in("return X[:, 0] * math.tau"), REGISTER)

    culprit = blamed()

    assert (culprit.kind, culprit.where) == ("cell", "cell [2], line 2") and "math.tau" in culprit.why


def test_random_numbers_of_numpy_without_a_seed(notebook: Notebook):
    notebook.run(calls_in("scale = 2\nreturn X[:, 0] * scale + np.random.rand(len(X))"), REGISTER)

    culprit = blamed()

    assert (culprit.kind, culprit.name, culprit.where) == ("cell", "cell [2]", "cell [2], line 4") and "random" in culprit.why


def test_a_generator_without_a_seed(notebook: Notebook):
    notebook.run(calls_in("noise = np.random.default_rng().normal(size=len(X))\nreturn X[:, 0] + noise"), REGISTER)

    culprit = blamed()

    assert (culprit.kind, culprit.where) == ("cell", "cell [2], line 3") and "random" in culprit.why


def test_an_answer_that_depends_on_the_clock(notebook: Notebook):
    notebook.run(calls_in("import time\nreturn X[:, 0] + time.time() % 1000"), REGISTER)

    culprit = blamed()

    assert (culprit.kind, culprit.where) == ("cell", "cell [2], line 4") and "clock (time.time)" in culprit.why


def test_something_kept_from_one_request_to_the_next(notebook: Notebook):
    notebook.run(calls_in("self.asked += 1\nreturn X[:, 0] + self.asked").replace("def predict", "asked = 0\n\n    def predict"), REGISTER)

    culprit = blamed()

    assert (culprit.kind, culprit.where) == ("cell", "cell [2], line 5") and "self.asked" in culprit.why


def test_an_answer_that_depends_on_the_rows_beside_it(notebook: Notebook):
    notebook.run(calls_in("centred = X - X.mean(axis=0)\nreturn centred[:, 0]"), REGISTER)

    culprit = blamed()

    assert (culprit.kind, culprit.where) == ("cell", "cell [2], line 3") and "mean()" in culprit.why


# ── column ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_column_that_a_request_cannot_bring_as_the_notebook_had_it(notebook: Notebook):
    notebook.run(
        "import pandas as pd\nfrom datetime import date",
        "X = pd.DataFrame({'amount': [1.5, 2.5, 4.0], 'day': [date(2024, 1, 1), date(2024, 1, 2), date(2024, 1, 3)]})",
        "class Model:\n    def predict(self, X):\n        return X['amount'] * [1.0 + (day == date(2024, 1, 1)) for day in X['day']]\n\nmodel = Model()",
        REGISTER,
    )

    culprit = blamed()

    assert (culprit.kind, culprit.name) == ("column", "day") and "datetime.date(" in culprit.why and "datetime.datetime(" in culprit.why


def test_a_column_whose_bytes_arrive_as_text(notebook: Notebook):
    notebook.run(
        "import pandas as pd\nX = pd.DataFrame({'amount': [1.5, 2.5], 'code': [b'001', b'002']})",
        "class Model:\n    def predict(self, X):\n        return X['amount'] + [float(isinstance(c, bytes)) for c in X['code']]\n\nmodel = Model()",
        REGISTER,
    )

    culprit = blamed()

    assert (culprit.kind, culprit.name) == ("column", "code") and "b'001'" in culprit.why


def test_columns_that_the_model_takes_by_their_place(notebook: Notebook):
    notebook.run(
        "import pandas as pd\nX = pd.DataFrame({'a': [1.0, 2.0, 3.0], 'b': [5.0, 7.0, 9.0]})",
        "class Model:\n    def predict(self, X):\n        return X.to_numpy()[:, 0] * 2\n\nmodel = Model()",
        REGISTER,
        "turned = X[['b', 'a']]\nheld = model.predict(turned)",
    )

    culprit = notebook.culprit("data=turned, answers=held")

    assert (culprit.kind, culprit.name) == ("column", "b, a") and "order of the columns" in culprit.why


def test_nothing_is_blamed_where_nothing_is_wrong(notebook: Notebook, workspace: Workspace):
    notebook.run(TWICE, REGISTER)
    from mlops_nb import rehearsing

    rehearsal = rehearsing.rehearse("model")

    assert rehearsal.passed and rehearsal.culprit is None and rehearsal.seen == [] and rehearsal.rows == 5
