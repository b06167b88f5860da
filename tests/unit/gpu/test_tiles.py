"""TDC's tile model: the terms by hand, the published choices, and how it ranks what was measured on an A100."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from dovetail.errors import InputError
from dovetail.gpu import tiles
from dovetail.gpu.cards import GPUS
from dovetail.gpu.tiles import CORE_SHAPES, CoreShape, Tile

A100 = GPUS["A100"]
SMALL = CoreShape(32, 32, 14, 14)

# Milliseconds of the released kernel on an A100 for C = N = 32, H = W = 14, as published beside it; the last number is
# the occupancy, where it was not one half.
MEASURED = """
1 1 1 .0389; 1 1 4 .0256; 1 1 16 .0307; 1 2 2 .0236; 1 4 8 .0215; 1 7 4 .0184; 1 7 8 .0174; 1 8 4 .0164; 1 12 16 .0287
2 2 2 .0184; 2 2 4 .0164; 2 2 16 .0225; 2 3 8 .0164; 2 4 16 .0276; 2 8 4 .0154; 2 8 16 .0338; 2 12 16 .1208
3 1 2 .0225; 3 5 1 .0287; 3 8 16 .0358; 3 9 4 .0492; 3 12 16 .2089 .469; 4 4 4 .0164; 4 4 16 .0307; 4 8 8 .0870
4 12 16 .2109 .406; 5 2 4 .0154; 5 8 4 .0676; 6 6 16 .0512; 6 12 8 .1157 .25; 7 2 4 .0205; 7 7 8 .1044 .4375
7 12 16 .3471 .25
"""


@dataclass(frozen=True)
class Measured:
    tile: Tile
    milliseconds: float
    occupancy: float

    @property
    def score(self) -> tiles.Score:
        return tiles.score(SMALL, self.tile, A100, self.occupancy)


def sample() -> list[Measured]:
    entries = [entry.split() for line in MEASURED.strip().splitlines() for entry in line.split(";")]
    return [
        Measured(Tile(*map(int, words[:3])), float(words[3]), float(words[4]) if len(words) > 4 else 0.5)
        for words in entries
    ]


def spearman(first: list[float], second: list[float]) -> float:
    """Correlation of ranks; equals share theirs."""
    return float(np.corrcoef(ranks(first), ranks(second))[0, 1])


def ranks(values: list[float]) -> np.ndarray:
    array = np.array(values)
    below, same = (array[:, None] > array).sum(1), (array[:, None] == array).sum(1)
    return below + (same - 1) / 2


def test_spearman_of_ranks_worked_by_hand():
    assert spearman([1, 2, 3, 4], [10, 20, 40, 30]) == pytest.approx(1 - 6 * 2 / (4 * 15))
    assert list(ranks([5, 5, 1, 9])) == [1.5, 1.5, 0, 3]


def test_terms_of_one_tile_worked_by_hand():
    """64 to 32 channels at 56x56, tile 8 x 4 x 2: 7 strips of 32 channel tiles; 14 column tiles of 32 threads."""
    found = tiles.score(CoreShape(64, 32, 56, 56), Tile(8, 4, 2), A100)
    assert found.work == 10 * 6 * 2 * 9
    assert found.blocks == 7 * 32
    assert found.threads == 14 * 32
    assert found.waves == 1  # 110592 // 448 = 246 blocks at once
    assert found.latency == 1080
    assert found.input_volume == 7 * 10 * 58 * 64
    assert found.output_volume == 8 * 4 * 32 * 224 * 14
    assert found.kernel_volume == 9 * 2 * 32 * 224 * 14
    assert found.volume == pytest.approx(0.9 * found.input_volume + 0.1 * found.output_volume)


def test_waves_are_counted_up():
    """56 strips of 64 channels are 3584 blocks of 28 x 32 threads, 123 at once: 30 waves, the last of them short."""
    assert tiles.score(CoreShape(64, 32, 56, 56), Tile(1, 2, 1), A100).waves == 30


CHOICES = [
    (CoreShape(64, 32, 56, 56), Tile(1, 2, 16), Tile(8, 4, 2)),
    (CoreShape(64, 32, 28, 28), Tile(1, 1, 16), Tile(4, 2, 2)),
    (CoreShape(160, 96, 28, 28), Tile(1, 4, 16), Tile(7, 4, 4)),
    (CoreShape(32, 32, 14, 14), Tile(1, 1, 16), Tile(3, 1, 2)),
    (CoreShape(128, 96, 14, 14), Tile(1, 2, 16), Tile(7, 2, 2)),
    (CoreShape(192, 160, 7, 7), Tile(1, 2, 16), Tile(4, 3, 2)),
]


@pytest.mark.parametrize(("shape", "released", "meant"), CHOICES, ids=[str(shape) for shape, *_ in CHOICES])
def test_both_columns_of_the_published_choices(shape, released, meant):
    assert tiles.as_released(shape, A100) == released
    assert tiles.intended(shape, A100) == meant


def test_the_intended_tile_is_never_slower_than_the_released_one_by_the_model():
    for shape in CORE_SHAPES:
        for gpu in GPUS.values():
            chosen = [
                tiles.score(shape, choose(shape, gpu), gpu).latency for choose in (tiles.intended, tiles.as_released)
            ]
            assert chosen[0] <= chosen[1]


def test_the_model_ranks_the_measured_sample():
    entries = sample()
    assert len(entries) == 33
    times = [entry.milliseconds for entry in entries]
    scores = [entry.score for entry in entries]
    assert spearman([s.latency for s in scores], times) == pytest.approx(0.68, abs=0.01)
    assert spearman([s.latency + 0.02 * s.output_volume for s in scores], times) == pytest.approx(0.78, abs=0.01)
    assert spearman([s.volume for s in scores], times) == pytest.approx(-0.46, abs=0.01)


def test_the_shapes_are_the_eighteen_of_the_paper():
    assert len(set(CORE_SHAPES)) == 18
    assert [str(shape) for shape in CORE_SHAPES][::5] == ["64_32_224", "32_32_28", "32_32_14", "64_32_7"]


def test_candidates_keep_to_the_limits():
    for shape in CORE_SHAPES:
        for tile in tiles.candidates(shape):
            assert tile.rows < shape.height
            assert tile.columns < shape.width
            assert tile.channels < shape.inputs
            assert tiles.score(shape, tile, A100).threads <= 1024


@pytest.mark.parametrize("occupancy", [0.0, -0.5, 1.5])
def test_an_occupancy_that_is_no_share_is_refused(occupancy):
    with pytest.raises(InputError, match="no share"):
        tiles.score(SMALL, Tile(1, 1, 1), A100, occupancy)


def test_a_shape_without_a_tile_is_refused():
    with pytest.raises(InputError, match="no tile fits"):
        tiles.intended(CoreShape(64, 2048, 7, 7), A100)
    with pytest.raises(InputError, match="holds none"):
        tiles.score(CoreShape(8, 2048, 56, 56), Tile(1, 1, 1), A100, 0.5)
