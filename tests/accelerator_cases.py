"""Layers made by hand, for tests of accelerators."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from dovetail.accelerators.draw import drawn
from dovetail.accelerators.workload import Workload
from dovetail.formats.sparse import PackedSparse, SparseSpec


def dense_layer(k: int, c: int, kernel: tuple[int, int], size: tuple[int, int], **options: Any) -> Workload:
    """Ones everywhere; `c` channels per group; `images` of them."""
    weight = PackedSparse.from_dense(np.ones((k, c, *kernel), np.float32), SparseSpec())
    images, groups = options.pop("images", 1), options.get("groups", 1)
    return Workload("layer", weight, np.ones((images, c * groups, *size), np.bool_), **options)


def masked_layer(weight: Any, inputs: Any, **options: Any) -> Workload:
    """From masks (or numbers) of shape `(K, C/groups, R, S)` and `(N, C, H, W)`."""
    packed = PackedSparse.from_dense(np.asarray(weight, np.float32), SparseSpec())
    return Workload("layer", packed, np.asarray(inputs), **options)


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
