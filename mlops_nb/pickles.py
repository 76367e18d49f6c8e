"""Pickles written with what they refer to, and read for what they refer to without running anything."""

from __future__ import annotations

import dis
import io
import mmap
import pickle
import re
import sys
import zlib
from collections import ChainMap
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import msgspec

from .errors import NotPicklable
from .sources import Import, cell_name

PROTOCOL = 5


class Pickled(msgspec.Struct, frozen=True):
    """An object's bytes, and every module that reading them back and running its functions will import."""

    data: bytes
    imports: frozenset[Import]


def dumps(obj: Any) -> Pickled:
    """Pickle *obj*; what is defined in a cell travels by value.  Raises NotPicklable naming the attribute that cannot travel."""
    import cloudpickle

    imports: set[Import] = set()

    class Watching(cloudpickle.Pickler):
        """Notes the imports inside functions that travel by value, which no reference in the pickle shows, and keeps the names of their cells."""

        dispatch_table = ChainMap({CodeType: _with_its_filename}, cloudpickle.Pickler.dispatch_table)

        def reducer_override(self, part: Any) -> Any:
            reduced = super().reducer_override(part)
            if isinstance(part, FunctionType) and reduced is not NotImplemented:
                imports.update(_imports_in(part.__code__))
            return reduced

    buffer = io.BytesIO()
    try:
        Watching(buffer, protocol=PROTOCOL).dump(obj)
    except (pickle.PicklingError, TypeError, AttributeError, NotImplementedError, ValueError, RecursionError) as error:
        raise NotPicklable(type(obj).__name__, _culprit(obj), error) from error
    data = buffer.getvalue()
    found = {Import(module) for module, _ in references(data).names} | {Import(base) for base in _bases(references(data))}
    return Pickled(data, frozenset(found | imports))


def _with_its_filename(code: CodeType) -> Any:
    """As cloudpickle does it, with the file's or cell's name, which it may leave out: a traceback in the server needs it."""
    import cloudpickle

    make, arguments, *rest = cloudpickle.Pickler.dispatch_table[CodeType](code)
    named = tuple(cell_name(code.co_filename) if argument in (code.co_filename, "<dynamic-code>") else argument for argument in arguments)
    return make, named, *rest


class References(msgspec.Struct, frozen=True):
    """The names a pickle looks up, and the type of the object it holds, when that is told by name."""

    names: frozenset[tuple[str, str]]
    root: tuple[tuple[str, str], ...]
    """Module and name of the object's class and, where the class itself is in the pickle, of its bases."""


def references(data: bytes) -> References:
    """Every name that unpickling *data* would look up; nothing is imported and nothing of it runs.  Raises pickle.UnpicklingError."""
    reader = _Inert(io.BytesIO(data))
    found = reader.load()
    kind = found if isinstance(found, type) else type(found)
    root = tuple(stand_in.stands_for for stand_in in kind.__mro__ if issubclass(stand_in, StandIn) and stand_in is not StandIn)
    return References(frozenset(reader.seen), tuple(name for name in root if name[0]))


_GLOBAL = re.compile(rb"\x8c.([A-Za-z_][\w.]*)\x94\x8c.[A-Za-z_][\w.]*\x94\x93|c([A-Za-z_][\w.]*)\n[A-Za-z_][\w.]*\n", re.DOTALL)
"""A module's name and one in it, as pickles of protocol 4 and later write them, and earlier ones."""
_ZLIB, _MOST_UNPACKED = b"x", 1 << 28


def modules_named_in(path: Path) -> frozenset[str]:
    """The modules that the pickle in *path* names, also where arrays lie in it as they are, as joblib writes them; nothing of it runs."""
    if not path.stat().st_size:
        return frozenset()
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        data = _unpacked(content[:]) if content[:1] == _ZLIB else content
        return frozenset((later or earlier).decode() for later, earlier in _GLOBAL.findall(data))


def _unpacked(data: bytes) -> bytes:
    try:
        return zlib.decompressobj().decompress(data, _MOST_UNPACKED)
    except zlib.error:
        return data


