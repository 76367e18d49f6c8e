"""A conda channel of two packages, made of what stands in this image: its Python, and the wheel of numpy that is beside.

They are as conda has them: an archive with info/index.json and info/paths.json, listed in a channel's repodata.json.
"""

from __future__ import annotations

import hashlib
import io
import json
import sys
import tarfile
import zipfile
from pathlib import Path

_HERE, _CHANNEL = Path(__file__).parent, Path(sys.argv[1])
_LIBRARY = f"lib/python{sys.version_info.major}.{sys.version_info.minor}"
_LEFT_OUT = ("/test/", "/tests/", "/__pycache__/", "/idlelib/", "/tkinter/", "/ensurepip/", "/config-", "EXTERNALLY-MANAGED")


def package(name: str, version: str, depends: list[str], files: dict[str, tuple[bytes, int]]) -> dict[str, object]:
    """Write `name-version-0.tar.bz2` and return its record."""
    index = {"name": name, "version": version, "build": "0", "build_number": 0, "depends": depends, "arch": "x86_64", "platform": "linux", "subdir": "linux-64"}
    listed = [
        {"_path": place, "path_type": "hardlink", "sha256": hashlib.sha256(content).hexdigest(), "size_in_bytes": len(content)}
        for place, (content, _) in files.items()
    ]
    paths = json.dumps({"paths": listed, "paths_version": 1}).encode()
    archive = _CHANNEL / "linux-64" / f"{name}-{version}-0.tar.bz2"
    with tarfile.open(archive, "w:bz2", compresslevel=1) as tar:
        for place, (content, mode) in {"info/index.json": (json.dumps(index).encode(), 0o644), "info/paths.json": (paths, 0o644), **files}.items():
            entry = tarfile.TarInfo(place)
            entry.size, entry.mode = len(content), mode
            tar.addfile(entry, io.BytesIO(content))
    body = archive.read_bytes()
    return {archive.name: {**index, "md5": hashlib.md5(body).hexdigest(), "sha256": hashlib.sha256(body).hexdigest(), "size": len(body)}}


def python() -> dict[str, tuple[bytes, int]]:
    """The interpreter under the names conda's has, and its library."""
    files = {f"bin/{name}": (Path(sys.executable).resolve().read_bytes(), 0o755) for name in ("python", "python3", _LIBRARY[4:])}
    for file in sorted(Path("/usr", _LIBRARY).rglob("*")):
        if file.is_file() and not any(part in str(file) for part in _LEFT_OUT):
            files[str(file.relative_to("/usr"))] = (file.read_bytes(), 0o644)
    return files


def numpy(wheel: Path) -> dict[str, tuple[bytes, int]]:
    """What the wheel holds, where this Python looks for packages, marked as conda marks what it installs."""
    there = f"local/{_LIBRARY}/dist-packages"
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/") and not any(part in f"/{name}" for part in _LEFT_OUT)]
        files = {f"{there}/{name}": (archive.read(name), 0o644) for name in names}
    return files | {f"{there}/{'-'.join(wheel.name.split('-')[:2])}.dist-info/INSTALLER": (b"conda", 0o644)}


if __name__ == "__main__":
    for subdir in ("linux-64", "noarch"):
        (_CHANNEL / subdir).mkdir(parents=True, exist_ok=True)
    (wheel,) = _HERE.glob("numpy-*.whl")
    version = "{}.{}.{}".format(*sys.version_info)
    records = package("python", version, [], python()) | package("numpy", wheel.name.split("-")[1], ["python"], numpy(wheel))
    for subdir, packages in (("linux-64", records), ("noarch", {})):
        listing = {"info": {"subdir": subdir}, "packages": packages, "packages.conda": {}, "repodata_version": 1}
        (_CHANNEL / subdir / "repodata.json").write_text(json.dumps(listing))
