"""What was executed before something was registered: cells, notebook, repository, author, machine — without its secrets."""

from __future__ import annotations

import getpass
import os
import platform
import re
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from .safety import names_a_secret
from .sources import cell_name
from .store.runs import Cell, GitState, Run

HIDDEN = "•••"
MOST_DIFF_BYTES = 100_000
GIT_TIMEOUT_SECONDS = 2.0

_SECRET_NAME = (
    r"(?:pass(?:word|wd|phrase)?|pwd|secret|token|api[_-]?key|access[_-]?key|account[_-]?key|private[_-]?key|credential|connection[_-]?string)(?:s|[_\d]\w*)?\b"
)
_LITERAL = r"""(?:\"{3}.*?\"{3}|'{3}.*?'{3}|"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')"""
_ASSIGNED = re.compile(
    rf"""([\w.-]*{_SECRET_NAME}["'\]]*\s*(?::\s*[\w.\[\]| ]+\s*=|=|:|,)\s*[rbfu]{{0,2}})({_LITERAL})""",
    re.DOTALL | re.IGNORECASE,
)
_BARE = re.compile(rf"(?im)^(\s*(?:%env|%set_env|!\s*export|export)\s+\w*{_SECRET_NAME}[= ]\s*)(\S+)")
_TELLTALE = re.compile(
    r"\b(?:gh[pousr]_\w{20,}|github_pat_\w{20,}|sk-[\w-]{20,}|xox[abprs]-[\w-]{10,}|AKIA[0-9A-Z]{16}|hf_\w{20,}|AIza[\w-]{30,}|eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]+)"
    r"|(?<=://)[^/\s:@'\"]+:[^/\s@'\"]+(?=@)"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----.*?-----END [A-Z ]*PRIVATE KEY-----",
    re.DOTALL,
)


def capture() -> Run:
    """The run that is going on: in a notebook the cells executed so far, in a script its source.  Nothing is stored."""
    shell = _shell()
    notebook = _notebook(shell.user_ns) if shell else None
    git = _asked_git(notebook.parent if notebook else Path.cwd())
    return Run(
        id=uuid.uuid4().hex,
        kind="notebook" if shell else "script" if _script() else "cli",
        notebook=str(notebook) if notebook else None,
        cells=list(_cells(shell) if shell else _script_cells()),
        git=git,
        author=_author(),
        host=platform.node(),
        python=platform.python_version(),
        started_at=datetime.fromtimestamp(psutil.Process().create_time(), UTC),
    )


def cells() -> dict[str, int | None]:
    """The notebook's cells executed so far: the name that code from it gives the cell (`sources.cell_name`) → its number; none outside a notebook."""
    shell = _shell()
    return {cell.filename: cell.number for cell in _cells(shell) if cell.filename} if shell else {}


def without_secrets(text: str, variables: Mapping[str, str] | None = None) -> str:
    """*text* with `•••` in place of what looks like a secret: literals given to names such as `token`, well-known forms of keys,
    and the values of environment variables (8 characters and more) called KEY, TOKEN, SECRET or PASSWORD.  Lines keep their numbers."""
    text = _ASSIGNED.sub(lambda found: found[1] + _hidden_literal(found[2]), text)
    text = _BARE.sub(lambda found: found[1] + HIDDEN, text)
    text = _TELLTALE.sub(lambda found: _hidden(found[0]), text)
    for name, value in (os.environ if variables is None else variables).items():
        if len(value) >= 8 and names_a_secret(name) and value in text:
            text = text.replace(value, _hidden(value))
    return text


def _hidden_literal(literal: str) -> str:
    quote = literal[:3] if literal[:3] in ('"""', "'''") else literal[0]
    return f"{quote}{_hidden(literal)}{quote}" if literal.strip(quote) else literal


def _hidden(secret: str) -> str:
    return HIDDEN + "\n" * secret.count("\n")


# ── cells ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _shell() -> Any:
    """The live IPython shell, or None outside of one."""
    ipython = sys.modules.get("IPython")
    return ipython.get_ipython() if ipython else None


def _cells(shell: Any) -> Iterator[Cell]:
    """The cells in the order they were executed, the one that is running included, under the names tracebacks give them."""
    # what the compiler noted: the history drops a last line end, so that a name made again from it can differ
    named = {number: filename for filename, number in getattr(shell.compile, "_filename_map", {}).items()}
    for number, source in enumerate(shell.history_manager.input_hist_raw):
        if number and source:
            yield Cell(number=number, source=without_secrets(source), filename=cell_name(named.get(number, "")))


def _script_cells() -> Iterator[Cell]:
    """A script's source as its only cell."""
    if script := _script():
        yield Cell(number=1, source=without_secrets(script.read_text(encoding="utf-8", errors="replace")), filename=str(script))


def _script() -> Path | None:
    """The user's script that runs here; None for this package's own command."""
    main = getattr(sys.modules.get("__main__"), "__file__", None)
    if not main or not Path(main).is_file():
        return None
    path = Path(main).resolve()
    ours = path.is_relative_to(Path(__file__).resolve().parent) or path.stem in ("mlops", "mlops-script")
    return None if ours else path


def _notebook(names: Mapping[str, Any]) -> Path | None:
    """The notebook's file: VS Code and papermill name it in the namespace, a Jupyter server in the environment; else unknown."""
    told = names.get("__vsc_ipynb_file__") or names.get("PAPERMILL_INPUT_PATH") or names.get("__session__") or os.environ.get("JPY_SESSION_NAME")
    if not isinstance(told, str) or not told.endswith(".ipynb"):
        return None
    # A server tells its own path; the kernel stands in the notebook's folder.
    path = next((path for path in (Path(told), Path.cwd() / Path(told).name) if path.is_file()), None)
    return path.resolve() if path else None


def _author() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return str(os.getuid())


# ── git ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _asked_git(folder: Path) -> GitState | None:
    """The repository around *folder*, asked with one process when it is clean and two when it is not; None without one."""
    said = _git(folder, "status", "--porcelain=v2", "--branch", "--untracked-files=no", "--ignore-submodules=all")
    if said is None:
        return None
    lines = said.splitlines()
    heads = dict(line[2:].split(" ", 1) for line in lines if line.startswith("# branch.") and " " in line[2:])
    commit, branch = heads.get("branch.oid", ""), heads.get("branch.head", "")
    dirty = any(not line.startswith("#") for line in lines)
    known = commit != "(initial)"
    return GitState(
        commit=commit if known else "", branch="" if branch == "(detached)" else branch, dirty=dirty, diff=_diff(folder) if dirty and known else ""
    )  # fmt: skip


def _diff(folder: Path) -> str:
    """Uncommitted changes of Python files and notebooks, masked, then cut."""
    said = _git(folder, "diff", "HEAD", "--no-ext-diff", "--no-textconv", "--no-color", "--", ":/*.py", ":/*.ipynb") or ""
    return without_secrets(said).encode()[:MOST_DIFF_BYTES].decode(errors="ignore")


def _git(folder: Path, *words: str) -> str | None:
    """What git says, or None where there is no git, no repository, or no answer in time.  It runs none of the repository's own programs."""
    command = ["git", "-C", str(folder), "--no-optional-locks", "-c", "core.fsmonitor=false", "-c", "core.quotePath=false", *words]
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=GIT_TIMEOUT_SECONDS, check=False, stdin=subprocess.DEVNULL, env={**os.environ, "GIT_TERMINAL_PROMPT": "0"}
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode(errors="replace") if done.returncode == 0 else None
