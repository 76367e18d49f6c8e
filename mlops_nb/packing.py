"""From a live object, or files made elsewhere, to the files of a model version — and back, in another process and folder.

What a model needs travels with it: what a cell defined is pickled by value, the user's own modules go along as source below
`code/`, and the packages it imports are named, so that the environment can be recorded.
"""

from __future__ import annotations

import hashlib
import importlib
import linecache
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import msgspec

from . import flavors, pickles, sources, store
from .errors import BadOption, FileMissing, MlopsError, NotAModel, NotAnEntryScript, SampleNeeded, TrustNeeded, UnsafePath, listed
from .flavors import ModelFile, OnnxModel
from .safety import path_inside
from .settings import Workspace
from .sources import Import, Needs
from .store import models
from .store.runs import Cell

Files = dict[str, bytes | Path]

PROVIDED = frozenset({"azureml", "azureml_inference_server_http"})
"""What an entry script may import though nobody installed it: the scoring server brings it."""
_SCRIPT = "entry/score.py"
_PICKLED = frozenset({".pkl", ".pickle", ".joblib"})
_NOT_PART_OF_A_MODEL = frozenset({"__pycache__", ".git", ".ipynb_checkpoints", ".DS_Store"})


class Packed(msgspec.Struct, frozen=True, kw_only=True):
    """The files of a model version, and what they need to work."""

    flavor: str
    engine: Literal["onnxruntime", "python", "script"]
    """`onnxruntime`, `python` or `script`."""
    files: Files
    """Place in the model's folder → content, or the file that holds it."""
    modules: frozenset[str]
    """The packages it imports, by the name it imports them under."""
    local_modules: frozenset[str] = frozenset()
    """The user's own modules that travel below `code/`."""
    trusted: bool = False
    """Whether its pickles may be opened: written here, or vouched for by the user."""
    subject: Any = None
    """The model itself, to be asked what it takes and gives; None behind an entry script."""
    report: dict[str, Any] = {}
    """How the ONNX form of a torch module was tried beside it and timed."""


# ── packing ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def pack(obj: Any, *, entry: str | Path | None = None, code: Sequence[str | Path] = (), sample: Any = None) -> Packed:
    """The files of a live object; *entry* is a script that answers for it, *code* more of the user's own files it needs.

    A torch module is exported to ONNX by running it on *sample*.
    Raises NotAModel, NotPicklable, SampleNeeded, NotExportable, FileMissing, UnsafePath.
    """
    if obj is None and entry is not None:
        return _behind_script(entry, {}, code=code, trusted=True)
    flavor = flavors.of(obj)
    if flavor is None and entry is None:
        raise NotAModel(_said(obj), rows=hasattr(obj, "columns") or hasattr(obj, "__array__"))
    if flavor in ("torch", "onnx"):
        packed = _as_onnx(obj, flavor, sample)
        return packed if entry is None else _behind_script(entry, packed.files, code=code, trusted=True)
    pickled = pickles.dumps(obj)
    files: Files = {flavors.PLACES["pickle"]: pickled.data}
    if entry is not None:
        return _behind_script(entry, files, code=code, trusted=True, imports=pickled.imports)
    return _with_code(Packed(flavor=flavor or "python", engine="python", files=files, modules=_frames(obj), trusted=True, subject=obj), pickled.imports, code)


