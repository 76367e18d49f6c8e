"""Arithmetic of traffic: whole percentages that sum to 100."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from .errors import WeightsDoNotSum


def checked(endpoint: str, weights: Mapping[str, int]) -> dict[str, int]:
    """*weights* as given, zeros kept.  Raises WeightsDoNotSum unless each is 0–100 and together they are 100."""
    if not weights or any(not 0 <= weight <= 100 for weight in weights.values()) or sum(weights.values()) != 100:
        raise WeightsDoNotSum(endpoint, weights)
    return dict(weights)


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
