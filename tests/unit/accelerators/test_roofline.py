"""The roofline by hand: the longer of computing and moving."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from accelerator_cases import dense_layer, masked_layer
from dovetail.accelerators import machine_named
from dovetail.formats import (
    BlockSparseSpec,
    KernelBasisSpec,
    PackedBlockSparse,
    PackedKernelBasis,
    PackedTucker,
    TuckerSpec,
)
from dovetail.formats.values import INT8

MACHINE = replace(machine_named("roofline"), multipliers=10, dram_bytes_per_cycle=16)
WEIGHT = np.random.default_rng(0).standard_normal((8, 4, 3, 3)).astype(np.float32)
PLACES = 36
LAYER = dense_layer(8, 4, (3, 3), (6, 6), padding=(1, 1, 1, 1))


def whole(packed):
    return replace(LAYER, weight=packed.cast(INT8))


def test_a_dense_layer_computes():
    trace = MACHINE.simulate(LAYER)
    assert trace.macs == 8 * 4 * 9 * PLACES
    assert trace.cycles_by == {"compute": 1037, "memory": 0, "first load": 0}  # 10368 by tens


def test_a_dense_layer_moves():
    """32 bits a weight, and one for its place; 8 bits a value: 1188 + 4 * 36 + 8 * 36 bytes by sixteens."""
    trace = replace(MACHINE, multipliers=1000).simulate(LAYER)
    assert trace.bytes_by == {"dram": 1620}
    assert trace.cycles_by == {"compute": 11, "memory": 102 - 11, "first load": 0}
    kept = replace(LAYER, input_on_chip=True, output_on_chip=True)
    assert replace(MACHINE, multipliers=1000).simulate(kept).bytes_by == {"dram": 1188}


def test_half_of_the_blocks_take_half_of_the_work():
    packed = PackedBlockSparse.from_dense(WEIGHT, BlockSparseSpec(block=4, density=0.5))
    trace = MACHINE.simulate(whole(packed))
    assert trace.macs == packed.nonzeros() * PLACES == 36 * 4 * PLACES
    assert trace.cycles == 519


def test_tucker_takes_its_three_products():
    packed = PackedTucker.from_dense(WEIGHT, TuckerSpec(rank_in=2, rank_out=3))
    trace = MACHINE.simulate(replace(LAYER, weight=packed))
    assert trace.macs == (4 * 2 + 9 * 2 * 3 + 3 * 8) * PLACES
    assert trace.cycles == 310


def test_a_kernel_basis_takes_the_cheaper_order():
    """A basis of 9 taps over each of 4 channels, then 8 of 32 coefficients; multiplied out, 8 kernels of 9 taps."""
    packed = PackedKernelBasis.from_dense(WEIGHT, KernelBasisSpec(bases=1, coefficients="ternary", density=0.25))
    trace = MACHINE.simulate(whole(packed))
    assert packed.nonzeros() - 9 == 8
    assert (trace.macs, trace.additions) == (4 * 9 * PLACES, 8 * PLACES)
    assert trace.cycles == 159  # 1584 by tens: an addition takes a turn of a multiplier


def test_zeros_of_the_input_are_multiplied():
    nothing = masked_layer(np.ones((3, 2, 3, 3)), np.zeros((1, 2, 5, 5)))
    assert MACHINE.simulate(nothing).macs == 3 * 2 * 9 * 9


def test_images_add_up():
    one, three = (MACHINE.simulate(dense_layer(8, 4, (3, 3), (6, 6), images=n)) for n in (1, 3))
    assert three.macs == 3 * one.macs
    assert three.bytes_by["dram"] - 1188 == 3 * (one.bytes_by["dram"] - 1188)
