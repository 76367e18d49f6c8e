"""How a command line is read, helped and completed; the same for the magic and for the terminal.  `commands` holds the commands themselves."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol, cast

import click
from click.shell_completion import CompletionItem, ShellComplete

from . import fpga, hardware, settings, targets
from .errors import BadOption, MlopsError, UnknownCommand, UnknownOption, UsageError, WorkspaceNotFound, closest
from .progress import Reporter
from .reference import DeploymentRef, ModelRef
from .safety import checked_name

_PAIR = re.compile(r"[\w.:-]+=", re.ASCII)
_AGO = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|h|d|w)")
_DAYS = {"today": 0, "yesterday": 1}
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(k|m|g)?i?b?", re.IGNORECASE)
_MEGABYTES = {"k": 1 / 1024, "m": 1, "g": 1024, "": 1}


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


# ── words ────────────────────────────────────────────────────────────────────────────────────────────────────────────


class Word(click.ParamType):
    """A kind of word: how it is read, and what is offered for it."""

    def __init__(self, name: str, read: Callable[[str], Any] = str, offers: Callable[[str], Sequence[str]] | None = None) -> None:
        self.name = name
        self._read = read
        self._offers = offers

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        """What stands for it in a usage line."""
        return self.name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The word, read.  Raises UsageError."""
        return self._read(value) if isinstance(value, str) else value

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """What is known that starts so."""
        return [CompletionItem(text) for text in (self._offers(incomplete) if self._offers else ()) if text.startswith(incomplete)]


class Pair(Word):
    """`key=value`; with *read*, the value is read too."""

    def __init__(self, name: str, read: Callable[[str], Any] = str, keys: Callable[[str], Sequence[str]] | None = None) -> None:
        super().__init__(name, self._split, keys and (lambda fragment: [f"{key}=" for key in keys(fragment)]))
        self._read_value = read

    def _split(self, text: str) -> tuple[str, Any]:
        key, found, value = text.partition("=")
        if not found or not key:
            raise BadOption(f"{text!r} is not of the form {self.name}.", hint=f"{text or 'key'}=value")
        return key, self._read_value(value)


class Several(Word):
    """Words of one kind with commas between."""

    def __init__(self, one: Word, name: str) -> None:
        super().__init__(name, lambda text: [one._read(word.strip()) for word in text.split(",") if word.strip()])
        self._one = one

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """What may stand behind the last comma."""
        before, comma, last = incomplete.rpartition(",")
        return [CompletionItem(f"{before}{comma}{item.value}") for item in self._one.shell_complete(ctx, param, last)]


class OfEndpoint(Word):
    """A word whose offers hang on the endpoint that the line names."""

    def __init__(self, name: str, offers: Callable[[str], Sequence[str]]) -> None:
        super().__init__(name)
        self._of = offers

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """What that endpoint has; nothing before it is named."""
        endpoint = ctx.params.get("endpoint") or next(iter(ctx.args), None)  # click reads no argument before an option that has no value yet
        return [CompletionItem(text) for text in (self._of(endpoint) if endpoint else ()) if text.startswith(incomplete)]


class Live(Word):
    """A live object by name or expression, a path, or (with *known*) a registered name; `Face.meaning` finds out which."""

    def __init__(self, name: str, known: Callable[[str], Sequence[str]] | None = None) -> None:
        super().__init__(name, str, known)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Live objects, registered names, then any path."""
        where = ctx.find_root().obj
        variables = where.variables() if where else []
        named = [CompletionItem(name, help="variable") for name in variables if name.startswith(incomplete)]
        return [*named, *super().shell_complete(ctx, param, incomplete), CompletionItem(incomplete, type="file")]


def _from_store(ask: Callable[[Any], Sequence[str]]) -> Sequence[str]:
    """What the store knows; nothing where there is no store yet, for asking must not make one."""
    if not settings.Workspace.current().store.exists():
        return []
    from . import store

    with store.reading() as tx:
        return ask(tx)


def model_names(fragment: str = "") -> Sequence[str]:
    """Every model's name."""
    from .store import models

    return _from_store(models.names)


def model_refs(fragment: str = "") -> Sequence[str]:
    """Model names; with `:` or `@` begun, or for the only name that fits, the versions and aliases too."""
    from .store import models

    def ask(tx: Any) -> list[str]:
        names = [name for name in models.names(tx) if name.startswith(re.split("[:@]", fragment)[0])]
        if len(names) != 1 and not re.search("[:@]", fragment):
            return names
        versions = [version for name in names for version in models.search(tx, name)]
        return [*names, *(v.ref for v in versions), *(f"{v.model}@{alias}" for v in versions for alias in v.aliases)]

    return _from_store(ask)


def dataset_names(fragment: str = "") -> Sequence[str]:
    """Every data set's name, and its versions once `:` is begun."""
    from .store import datasets

    return _from_store(lambda tx: [d.ref for d in datasets.every(tx, fragment.split(":")[0])] if ":" in fragment else datasets.names(tx))


