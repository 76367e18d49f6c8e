"""One address for every endpoint of a workspace: an Envoy that checks keys, splits traffic and hides the servers behind it.

`apply` says what should be routed where, `start` has an Envoy serve it.  Weights, backends and keys change while it serves.
"""

from .admin import counters
from .config import Backend, Route
from .live import apply, note_splits, splits_in_force
from .process import address, observe, start, stop

__all__ = ["Backend", "Route", "address", "apply", "counters", "note_splits", "observe", "splits_in_force", "start", "stop"]
