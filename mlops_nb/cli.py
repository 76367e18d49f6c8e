"""The `mlops` command line: data on stdout, talk on stderr, an exit code that says how it went."""

from __future__ import annotations

import contextlib
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import msgspec

from . import commands, grammar, processes
from .errors import DatasetNotFound, FileMissing, MlopsError, UsageError
from .progress import Reporter
from .shapes import Key, Lines, as_data, envelope

INTERRUPTED = 130


def main() -> None:
    """Be the `mlops` command; exits with 0 ok, 1 failed, 2 usage, 3 not found, 4 busy, 5 gate, 130 interrupted."""
    if instruction := os.environ.get("_MLOPS_COMPLETE"):
        from click.shell_completion import shell_complete

        sys.exit(shell_complete(commands.mlops, {"obj": Terminal(quiet=True)}, "mlops", "_MLOPS_COMPLETE", instruction))
    with processes.in_order():
        code = answer(sys.argv[1:])
    sys.exit(code)


def answer(words: Sequence[str]) -> int:
    """Carry out one command line, show what it made and return the exit code."""
    as_json = grammar.wants_json(words)
    try:
        made = commands.run(words, Terminal(quiet=as_json and not sys.stderr.isatty()))
        _show(made, as_json=as_json)
        return 0
    except MlopsError as error:
        return _refused(error, as_json=as_json)
    except KeyboardInterrupt:
        return _interrupted(as_json=as_json)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader has gone; nothing is left to say to it
        return 0
    except Exception as error:  # a bug: the traceback is for us, the JSON is still for the script
        return _broke(error, as_json=as_json)


def _show(made: Any, *, as_json: bool) -> None:
    if as_json:
        print(msgspec.json.encode(envelope(made)).decode())
    elif isinstance(made, Key):
        print(made.key)
    elif isinstance(made, str | Lines):
        print(str(made) if isinstance(made, str) else repr(made))
    else:
        from .cards import as_text

        print(_coloured(as_text(made, prompt="mlops")))
    sys.stdout.flush()


def _refused(error: MlopsError, *, as_json: bool) -> int:
    told = error.as_json() | {"hint": _for_terminal(error.hint)}
    if as_json:
        print(msgspec.json.encode(as_data(told)).decode())
        return error.exit_code
    lines = [f"{_styled(error.code, fg='red', bold=True)}: {error}", error.detail, _for_terminal(error.advice)]
    print("\n".join(line for line in lines if line), file=sys.stderr)
    return error.exit_code


def _for_terminal(hint: str) -> str:
    return hint.replace("%mlops", "mlops")


def _interrupted(*, as_json: bool) -> int:
    if as_json:
        print('{"ok":false,"error":"Interrupted.","code":"Interrupted","hint":""}')
    else:
        print("\nInterrupted.", file=sys.stderr)
    return INTERRUPTED


def _broke(error: Exception, *, as_json: bool) -> int:
    traceback.print_exc()
    if as_json:
        told = {"ok": False, "error": str(error) or type(error).__name__, "code": type(error).__name__, "hint": "this is a fault of mlops_nb; please report it"}
        print(msgspec.json.encode(told).decode())
    return 1


# ── where commands are said ──────────────────────────────────────────────────────────────────────────────────────────


class Terminal:
    """The face of the command line: words mean paths and registered names, progress goes to stderr."""

    prompt = "mlops"
    cell: str | None = None

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet

    @contextlib.contextmanager
    def reporting(self, doing: str) -> Iterator[Reporter]:
        """Progress on stderr: one line that changes on a terminal, one line a step elsewhere."""
        progress = _Quiet() if self._quiet else _Changing(doing) if sys.stderr.isatty() else _OneLineEach()
        try:
            yield progress
        except BaseException:
            progress.end(well=False)
            raise
        progress.end(well=True)

    def meaning(self, word: str, *, known: Callable[[], Sequence[str]] = list) -> object:
        """The path, or the registered name as it is.  Raises FileMissing, DatasetNotFound."""
        path = Path(word).expanduser()
        if path.exists():
            return path
        if word[:1] in "[{" and (literal := _json(word)) is not None:
            return literal
        names = known()
        if word.split(":")[0] in names:
            return word
        raise DatasetNotFound(word, known=names) if known is not list and "/" not in word and not path.suffix else FileMissing(word)

    def variables(self) -> list[str]:
        """None: a terminal has no live objects."""
        return []

    def agrees(self, question: str) -> bool:
        """Ask on the terminal.  Raises UsageError when there is none."""
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise UsageError(f"{question} Nobody can be asked here.", hint="add --yes")
        return click.confirm(question, err=True)

    def say(self, line: str) -> None:
        """One line on stdout."""
        print(line, flush=True)

    def input(self) -> str:
        """Standard input."""
        try:
            text = sys.stdin.read()
            text.encode()  # what is no text may have come in disguise (PEP 383)
            return text
        except UnicodeError as error:
            raise UsageError(f"What came on standard input is not text: {error}.", hint="text in UTF-8") from None

    def form(self, given: dict[str, Any]) -> object:
        """Refused: forms need a notebook."""
        raise UsageError("A form needs a notebook.", hint="%mlops deploy --form in a notebook, or mlops deploy MODEL:VERSION here")


class _Quiet:
    def step(self, text: str) -> None:
        """Say nothing."""

    def log(self, line: str) -> None:
        """Say nothing."""

    def end(self, *, well: bool) -> None:
        """Say nothing."""


class _OneLineEach(_Quiet):
    def step(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def log(self, line: str) -> None:
        print(f"  {line}", file=sys.stderr, flush=True)


class _Changing(_Quiet):
    def __init__(self, doing: str) -> None:
        self._text = doing
        self._began = time.monotonic()

    def step(self, text: str) -> None:
        self._text = text
        self._draw("…")

    def log(self, line: str) -> None:
        self._clear()
        print(f"  {_styled(line, dim=True)}", file=sys.stderr)
        self._draw("…")

    def end(self, *, well: bool) -> None:
        self._draw(_styled("✓", fg="green") if well else _styled("✗", fg="red"))
        print(file=sys.stderr, flush=True)

    def _draw(self, mark: str) -> None:
        self._clear()
        print(f"{mark} {self._text} ({time.monotonic() - self._began:.1f} s)", end="", file=sys.stderr, flush=True)

    def _clear(self) -> None:
        print("\r\033[K", end="", file=sys.stderr)


def _styled(text: str, **style: Any) -> str:
    return click.style(text, **style) if _colour(sys.stderr) else text


def _coloured(text: str) -> str:
    if not _colour(sys.stdout):
        return text
    for shape, colour in (("✓ ", "green"), ("✗ ", "red"), ("! ", "yellow")):
        text = text.replace(f" {shape}", f" {click.style(shape, fg=colour)}")
    return text


def _colour(stream: Any) -> bool:
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _json(text: str) -> object:
    """What *text* is as JSON, or None."""
    import msgspec

    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return None
