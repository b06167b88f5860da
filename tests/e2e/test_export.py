"""`dovetail export`: a packed file, or a network by name, as ONNX that onnxruntime runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from dovetail.cli import main
from dovetail.formats import KernelBasisSpec, SparseSpec, TuckerSpec
from dovetail.formats.layer import from_dense, swap
from dovetail.program.lower import lower
from dovetail.program.reference import run
from dovetail.zoo import build

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def predicted(file: str, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {session.get_inputs()[0].name: x})
    return y


def test_a_packed_file(here, capsys):
    model = build("resnet8", in_channels=1, width=0.5)
    specs = (
        TuckerSpec(rank_in=4, rank_out=4),
        KernelBasisSpec(bases=3, coefficients="sparse"),
        SparseSpec(density=0.3),
    )
    for name, spec in zip(("layer1.0.conv1", "layer1.0.conv2", "layer2.0.conv2"), specs, strict=True):
        swap(model, name, from_dense(model.get_submodule(name), spec))
    program = lower(model, torch.zeros(1, 1, 8, 8))
    program.save("net.dovetail")
    assert main(["export", "net.dovetail"]) == 0
    assert "wrote net.onnx" in capsys.readouterr().out
    x = np.random.default_rng(0).standard_normal((3, 1, 8, 8)).astype(np.float32)
    want = run(program, x)
    assert np.abs(predicted("net.onnx", x) - want).max() <= 1e-4 * np.ptp(want)


def test_a_network_by_name_with_weights(here):
    model, x = build("resnet8").eval(), torch.randn(2, 3, 12, 12)
    save_file(model.state_dict(), "w.safetensors")
    command = ["export", "resnet8", "--weights", "w.safetensors", "--input", "3x12x12", "-o", "made.onnx"]
    assert main(command) == 0
    with torch.no_grad():
        want = model(x).numpy()
    assert np.abs(predicted("made.onnx", x.numpy()) - want).max() <= 1e-4 * np.ptp(want)


@pytest.mark.parametrize("content", [None, b"", b"not a network"])
def test_what_is_no_packed_file_leaves_nothing(here, capsys, content):
    if content is not None:
        Path("net.dovetail").write_bytes(content)
    assert main(["export", "net.dovetail"]) == 2
    assert "net.dovetail" in capsys.readouterr().err
    assert not Path("net.onnx").exists()
