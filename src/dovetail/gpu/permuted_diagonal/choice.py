"""How a linear layer of permuted diagonals may run, and what a model expects to be best."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from dovetail.gpu.blocks.plan import Plan, Strip, Ways, share
from dovetail.gpu.cards import Gpu
from dovetail.gpu.tucker import choice
from dovetail.gpu.tucker.choice import DTYPES, LAUNCH, Problem, Tiles, above

GROUPED_FROM: Final = 16
"""Inputs from which a natural index runs as matrix products [chosen]."""

DENSE_ABOVE: Final = 64
"""Inputs above which another index runs as a dense weight [chosen]: each multiply-add looks an input up."""

WAYS: Final[Ways] = {"direct": Strip.parse, "grouped": Tiles.parse, "dense": None}
LARGEST_BLOCK: Final = 4096
"""A block's diagonal must fit a program's lanes."""

_LANES: Final = (1024, 2048, 4096)
_TRIED: Final = (11, 4, 1)
"""Plans of the first, second and third way among those that are timed."""


@dataclass(frozen=True)
class DiagonalProblem:
    """A layer at one batch size; `dtype` is torch's name of the tensors' type."""

    batch: int
    outputs: int
    inputs: int
    size: int
    natural: bool = True
    dtype: str = "float16"
    precision: str = "ieee"

    @property
    def rows(self) -> int:
        """Of blocks."""
        return -(-self.outputs // self.size)

    @property
    def columns(self) -> int:
        """Of blocks."""
        return -(-self.inputs // self.size)

    @property
    def ways(self) -> Ways:
        """Those of its blocks."""
        return ways_of(self.size, natural=self.natural)

    @property
    def work(self) -> str:
        """A line."""
        index = "natural" if self.natural else "stored"
        size = f"{self.outputs}x{self.inputs} {self.size}"
        return f"permuted_diagonal {self.batch} {size} {index} {self.dtype} {self.precision}"

    def plans(self, gpu: Gpu) -> list[Plan]:
        """The best first: by batch which way, by the model which tiles."""
        direct = [Plan("direct", strip) for strip in strips(self, gpu)]
        grouped = [Plan("grouped", tiles) for tiles in class_tiles(self, gpu)]
        dense = [Plan("dense")]
        if self.natural:
            order = [grouped, direct, dense] if self.batch >= GROUPED_FROM else [direct, grouped, dense]
        else:
            order = [dense, direct] if self.batch > DENSE_ABOVE else [direct, dense]
        order = [plans for plans in order if plans and plans[0].way in self.ways]
        return [plan for plans, count in zip(order, _TRIED) for plan in plans[:count]]


def ways_of(size: int, *, natural: bool) -> Ways:
    """Matrix products need a natural index, and lanes a diagonal that fits them."""
    possible = {"direct": size <= LARGEST_BLOCK, "grouped": natural, "dense": True}
    return {way: read for way, read in WAYS.items() if possible[way]}


def strips(problem: DiagonalProblem, gpu: Gpu) -> list[Strip]:
    """Of the direct kernel, the best of the model first."""
    if problem.size > LARGEST_BLOCK:
        return []
    return sorted(_strips(problem), key=lambda strip: (strip_cycles(problem, strip, gpu), strip.splits))


def strip_cycles(problem: DiagonalProblem, strip: Strip, gpu: Gpu) -> float:
    """What the model expects: a step takes as long as its bytes, its multiply-adds, or the latency of its loads."""
    size = DTYPES[problem.dtype]
    tiles = -(-problem.rows // strip.rows) * -(-problem.batch // strip.batch) * strip.splits
    steps = share(problem.columns, strip.columns, strip.splits)
    room = max(1, min(gpu.threads_per_sm // (32 * strip.warps), 16))
    sharing = min(room, -(-tiles // gpu.sms))
    numbers = strip.rows * strip.columns * problem.size
    lanes = strip.batch * strip.rows * strip.columns * above(problem.size)
    moved = numbers * size * (1 + strip.batch) + (0 if problem.natural else 8 * strip.rows * strip.columns)
    step = max(sharing * moved / gpu.l2_bytes, sharing * lanes / gpu.macs_of("f32"), gpu.latency)
    waves = -(-tiles // (gpu.sms * room))
    again = 2 * strip.splits * problem.batch * problem.outputs * 4 / (gpu.l2_bytes * gpu.sms)
    return waves * (steps * step + 2 * gpu.latency) + (0 if strip.splits == 1 else again + LAUNCH)


def class_tiles(problem: DiagonalProblem, gpu: Gpu) -> list[Tiles]:
    """Of the grouped kernel, by the model of a 1x1 convolution with as many programs."""
    if not problem.natural:
        return []
    one = Problem(
        1, problem.columns, problem.rows * problem.size, 1, problem.batch, (1, 1), padding=(0, 0),
        dtype=problem.dtype, precision=problem.precision,
    )  # fmt: skip
    widest = max(16, above(problem.rows))
    return [tiles for tiles in choice.ranked(one, gpu) if tiles.outputs <= widest]


def _strips(problem: DiagonalProblem) -> Iterator[Strip]:
    batch = min(4, above(problem.batch))
    wide = above(problem.size)
    for lanes in _LANES:
        for rows in (1, 2, 4):
            columns = lanes // (wide * rows * batch)
            if columns < 1 or rows > above(problem.rows) or columns > above(problem.columns):
                continue
            for splits in (1, 2, 4, 8):
                strip = Strip(batch, rows, columns, splits, max(1, lanes // 512))
                if splits <= share(problem.columns, columns, 1):
                    yield strip
    yield Strip(1, 1, 1, 1, max(1, min(8, wide // 512)))
