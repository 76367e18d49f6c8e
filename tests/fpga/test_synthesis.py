"""`--synthesise`: the project's own build script carried out by Tcl, with a stand-in for the HLS tool and the figures of a published synthesis.

The figures of `vitis_csynth.xml` are those of Vitis HLS 2025.1 for a network of 4 → 8 relu → 8 relu → 3 and a softmax in fixed<16,6>
(github.com/Thifjj/Iris_hls4ml_pynqZ2).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mlops_nb import cards, hls, registry
from mlops_nb.errors import ConversionFailed, SynthesisFailed
from mlops_nb.fpga import Precision, estimates
from mlops_nb.fpga.graphs import Activation, Dense, Network

pytestmark = pytest.mark.xdist_group("fpga")
HERE = Path(__file__).parent
REPORT = HERE / "vitis_csynth.xml"


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """`tool("vitis_hls")` puts the stand-in on PATH under that name."""

    def put(name: str) -> None:
        (tmp_path / name).write_bytes((HERE / "hls_tool.tcl").read_bytes())
        (tmp_path / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
        monkeypatch.setenv("RECORDED_REPORT", str(REPORT))

    return put


@pytest.mark.parametrize(("kind", "name"), [("network", "vitis-run"), ("network", "vitis_hls"), ("trees", "vitis-run"), ("trees", "vitis_hls")])
def test_a_project_is_synthesised_by_its_own_script_and_the_report_is_what_is_told(request, register, tool, kind, name):
    version = register(request.getfixturevalue(f"fitted_{kind}"), "synthesised")
    tool(name)

    converted = hls.convert(version.ref, precisions=["fixed<12,4>"], part="xc7z020clg400-1", synthesise=True)

    (point,) = converted.version.conversion["fpga"]["points"]
    told = point["resources"]
    assert [told[name] for name in ("source", "dsp", "lut", "ff", "bram", "latency_cycles")] == [name, 110, 4725, 13240, 3, 32]
    assert not told["band"] and told["share"]["dsp"] == 0.5
    text = cards.as_text(converted)
    assert f"reported by {name}" in text and "estimate" not in text
    assert f"resources as {name} reports them" in converted.figure().layout.title.text


def test_a_synthesis_that_fails_is_told_with_the_tools_own_words_and_nothing_is_kept(register, fitted_trees, tool, monkeypatch):
    version = register(fitted_trees, "synthesised")
    tool("vitis_hls")
    monkeypatch.setenv("SYNTHESIS_FAILS", "cannot fit")

    with pytest.raises(ConversionFailed, match=r"vitis_hls.*ended with 1") as failed:
        hls.convert(version.ref, precisions=["fixed<12,4>"], synthesise=True)

    assert "[HLS 200-70] cannot fit" in failed.value.detail
    assert "fpga" not in registry.get(version.ref).conversion


@pytest.mark.parametrize("missing", ["<Worst-caseLatency>32</Worst-caseLatency>", "<DSP>110</DSP>"])
def test_a_report_without_a_figure_is_none(tmp_path: Path, missing: str):
    for instead in ("", missing.replace("32", "undef").replace("110", "-")):
        (tmp_path / "r.xml").write_text(REPORT.read_text().replace(missing, instead, 1))
        with pytest.raises(SynthesisFailed, match="wrote a report without"):
            estimates.read(tmp_path / "r.xml", "xc7z020clg400-1", source="vitis_hls")


def test_a_published_synthesis_lies_within_the_band_of_the_estimate():
    random = np.random.default_rng(0)
    layers: list[Dense | Activation] = []
    for wide, out in ((4, 8), (8, 8), (8, 3)):
        layers += [Dense(random.normal(size=(wide, out)), random.normal(size=out)), Activation("relu")]
    network = Network(layers[:-1])
    made = estimates.read(REPORT, "xc7z020clg400-1", source="vitis_hls")
    softmax = {"dsp": 3, "lut": 309, "ff": 736, "latency_cycles": 9}  # of its own module in the same report; here it stays with the host

    estimate = estimates.estimated(network, Precision.parse("fixed<16,6>"), reuse=1, part="xc7z020clg400-1")

    for name, without in softmax.items():
        low, high = estimate.band[name]
        assert low <= (getattr(made, name) - without) / getattr(estimate, name) <= high, name
