"""How a command line is read, helped and completed; the same for the magic and for the terminal.

`vocabulary` holds the words it is made of, `commands` the commands themselves.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, cast

import click
from click.shell_completion import CompletionItem, ShellComplete

from . import settings
from .errors import BadOption, MlopsError, UnknownCommand, UnknownOption, UsageError, WorkspaceNotFound, closest
from .progress import Reporter
from .vocabulary import Pair

_PAIR = re.compile(r"(?!-)[\w.:-]+=", re.ASCII)


class Face(Protocol):
    """Where a command was said: a notebook or a terminal."""

    prompt: str
    """What stands before a command there: `%mlops` or `mlops`."""
    cell: str | None
    """The lines below the command, where it was said as `%%mlops COMMAND`."""

    def reporting(self, doing: str) -> AbstractContextManager[Reporter]:
        """A reporter that shows progress for the length of the block."""

    def meaning(self, word: str, *, known: Callable[[], Sequence[str]] = list) -> object:
        """The live object or the existing path a word stands for; *known* are other names it may be, which come back as they are."""

    def variables(self) -> list[str]:
        """Names of live objects."""

    def agrees(self, question: str) -> bool:
        """Ask a person; raises UsageError where nobody can be asked."""

    def say(self, line: str) -> None:
        """Show one line of output at once."""

    def input(self) -> str:
        """What was piped in."""

    def form(self, given: dict[str, Any]) -> object:
        """A form for the command being carried out, filled with what was given."""


def face() -> Face:
    """Where the command being carried out was said."""
    return cast(Face, click.get_current_context().find_root().obj)


# ── carrying out ─────────────────────────────────────────────────────────────────────────────────────────────────────


class Text(str):
    """Text meant to be read as it is, such as a help page or a requirements file."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def run(group: click.Group, words: Sequence[str], where: Face) -> Any:
    """Carry out one command line, already split into words, and return what it made.

    Raises MlopsError: a UsageError for words that make no command.  `--help` returns the help page as Text.
    """
    try:
        with group.make_context(where.prompt, list(words), obj=where) as context:
            return group.invoke(context)
    except HelpWanted as wanted:
        return wanted.text
    except click.Abort:
        raise KeyboardInterrupt from None
    except click.ClickException as error:
        raise _as_usage_error(error, where.prompt) from None


def parsed(group: click.Group, words: Sequence[str], where: Face) -> click.Context:
    """The innermost command's context with every word read and nothing carried out.  Raises as `run`."""
    try:
        context = group.make_context(where.prompt, list(words), obj=where)
        while isinstance(context.command, click.Group):
            name, command, rest = context.command.resolve_command(context, [*context._protected_args, *context.args])
            assert command is not None
            context = command.make_context(name, rest, parent=context)
    except click.ClickException as error:
        raise _as_usage_error(error, where.prompt) from None
    context.find_root().close()
    return context


def completions(group: click.Group, words: Sequence[str], fragment: str, where: Face) -> list[CompletionItem]:
    """What may stand in place of *fragment* after *words*; a `file` item means any path."""
    try:
        items = ShellComplete(group, {"obj": where}, where.prompt, "").get_completions(list(words), fragment)
    except (MlopsError, click.ClickException):
        return []  # a half-written line need not make sense
    return [item for item in items if item.type != "plain" or item.value.startswith(fragment)]


def wants_json(words: Sequence[str]) -> bool:
    """Whether the line asks for one JSON object, even when the rest of it cannot be read."""
    before_end = words[: words.index("--")] if "--" in words else words
    return "--json" in before_end


def _as_usage_error(error: click.ClickException, prompt: str) -> MlopsError:
    context = getattr(error, "ctx", None)
    path = context.command_path if context else prompt
    if isinstance(error, click.NoSuchOption):
        known = [name for param in context.command.get_params(context) for name in param.opts] if context else []
        return UnknownOption(error.option_name, path, known=known)
    if isinstance(error, click.MissingParameter):
        return UsageError(f"{path} needs {_missing(error, context)}.", hint=_first_example(context, path))
    if isinstance(error, click.BadParameter):
        return BadOption(error.format_message().removesuffix(".") + ".", hint=f"{path} --help")
    return UsageError(error.format_message(), hint=f"{path} --help")


def _missing(error: click.MissingParameter, context: click.Context | None) -> str:
    param = error.param
    if param is None or context is None:
        return "more words"
    return f"the option {param.opts[0]}" if isinstance(param, click.Option) else param.make_metavar(context)


def _first_example(context: click.Context | None, path: str) -> str:
    examples = context.command.examples if context and isinstance(context.command, Command) else ()
    prompt = path.split()[0]
    fitting = fitting_examples(examples, prompt)
    return f"{prompt} {fitting[0]}" if fitting else f"{path} --help"


