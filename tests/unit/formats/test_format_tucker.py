"""Tucker-2: error bounds, projection, and the published counts of TDC."""

import numpy as np
import pytest
import torch
from torch import nn

from dovetail.errors import ProgramError, SpecError
from dovetail.formats import Geometry, PackedTucker, TuckerSpec
from dovetail.formats.tucker.layer import TuckerConv2d
from dovetail.formats.tucker.packed import hooi, hosvd


def unfold(weight, mode):
    return np.moveaxis(weight, mode, 0).reshape(weight.shape[mode], -1)


def compose(output, core, inputs):
    return np.einsum("kb,bars,ac->kcrs", output, core, inputs)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("d2, d1", [(1, 1), (3, 2), (6, 4), (2, 7), (9, 8)])
def test_hooi_is_no_worse_than_hosvd_which_keeps_its_bound(d2, d1, seed):
    weight = np.random.default_rng(seed).standard_normal((9, 8, 3, 3)) ** 3
    u_out, u_in = hosvd(weight, d2, d1)
    core = np.einsum("kcrs,kb,ca->bars", weight, u_out, u_in)
    hosvd_error = np.linalg.norm(compose(u_out, core, u_in.T) - weight)
    hooi_error = np.linalg.norm(compose(*hooi(weight, d2, d1)) - weight)
    sigma_out, sigma_in = (np.linalg.svd(unfold(weight, mode), compute_uv=False) for mode in (0, 1))
    bound = np.sqrt((sigma_out[d2:] ** 2).sum() + (sigma_in[d1:] ** 2).sum())
    slack = 1e-6 * np.linalg.norm(weight)
    assert hooi_error <= hosvd_error + slack
    assert hosvd_error <= bound + slack
    best = max(np.sqrt((sigma_out[d2:] ** 2).sum()), np.sqrt((sigma_in[d1:] ** 2).sum()))
    assert hooi_error >= best - slack


def test_factors_have_orthonormal_columns():
    output, _, inputs = hooi(np.random.default_rng(0).standard_normal((9, 8, 3, 3)), 4, 5)
    assert output.T @ output == pytest.approx(np.eye(4), abs=1e-10)
    assert inputs @ inputs.T == pytest.approx(np.eye(5), abs=1e-10)


@pytest.mark.parametrize("d2, d1", [(1, 1), (4, 3), (9, 8)])
def test_projection_is_idempotent(d2, d1):
    spec = TuckerSpec(rank_in=d1, rank_out=d2)
    weight = np.random.default_rng(2).standard_normal((9, 8, 3, 3)).astype(np.float32)
    once = PackedTucker.from_dense(weight, spec).dense()
    twice = PackedTucker.from_dense(once, spec).dense()
    assert np.abs(twice - once).max() <= 1e-5 * np.abs(once).max()


def test_a_weight_of_that_rank_comes_back():
    rng = np.random.default_rng(5)
    weight = compose(rng.standard_normal((9, 3)), rng.standard_normal((3, 2, 5, 5)), rng.standard_normal((2, 8)))
    spec = TuckerSpec(rank_in=2, rank_out=3)
    assert PackedTucker.from_dense(weight.astype(np.float32), spec).dense() == pytest.approx(weight, abs=1e-4)


def test_a_weight_of_zeros():
    packed = PackedTucker.from_dense(np.zeros((4, 3, 3, 3), np.float32), TuckerSpec(rank_in=2, rank_out=2))
    packed.validate()
    assert not packed.dense().any()


# (name, channels in, channels out, map in, map out, D1, D2, dense MMAC, Tucker MMAC) of ResNet-18 at 224 x 224, as TDC
# publishes its ranks; counts to the printed digit.
RESNET18 = [
    ("layer1.0.conv1", 64, 64, 56, 56, 64, 32, 115.6, 77.1),
    ("layer1", 64, 64, 56, 56, 32, 32, 115.6, 41.7),
    ("layer2.0.conv1", 64, 128, 56, 28, 64, 64, 57.8, 48.2),
    ("layer2", 128, 128, 28, 28, 96, 64, 115.6, 59.4),
    ("layer3.0.conv1", 128, 256, 28, 14, 96, 96, 57.8, 30.7),
    ("layer3", 256, 256, 14, 14, 128, 96, 115.6, 32.9),
    ("layer4.0.conv1", 256, 512, 14, 7, 160, 160, 57.8, 23.3),
    ("layer4", 512, 512, 7, 7, 192, 160, 115.6, 22.4),
]


def packed_of(c, k, d1, d2):
    spec = TuckerSpec(rank_in=d1, rank_out=d2)
    output, core, inputs = np.ones((k, d2)), np.ones((d2, d1, 3, 3)), np.ones((d1, c))
    return PackedTucker.from_factors(output, core, inputs, spec)


@pytest.mark.parametrize("row", RESNET18, ids=lambda row: row[0])
def test_layer_counts_of_tdc(row):
    _, c, k, size_in, size_out, d1, d2, dense, tucker = row
    at = Geometry(size_in**2, size_out**2)
    assert round(c * k * 9 * at.outputs / 1e6, 1) == dense
    assert round(packed_of(c, k, d1, d2).macs(at) / 1e6, 1) == tucker


