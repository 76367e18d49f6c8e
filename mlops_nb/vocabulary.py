"""The words of a command line: how each kind is read, and what completes it.  `grammar` makes lines of them."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import click
from click.shell_completion import CompletionItem

from . import fpga, hardware, settings, targets
from .errors import BadOption
from .reference import DeploymentRef, ModelRef
from .safety import checked_name

_AGO = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|h|d|w)")
_DAYS = {"today": 0, "yesterday": 1}
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(k|m|g)?i?b?", re.IGNORECASE)
_MEGABYTES = {"k": 1 / 1024, "m": 1, "g": 1024, "": 1}


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


# ── what is offered ──────────────────────────────────────────────────────────────────────────────────────────────────


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


# ── how it is read ───────────────────────────────────────────────────────────────────────────────────────────────────


def _moment(text: str) -> datetime:
    if ago := _AGO.fullmatch(text.strip()):
        return _away(text, -float(ago[1]) * _SECONDS[ago[2]])
    if text in _DAYS:
        return (datetime.now().astimezone() - timedelta(days=_DAYS[text])).replace(hour=0, minute=0, second=0, microsecond=0).astimezone(UTC)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise BadOption(f"{text!r} is neither a time nor an age.", hint="2h, 7d or 2026-01-31T08:00") from None
    return moment.astimezone(UTC)


def _away(text: str, seconds: float) -> datetime:
    """So long from now."""
    try:
        return datetime.now(UTC) + timedelta(seconds=seconds)
    except OverflowError:
        raise BadOption(f"{text!r} leads beyond any calendar.", hint="2h, 7d or 2026-01-31T08:00") from None


def _time_to_come(text: str) -> datetime:
    if ahead := _AGO.fullmatch(text.strip()):
        return _away(text, float(ahead[1]) * _SECONDS[ahead[2]])
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
        if math.isfinite(percent := float(text.removesuffix("%"))):
            return percent
        raise ValueError
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


# ── the words ────────────────────────────────────────────────────────────────────────────────────────────────────────


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
