"""Workloads: shapes, counts against their definition, recording from a Program, drawing, and decomposed layers."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from accelerator_cases import dense_layer, layers, masked_layer, slow_effective_macs
from dovetail.accelerators.draw import densities, drawn, mask
from dovetail.accelerators.parts import ORDERS, as_convolutions
from dovetail.accelerators.record import record
from dovetail.accelerators.workload import Workload
from dovetail.errors import InputError, MachineError
from dovetail.formats import KernelBasisSpec, PackedKernelBasis
from dovetail.program import reference
from dovetail.program.calibrate import calibrate
from dovetail.program.functions import conv2d
from dovetail.program.program import Activation, Program
from dovetail.program.quantize import quantize
from programs import Sketch, close, random_packed


def test_a_layer_by_hand():
    layer = dense_layer(6, 2, (3, 2), (7, 5), stride=(2, 1), padding=(1, 0, 0, 2), groups=2, images=3)
    assert (layer.images, layer.channels, layer.outputs, layer.kernel) == (3, 4, 6, (3, 2))
    assert layer.padded == (8, 7)
    assert layer.out_size == (3, 6)  # (8 - 3) // 2 + 1, 7 - 2 + 1
    assert layer.dense_macs == 3 * 6 * 2 * 3 * 2 * 3 * 6
    # Kernel rows start at padded rows 0, 2 and 4, of which row 0 is border: 2 + 3 + 3 rows meet the input. Columns
    # start at 0 to 5 and columns 5 and 6 are border: windows 0 to 3 meet two columns, 4 meets one, 5 none: 9.
    assert layer.effective_macs == layer.input_macs == 3 * 6 * 2 * (2 + 3 + 3) * 9


@given(layer=layers())
def test_effective_macs_are_those_of_the_definition(layer):
    assert layer.effective_macs == slow_effective_macs(layer)
    assert layer.effective_macs <= layer.input_macs <= layer.dense_macs


def test_dilation_is_counted():
    layer = masked_layer(np.ones((1, 1, 2, 2)), np.arange(16).reshape(1, 1, 4, 4) % 3, dilation=(2, 2))
    assert layer.out_size == (2, 2)
    assert layer.effective_macs == slow_effective_macs(layer) > 0


def test_codes_have_a_zero():
    codes = np.array([[[[7, 0], [7, 255]]]], np.uint8)
    assert masked_layer(np.ones((1, 1, 1, 1)), codes, zero=7).mask.tolist() == [[[[False, True], [False, True]]]]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"groups": 2}, "4 channels in 2 groups do not fit a weight of"),
        ({"stride": (0, 1)}, "no kernel .* fits"),
        ({"padding": (0, 0, 0, -1)}, "no kernel .* fits"),
        ({"dilation": (4, 1)}, "no kernel .* fits"),
        ({"output_mask": np.ones((1, 2, 2, 2), np.bool_)}, r"its output mask is \(1, 2, 2, 2\); the output is"),
    ],
)
def test_a_layer_that_contradicts_itself_is_refused(options, complaint):
    with pytest.raises(MachineError, match=f"layer 'layer': .*{complaint}"):
        masked_layer(np.ones((2, 4, 3, 3)), np.ones((1, 4, 5, 5)), **options)


def test_an_input_must_be_images():
    with pytest.raises(MachineError, match=r"must be \(N, C, H, W\) and not empty"):
        masked_layer(np.ones((2, 4)), np.ones((1, 4)))
    with pytest.raises(MachineError, match=r"must be \(N, C, H, W\) and not empty"):
        masked_layer(np.ones((2, 4)), np.ones((0, 4, 1, 1)))


@pytest.mark.parametrize(
    ("values", "zero", "complaint"),
    [
        (np.full((1, 4, 1, 1), 2**32, np.int64), 0, "reaches from 0 to 4294967296"),
        (np.full((1, 4, 1, 1), -129, np.int16), 0, "between -128 and 255"),
        (np.zeros((1, 4, 1, 1), np.uint8), 256, "reaches from 0 to 256, the code for zero included"),
        (np.zeros((1, 4, 1, 1), np.int8), -129, "reaches from -129 to 0"),
        (np.ones((1, 4, 1, 1), np.complex64), 0, "complex64"),
    ],
)
def test_what_was_read_must_be_codes_numbers_or_a_mask(values, zero, complaint):
    with pytest.raises(MachineError, match=f"layer 'layer': .*{complaint}"):
        masked_layer(np.ones((2, 4)), values, zero=zero)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_was_read_must_be_finite(value):
    with pytest.raises(InputError, match="layer 'layer' reads NaN or infinity"):
        masked_layer(np.ones((2, 4)), np.array([0, 1, value, 0], np.float32).reshape(1, 4, 1, 1))


def network() -> tuple[Program, np.ndarray]:
    """A convolution, a grouped one that decimates, and a linear layer over rows."""
    sketch = Sketch(0)
    x = sketch.input("batch", 4, 8, 8)
    relu = Activation("relu")
    y = sketch.add(
        "conv2d",
        x,
        packed=random_packed("sparse", (6, 4, 3, 3), sketch.random, density=0.3),
        padding=(1, 1, 1, 1),
        activation=relu,
    )
    y = sketch.add(
        "conv2d",
        y,
        packed=random_packed("dense", (4, 3, 3, 3), sketch.random),
        stride=(2, 2),
        groups=2,
        activation=relu,
    )
    y = sketch.add("reshape", y, shape=("batch", 4, 9))
    y = sketch.add("linear", y, packed=random_packed("svd", (5, 9), sketch.random, rank=2))
    return sketch.program(y), sketch.random.standard_normal((2, 4, 8, 8)).astype(np.float32)


def test_recording_keeps_what_each_layer_reads_and_gives():
    program, x = network()
    first, second, last = record(program, x)
    values = reference.run(program, x, every=True)
    assert [layer.name for layer in (first, second, last)] == ["conv2d0", "conv2d1", "linear3"]
    assert np.array_equal(first.input, x)
    assert np.array_equal(second.input, values["conv2d0"])
    assert 0 < second.input_density < 1
    assert np.array_equal(first.output_mask, second.mask)
    assert (second.stride, second.groups, first.padding) == ((2, 2), 2, (1, 1, 1, 1))
    assert last.input.shape == (8, 9, 1, 1)  # 2 images of 4 rows
    assert last.out_shape == (8, 5, 1, 1)
    assert first.weight is program.weights["conv2d0"]
    assert first.effective_macs == slow_effective_macs(first)


def test_codes_are_recorded_with_their_zero():
    program, x = network()
    statistics = calibrate(program, [x])
    coded = quantize(program, {name: found.range("minmax") for name, found in statistics.items()})
    layers = {layer.name: layer for layer in record(coded, x) if layer.input.dtype == np.uint8}
    for layer in layers.values():
        assert layer.zero == coded.graph.tensors[coded.graph.node(layer.name).inputs[0]].zero
    assert layers["conv2d0"].zero > 0  # the images go below zero
    real = record(program, x)[1]
    assert (layers["conv2d1"].mask == real.mask).mean() > 0.95


def test_drawing_is_repeatable_and_meets_its_densities():
    options = {"weight_density": 0.3, "input_density": 0.6, "padding": (1, 1, 1, 1), "stride": (2, 2)}
    layer, same, other = (drawn("x", (64, 32, 3, 3), (24, 24), seed=seed, **options) for seed in (1, 1, 2))
    assert np.array_equal(layer.mask, same.mask)
    assert np.array_equal(layer.weight_mask, same.weight_mask)
    assert not np.array_equal(layer.mask, other.mask)
    # Channels have densities of standard deviation 0.15, so that a mean over 64 strays by 0.15/8, over 32 by 0.15/5.7.
    assert layer.weight_mask.mean() == pytest.approx(0.3, abs=4 * 0.15 / 8)
    assert layer.input_density == pytest.approx(0.6, abs=4 * 0.15 / 5.7)
    spread = layer.mask.mean(axis=(0, 2, 3)).std()
    plain = drawn("x", (64, 32, 3, 3), (24, 24), seed=1, correlated=False, **options).mask.mean(axis=(0, 2, 3)).std()
    assert spread == pytest.approx(0.15, abs=0.06)
    assert plain < 0.05  # binomial: sqrt(0.6 * 0.4 / 576) = 0.02


@pytest.mark.parametrize("mean", [0.01, 0.05, 0.5, 0.97])
def test_densities_have_the_mean_and_the_spread_of_their_distribution(mean):
    drawn_densities = densities(mean, 40_000, np.random.default_rng(0))
    assert drawn_densities.mean() == pytest.approx(mean, abs=0.004)
    assert drawn_densities.std() == pytest.approx(min(0.15, mean * (1 - mean)), rel=0.05)


def test_no_and_all_density():
    random = np.random.default_rng(0)
    assert not mask((4, 5), 0, 0.0, random).any()
    assert mask((4, 5), 0, 1.0, random).all()
    with pytest.raises(MachineError, match="a density is a number from 0 to 1, not"):
        mask((4, 5), 0, 1.5, random)


def chain(layers: tuple[Workload, ...]) -> np.ndarray:
    """What plain convolutions give one after another, from the input of the first."""
    y = layers[0].input.astype(np.float64) - layers[0].zero
    for layer in layers:
        weight = layer.weight.dense().astype(np.float64).reshape(*layer.weight.shape[:2], *layer.kernel)
        y = conv2d(y, weight, stride=layer.stride, padding=layer.padding, dilation=layer.dilation, groups=layer.groups)
    return y


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    ("name", "shape", "groups", "fields", "count"),
    [
        ("kernel_basis", (6, 4, 3, 3), 1, {"bases": 2, "coefficients": "sparse"}, 2),
        ("kernel_basis", (6, 2, 3, 3), 2, {"bases": 3}, 2),
        ("kernel_basis", (4, 1, 3, 3), 4, {"bases": 2}, 2),
        ("tucker", (6, 4, 3, 3), 1, {"rank_in": 2, "rank_out": 3}, 3),
        ("tucker", (6, 4, 3, 3), 1, {"rank_in": 4, "rank_out": 3, "fold": True}, 2),
        ("tucker", (6, 4, 3, 3), 1, {"rank_in": 2, "rank_out": 6, "fold": True}, 2),
        ("tucker", (6, 4, 3, 3), 1, {"rank_in": 4, "rank_out": 6, "fold": True}, 1),
        ("svd", (6, 4, 1, 1), 1, {"rank": 2}, 2),
        ("sparse", (6, 4, 3, 3), 1, {"density": 0.5}, 1),
    ],
)
def test_parts_and_the_recomposed_layer_give_what_the_layer_gives(order, name, shape, groups, fields, count):
    random = np.random.default_rng(0)
    packed = random_packed(name, shape, random, **fields)
    codes = random.integers(0, 5, (2, shape[1] * groups, 9, 7)).astype(np.uint8)
    layer = Workload("x", packed, codes, (2, 1), (1, 0, 1, 1), groups=groups, zero=2)
    parts = as_convolutions(layer, order)
    assert len(parts) == count
    want = chain((layer,))
    assert close(chain(parts), want)
    assert close(chain((layer.recomposed(),)), want)
    for part, following in pairwise(parts):
        assert part.out_shape == following.input.shape
        assert np.array_equal(part.output_mask, following.mask)


def test_the_orders_of_a_kernel_basis_have_the_macs_of_its_equations():
    packed = random_packed("kernel_basis", (6, 4, 3, 3), np.random.default_rng(0), bases=2, coefficients="sparse")
    layer = Workload("x", packed, np.ones((1, 4, 8, 8), np.bool_), (2, 2), (1, 1, 1, 1))
    n = packed.stored_coefficients()
    conv_first, coef_first = (as_convolutions(layer, order) for order in ORDERS)
    # conv-first: C d RS H'W' and n H'W'; coef-first: n HW and K d RS H'W'. H'W' = 4 x 4, of 8 x 8.
    assert [part.dense_macs for part in conv_first] == [4 * 2 * 9 * 16, 6 * 4 * 2 * 16]
    assert conv_first[1].weight.nonzeros() * 16 == n * 16
    assert [part.dense_macs for part in coef_first] == [6 * 2 * 4 * 64, 6 * 2 * 9 * 16]
    assert coef_first[0].weight.nonzeros() * 64 == n * 64


@given(seed=st.integers(0, 50), order=st.sampled_from(ORDERS))
def test_a_mask_between_parts_covers_what_numbers_would_give(seed, order):
    random = np.random.default_rng(seed)
    bases, coefficients = (
        random.standard_normal((2, 3, 3)),
        random.standard_normal((3, 2, 2)) * (random.random((3, 2, 2)) < 0.5),
    )
    packed = PackedKernelBasis.from_factors(bases, coefficients, KernelBasisSpec(bases=2, coefficients="sparse"))
    numbers = random.standard_normal((1, 2, 6, 6)) * (random.random((1, 2, 6, 6)) < 0.2)
    exact, known = (as_convolutions(Workload("x", packed, x), order)[1].mask for x in (numbers, numbers != 0))
    assert not (exact & ~known).any()


def test_unknown_orders_and_grouped_tucker_are_refused():
    packed = random_packed("tucker", (6, 4, 3, 3), np.random.default_rng(0), rank_in=2, rank_out=3)
    with pytest.raises(MachineError, match="unknown order 'fast'; known are conv_first, coef_first"):
        as_convolutions(Workload("x", packed, np.ones((1, 4, 5, 5))), "fast")
    with pytest.raises(MachineError, match="tucker weights have no groups, not 2"):
        as_convolutions(Workload("x", packed, np.ones((1, 8, 5, 5)), groups=2))