class HelpWanted(Exception):
    """A help page was asked for; `run` returns it."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = Text(text)


def _help(context: click.Context, _param: click.Parameter, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:
        raise HelpWanted(context.get_help())


_CHOSEN = "mlops_nb.workspace"
_MAKES_A_WORKSPACE = ("register", "provision")


def _choose_workspace(context: click.Context, _param: click.Parameter, folder: str | None) -> None:
    if folder:
        context.meta[_CHOSEN] = context.find_root().with_resource(settings.using(folder)).root


def _everywhere() -> list[click.Parameter]:
    """The options every command takes."""
    return [
        click.Option(["--json"], is_flag=True, expose_value=False, help="Answer with one JSON object."),
        click.Option(
            ["--workspace"], metavar="DIR", expose_value=False, is_eager=True, callback=_choose_workspace, type=click.Path(file_okay=False),
            help="The workspace's folder.  [default: $MLOPS_HOME, else the nearest .mlops]",
        ),
        click.Option(["--help"], is_flag=True, expose_value=False, is_eager=True, callback=_help, help="Show this page."),
    ]  # fmt: skip


# ── commands ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class Command(click.Command):
    """A command with examples in its help.

    An example starts with `%` when it only makes sense in a notebook, with `$` when only in a terminal.
    """

    def __init__(self, *, examples: Sequence[str] = (), heading: str = "", **kwargs: Any) -> None:
        params = [*(kwargs.pop("params", None) or []), *_everywhere()]
        super().__init__(params=params, add_help_option=False, **kwargs)
        self.examples = tuple(examples)
        self.heading = heading

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the words; `--tag a=1 b=2` means `--tag a=1 --tag b=2`."""
        return super().parse_args(ctx, _spread(args, self.params))

    def invoke(self, ctx: click.Context) -> Any:
        """Carry it out.  Raises WorkspaceNotFound for a `--workspace` that is not there, unless this command may make one."""
        chosen = ctx.meta.get(_CHOSEN)
        if chosen and self.name not in _MAKES_A_WORKSPACE and not chosen.is_dir():
            raise WorkspaceNotFound(chosen)
        return super().invoke(ctx)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples."""
        _write_examples(ctx, formatter, self.examples)


class Group(click.Group):
    """Commands under one word.  With *default*, words that name none of them go to that command."""

    command_class = Command
    group_class = type

    def __init__(self, *, default: str | None = None, heading: str = "", **kwargs: Any) -> None:
        params = [*(kwargs.pop("params", None) or []), *_everywhere()]
        super().__init__(params=params, add_help_option=False, no_args_is_help=False, invoke_without_command=True, **kwargs)
        self.default = default
        self.heading = heading

    def order_by(self, modules: Sequence[str]) -> None:
        """Have the commands of the first of these modules stand first, and so on; those of one module stay as they were written."""
        self.commands = dict(sorted(self.commands.items(), key=lambda item: modules.index(getattr(item[1].callback, "__module__", ""))))

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the words before a command's name."""
        if self.default and not ctx.resilient_parsing and "--help" not in args[:1] and self._meant_for_default(args):
            args = [self.default, *args]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Carry out the command below; the help page when none was named."""
        if not ctx._protected_args and not ctx.args:
            raise HelpWanted(ctx.get_help())
        return super().invoke(ctx)

    def _meant_for_default(self, args: list[str]) -> bool:
        return not any(word in self.commands for word in args[:1]) and not (len(args) > 1 and self._misspelt(args[0]))

    def _misspelt(self, word: str) -> bool:
        return bool(closest(word, self._public()))

    def _public(self) -> list[str]:
        return [name for name, command in self.commands.items() if not command.hidden]

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        """The command a word names.  Raises UnknownCommand with the nearest one."""
        if args[0] not in self.commands and not ctx.resilient_parsing:
            raise UnknownCommand(args[0], under=ctx.command_path, known=self._public())
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """The commands, and what the default command takes first."""
        items = super().shell_complete(ctx, incomplete)
        default = self.commands.get(self.default or "")
        argument = next((p for p in default.params if isinstance(p, click.Argument)), None) if default else None
        return items + (argument.shell_complete(ctx, incomplete) if argument and not incomplete.startswith("-") else [])

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands under their headings, in the order they were written."""
        for heading in dict.fromkeys(_heading(command) for command in self.commands.values()):
            rows = [
                (name, (command.help or "").split("\n", 1)[0]) for name, command in self.commands.items() if _heading(command) == heading and not command.hidden
            ]
            with formatter.section(heading):
                formatter.write_dl(rows)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands in the order they were written."""
        return list(self.commands)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples of what stands below."""
        commands = [command for command in self.commands.values() if self.heading]
        _write_examples(ctx, formatter, [line for command in commands if isinstance(command, Command) for line in command.examples])


def _heading(command: click.Command) -> str:
    return getattr(command, "heading", "") or "Commands"


def fitting_examples(examples: Sequence[str], prompt: str) -> list[str]:
    """The examples that make sense behind *prompt*, without their mark."""
    other = "$" if prompt.startswith("%") else "%"
    return [line.lstrip("%$") for line in examples if not line.startswith(other)]


def _write_examples(ctx: click.Context, formatter: click.HelpFormatter, examples: Sequence[str]) -> None:
    prompt = ctx.find_root().info_name or "mlops"
    if lines := fitting_examples(examples, prompt):
        with formatter.section("Examples"):
            for line in lines:
                formatter.write(f"{' ' * formatter.current_indent}{prompt} {line}\n")


def _spread(args: Sequence[str], params: Sequence[click.Parameter]) -> list[str]:
    several = {name for p in params if isinstance(p, click.Option) and p.multiple and isinstance(p.type, Pair) for name in p.opts}
    return list(_spread_words(args, several))


def _spread_words(args: Sequence[str], several: set[str]) -> Iterator[str]:
    option, first = None, False
    for position, word in enumerate(args):
        if word == "--":
            yield from args[position:]
            return
        if word in several:
            option, first = word, True
        elif option and not first and _PAIR.match(word):
            yield option
        elif not first:
            option = None
        else:
            first = False
        yield word
