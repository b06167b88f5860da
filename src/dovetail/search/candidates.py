"""What a layer could become, and which of that is worth pricing."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from dovetail.errors import SpecError
from dovetail.formats.base import Geometry, Spec, kernel_size
from dovetail.formats.block_circulant import BlockCirculantSpec
from dovetail.formats.block_sparse import BlockSparseSpec
from dovetail.formats.kernel_basis import KernelBasisSpec
from dovetail.formats.kernel_basis.packed import least_macs
from dovetail.formats.permuted_diagonal import PermutedDiagonalSpec
from dovetail.formats.sparse import SparseSpec
from dovetail.formats.svd import SvdSpec
from dovetail.formats.tucker import TuckerSpec
from dovetail.program.layers import LayerShape

MULTIPLES: Final = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
"""Ranks worth pricing, in steps of the target: latency is a staircase, and its wide steps need few samples."""
DENSITIES: Final = (0.5, 0.35, 0.25, 0.18, 0.13, 0.09, 0.065, 0.045, 0.03)
SIZES: Final = (2, 4, 8, 16, 32, 64)
"""Of blocks of which one vector is left."""
WIDE_SIZES: Final = (*SIZES, 128, 256, 512)
"""Of circulant blocks: with large ones only few numbers are left, but each output still reads every input."""
TERNARY: Final = (0.5, 0.35, 0.25, 0.2, 0.15, 0.1, 0.07, 0.05, 0.03)
SHARED: Final = (2, 3, 5)
"""Kernels of a layer of PENNI: five as published, and fewer, which narrow layers need to gain anything."""


@dataclass(frozen=True)
class Candidate:
    """One thing that a group of layers could become.

    Attributes:
        spec: the format; None leaves the layers dense.
        costs: by name, such as "latency" in seconds, of the whole group.
        damage: what it is expected to do to the network's answers before training, in one unit for all layers; 0 for
            dense.
        size: stored numbers; of two that cost the same, the larger one spoils less.
    """

    spec: Spec | None
    costs: Mapping[str, float]
    damage: float = 0.0
    size: int = 0


@dataclass(frozen=True)
class Group:
    """Layers that change together: one layer, or several that are coupled.

    Attributes:
        dense: the first candidate of all: nothing changes.
        others: what the group could become.
    """

    name: str
    dense: Candidate
    others: tuple[Candidate, ...] = ()

    @property
    def all(self) -> tuple[Candidate, ...]:
        """Dense first."""
        return (self.dense, *self.others)


@dataclass(frozen=True)
class Target:
    """What the kernels of a target say about candidates.

    Attributes:
        step: ranks worth having are multiples of this, as the lanes of a vector or a warp.
        block: input channels of a block that one instruction takes.
    """

    step: int = 16
    block: int = 4


Proposer = Callable[[LayerShape, Target], Sequence[Spec]]


def tucker(shape: LayerShape, target: Target) -> list[Spec]:
    """Ranks in steps of the target, or all channels of one side; of layers without a core, two thin ones (SVD)."""
    k, c = shape.weight[:2]
    if kernel_size(shape.weight) == (1, 1):
        return [SvdSpec(rank=rank) for rank in _ranks(min(k, c), target)]
    if shape.groups > 1:
        return []
    sides = [(d1, d2) for d1 in (*_ranks(c, target), c) for d2 in (*_ranks(k, target), k) if (d1, d2) != (c, k)]
    return [TuckerSpec(rank_in=d1, rank_out=d2, fold=d1 == c or d2 == k) for d1, d2 in sides]


def block(shape: LayerShape, target: Target) -> list[Spec]:
    """Densities of blocks of input channels."""
    if shape.weight[1] < target.block:
        return []
    return [BlockSparseSpec(block=target.block, density=density) for density in DENSITIES]


def magnitude(shape: LayerShape, target: Target) -> list[Spec]:
    """Densities of single weights."""
    return [SparseSpec(density=density) for density in DENSITIES]


def escalate(shape: LayerShape, target: Target) -> list[Spec]:
    """Ternary coefficients in blocks, a few bases and densities; of 1x1 and linear layers there is one basis."""
    if shape.groups > 1:
        return []
    taps = math.prod(kernel_size(shape.weight))
    counts = [1] if taps == 1 else [n for n in (3, 4, 6) if n <= taps]
    together = target.block if shape.weight[1] % target.block == 0 else 1
    return [
        KernelBasisSpec(bases=n, coefficients="ternary", block=together, density=density)
        for n in counts
        for density in TERNARY
    ]


def penni(shape: LayerShape, target: Target) -> list[Spec]:
    """Sparse coefficients of a few bases; of a 1x1 convolution there is one basis, of a depthwise one none."""
    if shape.op != "conv2d" or shape.weight[1] == 1 < shape.groups:
        return []
    taps = shape.weight[2] * shape.weight[3]
    counts = [1] if taps == 1 else [n for n in SHARED if n <= taps]
    return [KernelBasisSpec(bases=n, coefficients="sparse", density=density) for n in counts for density in DENSITIES]


def permdnn(shape: LayerShape, target: Target) -> list[Spec]:
    """Permuted diagonals under the natural index, or a random one where such layers would never mix all inputs."""
    if shape.groups > 1:
        return []
    sizes = [size for size in SIZES if size <= min(shape.weight[:2])]
    return [PermutedDiagonalSpec(size=size).mixing(shape.weight, seed=0) for size in sizes]


def circnn(shape: LayerShape, target: Target) -> list[Spec]:
    """Circulant blocks no larger than the layer."""
    if shape.groups > 1:
        return []
    return [BlockCirculantSpec(size=size) for size in WIDE_SIZES if size <= min(shape.weight[:2])]


PROPOSERS: Final[Mapping[str, Proposer]] = MappingProxyType({
    "tucker": tucker,
    "tdc": tucker,
    "block": block,
    "magnitude": magnitude,
    "escalate": escalate,
    "penni": penni,
    "permdnn": permdnn,
    "circnn": circnn,
})  # fmt: skip
"""Method → what it could make of a layer."""


def propose(method: str, shape: LayerShape, target: Target) -> list[Spec]:
    """What `method` could make of a layer that would take fewer multiplications than it does now.

    Raises:
        SpecError: nobody proposes for this method.
    """
    if method not in PROPOSERS:
        raise SpecError(f"no candidates are known for method {method!r}; known are {', '.join(PROPOSERS)}")
    return [spec for spec in PROPOSERS[method](shape, target) if work(spec, shape) < shape.macs]


def work(spec: Spec, shape: LayerShape) -> float:
    """Multiply-accumulates per image of the format's usual order, before anything is packed.

    Of circulant blocks those of as many numbers as are stored: between the transforms there are about twice as many.
    Coefficients of shared kernels are taken to stand at random places.
    """
    at = geometry(shape)
    (k, c), (r, s) = shape.weight[:2], kernel_size(shape.weight)
    if isinstance(spec, TuckerSpec):
        d1, d2 = spec.rank_in, spec.rank_out
        into, out = (not folded for folded in spec.folds(shape.weight))
        return into * c * d1 * at.inputs + (r * s * d1 * d2 + out * d2 * k) * at.outputs
    if isinstance(spec, SvdSpec):
        return spec.rank * (c + k) * at.outputs
    if isinstance(spec, KernelBasisSpec):
        if spec.coefficients == "ternary":
            return min(k, c) * spec.bases * r * s * at.outputs
        density = spec.density or 1.0
        live = round(k * c * (1 - (1 - density) ** spec.bases))
        return least_macs(shape.weight, spec.bases, round(k * c * spec.bases * density), live, at)
    if isinstance(spec, PermutedDiagonalSpec | BlockCirculantSpec):
        return shape.macs / spec.size
    return shape.macs * float(getattr(spec, "density", None) or 1.0)


def stored(spec: Spec | None, shape: LayerShape) -> int:
    """Numbers that the format stores of a layer, by its parameters alone."""
    (k, c), (r, s) = shape.weight[:2], kernel_size(shape.weight)
    whole = k * c * r * s
    if spec is None:
        return whole
    if isinstance(spec, TuckerSpec):
        into, out = (not folded for folded in spec.folds(shape.weight))
        return into * c * spec.rank_in + r * s * spec.rank_in * spec.rank_out + out * spec.rank_out * k
    if isinstance(spec, SvdSpec):
        return spec.rank * (c + k)
    if isinstance(spec, KernelBasisSpec):
        return spec.bases * r * s + round(k * c * spec.bases * (spec.density or 1.0))
    if isinstance(spec, PermutedDiagonalSpec | BlockCirculantSpec):
        return math.prod(spec.grid(shape.weight)) * spec.size * r * s
    return round(whole * float(getattr(spec, "density", None) or 1.0))


def geometry(shape: LayerShape) -> Geometry:
    """Where the layer's weight is applied, per image."""
    (_, *into), (_, *out) = shape.input, shape.output
    return Geometry(shape.steps * math.prod(into), shape.steps * math.prod(out), shape.groups)


def _ranks(channels: int, target: Target) -> list[int]:
    return [rank for rank in (target.step * n for n in MULTIPLES) if rank < channels]
