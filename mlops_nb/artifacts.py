"""Content-addressed files: a file's name is the SHA-256 of its bytes, so the same bytes are kept once and never change."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from .errors import FileChanged, FileMissing, StoreFull
from .safety import path_inside
from .settings import Workspace
from .store.models import StoredFile


def keep(data: bytes | Path, *, path: str) -> StoredFile:
    """Keep bytes, or a copy of a file's, and say under which address; *path* is its place in the model's folder.

    Written beside and renamed, so that a kill leaves nothing half.  Raises StoreFull, FileMissing.
    """
    folder = Workspace.current().artifacts
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return _kept(data, folder, path)
    except FileNotFoundError:
        raise FileMissing(data if isinstance(data, Path) else folder) from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise StoreFull(folder) from error
        raise


def _kept(data: bytes | Path, folder: Path, path: str) -> StoredFile:
    if isinstance(data, bytes):
        digest, size = hashlib.sha256(data).hexdigest(), len(data)
    else:
        digest, size = sha256_of(data), data.stat().st_size
    place = address(digest)
    if not place.exists() or sha256_of(place) != digest:  # one that was damaged is mended
        place.parent.mkdir(exist_ok=True, mode=0o700)
        handle, scratch = tempfile.mkstemp(dir=folder)
        try:
            with os.fdopen(handle, "wb") as out:
                if isinstance(data, bytes):
                    out.write(data)
                else:
                    with data.open("rb") as source:
                        shutil.copyfileobj(source, out)
                out.flush()
                os.fsync(out.fileno())
            os.chmod(scratch, 0o400)
            os.replace(scratch, place)
        except BaseException:
            Path(scratch).unlink(missing_ok=True)
            raise
    return StoredFile(path=path, sha256=digest, bytes=size)


def sha256_of(file: Path) -> str:
    """The content address of a file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def address(sha256: str) -> Path:
    """Where the file with this content stands, whether or not it is there."""
    return path_inside(Workspace.current().artifacts, sha256[:2], sha256[2:])


def lay_out(files: Iterable[StoredFile], folder: Path) -> Path:
    """Have these files and no others in *folder*, linked (copied where links cannot go), and return it.

    Whoever opens one calls `check` before.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    files = list(files)
    wanted = {path_inside(folder, file.path) for file in files}
    for other in [place for place in folder.rglob("*") if not place.is_dir() and place not in wanted]:
        other.unlink(missing_ok=True)  # nobody registered it, and a server would import it
    for file in files:
        place = path_inside(folder, file.path)
        place.parent.mkdir(parents=True, exist_ok=True)
        kept = address(file.sha256)
        if place.exists():
            if not kept.exists() or place.samefile(kept):
                continue
            place.unlink()  # its content may have changed, and was replaced by another link since
        try:
            os.link(kept, place)
        except OSError:
            shutil.copyfile(kept, place)
    return folder


def check(files: Iterable[StoredFile], folder: Path) -> None:
    """Raises FileChanged unless each of these files in *folder* holds what it held when it was registered."""
    for file in files:
        place = path_inside(folder, file.path)
        if sha256_of(place) != file.sha256:
            raise FileChanged(place)


def copy_out(files: Iterable[StoredFile], folder: Path) -> Path:
    """Copy these files, with their owner's write permission, into *folder*, and return it."""
    for file in files:
        place = path_inside(folder, file.path)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(address(file.sha256), place)
    return folder


def settled(*, older_than_seconds: float = 3600) -> set[str]:
    """Addresses of the files that have lain here for a while; a younger one may belong to a registration still going on."""
    latest = time.time() - older_than_seconds
    found = Workspace.current().artifacts.glob("[0-9a-f][0-9a-f]/*")
    return {place.parent.name + place.name for place in found if place.stat().st_mtime < latest}


def forget(sha256s: Iterable[str]) -> int:
    """Delete these files and return the bytes freed."""
    freed = 0
    for sha256 in sha256s:
        place = address(sha256)
        if place.exists():
            freed += place.stat().st_size
            place.unlink()
    return freed


def hash_of(files: Iterable[StoredFile]) -> str:
    """One hash for a set of files: their places and contents."""
    lines = sorted(f"{file.path}\0{file.sha256}\n" for file in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()
