"""Workloads of random masks, where only shapes and densities are known."""

from __future__ import annotations

from typing import Final

import numpy as np

from dovetail.accelerators.workload import Mask, Workload
from dovetail.errors import MachineError
from dovetail.formats.sparse import PackedSparse, SparseSpec
from dovetail.program.functions import Pads, Pair

SPREAD: Final = 0.15  # standard deviation of the densities of channels [chosen]


def drawn(
    name: str,
    weight: tuple[int, int, int, int],
    size: Pair,
    *,
    weight_density: float = 1.0,
    input_density: float = 1.0,
    seed: int,
    images: int = 1,
    stride: Pair = (1, 1),
    padding: Pads = (0, 0, 0, 0),
    groups: int = 1,
    correlated: bool = True,
) -> Workload:
    """A layer whose zeros are drawn.

    Args:
        name: of the layer.
        weight: its dense shape, `(K, C/groups, R, S)`.
        size: (H, W) of the input.
        weight_density: expected share of the weight that is not zero.
        input_density: expected share of the input that is not zero.
        seed: equal seeds give equal layers.
        images: N.
        stride: of the convolution.
        padding: top, bottom, left, right.
        groups: of the convolution.
        correlated: filters, and channels of the input, differ in density, as those of real networks do.
    """
    random = np.random.default_rng(seed)
    kept = mask(weight, 0, weight_density, random, correlated)
    values = np.where(kept, random.choice(np.array([-1, 1], np.float32), weight), np.float32(0))
    inputs = mask((images, weight[1] * groups, *size), 1, input_density, random, correlated)
    packed = PackedSparse.from_dense(values, SparseSpec())
    return Workload(name, packed, inputs, stride, padding, groups=groups)


def mask(
    shape: tuple[int, ...], axis: int, density: float, random: np.random.Generator, correlated: bool = True
) -> Mask:
    """True with probability `density`; the probability of each index along `axis` is drawn where `correlated`."""
    if not 0 <= density <= 1:
        raise MachineError(f"a density is a number from 0 to 1, not {density!r}")
    shared = [1] * len(shape)
    shared[axis] = shape[axis]
    each = densities(density, shape[axis], random) if correlated else np.full(shape[axis], density)
    drawn_mask: Mask = random.random(shape) < each.reshape(shared)
    return drawn_mask


def densities(mean: float, count: int, random: np.random.Generator) -> np.ndarray:
    """`count` densities from a Beta distribution of the mean and of standard deviation `SPREAD`.

    Near 0 and 1 the deviation is `mean (1 - mean)`, where that is smaller: with more the distribution would have its
    peaks at the ends, as if whole channels were gone.
    """
    rest = mean * (1 - mean)
    if not rest:
        return np.full(count, mean)
    total = rest / min(SPREAD, rest) ** 2 - 1
    return random.beta(mean * total, (1 - mean) * total, count)
