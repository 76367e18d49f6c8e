"""What a version is to answer: the rows it was tried on when it was registered, and what the live object said of them.

Kept as one artifact beside the version, so that `rehearsing` can ask the same again elsewhere and later.  With them goes what only
the notebook's process can tell: which versions of packages it had in memory, whatever is installed by now, and which local modules
in memory are no longer what their files say.
"""

from __future__ import annotations

import ast
import hashlib
import sys
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

import msgspec
from packaging.version import InvalidVersion, Version

from . import artifacts, signature
from .distributions import installed, normalised
from .errors import FileChanged, FileMissing
from .serving import frames

if TYPE_CHECKING:
    from .store.environments import Environment
    from .store.models import StoredFile

MOST_ROWS = 200
"""Of a registered data set.  Of rows that were only shown, and are not to be kept, those few stay that the signature has anyway."""
_MOST_VALUES = 100_000
_PLACE = "expected.json"
Outputs = dict[str, list[Any]]


class Expected(msgspec.Struct, frozen=True, kw_only=True):
    """Rows, and the answers that a version is to give to them."""

    rows: int
    columns: dict[str, list[Any]]
    """The rows as an endpoint is sent them."""
    outputs: Outputs
    """What the live object answered, as an endpoint words it."""
    frame: bytes = b""
    """The rows as the live object was given them, pickled by this workspace."""
    folder: str = ""
    """Where the notebook stood."""
    packages: dict[str, str] = {}
    """The version of each package of its environment that the notebook had in memory, or else had installed."""
    changed: dict[str, str] = {}
    """Local modules that were not in memory what their file said: place below `code/` → what differed."""


def keep(
    rows: Any, outputs: Mapping[str, Any], *, most: int, environment: Environment, files: Mapping[str, Any], local_modules: Collection[str]
) -> StoredFile:  # fmt: skip
    """Keep the first *most* of *rows* (fewer when each is large) with the *outputs* that belong to them.  Raises StoreFull."""
    count = min(most, _fitting(rows))
    head = first(rows, count)
    columns = signature.as_lists(signature.to_columns(head))
    expected = Expected(
        rows=len(next(iter(columns.values()), ())), columns=columns, outputs=worded({name: values[:count] for name, values in outputs.items()}),
        frame=frames.pickled(head), folder=str(Path.cwd()), packages=_in_memory(environment), changed=dict(_changed(local_modules, files)),
    )  # fmt: skip
    return artifacts.keep(encoded(expected), path=_PLACE)


def read(file: StoredFile) -> Expected:
    """What `keep` kept.  Raises FileMissing, FileChanged."""
    place = artifacts.address(file.sha256)
    if not place.exists():
        raise FileMissing(place)
    content = place.read_bytes()
    if hashlib.sha256(content).hexdigest() != file.sha256:
        raise FileChanged(place)
    return msgspec.json.decode(content, type=Expected)


def encoded(expected: Expected) -> bytes:
    """As JSON, whatever a model's outputs hold."""
    from .serving import protocol

    return msgspec.json.encode(expected, enc_hook=protocol.plain)


def worded(outputs: Mapping[str, Any]) -> Outputs:
    """Arrays as an endpoint words them: lists of what JSON can hold."""
    from .serving import protocol, score

    return msgspec.json.decode(msgspec.json.encode(score.answer(outputs), enc_hook=protocol.plain))


def first(rows: Any, count: int) -> Any:
    """The first *count* rows of a frame, an array, a list, or a dict of these."""
    if isinstance(rows, Mapping):
        return {name: values[:count] for name, values in rows.items()}
    return rows.iloc[:count] if hasattr(rows, "iloc") else rows[:count]


def _fitting(rows: Any) -> int:
    """How many rows make no more than a hundred thousand values; one at least."""
    columns = signature.to_columns(first(rows, 1))
    return max(1, _MOST_VALUES // max(1, sum(array.size for array in columns.values())))


# ── what the notebook has in memory ──────────────────────────────────────────────────────────────────────────────────


def _in_memory(environment: Environment) -> dict[str, str]:
    """Versions by package; a module says its own where it has been imported and says something that differs from what is installed."""
    return {package.name: _loaded(package.name, direct=package.direct) or package.version for package in environment.packages}


def _loaded(name: str, *, direct: bool) -> str:
    """The version that the imported module of a package gives itself, when that is another than the installed one."""
    known = installed().get(normalised(name))
    guesses = sorted(known.tops) if known and direct else [name.replace("-", "_"), name.replace("-", "_").lower()]
    for module in filter(None, map(sys.modules.get, guesses)):
        told = getattr(module, "__version__", None)
        if known and isinstance(told, str) and _differ(told, known.version):
            return told
    return ""


def _differ(one: str, other: str) -> bool:
    try:
        return Version(one).public != Version(other).public
    except InvalidVersion:
        return False  # no version that could be installed


def _changed(modules: Collection[str], files: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Local modules whose functions or constants in memory are not those of the file that travels."""
    for name in sorted(modules):
        base = f"code/{name.replace('.', '/')}"
        place = next((place for place in (f"{base}.py", f"{base}/__init__.py") if isinstance(files.get(place), bytes)), None)
        live = sys.modules.get(name)
        if place and live and (found := _difference(live, files[place])):
            yield place.removeprefix("code/"), found


def _difference(live: ModuleType, source: bytes) -> str:
    """The first name that is otherwise in memory than in the file: `rate is 3 in the notebook and 2 in the file`; empty when none is."""
    tree = ast.parse(source)
    codes = {code.co_qualname: code for code in _codes(compile(tree, live.__file__ or "", "exec"))}
    for function in _functions(live):
        if function.__qualname__ not in codes or not _same_code(function.__code__, codes[function.__qualname__]):
            return f"{function.__qualname__}() was edited after the notebook imported it"
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and isinstance(node.targets[0], ast.Name):
            name, value = node.targets[0].id, node.value.value
            if isinstance(here := getattr(live, name, None), int | float | str) and here != value:
                return f"{name} is {here!r} in the notebook and {value!r} in the file"
    return ""


def _functions(live: ModuleType) -> Iterator[FunctionType]:
    """The functions and methods that the module itself defines; a wrapped one cannot be compared."""
    owners = [live, *(value for value in vars(live).values() if isinstance(value, type) and value.__module__ == live.__name__)]
    for value in (value for owner in owners for value in list(vars(owner).values())):
        if isinstance(value, FunctionType) and value.__module__ == live.__name__ and not hasattr(value, "__wrapped__"):
            yield value


def _codes(code: CodeType) -> Iterator[CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from _codes(constant)


def _same_code(one: CodeType, other: CodeType) -> bool:
    """Whether two functions do the same, wherever their lines stand."""
    consts, others = ([c for c in code.co_consts if not isinstance(c, CodeType)] for code in (one, other))
    return (one.co_code, one.co_names, consts) == (other.co_code, other.co_names, others)