def pack_path(path: str | Path, *, trust: bool = False, entry: str | Path | None = None, code: Sequence[str | Path] = ()) -> Packed:
    """The files at *path*: a folder (one model of several files, MLflow's too), an ONNX file, a booster's own format, or a pickle.

    A pickle is opened only with *trust*, or where this workspace wrote its very bytes and those of the code beside it; an entry
    script that the folder brings along, and that *entry* does not name, is taken on the same terms.
    Raises FileMissing, TrustNeeded, NotAModel, UnsafePath, MissingPackage, BadOption (also when a trusted pickle cannot be opened), NotAnEntryScript.
    """
    path = Path(path).expanduser().absolute()
    if not path.exists():
        raise FileMissing(path)
    files: Files = dict(_files_in(path)) if path.is_dir() else {path.name: path}
    code = [*code, path / "code"] if (path / "code").is_dir() else code
    script = _script_in(path, entry)
    if script is not None:
        if entry is None and not trust and not _written_here(script, _SCRIPT):
            raise TrustNeeded(script, what="an entry script")
        return _behind_script(script, files, code=code, trusted=trust)
    file, trusted = _main_file(path, files, trust=trust)
    flavors.check_installed(file)
    if not path.is_dir():
        files = {}
    with _importable(path / "code"):
        subject = _opened(file, alone=not path.is_dir())
        files[file.place] = file.path
        if file.format == "onnx":
            return _of_onnx("onnx", files, subject=subject)
        imports = pickles.dumps(subject).imports
        packed = Packed(flavor=flavors.of(subject) or "python", engine="python", files=files, modules=_frames(subject), trusted=trusted, subject=subject)
        return _with_code(packed, imports, code)


def _with_code(packed: Packed, imports: frozenset[Import], code: Sequence[str | Path]) -> Packed:
    """*packed* with the user's own modules that *imports* lead to, and those in *code*."""
    needed = _needs(imports, code)
    return msgspec.structs.replace(
        packed, files=packed.files | _below_code(needed, code), modules=packed.modules | needed.modules, local_modules=needed.local_modules
    )


def _behind_script(entry: str | Path, files: Files, *, code: Sequence[str | Path], trusted: bool, imports: frozenset[Import] = frozenset()) -> Packed:
    """Files that an entry script with `init()` and `run(raw_data)` answers for."""
    script = Path(entry).expanduser().absolute()
    if not script.is_file():
        raise FileMissing(entry)
    source = script.read_bytes()
    try:
        imported, names = sources.imports_in(source, filename=str(script)), sources.names_in(source)
    except SyntaxError as error:
        raise BadOption(f"{script.name}, line {error.lineno}: {error.msg}.", hint="mend the script and register again") from error
    if not names & {"run", "*"}:
        raise NotAnEntryScript(script)
    needed = _needs(imports | set(imported) | _of_pickles(files), [*code], beside=script.parent)
    return Packed(
        flavor="script", engine="script", files=files | {"entry/score.py": source} | _below_code(needed, code),
        modules=needed.modules - PROVIDED, local_modules=needed.local_modules, trusted=trusted,
    )  # fmt: skip


def _of_pickles(files: Files) -> set[Import]:
    """What the pickles that a script is to open name, as far as it is here."""
    paths = [content for content in files.values() if isinstance(content, Path) and content.suffix.lower() in _PICKLED]
    return {Import(module, optional=True) for path in paths for module in pickles.modules_named_in(path)}


def _needs(imports: frozenset[Import], code: Sequence[str | Path], *, beside: Path | None = None) -> Needs:
    given = [Path(path).expanduser().absolute() for path in code]
    roots = [path.parent if path.is_file() or (path / "__init__.py").exists() else path for path in given] + ([beside] if beside else [])
    named = {Import(name) for name in map(_module_name, _given(code)) if name}
    return sources.needs(imports | named, near=roots, first=[str(root) for root in roots])


def _below_code(needed: Needs, code: Sequence[str | Path]) -> Files:
    return {f"code/{place}": content for place, content in (_given(code) | needed.files).items()}


def _given(code: Sequence[str | Path]) -> Files:
    """Files and folders the user named, as they go below `code/`: a package under its name, another folder's content as it is."""
    found: Files = {}
    for path in (Path(path).expanduser().absolute() for path in code):
        if path.is_dir():
            prefix = f"{path.name}/" if (path / "__init__.py").exists() else ""
            found |= {prefix + place: file for place, file in _files_in(path)}
        elif path.is_file():
            found[path.name] = path
        else:
            raise FileMissing(path)
    return found


