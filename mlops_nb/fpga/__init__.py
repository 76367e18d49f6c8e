"""Models as fixed-point logic: an HLS project from a model's ONNX form, and its bit-accurate emulation in C++.

A model is split in three.  What comes before the first dense layer or the trees (scaling, imputing, encoding) and what comes after the
last (a softmax, the choice of a label) stays with the host and is run by ONNX Runtime in floats; what is between becomes logic, written
as a project for Vitis HLS by hls4ml (dense layers) or conifer (trees).  The split is checked against the whole before anything is
quantized.  No vendor tool is needed for the project nor for the emulation; figures of resources and latency are estimates then.
"""

from .precision import DEFAULT_PART, DEFAULT_PRECISION, Precision, checked_part

NAME = "FPGA emulation (C++)"
"""What faces say a deployment on the target `fpga` runs on."""

__all__ = ["DEFAULT_PART", "DEFAULT_PRECISION", "NAME", "Precision", "checked_part"]
