"""The Models page draws a version's FPGA forms, and says that they are emulated and estimated."""

from __future__ import annotations

import a_busy_workspace
import pytest

from mlops_nb import store
from mlops_nb.fpga import NAME
from mlops_nb.reference import ModelRef
from mlops_nb.store import deployments, models

POINT = {
    "precision": "fixed<16,6>", "width": 16, "file": "fixed-16-6.tar.gz", "notes": ["weights reach 40 and are held at 32"],
    "agreement": {"rows": 500, "max_error": 0.002, "mean_error": 0.0003, "agreement": 0.998, "accuracy": 0.94, "float_accuracy": 0.94},
    "resources": {
        "source": "estimate", "dsp": 80, "lut": 1536, "ff": 2048, "bram": 0, "latency_cycles": 10, "interval_cycles": 1, "clock_ns": 5.0, "method": "counted",
        "band": {"dsp": (0.5, 1.2), "latency_cycles": (0.5, 2.0)}, "share": {"dsp": 0.0065, "lut": 0.0009, "ff": 0.0006, "bram": 0.0},
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
    assert list(table.iloc[0][["precision", "dsp", "latency ns", "resources from"]]) == ["fixed<16,6>", 80, 50.0, "estimate"]
    assert any("estimates, no synthesis; one may be off by DSP ×0.5 to ×1.2, LATENCY ×0.5 to ×2" in caption.value for caption in page.caption)


@pytest.mark.parametrize(("name", "column"), [("targets", "asked for"), ("deployments", "hardware")])
def test_a_deployment_in_emulation_is_marked_as_one_on_each_page_that_shows_it(open_page, converted, name, column):
    with store.writing() as tx:
        spec = deployments.DeploymentSpec(options={"precision": "fixed<16,6>"})
        a_busy_workspace._deploy(tx, "delays", "emulated", 2, "healthy", target="fpga", spec=spec, hours=1)

    page = open_page(name, deployment="delays/emulated")

    assert not page.exception
    rows = page.dataframe[0].value.set_index("deployment")
    assert rows.loc["delays/emulated" if "delays/emulated" in rows.index else "emulated", column] == f"{NAME}, fixed<16,6>"


def test_the_version_says_where_its_emulation_runs(open_page, converted):
    with store.writing() as tx:
        spec = deployments.DeploymentSpec(options={"precision": "fixed<16,6>"})
        a_busy_workspace._deploy(tx, "delays", "emulated", 2, "healthy", target="fpga", spec=spec, hours=1)

    page = open_page("models", model="delays:2")

    assert any("on fpga, FPGA emulation" in shown.value for shown in page.markdown)
