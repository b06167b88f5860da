"""The dense format in torch: plain `nn.Conv2d` and `nn.Linear`."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from dovetail.errors import SpecError
from dovetail.formats.dense.packed import PackedDense
from dovetail.formats.dense.spec import DenseSpec
from dovetail.formats.layer import FormatConv2d, FormatLinear, filled, first_parameter, numpy, weight_shape

DenseLayer = nn.Conv2d | nn.Linear


def from_dense(layer: DenseLayer, spec: DenseSpec) -> DenseLayer:
    """A copy of the layer, its weight rounded to the value type."""
    return from_packed(layer, PackedDense.from_dense(numpy(layer.weight), spec))


def from_packed(like: DenseLayer | FormatConv2d | FormatLinear, packed: PackedDense) -> DenseLayer:
    """An ordinary layer of the packed weight, with the bias and geometry of `like`."""
    if packed.shape != weight_shape(like):
        raise SpecError(f"a packed weight of shape {packed.shape} does not fit a layer of {weight_shape(like)}")
    weight = torch.from_numpy(packed.dense().copy()).to(first_parameter(like))
    if isinstance(like, nn.Linear | FormatLinear):
        return filled(
            nn.Linear(like.in_features, like.out_features, like.bias is not None, device="meta"), weight, like.bias
        )
    return filled(_empty_conv(like), weight, like.bias)


def _empty_conv(like: nn.Conv2d | FormatConv2d) -> nn.Conv2d:
    options: dict[str, Any] = {
        key: getattr(like, key) for key in ("kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
    }
    bias = like.bias is not None
    return nn.Conv2d(like.in_channels, like.out_channels, **options, bias=bias, device="meta")
