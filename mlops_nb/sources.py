"""Which code a model refers to is the user's own, and what that code imports in turn.

The user's own is a module whose file lies neither in the standard library nor in a folder that an installer fills.  Modules are
found the way the import system finds them, without importing anything; their imports are read from their source, those inside
functions included.  A name under `if TYPE_CHECKING` or in a `try` that expects ImportError is optional: taken when it is there.
"""

from __future__ import annotations

import ast
import os
import site
import sys
import sysconfig
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Literal

import msgspec

from .distributions import installed

_MAINS = ("__main__", "__mp_main__")  # what is defined there travels by value
OURSELVES = __name__.partition(".")[0]


class Import(msgspec.Struct, frozen=True):
    """One import as the source words it; *optional* when the code says that it may fail."""

    module: str
    names: tuple[str, ...] = ()
    level: int = 0
    optional: bool = False


class Needs(msgspec.Struct, frozen=True, kw_only=True):
    """What a set of names comes down to: the user's own source files, and the packages that must be installed."""

    files: dict[str, bytes | Path]
    """Place below `code/` → source (or the file itself where it is compiled)."""
    local_modules: frozenset[str]
    modules: frozenset[str]
    """Third-party imports: top-level names, dotted below a namespace package such as `google.protobuf`."""


def needs(names: Iterable[str | Import], *, near: Collection[Path] = (), first: Sequence[str] = ()) -> Needs:
    """Follow *names* (modules, or imports) to every local file and third-party package they lead to.

    Folders *near* hold the user's own code even where an installer knows them; *first* are searched before `sys.path`.
    A name nobody can find counts as third-party, so that whoever records the environment can say so.
    """
    search = _Search(near=tuple(path.resolve() for path in near), first=tuple(first))
    files: dict[str, bytes | Path] = {}
    local: set[str] = set()
    modules: set[str] = set()
    waiting = [Import(name) if isinstance(name, str) else name for name in names]
    waiting = [wanted for wanted in waiting if wanted.module not in ("", *_MAINS) and not wanted.level]
    while waiting:
        for name, spec, kind in search.meant(waiting.pop()):
            if kind == "installed":
                modules.add(name)
            elif spec and name not in local:
                local.add(name)
                files |= _file(name, spec)
                waiting += _imports_of(name, spec)
    return Needs(files=files, local_modules=frozenset(local), modules=frozenset(modules - {OURSELVES}))


def cell_name(filename: str) -> str:
    """What code that travels calls the cell it came from: the kernel's name for it without the kernel's number, so that the
    same cell makes the same bytes tomorrow.  Any other file keeps its name."""
    path = Path(filename)
    return f"<cell {path.stem}>" if path.parent.name.startswith("ipykernel_") else filename


def imports_in(source: str | bytes, *, filename: str = "<source>") -> list[Import]:
    """Every import a source has.  Raises SyntaxError."""
    return list(_walked(ast.parse(source, filename=filename), optional=False))


