"""Linear layers with ternary coefficients: planned, trained, packed, and run in whole numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from dovetail.api import compress
from dovetail.engine import Session
from dovetail.engine.quantize import quantize
from dovetail.errors import SpecError
from dovetail.export.torch_module import to_torch
from dovetail.formats import KernelBasisSpec, PackedKernelBasis
from dovetail.formats.kernel_basis.layer import KernelBasisLinear
from dovetail.formats.values import INT8
from dovetail.methods import Escalate, Kept, Plan
from dovetail.program.lower import lower
from dovetail.program.reference import run as reference

TERNARY = KernelBasisSpec(bases=1, coefficients="ternary")


def net() -> nn.Module:
    torch.manual_seed(7)
    inner = nn.Sequential(nn.Linear(36, 22), nn.ReLU(), nn.Linear(22, 13), nn.ReLU())
    return nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.Flatten(), *inner, nn.Linear(13, 3))


def short(**options) -> Escalate:
    epochs = {"sparsify_epochs": 1, "ternarise_epochs": 2, "settle_epochs": 1, "update": 1}
    return Escalate(**{**epochs, "density": 0.3, **options})


def test_only_linear_layers_between_the_first_and_the_last_are_planned(example):
    plan = short().plan(net(), example).layers
    assert plan == {
        "0": Kept("first layer: int8"), "2": TERNARY, "4": TERNARY, "6": Kept("last layer: int8"),
    }  # fmt: skip
    given = short().plan(net(), example, Plan({"6": TERNARY, "2": Kept("no")})).layers
    assert (given["2"], given["6"]) == (Kept("no"), TERNARY)
    assert short(shared=4).plan(net(), example).layers["2"].shared == 4
    with pytest.raises(SpecError, match="no layer to decompose"):
        short(linear=False).plan(net(), example)
    with pytest.raises(SpecError, match="2 bases for 1x1 kernels"):
        short().plan(net(), example, Plan({"2": KernelBasisSpec(bases=2, coefficients="ternary")}))


def test_runs_from_before_the_option_go_on_where_it_changes_nothing():
    assert "linear" not in short(linear=False).options()
    assert short().options()["linear"] == "True"


@pytest.mark.parametrize("shared", [1, 4])
def test_a_trained_network_is_packed_and_runs_in_whole_numbers(data, example, shared):
    model, method = net(), short(shared=shared)
    compress(model, method, train=data)
    model.eval()
    for name in ("2", "4"):
        layer = model.get_submodule(name)
        assert isinstance(layer, KernelBasisLinear)
        packed = layer.pack()
        assert isinstance(packed, PackedKernelBasis)
        assert packed.spec.shared == shared
        assert packed.shape == layer.weight_shape
        np.testing.assert_allclose(packed.dense(), layer.weight().detach().numpy(), rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(packed.cast(INT8).dense(), packed.dense(), rtol=2e-6, atol=1e-9)
    kept = [model.get_submodule(name).coefficients.count_nonzero().item() for name in ("2", "4")]
    assert shared > 1 or sum(kept) == round(0.3 * (36 * 22 + 22 * 13))
    images = data[0][0]
    program = lower(model, example)
    with torch.no_grad():
        want = model(images).numpy()
    np.testing.assert_allclose(Session(program)(images.numpy()), want, atol=1e-4)
    np.testing.assert_allclose(to_torch(program)(images).detach().numpy(), want, atol=1e-4)
    whole = quantize(program, [images.numpy()], **method.quantization().options())
    assert {w.spec.values for w in whole.weights.values() if isinstance(w, PackedKernelBasis)} == {INT8}
    got = reference(whole, images.numpy())
    assert np.abs(got - want).max() < 0.05 * np.ptp(want)
    assert np.array_equal(Session(whole)(images.numpy()), got)


def test_channels_that_died_leave_linear_layers_too(data):
    made = {}
    for shrink in (False, True):
        made[shrink] = net()
        compress(made[shrink], short(density=0.04, shrink=shrink), train=data)
    images = data[0][0]
    with torch.no_grad():
        whole, small = (made[shrink].eval()(images) for shrink in (False, True))
    assert torch.allclose(small, whole, atol=1e-5)
    first, second = (made[True].get_submodule(name).weight_shape for name in ("2", "4"))
    assert first[0] == second[1] < 22


def test_a_layer_by_hand():
    """Weights 3, -5, 0.1 / -4, 0, 4: of a density of two thirds four are kept, of mean magnitude 4."""
    layer = nn.Linear(3, 2)
    layer.weight.data = torch.tensor([[3.0, -5.0, 0.1], [-4.0, 0.0, 4.0]])
    spec = KernelBasisSpec(bases=1, coefficients="ternary", density=0.66)
    made = KernelBasisLinear.from_dense(layer, spec)
    assert made.weight().tolist() == [[4.0, -4.0, 0.0], [-4.0, 0.0, 4.0]]
    packed = made.pack()
    assert packed.shape == (2, 3)
    assert packed.arrays["bases"].shape == (1, 1, 1)
    assert packed.nonzeros() == 4 + 1
    x = torch.tensor([[1.0, 2.0, 3.0]])
    assert torch.allclose(made(x), made.to_dense()(x))
    assert torch.allclose(made.factored(x), made(x))
