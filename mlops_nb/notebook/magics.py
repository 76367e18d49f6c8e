"""`%mlops`: a command line in a cell that knows the notebook's objects, returns what it made and shows it as a card."""

from __future__ import annotations

import ast
import builtins
import contextlib
import contextvars
import html
import threading
import time
from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from IPython.core.magic import needs_local_scope, no_var_expand
from IPython.display import display

from ..errors import BadExpression, FileMissing, UnknownVariable, UsageError
from . import completion, lines

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    from ..progress import Reporter

_TICK_SECONDS = 0.5
_MOST_LOG_LINES = 6


def load(shell: InteractiveShell) -> None:
    """Give *shell* the magic, its completion and the cards."""

    @no_var_expand
    @needs_local_scope
    def mlops(line: str, cell: str | None = None, local_ns: Mapping[str, Any] | None = None) -> Any:
        """Register, deploy, split, watch and explain models: `%mlops --help`."""
        return carry_out(line, cell, Notebook(shell, local_ns))

    shell.magics_manager.register_function(mlops, magic_kind="line_cell", magic_name="mlops")
    shell.ast_transformers[:] = [t for t in shell.ast_transformers if not isinstance(t, ShowEveryLine)] + [ShowEveryLine()]
    completion.load(shell)
    _load_cards(shell)


def unload(shell: InteractiveShell) -> None:
    """Take the magic and its completion away again."""
    shell.magics_manager.magics["line"].pop("mlops", None)
    shell.magics_manager.magics["cell"].pop("mlops", None)
    shell.ast_transformers[:] = [t for t in shell.ast_transformers if not isinstance(t, ShowEveryLine)]
    completion.unload(shell)


def carry_out(line: str, cell: str | None, where: Notebook) -> Any:
    """Carry out the commands of a line, or of a cell's lines, and return what the last one made; the others are shown."""
    if cell is not None and line.strip():
        return _above_a_cell(line, cell, where)
    said = [line] if cell is None else cell.splitlines()
    words = [command for one in said for command in lines.commands(one, where.value)]
    made = None
    for number, command in enumerate(words or [[]]):
        if number:
            show(made)
        made = _answer(command, where)
    return made


def _above_a_cell(line: str, cell: str, where: Notebook) -> Any:
    """Carry out a command that means the cell's lines.  Raises UsageError for one that does not."""
    words = lines.commands(line, where.value)
    if [command[:1] for command in words] != [["entry"]]:
        raise UsageError("This command takes no cell below it.", hint="%mlops COMMAND in one line, or %%mlops alone with one command on each line below")
    where.cell = cell
    return _answer(words[0], where)


def _answer(words: Sequence[str], where: Notebook) -> Any:
    from .. import commands, grammar, shapes

    made = commands.run(words, where)
    return shapes.envelope(made) if grammar.wants_json(words) else made


def show(made: Any) -> None:
    """Show what a command made, as the last line of a cell would be."""
    if made is not None:
        display(made)


class ShowEveryLine(ast.NodeTransformer):
    """A cell shows the value of its last line only; a `%mlops` line further up is to show its card too."""

    def visit_Module(self, node: ast.Module) -> ast.AST:
        """Wrap those lines but the last, which the notebook shows itself."""
        last = node.body[-1] if node.body else None
        for statement in node.body:
            if statement is not last or not isinstance(statement, ast.Expr):
                self.generic_visit(statement)
                if isinstance(statement, ast.Expr):
                    self.visit_Expr(statement)
        return node

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        """Wrap one such line."""
        if _is_our_line(node.value):
            module = ast.parse("__import__('mlops_nb.notebook.magics', fromlist=['show']).show", mode="eval").body
            node.value = ast.fix_missing_locations(ast.copy_location(ast.Call(module, [node.value], []), node))
        return node


def _is_our_line(node: ast.expr) -> bool:
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "run_line_magic"
        and bool(node.args)
        and isinstance(node.args[0], ast.Constant)
        and node.args[0].value == "mlops"
    )


# ── what words mean ──────────────────────────────────────────────────────────────────────────────────────────────────


