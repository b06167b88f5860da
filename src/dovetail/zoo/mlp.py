"""Networks of linear layers alone: LeNet-300-100 (LeCun et al. 1998, section III.C.4) and two of our own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from dovetail.errors import RecipeError
from dovetail.zoo.layers import positive
from dovetail.zoo.registry import network


class Mlp(nn.Sequential):
    """Flattened images through linear layers `0`, `2`, ... with ReLU between them."""

    def __init__(self, features: Sequence[int]) -> None:
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(features):
            layers += [nn.Linear(inputs, outputs), nn.ReLU(inplace=True)]
        super().__init__(*layers[:-1])

    def forward(self, x: Tensor) -> Tensor:
        """`(N, in_channels, H, W)` to `(N, classes)`."""
        scores: Tensor = super().forward(x.flatten(1))
        return scores


@network("mlp")
@network("lenet300100", hidden=(300, 100))
@network("mlp512", hidden=(512,))
def mlp(
    *, hidden: Sequence[int] = (512,), in_channels: int = 1, classes: int = 10, size: int | Sequence[int] = 28
) -> Mlp:
    """For images of height and width `size`; `hidden` are the widths of the layers between."""
    positive(in_channels=in_channels, classes=classes)
    return Mlp([in_channels * math.prod(height_and_width(size)), *hidden, classes])


@network("mlp_digits")
def mlp_digits(*, in_channels: int = 1, classes: int = 10, size: int | Sequence[int] = (64, 32)) -> Mlp:
    """For spoken digits as pictures, 64 frames of 32 mel bands: two hidden layers of 512."""
    return mlp(hidden=(512, 512), in_channels=in_channels, classes=classes, size=size)


def height_and_width(size: int | Sequence[int]) -> tuple[int, int]:
    """`RecipeError` unless it is one positive integer, or two."""
    sizes = tuple(size) if isinstance(size, list | tuple) else (size, size)
    if len(sizes) != 2 or not all(isinstance(each, int) and each > 0 for each in sizes):
        raise RecipeError(f"option size={size!r} must be a positive integer, or a height and a width such as [64, 32]")
    return sizes
