"""What the user's code says, read from the cells and files it came in; nothing of it runs."""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from .. import sources
from ..serving.observed import Seen
from ..serving.spec import Cell

_OVER_ROWS = frozenset("mean std var sum min max median quantile rank cumsum cummax cumprod shift diff describe normalize argsort sort_values groupby".split())  # noqa: SIM905
_GROWING = frozenset({"append", "add", "update", "extend", "pop", "popleft", "appendleft", "setdefault", "clear"})
_CHANCE = re.compile(r"\brandom\b|\brng\b|shuffle|choice|permut|normal|uniform|randint")

Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda


class Found(NamedTuple):
    """A place in the user's code."""

    where: str
    """`cell [12], line 3`, or a file and a line."""
    name: str
    """What stands there."""


class Rebound(NamedTuple):
    """A name that one cell gave a meaning, and a later one another."""

    name: str
    first: Cell
    last: Cell
    line: int


class Code:
    """The cells that were executed, and of other files those that can be read."""

    def __init__(self, cells: Sequence[Cell]) -> None:
        self.cells = [msgspec.structs.replace(cell, source=text) for cell in cells if (text := _python(cell.source)) is not None]
        self._by_file = {cell.filename: cell for cell in self.cells if cell.filename}

    def where(self, file: str, line: int) -> str:
        """A line in words."""
        cell = self._by_file.get(file)
        return f"cell [{cell.number if cell.number is not None else ' '}], line {line}" if cell else f"{file}:{line}"

    def functions(self, ran: Iterable[Seen]) -> Iterator[tuple[str, Function]]:
        """The functions that were seen to run, each with its file."""
        for seen in ran:
            tree = _tree(self._source(seen.file))
            for node in ast.walk(tree):
                first = min([node.lineno, *(d.lineno for d in node.decorator_list)]) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else 0
                if first == seen.line:
                    yield seen.file, node  # type: ignore[misc]

    def changing_state(self, ran: Iterable[Seen]) -> Found | None:
        """The line where a function that answers keeps something for the next request."""
        for file, function in self.functions(ran):
            globals_ = {name for node in ast.walk(function) if isinstance(node, ast.Global | ast.Nonlocal) for name in node.names}
            for node in ast.walk(function):
                for target in [*_targets(node), *_grown(node)]:
                    if (kept := _kept(target, globals_)) and _name(function) != "__init__":
                        return Found(self.where(file, node.lineno), kept)  # type: ignore[attr-defined]
        return None

    def over_rows(self, ran: Iterable[Seen]) -> Found | None:
        """The line where a function that answers computes something over all rows of a request."""
        for file, function in self.functions(ran):
            for node in ast.walk(function):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _OVER_ROWS:
                    return Found(self.where(file, node.lineno), f"{node.func.attr}()")
        return None

    def rebound(self, ran: Sequence[Seen]) -> Rebound | None:
        """A name that functions which answer use, or are defined under, and that a later cell gave another meaning."""
        used = {name for _, function in self.functions(ran) for name in _used(function)}
        used |= {seen.name.partition(".")[0] for seen in ran}
        for name in sorted(used):
            binding = [cell for cell in self.cells if name in sources.names_in(cell.source)]
            others = [cell for cell in binding if _meaning(cell.source, name) != _meaning(binding[-1].source, name)]
            if others:
                return Rebound(name, others[-1], binding[-1], _line_of(binding[-1].source, name))
        return None

    def patched(self) -> Found | None:
        """A line that changes an imported module in the notebook's own process."""
        modules = {name for cell in self.cells for name in _modules(cell.source)}
        for cell in reversed(self.cells):
            for node in _at_top(cell.source):
                for target in _targets(node):
                    if isinstance(target, ast.Attribute) and ast.unparse(target).partition(".")[0] in modules:
                        return Found(self.where(cell.filename, node.lineno), ast.unparse(target))  # type: ignore[attr-defined]
        return None

    def drawing(self, ran: Iterable[Seen]) -> Found | None:
        """The line of a function that answers where its words speak of random numbers."""
        for file, function in self.functions(ran):
            lines = self._source(file).splitlines()
            for line in range(function.lineno, (function.end_lineno or function.lineno) + 1):
                if _CHANCE.search(lines[line - 1]):
                    return Found(self.where(file, line), lines[line - 1].strip()[:60])
        return None

    def _source(self, file: str) -> str:
        if cell := self._by_file.get(file):
            return cell.source
        try:
            return Path(file).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""


def _python(source: str) -> str | None:
    """A cell without its magic lines, on the same lines; None for what is no Python all the same."""
    kept = "\n".join("" if line.lstrip().startswith(("%", "!")) else line for line in source.splitlines())
    for text in (source, kept):
        try:
            ast.parse(text)
        except SyntaxError:
            continue
        return text
    return None


def _tree(source: str) -> ast.Module:
    text = _python(source)
    return ast.parse(text) if text else ast.Module([], [])


def _at_top(source: str) -> Iterator[ast.AST]:
    """Statements that run with the cell, those in its branches and loops too."""
    waiting: list[ast.AST] = list(_tree(source).body)
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            waiting += ast.iter_child_nodes(node)


def _targets(node: ast.AST) -> list[ast.expr]:
    if isinstance(node, ast.Assign):
        return node.targets
    return [node.target] if isinstance(node, ast.AugAssign | ast.AnnAssign) else []


def _grown(node: ast.AST) -> list[ast.expr]:
    """What a call such as `self.seen.append(row)` adds to."""
    grows = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _GROWING
    return [node.func.value] if grows and isinstance(node.func.value, ast.Attribute) else []  # type: ignore[attr-defined]


def _kept(target: ast.expr, globals_: Collection[str]) -> str:
    """What an assignment keeps beyond the function's end; empty when it does not."""
    base = target
    while isinstance(base, ast.Subscript):
        base = base.value
    if isinstance(base, ast.Attribute):
        return ast.unparse(base)
    return base.id if isinstance(base, ast.Name) and base.id in globals_ else ""


def _name(function: Function) -> str:
    return "" if isinstance(function, ast.Lambda) else function.name


def _used(function: Function) -> set[str]:
    """Names that a function takes from around it."""
    inside = {node.id for node in ast.walk(function) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    inside |= {argument.arg for argument in ast.walk(function) if isinstance(argument, ast.arg)}
    return {node.id for node in ast.walk(function) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)} - inside


def _modules(source: str) -> set[str]:
    return {(alias.asname or alias.name).partition(".")[0] for node in _at_top(source) if isinstance(node, ast.Import) for alias in node.names}


def _binding(source: str, name: str) -> list[ast.AST]:
    """The statements of a cell that give *name* its meaning."""
    return [
        node
        for node in _at_top(source)
        if (isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and node.name == name)
        or any(isinstance(target, ast.Name) and target.id == name for target in _targets(node))
    ]


def _meaning(source: str, name: str) -> list[str]:
    return [ast.dump(node) for node in _binding(source, name)]


def _line_of(source: str, name: str) -> int:
    return next((node.lineno for node in _binding(source, name)), 1)  # type: ignore[attr-defined]
