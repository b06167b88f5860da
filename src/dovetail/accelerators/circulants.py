"""A layer as circulant blocks; any other layer is one of blocks of size 1, which is dense."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dovetail.accelerators.workload import Workload
from dovetail.errors import MachineError
from dovetail.formats.block_circulant import PackedBlockCirculant


@dataclass(frozen=True)
class Circulants:
    """Blocks of a layer, those of all groups together.

    Attributes:
        size: k, a power of two; 1 for a dense layer.
        rows: of blocks. A block whose outputs are of two groups counts in each.
        columns: of blocks, with those of all groups.
        pairs: blocks of the weight, at each place of the kernel.
        taps: places of the kernel.
        stored: numbers of the weight, with the filling of the last blocks.
    """

    size: int
    rows: int
    columns: int
    pairs: int
    taps: int
    stored: int

    @property
    def levels(self) -> int:
        """Of the Fourier transform of a block."""
        return self.size.bit_length() - 1

    @property
    def butterflies(self) -> int:
        """Of a transform of real numbers: half of those of a complex one; up to two numbers only add."""
        return self.size // 4 * self.levels

    @property
    def bins(self) -> int:
        """Complex numbers of a spectrum of real numbers; the one number of a dense layer is real."""
        return self.size // 2 + 1


def circulants_of(layer: Workload, what: str) -> Circulants:
    """The blocks that the weight of a layer is packed as.

    Raises:
        MachineError: their size is no power of two; `what` names the machine that asks for one.
    """
    size = layer.weight.spec.size if isinstance(layer.weight, PackedBlockCirculant) else 1
    if size & (size - 1):
        raise MachineError(
            f"layer {layer.name!r} has circulant blocks of {size}; {what} transforms blocks of a power of two: "
            f"train it with blocks of {1 << (size.bit_length() - 1)} or {1 << size.bit_length()}"
        )
    filters, columns, taps = layer.outputs // layer.groups, -(-layer.weight.shape[1] // size), math.prod(layer.kernel)
    rows = sum(-(-(first + filters) // size) - first // size for first in range(0, layer.outputs, filters))
    stored = -(-layer.outputs // size) * columns * taps * size
    return Circulants(size, rows, layer.groups * columns, rows * columns, taps, stored)
