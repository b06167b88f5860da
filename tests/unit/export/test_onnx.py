"""ONNX files: standard ops only, any batch, equal to the model under onnxruntime."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from torch import nn

from dovetail.errors import DovetailError, UnsupportedOp
from dovetail.export.onnx import export_onnx
from dovetail.export.torch_module import to_torch
from dovetail.formats import KernelBasisSpec, SparseSpec, SvdSpec, TuckerSpec
from dovetail.formats.layer import from_dense, swap
from dovetail.formats.recurrent import Lstm
from dovetail.program.lower import lower

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


def network() -> nn.Module:
    """One layer in each format, dense ones between."""
    layers = [nn.Conv2d(4, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 6, 3, 2, 1, bias=False)]
    layers += [nn.Hardswish(), nn.Conv2d(6, 6, 3, dilation=2, padding=2), nn.MaxPool2d(2), nn.Conv2d(6, 8, 1)]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 7))
    nn.init.uniform_(model[1].running_var, 0.5, 2)
    specs = {"0": TuckerSpec(rank_in=3, rank_out=4), "3": KernelBasisSpec(bases=3), "5": SparseSpec(density=0.3)}
    for name, spec in {**specs, "7": SvdSpec(rank=3), "10": SvdSpec(rank=3)}.items():
        swap(model, name, from_dense(model.get_submodule(name), spec))
    return model


def test_every_format_equals_torch_in_standard_ops(tmp_path):
    model, file = network().train(), tmp_path / "net.onnx"
    assert export_onnx(model, torch.randn(1, 4, 12, 10), file) == file
    assert model.training
    proto = onnx.load(file)
    onnx.checker.check_model(proto)
    assert {node.domain for node in proto.graph.node} <= {"", "ai.onnx"}
    assert sum(node.op_type == "Conv" for node in proto.graph.node) == 3 + 2 + 1 + 2
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    model.eval()
    for batch in (1, 5):
        x = torch.randn(batch, 4, 12, 10)
        (got,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        want = model(x).detach().numpy()
        assert np.abs(got - want).max() <= 1e-4 * np.ptp(want)
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]


@pytest.mark.parametrize("time", [1, pytest.param(None, marks=pytest.mark.slow)])
def test_recurrent_layers_are_scans(tmp_path, time):
    model, file = nn.Sequential(Lstm(3, 5), Lstm(5, 4, last=True), nn.Linear(4, 2)).eval(), tmp_path / "net.onnx"
    swap(model, "0.h_f", from_dense(model[0].h_f, SvdSpec(rank=2)))
    export_onnx(model, torch.randn(1, 6, 3), file, time=time)
    proto = onnx.load(file)
    onnx.checker.check_model(proto)
    assert [node.op_type for node in proto.graph.node].count("Scan") == 2
    session = onnxruntime.InferenceSession(file)
    for batch, steps in ((1, 6), (3, 6), *(((2, 1), (1, 30)) if time else ())):
        x = torch.randn(batch, steps, 3)
        (got,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        with torch.no_grad():
            assert np.abs(got - model(x).numpy()).max() < 1e-6


def test_a_packed_scan_is_a_scan_in_onnx_too(tmp_path):
    model, x = nn.Sequential(Lstm(3, 5), nn.Linear(5, 2)).eval(), torch.randn(2, 6, 3)
    module = to_torch(lower(model, x, time=1))
    export_onnx(module, x, tmp_path / "net.onnx", time=1)
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx")
    assert [node.op_type for node in onnx.load(tmp_path / "net.onnx").graph.node].count("Scan") == 1
    x = torch.randn(3, 11, 3)
    (got,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    with torch.no_grad():
        assert np.abs(got - model(x).numpy()).max() < 1e-6


def test_the_folder_must_exist(tmp_path):
    with pytest.raises(DovetailError, match="does not exist"):
        export_onnx(nn.ReLU(), torch.randn(2, 3), tmp_path / "gone" / "net.onnx")


def test_branches_on_values_are_refused(tmp_path):
    class Branch(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(UnsupportedOp, match=r"test_onnx\.py"):
        export_onnx(Branch(), torch.randn(2, 3), tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


def test_a_fixed_batch_is_refused(tmp_path):
    class Fixed(nn.Module):
        def forward(self, x):
            return x * 2 if x.shape[0] == 2 else x

    with pytest.raises(UnsupportedOp, match="fixes its batch size"):
        export_onnx(Fixed(), torch.randn(2, 3), tmp_path / "net.onnx")


def test_a_missing_exporter_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(DovetailError, match=r"onnxscript.*'\.\[export\]' in a checkout"):
        export_onnx(nn.ReLU(), torch.randn(2, 3), tmp_path / "net.onnx")