class Notebook:
    """The face of a notebook: words may mean live objects, progress is one line that changes."""

    prompt = "%mlops"
    cell: str | None = None

    def __init__(self, shell: InteractiveShell, local_ns: Mapping[str, Any] | None = None) -> None:
        self.shell = shell
        self._names: ChainMap[str, Any] = ChainMap(dict(local_ns or {}), shell.user_ns)

    def value(self, expression: str) -> object:
        """What `{expression}` stands for.  Raises UnknownVariable, BadExpression."""
        try:
            return self._evaluated(expression)
        except NameError as error:
            raise UnknownVariable(error.name or expression, known=self.variables()) from None
        except Exception as error:  # whatever the user's own expression raises
            raise BadExpression(f"{{{expression}}}", error) from None

    def meaning(self, word: str, *, known: Callable[[], Sequence[str]] = list) -> object:
        """The live object, else the existing path, else the registered name.  Raises UnknownVariable, BadExpression, FileMissing."""
        if _looks_live(word, self._names):
            try:
                found = self._evaluated(word)
            except NameError as error:
                raise UnknownVariable(error.name or word, known=self.variables()) from None
            except Exception as error:  # whatever the user's own expression raises
                if Path(word).exists():
                    return Path(word)
                raise BadExpression(word, error) from None
            return self._path_or_name(found, known) if isinstance(found, str) else found
        return self._path_or_name(word, known)

    def variables(self) -> list[str]:
        """Names the user has given to things that are not modules or functions, the latest last."""
        hidden = self.shell.user_ns_hidden
        return [name for name, value in self._names.items() if not name.startswith("_") and name not in hidden and not _is_code(value)]

    def _path_or_name(self, word: str, known: Callable[[], Sequence[str]]) -> object:
        path = Path(word).expanduser()
        if path.exists():
            return path
        names = known()
        if word.split(":")[0] in names:
            return word
        if "/" in word or path.suffix in _SUFFIXES:
            raise FileMissing(word)
        raise UnknownVariable(word, known=[*self.variables(), *names])

    def _evaluated(self, expression: str) -> object:
        return eval(expression.strip(), {"__builtins__": builtins, **self._names})  # it is the user's own code, in the user's own kernel

    def reporting(self, doing: str) -> contextlib.AbstractContextManager[Reporter]:
        """One line that changes, with the time it took; the log's last lines below it while it goes on."""
        if getattr(self.shell, "kernel", None) is None:
            from ..cli import Terminal

            return Terminal(quiet=False).reporting(doing)
        return _progress(doing)

    def agrees(self, question: str) -> bool:
        """Refused: a cell that waits for an answer stops Run All.  Raises UsageError."""
        raise UsageError(f"{question} A notebook does not ask.", hint="add --yes")

    def say(self, line: str) -> None:
        """One line of the cell's output."""
        print(line, flush=True)  # noqa: T201 - a followed log is printed, as it grows

    def input(self) -> str:
        """Refused: a cell has no standard input.  Raises UsageError."""
        raise UsageError("- reads standard input, which a notebook has not.", hint="%mlops invoke ENDPOINT --data X.head()")

    def form(self, given: dict[str, Any]) -> object:
        """The form, filled with what was given.  Raises MissingExtra."""
        from .forms import deploy_form

        return deploy_form(given, self)


_SUFFIXES = frozenset({".csv", ".tsv", ".parquet", ".json", ".jsonl", ".pkl", ".pickle", ".joblib", ".skops", ".onnx", ".pt", ".py", ".ubj", ".txt", ".zip"})
_STEPS = {ast.Attribute: "value", ast.Subscript: "value", ast.Call: "func"}


def _looks_live(word: str, names: Mapping[str, Any]) -> bool:
    """Whether *word* is a chain of attributes, calls and subscripts from a known name, or a list or dict written out."""
    try:
        node: ast.AST = ast.parse(word.strip(), mode="eval").body
    except (SyntaxError, ValueError):
        return False
    if isinstance(node, ast.List | ast.Dict):
        return True
    deep = False
    while step := _STEPS.get(type(node)):
        deep = deep or not isinstance(node, ast.Attribute)
        node = getattr(node, step)
    return isinstance(node, ast.Name) and (node.id in names or deep)


def _is_code(value: object) -> bool:
    return type(value).__name__ in ("module", "function", "type", "builtin_function_or_method", "ABCMeta", "method")


# ── progress ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@contextlib.contextmanager
def _progress(doing: str) -> Iterator[Reporter]:
    line = _ProgressLine(doing)
    try:
        yield line
    except BaseException:
        line.end("✗")
        raise
    line.end("✓")


