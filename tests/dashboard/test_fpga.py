"""The Models page draws a version's FPGA forms, and says that they are emulated and estimated."""

from __future__ import annotations

import pytest

from mlops_nb import store
from mlops_nb.reference import ModelRef
from mlops_nb.store import models

POINT = {
    "precision": "fixed<16,6>", "width": 16, "file": "fixed-16-6.tar.gz", "notes": ["weights reach 40 and are held at 32"],
    "agreement": {"rows": 500, "max_error": 0.002, "mean_error": 0.0003, "agreement": 0.998, "accuracy": 0.94, "float_accuracy": 0.94},
    "resources": {
        "source": "estimate", "dsp": 80, "lut": 1536, "ff": 2048, "bram": 0, "latency_cycles": 10, "interval_cycles": 1, "clock_ns": 5.0, "method": "counted",
        "band": {}, "share": {"dsp": 0.0065, "lut": 0.0009, "ff": 0.0006, "bram": 0.0},
    },
}  # fmt: skip
FORM = {"kind": "dense layers", "by": "hls4ml", "described": "4 → 16 relu → 1", "part": "xcu250-figd2104-2L-e", "reuse": 1, "chosen": "fixed<16,6>"}


@pytest.fixture
def converted(busy) -> None:
    """`delays:2` with an FPGA form."""
    with store.writing() as tx:
        version = models.get(tx, ModelRef("delays", version=2))
        form = {**FORM, "points": [POINT]}
        models.set_conversion(tx, version, engine=version.engine, files=version.files, conversion=version.conversion | {"fpga": form})


def test_its_trade_off_is_drawn_and_told(open_page, converted):
    page = open_page("models", model="delays:2")

    assert not page.exception
    assert any("FPGA emulation" in caption.value for caption in page.caption)
    table = next(frame.value for frame in page.dataframe if "resources from" in frame.value)
    assert list(table.iloc[0][["precision", "dsp", "resources from"]]) == ["fixed<16,6>", 80, "estimate"]
