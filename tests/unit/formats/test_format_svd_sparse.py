"""SVD and unstructured sparsity: optima, counts and ties."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from dovetail.errors import ProgramError, SpecError
from dovetail.formats import Geometry, PackedSparse, PackedSvd, SparseSpec, SvdSpec
from dovetail.formats.sparse.layer import SparseConv2d, SparseLinear
from dovetail.formats.svd.layer import SvdConv2d, SvdLinear


@pytest.mark.parametrize("shape", [(7, 12), (12, 7, 1, 1)])
@pytest.mark.parametrize("rank", [1, 3, 7])
def test_svd_residual_is_the_discarded_singular_values(shape, rank):
    weight = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    sigma = np.linalg.svd(weight.reshape(shape[:2]).astype(np.float64), compute_uv=False)
    packed = PackedSvd.from_dense(weight, SvdSpec(rank=rank))
    residual = np.linalg.norm(packed.dense().astype(np.float64) - weight)
    assert residual == pytest.approx(np.sqrt((sigma[rank:] ** 2).sum()), rel=1e-6, abs=1e-6 * sigma[0])


def test_svd_factors_are_balanced():
    output, inputs = PackedSvd.from_dense(np.diag([9.0, 4.0, 1.0]).astype(np.float32), SvdSpec(rank=2)).factors()
    assert np.linalg.norm(output, axis=0) == pytest.approx([3, 2])
    assert np.linalg.norm(inputs, axis=1) == pytest.approx([3, 2])


def test_svd_counts():
    packed = PackedSvd.from_dense(np.ones((10, 6, 1, 1), np.float32), SvdSpec(rank=2))
    assert packed.params() == (10 + 6) * 2
    assert packed.macs(Geometry(inputs=64, outputs=16)) == (10 + 6) * 2 * 16
    assert packed.bits() == 32 * 32


@pytest.mark.parametrize("shape, message", [((4, 8), "rank 5"), ((8, 4), "rank 5"), ((8, 8, 3, 3), "1x1")])
def test_svd_names_what_it_cannot_hold(shape, message):
    with pytest.raises(SpecError, match=message):
        SvdSpec(rank=5).check(shape, "head")


@pytest.mark.parametrize("out, into", [([0, 1, 2], [0, 1]), ([3], [0, 1, 2, 3, 4]), ([0, 1, 2, 3, 4, 5], [4])])
def test_svd_slicing_below_the_rank(out, into):
    layer = SvdLinear.from_dense(nn.Linear(5, 6), SvdSpec(rank=4))
    thin = layer.slice_channels(torch.tensor(out), torch.tensor(into))
    assert thin.spec.rank == min(4, len(out), len(into))
    assert torch.allclose(thin.weight(), layer.weight()[out][:, into], atol=1e-6)
    thin.pack().validate()


@pytest.mark.parametrize("stride, padding", [(1, 0), (2, 0), (2, 1)])
def test_svd_convolution_does_the_work_that_is_counted(stride, padding):
    layer = SvdConv2d.from_dense(nn.Conv2d(5, 6, 1, stride, padding), SvdSpec(rank=2))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        y = layer(torch.randn(1, 5, 7, 7))
    assert counter.get_total_flops() == 2 * layer.pack().macs(Geometry(49, y[0, 0].numel()))


@pytest.mark.parametrize("density, kept", [(None, 5), (1.0, 5), (0.5, 3), (0.41, 2), (0.42, 3), (0.01, 1)])
def test_sparse_keeps_the_largest_and_of_equals_the_first(density, kept):
    weight = np.array([[1.0, -3.0, 0.0], [3.0, 1.0, -1.0]], np.float32)
    by_rank = [(0, 1), (1, 0), (0, 0), (1, 1), (1, 2)]
    packed = PackedSparse.from_dense(weight, SparseSpec(density=density))
    want = np.zeros_like(weight)
    for index in by_rank[:kept]:
        want[index] = weight[index]
    assert np.array_equal(packed.dense(), want)
    assert packed.params() == packed.nonzeros() == kept


def test_ties_in_a_large_weight_go_to_the_lower_index():
    weight = np.tile(np.float32([1, -1, 2, 1]), 500).reshape(40, 50)
    kept = PackedSparse.from_dense(weight, SparseSpec(density=0.5)).indices()
    ones = np.flatnonzero(np.abs(weight) == 1)[:500]
    assert kept.tolist() == sorted([*np.flatnonzero(weight == 2), *ones])


def test_sparse_counts_and_bits():
    weight = np.zeros((40, 30, 3, 3), np.float32)
    weight.ravel()[[0, 300, 10799]] = [1, 2, 3]
    packed = PackedSparse.from_dense(weight, SparseSpec())
    assert packed.macs(Geometry(100, 25)) == 3 * 25
    # Gaps 0, 299 = 255 + 44, 10498 = 41 * 255 + 43, and 0 to the end.
    assert packed.arrays["weight.gaps"].tolist() == [0, 255, 44, *[255] * 41, 43, 0]
    assert packed.bits() == 3 * 32 + 8 * 46
    assert packed.indices().tolist() == [0, 300, 10799]


def test_more_entries_than_the_density_allows():
    good = PackedSparse.from_dense(np.ones((4, 4), np.float32), SparseSpec())
    with pytest.raises(ProgramError, match="density allows 8"):
        PackedSparse(SparseSpec(density=0.5), good.shape, good.arrays).validate()


@pytest.mark.parametrize("density", [0, -0.1, 1.1, float("nan"), "half", True])
def test_density_is_checked(density):
    with pytest.raises(SpecError, match="density"):
        SparseSpec(density=density)


@pytest.mark.parametrize("dense", [nn.Linear(6, 5), nn.Conv2d(6, 5, 3, padding=1)])
def test_masked_entries_stay_zero_while_training(dense):
    kind = SparseLinear if isinstance(dense, nn.Linear) else SparseConv2d
    layer = kind.from_dense(dense, SparseSpec())
    mask = torch.rand(dense.weight.shape) < 0.4
    layer.prune(mask)
    optimizer = torch.optim.SGD(layer.parameters(), 0.1, momentum=0.9, weight_decay=1e-2)
    for _ in range(3):
        optimizer.zero_grad()
        layer(torch.randn(2, 6, *([5, 5] if kind is SparseConv2d else []))).square().mean().backward()
        optimizer.step()
    assert not layer.values[~mask].any()
    assert layer.pack().params() == int(mask.sum())
    with pytest.raises(SpecError, match="mask"):
        layer.prune(mask.float())
