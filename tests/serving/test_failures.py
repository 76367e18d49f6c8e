"""A deployment that fails says why: the user's own exception, with file and line, or the cell it came from."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from mlops_nb import signature
from mlops_nb.ports import free_port

from .scoring_servers import Start, wait_for

CELL = {
    "number": 12,
    "filename": "<cell 1234567>",  # as `sources.cell_name` calls what came from /tmp/ipykernel_4711/1234567.py
    "source": "class Model:\n    def predict(self, frame):\n        return frame['a'] / self.weights\n",
}
ONE_COLUMN = signature.infer(pd.DataFrame({"a": [1.0, 2.0]})).as_json()


def from_cell(**attributes: Any) -> Any:
    """An object of the class that the cell defines."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(CELL["source"], CELL["filename"], "exec"), namespace)
    model = namespace["Model"]()
    vars(model).update(attributes)
    return model


CANNOT_START = {
    "a missing package": ("import os\nimport a_package_nobody_has\n", "missing package", "a_package_nobody_has", 2, "pip install a_package_nobody_has"),
    "a wrong path": ("def init():\n    open('/no/such/weights.bin')\ndef run(raw):\n    pass\n", "wrong path", "/no/such/weights.bin", 2, "AZUREML_MODEL_DIR"),
    "an exception": ("def init():\n\n    raise ValueError('bad')\ndef run(raw):\n    pass\n", "exception while loading", "ValueError: bad", 3, "mlops"),
    "a call of exit": ("import sys\nsys.exit('no licence')\n", "exception while loading", "SystemExit: no licence", 2, "mlops"),
    "a syntax error": ("x = 1\ndef run(raw)\n    pass\n", "exception while loading", "SyntaxError", 2, "mlops"),
    "no run function": ("def init():\n    pass\n", "exception while loading", "no function run(raw_data)", None, "def run(raw_data)"),
}  # fmt: skip


@pytest.mark.parametrize("fault", CANNOT_START)
def test_an_entry_script_that_cannot_start_says_why_and_where(start: Start, script: Callable[[str], Path], fault: str):
    source, kind, message, line, hint = CANNOT_START[fault]
    folder = script(source)

    told = start(folder, engine="script", flavor="script").failure()

    assert (told.kind, told.where) == (kind, f"{folder / 'entry' / 'score.py'}:{line}" if line else "")
    assert message in told.message
    assert hint in told.hint


def test_a_missing_package_of_a_pickled_model_is_named(start: Start, pickled: Callable[[Any], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "gone_tomorrow.py").write_text("class Model:\n    def predict(self, x):\n        return x\n")
    monkeypatch.syspath_prepend(tmp_path)
    from gone_tomorrow import Model  # type: ignore[import-not-found]

    told = start(pickled(Model()), signature=None).failure()

    assert (told.kind, told.message) == ("missing package", "ModuleNotFoundError: No module named 'gone_tomorrow'")


def test_a_file_that_is_no_onnx_model_is_told(start: Start, tmp_path: Path):
    (tmp_path / "model.onnx").write_bytes(b"not a model")

    told = start(tmp_path, engine="onnxruntime", flavor="onnx").failure()

    assert told.kind == "exception while loading"
    assert "model.onnx" in told.message


def test_a_folder_without_its_model_is_a_wrong_path(start: Start, tmp_path: Path):
    told = start(tmp_path, engine="onnxruntime", flavor="onnx").failure()

    assert told.kind == "wrong path"


def test_an_object_without_predict_is_told(start: Start, pickled: Callable[[Any], Path]):
    told = start(pickled({"not": "a model"}), signature=None).failure()

    assert "dict" in told.message and "predict" in told.message


def test_a_pickle_that_nobody_vouched_for_is_not_opened(start: Start, pickled: Callable[[Any], Path], tmp_path: Path):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "opened",))

    told = start(pickled(Trap()), trusted=False).failure()

    assert "TrustNeeded" in told.message
    assert not (tmp_path / "opened").exists()