class StandIn:
    """Takes the place of whatever a pickle names, accepts everything and does nothing."""

    stands_for = ("", "")

    def __new__(cls, *args: Any, **keywords: Any) -> Any:
        return object.__new__(cls)

    def __init__(self, *args: Any, **keywords: Any) -> None:
        pass

    def __call__(self, *args: Any, **keywords: Any) -> Any:
        return StandIn()

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, value: Any) -> None:
        """Take a list's member."""

    def extend(self, values: Any) -> None:
        """Take a list's members."""

    def add(self, value: Any) -> None:
        """Take a set's member."""


class _Inert(pickle.Unpickler):
    """An unpickler whose every name leads to a stand-in."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.seen: set[tuple[str, str]] = set()
        self.made: dict[tuple[str, str], Any] = {}

    def find_class(self, module: str, name: str) -> Any:
        self.seen.add((module, name))
        key = (module, name)
        if key not in self.made:
            self.made[key] = self._stand_in(module, name)
        return self.made[key]

    def persistent_load(self, pid: Any) -> Any:
        return StandIn()

    def _stand_in(self, module: str, name: str) -> Any:
        if name == "subimport":
            return self._imported
        if name == "_make_skeleton_class":
            return _class_by_value
        if (module, name) == ("copyreg", "_reconstructor"):
            return lambda kind, *rest: kind() if isinstance(kind, type) else StandIn()
        if name in ("_make_skeleton_enum", "_builtin_type", "type"):
            return lambda *args: StandIn
        return type(name.rpartition(".")[2] or "StandIn", (StandIn,), {"stands_for": (module, name)})

    def _imported(self, module: str) -> Any:
        self.seen.add((module, ""))
        return StandIn()


def _class_by_value(make: Any, name: str, bases: tuple[Any, ...], *rest: Any) -> type:
    """A class whose definition is in the pickle: it keeps its bases' names, which tell what kind of model it is."""
    known = tuple(dict.fromkeys(base for base in bases if isinstance(base, type) and issubclass(base, StandIn) and base is not StandIn))
    try:
        return type(str(name), known or (StandIn,), {"stands_for": ("", "")})
    except TypeError:  # an order of bases that Python refuses among stand-ins
        return StandIn


def _bases(found: References) -> Iterator[str]:
    """Modules of the base classes of what the pickle names: a class needs its bases' packages, whoever names them."""
    for module, name in found.names:
        kind: Any = sys.modules.get(module)
        for part in name.split("."):
            kind = getattr(kind, part, None)
        if isinstance(kind, type):
            yield from (base.__module__ for base in kind.__mro__)


def _imports_in(code: CodeType) -> Iterator[Import]:
    """The imports a function does when it runs, those of functions inside it included."""
    instructions = list(dis.get_instructions(code))
    for place, instruction in enumerate(instructions):
        if instruction.opname == "IMPORT_NAME":
            names = instructions[place - 1].argval
            yield Import(instruction.argval, tuple(names) if isinstance(names, tuple) else (), optional=True)
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _imports_in(inner)


def _culprit(obj: Any) -> str:
    """The path to the innermost attribute that does not pickle, such as `.steps_cache.lock`."""
    import cloudpickle

    path, seen = "", set()
    while id(obj) not in seen:
        seen.add(id(obj))
        for label, part in _parts(obj):
            try:
                cloudpickle.dumps(part, protocol=PROTOCOL)
            except Exception:  # whatever it says, this is the part that cannot travel
                path, obj = path + label, part
                break
    return path


def _parts(obj: Any) -> list[tuple[str, Any]]:
    if isinstance(obj, dict):
        return [(f"[{key!r}]", value) for key, value in obj.items()]
    if isinstance(obj, list | tuple):
        return [(f"[{place}]", value) for place, value in enumerate(obj)]
    return [(f".{name}", value) for name, value in getattr(obj, "__dict__", {}).items()] if not isinstance(obj, type) else []
