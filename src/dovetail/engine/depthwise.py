"""Depthwise convolutions straight from planes without halos: a stride is taken while loading, padding is left out."""

from __future__ import annotations

import numpy as np

from dovetail.engine.builder import Builder
from dovetail.engine.conv import (
    Epilogue,
    Geometry,
    allow_reads,
    allow_whole_vectors,
    epilogue_fields,
    plane_fields,
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
    x, out = b.as_planar(x, x.planes), y.planes
    assert out is not None
    (height, width), x_row, (top, _, left, _) = x.shape[2:], x.strides[2], at.padding
    allow_reads(x, (height - 1) * x_row - left + stride * round_up(out.width, b.lanes) + side - 1)
    allow_whole_vectors(b, epilogue.residual)
    bias = None if epilogue.bias is None else b.constant(epilogue.bias.astype(np.float32))
    b.emit(
        "conv2d_depthwise_f32",
        {"x": x, "weight": b.constant(weight.astype(np.float32)), "bias": bias, "residual": epilogue.residual},
        {"y": y}, disjoint=True, **plane_fields(x, y), **epilogue_fields(epilogue), channels=weight.shape[0],
        side=side, stride=stride, pad_top=top, pad_left=left, x_height=height, x_width=width, x_row=x_row,
        height=out.height, width=out.width, y_row=out.pitch, room=out.body,
        work=weight[0].size * y.shape[0] * y.shape[1] * y.shape[2] * y.shape[3],
    )  # fmt: skip
