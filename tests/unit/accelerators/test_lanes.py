"""Sums lane by lane: the whole numbers of the reference, and the counts of the fast model; rows of every format."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given

from accelerator_cases import basis_layer, basis_layers, dense_layer, masked_layer, ternary_layer
from dovetail.accelerators.lanes import dilute, run
from dovetail.accelerators.machine import machine_named
from dovetail.accelerators.record import record
from dovetail.accelerators.strips import taps_along
from dovetail.accelerators.ternary_rows import rows_of, window_starts
from dovetail.accelerators.workload import Workload
from dovetail.errors import MachineError
from dovetail.formats.values import INT8
from dovetail.program import reference
from dovetail.program.calibrate import calibrate
from dovetail.program.functions import conv2d
from dovetail.program.integer import limits, product, to_codes
from dovetail.program.program import Activation
from dovetail.program.quantize import quantize
from programs import Sketch, random_packed


def convolved(layer: Workload) -> np.ndarray:
    """The layer's whole numbers, in one convolution."""
    weight, _ = layer.weight.integers()  # type: ignore[misc]
    options: dict[str, Any] = {name: getattr(layer, name) for name in ("stride", "padding", "dilation", "groups")}
    x = layer.input.astype(np.int64) - layer.zero
    return conv2d(x, weight.astype(np.int64).reshape(*weight.shape[:2], *layer.kernel), **options)


@given(layer=basis_layers(codes=True))
def test_sums_and_counts_of_a_decomposed_layer(layer):
    escalate = replace(machine_named("escalate"), rows=9, window=4, adders=3)
    result = run(layer, window=4, adders=3)
    assert result.sums.dtype == np.int64
    np.testing.assert_array_equal(result.sums, convolved(layer))
    work = escalate.work(layer)
    assert (result.additions, result.updates) == (work.additions, work.macs)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("kind", ["ternary", "int8"])
def test_sums_and_counts_of_a_plain_layer(kind, groups):
    random = np.random.default_rng(groups)
    weight = random.integers(-1, 2, (4, 3, 3, 2))
    if kind == "int8":
        weight = weight * random.integers(1, 128, weight.shape)
        weight[:, 0, 0, 0] = 127  # the scale of every output is 1
    codes = random.integers(0, 5, (2, 3 * groups, 5, 4)).astype(np.uint8)
    layer = ternary_layer(weight, codes, groups=groups, stride=(2, 1), padding=(1, 0, 0, 1), zero=2)
    if kind == "int8":
        packed = masked_layer(weight, codes).weight if groups == 1 else masked_layer(weight, codes, groups=2).weight
        layer = replace(layer, weight=packed.cast(INT8))
    result = run(layer, window=4, adders=3)
    np.testing.assert_array_equal(result.sums, convolved(layer))
    work = machine_named("escalate").work(layer)
    assert (result.additions, result.updates) == (work.additions, work.macs)


def test_the_tensors_of_a_quantised_network_are_those_of_the_reference():
    sketch = Sketch(0)
    x = sketch.input("batch", 4, 6, 5)
    for k, c, bases in ((6, 4, 6), (4, 6, 3), (3, 4, 1)):  # the last gives floating point
        packed = random_packed("kernel_basis", (k, c, 3, 3), sketch.random, coefficients="ternary", bases=bases)
        x = sketch.add("conv2d", x, packed=packed, padding=(1,) * 4, biased=True, activation=Activation("relu"))
    program = sketch.program(x)
    images = np.random.default_rng(1).standard_normal((2, 4, 6, 5)).astype(np.float32)
    ranges = {name: found.range("minmax") for name, found in calibrate(program, [images]).items()}
    program = quantize(program, ranges)
    values = reference.run(program, images, every=True)
    graph, layers = program.graphs["main"], {layer.name: layer for layer in record(program, images)}
    checked = 0
    for node in graph.nodes:
        if node.weight is None or graph.tensors[node.output].dtype != "uint8":
            continue
        found, output = product(program, graph, node), graph.tensors[node.output]
        sums = run(layers[node.name], window=64, adders=16).sums + found.bias[:, None, None]
        real = sums.astype(np.float32) * found.multiplier[:, None, None]
        codes = to_codes(real, output.zero or 0, *limits(node, output))
        np.testing.assert_array_equal(codes, values[node.output])
        checked += 1
    assert checked == 2


def test_packed_inputs_are_spread_out_to_their_lanes():
    there = np.array([0, 1, 1, 0, 1], bool)
    assert dilute(np.array([7, 8, 9]), there) == [0, 7, 8, 0, 9]


