"""Counts by hand: shared weights once in storage and every time in work, norms and biases included."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from program_nets import every_format
from torch import nn

from dovetail.errors import ProgramError
from dovetail.formats import TuckerSpec
from dovetail.formats.kernel_basis import KernelBasisSpec
from dovetail.formats.layer import from_dense, swap
from dovetail.formats.values import INT8
from dovetail.program.counts import PaperCounts, count, paper_counts
from dovetail.program.lower import lower
from programs import Sketch, random_packed


def test_a_network_by_hand():
    layers = [nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 1)]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
    counts = count(lower(model, torch.randn(1, 4, 9, 7)))
    grouped, pointwise, classifier = 6 * 2 * 9, 8 * 6, 10 * 8
    pixels = 5 * 4
    assert [row.macs for row in counts.rows] == [grouped * pixels, pointwise * pixels, classifier]
    assert [row.name for row in counts.rows] == ["0", "3", "6"]
    norm, biases = 2 * 6, 8 + 10  # the first convolution's bias is absorbed by the norm
    assert counts.params == counts.dense_params == counts.nonzeros == grouped + pointwise + classifier + norm + biases
    assert counts.bits == counts.dense_bits() == 32 * counts.params
    assert counts.dense_bits(8) == 8 * (grouped + pointwise + classifier) + 32 * (norm + biases)
    assert counts.additions == 0


def test_tucker_counts_its_three_stages_beside_the_dense_ones():
    model = nn.Sequential(nn.Conv2d(4, 6, 3, stride=2, bias=False))
    swap(model, "0", from_dense(model[0], TuckerSpec(rank_in=2, rank_out=3)))
    counts = count(lower(model, torch.randn(1, 4, 9, 7)))
    assert counts.rows[0].format == "tucker"
    assert counts.params == 4 * 2 + 9 * 2 * 3 + 3 * 6
    assert counts.macs == 4 * 2 * 9 * 7 + (9 * 2 * 3 + 3 * 6) * 4 * 3
    assert counts.dense_params == 6 * 4 * 9
    assert counts.dense_macs == 6 * 4 * 9 * 4 * 3


def test_a_shared_weight_is_stored_once_and_works_twice():
    conv = nn.Conv2d(4, 4, 3, padding=1)
    counts = count(lower(nn.Sequential(conv, nn.ReLU(), conv), torch.randn(1, 4, 5, 5)))
    assert counts.params == 4 * 4 * 9 + 4
    assert counts.macs == 2 * 4 * 4 * 9 * 25


def test_linear_on_rows_and_matmul():
    class Rows(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(7, 5, bias=False)

        def forward(self, x):
            y = self.linear(x)
            return y @ y.transpose(1, 2)

    counts = count(lower(Rows(), torch.randn(2, 3, 7)))
    assert [(row.op, row.macs) for row in counts.rows] == [("linear", 3 * 7 * 5), ("matmul", 3 * 3 * 5)]
    assert counts.params == 35


def test_bits_are_the_payload_of_the_file(tmp_path):
    from safetensors.numpy import load_file

    program = every_format()
    program.save(tmp_path / "net.dovetail")
    assert count(program).bits == 8 * sum(array.nbytes for array in load_file(tmp_path / "net.dovetail").values())


def test_positions_are_what_is_not_numbers_and_scales():
    sketch = Sketch(0)
    x = sketch.input("batch", 8)
    sparse = random_packed("sparse", (8, 8), sketch.random, density=0.5)
    searched = random_packed("permuted_diagonal", (8, 8), sketch.random, size=4, index="searched")
    circulant = random_packed("block_circulant", (8, 8), sketch.random, size=4)
    y = x
    for packed in (sparse, searched, circulant, sparse):
        y = sketch.add("linear", y, packed=packed)
    assert count(sketch.program(y)).position_bits == 2 * 64 + 8 * -(-4 * 2 // 8)  # a bitmap each; four shifts of 2 bits


def test_positions_and_numbers_make_the_weights():
    for packed in every_format().weights.values():
        assert 0 <= packed.position_bits() < packed.bits()
        assert (packed.position_bits() > 0) == any(
            name.endswith((".bitmap", ".gaps", ".groups", ".runs", ".index")) for name in packed.arrays
        )


def test_gains_of_circulant_layers_are_no_positions():
    packed = random_packed("block_circulant", (8, 8), np.random.default_rng(0), size=4)
    gained = packed.cast(INT8, np.linspace(1, 2, 8, dtype=np.float32))
    assert "weight.gain" in gained.arrays
    assert gained.bits() > packed.cast(INT8).bits()
    assert gained.position_bits() == 0


def test_unknown_graph():
    with pytest.raises(ProgramError, match="no graph 'early'"):
        count(every_format(), "early")


def test_time_and_constants_count_once():
    sketch = Sketch(0)
    x = sketch.input("batch", "time", 4)
    packed = random_packed("dense", (3, 4), sketch.random)
    program = sketch.program(
        sketch.add("linear", x, packed=packed), sketch.add("linear", sketch.array(5, 4), packed=packed)
    )
    assert [row.macs for row in count(program).rows] == [3 * 4, 5 * 3 * 4]


def test_the_counts_of_the_paper_by_hand():
    """A 3x3 kernel basis (stride 2), a 1x1 convolution, a dense 3x3, a classifier; two zeros in each of the first two.

    Input 4x9x7; the basis answers 6x5x4, the 1x1 convolution 8x5x4, the dense one 5x3x2.
    """
    layers = [nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 1)]
    model = nn.Sequential(*layers, nn.Conv2d(8, 5, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 10)).eval()
    swap(model, "0", from_dense(model[0], KernelBasisSpec(bases=2, coefficients="sparse")))
    with torch.no_grad():
        mask = torch.ones_like(model[0].coefficients, dtype=torch.bool)
        mask.view(-1)[[3, 11]] = False
        model[0].prune(mask)
        model[3].weight.view(-1)[[0, 7]] = 0.0
    coefficients, pointwise, dense, classifier = 6 * 4 * 2 - 2, 8 * 6 - 2, 5 * 8 * 9, 10 * 5
    flops = 5 * 4 * (4 * 2 * 9 + coefficients) + 6 * 5 * pointwise + dense * 3 * 2 + 10 * (2 * 5 - 1)
    program = lower(model, torch.randn(1, 4, 9, 7))
    assert paper_counts(program) == PaperCounts(coefficients + pointwise + dense + classifier, flops)
    with pytest.raises(ProgramError, match="no graph 'other'"):
        paper_counts(program, "other")


def test_the_paper_counts_a_sparse_pointwise_basis_as_a_1x1_convolution():
    model = nn.Sequential(nn.Conv2d(3, 4, 1, stride=2, bias=False))
    swap(model, "0", from_dense(model[0], KernelBasisSpec(bases=1, coefficients="sparse")))
    assert paper_counts(lower(model, torch.randn(1, 3, 6, 8))) == PaperCounts(12, 3 * 6 * 12)


def test_the_paper_counts_a_shared_weight_once_in_params():
    conv = nn.Conv2d(4, 4, 3, padding=1, bias=False)
    assert paper_counts(lower(nn.Sequential(conv, nn.ReLU(), conv), torch.randn(1, 4, 5, 5))) == PaperCounts(
        4 * 4 * 9, 2 * 4 * 4 * 9 * 25
    )
