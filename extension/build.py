"""Builds the JupyterLab extension when a wheel, an sdist or an editable install is made, unless it was built from these very sources."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

HERE = Path(__file__).parent
BUILT = HERE.parent / "mlops_nb" / "labextension"
STAMP = HERE / ".built-from"
SOURCES = ("package.json", "yarn.lock", "tsconfig.json", "webpack.config.js", "src/**/*", "schema/**/*", "style/**/*")


def build(target: str, version: str) -> None:
    """Leave the built extension in `mlops_nb/labextension`.  Needs `node` and `jlpm` on PATH only when the sources changed.

    An sdist carries the built files and their stamp, so a wheel is made from it without Node; a file's time plays no part.
    """
    if (BUILT / "package.json").is_file() and STAMP.is_file() and STAMP.read_text(encoding="ascii") == fingerprint():
        return
    from hatch_jupyter_builder import npm_builder

    STAMP.unlink(missing_ok=True)
    shutil.rmtree(BUILT, ignore_errors=True)
    npm_builder(target, version, path=str(HERE), npm=["jlpm"])
    STAMP.write_text(fingerprint(), encoding="ascii")


def fingerprint() -> str:
    """A hash of everything the build reads."""
    digest = hashlib.sha256()
    files = {path.relative_to(HERE).as_posix(): path for pattern in SOURCES for path in HERE.glob(pattern) if path.is_file()}
    for name, path in sorted(files.items()):
        digest.update(f"{name}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
