"""CirCNN: layers worked out by hand, the figures of its equations, its search, and what it refuses."""

from __future__ import annotations

import math
from dataclasses import astuple, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from accelerator_cases import circulant_layer, dense_layer, layers
from dovetail.accelerators.circnn import Circnn
from dovetail.accelerators.circnn_search import Point, point, power, search, ternary
from dovetail.accelerators.machine import machine_named
from dovetail.accelerators.workload import Workload
from dovetail.errors import MachineError


def machine(**fields: Any) -> Circnn:
    """Two butterflies in one level and four lanes, which the memory of spectra can feed, but for `fields`."""
    small = {"butterflies": 2, "depth": 1, "lanes": 4, "spectrum_bits": 4 * 2 * 16, **fields}
    return replace(machine_named("circnn"), name="small", **small)  # type: ignore[arg-type]


def linear(outputs: int, inputs: int, size: int, images: int = 1) -> Workload:
    return circulant_layer((outputs, inputs), size, np.ones((images, inputs)))


# Name → machine, layer, cycles of an image (forward, products, supplied, inverse), and all of them with fill.
HAND: dict[str, tuple[Circnn, Workload, tuple[int, int, int, int], int]] = {
    # 2 x 3 blocks of 4. A transform is 2 levels of 1 butterfly: 2 cycles. Three forward, two inverse; 6 spectra of 3
    # numbers in 4 lanes: 18 / 4. 3 cycles of a level.
    "blocks of four": (machine(), linear(8, 12, 4), (6, 5, 5, 4), 15 + 3),
    # 4 levels of 4 butterflies, by two: 8 cycles. 2 spectra of 9 numbers.
    "blocks of sixteen": (machine(), linear(16, 32, 16), (16, 5, 5, 8), 29 + 3),
    # 3 levels in a row: the 4 of a transform take two turns.
    "levels in a row": (machine(depth=3), linear(16, 32, 16), (8, 5, 5, 4), 17 + 9),
    # Two complex numbers of 32 bits a cycle for 18 of them.
    "spectra are the limit": (machine(spectrum_bits=64), linear(8, 12, 4), (6, 5, 9, 4), 19 + 3),
    # No transform: 60 real products in 4 lanes. Their 16 bits each are no limit.
    "dense": (machine(), dense_layer(6, 10, (1, 1), (1, 1)), (0, 15, 15, 0), 15 + 3),
    # A product of 16 bits a cycle.
    "dense from a narrow memory": (
        machine(spectrum_bits=16),
        dense_layer(6, 10, (1, 1), (1, 1)),
        (0, 15, 60, 0),
        60 + 3,
    ),
    # 2 x 2 blocks of 2 at 9 places of the kernel; 2 x 3 positions are read and written. A transform takes a cycle;
    # 4 x 9 x 6 spectra of 2 numbers in 4 lanes.
    "a convolution": (
        machine(),
        circulant_layer((4, 4, 3, 3), 2, np.ones((1, 4, 2, 3)), padding=(1, 1, 1, 1)),
        (12, 108, 108, 12),
        132 + 3,
    ),
    # 2 x 2 blocks of 4, the last ones filled up.
    "sizes that do not divide": (machine(), linear(5, 7, 4), (4, 3, 3, 4), 11 + 3),
    # Blocks of 2 with outputs 0 1 | 2 3 | 4 5; groups have 0 1 2 | 3 4 5, so that the second block is in both.
    "a block in two groups": (
        machine(),
        circulant_layer((6, 2, 1, 1), 2, np.ones((1, 4, 1, 1)), groups=2),
        (2, 2, 2, 4),
        8 + 3,
    ),
    # The second image is transformed while spectra of the first are multiplied: 10 cycles more.
    "two images": (machine(), linear(8, 12, 4, images=2), (6, 5, 5, 4), 15 + 10 + 3),
    # 64 spectra of 3 numbers: 48 cycles, more than 32 of transforms.
    "two images of many products": (machine(), linear(32, 32, 4, images=2), (16, 48, 48, 16), 80 + 48 + 3),
    "two images without overlap": (
        machine(overlap=False),
        linear(8, 12, 4, images=2),
        (6, 5, 5, 4),
        2 * (15 + 3),
    ),
}


@pytest.mark.parametrize("name", HAND)
def test_cycles_by_hand(name):
    small, layer, phases, cycles = HAND[name]
    found = small.phases(layer)
    assert (found.forward, found.products, found.supplied, found.inverse) == phases
    assert sum(small.array_cycles(layer).values()) == cycles


