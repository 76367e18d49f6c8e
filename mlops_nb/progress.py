"""How a step tells its caller what it is doing; printing belongs to the faces."""

from __future__ import annotations

from typing import Protocol


class Reporter(Protocol):
    """Receives the progress of one long step."""

    def step(self, text: str) -> None:
        """A new thing is being done, in a few words."""

    def log(self, line: str) -> None:
        """A line from the thing itself, such as a server's log."""


class Silent:
    """A reporter that keeps quiet."""

    def step(self, text: str) -> None:
        """Say nothing."""

    def log(self, line: str) -> None:
        """Say nothing."""


SILENT = Silent()
