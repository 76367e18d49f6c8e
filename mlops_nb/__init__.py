"""The MLOps workspace that lives in a notebook.

In a notebook: `%load_ext mlops_nb`, then `%mlops --help`.  In Python: the modules and nouns named in `__all__`, each imported
when it is first used, so that importing this package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .version import __version__

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

_MODULES = ("datasets", "registry", "rollout", "monitoring", "profiling", "lineage", "environments", "dashboards", "keys", "cards", "errors", "settings")
_NAMES = {
    # nouns
    "ModelRef": "reference",
    "DeploymentRef": "reference",
    "DatasetVersion": "store.datasets",
    "ModelVersion": "store.models",
    "Environment": "store.environments",
    "Deployment": "store.deployments",
    "DeploymentSpec": "store.deployments",
    "DriftCheck": "store.checks",
    "Profile": "store.checks",
    "Event": "store.events",
    "Client": "client",
    "Workspace": "settings",
    # errors
    "MlopsError": "errors",
    "UsageError": "errors",
    "NotFound": "errors",
    "Busy": "errors",
    "GateFailed": "errors",
    "Failed": "errors",
}

__all__ = ["__version__", "load_ipython_extension", "unload_ipython_extension", *_MODULES, *_NAMES]


def load_ipython_extension(ipython: InteractiveShell) -> None:
    """`%load_ext mlops_nb`: adds `%mlops` and its completion to the notebook."""
    from .notebook import magics

    magics.load(ipython)


def unload_ipython_extension(ipython: InteractiveShell) -> None:
    """`%unload_ext mlops_nb`: takes them away again."""
    from .notebook import magics

    magics.unload(ipython)


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f".{name}", __name__)
    if name in _NAMES:
        return getattr(importlib.import_module(f".{_NAMES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
