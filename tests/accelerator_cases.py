"""Layers made by hand, for tests of accelerators."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from dovetail.accelerators.draw import drawn
from dovetail.accelerators.workload import Workload
from dovetail.formats import (
    BlockCirculantSpec,
    KernelBasisSpec,
    PackedBlockCirculant,
    PackedKernelBasis,
    PackedPermutedDiagonal,
    PermutedDiagonalSpec,
)
from dovetail.formats.sparse import PackedSparse, SparseSpec
from dovetail.formats.values import F32, INT8, TERNARY, Values


def dense_layer(k: int, c: int, kernel: tuple[int, int], size: tuple[int, int], **options: Any) -> Workload:
    """Ones everywhere; `c` channels per group; `images` of them."""
    weight = PackedSparse.from_dense(np.ones((k, c, *kernel), np.float32), SparseSpec())
    images, groups = options.pop("images", 1), options.get("groups", 1)
    return Workload("layer", weight, np.ones((images, c * groups, *size), np.bool_), **options)


def masked_layer(weight: Any, inputs: Any, **options: Any) -> Workload:
    """From masks (or numbers) of shape `(K, C/groups, R, S)` and `(N, C, H, W)`."""
    packed = PackedSparse.from_dense(np.asarray(weight, np.float32), SparseSpec())
    return Workload("layer", packed, np.asarray(inputs), **options)


def basis_layer(
    coefficients: Any, inputs: Any, kernel: tuple[int, int], values: Values = F32, kind: Any = "ternary", **options: Any
) -> Workload:
    """Coefficients `(K, C/groups, M)` of -1, 0 and 1 (or of another `kind`) on bases of ones and twos in turn."""
    signs = np.asarray(coefficients, np.float32)
    bases = np.resize(np.array([1, 2], np.float32), (signs.shape[2], *kernel))
    spec = KernelBasisSpec(bases=signs.shape[2], coefficients=kind, values=values)
    return Workload("layer", PackedKernelBasis.from_factors(bases, signs, spec), np.asarray(inputs), **options)


def ternary_layer(signs: Any, inputs: Any, **options: Any) -> Workload:
    """A weight `(K, C/groups)` or `(K, C/groups, R, S)` of -1, 0 and 1 that is stored as such."""
    packed = PackedSparse.from_dense(np.asarray(signs, np.float32), SparseSpec(values=TERNARY))
    return Workload("layer", packed, np.asarray(inputs), **options)


@st.composite
def basis_layers(draw: Any, codes: bool = False) -> Workload:
    """Small decomposed layers, the coefficients mostly ternary; over masks, or over codes."""
    random, groups = np.random.default_rng(draw(st.integers(0, 999))), draw(st.sampled_from([1, 1, 2]))
    kernel = draw(st.sampled_from([(3, 3), (1, 2), (3, 1), (1, 1)]))
    bases = draw(st.integers(1, kernel[0] * kernel[1]))
    shape = draw(st.integers(1, 5)) * groups, draw(st.integers(1, 9)), bases
    size = kernel[0] + draw(st.integers(0, 4)), kernel[1] + draw(st.integers(0, 4))
    kind = draw(st.sampled_from(["ternary", "ternary", "sparse", "dense"]))
    signs = random.choice([-1, 1], shape) if kind == "ternary" else random.integers(-127, 128, shape)
    signs = signs * (random.random(shape) < draw(st.sampled_from([0.0, 0.3, 1.0])))
    inputs = random.integers(0, 4, (draw(st.integers(1, 2)), shape[1] * groups, *size))
    zero = draw(st.integers(0, 2)) if codes else 0
    return basis_layer(
        signs,
        inputs.astype(np.uint8) if codes else inputs > draw(st.integers(-1, 3)),
        kernel,
        INT8,
        kind,
        stride=(draw(st.integers(1, 2)), draw(st.integers(1, 2))),
        padding=tuple(draw(st.integers(0, 1)) for _ in range(4)),
        groups=groups,
        zero=zero,
    )


def diagonal_layer(
    shape: tuple[int, ...], size: int, inputs: Any, index: Any = "natural", seed: int = 0, **options: Any
) -> Workload:
    """Permuted diagonals of whole numbers from 1 to 8; inputs `(N, C, H, W)`, or of a linear layer `(N, C)`."""
    random = np.random.default_rng(seed)
    spec = PermutedDiagonalSpec(size=size, index=index, seed=seed if index == "random" else None)
    shifts = random.integers(0, size, spec.grid(shape)) if index == "searched" else spec.shifts(shape)
    values = random.integers(1, 9, (*spec.grid(shape), size, *shape[2:])).astype(np.float32)
    packed = PackedPermutedDiagonal.from_diagonals(values, spec, shape, shifts)
    return Workload("layer", packed, _images(inputs), **options)


def circulant_layer(shape: tuple[int, ...], size: int, inputs: Any, **options: Any) -> Workload:
    """Circulant blocks of ones; inputs `(N, C, H, W)`, or of a linear layer `(N, C)`."""
    spec = BlockCirculantSpec(size=size)
    columns = np.ones((*spec.grid(shape), size, *shape[2:]), np.float32)
    packed = PackedBlockCirculant.from_columns(columns, spec, shape)
    return Workload("layer", packed, _images(inputs), **options)


def _images(inputs: Any) -> np.ndarray:
    x = np.asarray(inputs)
    return x.reshape(*x.shape, 1, 1) if x.ndim == 2 else x


@st.composite
def diagonal_layers(draw: Any) -> Workload:
    """Small layers of permuted diagonals, of sizes that do not divide the weight too, over whole numbers."""
    random, groups = np.random.default_rng(draw(st.integers(0, 999))), draw(st.sampled_from([1, 1, 2]))
    kernel = draw(st.sampled_from([(1, 1), (1, 1), (2, 1), (2, 2)]))
    filters, channels = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    size = draw(st.integers(1, min(filters * groups, channels, 4)))
    shape = (draw(st.integers(1, 2)), channels * groups, kernel[0] + draw(st.integers(0, 2)), kernel[1])
    inputs = random.integers(-3, 4, shape) * (random.random(shape) < draw(st.sampled_from([0.0, 0.2, 1.0])))
    return diagonal_layer(
        (filters * groups, channels, *kernel),
        size,
        inputs,
        draw(st.sampled_from(["natural", "random", "searched"])),
        stride=(draw(st.integers(1, 2)), 1),
        padding=tuple(draw(st.integers(0, 1)) for _ in range(4)),
        groups=groups,
        zero=draw(st.integers(0, 1)),
    )


@st.composite
def layers(draw: Any, most: int = 6) -> Workload:
    """Small layers of any shape and density."""
    number = st.integers(1, most)
    groups = draw(st.sampled_from([1, 1, 1, 2]))
    kernel = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    size = kernel[0] + draw(st.integers(0, most)), kernel[1] + draw(st.integers(0, most))
    density = st.sampled_from([0.0, 0.1, 0.5, 1.0])
    return drawn(
        "layer",
        (draw(number) * groups, draw(number), *kernel),
        size,
        weight_density=draw(density),
        input_density=draw(density),
        seed=draw(st.integers(0, 99)),
        images=draw(st.integers(1, 2)),
        stride=(draw(st.integers(1, 2)), draw(st.integers(1, 2))),
        padding=tuple(draw(st.integers(0, 1)) for _ in range(4)),
        groups=groups,
    )


def slow_effective_macs(layer: Workload) -> int:
    """The definition, one multiply-accumulate at a time."""
    weight, mask = layer.weight_mask, layer.mask
    k_per_group, c_per_group = layer.outputs // layer.groups, weight.shape[1]
    found = 0
    for n, k, e, f in np.ndindex(*layer.out_shape):
        for c, r, s in np.ndindex(*weight.shape[1:]):
            h = e * layer.stride[0] + r * layer.dilation[0] - layer.padding[0]
            w = f * layer.stride[1] + s * layer.dilation[1] - layer.padding[2]
            inside = 0 <= h < layer.size[0] and 0 <= w < layer.size[1]
            channel = k // k_per_group * c_per_group + c
            found += bool(inside and weight[k, c, r, s] and mask[n, channel, h, w])
    return found
