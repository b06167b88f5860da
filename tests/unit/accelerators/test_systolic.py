"""The systolic array: frozen numbers of SCALE-Sim, layers worked out by hand, and what holds for every layer."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from accelerator_cases import dense_layer, layers, masked_layer
from dovetail.accelerators.energy import ACCELERGY45
from dovetail.accelerators.machine import machine_named
from dovetail.accelerators.systolic import DATAFLOWS, Systolic
from dovetail.accelerators.trace import total
from dovetail.accelerators.workload import Workload
from dovetail.errors import MachineError


def grid(rows: int, columns: int, dataflow: str = "weight", **fields: object) -> Systolic:
    given_fields = {"weight_kb": 64, "input_kb": 64, "output_kb": 64, "dram_bytes_per_cycle": 16, **fields}
    return Systolic(
        name="grid", clock_hz=8e8, node_nm=45, rows=rows, columns=columns, dataflow=dataflow, **given_fields
    )


def matrix(m: int, n: int, k: int) -> Workload:
    """M x K times K x N."""
    return dense_layer(n, k, (1, 1), (1, 1), images=m)


# SCALE-Sim 3.0.0 reports one cycle less.
@pytest.mark.parametrize(("dataflow", "cycles"), [("weight", 4671), ("output", 4423), ("input", 6159)])
def test_frozen_cycles_of_scale_sim(dataflow, cycles):
    machine = grid(16, 16, dataflow)
    assert sum(machine.grid_cycles(matrix(100, 64, 128)).values()) == cycles + 1


def test_frozen_utilisation_of_scale_sim():
    machine = grid(16, 16, "output")
    cycles = sum(machine.grid_cycles(matrix(100, 64, 128)).values())
    assert 100 * 64 * 128 / (256 * cycles) == pytest.approx(0.723, abs=5e-4)


def test_a_1x1_layer_fills_a_sixteenth_of_a_large_grid():
    machine, layer = grid(256, 256), dense_layer(64, 64, (1, 1), (8, 8))
    cycles = machine.grid_cycles(layer)
    assert layer.dense_macs / (machine.units * (cycles["compute"] + cycles["imbalance"])) == 64 * 64 / (256 * 256)


# Every layer below on a grid of 4 rows and 3 columns. Causes: compute = ceil(MACs / 12), imbalance = folds T - compute.
HAND = {
    # 4 positions, depth 4, 3 outputs. One fold of T = 4; fill 2 4 + 3 - 2 = 9. 48 MACs are 4 cycles.
    "one fold": (dense_layer(3, 4, (1, 1), (2, 2)), "weight", {"compute": 4, "imbalance": 0, "fill": 9}),
    # 9 positions, depth 5 2 2 = 20 in 5 row folds, 7 outputs in 3 column folds: 15 folds of T = 9, fill 9 each.
    # 1260 MACs are 105 cycles of the 135.
    "folds": (dense_layer(7, 5, (2, 2), (4, 4)), "weight", {"compute": 105, "imbalance": 30, "fill": 135}),
    # The same with stationary inputs: depth 20 in 5 row folds, 9 positions in 3 column folds, T = 7 outputs.
    "inputs stay": (dense_layer(7, 5, (2, 2), (4, 4)), "input", {"compute": 105, "imbalance": 0, "fill": 135}),
    # With stationary outputs: 9 positions in 3 row folds, 7 outputs in 3 column folds, T = 20, fill 4 + 3 - 2 = 5.
    "outputs stay": (dense_layer(7, 5, (2, 2), (4, 4)), "output", {"compute": 105, "imbalance": 75, "fill": 45}),
    # Two groups: each 4 positions, depth 9, 2 outputs: 3 row folds of T = 4. 6 folds in all; 144 MACs are 12 cycles.
    "groups": (
        dense_layer(4, 1, (3, 3), (4, 4), groups=2),
        "weight",
        {"compute": 12, "imbalance": 6 * 4 - 12, "fill": 6 * 9},
    ),
    # Stride 2 and a border of 1: 2 images of 3 x 2 positions from 6 x 4, depth 9 in 3 row folds, 1 output, T = 12.
    "stride": (
        dense_layer(1, 1, (3, 3), (6, 4), stride=(2, 2), padding=(1, 1, 1, 1), images=2),
        "weight",
        {"compute": 9, "imbalance": 36 - 9, "fill": 27},
    ),
    # A linear layer of one row: T = 1. Depth 10 in 3 row folds, 6 outputs in 2 column folds. 60 MACs are 5 cycles.
    "linear": (dense_layer(6, 10, (1, 1), (1, 1)), "weight", {"compute": 5, "imbalance": 1, "fill": 54}),
}


@pytest.mark.parametrize("case", HAND)
def test_cycles_by_hand(case):
    layer, dataflow, causes = HAND[case]
    assert grid(4, 3, dataflow).grid_cycles(layer) == {"stalls": 0, **causes}


def test_a_double_buffered_grid_by_hand():
    # 15 folds of T = 9 as above, longer than 4 rows: the fill of 9 shows once.
    machine = grid(4, 3, double_buffered=True)
    assert sum(machine.grid_cycles(HAND["folds"][0]).values()) == 15 * 9 + 9
    # 6 folds of T = 1 take the 4 cycles that loading the next takes, and the fill once.
    cycles = machine.grid_cycles(HAND["linear"][0])
    assert cycles == {"compute": 5, "imbalance": 1, "stalls": 6 * 3, "fill": 9}


def test_packing_by_hand():
    # Depth 4 in 16 rows: 4 windows at once, so 9 positions take 3 steps; fill 2 16 + 3 - 2 = 33.
    cycles = grid(16, 3, packing=True).grid_cycles(dense_layer(3, 1, (2, 2), (4, 4)))
    assert cycles == {"compute": math.ceil(108 / 48), "imbalance": 0, "stalls": 0, "fill": 33}


def test_memory_by_hand():
    # Weights 7 5 4 = 140 bytes, inputs 5 16 = 80, outputs 7 9 = 63: 283 bytes at 1 a cycle, against 270 cycles of the
    # grid. The first tile is 4 x 3 weights.
    trace = grid(4, 3, dram_bytes_per_cycle=1).simulate(HAND["folds"][0])
    assert trace.bytes_by["dram"] == 283
    assert (trace.cycles_by["memory"], trace.cycles_by["first load"]) == (283 - 270, 12)
    assert trace.cycles == 283 + 12
    # With the input on the chip and the output left there, only the weights move.
    alone = replace(HAND["folds"][0], input_on_chip=True, output_on_chip=True)
    assert grid(4, 3).simulate(alone).bytes_by["dram"] == 140


def test_weights_too_large_for_their_buffer_are_read_again():
    # 64 x 64 weights are 4 KB and 2048 inputs 128 KB; buffers of 1 KB. Weights in 4 parts: 4 + 4 128 = 516 KB.
    # Inputs in 128 parts: 128 + 128 4 = 640 KB. Outputs 128 KB.
    layer = dense_layer(64, 64, (1, 1), (1, 1), images=2048)
    trace = grid(4, 3, weight_kb=1, input_kb=1).simulate(layer)
    assert trace.bytes_by["dram"] == (516 + 128) * 1024


def test_energy_by_hand():
    # One fold, 16 inputs of which 6 are zero: each meets 3 outputs.
    inputs = np.ones((1, 4, 2, 2))
    inputs[0, 0] = inputs[0, 1, 0] = 0
    layer = masked_layer(np.ones((3, 4, 1, 1)), inputs)
    trace = grid(4, 3).simulate(layer)
    assert (trace.macs, trace.gated_macs) == (30, 18)
    access = {name: 25.9 if name == "read" else 19.6 for name in ("read", "write")}  # 64 KB x 64 bits at 45 nm
    # Bits: 12 weights and 16 inputs written and read once, 12 sums of 32 bits written, 12 outputs of 8 bits read.
    sram = access["read"] * (8 * (12 + 16) + 8 * 12) / 64 + access["write"] * (8 * (12 + 16) + 32 * 12) / 64
    want = {
        "multipliers": 30 * 0.3 + 18 * 0.3 * 0.03,
        "registers": 48 * 2 * (8 + 32) * 0.009,
        "sram": sram,
        "dram": 8 * (12 + 16 + 12) * 8,
    }
    assert trace.energy_by == pytest.approx(want)
    ungated = grid(4, 3, gating=False).simulate(layer)
    assert (ungated.macs, ungated.gated_macs, ungated.cycles) == (48, 0, trace.cycles)


grids = st.builds(
    grid,
    st.integers(1, 9),
    st.integers(1, 9),
    st.sampled_from(DATAFLOWS),
    dram_bytes_per_cycle=st.sampled_from([0.5, 3, 16]),
    double_buffered=st.booleans(),
    packing=st.booleans(),
    weight_kb=st.just(1),
    input_kb=st.just(1),
)


@given(machine=grids, layer=layers())
def test_what_holds_for_every_layer(machine, layer):
    trace = machine.simulate(layer)
    assert trace.macs + trace.gated_macs == layer.dense_macs
    assert trace.cycles * machine.units >= layer.dense_macs
    assert 0 < trace.utilisation <= 1
    compulsory = math.prod(layer.weight.shape) + layer.input.size + math.prod(layer.out_shape)
    assert trace.bytes_by["dram"] >= compulsory
    assert trace.cycles >= trace.bytes_by["dram"] / machine.dram_bytes_per_cycle
    assert trace.joules > 0
    faster = replace(machine, dram_bytes_per_cycle=2 * machine.dram_bytes_per_cycle)
    assert faster.simulate(layer).cycles <= trace.cycles
    other = replace(machine, costs=ACCELERGY45).simulate(layer)
    assert (other.cycles_by, other.bytes_by) == (trace.cycles_by, trace.bytes_by)
    assert total([trace, trace]).cycles == 2 * trace.cycles


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"rows": 0}, "machine 'grid': rows is 0; it must be a whole number of at least 1"),
        ({"columns": -3}, "columns is -3"),
        ({"dataflow": "ws"}, "dataflow is 'ws'; it must be one of weight, input, output"),
        ({"bits": 0}, "bits is 0"),
        ({"input_kb": 0}, "input_kb is 0"),
        ({"dram_bytes_per_cycle": math.nan}, "dram_bytes_per_cycle is nan"),
        ({"double_buffered": None}, "double_buffered is None; it must be True or False"),
    ],
)
def test_bad_descriptions_are_refused(fields, complaint):
    with pytest.raises(MachineError, match=complaint):
        replace(grid(4, 3), **fields)


def test_presets():
    assert machine_named("systolic").units == 1024
    tpu = machine_named("tpu-v1")
    assert 2 * tpu.units * tpu.clock_hz == pytest.approx(92e12, rel=0.01)  # published: 92 TOPS
