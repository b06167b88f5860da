"""How far the classes of two natural layers mix where one follows the other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dovetail.errors import SpecError
from dovetail.formats.base import Shape
from dovetail.formats.permuted_diagonal.spec import PermutedDiagonalSpec


@dataclass(frozen=True)
class Reach:
    """The share of the classes of the layer before that an output reaches, as the mean of all outputs.

    Attributes:
        best: if no two of its inputs were of one class.
        found: as it is.
    """

    best: float
    found: float

    @property
    def mixes(self) -> bool:
        """Whether more than half of what could be reached is; a random index reaches 63 % and more on average."""
        return 2 * self.found > self.best


def reach(before: PermutedDiagonalSpec, first: Shape, after: PermutedDiagonalSpec, second: Shape) -> Reach:
    """What the outputs of a natural layer of shape `second` reach of a natural one of shape `first` before it.

    An output reads the inputs of its class (`PermutedDiagonalSpec.classes`), and each of these, as an output of the
    layer before, reads one class there. Where the layer before is a convolution whose maps are flattened, each of its
    outputs stands for as many inputs, one after another.

    Raises:
        SpecError: an index is not natural, or the inputs are no multiple of the outputs before.
    """
    if (before.index, after.index) != ("natural", "natural"):
        raise SpecError(
            f"permuted_diagonal: only layers of natural indices have classes to reach, not a {before.index} and a "
            f"{after.index} one"
        )
    if second[1] % first[0]:
        raise SpecError(
            f"permuted_diagonal: {second[1]} inputs are no multiple of the {first[0]} outputs of the layer before, so "
            f"they are not those outputs"
        )
    _, outputs, _ = before.classes(first)
    class_of = np.empty(outputs.size, np.int64)
    class_of[outputs] = np.arange(before.size)[:, None]
    inputs, read_by, _ = after.classes(second)
    channels = [np.unique(read[read < second[1]] // (second[1] // first[0])) for read in inputs]
    readers = np.count_nonzero(read_by < second[0], axis=1) / second[0] / before.size
    best = np.array([min(before.size, len(each)) for each in channels])
    found = np.array([len(np.unique(class_of[each])) for each in channels])
    return Reach(best=float(readers @ best), found=float(readers @ found))
