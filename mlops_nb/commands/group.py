"""The group that all commands join."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from ..grammar import Face, Group, HelpWanted
from ..grammar import run as _run
from ..version import __version__


def run(words: Sequence[str], where: Face) -> Any:
    """Carry out one line, already split into words; see `grammar.run`."""
    return _run(mlops, words, where)


def _show_version(context: click.Context, _param: click.Parameter, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:
        raise HelpWanted(__version__)


@click.group(
    cls=Group,
    context_settings={"max_content_width": 100},
    params=[click.Option(["--version"], is_flag=True, expose_value=False, is_eager=True, callback=_show_version, help="Show the version.")],
)
def mlops() -> None:
    """Register, deploy, split, watch and explain models on this machine.

    Each command has examples in its own help, such as: mlops deploy --help
    """
