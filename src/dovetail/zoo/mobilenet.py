"""MobileNetV2 (Sandler et al. 2018) with torchvision's key names; also folded and padded as TensorFlow has it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from dovetail.zoo.layers import choose, initialise, positive, scaled
from dovetail.zoo.normalisation import SYMMETRIC
from dovetail.zoo.registry import Weights, network

# Table 2 of the paper: expansion, channels, blocks, stride of the first block.
_STAGES = (
    (1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)
)  # fmt: skip


@dataclass(frozen=True)
class Style:
    """Folded: convolutions with a bias and no norm. TensorFlow: stride 2 pads right and bottom only."""

    folded: bool
    tensorflow: bool


class ConvNorm(nn.Sequential):
    """Convolution, norm (unless folded) and ReLU6; `pads` are (left, right, top, bottom) zeros before it."""

    def __init__(
        self, inputs: int, outputs: int, style: Style, *, kernel: int = 1, stride: int = 1, groups: int = 1
    ) -> None:
        one_sided = style.tensorflow and stride == 2
        padding = 0 if one_sided else kernel // 2
        conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=style.folded)
        super().__init__(conv, *_norm(outputs, style), nn.ReLU6(inplace=True))
        self.pads = (0, 1, 0, 1) if one_sided else None

    def forward(self, x: Tensor) -> Tensor:
        """`(N, inputs, H, W)` to `(N, outputs, H / stride, W / stride)`."""
        return super().forward(x if self.pads is None else F.pad(x, self.pads))


class InvertedResidual(nn.Module):
    """Expansion 1x1, depthwise 3x3, projection 1x1 without activation; a residual where the shapes agree."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int, style: Style) -> None:
        super().__init__()
        hidden = inputs * expansion
        expand = [] if expansion == 1 else [ConvNorm(inputs, hidden, style)]
        self.conv = nn.Sequential(
            *expand,
            ConvNorm(hidden, hidden, style, kernel=3, stride=stride, groups=hidden),
            nn.Conv2d(hidden, outputs, 1, bias=style.folded),
            *_norm(outputs, style),
        )
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """`(N, inputs, H, W)` to `(N, outputs, H / stride, W / stride)`."""
        return x + self.conv(x) if self.residual else self.conv(x)


class MobileNetV2(nn.Module):
    """Stem, 17 inverted residuals, a last 1x1, global mean, `classifier`."""

    def __init__(self, width: float, style: Style, in_channels: int, classes: int) -> None:
        super().__init__()
        first, last = scaled(32, width), scaled(1280, max(width, 1.0))
        self.features = nn.Sequential(
            ConvNorm(in_channels, first, style, kernel=3, stride=2),
            *_blocks(first, width, style),
            ConvNorm(scaled(320, width), last, style),
        )
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(last, classes))
        initialise(self, classifier_std=0.01)

    def forward(self, x: Tensor) -> Tensor:
        """`(N, in_channels, H, W)` to `(N, classes)`."""
        return self.classifier(self.features(x).mean((2, 3)))


def _norm(channels: int, style: Style) -> list[nn.Module]:
    return [] if style.folded else [nn.BatchNorm2d(channels)]


def _blocks(inputs: int, width: float, style: Style) -> Iterator[InvertedResidual]:
    for expansion, channels, blocks, stride in _STAGES:
        outputs = scaled(channels, width)
        for index in range(blocks):
            yield InvertedResidual(inputs, outputs, stride if index == 0 else 1, expansion, style)
            inputs = outputs


_INT8 = Weights("imagenet", "mobilenetv2_imagenet_w8.safetensors", SYMMETRIC, {"folded": True, "padding": "tensorflow"})


@network("mobilenetv2", weights=[_INT8])
def mobilenetv2(
    *,
    width: float = 1.0,
    folded: bool = False,
    padding: str = "torch",
    in_channels: int = 3,
    classes: int = 1000,
) -> MobileNetV2:
    """`folded` has biases in place of norms; `padding="tensorflow"` pads `(0, 1, 0, 1)` before stride 2."""
    positive(in_channels=in_channels, classes=classes)
    choose("padding", padding, ("torch", "tensorflow"))
    return MobileNetV2(width, Style(folded, padding == "tensorflow"), in_channels, classes)
