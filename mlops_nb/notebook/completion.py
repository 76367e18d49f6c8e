"""Tab after `%mlops`: commands, options, models, versions, aliases, endpoints, deployments, data sets and live objects."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from IPython.core.completer import CompletionContext, SimpleCompletion, SimpleMatcherResult, context_matcher

from . import lines

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

_OURS = re.compile(r"^\s*(?:[\w.,\s\[\]'\"]+=\s*)?%mlops\s+(.*)$", re.DOTALL)


def load(shell: InteractiveShell) -> None:
    """Complete `%mlops` lines in *shell*."""
    unload(shell)

    @context_matcher(identifier="mlops", priority=100)
    def complete(context: CompletionContext) -> SimpleMatcherResult:
        return _matches(context, shell)

    shell.Completer.custom_matchers.append(complete)


def unload(shell: InteractiveShell) -> None:
    """Complete them no longer."""
    shell.Completer.custom_matchers[:] = [m for m in shell.Completer.custom_matchers if getattr(m, "matcher_identifier", "") != "mlops"]


def _matches(context: CompletionContext, shell: InteractiveShell) -> SimpleMatcherResult:
    line = _our_part(context)
    asked = lines.fragment_and_words(line) if line is not None else None
    if asked is None or not context.text_until_cursor.endswith(asked[1]):
        return {"completions": [], "suppress": False}
    words, fragment = asked
    found = _offers(words, fragment, shell) or ([SimpleCompletion(text=fragment)] if fragment else [])  # itself, or Python's names would fill in
    return {"completions": found, "matched_fragment": fragment, "ordered": True, "suppress": bool(found)}


def _our_part(context: CompletionContext) -> str | None:
    """What stands between `%mlops` and the cursor; in a `%%mlops` cell, the line so far."""
    found = _OURS.match(context.text_until_cursor)
    if found:
        return found[1]
    in_our_cell = context.cursor_line > 0 and context.full_text.split("\n", 1)[0].strip() == "%%mlops"
    return context.text_until_cursor if in_our_cell else None


def _offers(words: list[str], fragment: str, shell: InteractiveShell) -> list[SimpleCompletion]:
    from .. import commands, grammar
    from .magics import Notebook

    items = grammar.completions(commands.mlops, words, fragment, Notebook(shell))
    takes_paths = any(item.type in ("file", "dir") for item in items)
    named = [SimpleCompletion(text=item.value, type=item.help if item.help == "variable" else "mlops") for item in items if item.type == "plain"]
    return named + ([*_attributes(fragment, shell), *(_path(path) for path in _paths(fragment))] if takes_paths else [])


def _attributes(fragment: str, shell: InteractiveShell) -> list[SimpleCompletion]:
    """`X.head` for `X.he`, as Python's own completion has it."""
    if not re.fullmatch(r"[A-Za-z_]\w*(\.\w*)+", fragment) or fragment.split(".")[0] not in shell.user_ns:
        return []
    return [SimpleCompletion(text=text, type="attribute") for text in shell.Completer.attr_matches(fragment) if not text.rpartition(".")[2].startswith("_")]


def _paths(fragment: str) -> list[str]:
    """Paths that begin so; none before anything is typed, for every file of the folder would bury the names."""
    if not fragment:
        return []
    begun = Path(fragment).expanduser()
    folder, start = (begun, "") if fragment.endswith("/") else (begun.parent, begun.name)
    if not folder.is_dir():
        return []
    said = fragment[: len(fragment) - len(start)]
    return sorted(
        f"{said}{path.name}{'/' if path.is_dir() else ''}" for path in folder.iterdir() if path.name.startswith(start) and (start or path.name[0] != ".")
    )


def _path(path: str) -> Any:
    return SimpleCompletion(text=path, type="path")
