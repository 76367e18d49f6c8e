"""How people name things: `churn:3`, `churn@champion`, `churn`; `churn/3` for a deployment."""

from __future__ import annotations

from typing import Self

import msgspec

from .errors import BadReference
from .safety import checked_name


class ModelRef(msgspec.Struct, frozen=True):
    """A model version as a user says it: by number, by alias, or neither (the newest)."""

    name: str
    version: int | None = None
    alias: str | None = None

    @classmethod
    def parse(cls, text: str, *, what: str = "model") -> Self:
        """`churn:3`, `churn@champion` or `churn`.  Raises BadReference, BadName."""
        text = str(text)
        if "@" in text:
            name, _, alias = text.partition("@")
            return cls(checked_name(name, what=what), alias=checked_name(alias, what="alias"))
        name, colon, version = text.partition(":")
        if not colon:
            return cls(checked_name(name, what=what))
        if not version.isascii() or not version.isdigit() or int(version) == 0 or len(version) > 9:
            raise BadReference(text, what=what)
        return cls(checked_name(name, what=what), version=int(version))

    def __str__(self) -> str:
        if self.alias:
            return f"{self.name}@{self.alias}"
        return f"{self.name}:{self.version}" if self.version else self.name


class DeploymentRef(msgspec.Struct, frozen=True):
    """A deployment as a user says it: `endpoint/name`, or the endpoint alone (all of its deployments)."""

    endpoint: str
    name: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """`churn/3` or `churn`.  Raises BadName."""
        endpoint, slash, name = str(text).partition("/")
        return cls(checked_name(endpoint, what="endpoint"), checked_name(name, what="deployment") if slash else None)

    def __str__(self) -> str:
        return f"{self.endpoint}/{self.name}" if self.name else self.endpoint
