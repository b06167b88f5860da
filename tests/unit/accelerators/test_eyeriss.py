"""Eyeriss: the published networks, passes worked out by hand, the search against all mappings, and invariants."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from accelerator_cases import dense_layer, layers, masked_layer
from dovetail.accelerators.energy import ACCELERGY45
from dovetail.accelerators.eyeriss import Eyeriss
from dovetail.accelerators.machine import machine_named
from dovetail.accelerators.row_stationary import Limits, Mapping, Shape, active_units, best, chip_depth, passes
from dovetail.errors import MachineError

CHIP = Limits(
    rows=12,
    columns=14,
    input_spad=12,
    filter_spad=224,
    sum_spad=24,
    buffer_bits=51_200 * 16,
    bits=16,
    sum_bits=16,
    port=4,
)


def shape(
    images: int, groups: int, filters: int, channels: int, kernel: int, size: int, width: int, stride: int = 1
) -> Shape:
    return Shape(images, groups, filters, channels, (kernel, kernel), (size, size), width, stride)


ALEXNET = [
    shape(4, 1, 96, 3, 11, 55, 227, 4),
    shape(4, 2, 128, 48, 5, 27, 31),
    shape(4, 1, 384, 256, 3, 13, 15),
    shape(4, 2, 192, 192, 3, 13, 15),
    shape(4, 2, 128, 192, 3, 13, 15),
]
VGG_SIZES = [
    (64, 3, 224),
    (64, 64, 224),
    (128, 64, 112),
    (128, 128, 112),
    (256, 128, 56),
    (256, 256, 56),
    (256, 256, 56),
]
VGG_SIZES += [(512, 256, 28), (512, 512, 28), (512, 512, 28), (512, 512, 14), (512, 512, 14), (512, 512, 14)]
VGG16 = [shape(3, 1, filters, channels, 3, size, size + 2) for filters, channels, size in VGG_SIZES]


def milliseconds(layer: Shape, mapping: Mapping) -> float:
    return passes(layer, CHIP, mapping).cycles / 200e3


def search(layer: Shape, mapper: str) -> Mapping:
    return best(layer, replace(CHIP, depth=chip_depth(layer)) if mapper == "chip" else CHIP)


@pytest.mark.parametrize("mapper", ["chip", "free"])
def test_alexnet_takes_the_published_time(mapper):
    # Batch 4, published 35 frames/s; layers recalled: 20.9, 41.9, 23.6, 18.4, 10.5 ms, together 115.3.
    times = [milliseconds(layer, search(layer, mapper)) for layer in ALEXNET]
    assert sum(times) == pytest.approx(115.3, rel=0.05)


def test_alexnet_layer_by_layer():
    times = [milliseconds(layer, search(layer, "free")) for layer in ALEXNET]
    assert times == pytest.approx([18.2, 38.4, 26.1, 19.4, 13.5], abs=0.05)
    for modelled, recalled in zip(times, [20.9, 41.9, 23.6, 18.4, 10.5], strict=True):
        assert 0.87 <= modelled / recalled <= 1.29


def test_vgg16_as_deep_as_the_chip():
    # Batch 3, published 0.7 frames/s; the model may say 0.70 to 0.85.
    times = [milliseconds(layer, search(layer, "chip")) for layer in VGG16]
    assert times == pytest.approx([37.7, 804.9, 402, 805, 208, 416, 416, 113, 225, 225, 61, 61, 61], abs=0.5)
    assert 0.70 <= 3 / (sum(times) / 1e3) <= 0.85


def test_vgg16_with_any_mapping_is_faster_than_the_chip_was():
    frames = 3 / (sum(milliseconds(layer, search(layer, "free")) for layer in VGG16) / 1e3)
    assert 1.7 <= frames <= 1.8


@pytest.mark.parametrize(
    ("layer", "mapping", "active"),
    [
        (ALEXNET[0], (16, 1, 1, 2, 7), 154),
        (ALEXNET[1], (16, 2, 1, 1, 27), 135),
        (ALEXNET[2], (16, 4, 1, 4, 13), 156),
        (ALEXNET[3], (16, 3, 2, 2, 13), 156),
        (ALEXNET[4], (16, 3, 2, 2, 13), 156),
    ],
)
def test_the_chips_own_mappings_of_alexnet_fit(layer, mapping, active):
    assert passes(layer, CHIP, Mapping(*mapping)).cycles >= passes(layer, CHIP, search(layer, "free")).cycles
    assert active_units(layer, Mapping(*mapping)) == active


# Name → layer, mapping (p, q, r, t, e), passes, products of a unit in one, busy cycles, words loaded, load cycles.
HAND = {
    # 96/32 filters, 3 channels, strips 55/7 = 8, 4 images: 288. Products 55 11 16; sums 2 16 2 7 55 / 8 = 3080 hide.
    # Inputs (6 4 + 11) 227 = 7945, filters 32 121 = 3872.
    "AlexNet 1": (ALEXNET[0], (16, 1, 1, 2, 7), 288, 9680, 9680, 11_817, 2955),
    # 2 groups of 128/16 filters and 48/2 channels, 4 images: 1536. 27 5 32 = 4320 over 2 16 27 27 / 8 = 2916.
    # Inputs 2 (26 + 5) 31 = 1922, filters 16 2 25 = 800.
    "AlexNet 2": (ALEXNET[1], (16, 2, 1, 1, 27), 1536, 4320, 4320, 2722, 681),
    # 384/64 filters, 256/4 channels, 4 images: 1536. 13 3 64 = 2496 wait for the sums, 2 64 13 13 / 8 = 2704.
    # Inputs 4 15 15 = 900, filters 64 4 9 = 2304.
    "AlexNet 3": (ALEXNET[2], (16, 4, 1, 4, 13), 1536, 2496, 2704, 3204, 801),
    # 64 filters at once, 3 channels, strips 224/3 = 75, 3 images: 675. 224 3 4 = 2688; sums 2 64 3 224 / 8 = 10752.
    # Inputs (2 + 3) 226 = 1130, filters 64 9 = 576.
    "VGG16 1": (VGG16[0], (4, 1, 1, 16, 3), 675, 2688, 10_752, 1706, 427),
    # A linear layer, 10 from 20, 3 rows: 20/4 channels times 3 = 15. 8 products; sums 2 10 / 8 = 2.5. 4 + 10 4 words.
    "linear": (shape(3, 1, 10, 20, 1, 1, 1), (2, 4, 1, 5, 1), 15, 8, 8, 44, 11),
    # 8 channels, each its own group: 14 3 products; sums 2 14 14 / 8 = 49. Inputs 16 16, filter 9.
    "depthwise": (shape(1, 8, 1, 1, 3, 14, 16), (1, 1, 1, 1, 14), 8, 42, 49, 265, 67),
}


@pytest.mark.parametrize("name", HAND)
def test_passes_by_hand(name):
    layer, mapping, count, products, busy, words, load = HAND[name]
    found = passes(layer, CHIP, Mapping(*mapping))
    assert (found.count, found.products, found.busy, found.words, found.load) == (count, products, busy, words, load)
    assert found.cycles == count * (busy + load)


@pytest.mark.parametrize(
    "mapping",
    [
        (25, 1, 1, 1, 1),  # 25 sums in a unit of 24
        (1, 5, 1, 1, 1),  # 5 rows of 3 inputs in a unit of 12
        (19, 4, 1, 1, 1),  # 19 4 3 = 228 filter words in a unit of 224
        (1, 1, 5, 1, 13),  # 5 sets of 3 rows in 12
        (1, 1, 1, 3, 15),  # 15 columns fold twice: 3 sets of 6 rows
        (0, 1, 1, 1, 1),
    ],
)
def test_mappings_that_do_not_fit_are_refused(mapping):
    with pytest.raises(MachineError, match="does not fit an array of 12 x 14"):
        passes(shape(1, 1, 99, 99, 3, 30, 32), CHIP, Mapping(*mapping))


def test_a_buffer_too_small_is_refused():
    # Sums 16 28 224 = 100,352 words, of 51,200.
    with pytest.raises(MachineError, match="does not fit"):
        passes(shape(1, 1, 64, 64, 3, 224, 226), CHIP, Mapping(16, 4, 1, 1, 28))


def plain_best(layer: Shape, limits: Limits) -> int:
    """Fewest cycles over all mappings, from the equations, one at a time."""
    (rows, columns), (height, width), least = layer.kernel, layer.out_size, math.inf
    ranges = (
        range(1, limits.sum_spad + 1),
        range(1, limits.input_spad // columns + 1),
        range(1, 21),
        range(1, 21),
        range(1, height + 1),
    )
    for p, q, r, t, e in itertools.product(*ranges):
        side_by_side = limits.columns // e
        used = math.ceil(r * t / side_by_side) * rows if side_by_side else math.ceil(e / limits.columns) * rows * r * t
        inputs = q * r * ((e - 1) * layer.stride + rows) * layer.width
        too_much = inputs * limits.bits + p * t * e * width * limits.sum_bits > limits.buffer_bits
        if used > limits.rows or p * q * columns > limits.filter_spad or too_much:
            continue
        count = math.ceil(layer.filters / (p * t)) * math.ceil(layer.channels / (q * r)) * math.ceil(height / e)
        busy = max(width * columns * p * q, math.ceil(2 * p * t * e * width / (2 * limits.port)))
        load = math.ceil((inputs + p * t * q * r * rows * columns) / limits.port)
        least = min(least, count * layer.groups * layer.images * (busy + load))
    return 0 if least == math.inf else int(least)


@given(
    filters=st.integers(1, 9),
    channels=st.integers(1, 9),
    kernel=st.integers(1, 3),
    size=st.integers(1, 7),
    stride=st.integers(1, 2),
    buffer_words=st.sampled_from([60, 200, 2000]),
)
def test_the_search_misses_no_mapping(filters, channels, kernel, size, stride, buffer_words):
    limits = Limits(4, 5, 4, 12, 3, buffer_words * 16, 16, 16, 2)
    layer = shape(2, 1, filters, channels, kernel, size, (size - 1) * stride + kernel, stride)
    if least := plain_best(layer, limits):
        assert passes(layer, limits, best(layer, limits)).cycles == least
        return
    with pytest.raises(MachineError, match="no row-stationary mapping"):
        best(layer, limits)


def test_a_kernel_that_no_unit_holds_is_refused():
    with pytest.raises(MachineError, match=r"no row-stationary mapping of a \(13, 13\) kernel over width 30"):
        machine_named("eyeriss").simulate(dense_layer(1, 1, (13, 13), (30, 30)))


def test_a_layer_by_hand():
    # 16 filters of 3x3 over 4 channels and 6x6 inputs with a border: 16 4 9 36 = 20,736 MACs, at least 124 cycles.
    # One pass loads inputs 4 8 8 = 256 and filters 16 36 = 576 words in 208 cycles; its sums take 2 16 36 / 8 = 144.
    # The array holds 8 sets of 3 rows and 6 columns, so that a unit has at least 6 3 16 4 / 8 = 144 products. Of the
    # mappings that reach this the one of fewest filters in a unit is taken. Two passes of 3 rows load 368 in all.
    layer = dense_layer(16, 4, (3, 3), (6, 6), padding=(1, 1, 1, 1))
    machine = machine_named("eyeriss-free")
    assert machine.mapping(layer) == Mapping(2, 4, 1, 8, 6)
    assert machine.array_cycles(layer) == {"compute": 124, "imbalance": 20, "stalls": 0, "fill": 208}
    # Off-chip: 576 weights, 144 inputs and 576 outputs of 16 bits; ones code worse than plain. 2.4 bytes a cycle.
    trace = machine.simulate(layer)
    assert trace.bytes_by["dram"] == 2 * (576 + 144 + 576)
    assert trace.cycles_by["memory"] == 1080 - 352
    # The first pass needs all weights and inputs: 1440 bytes.
    assert trace.cycles_by["first load"] == 600


def test_energy_by_hand():
    inputs = np.ones((1, 4, 6, 6))
    inputs[0, 1:] = 0
    layer = masked_layer(
        np.ones((16, 4, 3, 3)), inputs, padding=(1, 1, 1, 1), output_mask=np.ones((1, 16, 6, 6), np.bool_)
    )
    machine = replace(machine_named("eyeriss-free"), node_nm=45)
    trace = machine.simulate(layer)
    # One channel of four is not zero; 3x3 taps of a 6x6 map meet 16 16 values of it (3 6 - 2 a side), in 16 filters.
    assert (trace.macs, trace.gated_macs) == (4096, 20_736 - 4096)
    mac = 0.2 * math.sqrt(15.5) + 0.05
    energy = trace.energy_by
    assert energy["multipliers"] == pytest.approx(4096 * mac + 0.03 * 16_640 * mac)
    # A register file of 24 words of 16 bits is 0.009 16 + 0.029 5/32 24 = 0.25275 pJ, twice a MAC.
    assert energy["sum spads"] == pytest.approx(2 * 20_736 * 0.25275)
    # One set of channels: each of 576 sums crosses two borders between three rows.
    assert energy["array"] == pytest.approx(576 * 2 * 2.6)
    # 36 pairs of inputs are 12 words of 64 bits; weights and outputs are plain.
    assert trace.bytes_by["dram"] == 12 * 8 + 2 * (576 + 576)
    assert energy["dram"] == trace.bytes_by["dram"] * 8 * 8
    plain = replace(machine, compressed=False).simulate(layer)
    assert plain.bytes_by["dram"] == 2 * (576 + 144 + 576)


@given(layer=layers(), name=st.sampled_from(["eyeriss", "eyeriss-free", "eyeriss-1024"]))
def test_what_holds_for_every_layer(layer, name):
    machine = replace(machine_named(name), compressed=False)
    trace = machine.simulate(layer)
    assert trace.macs + trace.gated_macs == layer.dense_macs
    assert trace.macs == layer.input_macs
    assert trace.cycles * machine.units >= layer.dense_macs
    compulsory = math.prod(layer.weight.shape) + layer.input.size + math.prod(layer.out_shape)
    assert trace.bytes_by["dram"] * 8 >= compulsory * machine.bits
    coded = machine_named(name).simulate(layer)
    assert coded.bytes_by["dram"] <= trace.bytes_by["dram"]
    assert coded.cycles <= trace.cycles
    faster = replace(machine, dram_bytes_per_cycle=3 * machine.dram_bytes_per_cycle)
    assert faster.simulate(layer).cycles <= trace.cycles
    other = replace(machine, costs=ACCELERGY45).simulate(layer)
    assert (other.cycles_by, other.bytes_by) == (trace.cycles_by, trace.bytes_by)


@given(layer=layers())
def test_free_mappings_are_never_slower(layer):
    chip, free = (machine_named(name).array_cycles(layer) for name in ("eyeriss", "eyeriss-free"))
    assert sum(free.values()) <= sum(chip.values())


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"rows": 0}, "machine 'eyeriss': rows is 0"),
        ({"port": -1}, "port is -1; it must be a whole number of at least 1"),
        ({"mapper": "best"}, "mapper is 'best'; it must be one of chip, free"),
        ({"clock_hz": math.nan}, "clock_hz is nan"),
        ({"buffer_kb": 0.5}, "buffer_kb is 0.5"),
    ],
)
def test_bad_descriptions_are_refused(fields, complaint):
    with pytest.raises(MachineError, match=complaint):
        replace(machine_named("eyeriss"), **fields)


def test_the_published_arithmetic_of_eyeriss_is_that_of_accelergy():
    machine = machine_named("eyeriss")
    assert isinstance(machine, Eyeriss)
    assert (machine.units, machine.buffer_kb * 1024 * 8 // 64) == (168, 12_800)
