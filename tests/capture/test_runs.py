"""A run tells what was executed, exactly, and keeps no secret."""

from __future__ import annotations

import subprocess
import sys

import nbclient
import nbformat
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_nb import runs

TAKE = "import msgspec; from mlops_nb import runs; run = msgspec.to_builtins(runs.capture())"


def git(folder, *words):
    identity = ["-c", "user.name=Ada", "-c", "user.email=ada@example.org", "-c", "init.defaultBranch=trunk"]
    return subprocess.run(["git", *identity, *words], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


def test_the_cells_are_those_executed_in_their_order_with_their_exact_source(kernel):
    kernel.run("a = 1  # first")
    kernel.run("%time b = a\n!true")
    kernel.run(TAKE)

    assert [cell["source"] for cell in kernel.value("run['cells']")] == ["a = 1  # first", "%time b = a\n!true", TAKE]


def test_the_cells_are_called_what_tracebacks_call_them(kernel):
    kernel.run("def f():\n    raise ValueError")
    kernel.run("%time def_ran = True\ndef g():\n    return f()")
    kernel.run(TAKE)
    kernel.run("from mlops_nb import sources")

    assert kernel.value("[sources.cell_name(f.__code__.co_filename) for f in (f, g)] == [cell['filename'] for cell in run['cells'][:2]]")


def test_a_cell_that_failed_is_part_of_the_run(kernel):
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        kernel.run("1 / 0")
    kernel.run(TAKE)

    assert kernel.value("run['cells'][0]['source']") == "1 / 0"


def test_a_jupyter_servers_notebook_is_known(start_kernel, project):
    (project / "work.ipynb").write_text("{}")
    kernel = start_kernel(JPY_SESSION_NAME=str(project / "work.ipynb"))
    kernel.run(TAKE)

    assert kernel.value("run['notebook']") == str(project / "work.ipynb")


@pytest.mark.parametrize("variable", ["__vsc_ipynb_file__", "PAPERMILL_INPUT_PATH"])
def test_a_notebook_named_in_the_namespace_is_known(kernel, project, variable):
    (project / "work.ipynb").write_text("{}")
    kernel.run(f"{variable} = 'work.ipynb'")
    kernel.run(TAKE)

    assert kernel.value("run['notebook']") == str(project / "work.ipynb")


def test_a_notebook_nobody_names_is_unknown(kernel):
    kernel.run(TAKE)

    assert kernel.value("run['notebook']") is None


def test_a_notebook_run_without_a_screen_is_captured_too(workspace, project):
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(text) for text in ("x = 2", TAKE, "print([c['source'] for c in run['cells']][0], run['kind'])")]
    )
    nbclient.NotebookClient(notebook, timeout=60, resources={"metadata": {"path": str(project)}}).execute()

    assert notebook.cells[-1].outputs[0].text == "x = 2 notebook\n"


def test_a_script_is_its_only_cell(write, project):
    script = write("train.py", "from mlops_nb import runs\nrun = runs.capture()\nprint(run.kind, run.cells[0].filename, run.cells[0].source.count('\\n'))\n")
    done = subprocess.run([sys.executable, script], cwd=project, capture_output=True, text=True, check=True)

    assert done.stdout == f"script {script} 3\n"


def test_a_clean_repository_tells_commit_and_branch(project, write, monkeypatch):
    write("a.py", "1\n")
    git(project, "init")
    git(project, "add", ".")
    git(project, "commit", "-m", "first")
    monkeypatch.chdir(project)

    found = runs.capture().git

    assert (found.commit, found.branch, found.dirty, found.diff) == (git(project, "rev-parse", "HEAD"), "trunk", False, "")


@pytest.fixture
def changed_repository(project, write, monkeypatch):
    """A repository with one Python file changed since its commit."""
    write("a.py", "1\n")
    write("notes.txt", "1\n")
    git(project, "init")
    git(project, "add", ".")
    git(project, "commit", "-m", "first")
    monkeypatch.chdir(project)
    return project


