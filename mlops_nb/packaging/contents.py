"""What goes into an image besides the model: which of our own modules, and which packages they import."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from platform import machine

import msgspec

from .. import environments
from ..distributions import installed, normalised
from ..errors import MissingExtra
from ..rebuilding import SERVER_NEEDS
from ..store.environments import Environment, Package
from ..store.models import ModelVersion
from ..trees import compiled
from .wheels import ARCHITECTURES

_OURS = Path(__file__).parent.parent
_NAME = _OURS.name
HOME = "/opt/mlops"
"""Where all of ours stands in an image."""


class Contents(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of image: what it runs, and what that needs."""

    module: str
    """What `python -m` starts with the path of its specification."""
    needs: tuple[str, ...]
    """Distributions it imports besides the model's own."""
    extra: str = "all"
    """The extra of ours that brings them."""
    spec: str = f"{HOME}/spec.json"
    """Where its specification stands; elsewhere than in the image where that is to be mounted."""
    port: int | None = None
    """Where it answers HTTP; None for one that is asked some other way."""


CONTENTS: Mapping[str, Contents] = {
    "docker": Contents(module=f"{_NAME}.serving.contained", needs=SERVER_NEEDS, port=8080),
    "edge": Contents(module=f"{_NAME}.edge", needs=(*SERVER_NEEDS, "cbor2", "paho-mqtt"), extra="edge", spec="/var/lib/mlops/spec.json"),
}
"""By what `--target` calls it."""


def packages(version: ModelVersion, environment: Environment | None, contents: Contents) -> list[Package]:
    """The packages of an image, with exact versions, by name.

    An object or script gets those it was made with; a model that ONNX Runtime runs needs no others than ONNX Runtime, at the version it was
    made with where that is recorded.  What the server itself imports comes in the version that is installed here.
    """
    _check_here(contents)
    recorded = {normalised(package.name): package for package in (environment.packages if environment else [])}
    if version.engine == "onnxruntime":
        ours = environments.installed_here([*contents.needs, "onnxruntime"])
        found = {normalised(package.name): recorded.get(normalised(package.name), package) for package in ours}
    else:
        found = {normalised(package.name): package for package in environments.installed_here(contents.needs)} | recorded
    return [found[name] for name in sorted(found)]


def _check_here(contents: Contents) -> None:
    """Raises MissingExtra for a package that the image's module imports and that is not here to be locked."""
    for name in contents.needs:
        if normalised(name) not in installed():
            raise MissingExtra(name, extra=contents.extra, doing="Packaging it")


def model_files(version: ModelVersion) -> list[str]:
    """The places of those of its files that an image needs: of a converted model the ONNX form alone."""
    places = [file.path for file in version.files]
    converted = version.engine == "onnxruntime" and version.flavor not in ("onnx", "torch")
    return [place for place in places if place.startswith("model.onnx")] if converted else places


# ── our own code ─────────────────────────────────────────────────────────────────────────────────────────────────────


def modules(contents: Contents) -> dict[str, Path]:
    """The modules of ours that the image's module comes down to, each with its file, by dotted name.

    Of the package that is run every import counts, also within functions; of all others only what importing them executes.
    """
    whole = contents.module.rpartition(".")[0] if contents.module.count(".") > 1 else contents.module
    found: dict[str, Path] = {}
    waiting = [contents.module, f"{contents.module}.__main__"]
    while waiting:
        name = waiting.pop()
        file = _file(name)
        if file is None or name in found:
            continue
        found[name] = file
        waiting += _imported(name, file, file.stat().st_mtime_ns, deep=_within(name, whole) or _within(name, f"{_NAME}.serving"))
        waiting += [name.rpartition(".")[0]] if "." in name else []
    return dict(sorted(found.items()))


def libraries(contents: Contents, platform: str) -> list[Path]:
    """Our compiled code for the modules of the image, where what is here was compiled for its *platform* too."""
    here = sys.platform == "linux" and machine() == ARCHITECTURES.get(platform)
    return [compiled.LIBRARY] if here and compiled.LIBRARY.is_file() and compiled.__name__ in modules(contents) else []


def place(file: Path) -> str:
    """Where a file of ours stands below the folder on PYTHONPATH."""
    return file.relative_to(_OURS.parent).as_posix()


def _within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def _file(module: str) -> Path | None:
    """The file of a module of ours; None for anybody else's, and for a name that is no module."""
    if not _within(module, _NAME):
        return None
    stem = _OURS.parent.joinpath(*module.split("."))
    return next((file for file in (stem / "__init__.py", stem.with_suffix(".py")) if file.is_file()), None)


@lru_cache(maxsize=512)
def _imported(module: str, file: Path, _changed: int, *, deep: bool) -> tuple[str, ...]:
    """The dotted names that a module imports, those meant relatively made whole; read once for each change of its file."""
    package = module if file.name == "__init__.py" else module.rpartition(".")[0]
    names: list[str] = []
    for node in _imports(ast.parse(file.read_bytes()).body, deep=deep):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        else:
            base = _absolute(node, package)
            names += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return tuple(names)


def _absolute(node: ast.ImportFrom, package: str) -> str:
    above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
    return ".".join([*above, *([node.module] if node.module else [])])


def _imports(body: Iterable[ast.AST], *, deep: bool) -> Iterator[ast.Import | ast.ImportFrom]:
    """Every import statement that runs: none below `if TYPE_CHECKING`, and those within functions only when *deep*."""
    for node in body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            yield from _imports(node.orelse, deep=deep)
        elif deep or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _imports(ast.iter_child_nodes(node), deep=deep)
