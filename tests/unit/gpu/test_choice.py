"""Tiles of the kernels: what the model says, by hand; what may be chosen; and how tiles are written."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dovetail.errors import GpuError
from dovetail.gpu import cards
from dovetail.gpu.cards import GPUS
from dovetail.gpu.tiles import CORE_SHAPES
from dovetail.gpu.tucker import choice
from dovetail.gpu.tucker.choice import Problem, Tiles, TuckerTiles

A100 = GPUS["A100"]
SMALL = Problem(1, 128, 96, 14, 14)


def problems(batch: int = 1, **fields: str) -> list[Problem]:
    return [Problem(batch, each.inputs, each.outputs, each.height, each.width, **fields) for each in CORE_SHAPES]


def test_sizes_of_a_problem():
    problem = Problem(2, 3, 4, 9, 8, kernel=(3, 5), stride=(2, 1), padding=(1, 0), dilation=(1, 2))
    assert problem.out == (5, 0)
    assert replace(problem, padding=(1, 2)).out == (5, 4)
    assert replace(problem, padding=(1, 2)).pixels == 40
    assert problem.taps == 15
    before, after = (SMALL.pointwise(256, 128, after=last) for last in (False, True))
    assert (before.width, after.width, before.taps) == (196, 196, 1)


def test_cycles_where_latency_counts():
    """14x14 in tiles of 4x4: 16 of them, times 3 of outputs: 48 blocks on 108 SMs, one wave, 9 x 2 steps of 350."""
    tiles = Tiles(4, 4, 32, 64, 1, 2, 3)
    assert choice.cycles(SMALL, tiles, A100) == 18 * 700 / 2 + 2 * 700


def test_cycles_where_bytes_count():
    """16 images of 56x56 in tiles of 16x8: 56 x 7 blocks, 2 of them resident, and 160 x 64 numbers a step for each."""
    problem, tiles = Problem(16, 64, 32, 56, 56), Tiles(16, 8, 32, 64, 1, 4, 3)
    assert choice.resident(tiles, "float16", A100) == 2
    blocks = 56 * 16 // 16 * 7
    waves = -(-blocks // (108 * 2))
    step = 2 * (128 + 32) * 64 * 2 / 48
    assert step > 350
    assert choice.cycles(problem, tiles, A100) == pytest.approx(waves * (9 * step + 1400))


def test_cycles_where_multiply_adds_count():
    """In full float32 an A100's SM has 64 multiply-adds a cycle."""
    problem, tiles = Problem(16, 64, 64, 56, 56, dtype="float32"), Tiles(8, 8, 64, 16, 1, 8, 3)
    sharing = choice.resident(tiles, "float32", A100)
    waves = -(-(56 * 16 // 8 * 7) // (108 * sharing))
    step = sharing * 64 * 64 * 16 / 64
    assert choice.cycles(problem, tiles, A100) == pytest.approx(waves * (36 * step + 1400))
    tf32 = choice.cycles(replace(problem, precision="tf32"), tiles, A100)
    assert tf32 < choice.cycles(replace(problem, precision="tf32x3"), tiles, A100)
    assert tf32 < choice.cycles(problem, tiles, A100)


def test_splits_whose_sums_32_bits_cannot_number_are_no_candidates():
    """400 images of 112 x 112 and 128 channels: three splits would have 2^31 sums, nearly."""
    problem = Problem(400, 64, 128, 112, 112)
    assert {tiles.splits for tiles in choice.candidates(problem, A100)} == {1, 2}
    assert {tiles.splits for tiles in choice.candidates(replace(problem, batch=2000), A100)} == {1}


def test_splits_cost_their_sums():
    tiles = Tiles(4, 4, 32, 64, 1, 2, 3)
    two = choice.cycles(SMALL, replace(tiles, splits=2), A100)
    assert two == pytest.approx(9 * 350 + 1400 + 2 * 2 * 196 * 96 * 4 / (48 * 108))


def test_more_of_anything_is_never_slower():
    faster = [
        replace(A100, sms=216),
        replace(A100, l2_bytes=96),
        replace(A100, latency=350),
        replace(A100, macs=(2048, 1024, 128)),
    ]
    for problem in problems(16):
        for tiles in list(choice.candidates(problem, A100))[::7]:
            before = choice.cycles(problem, tiles, A100)
            assert all(choice.cycles(problem, tiles, gpu) <= before for gpu in faster)


@pytest.mark.parametrize("gpu", GPUS.values(), ids=list(GPUS))
@pytest.mark.parametrize("fields", [{"dtype": "float16"}, {"dtype": "float32"}], ids=["f16", "f32"])
def test_candidates_fit_the_card(gpu, fields):
    for problem in (*problems(1, **fields), *problems(16, **fields)):
        found = list(choice.candidates(problem, gpu))
        assert len(found) == len(set(found)) >= 16
        for tiles in found:
            assert tiles.shared(problem.dtype) <= gpu.shared_per_block
            assert tiles.splits <= problem.chunks(tiles.inputs)
            assert tiles.rows < 2 * problem.rows
            assert tiles.columns < 2 * problem.out[1]
            assert tiles.outputs < 2 * max(16, problem.outputs)


@pytest.mark.parametrize("batch", [1, 16])
def test_the_choice_is_the_best_of_the_model(batch):
    for problem in problems(batch):
        best = choice.best(problem, A100)
        costs = [choice.cycles(problem, tiles, A100) for tiles in choice.candidates(problem, A100)]
        assert choice.cycles(problem, best, A100) == min(costs)


def test_small_maps_are_split_and_large_ones_are_not():
    assert choice.best(Problem(1, 192, 160, 7, 7), A100).splits > 1
    assert choice.best(Problem(16, 64, 32, 112, 112), A100).splits == 1


def test_fused_plans_hold_all_channels_of_the_core():
    plans = [plan for problem in problems() for plan in choice.plans(problem, 256, 256, A100, 40)]
    assert {plan.fused for plan in plans} == {True, False}
    for problem in problems():
        for plan in choice.plans(problem, 256, 256, A100, 40):
            assert not plan.fused or problem.outputs <= plan.core.outputs < 2 * problem.outputs
            assert plan.first.rows == plan.last.rows == 1 or plan.fused


def test_plans_are_ordered_and_differ():
    plans = choice.plans(SMALL, 256, 256, A100, 24)
    assert len(set(plans)) == 24
    assert plans[0] == choice.choose(SMALL, 256, 256, A100)


@pytest.mark.parametrize(
    "problem",
    [
        Problem(1, 1, 1, 1, 1),
        Problem(1, 3, 5, 2, 1),
        Problem(7, 5, 3, 1, 9, kernel=(1, 3), padding=(0, 1)),
        Problem(1, 1000, 999, 3, 200, dtype="float32"),
    ],
    ids=str,
)
def test_there_is_a_plan_for_any_shape(problem):
    assert choice.choose(problem, 3, 2, A100)


def test_tiles_are_written_and_read():
    plan = TuckerTiles(Tiles(1, 64, 32, 32), Tiles(4, 8, 32, 64, 2, 8, 4), Tiles(1, 16, 64, 16))
    assert str(plan) == "1x64x32x32:1:4:3 4x8x32x64:2:8:4 1x16x64x16:1:4:3"
    assert TuckerTiles.parse(str(plan)) == plan
    fused = TuckerTiles(plan.first, replace(plan.core, splits=1), plan.last, fused=True)
    assert TuckerTiles.parse(str(fused)) == fused


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("1x64x32x32:1:4:3", "of a Tucker layer"),
        ("a b c", "are no tiles"),
        ("1x64x32:1:4:3 1x64x32x32:1:4:3 1x64x32x32:1:4", "powers of two|are no tiles"),
        ("1x48x32x32:1:4:3 1x64x32x32:1:4:3 1x64x32x32:1:4:3", "powers of two"),
        ("1x64x32x8:1:4:3 1x64x32x32:1:4:3 1x64x32x32:1:4:3", "16 or more"),
        ("1x64x32x32:2:4:3 1x64x32x32:1:4:3 1x64x32x32:1:4:3", "only the core"),
        ("1x64x32x32:1:4:3 1x64x32x32:0:4:3 1x64x32x32:1:4:3", "at least one split"),
        ("1x64x32x32:1:4:3 1x64x32x32:2:4:3 1x64x32x32:1:4:3 fused", "cannot be split"),
        ("1x64x32x32:1:4:3 1x64x32x32:1:4:3 1x64x32x32:1:4:3 molten", "of a Tucker layer"),
    ],
)
def test_what_are_no_tiles_is_refused(text, reason):
    with pytest.raises(GpuError, match=reason):
        TuckerTiles.parse(text)


class Properties:
    """As torch describes a card."""

    def __init__(self, name: str, major: int, sms: int, **more: int) -> None:
        self.name, self.major, self.multi_processor_count = name, major, sms
        self.__dict__.update(more)


def test_a_card_is_known_by_its_name_and_has_the_size_it_says():
    pcie = cards.described(Properties("NVIDIA H100 PCIe", 9, 114, max_threads_per_multi_processor=2048))
    assert (pcie.sms, pcie.macs) == (114, GPUS["H100"].macs)
    turing = cards.described(Properties("NVIDIA GeForce RTX 2080 Ti", 7, 68))
    assert turing == replace(GPUS["RTX 2080 Ti"], name="NVIDIA GeForce RTX 2080 Ti")


def test_an_unknown_card_is_like_one_of_its_age():
    new = cards.described(Properties("NVIDIA L4", 8, 58, shared_memory_per_multiprocessor=102400))
    assert (new.sms, new.macs, new.shared_per_sm) == (58, A100.macs, 102400)
    assert new.shared_per_block == 102400
    assert cards.described(Properties("NVIDIA T4", 7, 40)).macs == GPUS["RTX 2080 Ti"].macs
