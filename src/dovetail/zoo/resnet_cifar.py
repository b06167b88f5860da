"""The CIFAR ResNets of He et al. 2016, section 4.2: depth 6n + 2, shortcuts without weights (option A)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from dovetail.zoo.layers import initialise, positive, scaled
from dovetail.zoo.normalisation import IMAGENET
from dovetail.zoo.registry import Weights, network


class PadShortcut(nn.Module):
    """Option A: every second pixel, and `before` + `after` channels of zeros around the old ones."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.before, self.after = before, after

    def forward(self, x: Tensor) -> Tensor:
        """`(N, C, H, W)` to `(N, before + C + after, ceil(H / 2), ceil(W / 2))`."""
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.before, self.after))

    def extra_repr(self) -> str:
        """What `print(model)` shows."""
        return f"before={self.before}, after={self.after}"


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut; ReLU after the sum."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        before = (outputs - inputs) // 2
        self.shortcut = nn.Identity() if stride == 1 else PadShortcut(before, outputs - inputs - before)

    def forward(self, x: Tensor) -> Tensor:
        """`(N, C, H, W)` to `(N, K, H / stride, W / stride)`."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + self.shortcut(x))


class CifarResNet(nn.Module):
    """Three stages of n blocks with 16, 32 and 64 channels (times the width), global mean, one linear layer."""

    def __init__(self, blocks: int, channels: tuple[int, int, int], in_channels: int, classes: int) -> None:
        super().__init__()
        first, second, third = channels
        self.conv1 = nn.Conv2d(in_channels, first, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(first)
        self.layer1 = _stage(first, first, blocks, stride=1)
        self.layer2 = _stage(first, second, blocks, stride=2)
        self.layer3 = _stage(second, third, blocks, stride=2)
        self.linear = nn.Linear(third, classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """`(N, in_channels, H, W)` to `(N, classes)`."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))


def _stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
    return nn.Sequential(Block(inputs, outputs, stride), *(Block(outputs, outputs, 1) for _ in range(blocks - 1)))


def _published(name: str) -> list[Weights]:
    """The published CIFAR-10 weights were trained on images normalised with the ImageNet constants."""
    return [Weights("cifar10", f"{name}_cifar10.safetensors", IMAGENET)]


@network("resnet56", depth=56, weights=_published("resnet56"))
@network("resnet44", depth=44, weights=_published("resnet44"))
@network("resnet32", depth=32, weights=_published("resnet32"))
@network("resnet20", depth=20, weights=_published("resnet20"))
@network("resnet8", depth=8)
def cifar_resnet(*, depth: int, width: float = 1.0, in_channels: int = 3, classes: int = 10) -> CifarResNet:
    """ResNet-`depth` for small images; `resnet8` is the small one that learns the 8x8 digits in seconds."""
    positive(in_channels=in_channels, classes=classes)
    channels = (scaled(16, width), scaled(32, width), scaled(64, width))
    return CifarResNet((depth - 2) // 6, channels, in_channels, classes)
