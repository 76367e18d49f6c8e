"""Arithmetic of traffic: whole percentages that sum to 100, and the hundred slots that they are laid out on.

A caller who is to keep to one deployment is hashed onto one of a hundred slots; a split says which deployment has which.  A new split
moves as few slots as it can: what grows takes slots of what shrinks, and nobody else moves.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Literal

import msgspec

from .errors import BadOption, WeightsDoNotSum

COPY_MARK = "~shadow"
"""Behind the id of a request: this is the copy of it that a shadow was sent."""
Slots = Sequence[tuple[str, int]]
"""The hundred slots in order, as runs: deployment and how many."""
_FIELD = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*", re.ASCII)
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", re.ASCII)


class Sticky(msgspec.Struct, frozen=True):
    """By what a caller is known, so as to meet the same deployment again."""

    by: Literal["header", "cookie", "field"]
    name: str
    """The header's or cookie's name, or the dotted path of a field in the request's JSON."""

    def __str__(self) -> str:
        return f"{self.by}:{self.name}"


def sticky(text: str) -> Sticky | None:
    """`header:x-user`, `cookie:uid` or `field:parameters.user` read; None for an empty text or `none`.  Raises BadOption."""
    by, _, name = text.partition(":")
    if text in ("", "none"):
        return None
    if by in ("header", "cookie", "field") and (_FIELD if by == "field" else _TOKEN).fullmatch(name) and len(name) <= 100:
        return Sticky(by, name.lower() if by == "header" else name)  # type: ignore[arg-type]
    raise BadOption(f"{text[:60]!r} does not say by what callers are known.", hint="--sticky header:x-user, cookie:uid, field:parameters.user or none")


def checked(endpoint: str, weights: Mapping[str, int], *, now: Mapping[str, int]) -> dict[str, int]:
    """*weights* as given, zeros kept.

    Raises WeightsDoNotSum, with a split that does, unless each is 0–100 and together they are 100; *now* is what the endpoint's
    deployments have.
    """
    if not weights or any(not 0 <= weight <= 100 for weight in weights.values()) or sum(weights.values()) != 100:
        raise WeightsDoNotSum(endpoint, weights, instead=completed(weights, now))
    return dict(weights)


def completed(weights: Mapping[str, int], now: Mapping[str, int]) -> dict[str, int]:
    """The split that was most likely meant by *weights* that do not sum to 100.

    What they leave goes to the deployments they do not name, in the proportions these have *now*; where nothing is left or nobody else
    is there, the weights themselves are scaled.
    """
    said = {name: min(100, max(0, weight)) for name, weight in weights.items()}
    others = {name: share for name, share in now.items() if name not in said}
    left = 100 - sum(said.values())
    if left > 0 and others:
        return {**said, **_proportional(others, left)}
    return _proportional(said, 100) if said else {}


def _proportional(weights: Mapping[str, int], whole: int) -> dict[str, int]:
    """*weights* scaled to sum to *whole*; evenly where all of them are nothing."""
    return shared_out(weights if any(weights.values()) else dict.fromkeys(weights, 1), whole)


def shifted(weights: Mapping[str, int], name: str, percent: int) -> dict[str, int]:
    """*name* gets *percent*; the others share the rest in the proportions they had."""
    others = {other: weight for other, weight in weights.items() if other != name and weight > 0}
    if not others:
        return {name: 100}
    return {**shared_out(others, 100 - percent), name: percent}


def effective(weights: Mapping[str, int], able: Collection[str]) -> dict[str, int]:
    """The split while only *able* deployments can answer: theirs, scaled up to 100; as it is when none can."""
    left = {name: weight for name, weight in weights.items() if name in able and weight > 0}
    return shared_out(left, 100) if left else dict(weights)


def shared_out(weights: Mapping[str, int], whole: int) -> dict[str, int]:
    """*weights* scaled to sum to *whole* in integers, by largest remainder (Hamilton's method)."""
    total = sum(weights.values())
    exact = {name: weight * whole / total for name, weight in weights.items()}
    floors = {name: int(share) for name, share in exact.items()}
    by_remainder = sorted(weights, key=lambda name: (floors[name] - exact[name], name))
    for name in by_remainder[: whole - sum(floors.values())]:
        floors[name] += 1
    return floors


def slots(weights: Mapping[str, int], before: Slots = ()) -> list[tuple[str, int]]:
    """A hundred slots laid out by *weights*, with as few as possible given to another deployment than *before*; none where nobody has a share."""
    left = dict(weights)
    kept: list[str | None] = []
    for name in _spread(before):
        stays = left.get(name, 0) > 0
        kept.append(name if stays else None)
        left[name] = left.get(name, 0) - stays
    fresh = [name for name, count in left.items() for _ in range(max(0, count))]
    filled = [name if name is not None else fresh.pop() if fresh else None for name in kept] + fresh[::-1]
    return _runs([name for name in filled if name is not None])


def able_slots(before: Slots, able: Collection[str]) -> list[tuple[str, int]]:
    """The slots while only *able* deployments can answer: the others' are shared out, everybody else keeps theirs."""
    weights: dict[str, int] = {}
    for name, count in before:
        weights[name] = weights.get(name, 0) + count
    return slots(effective(weights, able), before)


def _spread(runs: Slots) -> list[str]:
    return [name for name, count in runs for _ in range(count)]


def _runs(spread: Sequence[str]) -> list[tuple[str, int]]:
    runs: list[tuple[str, int]] = []
    for name in spread:
        if runs and runs[-1][0] == name:
            runs[-1] = (name, runs[-1][1] + 1)
        else:
            runs.append((name, 1))
    return runs
