"""A deployment that fails says why: the user's own exception, its file and line or its cell, and the log; the others keep serving."""

from __future__ import annotations

import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil
import pytest
from living import X, churn_model, deployment, wait_for

from mlops_nb import cards, errors, overview, registry, rollout
from mlops_nb.settings import Workspace
from mlops_nb.store.deployments import DeploymentSpec

WHOLE = 'import json\n\ndef init():\n    pass\n\ndef run(raw_data):\n    return {"n": len(json.loads(raw_data))}\n'


@pytest.fixture
def script(tmp_path: Path):
    """Registers an entry script as the next version of `scripted`."""

    def register(source: str, **files: str) -> str:
        folder = tmp_path / "made"
        folder.mkdir(exist_ok=True)
        for name, text in files.items():
            (folder / name).write_text(text)
        (folder / "score.py").write_text(textwrap.dedent(source))
        return registry.register(folder, name="scripted", entry=folder / "score.py").version.ref

    return register


def failure_of(ref: str, **how: object) -> errors.DeploymentFailed:
    with pytest.raises(errors.DeploymentFailed) as caught:
        rollout.deploy(ref, **how)
    return caught.value


def test_a_missing_package_is_named(live_workspace: Workspace, script, tmp_path: Path) -> None:
    ref = script("def init():\n    import importlib\n    importlib.import_module('surely_not_installed')\n\ndef run(raw_data):\n    return 1\n")

    error = failure_of(ref)

    assert "ModuleNotFoundError: No module named 'surely_not_installed'" in str(error)
    assert "score.py:3" in str(error)
    assert deployment("scripted/1").reason.kind == "missing package"


def test_a_wrong_path_is_named(live_workspace: Workspace, script) -> None:
    ref = script("def init():\n    open('weights.bin')\n\ndef run(raw_data):\n    return 1\n")

    error = failure_of(ref)

    assert "FileNotFoundError" in str(error) and "weights.bin" in str(error) and "score.py:2" in str(error)


def test_an_exception_while_loading_is_shown_with_its_line(live_workspace: Workspace, script) -> None:
    ref = script("LIMITS = {}\n\ndef init():\n    helper()\n\ndef helper():\n    LIMITS['top']\n\ndef run(raw_data):\n    return 1\n")

    error = failure_of(ref)

    assert "KeyError: 'top'" in str(error) and "score.py:7" in str(error)
    assert "helper()" in error.detail


def test_an_exception_in_a_request_is_answered_and_kept(live_workspace: Workspace, script) -> None:
    ref = script("def init():\n    pass\n\ndef run(raw_data):\n    return 1 / 0\n")
    rollout.deploy(ref)

    with pytest.raises(errors.InvocationFailed, match="ZeroDivisionError") as refused:
        rollout.invoke("scripted", "[]")
    assert refused.value.hint == "%mlops logs scripted/1"

    reason = wait_for(lambda: deployment("scripted/1").reason, what="the reason")
    assert reason.message.startswith("ZeroDivisionError") and reason.where.endswith("score.py:5")


def test_a_taken_port_is_told(live_workspace: Workspace, script) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        error = failure_of(script(WHOLE), spec=DeploymentSpec(port=port))

    assert f"Port {port} is taken" in str(error)
    assert deployment("scripted/1").reason.kind == "port taken"


def test_exhausted_memory_is_told(live_workspace: Workspace, script) -> None:
    ref = script("def init():\n    global held\n    held = bytearray(3_000_000_000)\n\ndef run(raw_data):\n    return 1\n")

    error = failure_of(ref, spec=DeploymentSpec(memory_mb=300))

    assert deployment("scripted/1").reason.kind == "out of memory"
    assert "MemoryError" in str(error) and "score.py:3" in str(error)


MOODY_CELLS = [
    "import pandas as pd\nfrom mlops_nb import registry, rollout, errors",
    """class Moody:
    def predict(self, X):
        return X["age"]

    def __setstate__(self, state):
        raise RuntimeError("not today")

    def __getstate__(self):
        return {"a": 1}
""",
    "registry.register(Moody(), name='moody', sample=pd.DataFrame({'age': [1, 2]}))",
    """try:
    rollout.deploy("moody:1")
except errors.DeploymentFailed as error:
    print(error)
else:
    raise SystemExit("it started")
""",
]


