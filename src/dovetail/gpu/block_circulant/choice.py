"""How a linear layer of circulant blocks may run, and what is expected to be best."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from dovetail.gpu.blocks.plan import Plan, Ways
from dovetail.gpu.cards import Gpu
from dovetail.gpu.tucker import choice
from dovetail.gpu.tucker.choice import Problem, Tiles

TRANSFORMED_ABOVE: Final = 64
"""Sizes of blocks above which transforms are taken where nothing was timed [chosen]."""

WAYS: Final[Ways] = {"direct": Tiles.parse, "fft": None}
_TRIED: Final = 15


@dataclass(frozen=True)
class CirculantProblem:
    """A layer at one batch size; `dtype` is torch's name of the tensors' type."""

    batch: int
    outputs: int
    inputs: int
    size: int
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
        """Both."""
        return WAYS

    @property
    def work(self) -> str:
        """A line."""
        size = f"{self.outputs}x{self.inputs} {self.size}"
        return f"block_circulant {self.batch} {size} {self.dtype} {self.precision}"

    def plans(self, gpu: Gpu) -> list[Plan]:
        """The best first: by the size of the blocks which way, by the model of a 1x1 convolution which tiles."""
        one = Problem(
            1, self.columns * self.size, self.rows, 1, self.batch * self.size, (1, 1), padding=(0, 0),
            dtype=self.dtype, precision=self.precision,
        )  # fmt: skip
        direct = [Plan("direct", tiles) for tiles in choice.ranked(one, gpu)[:_TRIED]]
        fft = [Plan("fft")]
        return [*fft, *direct] if self.size > TRANSFORMED_ABOVE else [*direct, *fft]
