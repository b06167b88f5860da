"""ESCALATE: layers worked out by hand from the equations of its two stages; bytes, energy and what is refused."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from accelerator_cases import basis_layer, dense_layer, ternary_layer
from dovetail.accelerators.escalate import Escalate
from dovetail.accelerators.machine import machine_named
from dovetail.accelerators.ternary_rows import rows_of
from dovetail.accelerators.workload import Workload
from dovetail.errors import MachineError
from dovetail.formats.dense import DenseSpec, PackedDense
from dovetail.formats.kernel_basis import KernelBasisSpec, PackedKernelBasis
from dovetail.formats.values import F32, INT8


def machine(**fields: Any) -> Escalate:
    """One block of one slice of two rows, which looks at 4 channels and adds 2 inputs a cycle, but for `fields`.

    Strips are as wide as they may be.
    """
    small = {"blocks": 1, "slices": 1, "rows": 2, "window": 4, "adders": 2, "even_strips": False, **fields}
    return replace(machine_named("escalate"), name="small", **small)  # type: ignore[arg-type]


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape, np.int64)


def row(channels: list[list[int]]) -> np.ndarray:
    """An image of one row, from the values of each channel."""
    return np.array(channels)[None, :, None, :]


def dense_codes(weight: list[list[int]], inputs: np.ndarray) -> Workload:
    """A linear layer of 8-bit coefficients, the first of each output being 127."""
    return Workload("layer", PackedDense.from_dense(np.array(weight, np.float32), DenseSpec(values=INT8)), inputs)


SINGLE = {"rows": 1, "pointwise": True}  # 1x1 layers of one tap, an output to a block
BORDER = {"padding": (1, 1, 1, 1)}
PAIRS: dict[str, Any] = {"kernel": (1, 2), "stride": (1, 2)}  # every input of a row serves one tap
# 8 channels of which a window has 3 and the other 3.
THREES = [1, 1, 1, 0, 1, 1, 1, 0]
# Output 0 reads channels 0 to 4, output 1 channels 5 to 9; positions have 5 and 1, 1 and 1, 1 and 5 of them.
UNEVEN = (
    np.kron(np.eye(2), ones(1, 5)),
    row([[1, 1, 1], *[[1, 0, 0]] * 4, [1, 1, 1], *[[0, 0, 1]] * 4]),
)
# Basis 0 reads channels 0 to 2, basis 1 channels 3 to 5; the first position has 3 and 1, the second 1 and 3.
CROSSED = (
    np.kron(np.eye(2), ones(3, 1))[None],
    row([[1, 1], [1, 0], [1, 0], [1, 1], [0, 1], [0, 1]]),
)

# Name → machine, layer, cycles: regular (compute and imbalance), additions, broadcast, fill; and products.
HAND: dict[str, tuple[Escalate, Workload, tuple[int, int, int, int], int]] = {
    # 3x3 kernels with a border over 3x3: corners serve 4 taps, sides 6, the middle 9: 4 4 + 4 6 + 9 = 49. Each sum
    # takes one cycle of adding, so that the multipliers wait for the first one only. Two bases, two products a cycle. A
    # line of 3 outputs drains.
    "multipliers are the limit": (
        machine(),
        basis_layer(ones(1, 1, 2), ones(1, 1, 3, 3), (3, 3), **BORDER),
        (49, 1, 0, 3),
        98,
    ),
    # 2 windows, 6 inputs by 2 a cycle: 3 cycles for each of 4 positions, and one of multiplying behind the last.
    "adders are the limit": (
        machine(),
        basis_layer([[[c] for c in THREES]], ones(1, 8, 1, 4), **PAIRS),
        (4, 9, 0, 2),
        4,
    ),
    # Each window alone: 2 cycles for 3 inputs, 4 for a position.
    "no look-ahead": (
        machine(look_ahead=False),
        basis_layer([[[c] for c in THREES]], ones(1, 8, 1, 4), **PAIRS),
        (4, 13, 0, 2),
        4,
    ),
    # One coefficient in each of 2 windows and no input: the windows are gone through, 2 cycles a position. The sums are
    # zero, so that nothing is multiplied.
    "windows without a match": (
        machine(),
        basis_layer([[[1]] + [[0]] * 3 + [[1]]], np.zeros((1, 5, 1, 4), bool), **PAIRS),
        (0, 8, 0, 2),
        0,
    ),
    # Stride 2 with a border over 4x4: rows serve 1, 2, 1, 1 taps (row 1 those of both outputs), 25 in all.
    "stride": (
        machine(),
        basis_layer(ones(1, 1, 1), ones(1, 1, 4, 4), (3, 3), stride=(2, 2), **BORDER),
        (25, 1, 0, 2),
        25,
    ),
    # One input added a cycle. Block 0 adds up 5, 1, 1 inputs and block 1 1, 1, 5. The third position is broadcast when
    # block 0 has its first sum, at 5: block 1 adds until 10, multiplies until 11. Alone it would have been done at 8.
    "broadcast": (machine(blocks=2, window=16, adders=1, **SINGLE), ternary_layer(*UNEVEN), (3, 5, 3, 3), 6),
    # With one position ahead, the third comes when both have their second sum, at 6.
    "a position ahead": (
        machine(blocks=2, window=16, adders=1, ahead=1, **SINGLE),
        ternary_layer(*UNEVEN),
        (3, 5, 4, 3),
        6,
    ),
    # Both rows wait for the slower: 3 cycles and 3, then one of multiplying.
    "rows in lock step": (machine(window=8, adders=1), basis_layer(*CROSSED, **PAIRS), (2, 5, 0, 1), 4),
    # Row 0 is done at 3 and 4, row 1 at 1 and 4.
    "rows on their own": (
        machine(window=8, adders=1, rows_independent=True),
        basis_layer(*CROSSED, **PAIRS),
        (2, 3, 0, 1),
        4,
    ),
    # Strips of 2, 2 and 1 columns on two slices: the first has 2 and 1. A strip takes a cycle more than it has columns.
    "strips": (machine(slices=2, columns=2, **SINGLE), ternary_layer([[1]], ones(1, 1, 1, 5)), (3, 2, 0, 2), 5),
    # Strips of 3 and 2.
    "even strips": (
        machine(slices=2, even_strips=True, **SINGLE),
        ternary_layer([[1]], ones(1, 1, 1, 5)),
        (3, 1, 0, 3),
        5,
    ),
    # A basis needs one row of two: strips of 2 columns share the slice and run at once.
    "two strips in a slice": (
        machine(columns=2),
        basis_layer(ones(1, 1, 1), ones(1, 1, 1, 4), **PAIRS),
        (2, 1, 0, 1),
        4,
    ),
    # Three bases take both slices of two rows. Columns serve 2, 3 and 2 taps.
    "more bases than rows": (
        machine(slices=2),
        basis_layer(ones(1, 1, 3), ones(1, 1, 1, 3), (1, 3), padding=(0, 0, 1, 1)),
        (7, 1, 0, 3),
        21,
    ),
    # Five outputs on two blocks: a group of 2, one without coefficients, which takes no time, one of 1. Three lines
    # drain.
    "groups": (
        machine(blocks=2, **SINGLE),
        ternary_layer([[1], [0], [0], [0], [1]], ones(1, 1, 1, 3)),
        (6, 2, 0, 9),
        6,
    ),
    # Outputs of a 1x1 layer in both rows of a slice: one group.
    "pointwise": (machine(), ternary_layer([[1], [1]], ones(1, 1, 1, 3)), (3, 1, 0, 3), 6),
    # 5 - 5 is zero, and is not multiplied; 5 - 3 is.
    "sums that cancel": (machine(**SINGLE), ternary_layer([[1, -1]], row([[5, 5], [5, 3]])), (1, 2, 0, 2), 1),
    # Of masks only the meeting is known.
    "masks do not cancel": (machine(**SINGLE), ternary_layer([[1, -1]], row([[5, 5], [5, 3]]) > 0), (2, 1, 0, 2), 2),
    # 127 and 5 have 2, 1, 2, 1, 1, 1, 1 ones in their bits: 9 additions, one a cycle.
    "8 bits": (machine(adders=1, **SINGLE), dense_codes([[127, 5]], ones(1, 2, 1, 1)), (1, 9, 0, 1), 1),
    # 3x3 that is not decomposed: 9 places, 3 windows of them, each of one coefficient.
    "not decomposed": (
        machine(adders=2, **SINGLE),
        ternary_layer([[np.diag([1, 1, 1])]], ones(1, 1, 3, 3)),
        (1, 3, 0, 1),
        1,
    ),
    "nothing": (machine(), basis_layer(np.zeros((3, 2, 2)), ones(1, 2, 3, 3), (3, 3)), (0, 0, 0, 3), 0),
}


@pytest.mark.parametrize("name", HAND)
def test_cycles_by_hand(name):
    small, layer, (regular, additions, broadcast, fill), macs = HAND[name]
    assert small.work(layer).macs == macs
    cycles = small.array_cycles(layer)
    assert cycles["compute"] == math.ceil(macs / small.units)
    assert cycles["compute"] + cycles["imbalance"] == regular
    assert (cycles["additions"], cycles["broadcast"], cycles["fill"]) == (additions, broadcast, fill)


@pytest.mark.parametrize(
    ("size", "even", "busiest", "columns"),
    # 3x3 with a border over n x n: lines serve 2, 3, …, 3 and 2 taps, 3 n - 2 in all, and so do columns. One strip has
    # all of them. 8 columns make four even strips of 2, and 12 make six; the columns of an inner one serve 6 taps.
    [(8, False, 22 * 22, 8), (5, False, 13 * 13, 5), (8, True, 22 * 6, 2), (12, True, 34 * 6, 2)],
)
def test_dense_data_take_the_sum_of_taps(size, even, busiest, columns):
    layer = basis_layer(ones(64, 64, 6), np.ones((1, 64, size, size), bool), (3, 3), **BORDER)
    cycles = replace(machine_named("escalate"), even_strips=even).array_cycles(layer)
    # 64 inputs by 16 a cycle take 4 cycles, as many as the 4 taps of a corner, and fewer than the others: multipliers
    # wait for the first sum only. Two groups of 32 outputs.
    assert cycles["compute"] + cycles["imbalance"] == 2 * busiest
    assert (cycles["additions"], cycles["broadcast"], cycles["fill"]) == (2 * 4, 0, 2 * columns)
    assert cycles["compute"] == math.ceil(64 * 6 * (3 * size - 2) ** 2 / (32 * 36))


@pytest.mark.parametrize(("even", "positions"), [(False, 10), (True, 2)])
def test_dense_1x1_layers_take_what_adding_takes(even, positions):
    # 6 x 32 outputs at once; 256 inputs by 16 a cycle are 16 cycles for each of 10 positions, or of 2 in a strip.
    layer = ternary_layer(ones(384, 256), np.ones((1, 256, 1, 10), bool))
    cycles = replace(machine_named("escalate"), even_strips=even).array_cycles(layer)
    assert sum(cycles.values()) - cycles["fill"] == 2 * (positions * 16 + 1)


def test_maps_of_cifar_leave_no_slice_idle_but_the_narrowest():
    # Maps of 32, 16, 8 and 4 columns on six slices: strips of 6, 3, 2 and 1 columns. 224 columns: seven strips of 32.
    for width, columns in ((32, 6), (16, 3), (8, 2), (4, 1), (224, 32)):
        layer = basis_layer(ones(1, 1, 6), ones(1, 1, 1, width), (3, 3), padding=(1, 1, 1, 1))
        assert machine_named("escalate").mapping(layer, rows_of(layer, 64)).columns == columns


@pytest.mark.parametrize("name", ["escalate", "escalate-conv-first"])
def test_no_coefficient_no_work(name):
    layer = basis_layer(np.zeros((40, 70, 6)), np.ones((1, 70, 9, 9), bool), (3, 3), **BORDER)
    work = machine_named(name).work(layer)
    assert (work.cycles, work.macs, work.gated, work.additions, work.windows) == (0, 0, 0, 0, 0)


@pytest.mark.parametrize(
    ("outputs", "regular", "cycles"),
    # 2 bases of 3x3 at 9 positions are 162 products of a channel, on 2 multipliers. The second channel has no
    # coefficient. The first has 2 for each output, and 2 are added a cycle: a cycle for each output and position.
    [(3, 81, 81), (10, 81, 90)],
)
def test_bases_first_by_hand(outputs, regular, cycles):
    signs = np.zeros((outputs, 2, 2))
    signs[:, 0] = 1
    inputs = np.ones((1, 2, 3, 3))
    inputs[0, 0, 1, 1] = 0  # the middle serves 9 taps of the 49
    layer = basis_layer(signs, inputs, (3, 3), **BORDER)
    work = machine(order="conv_first").work(layer)
    assert (work.regular, work.cycles) == (regular, cycles)
    assert (work.macs, work.gated) == (2 * 40, 162 - 2 * 40)
    assert work.additions == work.updates == outputs * 2 * 9


def test_bases_first_by_groups_of_channels():
    # 3 channels on 2 blocks: 3x1 kernels at 4 positions are 12 products, 6 cycles, each; 1, 8 and 2 coefficients are 2,
    # 16 and 4 cycles of adding.
    signs = np.zeros((8, 3, 1))
    signs[0, 0], signs[:, 1], signs[:2, 2] = 1, 1, -1
    layer = basis_layer(signs, np.ones((1, 3, 4, 1)), (3, 1), padding=(1, 1, 0, 0))
    work = machine(blocks=2, order="conv_first").work(layer)
    assert (work.regular, work.cycles) == (6 + 6, 16 + 6)


def test_bytes_by_hand():
    # One output, 3 bases, 8 channels: basis 0 has 3 coefficients, the others none. A byte says which rows there are, a
    # bitmap of a row is another; 3 signs and 2 bits of a tag. The bases are 3 bytes each, and one scale.
    signs = np.zeros((1, 8, 3))
    signs[0, [0, 3, 7], 0] = 1
    # 8 channels at 40 positions, of which 5 values are not zero. 40 outputs, none known to be zero: 8 bits each.
    inputs = np.zeros((1, 8, 1, 40), bool)
    inputs[0, 2, 0, :5] = True
    layer = basis_layer(signs, inputs, (3, 1), padding=(1, 1, 0, 0))
    trace = machine(rows=3).simulate(layer)
    coefficients = 8 + 8 + 3 + 2 + 3 * 3 * 8 + 32
    assert trace.bytes_by["dram"] * 8 == coefficients + (8 * 40 + 5 * 8) + 40 * 8
    # At 16 bytes a cycle: coefficients and 8 (1 + 8) bits of the first position.
    assert trace.cycles_by["first load"] == math.ceil((coefficients + 72) / 128)


def test_the_first_coefficients_fit_half_of_their_buffer():
    # 1024 coefficients of 8 bits are 1 KB, of which 512 bytes come first, and 1024 inputs of 9 bits.
    layer = dense_codes([[127] * 1024], np.ones((1, 1024, 1, 1), bool))
    assert machine(weight_kb=1).simulate(layer).cycles_by["first load"] == (512 * 8 + 1024 * 9) / 128
    assert machine(weight_kb=2).simulate(layer).cycles_by["first load"] == (1024 * 8 + 1024 * 8) / 128  # all there is


def test_inputs_that_do_not_fit_come_once_for_each_group():
    # 16 channels of 100 positions, all there: 1600 bytes do not fit 1 KB. Five outputs on two blocks are 3 groups.
    layer = ternary_layer(ones(5, 16), np.ones((1, 16, 10, 10), bool))
    weights = 8 * 10 + 80 + 2  # a bitmap and signs
    for fields, passes in (({"input_kb": 1}, 3), ({"input_kb": 2}, 1)):
        trace = machine(blocks=2, rows=1, **fields).simulate(layer)
        assert trace.bytes_by["dram"] * 8 == weights + passes * 8 * 1600 + 8 * 500


def test_energy_by_hand():
    # As "multipliers are the limit", with an input of zero in the middle: its sums are zero.
    inputs = ones(1, 1, 3, 3)
    inputs[0, 0, 1, 1] = 0
    layer = basis_layer(ones(1, 1, 2), inputs, (3, 3), **BORDER)
    trace = machine().simulate(layer)
    energy, updates = trace.energy_by, 40
    assert trace.additions == 2 * 8
    assert energy["adders"] == pytest.approx(16 * 0.05 * 20 / 16)  # 0.05 pJ at 16 bits, twice as much at 32
    assert energy["joins"] == pytest.approx(18 * 1.3)
    product = 0.2 * (3.1 / 0.2) ** (math.log(2) / math.log(16))  # 8 x 16 bits, between 8 x 8 and 32 x 32
    assert energy["multipliers"] == pytest.approx(2 * updates * (product + 0.1))
    row = 2.23 + 2.64  # pJ to read and write 32 bits of 2 KB; 64 bits take 0.3 + 0.7 2 of it
    assert energy["partial sums"] == pytest.approx(updates / 2 * row * 1.7 * (512 / 2048) ** 0.48)


def test_products_of_zero_beside_others_are_switched_off():
    # Basis 1 reads nothing: its multiplier has a cycle for each of 49 taps, but no product.
    signs = np.array([[[1, 0]]])
    layer = basis_layer(signs, ones(1, 1, 3, 3), (3, 3), **BORDER)
    trace = machine().simulate(layer)
    assert (trace.macs, trace.gated_macs) == (49, 49)
    assert trace.utilisation == 98 / (2 * trace.cycles)


def test_partial_sums_bound_the_strips():
    # 5 lines and one more, of 32 bits: 512 bytes hold 21 columns; with stride 2, 42 of the input, 32 of which make a
    # strip.
    wide = basis_layer(ones(1, 1, 2), ones(1, 1, 5, 64), (5, 5), padding=(2,) * 4)
    assert machine().mapping(wide, rows_of(wide, 4)).columns == 21
    by_two = replace(wide, stride=(2, 2))
    assert machine().mapping(by_two, rows_of(by_two, 4)).columns == 32
    high = basis_layer(ones(1, 1, 2), ones(1, 1, 16, 1), (16, 1))
    with pytest.raises(MachineError, match="kernels of 16 rows; the partial sums of 17 lines do not fit the 64 bytes"):
        machine(sums_bytes=64).simulate(high)


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"blocks": 0}, "machine 'escalate': blocks is 0; it must be a whole number of at least 1"),
        ({"slices": 0}, "slices is 0"),
        ({"rows": 0}, "rows is 0"),
        ({"window": 0}, "window is 0"),
        ({"adders": 0}, "adders is 0"),
        ({"queue": 0}, "queue is 0"),
        ({"ahead": 0}, "ahead is 0"),
        ({"look_ahead": 1}, "look_ahead is 1; it must be True or False"),
        ({"order": "both"}, "order is 'both'; it must be one of conv_first, coef_first"),
        ({"window_picojoules": -1.0}, r"window_picojoules is -1.0; it must be a finite number above 0"),
    ],
)
def test_bad_descriptions_are_refused(fields, complaint):
    with pytest.raises(MachineError, match=complaint):
        replace(machine_named("escalate"), **fields)


@pytest.mark.parametrize("values", [F32, INT8], ids=lambda values: values.name)
def test_ternary_coefficients_of_two_scales_are_numbers_of_8_bits(values):
    """127 for the larger scale, and what the smaller one is beside it."""
    spec = KernelBasisSpec(bases=1, coefficients="ternary", asymmetric=True, values=values)
    given = np.array([[[2.0], [-1.0], [0.0]]])
    packed = PackedKernelBasis.from_factors(np.ones((1, 2, 2)), given, spec)
    rows = rows_of(Workload("layer", packed, np.ones((1, 3, 4, 4), bool)), 64)
    assert (rows.bits, rows.codes.ravel().tolist()) == (7, [127, -64, 0])
    assert rows.bases.ravel().tolist() == [127] * 4


def test_layers_that_do_not_fit_are_refused():
    many = basis_layer(ones(1, 1, 9), ones(1, 1, 3, 3), (3, 3))
    assert machine(slices=5).simulate(many).macs
    with pytest.raises(MachineError, match="layer 'layer' has 9 bases; machine 'small' has 8 rows in a block"):
        machine(slices=4).simulate(many)
    with pytest.raises(MachineError, match="machine 'escalate' is modelled without dilation"):
        machine_named("escalate").simulate(dense_layer(1, 1, (2, 2), (5, 5), dilation=(2, 2)))