def environment_names(fragment: str = "") -> Sequence[str]:
    """Every environment's name."""
    from .store import environments

    return _from_store(lambda tx: sorted({e.name for e in environments.every(tx)}))


def endpoint_names(fragment: str = "") -> Sequence[str]:
    """Every endpoint's name."""
    from .store import deployments

    return _from_store(lambda tx: [e.name for e in deployments.endpoints(tx)])


def columns_of(endpoint: str) -> Sequence[str]:
    """The inputs of the models behind an endpoint."""
    from .store import deployments, models

    def ask(tx: Any) -> list[str]:
        versions = [models.get(tx, ModelRef(d.model, version=d.version)) for d in deployments.of(tx, endpoint)]
        return list(dict.fromkeys(column["name"] for version in versions for column in (version.signature or {}).get("inputs") or []))

    return _from_store(ask)


def features_of(endpoint: str) -> Sequence[str]:
    """What an endpoint's newest drift check looked at, predictions and labels included; before there is one, the inputs."""
    from .store import checks

    newest = _from_store(lambda tx: [str(one.get("name")) for check in checks.drift_checks(tx, endpoint, most=1) for one in check.report.get("features", [])])
    return [shlex.quote(name) for name in newest or columns_of(endpoint)]


def alert_rules(fragment: str = "") -> Sequence[str]:
    """Every alert's rule by its id."""
    from .store import alerts

    return _from_store(lambda tx: [rule.id for rule in alerts.of(tx)])


def deployment_refs(fragment: str = "") -> Sequence[str]:
    """Every deployment as `endpoint/name`."""
    from .store import deployments

    return _from_store(lambda tx: [d.ref for d in deployments.of(tx)])


def _deployment_names(fragment: str = "") -> Sequence[str]:
    return list(dict.fromkeys(ref.partition("/")[2] for ref in deployment_refs(fragment)))


def drift_engines(fragment: str = "") -> Sequence[str]:
    """Every engine a drift check can use."""
    from .monitoring import engines

    return ["auto", *engines.NAMES]


def _references(fragment: str = "") -> Sequence[str]:
    from .monitoring import references

    return references.NAMES


def _reference(text: str) -> str:
    from .monitoring import references

    references.check_words(text)
    return text


def schedule_ids(fragment: str = "") -> Sequence[str]:
    """Every scheduled drift check by its id."""
    from .store import schedules

    return _from_store(lambda tx: [one.id for one in schedules.of(tx)])


def _zones(fragment: str = "") -> Sequence[str]:
    from zoneinfo import available_timezones

    return sorted(available_timezones())


def drift_detectors(fragment: str = "") -> Sequence[str]:
    """Every detector a drift check can use."""
    from .monitoring import detectors

    return detectors.NAMES


def _subjects(fragment: str) -> Sequence[str]:
    return [*model_refs(fragment), *endpoint_names(), *deployment_refs()]


def _moment(text: str) -> datetime:
    if ago := _AGO.fullmatch(text.strip()):
        return datetime.now(UTC) - timedelta(seconds=float(ago[1]) * _SECONDS[ago[2]])
    if text in _DAYS:
        return (datetime.now().astimezone() - timedelta(days=_DAYS[text])).replace(hour=0, minute=0, second=0, microsecond=0).astimezone(UTC)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise BadOption(f"{text!r} is neither a time nor an age.", hint="2h, 7d or 2026-01-31T08:00") from None
    return moment.astimezone(UTC)


def _time_to_come(text: str) -> datetime:
    if ahead := _AGO.fullmatch(text.strip()):
        return datetime.now(UTC) + timedelta(seconds=float(ahead[1]) * _SECONDS[ahead[2]])
    return _moment(text)


def _duration(text: str) -> float:
    lasting = _AGO.fullmatch(text.strip())
    if not lasting or not float(lasting[1]):
        raise BadOption(f"{text!r} is not a length of time.", hint="30s, 10m or 2h")
    return float(lasting[1]) * _SECONDS[lasting[2]]


def _megabytes(text: str) -> int:
    size = _SIZE.fullmatch(text.strip())
    megabytes = float(size[1]) * _MEGABYTES[(size[2] or "").lower()] if size else 0
    if megabytes < 1:
        raise BadOption(f"{text!r} is not an amount of memory.", hint="512m or 2g")
    return round(megabytes)


def _target(text: str) -> str:
    targets.get(text)
    return text


def _percentage(text: str) -> int:
    number = text.removesuffix("%")
    if not (number.isascii() and number.isdigit() and int(number) <= 100):
        raise BadOption(f"{text!r} is not a whole percentage from 0 to 100.", hint="a whole number such as 10")
    return int(number)


