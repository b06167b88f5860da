"""Tiles of our own Tucker kernels: what may be, what a model expects of them, and the choice.

The model is TDC's, fitted to kernels that multiply matrices: a block's latency times the rounds of blocks. A step of a
block takes as long as the slowest of three things that go on side by side: its multiply-adds, its bytes from L2 (both
share the multiprocessor with its other blocks), and the latency of a load, of which `stages - 1` are under way:

    step   = max(resident * macs / rate, resident * bytes / l2, latency / max(stages - 1, 1))
    cycles = waves * (steps * step + 2 * latency) + what sums of several splits cost to write and read again
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Final, Self

from dovetail.errors import GpuError
from dovetail.gpu.cards import Gpu

Pair = tuple[int, int]
PRECISIONS: Final = ("ieee", "tf32", "tf32x3")
"""Products of float32 tensors: in full, rounded to tf32, or as three products of tf32 that keep nearly all digits."""

DTYPES: Final = {"float32": 4, "float16": 2, "bfloat16": 2}
SIZES: Final = tuple(2**n for n in range(4, 9))
AT_A_TIME: Final = 64
"""Outputs that a fused block makes together, at most: their weights lie in shared memory."""

LAUNCH: Final = 3000
"""Cycles that one launch more costs within a graph [chosen]."""

_REGISTERS: Final = 65536
_OVERHEAD: Final = 48
"""Registers of a thread for addresses [chosen]."""

_RESERVED: Final = 1024
"""Bytes of shared memory that the system keeps per block."""


@dataclass(frozen=True)
class Problem:
    """One convolution, ungrouped; `dtype` is torch's name of the tensors' type.

    Attributes:
        precision: of products of float32; 16-bit types have but one.
    """

    batch: int
    inputs: int
    outputs: int
    height: int
    width: int
    kernel: Pair = (3, 3)
    stride: Pair = (1, 1)
    padding: Pair = (1, 1)
    dilation: Pair = (1, 1)
    dtype: str = "float16"
    precision: str = "ieee"

    @property
    def out(self) -> Pair:
        """Height and width of the result."""
        sizes = zip((self.height, self.width), self.kernel, self.stride, self.padding, self.dilation)
        height, width = ((size + 2 * p - d * (k - 1) - 1) // s + 1 for size, k, s, p, d in sizes)
        return height, width

    @property
    def rows(self) -> int:
        """Output rows of all images."""
        return self.batch * self.out[0]

    @property
    def pixels(self) -> int:
        """Of all output images."""
        return self.rows * self.out[1]

    @property
    def taps(self) -> int:
        """Of the kernel."""
        return self.kernel[0] * self.kernel[1]

    @property
    def product(self) -> str:
        """Which of a card's rates its multiply-adds have."""
        if self.dtype != "float32":
            return "f16"
        return "f32" if self.precision == "ieee" else "tf32"

    @property
    def macs_per_product(self) -> int:
        """How many multiply-adds of the hardware one of ours takes."""
        return 3 if self.product == "tf32" and self.precision == "tf32x3" else 1

    def chunks(self, channels: int) -> int:
        """Tiles of that many input channels."""
        return -(-self.inputs // channels)

    def pointwise(self, inputs: int, outputs: int, *, after: bool) -> Problem:
        """The 1x1 convolution before this core, or the one after it, as one row of pixels."""
        pixels = self.pixels if after else self.batch * self.height * self.width
        one = (1, 1)
        return replace(
            self, batch=1, inputs=inputs, outputs=outputs, height=1, width=pixels,
            kernel=one, stride=one, padding=(0, 0), dilation=one,
        )  # fmt: skip


@dataclass(frozen=True)
class Tiles:
    """How one launch is cut up.

    Attributes:
        rows: of pixels in a tile; 1 in 1x1 convolutions, whose pixels lie in one row.
        columns: of pixels.
        outputs: channels made by a block.
        inputs: channels of a step.
        splits: blocks that share the input channels out among themselves.
        warps: of a block.
        stages: steps whose loads are under way or in use.
    """

    rows: int
    columns: int
    outputs: int
    inputs: int
    splits: int = 1
    warps: int = 4
    stages: int = 3

    def __post_init__(self) -> None:
        numbers = (self.rows, self.columns, self.outputs, self.inputs, self.warps)
        if any(not isinstance(n, int) or n < 1 or n & (n - 1) for n in numbers):
            raise GpuError(f"tiles {self}: rows, columns, outputs, inputs and warps must be powers of two")
        if self.pixels < 16 or self.outputs < 16 or self.inputs < 16:
            raise GpuError(f"tiles {self}: pixels, outputs and inputs must be 16 or more, as matrix units take them")
        if self.splits < 1 or self.stages < 1:
            raise GpuError(f"tiles {self}: at least one split and one stage are needed")

    @property
    def pixels(self) -> int:
        """Of a tile."""
        return self.rows * self.columns

    def shared(self, dtype: str) -> int:
        """Bytes of shared memory that the steps in flight take, at most."""
        return self.stages * (self.pixels + self.outputs) * self.inputs * DTYPES[dtype]

    def __str__(self) -> str:
        return f"{self.rows}x{self.columns}x{self.outputs}x{self.inputs}:{self.splits}:{self.warps}:{self.stages}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """The inverse of `str`; `GpuError` for anything else."""
        try:
            return cls(*(int(word) for word in text.replace("x", ":").split(":")))
        except (TypeError, ValueError):
            raise GpuError(f"{text!r} are no tiles; write them as 4x8x32x64:1:4:3") from None


@dataclass(frozen=True)
class TuckerTiles:
    """Tiles of the three products of a layer; `fused`: core and last product are one launch.

    There, `core.outputs` must hold all channels of the core, and `last.outputs` are made at a time.
    """

    first: Tiles
    core: Tiles
    last: Tiles
    fused: bool = False

    def __post_init__(self) -> None:
        if self.fused and self.core.splits != 1:
            raise GpuError(f"tiles {self}: a fused core cannot be split; give it one split, or do not fuse")
        if self.first.splits != 1 or self.last.splits != 1:
            raise GpuError(f"tiles {self}: only the core can be split")

    def __str__(self) -> str:
        return f"{self.first} {self.core} {self.last}{' fused' if self.fused else ''}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """The inverse of `str`; `GpuError` for anything else."""
        words = text.split()
        if len(words) not in (3, 4) or words[3:] not in ([], ["fused"]):
            raise GpuError(f"{text!r} are no tiles of a Tucker layer; give those of first, core and last product")
        first, core, last = (Tiles.parse(word) for word in words[:3])
        return cls(first, core, last, len(words) == 4)


def candidates(problem: Problem, gpu: Gpu) -> Iterator[Tiles]:
    """Tiles that fit the card and waste less than half of themselves on this convolution, without splits and with."""
    full = problem.product == "f32"
    for rows, columns in _pixel_tiles(problem):
        for outputs in (n for n in SIZES if n <= max(16, above(problem.outputs))):
            sums = rows * columns * outputs
            if outputs > 128 or sums > (4096 if full else 16384):
                continue
            for inputs in (n for n in ((16, 32) if full else (16, 32, 64)) if n <= max(16, above(problem.inputs))):
                yield from _with_splits(problem, gpu, Tiles(rows, columns, outputs, inputs, 1, _warps(sums, full), 3))


def fits(tiles: Tiles, dtype: str, gpu: Gpu) -> bool:
    """Whether a block's shared memory is no more than the card gives."""
    return tiles.shared(dtype) <= gpu.shared_per_block


def cycles(problem: Problem, tiles: Tiles, gpu: Gpu) -> float:
    """What the model expects of one launch."""
    size = DTYPES[problem.dtype]
    steps = problem.taps * -(-problem.chunks(tiles.inputs) // tiles.splits)
    across, down = -(-problem.out[1] // tiles.columns), -(-problem.rows // tiles.rows)
    blocks = across * down * -(-problem.outputs // tiles.outputs) * tiles.splits
    room = resident(tiles, problem.dtype, gpu)
    sharing = min(room, -(-blocks // gpu.sms))
    macs = tiles.pixels * tiles.outputs * tiles.inputs * problem.macs_per_product
    moved = (tiles.pixels + tiles.outputs) * tiles.inputs * size
    step = max(
        sharing * macs / gpu.macs_of(problem.product),
        sharing * moved / gpu.l2_bytes,
        gpu.latency / max(tiles.stages - 1, 1),
    )
    waves = -(-blocks // (gpu.sms * room))
    again = 0 if tiles.splits == 1 else 2 * tiles.splits * problem.pixels * problem.outputs * 4
    return waves * (steps * step + 2 * gpu.latency) + again / (gpu.l2_bytes * gpu.sms)


def resident(tiles: Tiles, dtype: str, gpu: Gpu) -> int:
    """Blocks that a multiprocessor holds at a time, by threads, shared memory and registers; at least 1."""
    threads = 32 * tiles.warps
    registers = min(255, _OVERHEAD + tiles.pixels * tiles.outputs // threads)
    return max(
        1,
        min(
            gpu.threads_per_sm // threads,
            gpu.shared_per_sm // (tiles.shared(dtype) + _RESERVED),
            _REGISTERS // (registers * threads),
        ),
    )


def ranked(problem: Problem, gpu: Gpu, *, splits: bool = True) -> list[Tiles]:
    """All candidates, the best of the model first; of equals the smallest, then the one that reads least."""
    tiles = (each for each in candidates(problem, gpu) if splits or each.splits == 1)
    return sorted(tiles, key=lambda each: (cycles(problem, each, gpu), *_size(problem, each)))


@lru_cache(maxsize=4096)
def best(problem: Problem, gpu: Gpu, *, splits: bool = True) -> Tiles:
    """The model's choice for one launch."""
    return ranked(problem, gpu, splits=splits)[0]


@lru_cache(maxsize=4096)
def choose(core: Problem, inputs: int, outputs: int, gpu: Gpu) -> TuckerTiles:
    """The model's choice for a layer from `inputs` to `outputs` channels around this core."""
    return next(iter(plans(core, inputs, outputs, gpu)))


def plans(core: Problem, inputs: int, outputs: int, gpu: Gpu, limit: int | None = 1) -> list[TuckerTiles]:
    """The `limit` best plans of a layer by the model, or all: fused ones and others, the best first."""
    before, after = core.pointwise(inputs, core.inputs, after=False), core.pointwise(core.outputs, outputs, after=True)
    first, last = best(before, gpu, splits=False), best(after, gpu, splits=False)
    apart = [
        (cycles(core, tiles, gpu) + cycles(after, last, gpu) + LAUNCH, TuckerTiles(first, tiles, last))
        for tiles in ranked(core, gpu)[:limit]
    ]
    together = [
        (fused_cycles(core, tiles, outputs, gpu), TuckerTiles(first, tiles, _last_of_fused(tiles, outputs), True))
        for tiles in _fusable(core, gpu)
    ]
    both = sorted(apart + together, key=lambda each: (each[0], *_size(core, each[1].core)))
    return [plan for _, plan in both[:limit]]


def fused_cycles(core: Problem, tiles: Tiles, outputs: int, gpu: Gpu) -> float:
    """Core and last product in one launch: each block goes on with a product of its own tile."""
    made = _last_of_fused(tiles, outputs).outputs
    after = replace(
        core, inputs=tiles.outputs, outputs=made, kernel=(1, 1), padding=(0, 0), stride=(1, 1), dilation=(1, 1),
        height=core.out[0], width=core.out[1],
    )  # fmt: skip
    steps = -(-outputs // made)
    one = replace(tiles, outputs=made, inputs=tiles.outputs)
    return cycles(core, tiles, gpu) + steps * max(0.0, cycles(after, one, gpu) - 2 * gpu.latency)


def _size(problem: Problem, tiles: Tiles) -> Pair:
    """Sums of a block, and pixels of the image that all tiles of one channel read, each of its own counted once."""
    (r, s), (down, across), (tall, wide) = problem.kernel, problem.stride, problem.dilation
    rows, columns = -(-problem.rows // tiles.rows), -(-problem.out[1] // tiles.columns)
    height, width = (tiles.rows - 1) * down + (r - 1) * tall + 1, (tiles.columns - 1) * across + (s - 1) * wide + 1
    return tiles.pixels * tiles.outputs, rows * columns * height * width


def _last_of_fused(tiles: Tiles, outputs: int) -> Tiles:
    """Outputs that a fused block makes at a time: no more than it has sums already, nor than are wanted."""
    return replace(tiles, outputs=min(tiles.outputs, AT_A_TIME, max(16, above(outputs))), inputs=tiles.outputs)


def _fusable(core: Problem, gpu: Gpu) -> list[Tiles]:
    """Tiles whose blocks hold all channels of the core."""
    whole = max(16, above(core.outputs))
    full = core.product == "f32"
    found = []
    for rows, columns in _pixel_tiles(core):
        sums = rows * columns * whole
        if sums > (4096 if core.dtype == "float32" else 16384):
            continue
        for inputs in (16, 32) if full else (16, 32, 64):
            tiles = Tiles(rows, columns, whole, inputs, 1, _warps(sums, full), 3)
            if inputs <= max(16, above(core.inputs)) and fused_shared(tiles, whole, core.dtype) <= gpu.shared_per_block:
                found.append(tiles)
    return found


def fused_shared(tiles: Tiles, made: int, dtype: str) -> int:
    """Bytes of shared memory of a fused block that makes so many outputs at a time, at most."""
    last = tiles.stages * tiles.outputs * made + tiles.pixels * (tiles.outputs + made)
    return max(tiles.shared(dtype), last * DTYPES[dtype])


def _pixel_tiles(problem: Problem) -> Iterator[Pair]:
    """Rows and columns: powers of two, 16 to 128 pixels, not twice as large as what there is."""
    highest, widest = above(problem.rows), above(problem.out[1])
    for pixels in (16, 32, 64, 128):
        columns = 1
        while columns <= pixels:
            rows = pixels // columns
            smallest = pixels == 16 and highest * widest < 16 and columns == min(16, widest)
            if (rows <= highest and columns <= widest) or smallest:
                yield rows, columns
            columns *= 2


def _with_splits(problem: Problem, gpu: Gpu, tiles: Tiles) -> Iterator[Tiles]:
    for splits in (1, 2, 4, 8):
        numbered = splits == 1 or splits * problem.pixels * problem.outputs < 2**31  # every sum, in 32 bits
        if numbered and splits <= problem.chunks(tiles.inputs) and fits(tiles, problem.dtype, gpu):
            yield replace(tiles, splits=splits)


def _warps(sums: int, full: bool) -> int:
    """Without matrix units a thread holds its operands as well as its sums, so it gets fewer of these."""
    wanted = sums // (512 if full else 2048)
    return min(8, max(2 if sums <= 1024 else 4, above(wanted)))


def above(number: int) -> int:
    """The least power of two that is not smaller."""
    return 1 << max(0, number - 1).bit_length()
