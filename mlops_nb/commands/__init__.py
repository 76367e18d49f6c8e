"""Every command, once: the `%mlops` magic, the `mlops` command line, their help and their completion all come from here.

A command parses its words, calls one verb below and returns what that made; showing it belongs to the face it was said to.
The layers below are imported inside the commands, so that help and completion answer at once.  One module for each heading of the help.
"""

from . import alerts, data, edge, explaining, kubernetes, models, packaging, rehearsal, serving, splitting, truth, watching, workspace
from .group import mlops, run
from .serving import given
from .words import new_lines

HEADINGS = (data, models, rehearsal, packaging, serving, kubernetes, edge, splitting, truth, watching, alerts, explaining, workspace)
"""The modules whose commands joined the group, as a user meets them; the help has the same order."""

mlops.order_by([module.__name__ for module in HEADINGS])

__all__ = ["HEADINGS", "given", "mlops", "new_lines", "run"]
