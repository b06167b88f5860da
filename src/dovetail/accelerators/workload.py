"""A workload: one layer as a machine sees it, with its real packed weight and the input that it met on real images."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dovetail.errors import InputError, MachineError
from dovetail.formats.base import Packed
from dovetail.formats.dense import DenseSpec, PackedDense
from dovetail.program.functions import Pads, Pair, windows

Mask = NDArray[np.bool_]
Counts = NDArray[np.int64]
CODES: Final = (-128, 255)
"""What codes of 8 bits reach, of either sign."""


@dataclass(frozen=True, eq=False)
class Workload:
    """One convolution over N images; a linear layer is a 1x1 convolution of as many 1x1 images as it has rows.

    Attributes:
        name: of the layer in the model.
        weight: as packed; dense shape `(K, C/groups, R, S)` or `(K, C)`.
        input: what the layer read, `(N, C, H, W)`: codes of 8 bits, finite floating point numbers, or a mask of what is
            not zero.
        zero: the code that stands for zero.
        output_mask: where the layer's result, after its activation, is not zero, `(N, K, E, F)`; None: everywhere.
        input_on_chip: the input is left on the chip by the layer before, where a machine can keep it.
        output_on_chip: the output stays there for the next layer.
    """

    name: str
    weight: Packed
    input: NDArray[Any]
    stride: Pair = (1, 1)
    padding: Pads = (0, 0, 0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1
    zero: int = 0
    output_mask: Mask | None = None
    input_on_chip: bool = False
    output_on_chip: bool = False

    def __post_init__(self) -> None:
        what = f"layer {self.name!r}"
        if self.input.ndim != 4 or not self.input.size:
            raise MachineError(f"{what}: its input must be (N, C, H, W) and not empty, not of shape {self.input.shape}")
        self._require_values(what)
        if self.groups < 1 or self.channels != self.groups * self.weight.shape[1] or self.outputs % self.groups:
            raise MachineError(
                f"{what}: {self.channels} channels in {self.groups} groups do not fit a weight of {self.weight.shape}"
            )
        if min(self.stride + self.dilation) < 1 or min(self.padding) < 0 or min(self.out_size) < 1:
            raise MachineError(
                f"{what}: no kernel {self.kernel} with stride {self.stride}, padding {self.padding} and dilation "
                f"{self.dilation} fits into {self.size}"
            )
        if self.output_mask is not None and self.output_mask.shape != self.out_shape:
            raise MachineError(f"{what}: its output mask is {self.output_mask.shape}; the output is {self.out_shape}")

    def _require_values(self, what: str) -> None:
        """`MachineError` where the input is no mask, no number and no code of 8 bits; `InputError` where not finite."""
        kind, (least, most) = self.input.dtype.kind, CODES
        if kind == "f" and not np.isfinite(self.input).all():
            raise InputError(f"{what} reads NaN or infinity; the weights before it or the scale of the inputs are off")
        if kind not in "biuf":
            raise MachineError(f"{what}: its input holds {self.input.dtype}, not numbers, codes or a mask")
        reached = (int(self.input.min()), int(self.input.max()), self.zero) if kind in "iu" else (self.zero,)
        if min(reached) < least or max(reached) > most:
            raise MachineError(
                f"{what}: its input reaches from {min(reached)} to {max(reached)}, the code for zero included; "
                f"codes of 8 bits lie between {least} and {most}"
            )

    @property
    def images(self) -> int:
        """N."""
        return int(self.input.shape[0])

    @property
    def channels(self) -> int:
        """C, of all groups."""
        return int(self.input.shape[1])

    @property
    def outputs(self) -> int:
        """K."""
        return self.weight.shape[0]

    @property
    def size(self) -> Pair:
        """(H, W) of the input."""
        return int(self.input.shape[2]), int(self.input.shape[3])

    @property
    def kernel(self) -> Pair:
        """(R, S)."""
        return (self.weight.shape[2], self.weight.shape[3]) if len(self.weight.shape) == 4 else (1, 1)

    @property
    def padded(self) -> Pair:
        """(H, W) of the input with its border."""
        top, bottom, left, right = self.padding
        return self.size[0] + top + bottom, self.size[1] + left + right

    @property
    def out_size(self) -> Pair:
        """(E, F) of the output."""
        rows, columns = (
            (size - d * (k - 1) - 1) // s + 1
            for size, k, s, d in zip(self.padded, self.kernel, self.stride, self.dilation)
        )
        return rows, columns

    @property
    def out_shape(self) -> tuple[int, int, int, int]:
        """(N, K, E, F)."""
        return self.images, self.outputs, *self.out_size

    @property
    def positions(self) -> int:
        """N E F: output positions of all images."""
        return self.images * math.prod(self.out_size)

    @property
    def dense_macs(self) -> int:
        """N K C/groups R S E F: multiply-accumulates of a machine that skips nothing, borders included."""
        return math.prod(self.weight.shape) * self.positions

    @cached_property
    def mask(self) -> Mask:
        """True where the input is not zero, `(N, C, H, W)`."""
        if self.input.dtype == np.bool_:
            return self.input
        mask: Mask = self.input != self.zero
        return mask

    @cached_property
    def weight_mask(self) -> Mask:
        """True where the dense weight is not zero, `(K, C/groups, R, S)`."""
        dense = self.weight.dense()
        mask: Mask = (dense != 0).reshape(*dense.shape[:2], *self.kernel)
        return mask

    @cached_property
    def taps(self) -> Counts:
        """How many input values that are not zero each tap of the kernel meets, `(C, R, S)`, over all positions."""
        patches, (rows, columns) = self.patches, self.kernel
        counts = np.empty((self.channels, rows, columns), np.int64)
        for r in range(rows):
            for s in range(columns):
                counts[:, r, s] = patches[..., r, s].sum(axis=(0, 2, 3))
        return counts

    @property
    def patches(self) -> Mask:
        """The mask under the kernel at each position, `(N, C, E, F, R, S)`; a view of the padded mask."""
        top, bottom, left, right = self.padding
        mask = np.pad(self.mask, ((0, 0), (0, 0), (top, bottom), (left, right)))
        return windows(mask, self.kernel, self.stride, self.dilation)

    @cached_property
    def input_macs(self) -> int:
        """Multiply-accumulates whose input is not zero, whatever the weight."""
        return int(self.taps.sum()) * (self.outputs // self.groups)

    @cached_property
    def effective_macs(self) -> int:
        """Multiply-accumulates of which neither operand is zero, exactly.

        The convolution of the two masks, summed over all outputs: the sum over outputs is taken first.
        """
        k, c, *kernel = self.weight_mask.shape
        weights = self.weight_mask.reshape(self.groups, k // self.groups, c, *kernel).sum(axis=1, dtype=np.int64)
        return int((weights.reshape(self.taps.shape) * self.taps).sum())

    @property
    def input_density(self) -> float:
        """Share of the input that is not zero."""
        return float(self.mask.mean())

    @property
    def output_nonzeros(self) -> int:
        """Values of the output that are not zero; all, where that is not known."""
        return math.prod(self.out_shape) if self.output_mask is None else int(self.output_mask.sum())

    def recomposed(self) -> Workload:
        """The same layer with its weight multiplied out, dense."""
        return replace(self, weight=PackedDense.from_dense(self.weight.dense(), DenseSpec()))