def test_sums_need_whole_numbers():
    with pytest.raises(MachineError, match="layer 'layer' has an input of bool; sums are computed of whole numbers"):
        run(dense_layer(1, 1, (1, 1), (1, 1)), window=64, adders=16)


@pytest.mark.parametrize(
    ("channels", "taps", "starts"),
    [
        (3, 9, [0]),  # a first layer: 27 places in a window of 64
        (30, 9, [0, 64, 128, 192, 256]),  # fewer channels than places: no gaps
        (100, 2, [0, 64, 100, 164]),  # each tap starts a window
        (64, 1, [0]),
    ],
)
def test_windows_by_hand(channels, taps, starts):
    assert window_starts(channels, taps, 64).tolist() == starts


@pytest.mark.parametrize(
    ("arguments", "taps"),
    [
        ((4, 4, 3, 1, 1), [2, 3, 3, 2]),
        ((4, 2, 3, 1, 0), [1, 2, 2, 1]),
        ((4, 2, 3, 2, 1), [1, 2, 1, 1]),  # outputs read 0 and 1, and 1, 2 and 3, of the input
        ((5, 3, 1, 2, 0), [1, 0, 1, 0, 1]),  # of a 1x1 kernel every other input is read
        ((1, 2, 1, 2, 1), [0]),  # both outputs lie in the border
    ],
)
def test_taps_by_hand(arguments, taps):
    assert taps_along(*arguments).tolist() == taps


def test_nothing_is_broadcast_that_no_output_reads():
    layer = ternary_layer([[1]], np.ones((1, 1, 1, 1), np.uint8), stride=(2, 2), padding=(1, 1, 1, 1))
    assert layer.out_size == (2, 2)
    decomposed = basis_layer(np.ones((1, 1, 1)), np.ones((1, 1, 1, 2)), (1, 2), stride=(2, 2), padding=(1, 1, 0, 0))
    assert (run(layer, 64, 16).additions, machine_named("escalate").work(layer).additions) == (0, 0)
    work = machine_named("escalate").work(decomposed)
    assert (work.cycles, work.values) == (0, 0)


def test_rows_of_floating_point_are_rounded_to_8_bits():
    random = np.random.default_rng(0)
    plain = random_packed("dense", (4, 6, 3, 3), random)
    layer = Workload("x", plain, np.ones((1, 6, 5, 5), bool))
    rows = rows_of(layer, 64)
    assert (rows.bits, rows.spatial, rows.codes.shape) == (7, False, (4, 1, 54))
    scale = np.abs(plain.dense()).reshape(4, -1).max(axis=1, keepdims=True) / 127
    window = plain.dense().transpose(0, 2, 3, 1).reshape(4, -1)
    assert np.abs(rows.codes[:, 0] * scale - window).max() <= 0.5001 * scale.max()
    assert rows.stored_bits == 8 * 4 * 54
    sparse = random_packed("kernel_basis", (4, 6, 3, 3), random, bases=5, coefficients="sparse")
    rows = rows_of(replace(layer, weight=sparse), 64)
    assert (rows.bits, rows.spatial, rows.codes.shape, rows.bases.shape) == (7, True, (4, 5, 6), (5, 3, 3))
    np.testing.assert_array_equal(rows.codes != 0, sparse.factors()[1].transpose(0, 2, 1) != 0)


@pytest.mark.parametrize("kernel", [3, 1])
def test_coefficients_take_the_bits_of_the_file_but_for_scales(kernel):
    fields = {"bases": 4 if kernel > 1 else 1, "coefficients": "ternary", "values": INT8}
    stored = []
    for shared in (1, 4):
        random = np.random.default_rng(0)
        weight = random_packed("kernel_basis", (8, 90, kernel, kernel), random, shared=shared, **fields)
        bits = rows_of(Workload("x", weight, np.ones((1, 90, 5, 5), bool)), 64).stored_bits
        bases = 0 if kernel > 1 else 8 + 32  # a 1x1 layer's basis of one number is a scale
        in_file = weight.bits() - 16 * 8 - bases
        assert 0 <= in_file + 2 - bits < 8  # a tag, and signs that do not fill their last byte
        stored.append(bits / weight.nonzeros())
    assert stored[1] < stored[0]


def test_channels_of_other_groups_are_not_read():
    signs = np.array([[1, -1], [1, 0], [0, 1], [1, 1]])
    layer = ternary_layer(signs, np.ones((1, 4, 1, 1)), groups=2)
    assert rows_of(layer, 64).codes[:, 0].tolist() == [[1, -1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 1]]
