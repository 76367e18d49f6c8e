"""What a card is made of, and how words, times and sizes are told on one."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

Tone = Literal["good", "bad", "warn", "idle"]


SHAPES: dict[Tone, str] = {"good": "✓", "bad": "✗", "warn": "!", "idle": "○"}


_TONES: dict[str, Tone] = {"healthy": "good", "failed": "bad", "unhealthy": "bad", "restarting": "warn", "starting": "warn", "pending": "warn"}


class Mark(msgspec.Struct, frozen=True):
    """A word with a tone: told by colour and by shape."""

    tone: Tone
    text: str

    def __str__(self) -> str:
        return f"{SHAPES[self.tone]} {self.text}"


class Share(msgspec.Struct, frozen=True):
    """A percentage, drawn as a bar where there is room."""

    percent: float

    def __str__(self) -> str:
        return f"{self.percent:g} %"


class Link(msgspec.Struct, frozen=True):
    """An address on this machine that a browser can open."""

    url: str

    def __str__(self) -> str:
        return self.url


Cell = str | Mark | Share | Link


class Table(msgspec.Struct, frozen=True):
    """Columns and rows; numbers are set right where the heading says so with a leading `#`."""

    columns: list[str]
    rows: list[list[Any]]


class Card(msgspec.Struct, frozen=True, kw_only=True):
    """What a person needs to see of one thing."""

    title: str
    kind: str = ""
    mark: Mark | None = None
    facts: list[tuple[str, Any]] = []
    tables: list[Table] = []
    log: str = ""
    note: str = ""
    line: str = ""
    """A line to say next, without its prompt."""


def ago(moment: datetime, *, now: datetime | None = None) -> str:
    """`2 minutes ago`, for people."""
    seconds = ((now or datetime.now(UTC)) - moment).total_seconds()
    if seconds < 5:
        return "just now"
    for unit, size in (("day", 86400), ("hour", 3600), ("minute", 60), ("second", 1)):
        if seconds >= size:
            count = int(seconds // size)
            return f"{count} {unit}{'s' if count > 1 else ''} ago"
    return "just now"


def size(count: float) -> str:
    """`1.2 MB`, for people."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:,.0f} {unit}" if unit == "bytes" else f"{count:,.1f} {unit}"
        count /= 1000
    raise AssertionError  # pragma: no cover


def oneline(value: Any) -> str:
    """The value's text without its line ends."""
    return " ".join(str(value).split("\n"))


def of_anything(thing: Any) -> Card:
    """The card of what has none of its own: its fields as they are."""
    fields = msgspec.structs.asdict(thing) if isinstance(thing, msgspec.Struct) else thing if isinstance(thing, Mapping) else {"": thing}
    return Card(title=type(thing).__name__, facts=[(worded(name), brief(value)) for name, value in fields.items()])


def worded(name: str) -> str:
    """A field's name as words: `created_at` becomes `created at`."""
    return name.replace("_", " ")


def brief(value: Any) -> str:
    """A value as a cell tells it: moments as ages, numbers to four digits, at most eight of a list."""
    if isinstance(value, datetime):
        return ago(value)
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return paired(value)
    if isinstance(value, list | tuple):
        return ", ".join(brief(item) for item in value[:8]) + (" …" if len(value) > 8 else "")
    return "" if value is None else str(value)


def paired(pairs: Mapping[str, Any]) -> str:
    """`auc=0.69 rows=100`."""
    return " ".join(f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}" for key, value in pairs.items())


def those_given(*facts: tuple[str, Any]) -> list[tuple[str, Any]]:
    """Those facts that say something."""
    return [(label, value) for label, value in facts if value not in (None, "", [], {})]


def status_mark(word: str) -> Mark:
    """A status with its tone."""
    return Mark(_TONES.get(word, "idle"), word)


def of_facts(facts: Mapping[str, Any]) -> Card:
    """The card of plain facts, the first of which is its title."""
    (label, value), *rest = facts.items()
    return Card(title=f"{worded(label)}: {brief(value)}", facts=[(worded(name), brief(said)) for name, said in rest])


def shortened(value: Any) -> str:
    """A number to five digits, any other text as it is."""
    try:
        return f"{float(value):.5g}"
    except ValueError:
        return str(value)
