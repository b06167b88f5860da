"""Layers timed side by side, as a search wants to know them."""

from __future__ import annotations

import numpy as np
import pytest

from dovetail.engine import native_status
from dovetail.engine.layer_times import LayerTimer, side_by_side
from dovetail.errors import EngineError, SpecError
from dovetail.formats import BlockSparseSpec, DenseSpec, KernelBasisSpec, PackedDense, SvdSpec, TuckerSpec
from dovetail.program import reference
from dovetail.program.check import check
from dovetail.program.layers import LayerShape

CONV = LayerShape("conv2d", (16, 8, 8), (24, 4, 4), (24, 16, 3, 3), (2, 2), (1, 1, 1, 1))
LINEAR = LayerShape("linear", (16,), (12,), (12, 16))

native = pytest.mark.skipif(not native_status().available, reason="needs the native engine")


def test_all_layers_read_the_same_tensor():
    random = np.random.default_rng(0)
    layers = [PackedDense.random(CONV.weight, DenseSpec(), random) for _ in range(3)]
    program = side_by_side(layers, CONV)
    check(program)
    x = random.standard_normal((2, *CONV.input), dtype=np.float32)
    outputs = reference.run(program, x)
    for packed, got in zip(layers, outputs, strict=True):
        want = reference.run(side_by_side([packed], CONV), x)
        assert np.array_equal(got, want)
        assert got.shape == (2, 24, 1, 1)


@native
@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize(
    ("shape", "spec", "kernel"),
    [
        (CONV, DenseSpec(), "conv2d"),
        (CONV, TuckerSpec(rank_in=8, rank_out=8), "conv2d"),  # three kernels, or one
        (CONV, BlockSparseSpec(density=0.2), "conv2d"),
        (CONV, KernelBasisSpec(bases=3, coefficients="ternary", block=4, density=0.2), "conv2d"),
        (LINEAR, DenseSpec(), "linear_dense"),
        (LINEAR, SvdSpec(rank=4), "linear"),
    ],
)
def test_a_layer_is_timed_in_every_format(shape, spec, kernel, int8):
    found = LayerTimer(shape, int8=int8, threads=1, copies=2, blocks=2, runs=2).ratio(spec)
    assert 0 < found.low <= found.value <= found.high
    assert kernel in found.kernels[0]
    assert ("int8" in found.kernels[0]) == int8


@native
def test_less_work_takes_less_time():
    large = LayerShape("conv2d", (64, 32, 32), (64, 32, 32), (64, 64, 3, 3), (1, 1), (1, 1, 1, 1))
    timer = LayerTimer(large, threads=1, copies=2, blocks=3, runs=2)
    assert timer.ratio(TuckerSpec(rank_in=8, rank_out=8)).value < 0.7


def test_too_few_copies_are_refused():
    with pytest.raises(EngineError, match="at least 2, 1 and 1"):
        LayerTimer(CONV, copies=1)


@native
def test_a_format_that_does_not_fit_is_refused():
    with pytest.raises(SpecError, match="rank"):
        LayerTimer(CONV, threads=1).ratio(TuckerSpec(rank_in=99, rank_out=8))
