"""Kernel basis: the optimum, the counts by hand, and what PENNI does to a layer."""

import numpy as np
import pytest
import torch
from torch import nn

from dovetail.errors import SpecError
from dovetail.formats import Geometry, KernelBasisSpec, PackedKernelBasis
from dovetail.formats import layer as layers
from dovetail.formats.kernel_basis.layer import KernelBasisConv2d
from dovetail.formats.kernel_basis.packed import decompose


def random_weight(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def with_coefficients(shape, kept, spec):
    """A weight of which only the coefficients (k, c, b) in `kept` are there."""
    k, c, r, s = shape
    coefficients = np.zeros((k, c, spec.bases), np.float32)
    for index in kept:
        coefficients[index] = 1
    return PackedKernelBasis.from_factors(random_weight(spec.bases, r, s), coefficients, spec)


@pytest.fixture
def layer():
    conv = nn.Conv2d(4, 6, 3, padding=1)
    return KernelBasisConv2d.from_dense(conv, KernelBasisSpec(bases=5, coefficients="sparse"))


@pytest.mark.parametrize("bases", range(1, 10))
def test_residual_is_the_discarded_singular_values(bases):
    weight = random_weight(16, 8, 3, 3)
    sigma = np.linalg.svd(weight.reshape(-1, 9).astype(np.float64), compute_uv=False)
    dense = PackedKernelBasis.from_dense(weight, KernelBasisSpec(bases=bases)).dense().astype(np.float64)
    discarded = np.sqrt((sigma[bases:] ** 2).sum())
    assert np.linalg.norm(dense - weight) == pytest.approx(discarded, rel=1e-6, abs=1e-6 * sigma[0])


@pytest.mark.parametrize("bases", range(1, 10))
def test_optimum_is_never_worse_than_dropping_the_mean(bases):
    weight = random_weight(16, 8, 3, 3) + 0.3

    def residual(init):
        b, a = decompose(weight, bases, init)
        return np.linalg.norm(np.tensordot(a, b, axes=1) - weight)

    assert residual("svd") <= residual("pca_nomean") * (1 + 1e-12)


def test_dropping_the_mean_projects_centred_kernels():
    weight = random_weight(16, 8, 3, 3) + 0.3
    kernels = weight.reshape(-1, 9).astype(np.float64)
    bases, coefficients = decompose(weight, 4, "pca_nomean")
    centred = kernels - kernels.mean(axis=0)
    _, _, vt = np.linalg.svd(centred, full_matrices=False)
    assert np.tensordot(coefficients, bases, axes=1).reshape(-1, 9) == pytest.approx(centred @ vt[:4].T @ vt[:4])


def test_unknown_start_is_named():
    with pytest.raises(SpecError, match="mean_pca"):
        decompose(random_weight(2, 2, 3, 3), 2, "mean_pca")


def test_bases_are_orthonormal_and_ordered_even_when_there_are_more_than_kernels():
    bases, coefficients = decompose(random_weight(1, 2, 3, 3), 6)
    flat = bases.reshape(6, 9)
    assert flat @ flat.T == pytest.approx(np.eye(6), abs=1e-12)
    assert np.all(np.diff(np.linalg.norm(coefficients.reshape(-1, 6), axis=0)) <= 1e-9)


def test_full_basis_is_exact_in_double_precision():
    weight = np.random.default_rng(1).standard_normal((12, 7, 3, 3))
    bases, coefficients = decompose(weight, 9)
    assert np.abs(np.tensordot(coefficients, bases, axes=1) - weight).max() <= 1e-12


@pytest.mark.parametrize(
    "shape, kept, at, macs",
    [
        # One coefficient: recomposed, 9 per output position. conv-first 2*1*9*16 + 16, coefficients-first 16 + 3*9*16.
        ((3, 2, 3, 3), [(0, 0, 0)], Geometry(16, 16), 9 * 16),
        # 20 outputs share 2 inputs: conv-first, 2*1*9 + 40 per position.
        ((20, 2, 3, 3), [(k, c, 0) for k in range(20) for c in range(2)], Geometry(16, 16), (18 + 40) * 16),
        # 20 inputs for 2 outputs: coefficients-first, 40 + 2*9 per position.
        ((2, 20, 3, 3), [(k, c, 0) for k in range(2) for c in range(20)], Geometry(16, 16), (40 + 18) * 16),
        # The same with stride 2: the sparse 1x1 runs on all 64 input positions, so conv-first on 16 would be
        # (180 + 40) * 16 = 3520, coefficients-first 40 * 64 + 18 * 16 = 2848, recomposed 40 * 9 * 16 = 5760.
        ((2, 20, 3, 3), [(k, c, 0) for k in range(2) for c in range(20)], Geometry(64, 16), 2848),
        # Two groups: conv-first meets 2 * 2 channels.
        ((20, 2, 3, 3), [(k, c, 0) for k in range(20) for c in range(2)], Geometry(16, 16, 2), (36 + 40) * 16),
        ((3, 2, 3, 3), [], Geometry(16, 16), 0),
    ],
)
def test_macs_by_hand(shape, kept, at, macs):
    spec = KernelBasisSpec(bases=1, coefficients="sparse")
    assert with_coefficients(shape, kept, spec).macs(at) == macs


# The 3x3 convolutions of ResNet-18 on CIFAR-10: (times, C, K, input size, output size).
RESNET18 = [
    (1, 3, 64, 32, 32),
    (4, 64, 64, 32, 32),
    (1, 64, 128, 32, 16),
    (3, 128, 128, 16, 16),
    (1, 128, 256, 16, 8),
    (3, 256, 256, 8, 8),
    (1, 256, 512, 8, 4),
    (3, 512, 512, 4, 4),
]


def test_counts_of_penni_on_resnet18():
    """At d = 5 and with all coefficients: 305.1 M MACs for them, 20.97 M for the bases, 6.104 M coefficients."""
    macs = combining = coefficients = 0
    for times, c, k, size_in, size_out in RESNET18:
        spec = KernelBasisSpec(bases=5)
        weight = PackedKernelBasis.from_factors(np.ones((5, 3, 3)), np.ones((k, c, 5)), spec)
        macs += times * weight.macs(Geometry(size_in**2, size_out**2))
        combining += times * weight.stored_coefficients() * size_out**2
        coefficients += times * weight.stored_coefficients()
    assert round(combining / 1e6, 1) == 305.1
    assert round((macs - combining) / 1e6, 2) == 20.97
    assert round(coefficients / 1e6, 3) == 6.104


def test_dense_and_sparse_coefficients_mean_the_same():
    weight = random_weight(5, 4, 3, 3)
    dense = PackedKernelBasis.from_dense(weight, KernelBasisSpec(bases=4))
    sparse = PackedKernelBasis.from_dense(weight, KernelBasisSpec(bases=4, coefficients="sparse"))
    assert np.array_equal(dense.dense(), sparse.dense())
    assert dense.params() == sparse.params() == 4 * 9 + 5 * 4 * 4
    assert sparse.bits() == dense.bits() + 5 * 4 * 4


def test_bits_of_sparse_coefficients():
    spec = KernelBasisSpec(bases=5, coefficients="sparse")
    weight = with_coefficients((64, 64, 3, 3), [(k, k, 0) for k in range(64)], spec)
    # Gaps: the first index is 0, then 64 * 5 + 5 - 1 = 324 absent ones between neighbours (two bytes each), none at
    # the end but 4 absent ones after the last.
    assert weight.arrays["coefficients.gaps"].nbytes == 1 + 63 * 2 + 1
    assert weight.bits() == 32 * (5 * 9 + 64) + 8 * 128
    assert weight.live_kernels() == 64


@pytest.mark.parametrize("bases, message", [(10, "at most 9"), (0, "at least 1"), (2.5, "whole"), ("5", "whole")])
def test_number_of_bases_is_checked(bases, message):
    with pytest.raises(SpecError, match=message):
        KernelBasisSpec(bases=bases).check((4, 4, 3, 3), "conv1")


def test_whole_numbers_of_numpy_are_taken():
    assert KernelBasisSpec(bases=np.int64(3)).to_json()["bases"] == 3
    assert type(KernelBasisSpec(bases=np.int64(3)).bases) is int


def test_unknown_storage_of_coefficients():
    with pytest.raises(SpecError, match="csr"):
        KernelBasisSpec(bases=3, coefficients="csr")


def test_pruned_coefficients_are_zero_get_no_gradient_and_are_not_stored(layer):
    mask = torch.rand(6, 4, 5) < 0.3
    layer.prune(mask)
    assert not layer.coefficients[~mask].any()
    layer(torch.randn(2, 4, 5, 5)).square().sum().backward()
    assert not layer.coefficients.grad[~mask].any()
    assert layer.coefficients.grad[mask].all()
    packed = layer.pack()
    assert packed.stored_coefficients() == int(mask.sum())
    assert np.array_equal(packed.factors()[1] != 0, mask.numpy())
    assert "mask" in layer.state_dict()


def test_a_mask_must_fit(layer):
    for bad in (torch.ones(6, 4, 4, dtype=torch.bool), torch.ones(6, 4, 5)):
        with pytest.raises(SpecError, match="mask"):
            layer.prune(bad)


def test_normalised_bases_leave_the_weight(layer):
    with torch.no_grad():
        layer.bases.mul_(torch.tensor([2.0, 0.5, 1.0, 3.0, 0.0])[:, None, None])
    before = layer.weight().detach().clone()
    layer.normalise_bases()
    norms = layer.bases.flatten(1).norm(dim=1)
    assert torch.allclose(norms, torch.tensor([1.0, 1.0, 1.0, 1.0, 0.0]))
    assert torch.allclose(layer.weight(), before, atol=1e-6)


def test_dropping_unused_bases_leaves_the_weight(layer):
    mask = torch.rand(6, 4, 5) < 0.5
    mask[:, :, [1, 3]] = False
    layer.prune(mask)
    before = layer.weight().detach().clone()
    assert layer.drop_bases(mask.any(dim=0).any(dim=0)) is layer
    assert layer.spec.bases == 3
    assert torch.allclose(layer.weight(), before, atol=1e-6)
    assert torch.equal(layer.mask, mask[:, :, [0, 2, 4]])
    layer.pack().validate()


def test_one_basis_always_stays(layer):
    layer.drop_bases(torch.zeros(5, dtype=torch.bool))
    assert layer.spec.bases == 1
    with pytest.raises(SpecError, match="booleans"):
        layer.drop_bases(torch.ones(5, dtype=torch.bool))


def test_a_sliced_layer_keeps_mask_bias_name_and_trainability(layer):
    mask = torch.rand(6, 4, 5) < 0.5
    layer.prune(mask)
    layer.name = "stage.conv"
    layer.coefficients.requires_grad_(False)
    thin = layer.slice_channels(torch.tensor([5, 0]), torch.tensor([True, False, True, True]))
    assert (thin.out_channels, thin.in_channels, thin.name) == (2, 3, "stage.conv")
    assert torch.equal(thin.mask, mask[[5, 0]][:, [0, 2, 3]])
    assert torch.equal(thin.bias, layer.bias[[5, 0]])
    assert (thin.bases.requires_grad, thin.coefficients.requires_grad) == (True, False)


@pytest.mark.parametrize("groups, out, into", [(2, [0, 1], [0, 1]), (4, [0, 1], [0, 2]), (4, [0, 1], None)])
def test_channels_of_groups_stay(groups, out, into):
    conv = KernelBasisConv2d.from_dense(nn.Conv2d(4, 4, 3, groups=groups), KernelBasisSpec(bases=2))
    with pytest.raises(SpecError, match=f"{groups} groups"):
        conv.slice_channels(torch.tensor(out), None if into is None else torch.tensor(into))
    whole = conv.slice_channels(torch.arange(4))
    assert (whole.groups, whole.weight_shape) == (groups, conv.weight_shape)


def test_depthwise_channels_leave_in_pairs():
    conv = KernelBasisConv2d.from_dense(nn.Conv2d(4, 4, 3, groups=4), KernelBasisSpec(bases=2))
    keep, x = torch.tensor([1, 3]), torch.randn(2, 4, 6, 6)
    thin = conv.slice_channels(keep, keep)
    assert (thin.groups, thin.in_channels, thin.weight_shape) == (2, 2, (2, 1, 3, 3))
    assert torch.allclose(thin(x[:, keep]), conv(x)[:, keep], atol=1e-6)


def test_factored_form_is_channel_major():
    """Channel c meets all its bases: map c d + b. Told apart from the basis-major order by one channel only."""
    conv = KernelBasisConv2d.from_dense(nn.Conv2d(3, 2, 3), KernelBasisSpec(bases=2))
    x = torch.zeros(1, 3, 5, 5)
    x[:, 1] = torch.randn(5, 5)
    with torch.no_grad(), layers.appear("factored"):
        assert torch.allclose(conv(x), nn.functional.conv2d(x, conv.weight(), conv.bias), atol=1e-6)
