"""The analytical tile model of TDC (PPoPP 2023), of its released CUDA kernel: which tile to take without running any.

That kernel computes the core convolution of a Tucker layer, 3x3, stride 1, padding 1, batch 1, in float32. A block
holds TC input channels of TH + 2 rows in shared memory and has one thread per output channel and TW columns, which
keeps TH x TW sums; blocks of different input channels add up by atomics. The model is kept as it was published, so that
its choices can be compared; the kernels of this package choose by a model of their own (`tucker/choice.py`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from dovetail.errors import InputError
from dovetail.gpu.cards import Gpu

TAPS: Final = 9
LARGEST_BLOCK: Final = 1024
"""Threads."""

SPATIAL: Final = range(1, 13)
CHANNELS: Final = (1, 2, 4, 8, 16)
"""Of input channels that the model chooses from; the exhaustive search of the release also tries 32."""

WEIGHTS: Final = (0.0, 0.9, 0.1)
"""Of the volumes of kernel, input and output in the choice."""


@dataclass(frozen=True)
class CoreShape:
    """A core convolution of TDC: `inputs` (D1) to `outputs` (D2) channels, 3x3, on a map of height x width."""

    inputs: int
    outputs: int
    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.inputs}_{self.outputs}_{self.height}"


CORE_SHAPES: Final = tuple(
    CoreShape(inputs, outputs, size, size)
    for size, pairs in (
        (224, ((64, 32),)),
        (112, ((64, 32),)),
        (56, ((32, 32), (64, 32), (64, 64))),
        (28, ((32, 32), (64, 32), (96, 64), (160, 96), (192, 96))),
        (14, ((32, 32), (64, 32), (128, 96), (192, 96))),
        (7, ((32, 32), (64, 32), (96, 64), (192, 160))),
    )
    for inputs, outputs in pairs
)
"""The 18 shapes that TDC measures."""


@dataclass(frozen=True, order=True)
class Tile:
    """TH rows and TW columns of the output, TC input channels."""

    rows: int
    columns: int
    channels: int


@dataclass(frozen=True)
class Score:
    """What the model says of one tile.

    Attributes:
        work: multiply-adds of a thread, as the model counts them: all nine taps at every input point.
        blocks: of the grid.
        threads: of a block.
        waves: rounds in which the blocks are run.
        input_volume: elements read by all blocks; likewise `output_volume`, written, and `kernel_volume`, read.
    """

    work: int
    blocks: int
    threads: int
    waves: int
    input_volume: int
    output_volume: int
    kernel_volume: int

    @property
    def latency(self) -> int:
        """Work x waves; without a unit."""
        return self.work * self.waves

    @property
    def volume(self) -> float:
        """The weighted sum by which a tile is taken among those of little latency."""
        kernel, inputs, outputs = WEIGHTS
        return kernel * self.kernel_volume + inputs * self.input_volume + outputs * self.output_volume


def score(shape: CoreShape, tile: Tile, gpu: Gpu, occupancy: float = 0.5) -> Score:
    """The model's terms for one tile; `occupancy` is the resident share of an SM's threads.

    Raises:
        InputError: the occupancy is no share, or not even one block is resident.
    """
    if not 0 < occupancy <= 1:
        raise InputError(f"an occupancy of {occupancy} is no share of an SM's threads; give more than 0 and at most 1")
    strips, across = -(-shape.height // tile.rows), -(-shape.width // tile.columns)
    blocks = strips * -(-shape.inputs // tile.channels)
    threads = across * shape.outputs
    at_once = math.floor(gpu.sms * gpu.threads_per_sm * occupancy / threads)
    if at_once < 1:
        raise InputError(f"{tile} of {shape} has blocks of {threads} threads, of which {gpu.name} holds none")
    return Score(
        work=(tile.rows + 2) * (tile.columns + 2) * tile.channels * TAPS,
        blocks=blocks,
        threads=threads,
        waves=-(-blocks // at_once),
        input_volume=strips * (tile.rows + 2) * (shape.width + 2) * shape.inputs,
        output_volume=tile.rows * tile.columns * shape.outputs * blocks * across,
        kernel_volume=TAPS * tile.channels * shape.outputs * blocks * across,
    )


def candidates(shape: CoreShape, channels: Iterable[int] = CHANNELS) -> Iterator[Tile]:
    """Tiles smaller than the map and the channels, with blocks of at most 1024 threads, in the release's order."""
    for rows in SPATIAL:
        for columns in SPATIAL:
            for count in channels:
                smaller = rows < shape.height and columns < shape.width and count < shape.inputs
                if smaller and -(-shape.width // columns) * shape.outputs <= LARGEST_BLOCK:
                    yield Tile(rows, columns, count)


def intended(shape: CoreShape, gpu: Gpu, occupancy: float = 0.5) -> Tile:
    """Of the tiles with the least latency, the best `gpu.ratio` of all, the one with the least volume."""
    return _least_volume(shape, gpu, occupancy, ordered=True)


def as_released(shape: CoreShape, gpu: Gpu, occupancy: float = 0.5) -> Tile:
    """What the published code returns: it cuts off the best `gpu.ratio` of a list that it has never sorted."""
    return _least_volume(shape, gpu, occupancy, ordered=False)


def _least_volume(shape: CoreShape, gpu: Gpu, occupancy: float, *, ordered: bool) -> Tile:
    scored = [(tile, score(shape, tile, gpu, occupancy)) for tile in candidates(shape)]
    if not scored:
        raise InputError(f"no tile fits {shape}: its {shape.outputs} outputs, or its map, leave no block to choose")
    if ordered:
        scored.sort(key=lambda each: each[1].latency)
    kept = scored[: max(1, math.floor(len(scored) * gpu.ratio))]
    return min(kept, key=lambda each: each[1].volume)[0]
