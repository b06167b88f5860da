"""Low-rank projections in torch: exact at full ranks, within their bounds below, and the numpy ones' twins."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from dovetail.formats.svd import PackedSvd, SvdSpec
from dovetail.formats.tucker import PackedTucker, TuckerSpec
from dovetail.formats.tucker import packed as numpy_twin
from dovetail.methods.projection import compose, hooi, hosvd, project
from samples import Case, worst

SHAPE = (9, 8, 3, 3)
RANKS = [(1, 1), (3, 2), (6, 4), (2, 7), (9, 4), (5, 8), (9, 8)]
each_rank = pytest.mark.parametrize(("d2", "d1"), RANKS)
each_way = pytest.mark.parametrize("refine", [False, True], ids=["hosvd", "hooi"])


def weight_of(seed: int, shape: tuple[int, ...] = SHAPE) -> torch.Tensor:
    """Heavy tails, so that a few directions hold much of it."""
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape) ** 3)


def spectrum(weight: torch.Tensor, mode: int) -> torch.Tensor:
    return torch.linalg.svdvals(weight.double().movedim(mode, 0).flatten(1))


# Exactness at full ranks

GEOMETRIES = [
    Case((6, 5, *kernel), stride=stride, padding=padding, dilation=dilation, bias=bias, size=(17, 16))
    for kernel, (stride, padding, dilation, bias) in itertools.product(
        [(1, 1), (3, 3), (5, 5), (7, 7)],
        [(1, 0, 1, True), (1, 1, 1, False), (2, 2, 1, True), (1, 2, 2, False), (2, 1, 2, True)],
    )
]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-10)], ids=["f32", "f64"])
@pytest.mark.parametrize("case", GEOMETRIES, ids=lambda case: f"{case}-{'bias' if case.bias else 'plain'}")
def test_three_convolutions_of_full_rank_are_the_dense_one(case, dtype, tolerance):
    dense, x = case.layer().to(dtype), case.input().to(dtype)
    output, core, inputs = (factor.to(dtype) for factor in hooi(dense.weight, *case.shape[:2]))
    with torch.no_grad():
        y = F.conv2d(x, inputs[:, :, None, None])
        y = F.conv2d(y, core, None, case.stride, case.padding, case.dilation)
        y = F.conv2d(y, output[:, :, None, None], dense.bias)
        assert worst(y, dense(x)) <= tolerance


@each_way
@pytest.mark.parametrize("shape", [(9, 8, 1, 1), (9, 8, 3, 3), (4, 11, 5, 5), (7, 3, 7, 7), (6, 6, 3, 1)])
def test_full_ranks_give_the_weight_back(shape, refine):
    weight = weight_of(1, shape).float()
    got = project(weight, TuckerSpec(rank_in=shape[1], rank_out=shape[0]), refine=refine)
    assert got.dtype == torch.float32
    assert float((got - weight).norm() / weight.norm()) <= 1e-5


# Errors


@pytest.mark.parametrize("seed", range(3))
@each_rank
def test_hooi_is_no_worse_than_hosvd_which_keeps_its_bound(d2, d1, seed):
    weight, spec = weight_of(seed), TuckerSpec(rank_in=d1, rank_out=d2)
    plain, refined = (float((project(weight, spec, refine=way) - weight).norm()) for way in (False, True))
    lost = [float((spectrum(weight, mode)[rank:] ** 2).sum()) for mode, rank in ((0, d2), (1, d1))]
    slack = 1e-9 * float(weight.norm())
    assert refined <= plain + slack
    assert plain <= sum(lost) ** 0.5 + slack
    assert refined >= max(lost) ** 0.5 - slack


def test_hooi_gains_where_the_modes_depend_on_each_other():
    weight, spec = weight_of(3), TuckerSpec(rank_in=2, rank_out=2)
    plain, refined = (float((project(weight, spec, refine=way) - weight).norm()) for way in (False, True))
    assert refined < 0.999 * plain


@each_way
@each_rank
def test_projecting_twice_is_projecting_once(d2, d1, refine):
    spec = TuckerSpec(rank_in=d1, rank_out=d2)
    once = project(weight_of(2).float(), spec, refine=refine)
    assert worst(project(once, spec, refine=refine), once) <= 1e-5
    assert int((spectrum(once, 0) > 1e-5 * spectrum(once, 0)[0]).sum()) <= d2
    assert int((spectrum(once, 1) > 1e-5 * spectrum(once, 1)[0]).sum()) <= d1


# Twins


@each_rank
def test_the_numpy_twins_agree(d2, d1):
    weight = weight_of(4)
    for got, want in zip(hosvd(weight, d2, d1), numpy_twin.hosvd(weight.numpy(), d2, d1)):
        assert worst(got @ got.T, want @ want.T) <= 1e-8  # the vectors themselves may point the other way
    output, core, inputs = hooi(weight, d2, d1)
    want = np.einsum("kb,bars,ac->kcrs", *numpy_twin.hooi(weight.numpy(), d2, d1))
    assert worst(compose(output, core, inputs), want) <= 1e-8
    assert (output.shape, core.shape, inputs.shape) == ((9, d2), (d2, d1, 3, 3), (d1, 8))
    spec = TuckerSpec(rank_in=d1, rank_out=d2)
    assert worst(project(weight.float(), spec), PackedTucker.from_dense(weight.float().numpy(), spec).dense()) <= 1e-5


@each_way
@pytest.mark.parametrize("shape", [(9, 5), (5, 9), (9, 5, 1, 1), (6, 6)])
@pytest.mark.parametrize("rank", [1, 3, 5])
def test_a_matrix_takes_the_truncated_svd(shape, rank, refine):
    weight, spec = weight_of(5, shape).float(), SvdSpec(rank=rank)
    got = project(weight, spec, refine=refine)
    assert worst(got, PackedSvd.from_dense(weight.numpy(), spec).dense()) <= 1e-5
    assert worst(project(got, spec), got) <= 1e-5


def test_a_weight_of_zeros_stays_one():
    assert not project(torch.zeros(SHAPE), TuckerSpec(rank_in=2, rank_out=3)).any()
    assert not project(torch.zeros(4, 5), SvdSpec(rank=2)).any()


def test_the_layout_of_a_weight_does_not_matter():
    weight, spec = weight_of(6).float(), TuckerSpec(rank_in=3, rank_out=4)
    got = project(weight.contiguous(memory_format=torch.channels_last), spec)
    assert torch.equal(got, project(weight, spec))


def test_parameters_are_projected_without_a_gradient():
    weight = torch.nn.Parameter(weight_of(7).float())
    assert not project(weight, TuckerSpec(rank_in=3, rank_out=4)).requires_grad
