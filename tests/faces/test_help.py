"""Help, examples and hints: whatever we tell people to type must be a command."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import mlops_nb
from mlops_nb import commands, grammar
from mlops_nb.cli import Terminal
from mlops_nb.errors import MlopsError

PACKAGE = Path(mlops_nb.__file__).parent
_PROSE = re.compile(r"[a-z]+[.!?]?")


def every_command(group: click.Group = commands.mlops, path: str = "") -> Iterator[tuple[str, grammar.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from every_command(command, f"{path} {name}".strip())
        else:
            assert isinstance(command, grammar.Command)
            yield f"{path} {name}".strip(), command


COMMANDS = dict(every_command())
EXAMPLES = [(path, line) for path, command in COMMANDS.items() for line in command.examples]


def parse(line: str) -> click.Context:
    return grammar.parsed(commands.mlops, shlex.split(line), Terminal(quiet=True))


@pytest.mark.parametrize("path", COMMANDS)
def test_every_command_has_an_example_for_each_face(path: str) -> None:
    examples = COMMANDS[path].examples

    assert grammar.fitting_examples(examples, "%mlops")
    assert grammar.fitting_examples(examples, "mlops")


@pytest.mark.parametrize(("path", "line"), EXAMPLES)
def test_every_example_is_a_line_of_its_own_command(path: str, line: str) -> None:
    assert parse(line.lstrip("%$")).command is COMMANDS[path]


def test_the_help_goes_from_data_to_a_model_that_serves_and_is_watched() -> None:
    page = commands.run(["--help"], Terminal(quiet=True))

    assert re.findall(r"^([A-Z][\w ]+):$", page, re.MULTILINE)[1:] == ["Data", "Models", "Packages", "Serving", "Traffic", "Watching", "The workspace"]
    places = [
        page.index(f"\n  {name} ") for name in ("dataset", "register", "package", "deploy", "edge", "traffic", "canary", "replay", "labels", "drift", "down")
    ]
    assert places == sorted(places)


@pytest.mark.parametrize("path", COMMANDS)
def test_every_option_and_command_says_what_it_does(path: str) -> None:
    command = COMMANDS[path]

    assert command.help
    assert all(param.help for param in command.params if isinstance(param, click.Option))


def test_help_shows_the_examples_behind_the_prompt_of_its_face(monkeypatch: pytest.MonkeyPatch) -> None:
    page = commands.run(["deploy", "--help"], Terminal(quiet=True))

    assert "  mlops deploy delays:2 --endpoint delays --traffic 10" in page
    assert "%mlops" not in page


FILLED = {":": "1", "--memory ": "512", "--ramp ": "5,100"}


def texts(node: ast.AST) -> Iterator[str]:
    """Every string below *node*; what an f-string fills in becomes a name, or what FILLED has for what stands before it."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.JoinedStr):
        text = ""
        for part in node.values:
            filled = next((value for end, value in FILLED.items() if text.endswith(end)), "churn")
            text += str(part.value) if isinstance(part, ast.Constant) else filled
        yield text
    else:
        for child in ast.iter_child_nodes(node):
            yield from texts(child)


def hints() -> Iterator[tuple[str, str]]:
    """Every command told in a string of this package."""
    for file in sorted(PACKAGE.rglob("*.py")):
        for text in texts(ast.parse(file.read_text(encoding="utf-8"))):
            if "\n" not in text:
                yield from ((file.name, told.rstrip(" .`")) for told in re.findall(r"(?<!%)%mlops ([a-z][^,;|`]*)", text))


def without_prose(words: list[str]) -> Iterator[list[str]]:
    """The words, then without the plain words of a sentence that goes on behind the command."""
    yield words
    while len(words) > 1 and _PROSE.fullmatch(words[-1]):
        words = words[:-1]
        yield words


@pytest.mark.parametrize(("file", "hint"), sorted(set(hints())))
def test_every_hint_is_a_command(file: str, hint: str) -> None:
    words = shlex.split(hint.replace("VERSION", "1").replace("%mlops ", ""))
    refusals = []
    for some in without_prose(words):
        try:
            grammar.parsed(commands.mlops, some, Terminal(quiet=True))
            return
        except MlopsError as error:
            refusals.append(str(error))
    pytest.fail(f"{file}: %mlops {hint}: {refusals}")