def test_hardware_that_is_not_here_is_told(start: Start, late_onnx: Path, flights_signature: dict[str, Any]):
    told = start(late_onnx, engine="onnxruntime", signature=flights_signature, hardware="npu").failure()

    assert "'npu'" in told.message and "cpu" in told.message


def test_a_taken_port_is_told(start: Start, script: Callable[[str], Path]):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]

        told = start(script("def run(raw):\n    return 1\n"), engine="script", flavor="script", port=port).failure()

    assert told.kind == "port taken"
    assert str(port) in told.message


def test_a_port_shared_by_another_scoring_server_is_taken_too(start: Start, script: Callable[[str], Path]):
    folder, port = script("def run(raw):\n    return 1\n"), free_port()
    start(folder, engine="script", flavor="script", port=port).until_ready()

    assert start(folder, engine="script", flavor="script", port=port).failure().kind == "port taken"


def test_memory_beyond_the_limit_while_loading_is_told(start: Start, script: Callable[[str], Path]):
    folder = script("import numpy as np\ndef init():\n    global big\n    big = np.ones(250_000_000)\ndef run(raw):\n    pass\n")

    told = start(folder, engine="script", flavor="script", memory_mb=600).failure()

    assert told.kind == "out of memory"
    assert told.where == f"{folder / 'entry' / 'score.py'}:4"
    assert "--memory 1200m" in told.hint


def test_a_limit_below_what_the_server_takes_is_told(start: Start, script: Callable[[str], Path]):
    told = start(script("def run(raw):\n    pass\n"), engine="script", flavor="script", memory_mb=10).failure()

    assert told.kind == "out of memory"


def test_memory_beyond_the_limit_in_a_request_is_answered_and_told(start: Start, script: Callable[[str], Path]):
    folder = script("import numpy as np\ndef run(raw):\n    return float(np.ones(int(raw)).sum())\n")
    server = start(folder, engine="script", flavor="script", memory_mb=600).until_ready()

    answers = [server.score(250_000_000).status_code, server.score(10).json()]

    assert answers == [500, 10.0]
    assert server.request_error().kind == "out of memory"


def test_a_model_that_fails_on_its_own_sample_does_not_start(start: Start, pickled: Callable[[Any], Path]):
    told = start(pickled(from_cell()), flavor="python", signature=ONE_COLUMN, cells=[CELL]).failure()

    assert (told.kind, told.where) == ("exception in a request", "cell [12], line 3")
    assert told.message.startswith("AttributeError: 'Model' object has no attribute 'weights'")


def test_an_exception_in_a_request_is_answered_with_its_type_and_text(start: Start, script: Callable[[str], Path]):
    server = start(script("def run(raw):\n    return {'a': 1}['b']\n"), engine="script", flavor="script").until_ready()

    answer = server.score({})

    assert answer.status_code == 500
    assert "KeyError: 'b'" in answer.json()["error"]


def test_an_exception_in_a_request_is_left_for_the_owner_with_the_cell_and_its_source(start: Start, pickled: Callable[[Any], Path]):
    server = start(pickled(from_cell(weights="heavy")), flavor="python", signature=None, cells=[CELL]).until_ready()

    server.score([{"a": 1.0}])

    told = server.request_error()
    assert (told.kind, told.where) == ("exception in a request", "cell [12], line 3")
    assert "return frame['a'] / self.weights" in told.traceback


def test_a_model_that_calls_exit_in_a_request_does_not_take_the_server_along(start: Start, script: Callable[[str], Path]):
    server = start(script("def run(raw):\n    raise SystemExit(3)\n"), engine="script", flavor="script").until_ready()

    answer = server.score({})

    assert "called exit(3)" in answer.json()["error"]
    assert server.client.get("/v2/health/ready").status_code == 200


def test_a_crash_leaves_its_traceback_in_the_log(start: Start, script: Callable[[str], Path]):
    server = start(script("import ctypes\ndef init():\n    ctypes.string_at(0)\ndef run(raw):\n    pass\n"), engine="script", flavor="script")

    wait_for(lambda: server.process.poll() is not None, "the crash")

    assert "score.py" in (server.folder / "log").read_text()