def test_an_exception_in_cell_code_names_the_cell(live_workspace: Workspace, tmp_path: Path) -> None:
    """The class is defined in a kernel's cell, so the traceback names that cell, and shows its line."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in MOODY_CELLS])
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()

    said = "".join(output.get("text", "") for output in notebook.cells[-1].outputs)
    assert "RuntimeError: not today" in said
    assert "cell [2], line 6" in said


def test_a_model_that_fails_when_it_is_registered_names_the_cell(live_workspace: Workspace, tmp_path: Path) -> None:
    import nbformat
    from nbclient import NotebookClient

    cells = [
        "%load_ext mlops_nb\nimport pandas as pd",
        "class Moody:\n    def predict(self, X):\n        return X['not there']",
        "%mlops register Moody() --name moody --sample pd.DataFrame({'x':[1,2]})",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(notebook, timeout=120, allow_errors=True, resources={"metadata": {"path": str(tmp_path)}}).execute()

    said = "".join(output["evalue"] for output in notebook.cells[-1].outputs if output.output_type == "error")
    assert "KeyError: 'not there' (cell [2], line 3)" in said


def test_what_was_never_asked_is_called_untried_until_it_was(live_workspace: Workspace, script) -> None:
    assert rollout.deploy(script(WHOLE)).untried
    assert "healthy, untried" in cards.as_text(rollout.endpoints("scripted")[0])
    assert in_the_panel()["untried"] and in_the_panel()["status"] == "healthy"

    rollout.invoke("scripted", {"x": [1]})
    wait_for(lambda: not rollout.endpoints("scripted")[0].deployments[0].untried)
    assert "untried" not in cards.as_text(rollout.endpoints("scripted")[0])
    assert not in_the_panel()["untried"]


def in_the_panel() -> dict:
    """The only deployment, as JupyterLab's panel is told of it."""
    return overview.summary()["endpoints"][0]["deployments"][0]


def test_one_that_hangs_tells_what_its_health_check_came_to(live_workspace: Workspace) -> None:
    churn_model()
    rollout.deploy("churn:1")
    process = psutil.Process(deployment("churn/1").handle["pid"])

    process.suspend()
    try:
        wait_for(lambda: deployment("churn/1").status == "unhealthy", what="the agent to see that it hangs")
        assert deployment("churn/1").reason.message == "It does not answer its health check: nothing came in time."
    finally:
        process.resume()


def test_one_that_never_comes_up_tells_what_its_health_check_came_to(live_workspace: Workspace, script) -> None:
    ref = script("import time\n\ndef init():\n    time.sleep(600)\n\ndef run(raw_data):\n    return 1\n")
    (live_workspace.root / "config.toml").write_text("start_timeout_seconds = 3\n")

    error = failure_of(ref)

    assert "It did not answer its health check within 3 s: Connection refused." in str(error)


def test_an_agent_that_fails_at_every_step_is_quoted_while_one_waits(live_workspace: Workspace) -> None:
    churn_model()
    rollout.deploy("churn:1", name="well")
    impossible = DeploymentSpec(variables={"GREETING": "no variable may hold a \0"})

    error = failure_of("churn:1", name="ill", spec=impossible)

    assert "the agent, which would start it, fails: ValueError('embedded null byte')" in str(error)
    assert "agent.step_failed" in error.detail or "ValueError: embedded null byte" in error.detail
    assert rollout.deploy("churn:1", name="third").status == "healthy"  # what ails one deployment is no reason to give up another


def test_a_version_that_cannot_start_leaves_the_old_one_serving(live_workspace: Workspace, script) -> None:
    churn_model()
    rollout.deploy("churn:1", endpoint="shared")
    before = rollout.invoke("shared", X.head()).outputs

    failure_of(script("def init():\n    raise RuntimeError('no')\n\ndef run(raw_data):\n    return 1\n"), endpoint="shared", name="bad", traffic=50)

    view = rollout.endpoints("shared")[0]
    assert {d.name: d.traffic for d in view.deployments} == {"1": 100, "bad": 0}
    assert rollout.invoke("shared", X.head()).outputs == before


def test_the_command_line_shows_the_same(live_workspace: Workspace, script) -> None:
    ref = script("def init():\n    open('weights.bin')\n\ndef run(raw_data):\n    return 1\n")

    done = subprocess.run([sys.executable, "-m", "mlops_nb", "deploy", ref], capture_output=True, text=True, timeout=60)

    assert done.returncode == 1
    assert "FileNotFoundError" in done.stderr and "score.py:2" in done.stderr
    logs = subprocess.run([sys.executable, "-m", "mlops_nb", "logs", "scripted/1"], capture_output=True, text=True, timeout=60)
    assert "FileNotFoundError" in logs.stdout