def test_uncommitted_changes_of_python_files_are_kept_from_wherever_one_stands(changed_repository, write, monkeypatch):
    write("a.py", "2\n")
    write("notes.txt", "2\n")
    write("deep/x.txt", "")
    monkeypatch.chdir(changed_repository / "deep")

    found = runs.capture().git

    assert (found.dirty, "+2" in found.diff, "notes.txt" in found.diff) == (True, True, False)


def test_a_secret_in_a_change_is_masked(changed_repository, write):
    write("a.py", "api_key = 'sesame-opens'\n")

    assert "sesame" not in runs.capture().git.diff


def test_a_large_change_is_cut(changed_repository, write):
    write("a.py", "ä = 1\n" * 40_000)

    assert len(runs.capture().git.diff.encode()) <= runs.MOST_DIFF_BYTES


def test_a_repository_runs_none_of_its_own_programs(changed_repository, write, tmp_path):
    write("a.py", "2\n")
    for setting in ("core.fsmonitor", "diff.external", "core.pager"):
        git(changed_repository, "config", setting, f"touch {tmp_path / 'ran'};")

    runs.capture()

    assert not (tmp_path / "ran").exists()


def test_a_repository_without_a_commit_has_none(project, monkeypatch):
    git(project, "init")
    monkeypatch.chdir(project)

    assert runs.capture().git.commit == ""


def test_no_repository_is_none(project, monkeypatch):
    monkeypatch.chdir(project)

    assert runs.capture().git is None


def test_no_git_is_none(changed_repository, monkeypatch):
    monkeypatch.setenv("PATH", "")

    assert runs.capture().git is None


def test_a_secret_variable_printed_in_a_cell_is_not_kept(start_kernel):
    kernel = start_kernel(SERVICE_TOKEN="canary-value-123")
    kernel.run("url = 'https://x/?t=canary-value-123'")
    kernel.run(TAKE)

    assert kernel.value("run['cells'][0]['source']") == "url = 'https://x/?t=•••'"


@pytest.mark.parametrize(
    "written",
    [
        "token = 'SECRET'", 'password="SECRET"', "connect(api_key='SECRET')", "conf = {'access_key': 'SECRET'}", "os.environ['DB_PASSWORD'] = 'SECRET'",
        "MY_SECRET: str = 'SECRET'", "%env API_TOKEN=SECRET", "!export AWS_SECRET=SECRET", "os.environ.setdefault('A_TOKEN', 'SECRET')",
        "password = f'''SECRET'''", 'token = "SE\\"SECRET"', "'postgres://me:SECRET@host/db'", "PASSWD='SECRET'", "client_secret = r'SECRET'",
    ],
)  # fmt: skip
def test_what_looks_like_a_secret_is_masked(written):
    masked = runs.without_secrets(written, {})

    assert "SECRET" not in masked.removeprefix("MY_SECRET").replace("AWS_SECRET", "")
    assert runs.HIDDEN in masked


@pytest.mark.parametrize(
    "written", ["tokenizer = 'bert'", "max_tokens = 5", "token = read()", "password = ''", "keys = ['a']", "monkey = 'x'", "passed = 'yes'"]
)
def test_what_only_resembles_a_secret_stays(written):
    assert runs.without_secrets(written, {}) == written


def test_a_short_value_of_a_secret_variable_is_left_alone():
    assert runs.without_secrets("x = 'abc'", {"TOKEN": "abc"}) == "x = 'abc'"


@given(st.text())
def test_masking_keeps_every_line_where_it_was(text):
    assert runs.without_secrets(text, {"TOKEN": "12345678"}).count("\n") == text.count("\n")


def test_a_secret_over_several_lines_keeps_the_lines():
    assert runs.without_secrets('token = """a\nb\nc"""\nx = 1', {}).splitlines()[3] == "x = 1"
