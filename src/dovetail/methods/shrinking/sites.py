"""A weight op, the channels at both of its ends, and what silent inputs do to its outputs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from dovetail.methods.shrinking.tracks import Bools, Floats, Ints


@dataclass(frozen=True)
class Site:
    """A convolution or linear layer of the Program.

    Attributes:
        name: the node's.
        inputs: atoms of the input channels, `(C,)`.
        outputs: atoms of the output channels, `(K,)`.
        weight: dense, `(K, C/groups, R, S)` or `(K, C)`.
        silent: which inputs carry no signal, `(C,)`.
        level: their value, NaN where it is not the same on the whole map.
        padded: whether zeros surround the input, so that a level does not stay uniform.
        groups: of the convolution.
        positions: `(inputs, outputs)` per image where the weight is applied.
        scaled: whether a norm's scale follows.
        biased: whether a bias follows, the layer's own or a norm's.
        together: how many neighbouring outputs, counted from the first, share the places of their coefficients; they
            leave together or not at all, or each would need places of its own.
    """

    name: str
    inputs: Ints
    outputs: Ints
    weight: Floats
    silent: Bools
    level: Floats
    padded: bool = False
    groups: int = 1
    positions: tuple[int, int] = (1, 1)
    scaled: bool = False
    biased: bool = False
    together: int = 1

    @property
    def depthwise(self) -> bool:
        """Each output reads one input only, and is the same channel."""
        return is_depthwise(self.weight, self.groups)

    @property
    def reader(self) -> bool:
        """Every output may read every input: the columns of the weight can be removed one by one."""
        return self.groups == 1

    @property
    def energy(self) -> Floats:
        """`(K, C/groups)`: sum of squares of every kernel."""
        return np.square(_kernels(self.weight)).sum(axis=2)

    @cached_property
    def reads(self) -> Bools:
        """`(K, C/groups)`: which outputs read which inputs through a weight that is not zero."""
        return _kernels(self.weight != 0).any(axis=2)

    @cached_property
    def gain(self) -> Floats:
        """`(K, C/groups)`: what an output gets per unit of a uniform input, away from the borders."""
        return _kernels(self.weight).sum(axis=2)

    @cached_property
    def harmless(self) -> Bools:
        """`(C,)`: silent inputs that reach every output as one known constant."""
        uniform = self.silent & ~np.isnan(self.level)
        return uniform & (self.level == 0) if self.padded else uniform

    def removable(self, foldable: bool) -> Bools:
        """`(C,)`: harmless inputs; those that are not zero only where their constant can be `foldable`."""
        return self.harmless if foldable else self.harmless & (self.level == 0)

    def constants(self, inputs: Bools) -> Floats:
        """`(K,)`: what the harmless ones among `inputs` add to every output."""
        return self.gain @ np.where(inputs & self.harmless, self.level, 0.0)

    def fan(self) -> tuple[Bools, Floats]:
        """Silence and level of the outputs, `(K,)` each, before the epilogue."""
        if self.groups > 1 and not self.depthwise:
            k = len(self.weight)
            return np.zeros(k, dtype=bool), np.full(k, np.nan)
        return self._fan_depthwise() if self.depthwise else self._fan_dense()

    def _fan_dense(self) -> tuple[Bools, Floats]:
        reads = self.reads
        silent = ~(reads & ~self.silent).any(axis=1)
        known = ~(reads & ~self.harmless).any(axis=1)
        return silent, np.where(known, self.constants(self.silent), np.nan)

    def _fan_depthwise(self) -> tuple[Bools, Floats]:
        source = np.arange(len(self.weight)) // (len(self.weight) // len(self.inputs))
        reads, gain = self.reads[:, 0], self.gain[:, 0]
        silent = ~reads | self.silent[source]
        level = gain * np.where(self.harmless, self.level, np.nan)[source]
        return silent, np.where(reads, level, 0.0)


def is_depthwise(weight: Floats, groups: int) -> bool:
    """One input per group, more than one group."""
    return groups > 1 and weight.shape[1] == 1


def _kernels(array: np.ndarray) -> np.ndarray:
    return array.reshape(*array.shape[:2], -1)