def _module_name(place: str) -> str | None:
    if not place.endswith(".py"):
        return None
    parts = place.removesuffix(".py").removesuffix("/__init__").split("/")
    return ".".join(parts) if all(part.isidentifier() for part in parts) else None


def _frames(obj: Any) -> frozenset[str]:
    """pandas, for a model that was fitted on named columns and asks for them by name."""
    named = getattr(obj, "feature_names_in_", None) is not None or bool(getattr(obj, "feature_names", None))
    return frozenset({"pandas"}) if named else frozenset()


def _said(obj: Any) -> str:
    return f"The class {obj.__name__} (not an instance of it)" if isinstance(obj, type) else f"A {type(obj).__name__}"


# ── ONNX ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _as_onnx(obj: Any, flavor: str, sample: Any) -> Packed:
    if flavor == "torch":
        if sample is None:
            raise SampleNeeded(type(obj).__name__)
        from . import conversion

        content, report = conversion.from_torch(obj, sample)
    else:
        content, report = obj if isinstance(obj, bytes) else obj.SerializeToString(), {}
    packed = _of_onnx(flavor, {flavors.PLACES["onnx"]: content}, subject=_session(content))
    return msgspec.structs.replace(packed, report=report)


def _of_onnx(flavor: str, files: Files, *, subject: Any) -> Packed:
    return Packed(flavor=flavor, engine="onnxruntime", files=files, modules=frozenset({"onnxruntime"}), subject=subject)


def _session(content: bytes | Path) -> OnnxModel:
    """The model in these bytes, or this file.  Raises BadOption when ONNX Runtime does not take it."""
    try:
        return OnnxModel(content)
    except Exception as error:  # ONNX Runtime's exceptions share no base class
        raise BadOption(
            f"This is no ONNX model that ONNX Runtime takes: {str(error).splitlines()[0]}",
            hint="an onnx.ModelProto, a .onnx file, or its folder when the weights are in files beside it",
        ) from error


# ── files made elsewhere ─────────────────────────────────────────────────────────────────────────────────────────────


def _files_in(folder: Path) -> Iterator[tuple[str, Path]]:
    """Every file below *folder*.  Raises UnsafePath for one that leads out of it, is no plain file, or has a name no folder could take."""
    waiting = [folder]
    while waiting:
        for path in sorted(waiting.pop().iterdir()):
            if path.name in _NOT_PART_OF_A_MODEL:
                continue
            place = path.relative_to(folder).as_posix()
            real = path_inside(folder, place)
            if real.is_dir() and not path.is_symlink():
                waiting.append(path)
            elif real.is_file():
                yield place, real
            else:  # a link to a folder, a socket, a pipe
                raise UnsafePath(place)


def _script_in(path: Path, entry: str | Path | None) -> Path | None:
    """The entry script: in the folder itself, else where the user stands."""
    if entry is None:
        kept = path / _SCRIPT
        return kept if kept.is_file() else None
    inside = path / entry
    return inside if path.is_dir() and inside.is_file() else Path(entry)


def _main_file(path: Path, files: Files, *, trust: bool) -> tuple[ModelFile, bool]:
    """The file that holds the model, and whether it may be opened though it is a pickle.  Raises NotAModel, BadOption, TrustNeeded."""
    found = _candidates(path, files)
    if not found:
        raise NotAModel(f"{'The folder' if path.is_dir() else 'The file'} {path.name}", script=path.name if path.suffix == ".py" else "")
    safe = [file for file in found if not file.runs_code]
    vouched = _vouched(found, files, trust=trust)
    chosen = _only_one(path, vouched or safe or found)
    if chosen.runs_code and (unknown := next((file for file in found if file.runs_code and file not in vouched), None)):
        raise TrustNeeded(unknown.path)
    return chosen, chosen.runs_code


def _vouched(found: Sequence[ModelFile], files: Files, *, trust: bool) -> list[ModelFile]:
    """The pickles among them that may be opened: all with *trust*, else those whose bytes, and those of the code beside them, this workspace wrote."""
    pickled = [file for file in found if file.runs_code]
    if trust:
        return pickled
    code_is_ours = all(_written_here(content, place) for place, content in files.items() if place.startswith("code/") and isinstance(content, Path))
    return [file for file in pickled if code_is_ours and _written_here(file.path, *flavors.PLACES.values())]


