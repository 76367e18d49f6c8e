"""From a trained object, or files made elsewhere, to a model version such as `churn:3`."""

from __future__ import annotations

import getpass
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from . import artifacts, store
from .errors import BadOption, TrustNeeded, VersionInUse
from .progress import SILENT, Reporter
from .reference import ModelRef
from .safety import checked_name
from .settings import Workspace
from .store import datasets as dataset_table
from .store import deployments as deployment_table
from .store import environments as environment_table
from .store import events
from .store import models as table
from .store import runs as run_table
from .store.models import ModelVersion

if TYPE_CHECKING:
    from .conversion import Conversion
    from .packing import Packed
    from .probing import Probed
    from .signature import Signature

SAMPLE_ROWS = 1000
_EVERY_COLUMN = "Every column of {} counts as an input; if the model predicts one of them, register it with --target COLUMN."

_UNTRIED = "It was not asked anything, for want of rows: --data DATASET or --sample X[:100] would try it."


class Registered(msgspec.Struct, frozen=True, kw_only=True):
    """A new version, and the earlier one with the very same bytes, if there is one."""

    version: ModelVersion
    same_as: str | None = None
    note: str = ""
    """What the user may want to look at."""

    @property
    def ref(self) -> str:
        """The new version, as commands name it: `delays:3`."""
        return self.version.ref


class Provenance(msgspec.Struct, frozen=True, kw_only=True):
    """What made a model version: its data, environment and executed code."""

    version: ModelVersion
    dataset: dataset_table.DatasetVersion | None
    environment: environment_table.Environment | None
    run: run_table.Run | None


def register(
    model: Any,
    *,
    name: str,
    data: str | None = None,
    metrics: Mapping[str, float] | None = None,
    tags: Mapping[str, str] | None = None,
    description: str = "",
    entry: str | Path | None = None,
    code: Sequence[str | Path] = (),
    alias: str | None = None,
    trust: bool = False,
    convert: bool = True,
    sample: Any = None,
    target: str | None = None,
    report: Reporter = SILENT,
) -> Registered:
    """Keep *model* — a live object, or the path of a file or folder — as the next version of *name*.

    *data* names the registered data set it was trained on; its first rows (or *sample*, a DataFrame or array) give the
    signature and prove the ONNX form equal (an ONNX file without either states its own); *target* is the column in it that the
    model predicts.  Nothing is recorded unless everything succeeded.
    Raises BadName, NotAModel, TrustNeeded, FileMissing, DatasetNotFound, EnvironmentIncomplete, SignatureMismatch, CannotAnswer, StoreFull.
    """
    from . import probing, runs

    checked_name(name, what="model")
    if alias:
        checked_name(alias, what="alias")
    dataset = _dataset(data)
    rows_for = partial(probing.sample_for, dataset=dataset, sample=sample, earlier=_latest(name), target=target, most=SAMPLE_ROWS)
    report.step("packing the model and the code it needs")
    packed = _packed(model, entry=entry, code=code, trust=trust, rows_for=rows_for)
    probed, converted = _understood(packed, rows_for, convert=convert, report=report)
    signature = probed.signature if probed else probing.stated_by(packed.subject)
    report.step("recording the environment")
    environment, run = _environment(packed, signature), runs.capture()
    files = [artifacts.keep(content, path=path) for path, content in sorted(packed.files.items())]
    draft = ModelVersion(
        model=name, version=0, flavor=packed.flavor, engine=packed.engine, hash=artifacts.hash_of(files), files=files,
        signature=msgspec.to_builtins(signature) if signature else None, metrics=dict(metrics or {}), tags=dict(tags or {}),
        description=description, dataset=dataset.ref if dataset else None, environment=environment.ref, run=run.id,
        author=getpass.getuser(), trusted=packed.trusted, created_at=store.now(), aliases=[alias] if alias else [],
        expected=_expected(probed, packed, environment, dataset if sample is None else None),
    )  # fmt: skip
    registered = _recorded(_with_onnx(draft, converted), run, packed)
    guessed = dataset if target is None and sample is None else None
    return msgspec.structs.replace(registered, note=_note(packed, probed, guessed))


def get(ref: ModelRef | str) -> ModelVersion:
    """The version *ref* names.  Raises ModelNotFound, VersionNotFound, AliasNotFound."""
    with store.reading() as tx:
        return table.get(tx, _parsed(ref))


def search(
    name: str | None = None, *, tags: Mapping[str, str] | None = None, text: str | None = None, metric: str | None = None, most: int = 200
) -> list[ModelVersion]:
    """Versions, newest first, that fit every condition; *metric* is a comparison such as `auc>0.7`.

    Raises ModelNotFound when *name* is not registered at all, BadOption for a comparison that cannot be read.
    """
    condition = _comparison(metric) if metric else None
    with store.reading() as tx:
        if name:
            table.get(tx, ModelRef(name))
        return table.search(tx, name, tags=tags, text=text, metric=condition, most=most)