def names_in(source: str | bytes) -> frozenset[str]:
    """The names a source binds where it is not indented within a function or class; `*` when an import may bring any.  Raises SyntaxError."""
    found: set[str] = set()
    waiting: list[ast.AST] = [ast.parse(source)]
    while waiting:
        for node in ast.iter_child_nodes(waiting.pop()):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                found.add(node.name)
                continue
            if isinstance(node, ast.alias):
                found.add(node.asname or node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                found.add(node.id)
            waiting.append(node)
    return frozenset(found)


def is_bundled(spec: ModuleSpec) -> bool:
    """Whether Python itself brings the module."""
    if spec.origin in ("built-in", "frozen"):
        return True
    return spec.origin is not None and not _installed(spec.origin) and spec.origin.startswith(_standard_library())


class _Search(msgspec.Struct, frozen=True):
    """Finds modules by the import system's rules, importing none."""

    near: tuple[Path, ...]
    first: tuple[str, ...]

    def meant(self, wanted: Import) -> Iterator[tuple[str, ModuleSpec | None, Literal["local", "installed"]]]:
        """What one import executes: the installed package, or the local packages on the way, the module, and those of its names that are modules."""
        for name in _ways(wanted.module):
            spec = self.find(name)
            if spec is None and "." not in name and not wanted.optional:
                yield name, None, "installed"
            if spec is None or is_bundled(spec):
                return
            if self.is_local(spec):
                yield name, spec, "local"
            elif not _is_namespace(spec):
                yield name, spec, "installed"
                return
        for name in wanted.names:
            yield from self.meant(Import(f"{wanted.module}.{name}", optional=True)) if self.find(f"{wanted.module}.{name}") else ()

    def find(self, name: str) -> ModuleSpec | None:
        """Where *name* is: in the folders to look into first, else what this process has imported, else what it would import."""
        if spec := self._find_first(name):
            return spec
        live = sys.modules.get(name)
        spec = getattr(live, "__spec__", None) or (_spec_of(live) if live else None)
        if spec is not None:
            return spec
        parent, dot, _ = name.rpartition(".")
        if dot:
            within = self.find(parent)
            places = within.submodule_search_locations if within else None
            return PathFinder.find_spec(name, list(places)) if places else None
        if name in sys.builtin_module_names:
            return ModuleSpec(name, None, origin="built-in")
        return PathFinder.find_spec(name, [*self.first, *sys.path]) or _from_finders(name)

    def _find_first(self, name: str) -> ModuleSpec | None:
        """A regular module in the folders to look into first; a mere folder there must not hide a package elsewhere."""
        parent, dot, _ = name.rpartition(".")
        if dot:
            within = self._find_first(parent)
            return PathFinder.find_spec(name, list(within.submodule_search_locations or ())) if within else None
        spec = PathFinder.find_spec(name, list(self.first)) if self.first else None
        return None if spec is None or _is_namespace(spec) else spec

    def is_local(self, spec: ModuleSpec) -> bool:
        """Whether the module is the user's own."""
        places = _places(spec)
        return bool(places) and all(self._mine(place) for place in places)

    def _mine(self, place: str) -> bool:
        path = Path(place).resolve()
        if _installed(place) or _installed(str(path)) or str(path).startswith(_standard_library()) or not path.exists():
            return False
        if any(path.is_relative_to(root) for root in (*self.near, Path.cwd())):
            return not path.is_relative_to(_our_folder())
        return not any(path.is_relative_to(root) for root in (_our_folder(), *_editable_roots()))


def _file(name: str, spec: ModuleSpec) -> dict[str, bytes | Path]:
    """The module's file at its place below `code/`."""
    folder = name.replace(".", "/")
    if spec.submodule_search_locations is None:
        origin = Path(spec.origin or "")
        suffix = next((suffix for suffix in EXTENSION_SUFFIXES if origin.name.endswith(suffix)), origin.suffix)
        return {folder + suffix: origin.read_bytes() if suffix == ".py" else origin}
    if _is_namespace(spec):
        # Without this file a regular package of the same name, further down another machine's path, would win.
        return {f"{folder}/__init__.py": b""}
    return {f"{folder}/__init__.py": Path(spec.origin or "").read_bytes()}


def _imports_of(name: str, spec: ModuleSpec) -> Iterator[Import]:
    if not spec.origin or not spec.origin.endswith(".py"):
        return
    package = name if spec.submodule_search_locations is not None else name.rpartition(".")[0]
    for wanted in imports_in(Path(spec.origin).read_bytes(), filename=spec.origin):
        if not wanted.level:
            yield wanted
            continue
        base = package.split(".")[: len(package.split(".")) - wanted.level + 1]
        yield msgspec.structs.replace(wanted, module=".".join([*base, wanted.module] if wanted.module else base), level=0)


def _walked(node: ast.AST, *, optional: bool, inside: bool = False) -> Iterator[Import]:
    """The imports below *node*; one inside a function that is not installed cannot have been needed so far, hence optional."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (Import(alias.name, optional=optional or inside) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            yield Import(child.module or "", tuple(alias.name for alias in child.names), child.level, optional or inside)
        elif isinstance(child, ast.Call) and (name := _imported_by_call(child)):
            yield Import(name, optional=True)
        elif isinstance(child, ast.If) and _asks_for_types(child.test):
            for branch in child.orelse:
                yield from _walked(ast.Module([branch], []), optional=optional, inside=inside)
            continue
        allowed = optional or (isinstance(child, ast.Try | ast.TryStar) and _expects_failure(child)) or isinstance(child, ast.ExceptHandler)
        yield from _walked(child, optional=allowed, inside=inside or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda))


def _imported_by_call(call: ast.Call) -> str | None:
    called = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if called not in ("import_module", "__import__") or not call.args or not isinstance(call.args[0], ast.Constant):
        return None
    name = call.args[0].value
    return name if isinstance(name, str) and name and not name.startswith(".") else None


def _asks_for_types(test: ast.expr) -> bool:
    return (test.attr if isinstance(test, ast.Attribute) else getattr(test, "id", "")) == "TYPE_CHECKING"


def _expects_failure(node: ast.Try | ast.TryStar) -> bool:
    return any(
        handler.type is None or any(getattr(part, "id", "") in ("ImportError", "ModuleNotFoundError", "Exception") for part in ast.walk(handler.type))
        for handler in node.handlers
    )


def _ways(name: str) -> list[str]:
    """`a`, `a.b`, `a.b.c` of `a.b.c`."""
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts) + 1)]


def _spec_of(module: ModuleType | None) -> ModuleSpec | None:
    """A spec for a module that was loaded without one."""
    file = getattr(module, "__file__", None)
    if module is None or not file:
        return None
    spec = ModuleSpec(module.__name__, None, origin=file, is_package=hasattr(module, "__path__"))
    if spec.submodule_search_locations is not None:
        spec.submodule_search_locations += list(module.__path__)
    return spec


def _from_finders(name: str) -> ModuleSpec | None:
    """Ask the finders beside the path's own, such as those of editable installs."""
    for finder in sys.meta_path:
        if finder is not PathFinder and hasattr(finder, "find_spec") and (spec := finder.find_spec(name, None)):
            return spec
    return None


def _places(spec: ModuleSpec) -> list[str]:
    if (spec.origin and spec.has_location) or (spec.origin and os.sep in spec.origin):
        return [spec.origin or ""]
    return list(spec.submodule_search_locations or ())


def _is_namespace(spec: ModuleSpec) -> bool:
    return spec.submodule_search_locations is not None and (spec.origin is None or spec.origin == "namespace")


def _installed(place: str) -> bool:
    return "site-packages" in place or "dist-packages" in place or place.startswith(_install_folders())


@cache
def _install_folders() -> tuple[str, ...]:
    folders = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *site.getsitepackages(), site.getusersitepackages()}
    return tuple(folder.rstrip(os.sep) + os.sep for folder in folders)


@cache
def _standard_library() -> tuple[str, ...]:
    folders = {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), os.path.dirname(os.__file__)}  # noqa: PTH120 - text is compared
    return tuple(form.rstrip(os.sep) + os.sep for folder in folders for form in (folder, os.path.realpath(folder)))


@cache
def _our_folder() -> Path:
    return Path(__file__).resolve().parent


def _editable_roots() -> tuple[Path, ...]:
    return tuple(root for root in (distribution.editable_root for distribution in installed().values()) if root)