# Outputs, inputs, size → cycles of transforms, of products; 32 butterflies in 2 levels, 32 lanes.
FIGURES = {
    (4096, 9216, 32): (1248, 19584),
    (4096, 9216, 128): (416, 4680),
    (4096, 9216, 512): (520, 1157),
    (4096, 4096, 64): (384, 4224),
}


@pytest.mark.parametrize("shape", FIGURES)
def test_figures_of_the_equations(shape):
    circnn = machine_named("circnn")
    assert isinstance(circnn, Circnn)
    phases = circnn.phases(linear(*shape))
    assert (phases.forward + phases.inverse, phases.supplied) == FIGURES[shape]
    assert phases.interval == max(FIGURES[shape])
    assert sum(circnn.array_cycles(linear(*shape)).values()) == sum(FIGURES[shape]) + 2 * 3


def test_products_by_hand():
    # 5 transforms of 2 butterflies of 4 products; 6 pairs of 1 bin of 4 and 2 of one. Additions: 6 a butterfly, and as
    # many as products in a pair.
    trace = machine().simulate(linear(8, 12, 4))
    counts = {charge.part: charge.count for charge in trace.charges if charge.part in ("multipliers", "adders")}
    assert trace.macs == counts["multipliers"] == 5 * 2 * 4 + 6 * 6
    assert counts["adders"] == 5 * 2 * 6 + 6 * 6
    assert trace.cycles_by["compute"] == math.ceil(76 / (4 * (2 + 4)))
    # Blocks of 2 add and subtract: 2 products of real numbers a pair, two additions a transform.
    pairs = machine().simulate(linear(4, 4, 2))
    assert pairs.macs == 4 * 2
    assert sum(charge.count for charge in pairs.charges if charge.part == "adders") == 4 * 2 + 4 * 2


# Size → dense products over those with transforms, of 4096 x 9216.
GAINS = {8: 4.6, 32: 16.1, 128: 55.6, 512: 141, 1024: 183}


@pytest.mark.parametrize("size", GAINS)
def test_products_that_transforms_save(size):
    layer = linear(4096, 9216, size)
    assert layer.dense_macs / machine().simulate(layer).macs == pytest.approx(GAINS[size], rel=0.015)


def test_bytes_by_hand():
    # 24 numbers of 16 bits, 12 inputs and 8 outputs; of 5 x 7 in blocks of 4, 16 numbers.
    assert machine().simulate(linear(8, 12, 4)).bytes_by["dram"] == 2 * (24 + 12 + 8)
    assert machine().simulate(linear(5, 7, 4)).bytes_by["dram"] == 2 * (16 + 7 + 5)
    # Spectra of weights are read once a pair; inputs and their spectra once each, then spectra once a pair; spectra,
    # sums and outputs are written.
    moved = {
        (charge.part, charge.event.split()[0]): 64 * charge.count
        for charge in machine().simulate(linear(8, 12, 4)).charges
        if charge.part in ("weights", "activations")
    }
    assert moved["weights", "read"] == 6 * 4 * 16
    assert moved["activations", "read"] == (5 + 6) * 4 * 16
    assert moved["activations", "write"] == 5 * 4 * 16 + 8 * 16 + 12 * 16


@given(
    size=st.sampled_from([1, 2, 4, 8]),
    rows=st.integers(1, 4),
    columns=st.integers(1, 4),
    images=st.integers(1, 3),
    butterflies=st.integers(1, 4),
    lanes=st.integers(1, 5),
    overlap=st.booleans(),
)
def test_more_of_anything_takes_no_longer(size, rows, columns, images, butterflies, lanes, overlap):
    layer = linear(rows * size, columns * size, size, images)
    small = machine(butterflies=butterflies, lanes=lanes, overlap=overlap, spectrum_bits=96)
    trace = small.simulate(layer)
    assert trace.utilisation <= 1
    assert trace.cycles * small.units >= trace.macs
    array = sum(small.array_cycles(layer).values())
    for more in ({"butterflies": butterflies + 1}, {"lanes": lanes + 1}, {"spectrum_bits": 192}, {"overlap": True}):
        assert sum(replace(small, **more).array_cycles(layer).values()) <= array  # type: ignore[arg-type]
    phases = small.phases(layer)
    assert images * phases.interval <= array - small.fill <= images * (phases.serial + small.fill)


@given(layer=layers())
def test_zeros_gain_nothing(layer):
    full = replace(layer, input=np.ones_like(layer.input))
    assert machine().simulate(layer).to_json() == machine().simulate(full).to_json()


