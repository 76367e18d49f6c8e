"""What a model needs travels with it: out of a notebook, into another process, with the notebook's folder gone."""

from __future__ import annotations

from pathlib import Path

import pytest

A_LOCAL_MODULE = """
    from shop.prices import doubled

    def widened(values):
        return doubled(values) + 1
"""
ITS_PACKAGE = """
    from . import rates

    def doubled(values):
        import json  # inside a function
        from .late import checked
        return checked(values * rates.RATE)
"""
TRAINING = """
    import numpy as np
    from sklearn.base import BaseEstimator, TransformerMixin
    from sklearn.linear_model import LinearRegression
    from sklearn.pipeline import make_pipeline
    import features

    OFFSET = 5

    class Widen(BaseEstimator, TransformerMixin):
        def fit(self, X, y=None):
            return self

        def transform(self, X):
            return features.widened(np.asarray(X)) + OFFSET

    X = np.arange(12.0).reshape(6, 2)
    model = make_pipeline(Widen(), LinearRegression()).fit(X, X.sum(axis=1))
"""
PACKING = """
    import pathlib
    from mlops_nb import packing

    packed = packing.pack(model)
    for place, content in packed.files.items():
        path = pathlib.Path(FOLDER) / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
"""
PREDICTING = """
    import json, sys
    import numpy as np
    from mlops_nb import packing

    model = packing.load(sys.argv[1], "sklearn")
    print(json.dumps(model.predict(np.arange(12.0).reshape(6, 2)).tolist()))
"""


@pytest.fixture
def packed_in_a_notebook(kernel, write, tmp_path):
    """A pipeline with a transformer from a cell that uses a module that imports a package, packed by the kernel, and its predictions."""
    write("features.py", A_LOCAL_MODULE)
    write("shop/__init__.py", "")
    write("shop/prices.py", ITS_PACKAGE)
    write("shop/rates.py", "RATE = 2\n")
    write("shop/late.py", "def checked(values):\n    return values\n")
    kernel.run(TRAINING)
    kernel.run(f"FOLDER = {str(tmp_path / 'model')!r}")
    kernel.run(PACKING)
    return kernel


def test_a_cells_transformer_and_a_module_that_imports_another_predict_with_the_notebooks_folder_renamed(packed_in_a_notebook, project, tmp_path, python):
    expected = packed_in_a_notebook.value("model.predict(X).tolist()")
    project.rename(tmp_path / "renamed")

    answered = python(PREDICTING, tmp_path / "model", folder=tmp_path)

    assert answered.stdout == f"{expected}\n", answered.stderr


def test_another_module_of_the_same_name_where_the_server_stands_is_not_taken(packed_in_a_notebook, project, tmp_path, python):
    expected = packed_in_a_notebook.value("model.predict(X).tolist()")
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "shop").mkdir(parents=True)
    (elsewhere / "shop" / "__init__.py").write_text("")
    (elsewhere / "features.py").write_text("raise ImportError('the wrong one')\n")

    answered = python(PREDICTING, tmp_path / "model", folder=elsewhere)

    assert answered.stdout == f"{expected}\n", answered.stderr


def test_only_the_local_modules_that_are_needed_travel(packed_in_a_notebook, write):
    packed = packed_in_a_notebook.value("sorted(packed.files)")

    assert packed == ["code/features.py", "code/shop/__init__.py", "code/shop/late.py", "code/shop/prices.py", "code/shop/rates.py", "model.pkl"]


def test_the_packages_named_are_those_the_model_imports(packed_in_a_notebook):
    assert packed_in_a_notebook.value("sorted(packed.modules)") == ["cloudpickle", "numpy", "sklearn"]


def test_a_missing_package_is_the_users_own_error_at_the_line_in_their_module(kernel, write, tmp_path, python):
    write("features.py", "import vanished\n\ndef f(x):\n    return x\n")
    write("vanished.py", "")
    kernel.run("""
        import features
        class Model:
            def predict(self, X):
                return features.f(X)
        model = Model()
    """)
    kernel.run(f"FOLDER = {str(tmp_path / 'model')!r}")
    kernel.run(PACKING)
    (tmp_path / "model/code/vanished.py").unlink()

    answered = python(PREDICTING, tmp_path / "model", folder=tmp_path)

    assert answered.stderr.endswith("ModuleNotFoundError: No module named 'vanished'\n")


def test_a_traceback_in_the_server_shows_the_cells_own_line(kernel, tmp_path, python):
    kernel.run("""
        class Model:
            def predict(self, X):
                return X.no_such_method()  # this very line
        model = Model()
    """)
    kernel.run(f"FOLDER = {str(tmp_path / 'model')!r}")
    kernel.run(PACKING)
    kernel.run(f"""
        import msgspec
        from mlops_nb import runs
        pathlib.Path({str(tmp_path / "cells.json")!r}).write_bytes(msgspec.json.encode(runs.capture().cells))
    """)

    answered = python(
        """
        import json, pathlib, sys, traceback
        from mlops_nb import packing

        try:
            packing.load(sys.argv[1], "python", cells=json.loads(pathlib.Path(sys.argv[2]).read_text())).predict(1)
        except AttributeError:
            traceback.print_exc()
        """,
        tmp_path / "model",
        tmp_path / "cells.json",
        folder=tmp_path,
    )

    assert "return X.no_such_method()  # this very line" in answered.stderr


def test_a_model_of_a_class_from_a_local_module_takes_the_module_along(project, write, tmp_path, python):
    write("models.py", "class Doubling:\n    def predict(self, X):\n        return [2 * x for x in X]\n")

    packed = python(
        """
        import pathlib, sys
        sys.path.insert(0, "")
        import models
        from mlops_nb import packing

        packed = packing.pack(models.Doubling())
        print(packed.flavor, *sorted(packed.files))
        """,
        folder=project,
    )

    assert packed.stdout == "python code/models.py model.pkl\n", packed.stderr


def test_a_file_given_as_code_travels_with_what_it_imports(project, write, python):
    write("extra/plugin.py", "import numpy\nimport partner\n")
    write("extra/partner.py", "import sklearn\n")
    write("model.py", "class M:\n    def predict(self, X):\n        return X\n")

    packed = python(
        """
        import sys
        sys.path.insert(0, "")
        import model
        from mlops_nb import packing

        packed = packing.pack(model.M(), code=["extra/plugin.py"])
        print(*sorted(packed.files), *sorted(packed.modules))
        """,
        folder=project,
    )

    assert packed.stdout == "code/model.py code/partner.py code/plugin.py model.pkl numpy sklearn\n", packed.stderr


def test_a_compiled_away_optional_import_is_no_need(project, write, python):
    write(
        "model.py",
        """
        from typing import TYPE_CHECKING
        if TYPE_CHECKING:
            import only_for_types
        try:
            import not_installed_anywhere
        except ImportError:
            not_installed_anywhere = None

        class M:
            def predict(self, X):
                return X

        def draw():
            import never_called_so_far
    """,
    )

    packed = python(
        "import sys; sys.path.insert(0, ''); import model; from mlops_nb import packing; print(sorted(packing.pack(model.M()).modules))", folder=project
    )

    assert packed.stdout == "[]\n", packed.stderr


def test_code_in_the_notebooks_folder_goes_along_though_it_is_installed_in_place(project: Path, write, python):
    write("mine/__init__.py", "class M:\n    def predict(self, X):\n        return X\n")

    packed = python("import sys; sys.path.insert(0, '.'); import mine; from mlops_nb import packing; print(*packing.pack(mine.M()).files)", folder=project)

    assert packed.stdout == "model.pkl code/mine/__init__.py\n", packed.stderr
