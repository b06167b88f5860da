"""Depthwise convolutions straight from the planes: nothing is dealt into phases, a stride is taken while loading."""

from __future__ import annotations

import numpy as np

from dovetail.engine.builder import Builder
from dovetail.engine.conv import (
    Epilogue,
    Geometry,
    allow_reads,
    allow_whole_vectors,
    as_it_lies,
    epilogue_fields,
    plane_fields,
    row_runs,
)
from dovetail.engine.layout import View, round_up

KERNELS, STRIDES = (3, 5), (1, 2)


def fits(kernel: tuple[int, ...], stride: tuple[int, int], dilation: tuple[int, int]) -> bool:
    """Whether the kernel has these taps and this stride."""
    square = len(set(kernel)) == 1 and kernel[0] in KERNELS and stride[0] == stride[1]
    return square and stride[0] in STRIDES and dilation == (1, 1)


def conv_depthwise(b: Builder, x: View, weight: np.ndarray, y: View, at: Geometry, epilogue: Epilogue) -> None:
    """As `conv_dense` where every input channel has one output: the weight is `(C, 1, K, K)`."""
    side, stride = weight.shape[2], at.stride[0]
    x, pitch = as_it_lies(b, x, weight.shape[2:], y, at)
    first = -at.padding[0] * pitch - at.padding[2]
    runs, masks = row_runs(y, b.lanes, first, stride * pitch)
    assert y.planes is not None
    rest = int(runs[-1, 2]) - y.planes.pitch
    runs[-1, 2] -= rest
    allow_reads(x, int(runs[-1, 0]) + (side - 1) * (pitch + 1) + stride * round_up(y.planes.pitch, b.lanes))
    allow_whole_vectors(b, epilogue.residual)
    bias = None if epilogue.bias is None else b.constant(epilogue.bias.astype(np.float32))
    b.emit(
        "conv2d_depthwise_f32",
        {"x": x, "weight": b.constant(weight.astype(np.float32)), "bias": bias, "residual": epilogue.residual,
         "runs": b.constant(runs), "masks": b.constant(masks)},
        {"y": y}, disjoint=True, **plane_fields(x, y), **epilogue_fields(epilogue), run_count=len(runs),
        channels=weight.shape[0], side=side, stride=stride, rest=rest, x_row=pitch,
        work=weight[0].size * y.shape[0] * y.shape[1] * y.shape[2] * y.shape[3],
    )  # fmt: skip