def test_blocks_of_other_sizes_are_refused():
    layer = circulant_layer((6, 12), 6, np.ones((1, 12)))
    told = "layer 'layer' has circulant blocks of 6; machine 'small' transforms blocks of a power of two: train it"
    for call in (machine().require, machine().simulate, machine().array_cycles, machine().phases):
        with pytest.raises(MachineError, match=told):
            call(layer)


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"butterflies": 0}, "machine 'circnn': butterflies is 0; it must be a whole number of at least 1"),
        ({"depth": 0}, "depth is 0"),
        ({"lanes": 0}, "lanes is 0"),
        ({"spectrum_bits": -1024}, "spectrum_bits is -1024"),
        ({"dram_bytes_per_cycle": -1}, "dram_bytes_per_cycle is -1; it must be a finite number above 0"),
        ({"overlap": 1}, "overlap is 1; it must be True or False"),
    ],
)
def test_bad_descriptions_are_refused(fields, complaint):
    with pytest.raises(MachineError, match=complaint):
        replace(machine_named("circnn"), **fields)


def test_power_is_that_of_the_chip_and_grows_by_a_tenth_from_16_to_32_butterflies():
    assert power(32, 2) == power(64, 1) == pytest.approx(0.080)
    assert power(32, 1) / power(16, 1) == pytest.approx(1.1)
    share = 1 - (0.9 * power(16, 1)) / power(32, 2)  # of computing: 0.9 of the power of 16 is memory and control
    assert share == pytest.approx(0.3, abs=0.02)


LAYER = linear(4096, 9216, 128)


@pytest.mark.parametrize(
    ("lanes", "gains"),
    # 104 transforms of 7 levels, and 149,760 products of complex numbers in the lanes, one phase after another. The
    # paper has 53.8 %, and 62.2 % for 2 or 3 levels: with 32 lanes products leave transforms too little.
    [(32, (0.135, 0.061, 0.082)), (128, (0.383, 0.194, 0.275)), (512, (0.711, 0.432, 0.668))],
)
def test_what_the_shape_does_on_a_layer_in_blocks_of_128(lanes, gains):
    circnn = replace(machine_named("circnn"), lanes=lanes, spectrum_bits=32 * lanes)  # type: ignore[call-arg]
    cycles = [point(circnn, [LAYER], *shape).cycles for shape in ((16, 1), (32, 1), (32, 2), (32, 3))]
    found = (cycles[0] / cycles[1] - 1, cycles[1] / cycles[2] - 1, cycles[1] / cycles[3] - 1)
    assert found == pytest.approx(gains, abs=0.001)


def test_what_the_shape_does_to_power():
    watts = [power(*shape) for shape in ((16, 1), (32, 1), (32, 2), (32, 3))]
    assert (watts[1] / watts[0], watts[2] / watts[1], watts[3] / watts[1]) == pytest.approx(
        (1.1, 1.182, 1.364), abs=1e-3
    )


def every(circnn: Circnn, shapes: list[tuple[int, int]]) -> list[Point]:
    return [point(circnn, [LAYER], *shape) for shape in shapes]


def test_the_search_comes_near_the_best_shape():
    circnn = machine_named("circnn")
    found = search(circnn, [LAYER])
    points = every(circnn, [(count, depth) for count in range(1, 65) for depth in range(1, 9)])
    assert astuple(found) in map(astuple, points)
    assert found.efficiency >= 0.99 * max(one.efficiency for one in points)


def test_the_search_keeps_to_a_budget():
    circnn = machine_named("circnn")
    found = search(circnn, [LAYER], butterflies=(1, 40), depths=(1, 4), most_watts=0.07)
    points = [one for one in every(circnn, [(count, 1) for count in range(1, 41)]) if one.watts <= 0.07]
    assert found.watts <= 0.07
    assert found.cycles <= min(one.cycles for one in points)


@pytest.mark.parametrize("top", range(1, 10))
@pytest.mark.parametrize("high", [1, 2, 5, 9])
def test_a_ternary_search_finds_the_top(top, high):
    assert ternary(lambda number: -abs(number - top), 1, high) == min(top, high)
    assert ternary(lambda number: 1.0, 1, high) == 1


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"butterflies": (0, 4)}, "butterflies from 0 to 4 are no range"),
        ({"depths": (3, 2)}, "depths from 3 to 2 are no range"),
        ({"most_watts": math.nan}, "a budget of nan W"),
        ({"most_watts": 0}, "a budget of 0 W"),
        ({"most_watts": 0.01}, r"the smallest block takes 0\.0\d+ W, more than 0\.01; allow more power"),
    ],
)
def test_searches_that_cannot_be_are_refused(options, complaint):
    with pytest.raises(MachineError, match=complaint):
        search(machine_named("circnn"), [LAYER], **options)
    with pytest.raises(MachineError, match="no layers to search for"):
        search(machine_named("circnn"), [])
