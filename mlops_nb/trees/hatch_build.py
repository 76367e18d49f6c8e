"""Compiles walk.c for every wheel and editable install, where there is a C compiler; without one ONNX Runtime answers for trees too."""

from __future__ import annotations

import importlib.util
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_SPEC = importlib.util.spec_from_file_location("compiling", Path(__file__).with_name("compiling.py"))
assert _SPEC and _SPEC.loader
compiling = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(compiling)


class TreesHook(BuildHookInterface):
    """hatchling calls it for every build."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and say in a wheel's name which machines it is for."""
        if self.target_name != "wheel":
            return
        compiling.LIBRARY.unlink(missing_ok=True)  # nothing stays that other sources gave
        if why := compiling.compile_to(compiling.LIBRARY):
            self.app.display_warning(f"Trees are answered by ONNX Runtime alone, which takes three to six times as long: {why}.")
            return
        build_data["artifacts"].append(compiling.LIBRARY.relative_to(self.root).as_posix())
        if version == "standard":
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"