def provenance(ref: ModelRef | str) -> Provenance:
    """Which data, environment and code made this version.  Raises as `get`."""
    with store.reading() as tx:
        version = table.get(tx, _parsed(ref))
        return Provenance(
            version=version,
            dataset=dataset_table.get(tx, ModelRef.parse(version.dataset)) if version.dataset else None,
            environment=environment_table.get(tx, ModelRef.parse(version.environment)) if version.environment else None,
            run=run_table.get(tx, version.run) if version.run else None,
        )


def set_alias(ref: ModelRef | str, alias: str) -> ModelVersion:
    """Let *alias* name this version, and no other of its model.  Raises as `get`, and BadName."""
    checked_name(alias, what="alias")
    with store.writing() as tx:
        version = table.get(tx, _parsed(ref))
        table.set_alias(tx, version, alias, author=getpass.getuser())
        events.record(tx, "AliasSet", subject=version.ref, data={"alias": alias})
        return table.get(tx, ModelRef(version.model, version=version.version))


def drop_alias(ref: ModelRef | str, alias: str) -> ModelVersion:
    """Let *alias* name nothing, and return the version it named.  Raises AliasNotFound; BadOption where *ref* is another version of the model."""
    ref = _parsed(ref)
    with store.writing() as tx:
        version = table.get(tx, ModelRef(ref.name, alias=alias))
        if (ref.version or ref.alias) and table.get(tx, ref).version != version.version:
            raise BadOption(f"{alias} names {version.ref}, not {ref}.", hint=f"%mlops alias {version.ref} {alias} --remove")
        table.drop_alias(tx, version.model, alias)
        events.record(tx, "AliasDropped", subject=version.ref, data={"alias": alias})
    return version


def tag(ref: ModelRef | str, tags: Mapping[str, str | None]) -> ModelVersion:
    """Set these tags (None removes one) and return the version."""
    with store.writing() as tx:
        version = table.get(tx, _parsed(ref))
        merged = {key: value for key, value in {**version.tags, **tags}.items() if value is not None}
        table.set_tags(tx, version, merged)
        return msgspec.structs.replace(version, tags=merged)


def delete(ref: ModelRef | str) -> int:
    """Delete a version and the files only it needs, and return the bytes freed.  Raises VersionInUse when it is deployed."""
    with store.writing() as tx:
        version = _unused(tx, ref)
        table.delete(tx, version)
        events.record(tx, "ModelDeleted", subject=version.ref, data={"hash": version.hash})
    with store.writing() as tx:  # only what is committed may cost files, and under the lock nobody can start to need one
        needed = table.files_in_use(tx)
        return artifacts.forget({file.sha256 for file in _kept_with(version)} - needed)


def deletable_bytes(ref: ModelRef | str) -> int:
    """What `delete` would free.  Raises VersionInUse as it would."""
    with store.reading() as tx:
        version = _unused(tx, ref)
        others = {file.sha256 for other in table.search(tx, most=1_000_000) if other.ref != version.ref for file in _kept_with(other)}
    return sum({file.sha256: file.bytes for file in _kept_with(version) if file.sha256 not in others}.values())


def _unused(tx: store.Transaction, ref: ModelRef | str) -> ModelVersion:
    """The version *ref* names.  Raises VersionInUse when a deployment runs it."""
    version = table.get(tx, _parsed(ref))
    if users := deployment_table.running_version(tx, version.model, version.version):
        raise VersionInUse(version.ref, [d.ref for d in users])
    return version


def download(ref: ModelRef | str, folder: str | Path) -> Path:
    """Copy all of a version's files into *folder*, made if need be, and return it.  Raises BadOption when it is not empty."""
    version = get(ref)
    place = Path(folder).expanduser().absolute()
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise BadOption(f"{place} is not an empty folder; nothing was written.", hint="name a new folder")
    return artifacts.copy_out(version.files, place)


def load(ref: ModelRef | str) -> Any:
    """The model object of a version, in this process.

    Raises TrustNeeded when its pickle is neither this workspace's own nor vouched for, FileChanged when it was changed since,
    and BadOption for an entry script, which has no object.
    """
    from . import flavors, packing

    version = get(ref)
    if version.engine == "script":
        raise BadOption(f"{version.ref} is an entry script; there is no object to load.", hint=f"%mlops download {version.ref} FOLDER")
    if not version.trusted and (pickled := flavors.pickle_in(laid_out(version))):
        raise TrustNeeded(pickled)
    return packing.load(checked(version), version.flavor)


def checked(version: ModelVersion) -> Path:
    """The folder of `laid_out`, for whoever is going to open what is in it.  Raises FileChanged."""
    folder = laid_out(version)
    artifacts.check(version.files, folder)
    return folder


def laid_out(version: ModelVersion) -> Path:
    """A folder under the workspace's `run/` that holds this version's files; the same folder for the same files."""
    return artifacts.lay_out(version.files, Workspace.current().run / "models" / version.model / f"{version.version}-{artifacts.hash_of(version.files)[:8]}")


def _parsed(ref: ModelRef | str) -> ModelRef:
    return ref if isinstance(ref, ModelRef) else ModelRef.parse(ref)


