"""Cnvlutin and its dense peer: layers worked out by hand, closed forms, a slow twin, and the published ratio."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given

from accelerator_cases import dense_layer, layers, masked_layer
from dovetail.accelerators.cnvlutin import Cnvlutin
from dovetail.accelerators.machine import machine_named
from dovetail.accelerators.workload import Workload
from dovetail.errors import MachineError


def machine(filters: int = 2, lanes: int = 2, brick: int = 2, name: str = "cnvlutin") -> Cnvlutin:
    return replace(machine_named(name), name="small", filters=filters, lanes=lanes, brick=brick)


def inputs(*pixels: str) -> np.ndarray:
    """One row of pixels, each a word of zeros and ones over its channels."""
    return np.array([[int(digit) for digit in pixel] for pixel in pixels]).T[None, :, None, :]


# Machine, layer, cycles of compute and imbalance.
HAND = {
    # Bricks of 1 and 2 inputs, a lane each: 2 cycles; then of none and 1: 1. Three filters in two rounds: 6 cycles.
    # 4 inputs meet 3 filters: 12 MACs on 4 multipliers.
    "bricks": (machine(), masked_layer(np.ones((3, 4, 1, 1)), inputs("1011", "0010")), (3, 3)),
    # A 1x3 kernel over two pixels of one brick, of 2 and 1 inputs, and a border. First position: places 1 and 2 are
    # bricks of lanes 1 and 0: max(1, 2). Second: places 0 and 1 are of lanes 0 and 1: max(2, 1). 6 MACs.
    "border": (machine(), masked_layer(np.ones((1, 2, 1, 3)), inputs("11", "10"), padding=(0, 0, 1, 1)), (2, 2)),
    # Three bricks on two lanes: 2 + 1 on the first, 2 on the second. 5 MACs.
    "three bricks": (machine(), masked_layer(np.ones((1, 6, 1, 1)), inputs("111110")), (2, 1)),
    # All zero: each brick still takes a cycle.
    "zeros": (machine(), masked_layer(np.ones((1, 4, 1, 1)), inputs("0000", "0000")), (0, 2)),
    # Two groups of a brick each, one after the other: 2 + 1. 3 MACs.
    "groups": (machine(), masked_layer(np.ones((2, 2, 1, 1)), inputs("1110"), groups=2), (1, 2)),
    # One channel, less than a brick: dense, R S = 2 cycles at each of 2 positions. 4 MACs.
    "first layer": (machine(), masked_layer(np.ones((1, 1, 1, 2)), inputs("0", "1", "0")), (1, 3)),
}


@pytest.mark.parametrize("name", HAND)
def test_cycles_by_hand(name):
    small, layer, (compute, imbalance) = HAND[name]
    assert small.array_cycles(layer) == {"compute": compute, "imbalance": imbalance}


@pytest.mark.parametrize(("channels", "kernel"), [(3, (3, 3)), (16, (1, 1)), (40, (3, 2))])
def test_the_dense_peer_has_the_closed_form(channels, kernel):
    # N E F R S ceil(C/lanes) ceil(K/filters)
    layer = dense_layer(10, channels, kernel, (7, 6), images=2, padding=(1, 1, 1, 1))
    e, f = 7 + 2 - kernel[0] + 1, 6 + 2 - kernel[1] + 1
    cycles = machine(4, 16, 16, "dadiannao").array_cycles(layer)
    assert sum(cycles.values()) == 2 * e * f * math.prod(kernel) * math.ceil(channels / 16) * 3


def test_inputs_without_zeros_are_as_fast_as_dense_where_bricks_share_out():
    # 3x3 over 32 channels without a border: 18 bricks of 16 on 2 lanes, 9 each.
    layer = dense_layer(4, 32, (3, 3), (5, 5))
    assert sum(machine(4, 2, 16).array_cycles(layer).values()) == 9 * 9 * 16
    assert sum(machine(4, 2, 16, "dadiannao").array_cycles(layer).values()) == 9 * 9 * 16


def plain_cycles(small: Cnvlutin, layer: Workload) -> int:
    """Brick by brick."""
    total, channels = 0, layer.weight.shape[1]
    top, _, left, _ = layer.padding
    rounds = math.ceil(layer.outputs // layer.groups / small.filters)
    for n, g, e, f in np.ndindex(layer.images, layer.groups, *layer.out_size):
        lanes, index = [0] * small.lanes, 0
        for r, s in np.ndindex(*layer.kernel):
            y, x = e * layer.stride[0] + r - top, f * layer.stride[1] + s - left
            for start in range(0, channels, small.brick):
                if 0 <= y < layer.size[0] and 0 <= x < layer.size[1]:
                    end = min(start + small.brick, channels)
                    found = layer.mask[n, g * channels + start : g * channels + end, y, x].sum()
                    lanes[index % small.lanes] += max(1, int(found))
                index += 1
        total += max(lanes)
    return total * rounds


@given(layer=layers())
def test_cycles_are_those_of_the_slow_twin(layer):
    small = machine(2, 3, 2)
    if layer.weight.shape[1] >= 2:
        assert sum(small.array_cycles(layer).values()) == plain_cycles(small, layer)
        assert small.simulate(layer).macs == layer.input_macs


def test_bytes_by_hand():
    # 4 weights of 16 bits, 8 inputs and 2 outputs of 16 + 4.
    layer = masked_layer(np.ones((1, 4, 1, 1)), inputs("1011", "0010"))
    assert machine().simulate(layer).bytes_by["dram"] * 8 == 4 * 16 + (8 + 2) * 20
    assert machine(name="dadiannao").simulate(layer).bytes_by["dram"] * 8 == (4 + 8 + 2) * 16


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"brick": 0}, "machine 'cnvlutin': brick is 0"),
        ({"skipping": 1}, "skipping is 1; it must be True or False"),
        ({"dram_bytes_per_cycle": math.inf}, "dram_bytes_per_cycle is inf"),
    ],
)
def test_bad_descriptions_are_refused(fields, complaint):
    with pytest.raises(MachineError, match=complaint):
        replace(machine_named("cnvlutin"), **fields)


def test_its_multipliers():
    assert machine_named("cnvlutin").units == machine_named("dadiannao").units == 4096
