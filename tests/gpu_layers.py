"""Tucker layers to try kernels on, and how far from the truth they may be."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

Pair = tuple[int, int]


@dataclass(frozen=True)
class Case:
    """A layer with random weights, and the tiles that are to run it.

    Attributes:
        channels: of the input, D1, D2, of the output.
    """

    name: str
    channels: tuple[int, int, int, int]
    batch: int = 1
    size: Pair = (7, 7)
    kernel: Pair = (3, 3)
    stride: Pair = (1, 1)
    padding: Pair = (1, 1)
    dilation: Pair = (1, 1)
    dtype: str = "float32"
    bias: bool = False
    residual: bool = False
    relu: bool = False
    layout: str = "crsn"
    tiles: str = "1x16x16x16:1:4:3 4x4x16x16:1:4:3 1x16x16x16:1:4:3"

    def __str__(self) -> str:
        return self.name


APART, SPLIT, FUSED = "4x4x16x16:1:4:3", "4x4x16x16:{}:4:3", "4x4x{}x16:1:4:3"
POINT = "1x32x32x16:1:4:3"
SMALL = Case("plain", (5, 3, 4, 6))
CASES = [
    SMALL,
    replace(SMALL, name="half", dtype="float16"),
    replace(SMALL, name="bfloat16", dtype="bfloat16"),
    replace(SMALL, name="two images in a tile", batch=3, size=(5, 6), tiles=f"{POINT} 8x4x16x16:1:4:3 {POINT}"),
    replace(SMALL, name="stride 2", stride=(2, 2), size=(9, 8), batch=2),
    replace(SMALL, name="stride of height alone", stride=(2, 1), size=(6, 5), padding=(0, 1)),
    replace(SMALL, name="no padding", padding=(0, 0)),
    replace(SMALL, name="more padding than kernel", padding=(3, 2), size=(4, 5)),
    replace(SMALL, name="dilated", dilation=(2, 1), padding=(2, 1)),
    replace(SMALL, name="5x5", kernel=(5, 5), padding=(2, 2)),
    replace(SMALL, name="1x3", kernel=(1, 3), padding=(0, 1)),
    replace(SMALL, name="2x2, even", kernel=(2, 2), padding=(0, 1)),
    replace(SMALL, name="1x1", kernel=(1, 1), padding=(0, 0)),
    replace(SMALL, name="map of one pixel", size=(1, 1)),
    replace(SMALL, name="ranks of one", channels=(3, 1, 1, 2)),
    replace(SMALL, name="ragged channels", channels=(19, 17, 33, 18), size=(5, 5)),
    replace(SMALL, name="ragged channels, half", channels=(19, 17, 33, 18), size=(5, 5), dtype="float16"),
    replace(SMALL, name="bias", bias=True),
    replace(SMALL, name="residual", residual=True, batch=2),
    replace(SMALL, name="all at the end", bias=True, residual=True, relu=True, dtype="float16"),
    replace(SMALL, name="ReLU alone", relu=True),
    replace(SMALL, name="core as torch stores it", layout="contiguous"),
    replace(SMALL, name="core channels last", layout="channels_last"),
    replace(SMALL, name="fused", tiles=f"{POINT} {FUSED.format(16)} {POINT} fused"),
    replace(
        SMALL,
        name="fused, all at the end",
        channels=(6, 5, 20, 35),
        bias=True,
        residual=True,
        relu=True,
        batch=2,
        size=(5, 4),
        tiles=f"{POINT} {FUSED.format(32)} 1x16x16x16:1:4:3 fused",
    ),
    replace(SMALL, name="fused, half", dtype="float16", tiles=f"{POINT} {FUSED.format(16)} {POINT} fused"),
    replace(SMALL, name="fused, stride 2", stride=(2, 2), tiles=f"{POINT} {FUSED.format(16)} {POINT} fused"),
    replace(SMALL, name="two splits", channels=(6, 33, 5, 6), size=(4, 4), tiles=f"{POINT} {SPLIT.format(2)} {POINT}"),
    replace(
        SMALL,
        name="splits, all at the end, half",
        channels=(6, 40, 18, 6),
        size=(4, 4),
        dtype="float16",
        bias=True,
        residual=True,
        relu=True,
        tiles=f"{POINT} {SPLIT.format(3)} {POINT}",
    ),
    replace(SMALL, name="more splits than channels", tiles=f"{POINT} {SPLIT.format(4)} {POINT}"),
    replace(SMALL, name="by the model", tiles="model"),
]


QUICK = ("plain", "all at the end", "fused, half", "more splits than channels")
"""One of each kernel."""


def interpreted(*, quick: bool) -> list[Case]:
    """The cases for Triton's interpreter: it multiplies bfloat16 as if its bits were whole numbers."""
    return [case for case in CASES if case.dtype != "bfloat16" and (case.name in QUICK or not quick)]


@dataclass(frozen=True)
class Layer:
    """Tensors of a case."""

    case: Case
    x: Tensor
    weights: tuple[Tensor, Tensor, Tensor]
    bias: Tensor | None
    residual: Tensor | None

    def truth(self, dtype: torch.dtype = torch.float64) -> Tensor:
        """The layer in torch's convolutions, on the CPU, in another type."""
        first, core, last = (weight.cpu().to(dtype) for weight in self.weights)
        case = self.case
        y = F.conv2d(self.x.cpu().to(dtype), first[:, :, None, None])
        y = F.conv2d(y, core, None, case.stride, case.padding, case.dilation)
        y = F.conv2d(y, last[:, :, None, None], None if self.bias is None else self.bias.cpu().to(dtype))
        y = y if self.residual is None else y + self.residual.cpu().to(dtype)
        return y.relu() if case.relu else y


def make(case: Case, device: str = "cpu", seed: int = 0) -> Layer:
    """Weights scaled so that maps keep their size from product to product."""
    random = torch.Generator().manual_seed(seed)
    dtype = getattr(torch, case.dtype)

    def draw(*shape: int, fan: int = 1) -> Tensor:
        return (torch.randn(shape, generator=random) / fan**0.5).to(device, dtype)

    c, d1, d2, k = case.channels
    r, s = case.kernel
    x, first, last = draw(case.batch, c, *case.size), draw(d1, c, fan=c), draw(k, d2, fan=d2)
    core = draw(d2, d1, r, s, fan=d1 * r * s)
    if case.layout == "crsn":
        core = core.permute(2, 3, 1, 0).contiguous().permute(3, 2, 0, 1)
    elif case.layout == "channels_last":
        core = core.contiguous(memory_format=torch.channels_last)
    bias = draw(2 * k)[::2] if case.bias else None
    layer = Layer(case, x, (first, core, last), bias, None)
    return replace(layer, residual=draw(*layer.truth().shape)) if case.residual else layer


def error(got: Tensor, want: Tensor) -> float:
    """The largest difference, relative to the range of what is wanted."""
    scale = float(want.abs().max()) or 1.0
    return float((got.cpu().double() - want).abs().max()) / scale


def allowed(layer: Layer) -> float:
    """Twice the error of torch's own convolutions in the same type, and one rounding of the result."""
    plain = error(layer.truth(layer.x.dtype), layer.truth())
    return 2 * plain + torch.finfo(layer.x.dtype).eps
