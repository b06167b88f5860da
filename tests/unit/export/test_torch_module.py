"""A Program back in torch: the same function, and layers that train."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dovetail.errors import InputError
from dovetail.export.torch_module import ACTIVATION_FUNCTIONS, FUNCTIONS, to_torch
from dovetail.formats import KernelBasisSpec, PermutedDiagonalSpec, SparseSpec, SvdSpec, TuckerSpec
from dovetail.formats.layer import FormatLayer, from_dense, swap
from dovetail.formats.recurrent import FusedLstm, Lstm, with_fused
from dovetail.program.lower import lower
from dovetail.program.ops import ACTIVATIONS, OPS
from dovetail.program.reference import run
from dovetail.program.store import load
from dovetail.zoo import build
from dovetail.zoo.lstm import lstm_with_state
from programs import Sketch, recurrence

SPECS = {
    "tucker": TuckerSpec(rank_in=2, rank_out=3),
    "kernel_basis": KernelBasisSpec(bases=2),
    "sparse": SparseSpec(density=0.3),
    "svd": SvdSpec(rank=2),
}


class Every(nn.Module):
    """Uses every op of the table."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 6, 3, padding="same")
        self.even = nn.Conv2d(4, 6, (2, 3), padding="same")
        self.norm, self.rows, self.linear = nn.BatchNorm2d(6), nn.LayerNorm(6), nn.Linear(6, 5)

    def forward(self, x):
        y = F.hardswish(self.norm(self.conv(x) + self.even(x))) * torch.sigmoid(x.mean((1, 2, 3), keepdim=True))
        y = F.max_pool2d(F.pad(y, (0, 1, 1, 0), value=2.0), 3, 2, 1, ceil_mode=True)
        z = F.avg_pool2d(F.interpolate(y, scale_factor=2), 2, 2, 1, count_include_pad=False)
        pools = F.adaptive_avg_pool2d(z, (3, 2)) + F.adaptive_max_pool2d(z, (3, 2))
        y = torch.cat([pools, z[:, :, 1:4, 1:5:2]], 2).flatten(2).transpose(1, 2)
        y = self.rows(F.gelu(y)) + F.leaky_relu(y)
        return self.linear(F.scaled_dot_product_attention(y, y, F.silu(y))).tanh(), F.relu6(x)


def test_every_op_has_its_function():
    assert set(FUNCTIONS) == {name for name, op in OPS.items() if not op.weight} - {"scan"}
    assert set(ACTIVATION_FUNCTIONS) == set(ACTIVATIONS)


@pytest.mark.parametrize("time", [None, 1])
def test_scans_agree_with_the_reference_and_train(time):
    model = nn.Sequential(Lstm(3, 5), Lstm(5, 4, last=True), nn.Linear(4, 2)).eval()
    swap(model, "0.h_f", from_dense(model[0].h_f, SvdSpec(rank=2)))
    x = torch.randn(3, 6, 3)
    program = lower(model, x, time=time)
    module = to_torch(program)
    assert np.abs(module(x).detach().numpy() - run(program, x.numpy())).max() < 1e-6
    module(x).sum().backward()
    assert all(p.grad is not None for p in module.parameters())


def test_scans_begin_with_the_states_that_are_given():
    sketch = Sketch(1)
    cell = recurrence(sketch, 4)
    x, h, m = sketch.input("batch", "time", 4), sketch.input("batch", 4), sketch.input("batch", 4)
    program = sketch.program(sketch.add("scan", x, h, m, body=cell))
    inputs = [torch.randn(2, 5, 4), torch.randn(2, 4), torch.randn(2, 4)]
    got = to_torch(program)(*inputs).detach().numpy()
    assert np.abs(got - run(program, *(x.numpy() for x in inputs))).max() < 1e-6


@pytest.mark.parametrize("spec", [None, SvdSpec(rank=2), PermutedDiagonalSpec(size=4)], ids=str)
@pytest.mark.parametrize("name", ["lstm_digits", "lstm_with_state"])
def test_scans_that_are_an_lstm_are_one_again(name, spec):
    """So other runtimes get theirs, and the module lowers to what it was made from."""
    model = build("lstm_digits", hidden=8, size=(6, 4)) if name == "lstm_digits" else lstm_with_state(8)
    x = torch.randn(2, 1, 6, 4) if name == "lstm_digits" else torch.randn(2, 6, 8)
    for gate in ("x_i", "h_f") if spec else ():
        swap(model, f"lstm.{gate}", from_dense(model.lstm.get_submodule(gate), spec))
    program = lower(model.eval(), x)
    module, want = to_torch(program), run(program, x.numpy())
    (lstm,) = module.lstms.values()
    assert isinstance(lstm, Lstm)
    assert not module.bodies
    again, fused = lower(module, x), with_fused(module)
    assert [node.op for node in again.graph.nodes] == [node.op for node in program.graph.nodes]
    assert [type(layer) for layer in fused.lstms.values()] == [Lstm if spec else FusedLstm]
    for got in (run(again, x.numpy()), *(net(x).detach().numpy() for net in (module, fused))):
        assert np.abs(got - want).max() < 1e-6