def test_model_counts_of_tdc():
    """ResNet-18: 1.814 -> 0.786 GMAC and 11.68 -> 3.38 M parameters, convolutions and classifier."""
    repeats = {"layer1.0.conv1": 1, "layer2.0.conv1": 1, "layer3.0.conv1": 1, "layer4.0.conv1": 1}
    kept = [(3 * 64 * 49, 112), (64 * 128, 28), (128 * 256, 14), (256 * 512, 7), (512 * 1000, 1)]
    macs = dense_macs = sum(weights * size**2 for weights, size in kept)
    params = dense_params = sum(weights for weights, _ in kept)
    for name, c, k, size_in, size_out, d1, d2, _, _ in RESNET18:
        times, packed = repeats.get(name, 3), packed_of(c, k, d1, d2)
        macs += times * packed.macs(Geometry(size_in**2, size_out**2))
        params += times * packed.params()
        dense_macs += times * c * k * 9 * size_out**2
        dense_params += times * c * k * 9
    assert (round(dense_macs / 1e9, 3), round(macs / 1e9, 3)) == (1.814, 0.786)
    assert (round(dense_params / 1e6, 2), round(params / 1e6, 2)) == (11.68, 3.38)
    assert round(100 * (1 - macs / dense_macs), 1) == 56.6


@pytest.mark.parametrize("ranks", [(0, 4), (4, 0), (-1, 4), (4, 2.5), (True, 4)], ids=str)
def test_ranks_are_whole_numbers_from_one(ranks):
    with pytest.raises(SpecError, match=r"tucker spec: rank_(in|out) must be a whole number of at least 1"):
        TuckerSpec(rank_in=ranks[0], rank_out=ranks[1])


@pytest.mark.parametrize("rank_in, rank_out, side", [(9, 4, "input"), (4, 10, "output")])
def test_ranks_above_the_channels(rank_in, rank_out, side):
    with pytest.raises(SpecError, match=rf"layer2\.conv.*{side}"):
        TuckerSpec(rank_in=rank_in, rank_out=rank_out).check((9, 8, 3, 3), "layer2.conv")


def test_slicing_below_the_ranks_takes_a_factor_into_the_core():
    layer = TuckerConv2d.from_dense(nn.Conv2d(8, 9, 3), TuckerSpec(rank_in=5, rank_out=6))
    thin = layer.slice_channels(torch.tensor([0, 2, 4]), torch.tensor([1, 7]))
    assert thin.spec == TuckerSpec(rank_in=2, rank_out=3)
    assert torch.allclose(thin.weight(), layer.weight()[[0, 2, 4]][:, [1, 7]], atol=1e-6)
    thin.pack().validate()


# Sides of full rank, folded into the core

FOLDED = [((8, 5), ("core", "output")), ((4, 9), ("input", "core")), ((8, 9), ("core",)), ((4, 5), None)]


@pytest.mark.parametrize(("ranks", "left"), FOLDED)
def test_a_folded_side_is_the_same_weight_by_less_work(ranks, left):
    d1, d2 = ranks
    weight, at = np.random.default_rng(6).standard_normal((9, 8, 3, 3)).astype(np.float32), Geometry(100, 25)
    plain = PackedTucker.from_dense(weight, TuckerSpec(rank_in=d1, rank_out=d2))
    folded = PackedTucker.from_dense(weight, TuckerSpec(rank_in=d1, rank_out=d2, fold=True))
    folded.validate()
    assert np.abs(folded.dense() - plain.dense()).max() <= 1e-5
    assert tuple(folded.stages()) == tuple(folded.arrays) == (left or ("input", "core", "output"))
    saved = {"input": 8 * d1, "output": 9 * d2}
    gone = [name for name in saved if name not in folded.arrays]
    assert plain.params() - folded.params() == sum(saved[name] for name in gone)
    assert plain.macs(at) - folded.macs(at) == sum(
        saved[name] * (at.inputs if name == "input" else at.outputs) for name in gone
    )


def test_fold_is_written_only_where_it_is_asked():
    plain, folded = TuckerSpec(rank_in=8, rank_out=5), TuckerSpec(rank_in=8, rank_out=5, fold=True)
    assert "fold" not in plain.to_json()
    assert TuckerSpec.from_json(folded.to_json()) == folded
    with pytest.raises(SpecError, match="fold must be true or false, not 1"):
        TuckerSpec(rank_in=8, rank_out=5, fold=1)


def test_a_stored_factor_that_should_be_in_the_core_is_refused():
    weight = np.ones((9, 8, 3, 3), np.float32)
    plain = PackedTucker.from_dense(weight, TuckerSpec(rank_in=8, rank_out=5))
    with pytest.raises(ProgramError, match="stores the arrays core, input, output; expected are core, output"):
        PackedTucker(TuckerSpec(rank_in=8, rank_out=5, fold=True), plain.shape, plain.arrays).validate()


@pytest.mark.parametrize("ranks", [(5, 6), (8, 6), (5, 9), (8, 9)])
def test_slicing_folds_ranks_that_become_full(ranks):
    layer = TuckerConv2d.from_dense(nn.Conv2d(8, 9, 3), TuckerSpec(rank_in=ranks[0], rank_out=ranks[1], fold=True))
    out, into = torch.tensor([0, 1, 2, 4, 5, 8]), torch.tensor([0, 1, 3, 6, 7])
    thin = layer.slice_channels(out, into)
    assert thin.spec == TuckerSpec(rank_in=5, rank_out=6, fold=True)
    assert [name for name, _ in thin.named_parameters()] == ["bias", "core"]
    assert torch.allclose(thin.weight(), layer.weight()[out][:, into], atol=1e-6)
    thin.pack().validate()
    partly = layer.slice_channels(out, None)
    assert partly.spec.rank_in == ranks[0]
    assert torch.allclose(partly.weight(), layer.weight()[out], atol=1e-6)
    partly.pack().validate()
