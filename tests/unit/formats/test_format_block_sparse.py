from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from dovetail.errors import ProgramError, SpecError
from dovetail.formats import BlockSparseSpec, Geometry, PackedBlockSparse
from dovetail.formats.block_sparse.layer import BlockSparseConv2d, BlockSparseLinear
from dovetail.formats.values import INT8


def test_blocks_by_hand():
    """One output, six channels, two taps: blocks of four; the second reaches beyond the last channel."""
    weight = np.zeros((1, 6, 1, 2), np.float32)
    weight[0, 1, 0, 0], weight[0, 5, 0, 1] = 2, -3
    packed = PackedBlockSparse.from_dense(weight, BlockSparseSpec())
    assert packed.indices().tolist() == [0, 3]
    assert packed.arrays["weight"].tolist() == [[0, 2, 0, 0], [0, -3, 0, 0]]
    np.testing.assert_array_equal(packed.dense(), weight)
    assert (packed.nonzeros(), packed.params(), packed.macs(Geometry(9, 7))) == (2, 8, 6 * 7)
    assert packed.bits() == 8 * 32 + 8


def test_the_largest_blocks_are_kept_and_of_equals_the_first():
    weight = np.array([[1, 1, 1, 1, 3, 0, 0, 0], [2, 0, 2, 0, 0, 0, 0, 2]], np.float32)
    packed = PackedBlockSparse.from_dense(weight, BlockSparseSpec(density=0.5))
    assert packed.indices().tolist() == [1, 2]
    tied = PackedBlockSparse.from_dense(np.ones((2, 8), np.float32), BlockSparseSpec(density=0.75))
    assert tied.indices().tolist() == [0, 1, 2]


def test_two_of_four():
    weight = np.array([[4, -1, 3, 2, 1, 1, 5]], np.float32)
    packed = PackedBlockSparse.from_dense(weight, BlockSparseSpec(block=1, keep=(2, 4)))
    assert packed.dense().tolist() == [[4, 0, 3, 0, 1, 0, 5]]
    assert packed.spec.most((1, 7)) == 4


def test_scales_of_whole_numbers_are_one_per_output():
    weight = np.random.default_rng(0).standard_normal((3, 10, 3, 3)).astype(np.float32)
    packed = PackedBlockSparse.from_dense(weight, BlockSparseSpec(density=0.4, values=INT8))
    codes, scale = packed.integers()
    np.testing.assert_allclose(codes * scale[:, None, None, None], packed.dense(), rtol=1e-6)
    assert (np.abs(codes).reshape(3, -1).max(axis=1) == 127).all()


@pytest.mark.parametrize(
    ("spec", "message"),
    [(BlockSparseSpec(density=0.5), "density 0.5 does not"), (BlockSparseSpec(block=1, keep=(2, 4)), r"keep=\(2, 4\)")],
)
def test_more_blocks_than_allowed(spec, message):
    good = PackedBlockSparse.from_dense(np.ones((4, 8), np.float32), BlockSparseSpec(block=spec.block))
    with pytest.raises(ProgramError, match=message):
        PackedBlockSparse(spec, good.shape, good.arrays).validate()


def test_filling_must_be_zero():
    good = PackedBlockSparse.from_dense(np.ones((4, 6), np.float32), BlockSparseSpec())
    good.validate()
    bad = good.arrays["weight"].copy()
    bad[1, 3] = 1.0
    with pytest.raises(ProgramError, match="beyond its last input channel"):
        PackedBlockSparse(good.spec, good.shape, {**good.arrays, "weight": bad}).validate()


@pytest.mark.parametrize(
    "fields", [{"block": 0}, {"block": 2.0}, {"density": 0}, {"keep": (0, 4)}, {"keep": (2,)}, {"keep": (5, 4)}]
)
def test_specs_are_checked(fields):
    with pytest.raises(SpecError, match="block_sparse"):
        BlockSparseSpec(**fields)


def test_a_spec_survives_json():
    spec = BlockSparseSpec(block=1, keep=(2, 4), values=INT8)
    assert BlockSparseSpec.from_json(spec.to_json()) == spec
    with pytest.raises(SpecError, match="not both"):
        BlockSparseSpec(keep=(2, 4), density=0.5)


@pytest.mark.parametrize("build", [lambda: nn.Linear(16, 5), lambda: nn.Conv2d(16, 5, 3)], ids=["linear", "conv"])
def test_removing_channels_loses_no_weight_to_a_pattern_that_no_longer_fits(build):
    torch.manual_seed(0)  # by chance, five rows of weights can fit the pattern after all
    dense = build()
    kind = BlockSparseLinear if isinstance(dense, nn.Linear) else BlockSparseConv2d
    layer = kind.from_dense(dense, BlockSparseSpec(block=1, keep=(2, 4)))
    assert layer.pack().spec.keep == (2, 4)
    thin = layer.slice_channels(in_keep=torch.tensor([0, 1, 2, 4, 5, 7, 8, 10, 11, 13]))
    np.testing.assert_array_equal(thin.pack().dense(), thin.weight().detach().numpy())
    assert thin.pack().spec.keep is None
