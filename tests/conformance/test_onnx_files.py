"""A packed file of every format becomes ONNX by way of torch: onnxruntime gives what the Program means."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import dovetail as dt
from dovetail.export.onnx import export_onnx
from dovetail.export.torch_module import to_torch
from dovetail.formats import FORMATS
from dovetail.program.integer import is_quantized
from dovetail.program.program import Activation, Program
from dovetail.program.reference import run
from dovetail.program.store import load, save
from programs import Sketch, close
from samples import SAMPLES, Case, packed

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


def program_of(name: str, deepest: int = 100) -> Program:
    """Layers in the format: with a whole epilogue each type of values and each sample; a strided and a linear one."""
    sample, sketch, lossy = SAMPLES[name], Sketch(1), min(1, len(SAMPLES[name].lossy))
    held, samples = FORMATS[name].spec.holds, 1 + len(sample.lossy)
    x = sketch.input("batch", 6, 9, 8)
    kernel, padding = ((1, 1), (0,) * 4) if sample.pointwise_only else ((3, 3), (1,) * 4)
    for number in range(min(deepest, max(len(held), samples))):
        weight = packed(name, Case((6, 6, *kernel)), number % samples, held[number % len(held)])
        before = {"residual": x, "activation": Activation("hardswish")}
        x = sketch.add("conv2d", x, packed=weight, padding=padding, scaled=True, biased=True, **before)
    x = sketch.add("conv2d", x, packed=packed(name, Case((5, 6, *kernel)), lossy), stride=(2, 2), padding=padding)
    x = sketch.add("mean", x, axes=(2, 3), keepdims=False)
    if sample.linear:
        x = sketch.add("linear", x, packed=packed(name, Case((7, 5)), lossy), biased=True)
    return sketch.program(x)


def answers(program: Program, file: Path, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What onnxruntime makes of a file with standard operators only, and what the Program means."""
    proto = onnx.load(file)
    onnx.checker.check_model(proto)
    assert {node.domain for node in proto.graph.node} <= {"", "ai.onnx"}
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (got,) = session.run(None, {session.get_inputs()[0].name: images})
    return got, run(program, images)


QUICK = ("dense", "tucker", "kernel_basis", "block_circulant")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in FORMATS]
)
def test_a_packed_file_of_every_format_as_onnx(name: str, tmp_path) -> None:
    program = load(save(program_of(name), tmp_path / "net.dovetail"))
    assert {weight.spec.format for weight in program.weights.values()} == {name}
    file = export_onnx(to_torch(program), torch.zeros(1, 6, 9, 8), tmp_path / "net.onnx")
    for batch in (1, 3):
        images = np.random.default_rng(batch).standard_normal((batch, 6, 9, 8)).astype(np.float32)
        assert close(*answers(program, file, images))


def test_whole_numbers_as_onnx_differ_by_few_codes(tmp_path) -> None:
    images = np.random.default_rng(0).standard_normal((16, 6, 9, 8)).astype(np.float32)
    made = dt.quantize(program_of("dense", deepest=3), [images])  # a code that differs spreads from layer to layer
    assert any(is_quantized(tensor) for tensor in made.graph.tensors.values())
    file = export_onnx(to_torch(made), torch.zeros(1, 6, 9, 8), tmp_path / "net.onnx")
    got, want = answers(made, file, images)
    assert close(got, want, 0.01)
    assert np.mean(np.isclose(got, want, rtol=1e-4, atol=1e-4 * np.abs(want).max())) > 0.8
