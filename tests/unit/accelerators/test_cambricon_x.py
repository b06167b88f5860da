"""Cambricon-X: layers worked out by hand, dense weights in closed form, and the published ratio."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from accelerator_cases import dense_layer, layers, masked_layer
from dovetail.accelerators.cambricon_x import CambriconX
from dovetail.accelerators.draw import drawn
from dovetail.accelerators.machine import machine_named
from dovetail.errors import MachineError


def machine(elements: int = 2, lanes: int = 2, window: int = 4) -> CambriconX:
    return replace(machine_named("cambricon-x"), name="small", elements=elements, lanes=lanes, window=window)


def filters(*rows: str) -> np.ndarray:
    """A 1x1 filter for each word of zeros and ones."""
    return np.array([[int(digit) for digit in row] for row in rows])[:, :, None, None]


# Machine, layer, cycles of compute and imbalance.
HAND = {
    # Windows of 4 and 2 inputs. Filters take 2 + 1, 1 + 1 and 2 + 0 cycles; the first two are a group: 3 + 2 = 5 at
    # each of 4 positions. 11 weights at 4 positions are 44 MACs on 4 multipliers.
    "windows": (machine(), masked_layer(filters("111111", "100001", "111000"), np.ones((1, 6, 2, 2))), (11, 9)),
    # The same weights in one window of 8: 3, 1 and 2 cycles, so 3 + 2.
    "wide": (machine(2, 2, 8), masked_layer(filters("111111", "100001", "111000"), np.ones((1, 6, 2, 2))), (11, 9)),
    # All three at once: 3 cycles.
    "more elements": (machine(3), masked_layer(filters("111111", "100001", "111000"), np.ones((1, 6, 2, 2))), (8, 4)),
    # Zeros of the inputs change nothing.
    "zeros": (machine(), masked_layer(filters("111111", "100001", "111000"), np.zeros((1, 6, 2, 2))), (11, 9)),
    # Two groups of one filter each are not together: 2 + 1 cycles at 4 positions; 5 weights are 20 MACs.
    "groups": (machine(), masked_layer(filters("1111", "0100"), np.ones((1, 8, 2, 2)), groups=2), (5, 7)),
    # A filter without weights takes no time beside another, and none alone.
    "empty": (machine(1), masked_layer(filters("0000", "1100"), np.ones((1, 4, 1, 1))), (1, 0)),
}


@pytest.mark.parametrize("name", HAND)
def test_cycles_by_hand(name):
    small, layer, (compute, imbalance) = HAND[name]
    assert small.array_cycles(layer) == {"compute": compute, "imbalance": imbalance}


def test_dense_weights_give_the_closed_form():
    # 5 filters in groups of 2, 3x3 over 4 channels are 36 inputs in windows of 16: 8 + 8 + 2 cycles of 2 lanes.
    layer = dense_layer(5, 4, (3, 3), (6, 5), images=2)
    assert sum(machine(2, 2, 16).array_cycles(layer).values()) == 2 * 4 * 3 * 3 * (8 + 8 + 2)


def test_the_order_of_a_window_is_channels_first():
    # 2 channels, 1x4 kernel, windows of 4: channel 0 alone has two weights in each window, not four in the first.
    weight = np.zeros((1, 2, 1, 4))
    weight[0, 0] = 1
    assert sum(machine(1, 2, 4).array_cycles(masked_layer(weight, np.ones((1, 2, 1, 4)))).values()) == 2
    assert sum(machine(1, 4, 4).array_cycles(masked_layer(weight, np.ones((1, 2, 1, 4)))).values()) == 2


def test_a_tenth_of_the_weights_is_five_to_nine_times_as_fast():
    # Published: 7.23 times as fast as a dense peer on sparse networks.
    machine_ = machine_named("cambricon-x")
    shape, size = (256, 256, 3, 3), (14, 14)
    sparse, dense = (drawn("x", shape, size, weight_density=d, seed=0, correlated=False) for d in (0.1, 1.0))
    ratio = sum(machine_.array_cycles(dense).values()) / sum(machine_.array_cycles(sparse).values())
    assert 5 <= ratio <= 9


def test_bytes_by_hand():
    # 3 entries of 16 + 8 bits, 6 inputs and 1 output of 16 bits.
    trace = machine().simulate(masked_layer(filters("101010"), np.ones((1, 6, 1, 1))))
    assert trace.bytes_by["dram"] * 8 == 3 * 24 + (6 + 1) * 16


@given(layer=layers(), seed=st.integers(0, 99))
def test_removing_weights_never_takes_longer(layer, seed):
    fewer = layer.weight_mask & (np.random.default_rng(seed).random(layer.weight_mask.shape) < 0.7)
    options = {name: getattr(layer, name) for name in ("stride", "padding", "groups")}
    less = machine().array_cycles(masked_layer(fewer, layer.mask, **options))
    assert sum(less.values()) <= sum(machine().array_cycles(layer).values())
    assert machine().simulate(layer).macs == int(layer.weight_mask.sum()) * layer.positions


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"lanes": 0}, "machine 'cambricon-x': lanes is 0"),
        ({"window": -256}, "window is -256"),
        ({"clock_hz": math.nan}, "clock_hz is nan"),
    ],
)
def test_bad_descriptions_are_refused(fields, complaint):
    with pytest.raises(MachineError, match=complaint):
        replace(machine_named("cambricon-x"), **fields)


def test_its_published_peak():
    machine_ = machine_named("cambricon-x")
    assert machine_.elements * (2 * machine_.lanes + 2) * machine_.clock_hz == 544e9
