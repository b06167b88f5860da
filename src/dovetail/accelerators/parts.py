"""A decomposed layer as the plain convolutions that it stands for, so that any machine can run it.

Each part reads what the part before it really gives: where numbers were recorded they are computed; where only a mask
was, a value is taken to be zero if every product of its sum is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final, Literal

import numpy as np

from dovetail.accelerators.workload import Workload
from dovetail.errors import MachineError
from dovetail.formats.kernel_basis import PackedKernelBasis
from dovetail.formats.sparse import PackedSparse, SparseSpec
from dovetail.formats.svd import PackedSvd
from dovetail.formats.tucker import PackedTucker
from dovetail.program.functions import Pads, Pair, conv2d

Array = np.ndarray
Order = Literal["conv_first", "coef_first"]
ORDERS: Final = ("conv_first", "coef_first")
DECOMPOSED: Final = (PackedKernelBasis, PackedTucker, PackedSvd)
"""Weights that stand for several plain convolutions."""


@dataclass(frozen=True)
class Part:
    """A plain convolution: its weight `(K, C/groups, R, S)` and where it is applied."""

    weight: Array
    stride: Pair = (1, 1)
    padding: Pads = (0, 0, 0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1


def as_convolutions(layer: Workload, order: Order = "conv_first") -> tuple[Workload, ...]:
    """The layer as plain convolutions, one after another; a layer that is none of several stays as it is.

    A kernel basis of d bases becomes, `"conv_first"`, d maps of each channel and a sparse 1x1 convolution over them,
    or, `"coef_first"`, a sparse 1x1 convolution to d maps per output and a convolution that sums these with the bases.
    Tucker-2 becomes three convolutions (fewer where factors are in the core), a truncated SVD two.
    """
    if order not in ORDERS:
        raise MachineError(f"unknown order {order!r}; known are {', '.join(ORDERS)}")
    parts = _parts(layer, order)
    if len(parts) == 1:
        return (layer,)
    made: list[Workload] = []
    x, zero = layer.input, layer.zero
    for index, part in enumerate(parts[:-1]):
        workload = _workload(f"{layer.name}/{index}", part, x, zero)
        x, zero = _result(workload), 0
        made.append(replace(workload, output_mask=x != 0))
    last = _workload(f"{layer.name}/{len(made)}", parts[-1], x, zero)
    return (*made, replace(last, output_mask=layer.output_mask))


def _parts(layer: Workload, order: Order) -> list[Part]:
    if isinstance(layer.weight, PackedTucker | PackedSvd) and layer.groups != 1:
        raise MachineError(
            f"layer {layer.name!r}: {layer.weight.spec.format} weights have no groups, not {layer.groups}"
        )
    match layer.weight:
        case PackedKernelBasis():
            return _of_kernel_basis(layer, layer.weight, order)
        case PackedTucker():
            stages = layer.weight.stages()
            return [_plain(layer, w) if name == "core" else Part(w) for name, w in stages.items()]
        case PackedSvd():
            output, inputs = layer.weight.factors()
            return [_plain(layer, _pointwise(inputs)), Part(_pointwise(output))]
        case _:
            return [_plain(layer, np.empty(0))]


def _of_kernel_basis(layer: Workload, packed: PackedKernelBasis, order: Order) -> list[Part]:
    bases, coefficients = packed.factors()
    k, c, d = coefficients.shape
    if order == "conv_first":
        every = np.broadcast_to(bases, (layer.channels, *bases.shape)).reshape(-1, 1, *bases.shape[1:])
        spatial = replace(_plain(layer, every), groups=layer.channels)
        return [spatial, Part(_pointwise(coefficients.reshape(k, c * d)), groups=layer.groups)]
    sums = _pointwise(coefficients.transpose(0, 2, 1).reshape(k * d, c))
    shared = np.broadcast_to(bases, (k, *bases.shape))
    return [Part(sums, groups=layer.groups), replace(_plain(layer, shared), groups=k)]


def _plain(layer: Workload, weight: Array) -> Part:
    return Part(weight, layer.stride, layer.padding, layer.dilation, layer.groups)


def _pointwise(matrix: Array) -> Array:
    return matrix.reshape(*matrix.shape, 1, 1)


def _workload(name: str, part: Part, x: Array, zero: int) -> Workload:
    packed = PackedSparse.from_dense(part.weight, SparseSpec())
    return Workload(name, packed, x, part.stride, part.padding, part.dilation, part.groups, zero)


def _result(layer: Workload) -> Array:
    """What a part gives: numbers, or a mask where its input is one."""
    options: dict[str, Any] = {name: getattr(layer, name) for name in ("stride", "padding", "dilation", "groups")}
    if layer.input.dtype == np.bool_:
        return conv2d(layer.mask.astype(np.float32), layer.weight_mask.astype(np.float32), **options) > 0
    x = layer.input.astype(np.float64) - layer.zero
    weight = layer.weight.dense().astype(np.float64)
    return conv2d(x, weight.reshape(*weight.shape[:2], *layer.kernel), **options)
