"""What a device has on its disk, and what of it is loaded: the files by hash, the state it runs, the one it would go back to.

A new model is loaded beside the old one and tried on its own sample before it takes over; a load that kills the process is given up.
"""

from __future__ import annotations

import hashlib
import math
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from .. import artifacts
from ..errors import BadOption, FileChanged
from ..safety import path_inside
from ..serving.spec import ServerSpec
from ..store.models import StoredFile
from .twin import Desired

if TYPE_CHECKING:
    from ..serving.engines import Engine
    from .spec import DeviceSpec


_TRIALS = 3


class Shelf:
    """The device's folder of models."""

    def __init__(self, folder: Path, *, elsewhere: Path | None) -> None:
        self._folder, self._elsewhere = folder, elsewhere
        self._files.mkdir(parents=True, exist_ok=True, mode=0o700)

    @property
    def _files(self) -> Path:
        return self._folder / "files"

    # ── which state ──

    def current(self) -> Desired | None:
        """What runs, or ran before the process ended."""
        return _read(self._folder / "current.json")

    def previous(self) -> Desired | None:
        """What ran before that."""
        return _read(self._folder / "previous.json")

    def switch(self, desired: Desired) -> None:
        """Make *desired* the current state; the one it follows is kept, the others' files go."""
        before = self.current()
        if before and before.generation != desired.generation:
            _write(self._folder / "previous.json", before)
        _write(self._folder / "current.json", desired)
        self.tried()
        self._forget_all_but([state for state in (desired, self.previous()) if state])

    def withdraw(self) -> None:
        """Nothing is to run any more, also after a restart."""
        for name in ("current.json", "previous.json"):
            (self._folder / name).unlink(missing_ok=True)
        self._forget_all_but([])

    def trying(self, desired: Desired) -> None:
        """Note that *desired* is being loaded, in case that ends the process."""
        before = self._trials()
        count = before[1] + 1 if before[0] == desired.generation else 1
        (self._folder / "trying.json").write_bytes(msgspec.json.encode((desired.generation, count)))

    def tried(self) -> None:
        """It came to an end."""
        (self._folder / "trying.json").unlink(missing_ok=True)

    def fatal(self) -> str:
        """The generation whose loading ended the process again and again, if one did; once may have been a power cut."""
        generation, count = self._trials()
        return generation if count >= _TRIALS else ""

    def _trials(self) -> tuple[str, int]:
        try:
            return msgspec.json.decode((self._folder / "trying.json").read_bytes(), type=tuple[str, int])
        except (FileNotFoundError, msgspec.DecodeError):
            return "", 0

    # ── files ──

    def lacking(self, files: Iterable[StoredFile]) -> list[StoredFile]:
        """Those that are not here yet; what lies in the mounted folder is taken from there, and what is empty is known."""
        return [file for file in files if not (self._place(file.sha256).exists() or self._made_empty(file) or self._taken_from_elsewhere(file))]

    def put_chunk(self, file: StoredFile, number: int, chunk: bytes, *, chunk_bytes: int) -> bool:
        """Keep a piece of *file*; True once all of it is here and has its hash.  Raises FileChanged when it has another."""
        count = max(1, math.ceil(file.bytes / chunk_bytes))
        parts = self._parts(file.sha256)
        if self._place(file.sha256).exists() or not 0 <= number < count or len(chunk) > chunk_bytes:
            return self._place(file.sha256).exists()
        parts.mkdir(parents=True, exist_ok=True, mode=0o700)
        (parts / str(number)).write_bytes(chunk)
        if sum(1 for _ in parts.iterdir()) < count:
            return False
        self._join([parts / str(place) for place in range(count)], file)
        return True

    def laid_out(self, desired: Desired) -> Path:
        """A folder with the files of *desired* as its model wants them.  Raises UnsafePath, FileChanged."""
        folder = path_inside(self._folder, "models", _folder_name(desired))
        shutil.rmtree(folder, ignore_errors=True)
        for file in desired.files:
            place = path_inside(folder, file.path)
            place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            _linked(self._place(file.sha256), place)
        artifacts.check(desired.files, folder)
        return folder

    def _join(self, parts: list[Path], file: StoredFile) -> None:
        scratch = self._files / f".{file.sha256}.part"
        with scratch.open("wb") as out:
            for part in parts:
                out.write(part.read_bytes())
            out.flush()
            os.fsync(out.fileno())
        shutil.rmtree(parts[0].parent)
        self._accept(scratch, file)

    def _made_empty(self, file: StoredFile) -> bool:
        """No message could bring it: an empty one that is retained is none."""
        if file.bytes:
            return False
        scratch = self._files / f".{file.sha256}.part"
        scratch.write_bytes(b"")
        self._accept(scratch, file)
        return True

    def _taken_from_elsewhere(self, file: StoredFile) -> bool:
        source = self._elsewhere / file.sha256 if self._elsewhere else None
        if not source or not source.is_file():
            return False
        scratch = self._files / f".{file.sha256}.part"
        shutil.copyfile(source, scratch)
        self._accept(scratch, file)
        return True

    def _accept(self, scratch: Path, file: StoredFile) -> None:
        with scratch.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        if digest != file.sha256:
            scratch.unlink()
            raise FileChanged(file.path)
        scratch.replace(self._place(file.sha256))

    def _place(self, sha256: str) -> Path:
        return path_inside(self._files, sha256)

    def _parts(self, sha256: str) -> Path:
        return path_inside(self._folder, "parts", sha256)

    def _forget_all_but(self, states: list[Desired]) -> None:
        wanted = {file.sha256 for state in states for file in state.files}
        for place in self._files.iterdir():
            if place.name not in wanted:
                place.unlink()
        folders = {_folder_name(state) for state in states}
        for place in (self._folder / "models").glob("*"):
            if place.name not in folders:
                shutil.rmtree(place, ignore_errors=True)