def _dataset(name: str | None) -> dataset_table.DatasetVersion | None:
    if name is None:
        return None
    with store.reading() as tx:
        return dataset_table.get(tx, ModelRef.parse(name, what="dataset"))


def _comparison(text: str) -> tuple[str, str, float]:
    for sign in (">=", "<=", "==", ">", "<", "="):
        name, found, bound = text.partition(sign)
        if found:
            try:
                return name.strip(), sign, float(bound)
            except ValueError:
                break
    raise BadOption(f"{text!r} does not compare a metric with a number.", hint="--metric 'auc>0.7'")


def _kept_again(files: Sequence[table.StoredFile], packed: Packed) -> None:
    """Another process may have deleted the last version that needed a file since we found it already there."""
    for file in files:
        if not artifacts.address(file.sha256).exists() and file.path in packed.files:
            artifacts.keep(packed.files[file.path], path=file.path)


def _kept_with(version: ModelVersion) -> list[table.StoredFile]:
    """Every file that is kept for this version."""
    return [*version.files, version.expected] if version.expected else version.files


def _expected(
    probed: Probed | None, packed: Packed, environment: environment_table.Environment, dataset: dataset_table.DatasetVersion | None
) -> table.StoredFile | None:  # fmt: skip
    """The rows it was tried on, with its answers, where there are any."""
    if probed is None or not probed.outputs:
        return None
    from . import expected, signature

    most = expected.MOST_ROWS if dataset else signature.SAMPLE_ROWS
    return expected.keep(probed.rows, probed.outputs, most=most, environment=environment, files=packed.files, local_modules=packed.local_modules)


def _latest(name: str) -> ModelVersion | None:
    with store.reading() as tx:
        return next(iter(table.search(tx, name, most=1)), None)


def _environment(packed: Packed, signature: Signature | None) -> environment_table.Environment:
    """The packages it needs; a table is handed to Python code as a DataFrame."""
    from . import environments

    frames = {"pandas"} if packed.engine == "python" and signature and signature.kind == "table" else set()
    return environments.capture(packed.modules | frames)


def _note(packed: Packed, probed: Probed | None, dataset: dataset_table.DatasetVersion | None) -> str:
    """What the user may want to look at; *dataset* is the one whose columns were taken for inputs without being told."""
    from . import probing

    if packed.subject is not None and probed is None:
        return _UNTRIED
    guessed = dataset is not None and probed is not None and probing.takes_every_column(packed.subject, dataset, probed.signature)
    return _EVERY_COLUMN.format(dataset.ref) if dataset and guessed else ""


def _packed(model: Any, *, entry: str | Path | None, code: Sequence[str | Path], trust: bool, rows_for: Callable[[Any], Any]) -> Packed:
    from . import flavors, packing

    if isinstance(model, str | Path):
        return packing.pack_path(model, trust=trust, entry=entry, code=code)
    rows = rows_for(model) if flavors.of(model) == "torch" else None  # a torch module is exported by running it
    return packing.pack(model, entry=entry, code=code, sample=rows)


def _understood(packed: Packed, rows_for: Callable[[Any], Any], *, convert: bool, report: Reporter) -> tuple[Probed | None, Conversion | None]:
    """What will be served, asked its rows, and its ONNX form where one was asked for and can be had."""
    from . import conversion, probing

    if packed.subject is None:
        return None, None
    probed = probing.probe(packed.subject, rows_for(packed.subject))
    if packed.report:
        return probed, conversion.Conversion(report=packed.report)
    if not convert or probed is None or packed.engine != "python":
        return probed, None
    report.step("converting to ONNX and comparing answers")
    return probed, conversion.to_onnx(packed.subject, probed.signature, probed.rows)


def _with_onnx(draft: ModelVersion, converted: Conversion | None) -> ModelVersion:
    """The version with its ONNX form, where there is one that answers as the original does, and served from the quicker of the two."""
    if converted is None:
        return draft
    draft = msgspec.structs.replace(draft, conversion=converted.report)
    if converted.onnx is None or any(file.path == "model.onnx" for file in draft.files):
        return draft
    kept = artifacts.keep(converted.onnx, path="model.onnx")
    return msgspec.structs.replace(draft, engine=converted.engine, files=[*draft.files, kept])


def _recorded(draft: ModelVersion, run: run_table.Run, packed: Packed) -> Registered:
    """Give it its number and record it with its run, alias and event, in one transaction."""
    with store.writing() as tx:
        _kept_again(draft.files, packed)
        same = table.with_hash(tx, draft.model, draft.hash)
        version = msgspec.structs.replace(draft, version=table.next_version(tx, draft.model))
        run_table.add(tx, run)
        table.add(tx, version)
        for alias in version.aliases:
            table.set_alias(tx, version, alias, author=version.author)
        events.record(tx, "ModelRegistered", subject=version.ref, data={"hash": version.hash, "dataset": version.dataset, "tags": version.tags})
    return Registered(version=version, same_as=same.ref if same else None)
