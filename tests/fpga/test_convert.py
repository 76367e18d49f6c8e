"""`%mlops convert --to fpga`: real projects by hls4ml and conifer, compiled here and compared with the float model."""

from __future__ import annotations

import tarfile

import numpy as np
import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from onnx import TensorProto, helper, numpy_helper
from sklearn.linear_model import LogisticRegression

import mlops_nb
from mlops_nb import artifacts, cards, commands, converting, hls, registry
from mlops_nb.cli import Terminal
from mlops_nb.errors import BadOption, CannotConvert, CompilerMissing, FileChanged, HardwareMissing, UsageError
from mlops_nb.fpga import Precision, checked_part, emulation

from .conftest import NUMBERS, PRECISIONS

pytestmark = pytest.mark.xdist_group("fpga")


def points(version):
    return {point["precision"]: point for point in version.conversion["fpga"]["points"]}


def test_a_network_gets_a_project_for_each_precision(network):
    assert [file.path for file in network.files if file.path.startswith("fpga/")] == [f"fpga/{Precision.parse(each).slug}.tar.gz" for each in PRECISIONS]
    assert (network.conversion["fpga"]["by"], network.conversion["fpga"]["described"]) == ("hls4ml", "3 → 8 relu → 1")


def test_what_it_is_served_by_stays_as_it_was(network, registered):
    assert (network.engine, [file for file in network.files if not file.path.startswith("fpga/")]) == (registered.engine, registered.files)


def test_more_bits_answer_more_rows_as_the_float_model_does(network):
    agree = [points(network)[each]["agreement"]["agreement"] for each in PRECISIONS]
    errors = [points(network)[each]["agreement"]["mean_error"] for each in PRECISIONS]

    assert agree == sorted(agree) and agree[-1] > 0.99
    assert errors == sorted(errors, reverse=True) and errors[-1] < 0.01


def test_accuracy_is_told_beside_the_float_models(network):
    found = points(network)["fixed<16,6>"]["agreement"]

    assert found["accuracy"] == pytest.approx(found["float_accuracy"], abs=0.01)
    assert found["auc"] == pytest.approx(found["float_auc"], abs=0.01)


def test_the_narrowest_that_agrees_is_chosen():
    good, narrow = ({"width": width, "precision": str(width), "agreement": {"agreement": agree, "max_error": 0}} for width, agree in ((16, 1.0), (10, 0.995)))
    poor = {"width": 6, "precision": "6", "agreement": {"agreement": 0.7, "max_error": 1}}

    assert hls.chosen([good, narrow, poor]) is narrow
    assert hls.chosen([poor]) is poor


def test_resources_are_marked_as_an_estimate_with_its_band_and_method(network):
    resources = points(network)["fixed<16,6>"]["resources"]

    assert resources["source"] == "estimate" and "not calibrated" in resources["method"]
    assert set(resources["band"]) == {"dsp", "lut", "ff", "bram", "latency_cycles"}
    assert 0 < resources["dsp"] <= 3 * 8 + 8 and 0 < resources["share"]["dsp"] < 0.01


def test_a_project_holds_what_synthesis_and_the_host_need_and_nothing_of_this_machine(network, tmp_path):
    file = next(file for file in network.files if file.path == "fpga/fixed-16-6.tar.gz")
    with tarfile.open(artifacts.address(file.sha256)) as tar:
        names = set(tar.getnames())
        text = b"".join(tar.extractfile(name).read() for name in names if not name.endswith(".onnx"))

    assert {"firmware/model.cpp", "build_prj.tcl", "host/host.json", "host/before.onnx", "host/after.onnx", "README.md"} <= names
    assert b"/tmp/" not in text and str(tmp_path.parent).encode() not in text


def test_the_same_model_and_precision_give_the_same_bytes(network):
    again = hls.convert(network.ref, precisions=PRECISIONS).version

    assert again.files == network.files


def test_trees_on_raw_columns_need_no_room_for_large_numbers(trees):
    found = trees.conversion["fpga"]

    assert (found["by"], found["described"]) == ("conifer", "12 trees, 3 deep")
    assert found["points"][0]["agreement"]["agreement"] > 0.97
    assert found["points"][0]["resources"]["dsp"] == 0


def test_converting_to_onnx_anew_keeps_the_fpga_form(trees):
    assert converting.convert(trees.ref).version.conversion["fpga"] == trees.conversion["fpga"]


# ── what cannot be ───────────────────────────────────────────────────────────────────────────────────────────────────


