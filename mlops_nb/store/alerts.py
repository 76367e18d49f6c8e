"""Rules that raise an alert, and how each one stands."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

import msgspec

from ..errors import RuleNotFound
from .database import Transaction, now


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """One condition that is watched on one endpoint, and whether it holds now."""

    id: str
    """`delays-1`: the endpoint, and which of its rules."""
    endpoint: str
    condition: str
    """As it was said, such as `error_rate > 5% for 5m`."""
    firing: bool = False
    since: datetime | None = None
    """When it began to fire."""
    value: str = ""
    """What was seen at the latest change, in words."""
    acknowledged: str = ""
    """Who has seen the alert that fires; empty again once it is over."""
    snoozed_until: datetime | None = None
    """Until then it is silent."""
    author: str = ""
    created_at: datetime

    @property
    def quiet(self) -> bool:
        """Whether it is silent now: somebody has seen it, or wanted no more of it for a while."""
        return bool(self.acknowledged) or (self.snoozed_until is not None and self.snoozed_until > now())


def add(tx: Transaction, endpoint: str, condition: str, *, author: str) -> Rule:
    """Watch *condition* from now on."""
    numbers = [int(rule.id.rpartition("-")[2]) for rule in of(tx, endpoint)]
    rule = Rule(id=f"{endpoint}-{max(numbers, default=0) + 1}", endpoint=endpoint, condition=condition, author=author, created_at=now())
    tx.insert("alert_rules", rule)
    return rule


def of(tx: Transaction, endpoint: str | None = None) -> list[Rule]:
    """Every rule (of *endpoint*): those that fire first, then by age."""
    where, values = ("WHERE endpoint = ?", [endpoint]) if endpoint else ("", [])
    return tx.rows(f"SELECT * FROM alert_rules {where} ORDER BY firing DESC, created_at", values, as_=Rule)


def telling_of_drift(rules: Iterable[Rule]) -> set[str]:
    """The endpoints of whose drift a rule tells, or is to be silent: what a check found of them is not told beside it."""
    return {rule.endpoint for rule in rules if rule.condition == "drift" and (rule.firing or rule.quiet)}


def get(tx: Transaction, id: str) -> Rule:
    """One rule.  Raises RuleNotFound."""
    found = tx.maybe("SELECT * FROM alert_rules WHERE id = ?", [id], as_=Rule)
    if not found:
        raise RuleNotFound(id, known=[rule.id for rule in of(tx)])
    return found


def change(tx: Transaction, rule: Rule, **values: Any) -> Rule:
    """Note how it stands: any of its fields, by name."""
    names = ", ".join(f"{name} = ?" for name in values)
    tx.execute(f"UPDATE alert_rules SET {names} WHERE id = ?", [*values.values(), rule.id])
    return msgspec.structs.replace(rule, **values)


def delete(tx: Transaction, rule: Rule) -> None:
    """Watch it no longer."""
    tx.execute("DELETE FROM alert_rules WHERE id = ?", [rule.id])


def delete_of(tx: Transaction, endpoint: str) -> None:
    """Watch an endpoint no longer."""
    tx.execute("DELETE FROM alert_rules WHERE endpoint = ?", [endpoint])
