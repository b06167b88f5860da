"""Parameters of the permuted-diagonal format."""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass, replace
from typing import ClassVar, Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from dovetail.errors import SpecError
from dovetail.formats.base import Shape, Spec, check_rank
from dovetail.formats.values import CODEBOOK4, FIXED16, Values

Index = Literal["natural", "random", "searched"]
MOST_SEED: Final = (1 << 32) - 1


@dataclass(frozen=True, kw_only=True)
class PermutedDiagonalSpec(Spec):
    """Blocks of `size` outputs by `size` inputs that keep one diagonal each, shifted right by k with wrap-around.

    `W[size R + c, size G + d] = q[R, G, c]` where `d = (c + k[R, G]) mod size`, 0 elsewhere (PermDNN, MICRO 2018,
    equation 1). What is missing of the last blocks is filled up with zeros. A convolution has whole kernels in place of
    single numbers.

    Attributes:
        size: p; the weight has 1/p of its numbers left. Any whole number, not only powers of two.
        index: where k comes from. "natural": the number of the block, row by row, mod size, which makes the layer
            `size` dense products between two permutations; "random": drawn from `seed`; "searched": for each block the
            diagonal of largest norm, stored in ceil(log2 size) bits.
        seed: of a random index, at most 32 bits; None for the others.
    """

    format: ClassVar[str] = "permuted_diagonal"
    holds: ClassVar[tuple[Values, ...]] = (*Spec.holds, FIXED16, CODEBOOK4)
    size: int
    index: Index = "natural"
    seed: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.whole("size")
        if self.index not in get_args(Index):
            raise SpecError(f"permuted_diagonal index must be one of {', '.join(get_args(Index))}, not {self.index!r}")
        if self.index != "random" and self.seed is not None:
            raise SpecError(f"permuted_diagonal: a seed belongs to a random index, not to a {self.index} one")
        if self.index == "random":
            object.__setattr__(self, "seed", _seed(self.seed))

    def check(self, shape: Shape, name: str = "") -> None:
        """Any convolution or linear layer that has at least `size` outputs and inputs."""
        check_rank(shape, (2, 4), self, name)
        if self.size > min(shape[:2]):
            raise SpecError(
                f"layer {name!r}: permuted diagonals of size {self.size} in a {shape[0]} x {shape[1]} weight; "
                f"at most {min(shape[:2])}"
            )

    def grid(self, shape: Shape) -> tuple[int, int]:
        """Rows and columns of blocks."""
        return -(-shape[0] // self.size), -(-shape[1] // self.size)

    def shifts(self, shape: Shape) -> NDArray[np.int64]:
        """K of every block, of an index that is not searched."""
        rows, columns = self.grid(shape)
        number = np.arange(rows * columns, dtype=np.int64).reshape(rows, columns)
        if self.index == "random" and self.seed is not None:
            return _drawn(number, self.seed, self.size)
        return number % self.size

    def classes(self, shape: Shape) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """What a weight of a natural index falls into: `size` classes of inputs, their outputs, and where these lie.

        Input `j = size G + d` is of class (d - G) mod size, output `i = size R + c` of class (c + columns R) mod size;
        an output reads every input of its class and no other, so that each class is a dense product.

        Returns:
            inputs: (size, columns), those of a class; some may be beyond the last.
            outputs: (size, rows), those of a class; some may be beyond the last.
            places: (size, rows), c of each output: its numbers are `q[R, :, c]`.
        """
        (rows, columns), size = self.grid(shape), self.size
        each, row, column = np.arange(size)[:, None], np.arange(rows), np.arange(columns)
        places = (each - row * columns) % size
        return (each + column) % size + column * size, places + row * size, places  # dynamo wants arrays first

    @property
    def index_bits(self) -> int:
        """Of one stored k."""
        return math.ceil(math.log2(self.size)) if self.index == "searched" else 0

    def mixes(self, shape: Shape) -> bool:
        """Whether stacked layers of this index reach every input from every output.

        Under a natural index the outputs of a class lie in block row R at c = class - columns R, where the next layer
        has them in the classes c - R = class - (columns + 1) R: over several block rows all of them where columns + 1
        and `size` have no common divisor, else one of so many as that divisor is, however many layers follow.
        """
        return self.index != "natural" or math.gcd(self.grid(shape)[1] + 1, self.size) == 1

    def mixing(self, shape: Shape, seed: int) -> PermutedDiagonalSpec:
        """This one, or where its like would never mix all inputs of `shape`, one with a random index from `seed`."""
        return self if self.mixes(shape) else replace(self, index="random", seed=seed)


def _seed(seed: object) -> int:
    if isinstance(seed, bool) or not hasattr(seed, "__index__") or not 0 <= operator.index(seed) <= MOST_SEED:
        raise SpecError(f"permuted_diagonal seed must be a whole number from 0 to {MOST_SEED}, not {seed!r}")
    return operator.index(seed)


def _drawn(number: NDArray[np.int64], seed: int, size: int) -> NDArray[np.int64]:
    """A shift for each block from its number and the seed, by the mixing steps of SplitMix64 (Steele et al., 2014).

    The steps are part of the file format: the same in every version of every library.
    """
    state = (number.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    state += np.uint64(seed) << np.uint64(32)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        state = (state ^ (state >> np.uint64(shift))) * np.uint64(factor)
    state ^= state >> np.uint64(31)
    return ((state >> np.uint64(32)) * np.uint64(size) >> np.uint64(32)).astype(np.int64)
