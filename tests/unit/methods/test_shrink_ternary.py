"""`shrink` on networks of ternary coefficients: the same bits, and places that stay shared."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dovetail.formats.kernel_basis import KernelBasisSpec, PackedKernelBasis
from dovetail.formats.kernel_basis.layer import KernelBasisConv2d
from dovetail.formats.layer import from_dense, swap
from dovetail.formats.values import INT8
from dovetail.methods.shrink import shrink
from dovetail.program import reference
from dovetail.program.calibrate import calibrate
from dovetail.program.lower import lower
from dovetail.program.quantize import quantize


def images():
    return torch.from_numpy(np.random.default_rng(6).integers(-4, 5, (2, 3, 6, 6))).float()


def ternary_chain(shared):
    """Two convolutions of ternary coefficients between 1x1 ones; all numbers are whole, and so all sums exact."""
    random, layers = np.random.default_rng(5), []
    for inputs, outputs in ((8, 16), (16, 12)):
        pattern = random.random((-(-outputs // shared), inputs, 3)) < 0.6
        signs = random.choice([-1.0, 1.0], (outputs, inputs, 3)) * pattern.repeat(shared, 0)[:outputs]
        bases = random.integers(-90, 91, (3, 3, 3)).astype(np.float32)
        bases[0, 0, 0], bases[1, 0, 0] = 127, 126
        spec = KernelBasisSpec(bases=3, coefficients="ternary", shared=shared)
        packed = PackedKernelBasis.from_factors(bases, signs, spec)
        layers.append(KernelBasisConv2d(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), packed))
    first, last = nn.Conv2d(3, 8, 1, bias=False), nn.Conv2d(12, 4, 1, bias=False)
    for layer in (first, last):
        layer.weight.data.copy_(torch.from_numpy(random.integers(-3, 4, tuple(layer.weight.shape))))
    model = nn.Sequential(first, nn.ReLU(), layers[0], nn.ReLU(), layers[1], nn.ReLU(), last)
    for name in ("2", "4"):
        swap(model, name, model.get_submodule(name))
    return model.eval()


@pytest.mark.parametrize("shared", [1, 4])
@torch.no_grad()
def test_a_shrunk_network_of_ternary_coefficients_computes_the_same_bits(shared):
    """In floating point and in whole numbers: outputs 0 to 3 of the one have no coefficient, 4 to 7 and 9 no reader."""
    model, x = ternary_chain(shared), images()
    one, two = model[2], model[4]
    one.coefficients[:4], two.coefficients[:, 4:8], two.coefficients[:, 9] = 0, 0, 0
    before = lower(model, x)
    factors = [layer.pack().factors() for layer in (one, two)]
    ranges = {name: found.range("minmax") for name, found in calibrate(before, [x.numpy()]).items()}
    kept = shrink(model, x).layers["2"].outputs
    assert kept == ((8, *range(10, 16)) if shared == 1 else tuple(range(8, 16)))
    after = lower(model, x)
    for i, (name, out, into) in enumerate((("2", kept, range(8)), ("4", range(12), kept))):
        bases, coefficients = model.get_submodule(name).pack().factors()
        assert model.get_submodule(name).spec.shared == shared
        assert np.array_equal(bases, factors[i][0])
        assert np.array_equal(coefficients, factors[i][1][list(out)][:, list(into)])
    assert np.array_equal(reference.run(after, x.numpy()), reference.run(before, x.numpy()))
    whole = [quantize(program, ranges) for program in (before, after)]
    assert {w.spec.coefficients for w in whole[1].weights.values() if w.spec.format == "kernel_basis"} == {"ternary"}
    assert np.array_equal(*(reference.run(program, x.numpy()) for program in whole))


@pytest.mark.parametrize("coefficients", ["ternary", "dense"])
@pytest.mark.parametrize(("idle", "left"), [(0, 3), (2, 2)])
@torch.no_grad()
def test_an_idle_basis_that_sets_the_grid_of_the_others_stays(idle, left, coefficients):
    model, x = ternary_chain(1), images()
    layer = model[2]
    if coefficients == "dense":
        layer.spec = KernelBasisSpec(bases=3, values=INT8)
    layer.coefficients[:, :, idle] = 0
    codes = layer.pack().cast(INT8).codes()[0]
    shrink(model, x)
    assert model[2].spec.bases == left
    kept = [i for i in range(3) if i != idle or left == 3]
    assert np.array_equal(model[2].pack().cast(INT8).codes()[0], codes[kept])


@pytest.mark.parametrize(("unread", "left"), [(7, (6, 7)), (5, tuple(range(8)))])
@torch.no_grad()
def test_outputs_that_share_places_and_meet_in_a_sum_leave_together(unread, left):
    """By two and by three: of five that nobody reads 0 to 3 may go, then 0 to 2, then 0 and 1, and so none."""

    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            conv = nn.Conv2d(3, 8, 3, padding=1, bias=False)
            for name, shared in (("a", 2), ("b", 3)):
                setattr(self, name, conv)
                swap(self, name, from_dense(conv, KernelBasisSpec(bases=4, coefficients="ternary", shared=shared)))
            self.last = nn.Conv2d(8, 2, 1, bias=False)

        def forward(self, x):
            return self.last(F.relu(self.a(x) + self.b(x)))

    model, x = Sum().eval(), images()
    model.last.weight[:, :unread] = 0
    before = model(x)
    assert shrink(model, x).layers["b"].outputs == left
    assert (model.a.spec.shared, model.b.spec.shared) == (2, 3)
    assert (model(x) - before).abs().max() <= 1e-5 * before.abs().max()