class _ProgressLine:
    """One output that is replaced as the step goes on."""

    def __init__(self, doing: str) -> None:
        self._text = doing
        self._log: list[str] = []
        self._began = time.monotonic()
        self._ended = threading.Event()
        self._drawing = threading.Lock()
        self._handle = display(_Line(f"… {doing}", []), display_id=True)
        context = contextvars.copy_context()  # so that what the ticking thread draws belongs to this cell
        self._ticking = threading.Thread(target=context.run, args=(self._tick,), daemon=True, name="mlops-progress")
        self._ticking.start()

    def step(self, text: str) -> None:
        """Show another text."""
        self._text = text
        self._draw("…")

    def log(self, line: str) -> None:
        """Show the log's last lines."""
        self._log = [*self._log, line][-_MOST_LOG_LINES:]

    def end(self, mark: str) -> None:
        """Leave one short line."""
        self._ended.set()
        self._ticking.join()
        self._log = []
        self._draw(mark)

    def _tick(self) -> None:
        while not self._ended.wait(_TICK_SECONDS):
            self._draw("…")

    def _draw(self, mark: str) -> None:
        with self._drawing:
            self._handle.update(_Line(f"{mark} {self._text} · {time.monotonic() - self._began:.1f} s", self._log))


class _Line:
    """A progress line with the log's last lines below."""

    def __init__(self, text: str, log: Sequence[str]) -> None:
        self._text = text
        self._log = list(log)

    def __repr__(self) -> str:
        return "\n".join([self._text, *(f"  {line}" for line in self._log)])

    def _repr_html_(self) -> str:
        log = f'<pre style="opacity:.75;margin:2px 0 0 1.2em">{html.escape(chr(10).join(self._log))}</pre>' if self._log else ""
        return f'<div role="status" style="font-variant-numeric:tabular-nums">{html.escape(self._text)}</div>{log}'


# ── cards ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _load_cards(shell: InteractiveShell) -> None:
    """Have nouns shown as cards.  By name, so that nothing is imported before there is one to show."""
    formatter: Any = shell.display_formatter
    html_formatter, text_formatter = (formatter.formatters[kind] for kind in ("text/html", "text/plain"))
    for module, name in (("msgspec", "Struct"), ("mlops_nb.shapes", "Listing"), ("mlops_nb.shapes", "Facts")):
        html_formatter.for_type_by_name(module, name, _html)
        text_formatter.for_type_by_name(module, name, _text)
    formatter.ipython_display_formatter.for_type_by_name("mlops_nb.store.checks", "DriftCheck", _with_figure)
    formatter.ipython_display_formatter.for_type_by_name("mlops_nb.store.rollouts", "Rollout", _with_evidence)
    formatter.ipython_display_formatter.for_type_by_name("mlops_nb.hls", "ConvertedToFpga", _with_trade_off)


def _html(thing: Any) -> str | None:
    from .. import cards

    return cards.as_html(thing) if cards.knows(thing) else None


def _text(thing: Any, printer: Any, _cycle: bool) -> None:
    from .. import cards

    printer.text(cards.as_text(thing) if cards.knows(thing) else repr(thing))


def _with_figure(check: Any) -> None:
    """The card, then the figure where Plotly is there to draw it."""
    from .. import cards, monitoring

    display({"text/html": cards.as_html(check), "text/plain": cards.as_text(check)}, raw=True)
    _draw(lambda: monitoring.figure(check), "a Plotly figure")


def _with_evidence(plan: Any) -> None:
    """The card; of a canary that has looked, the figure of what it saw."""
    from .. import canary_figures, cards

    display({"text/html": cards.as_html(plan), "text/plain": cards.as_text(plan)}, raw=True)
    if plan.kind == "canary" and (words := canary_figures.told(plan)):
        _draw(lambda: canary_figures.figure(plan), words)


def _with_trade_off(converted: Any) -> None:
    """The card, then what each precision answers and takes."""
    from .. import cards, hls
    from ..fpga import figures

    display({"text/html": cards.as_html(converted), "text/plain": cards.as_text(converted)}, raw=True)
    _draw(converted.figure, figures.told(hls.form_of(converted.version)))


def _draw(figure: Callable[[], Any], words: str) -> None:
    """A figure where Plotly is there to draw it; *words* for those who cannot see it."""
    import importlib.util

    if importlib.util.find_spec("plotly"):
        display({"application/vnd.plotly.v1+json": figure().to_plotly_json(), "text/plain": f"({words})"}, raw=True)
