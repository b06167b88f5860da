"""What a layer could become."""

from __future__ import annotations

import numpy as np
import pytest

from dovetail.errors import SpecError
from dovetail.formats import FORMATS, KernelBasisSpec, SvdSpec, TuckerSpec
from dovetail.program.layers import LayerShape
from dovetail.search.candidates import PROPOSERS, Target, geometry, propose, stored, work

WIDE = LayerShape("conv2d", (64, 8, 8), (96, 4, 4), (96, 64, 3, 3), (2, 2), (1, 1, 1, 1))
POINT = LayerShape("conv2d", (64, 8, 8), (32, 8, 8), (32, 64, 1, 1))
DEEP = LayerShape("conv2d", (32, 8, 8), (32, 8, 8), (32, 1, 3, 3), (1, 1), (1, 1, 1, 1), groups=32)
LINEAR = LayerShape("linear", (64,), (48,), (48, 64))
TARGET = Target(step=16)


@pytest.mark.parametrize("method", PROPOSERS)
@pytest.mark.parametrize("shape", [WIDE, POINT, DEEP, LINEAR], ids=str)
def test_every_candidate_fits_the_layer_and_saves_work(method, shape):
    found = propose(method, shape, TARGET)
    none = (shape is DEEP and method != "magnitude") or (method, shape) == ("penni", LINEAR)
    assert bool(found) != none
    for spec in found:
        spec.check(shape.weight, "layer")
        packed = FORMATS[spec.format].packed.random(shape.weight, spec, np.random.default_rng(0))
        assert packed.shape == shape.weight
        assert work(spec, shape) < shape.macs
        assert stored(spec, shape) == pytest.approx(packed.params(), rel=0.02, abs=2)
    assert stored(None, shape) == np.prod(shape.weight)


@pytest.mark.parametrize("spec", [TuckerSpec(rank_in=16, rank_out=32), TuckerSpec(rank_in=64, rank_out=32, fold=True)])
def test_work_is_what_the_packed_weight_says(spec):
    packed = FORMATS["tucker"].packed.random(WIDE.weight, spec, np.random.default_rng(0))
    assert work(spec, WIDE) == packed.macs(geometry(WIDE))


def test_ranks_are_steps_of_the_target_below_the_channels():
    ranks = {(s.rank_in, s.rank_out) for s in propose("tdc", WIDE, TARGET) if isinstance(s, TuckerSpec)}
    assert {d1 for d1, _ in ranks} == {16, 32, 48, 64}
    assert {d2 for _, d2 in ranks} == {16, 32, 48, 64, 96}
    assert (64, 96) not in ranks
    assert propose("tdc", LINEAR, TARGET) == [SvdSpec(rank=16)]
    assert {s.fold for s in propose("tdc", WIDE, Target(step=64))} == {True}


def test_a_depthwise_layer_has_no_core_and_no_blocks():
    assert propose("tdc", DEEP, TARGET) == []
    assert propose("block", DEEP, TARGET) == []
    assert propose("escalate", DEEP, TARGET) == []
    assert propose("penni", DEEP, TARGET) == []


@pytest.mark.parametrize(("method", "shape"), [("escalate", POINT), ("penni", POINT), ("escalate", LINEAR)])
def test_a_pointwise_layer_has_one_basis(method, shape):
    found = propose(method, shape, TARGET)
    assert found
    assert {s.bases for s in found if isinstance(s, KernelBasisSpec)} == {1}


@pytest.mark.parametrize(
    ("weight", "most"), [((96, 64, 3, 3), 64), ((1024, 300), 256), ((4096, 511), 256), ((512, 512), 512)]
)
def test_circulant_blocks_are_as_large_as_the_layer_allows(weight, most):
    at = ((weight[1], 8, 8), (weight[0], 8, 8)) if len(weight) == 4 else (weight[1:], weight[:1])
    shape = LayerShape("conv2d" if len(weight) == 4 else "linear", *at, weight)
    assert [s.size for s in propose("circnn", shape, TARGET)] == [2**n for n in range(1, most.bit_length())]
    assert max(s.size for s in propose("permdnn", shape, TARGET)) == 64


@pytest.mark.parametrize("spec", propose("penni", WIDE, TARGET)[::4], ids=str)
def test_work_of_sparse_coefficients_is_nearly_what_random_places_have(spec):
    packed = FORMATS["kernel_basis"].packed.random(WIDE.weight, spec, np.random.default_rng(0))
    assert work(spec, WIDE) == pytest.approx(packed.macs(geometry(WIDE)), rel=0.02)


def test_an_unknown_method_is_named():
    with pytest.raises(SpecError, match="method 'magic'; known are tucker"):
        propose("magic", WIDE, TARGET)