def loaded(desired: Desired, folder: Path) -> Engine:
    """The model of *desired*, tried on the sample it was registered with.  Raises whatever loading or that raises."""
    from ..serving import engines

    if desired.engine not in ("onnxruntime", "python"):
        raise BadOption(f"an edge device does not run {desired.engine}")
    engine = engines.load(server_spec(desired, folder))
    rows = engine.signature.sample_columns() if engine.signature else []
    failures = 0
    for columns in rows:
        try:
            engines.predict(engine, columns)
            break
        except Exception:  # one row may be odd; a model that fails on each of them cannot answer
            failures += 1
            if failures == len(rows):
                raise
    return engine


def packaged(spec: DeviceSpec) -> tuple[Desired, Path] | None:
    """The model that came with the image as a state to run, and its folder; None without one.  Raises msgspec.DecodeError."""
    if not spec.packaged or not Path(spec.packaged).exists():
        return None
    server = msgspec.json.decode(Path(spec.packaged).read_bytes(), type=ServerSpec)
    hashed = artifacts.hash_of(server.files)
    desired = Desired(
        generation="packaged", endpoint=server.endpoint, deployment=spec.device, model=server.model, version=server.version, hash=hashed,
        flavor=server.flavor, engine=server.engine, files=server.files, signature=server.signature, trusted=server.trusted, cpus=server.cpus,  # type: ignore[arg-type]
        topic_in=spec.topic_in or f"{spec.device}/in", topic_out=spec.topic_out or f"{spec.device}/out",
    )  # fmt: skip
    return desired, Path(server.folder)


def server_spec(desired: Desired, folder: Path) -> ServerSpec:
    """What the scoring engines want to know."""
    return ServerSpec(
        endpoint=desired.endpoint, deployment=desired.deployment, model=desired.model, version=desired.version, folder=str(folder), files=desired.files,
        flavor=desired.flavor, engine=desired.engine, port=0, token_file="", run_folder=str(folder), capture_folder=str(folder),
        signature=desired.signature, cpus=desired.cpus, trusted=desired.trusted,
    )  # fmt: skip


def _folder_name(desired: Desired) -> str:
    return artifacts.hash_of(desired.files)[:16]


def _linked(source: Path, place: Path) -> None:
    try:
        os.link(source, place)
    except OSError:
        shutil.copyfile(source, place)


def _read(path: Path) -> Desired | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Desired)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def _write(path: Path, desired: Desired) -> None:
    """Whole or not at all, and on the disk."""
    scratch = path.with_suffix(".tmp")
    with scratch.open("wb") as out:
        out.write(msgspec.json.encode(desired))
        out.flush()
        os.fsync(out.fileno())
    scratch.replace(path)
