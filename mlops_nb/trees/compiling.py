"""Compiles walk.c beside itself: when the package is installed, or by `python -m mlops_nb.trees.compiling` once there is a C compiler."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
LIBRARY = HERE / "walk.so"
_COMPILERS = ("cc", "gcc", "clang")
_FLAGS = ("-O3", "-std=c11", "-ffp-contract=off", "-fPIC", "-shared")
_SECONDS = 120


def compile_to(library: Path) -> str:
    """Compile walk.c to *library*; why that was not possible, or nothing."""
    compiler = os.environ.get("CC") or next(filter(shutil.which, _COMPILERS), "")
    if not compiler or os.name == "nt":
        return "there is no C compiler"
    try:
        with tempfile.TemporaryDirectory(dir=library.parent) as scratch:
            made = Path(scratch) / library.name
            command = [*compiler.split(), *_FLAGS, "-o", str(made), "walk.c", "-lm"]
            subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=True, timeout=_SECONDS)
            made.chmod(0o644)
            os.replace(made, library)  # whoever has another one open keeps that
    except subprocess.CalledProcessError as error:
        return f"{compiler} could not: {error.stderr.strip()[-300:]}"
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{compiler} could not: {error}"
    return ""


if __name__ == "__main__":
    if why := compile_to(LIBRARY):
        sys.exit(f"Trees stay with ONNX Runtime: {why}.")
    sys.stdout.write(f"{LIBRARY}\n")