class PeepingLstm(Lstm):
    def step(self, steps, states):
        h, c = super().step(steps, states)
        return h * torch.sigmoid(c), c


class ReadTwice(nn.Module):
    """What the input adds to a gate is an output of the network, too."""

    def __init__(self):
        super().__init__()
        self.lstm = Lstm(3, 5)

    def forward(self, x):
        return self.lstm(x) + self.lstm.x_i(x)


@pytest.mark.parametrize("model", [PeepingLstm(3, 5), ReadTwice()], ids=["step", "shared"])
def test_other_scans_stay_scans(model):
    model, x = nn.Sequential(model).eval(), torch.randn(2, 6, 3)
    program = lower(model, x)
    module = to_torch(program)
    assert not module.lstms
    assert module.bodies
    assert np.abs(module(x).detach().numpy() - run(program, x.numpy())).max() < 1e-6


def test_it_agrees_with_the_reference_and_the_model():
    model, x = Every().eval(), torch.randn(3, 4, 9, 7)
    program = lower(model, x[:1])
    assert {node.op for node in program.graph.nodes} >= set(OPS) - {
        "affine",
        "activation",
        "scan",
        "concat",
        "quantize",
        "dequantize",
    }
    with torch.no_grad():
        for want, got, reference in zip(model(x), to_torch(program)(x), run(program, x.numpy()), strict=True):
            np.testing.assert_allclose(got.numpy(), want.numpy(), rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(got.numpy(), reference, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", SPECS)
def test_formats_come_back_as_layers_that_train(name):
    model = nn.Sequential(nn.Linear(6, 5) if name == "svd" else nn.Conv2d(4, 5, 3, 2, 1))
    swap(model, "0", from_dense(model[0], SPECS[name]))
    x = torch.randn(2, 6) if name == "svd" else torch.randn(2, 4, 9, 7)
    program = lower(model, x)
    module = to_torch(program)
    np.testing.assert_allclose(module(x).detach().numpy(), run(program, x.numpy()), rtol=1e-4, atol=1e-5)
    (layer,) = module.layers.values()
    assert isinstance(layer, FormatLayer)
    module(x).sum().backward()
    assert all(parameter.grad is not None for parameter in module.parameters())


def test_a_shared_weight_stays_shared():
    conv = nn.Conv2d(4, 4, 3, padding=1, bias=False)

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = conv

        def forward(self, x):
            return F.conv2d(self.conv(x), self.conv.weight, stride=2)

    x = torch.randn(2, 4, 9, 7)
    module = to_torch(lower(Twice(), x))
    assert len(list(module.parameters())) == 1
    np.testing.assert_allclose(module(x).detach().numpy(), Twice()(x).detach().numpy(), rtol=1e-4, atol=1e-5)


def test_the_wrong_input_is_refused():
    module = to_torch(lower(nn.ReLU(), torch.randn(2, 3)))
    with pytest.raises(InputError, match="shape"):
        module(torch.randn(2, 4))
    with pytest.raises(InputError, match="inputs given"):
        module()


@pytest.fixture
def every_warning():
    torch.set_warn_always(True)
    yield
    torch.set_warn_always(False)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
def test_a_stored_program_becomes_torch_without_a_warning(spec, tmp_path, every_warning):
    layer = nn.Linear(6, 8) if spec.format == "svd" else nn.Conv2d(6, 8, 3)
    model = nn.Sequential(from_dense(layer, spec, "0"))
    x = torch.randn(2, 6) if spec.format == "svd" else torch.randn(2, 6, 5, 5)
    lower(model, x).save(tmp_path / "net.dovetail")
    back = to_torch(load(tmp_path / "net.dovetail"))
    with torch.no_grad():
        np.testing.assert_allclose(back(x).numpy(), model(x).numpy(), rtol=1e-4, atol=1e-5)
