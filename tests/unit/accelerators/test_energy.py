"""Costs: every row of the published tables at its node, the rules between rows, and what is refused."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dovetail.accelerators import sram
from dovetail.accelerators.energy import (
    ACCELERGY45,
    COSTS,
    DRAM,
    ISSCC45,
    Cost,
    costs_named,
    energy_factor,
)
from dovetail.errors import MachineError


@pytest.mark.parametrize(
    ("bits", "picojoules"), [(8, 0.03), (16, 0.05), (32, 0.1), (20, 0.0625), (4, 0.015), (64, 0.2)]
)
def test_isscc_adders(bits, picojoules):
    assert ISSCC45.add(bits).picojoules == pytest.approx(picojoules, rel=1e-12)


@pytest.mark.parametrize(
    ("bits", "other", "picojoules"),
    # 0.2 (b1 b2)/64 up to 8x8; from there a power law to 3.1 at 32x32: 0.2 * 15.5 ** (log4(n/64) / 2)
    [
        (8, 8, 0.2),
        (32, 32, 3.1),
        (4, 8, 0.1),
        (2, 2, 0.0125),
        (16, 16, 0.2 * math.sqrt(15.5)),
        (8, 16, 0.2 * 15.5**0.25),
    ],
)
def test_isscc_multipliers(bits, other, picojoules):
    assert ISSCC45.multiply(bits, other).picojoules == pytest.approx(picojoules, rel=1e-12)


def test_multiply_accumulates_by_hand():
    assert ISSCC45.mac(8, 8, 32).picojoules == pytest.approx(0.2 + 0.1)
    assert ISSCC45.gated_mac(8, 8, 32).picojoules == pytest.approx(0.03 * 0.3)
    assert ACCELERGY45.mac(16, 16, 16).picojoules == pytest.approx(8.63 / 4 + 0.0857 / 2)  # published: 2.200
    assert ACCELERGY45.gated_mac(16, 16, 16).picojoules == pytest.approx(0.066, rel=0.01)  # published


@pytest.mark.parametrize(("depth", "bits", "published"), [(24, 16, 0.25281), (12, 17, 0.19652)])
def test_register_files_of_the_published_table(depth, bits, published):
    by_hand = 0.009 * bits + 0.029 * {24: 5, 12: 4}[depth] / 32 * depth
    assert ISSCC45.registers(depth, bits).picojoules == pytest.approx(by_hand)
    assert by_hand == pytest.approx(published, rel=5e-4)
    assert ISSCC45.registers(1, 8).picojoules == pytest.approx(8 * 0.009)


ENERGY = {65: 1.241, 45: 1, 40: 0.869, 32: 0.659, 28: 0.513, 22: 0.294, 16: 0.174, 14: 0.139, 7: 0.094}


@pytest.mark.parametrize("node", ENERGY)
def test_nodes(node):
    assert energy_factor(node) == ENERGY[node]
    assert ISSCC45.add(8, node).picojoules == pytest.approx(0.03 * ENERGY[node])


SRAM = """
2 32    0.53/0.57 1.21/1.40 2.23/2.64 2.96/5.85
8 64    1.59/1.77 3.44/4.27 6.14/7.88 11.1/14.7
32 64   3.79/3.10 8.26/7.46 17.0/15.4 30.1/28.7
64 64   5.67/4.43 12.9/10.8 25.9/19.6 47.0/37.3
128 128 11.8/10.5 26.4/24.8 50.3/47.0 91.2/88.3
256 128 17.8/15.3 42.5/34.4 76.1/63.7 141/122
512 256 41.8/39.1 94.3/88.3 168/161 312/307
"""


@pytest.mark.parametrize("line", SRAM.strip().splitlines())
def test_sram_rows_are_exact_at_their_nodes(line):
    kilobytes, bits, *energies = line.split()
    for node, energy in zip((22, 32, 45, 65), energies, strict=True):
        read, write = map(float, energy.split("/"))
        size = int(kilobytes) * 1024
        assert ISSCC45.sram(size, int(bits), node).picojoules == read
        assert ISSCC45.sram(size, int(bits), node, "write").picojoules == write


def test_sram_between_rows_by_hand():
    # 28 nm lies 0.6 of the way from 22 to 32.
    assert sram.access(64 * 1024, 64, 28) == pytest.approx(0.4 * 5.67 + 0.6 * 12.9)
    assert sram.access(64 * 1024, 64, 28) == pytest.approx(10.0, rel=0.02)
    # 16 KB is half way between 8 and 32 KB on a log scale; both rows are 64 bits wide.
    assert sram.access(16 * 1024, 64, 45) == pytest.approx(math.sqrt(6.14 * 17.0))
    # 8 bits of a 64-bit row cost 0.3 + 0.7/8.
    assert sram.access(8 * 1024, 8, 45) == pytest.approx(6.14 * 0.3875)
    # 11 nm: half of 22.
    assert sram.access(2048, 32, 11) == pytest.approx(0.53 * math.sqrt(0.5))
    # 1 MB: an access to a bank of 512 KB, and its bits over the side of two banks at 0.1 pJ/bit/mm.
    assert sram.access(1 << 20, 256, 45) == pytest.approx(168 + 0.1 * 256 * math.sqrt(2 * 1.80))
    # 512 bytes: a quarter of 2 KB.
    assert sram.access(512, 32, 45) == pytest.approx(2.23 * 0.25**0.48)
    # Eyeriss's filter memory, 224 words of 16 bits: published 0.710.
    assert sram.access(448, 16, 45) == pytest.approx(0.710, rel=0.02)


@given(
    small=st.integers(64, 1 << 21),
    more=st.integers(1, 1 << 20),
    bits=st.integers(1, 512),
    node=st.floats(7, 65),
    action=st.sampled_from(["read", "write"]),
)
def test_larger_memories_and_older_nodes_cost_more(small, more, bits, node, action):
    here = sram.access(small, bits, node, action)
    assert 0 < here <= sram.access(small + more, bits, node, action) * (1 + 1e-12)
    assert here <= sram.access(small, bits, min(65, node + 1), action) * (1 + 1e-12)
    assert here < sram.access(small, min(512, bits + 1), node, action) or bits == 512


def test_dram():
    assert {kind: memory.picojoules for kind, memory in DRAM.items()} == {
        "ddr3": 70,
        "ddr4": 15,
        "lpddr4": 8,
        "hbm2": 6.25,
        "hbm3": 4.05,
    }
    with pytest.raises(MachineError, match="unknown DRAM 'ddr9'; known are ddr3, ddr4"):
        ISSCC45.dram("ddr9")


def test_factors_of_a_study_multiply():
    doubled = replace(ISSCC45, sram_factor=2.0, dram_factor=0.5)
    assert doubled.sram(8192, 64).picojoules == 2 * 6.14
    assert doubled.dram("hbm2").picojoules == 3.125
    assert doubled.add(8) == ISSCC45.add(8)


def test_every_number_names_its_source():
    for costs in COSTS.values():
        for cost in (
            costs.add(8),
            costs.multiply(8, 8),
            costs.mac(8, 8, 32),
            costs.gated_mac(8, 8, 32),
            costs.registers(4, 8),
            costs.sram(8192, 64),
            costs.dram("ddr3"),
            costs.hop(16),
        ):
            assert cost.source
            assert cost.picojoules > 0
        assert json.loads(json.dumps(costs.to_json()))["name"] == costs.name
    assert (Cost(1, "a") + Cost(2, "b")) == Cost(3, "a; b")
    assert ISSCC45.hop(16).picojoules == pytest.approx(2.6)


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: costs_named("isscc"), "unknown cost set 'isscc'; known are isscc45, accelergy45"),
        (lambda: ISSCC45.add(0), "arithmetic of 0 bits has no cost"),
        (lambda: ISSCC45.multiply(8, 65), "arithmetic of 65 bits has no cost"),
        (lambda: ISSCC45.registers(0, 8), "a register file of 0 words"),
        (lambda: ISSCC45.sram(32, 8), "an SRAM of 32 bytes is no memory of the table"),
        (lambda: ISSCC45.sram(8192, 513), "1 to 512 bits wide, not 513"),
        (lambda: ISSCC45.sram(8192, 64, 90), "no SRAM is known at 90 nm"),
        (lambda: ISSCC45.add(8, 5), "no factor is known for 5 nm"),
        (lambda: replace(ISSCC45, gated=1.5), "cost set 'isscc45': gated is 1.5; it must be a number from 0 to 1"),
        (lambda: replace(ISSCC45, sram_factor=math.nan), "sram_factor is nan; it must be a finite number above 0"),
    ],
)
def test_what_has_no_cost_is_refused(make, complaint):
    with pytest.raises(MachineError, match=complaint):
        make()