def _only_one(path: Path, files: Sequence[ModelFile]) -> ModelFile:
    """The only one, or the one called `model`.  Raises BadOption."""
    named = [file for file in files if file.path.stem == "model"] if len(files) > 1 else []
    chosen = named or files
    if len(chosen) > 1:
        raise BadOption(
            f"{path.name} holds several models: {listed(file.path.name for file in chosen)}.", hint="name one of the files, or add --entry score.py"
        )
    return chosen[0]


def _candidates(path: Path, files: Files) -> list[ModelFile]:
    if path.is_dir() and (said := flavors.mlflow_file(path)):
        place = path_inside(path, said.path.as_posix())
        if not place.is_file():
            raise FileMissing(place)
        return [ModelFile(place, said.format)]
    return [file for place, content in files.items() if not place.startswith("code/") and isinstance(content, Path) and (file := flavors.file_of(content))]


def _written_here(path: Path, *places: str) -> bool:
    """Whether a version that this workspace trusts holds these very bytes at one of *places*."""
    if not Workspace.current().store.exists():
        return False
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    with store.reading() as tx:
        return models.is_trusted(tx, digest, places=places)


def _opened(file: ModelFile, *, alone: bool) -> Any:
    """The model in *file*; an ONNX file that is to travel *alone* must hold all of its weights."""
    if file.format == "onnx":
        return _session(file.path.read_bytes() if alone else file.path)
    try:
        subject = flavors.opened(file)
    except MlopsError:
        raise
    except Exception as error:  # a damaged file, or what its author's classes raise: it may be anything
        raise BadOption(
            f"{file.path.name} cannot be opened: {type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}",
            hint="--code PATH for modules of your own that it needs, and the package versions it was saved with",
        ) from error
    if flavors.of(subject) is None:
        raise NotAModel(f"{file.path.name} holds a {type(subject).__name__}, which")
    return subject


@contextmanager
def _importable(code: Path) -> Iterator[None]:
    """Within the block, the modules in *code* can be imported."""
    before = list(sys.path)
    if code.is_dir():
        _import_from(code)
    try:
        yield
    finally:
        sys.path[:] = before


# ── loading ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def load(folder: str | Path, flavor: str, *, cells: Sequence[Any] = ()) -> Any:
    """The model laid out in *folder*, opened; the code that came with it is found before any other of the same name, from here on.

    *cells* (each with `number`, `filename`, `source`) let tracebacks show code from the notebook.  This opens pickles: the caller
    has made sure that the version is trusted.  Raises FileMissing, and whatever opening raises, such as ModuleNotFoundError.
    """
    folder = Path(folder)
    _show(cells)
    if (folder / "code").is_dir():
        _import_from(folder / "code")
    return flavors.opened(_stored(folder, flavor))


def _stored(folder: Path, flavor: str) -> ModelFile:
    formats = ("onnx",) if flavor in ("onnx", "torch") else ("pickle", "joblib", "skops")
    boosters = {"xgboost": ("model.ubj", "model.json"), "lightgbm": ("model.txt",)}.get(flavor, ())
    files = [ModelFile(folder / flavors.PLACES[format], format) for format in formats] + [ModelFile(folder / place, flavor) for place in boosters]
    found = next((file for file in files if file.path.is_file()), None)
    if found is None:
        raise FileMissing(files[0].path)
    return found


def _import_from(code: Path) -> None:
    sys.path.insert(0, str(code))
    importlib.invalidate_caches()


def _show(cells: Sequence[Any]) -> None:
    for cell in msgspec.convert(cells, list[Cell], from_attributes=True):
        if cell.filename:
            linecache.cache[cell.filename] = (len(cell.source), None, cell.source.splitlines(keepends=True), cell.filename)