def _weight(text: str) -> float:
    try:
        return float(text.removesuffix("%"))
    except ValueError:
        raise BadOption(f"{text!r} is not a percentage.", hint="whole percentages that sum to 100, such as 1=90 2=10") from None


def _gpus(text: str) -> str:
    if text != "all" and not (text.isascii() and text.isdigit() and int(text)):
        raise BadOption(f"{text!r} is no number of GPUs.", hint="--gpus all, or how many")
    return text


def _cores(text: str) -> float:
    try:
        cores = float(text)
    except ValueError:
        cores = 0
    if not 0 < cores < 10_000:
        raise BadOption(f"{text!r} is not a number of cores.", hint="--cpus 2, or a part of one such as 0.5")
    return cores


def _rows_each(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text) <= 1_000_000):
        raise BadOption(f"{text!r} is not a number of rows.", hint="--batch 1,32,256")
    return int(text)


def _promise(text: str) -> Any:
    from .profiling.advice import Objective

    return Objective.parse(text)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise BadOption(f"{text!r} is not a number.", hint="a number such as 0.71") from None


def _named(what: str) -> Callable[[str], str]:
    return lambda text: checked_name(text, what=what)


A_MODEL = Word("MODEL[:VERSION]", ModelRef.parse, model_refs)
A_MODEL_NAME = Word("NAME", _named("model"), model_names)
A_DATASET = Word("DATASET[:VERSION]", lambda text: ModelRef.parse(text, what="dataset"), dataset_names)
A_DATASET_NAME = Word("NAME", _named("dataset"), dataset_names)
AN_ENVIRONMENT = Word("NAME[:VERSION]", lambda text: ModelRef.parse(text, what="environment"), environment_names)
AN_ENDPOINT = Word("ENDPOINT", _named("endpoint"), endpoint_names)
A_FEATURE = OfEndpoint("NAME", features_of)
A_COLUMN = OfEndpoint("COLUMN", columns_of)
A_RULE = Word("RULE", str, alert_rules)
A_DEPLOYMENT = Word("ENDPOINT/DEPLOYMENT", DeploymentRef.parse, deployment_refs)
A_DEPLOYMENT_NAME = Word("NAME", _named("deployment"))
A_SCRIPT_NAME = Word("NAME", _named("script"))
A_MODEL_OR_SCRIPT = Live("MODEL|SCRIPT", model_refs)
A_MODEL_OR_DEPLOYMENT = Word("MODEL|ENDPOINT/DEPLOYMENT", str, _subjects)
A_SUBJECT = Word("SUBJECT", str, _subjects)
A_DRIFT_ENGINE = Word("ENGINE", str, drift_engines)
A_DRIFT_DETECTOR = Word("DETECTOR", str, drift_detectors)
A_DRIFT_REFERENCE = Word("WHAT", _reference, _references)
A_ZONE = Word("ZONE", str, _zones)
A_SCHEDULE = Word("SCHEDULE", str, schedule_ids)
AN_ALIAS = Word("ALIAS", _named("alias"))
A_TAG = Pair("KEY=VALUE")
A_METRIC = Pair("KEY=NUMBER", _number)
A_VARIABLE = Pair("NAME=VALUE")
A_SECRET = Pair("ID=VARIABLE|FILE", keys=lambda _: ("pip.conf", "netrc", "condarc"))
A_WEIGHT = Pair("DEPLOYMENT=PERCENT", _weight, _deployment_names)
A_MOMENT = Word("AGE|TIME", _moment)
A_TIME_TO_COME = Word("AGE|TIME", _time_to_come)
DURATION = Word("TIME", _duration)
MEMORY = Word("SIZE", _megabytes)
A_PLATFORM = Word("PLATFORM", str, lambda _: ("linux/amd64", "linux/arm64"))
A_PRECISION = Word("TYPE", fpga.Precision.parse, lambda _: ("fixed<8,3>", "fixed<12,5>", fpga.DEFAULT_PRECISION, "fixed<24,10>"))
A_TARGET = Word("TARGET", _target, lambda _: targets.NAMES)
HARDWARE = Word("HARDWARE", hardware.checked, lambda _: hardware.NAMES)
PERCENT = Word("PERCENT", _percentage)
SEVERAL_PERCENT = Several(PERCENT, "PERCENT,…")
CORES = Word("CORES", _cores)
GPUS = Word("COUNT|all", _gpus, lambda _: ("all",))
SEVERAL_HARDWARES = Several(HARDWARE, "HARDWARE,…")
SEVERAL_CORES = Several(CORES, "CORES,…")
SEVERAL_BATCHES = Several(Word("ROWS", _rows_each), "ROWS,…")
A_PROMISE = Word("p95=TIME", _promise)
A_NUMBER = Word("NUMBER", _number)
A_MODEL_OBJECT = Live("MODEL")
DATA = Live("DATA")
A_DATASET_OR_FRAME = Live("DATASET", dataset_names)