def convolution() -> bytes:
    """A small convolutional network."""
    random = np.random.default_rng(0)
    weights = [numpy_helper.from_array(random.normal(size=shape).astype(np.float32), name) for name, shape in (("k", (2, 1, 2, 2)), ("w", (18, 2)))]
    nodes = [
        helper.make_node("Conv", ["image", "k"], ["c"], name="conv1"), helper.make_node("Relu", ["c"], ["r"]), helper.make_node("Flatten", ["r"], ["f"]),
        helper.make_node("Gemm", ["f", "w"], ["scores"], name="dense1"),
    ]  # fmt: skip
    image, scores = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in (("image", [None, 1, 4, 4]), ("scores", [None, 2])))
    graph = helper.make_graph(nodes, "g", [image], [scores], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()


def test_an_unsupported_layer_is_refused_by_name(workspace_of_module, tmp_path):
    (tmp_path / "cnn.onnx").write_bytes(convolution())
    registered = registry.register(str(tmp_path / "cnn.onnx"), name="cnn", sample={"image": np.zeros((4, 1, 4, 4), np.float32)}).version

    with pytest.raises(CannotConvert, match=r"Conv \(conv1\) stands before the first layer that becomes logic"):
        hls.convert(registered.ref)

    assert registry.get("cnn:1") == registered


def test_a_model_without_layers_or_trees_is_refused_by_what_it_has(register, flights):
    version = register(LogisticRegression(max_iter=1000).fit(flights[NUMBERS], flights.late), "logistic")

    with pytest.raises(CannotConvert, match="LinearClassifier"):
        hls.convert(version.ref)


@pytest.mark.parametrize("text", ["float", "fixed<16>", "fixed<6,16>", "fixed<64,6>", "fixed<16,0>", "fixed<16,6,UP,SAT>", "fixed<16,6>; rm -rf"])
def test_what_is_no_fixed_point_type_is_refused(text):
    with pytest.raises(BadOption):
        Precision.parse(text)


def test_a_precision_is_the_same_however_it_is_written():
    assert str(Precision.parse("ap_fixed< 16 , 6 , rnd , sat >")) == "fixed<16,6,RND,SAT>"
    assert Precision.parse("fixed<16,6>").ap_type == "ap_fixed<16,6,AP_TRN,AP_WRAP>"


@pytest.mark.parametrize("part", ["xcu250-figd2104-2L-e", "xcvu9p-flgb2104-2-e", "xc7z020clg400-1", "xczu7ev-ffvc1156-2-e"])
def test_a_parts_name_has_the_form_of_one(part):
    assert checked_part(part) == part


@pytest.mark.parametrize("part", ["", "u250", "xcu250", "xcu250-figd2104-2L-e; exit", "xcu250 figd2104"])
def test_what_has_not_the_form_of_a_part_is_refused(part):
    with pytest.raises(BadOption, match="not the form of a part"):
        hls.convert("network:1", part=part)


def test_options_of_the_other_form_are_refused(network):
    with pytest.raises(UsageError, match="--precision is for --to fpga"):
        commands.run(["convert", network.ref, "--precision", "fixed<16,6>"], Terminal(quiet=True))
    with pytest.raises(UsageError, match="--quantize is for --to onnx"):
        commands.run(["convert", network.ref, "--to", "fpga", "--quantize", "int8"], Terminal(quiet=True))


def test_a_synthesis_without_its_tool_is_an_honest_error(network):
    with pytest.raises(HardwareMissing, match=r"vitis_hls.*is on PATH"):
        hls.convert(network.ref, synthesise=True)


def test_without_a_compiler_nothing_is_begun(network, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")

    with pytest.raises(CompilerMissing):
        hls.convert(network.ref)


def test_a_library_that_is_not_what_was_compiled_is_not_opened(network):
    file = next(file for file in network.files if file.path == "fpga/fixed-6-3.tar.gz")
    home = emulation.library(artifacts.address(file.sha256))
    library = home / "emulation.so"
    before = library.read_bytes()
    library.write_bytes(before + b"!")

    with pytest.raises(FileChanged):
        emulation.library(artifacts.address(file.sha256))
    library.write_bytes(before)


# ── what is shown ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_its_card_says_emulation_and_estimate(network):
    text = cards.as_text(hls.ConvertedToFpga(version=network))

    assert "emulated" in text and "estimated, not synthesised" in text and all(each in text for each in PRECISIONS)


def test_the_trade_off_is_drawn_from_what_is_stored(network):
    drawn = hls.figure(network)

    assert [list(trace.x) for trace in drawn.data] == [[each.replace("<", "&lt;").replace(">", "&gt;") for each in PRECISIONS]] * 2
    assert "ESTIMATE" in drawn.layout.title.text and "emulation" in drawn.layout.title.text
    takes, bars = drawn.data[1].y, drawn.data[1].error_y
    assert bars.array == pytest.approx([0.2 * dsp for dsp in takes]) and bars.arrayminus == pytest.approx([0.5 * dsp for dsp in takes]), "the band of DSPs"


@pytest.fixture
def shell():
    """A shell with this package's extension, as a notebook has one."""
    shell = InteractiveShell.instance()
    mlops_nb.load_ipython_extension(shell)
    yield shell
    mlops_nb.unload_ipython_extension(shell)
    InteractiveShell.clear_instance()


def test_a_notebook_shows_its_card_and_the_trade_off(network, shell):
    with capture_output() as shown:
        shell.display_formatter.format(hls.ConvertedToFpga(version=network))
    card, drawn = (output.data for output in shown.outputs)

    assert "estimated, not synthesised" in card["text/html"]
    figure, words = drawn["application/vnd.plotly.v1+json"], drawn["text/plain"]
    assert [len(trace["x"]) for trace in figure["data"]] == [3, 3]
    assert all(f"{each} answers " in words for each in PRECISIONS) and "DSPs (estimate)" in words


def test_precision_part_and_reuse_are_said_in_a_line(register, fitted_network):
    version = register(fitted_network, "said")

    converted = commands.run(
        ["convert", version.ref, "--to", "fpga", "--precision", "fixed<12,4>", "--precision", "fixed<16,6>", "--part", "xc7z020clg400-1", "--reuse", "2"],
        Terminal(quiet=True),
    )

    form = registry.get(version.ref).conversion["fpga"]
    assert (form["part"], form["reuse"], [point["precision"] for point in form["points"]]) == ("xc7z020clg400-1", 2, ["fixed<12,4>", "fixed<16,6>"])
    assert form == converted.version.conversion["fpga"]
    assert [point["agreement"]["rows"] for point in form["points"]] == [600, 600], "every row of the data set"


def test_a_version_without_an_fpga_form_has_no_figure(register, fitted_trees):
    with pytest.raises(BadOption, match="has no FPGA form"):
        hls.figure(register(fitted_trees, "plain"))
