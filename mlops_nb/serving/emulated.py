"""A model whose logic is an FPGA's, emulated: the compiled project answers, and says in its metadata that it is an emulation."""

from __future__ import annotations

from .. import artifacts, fpga
from ..errors import FileChanged
from ..fpga import boards, emulation
from ..signature import Signature
from .engines import Arrays, Matrix, plain_output
from .spec import ServerSpec


class EmulatedModel:
    """The emulation of one of a version's FPGA forms, or the board that an overlay of it is on."""

    name = "fpga_emulation"
    inline = True
    trees_by = ""
    matrix: Matrix | None = None
    operators: dict[str, int] = {}

    def __init__(self, spec: ServerSpec, signature: Signature | None) -> None:
        if spec.form is None:
            raise FileChanged("the specification of an emulation")
        archive = artifacts.address(spec.form.sha256)
        if artifacts.sha256_of(archive) != spec.form.sha256:
            raise FileChanged(archive)
        self._model = emulation.Emulated(emulation.library(archive), overlay=spec.overlay)
        self._plain = spec.flavor not in ("onnx", "torch")
        self.providers = [f"{boards.NAME if spec.overlay else fpga.NAME}, {self._model.logic.host.precision}"]
        self.signature = signature

    def feed(self, columns: Arrays, /) -> Arrays:
        """The columns themselves."""
        return columns

    def compute(self, feed: Arrays, /) -> Arrays:
        """Outputs under the names that the ONNX form gives them.  Raises SignatureMismatch for a missing value that reaches the logic."""
        return dict(plain_output(name, value, plain=self._plain) for name, value in self._model(feed).items())
