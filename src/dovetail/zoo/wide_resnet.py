"""Wide ResNets of Zagoruyko and Komodakis 2016: few blocks, many channels, norm and ReLU before each convolution."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from dovetail.zoo.layers import initialise, positive, scaled
from dovetail.zoo.registry import network


class PreBlock(nn.Module):
    """Norm, ReLU, 3x3, norm, ReLU, 3x3, and the input added; where the size changes, a 1x1 of the first ReLU is."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        same = inputs == outputs and stride == 1
        self.shortcut = None if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """`(N, C, H, W)` to `(N, K, H / stride, W / stride)`."""
        y = F.relu(self.bn1(x))
        x = x if self.shortcut is None else self.shortcut(y)
        return x + self.conv2(F.relu(self.bn2(self.conv1(y))))


class WideResNet(nn.Module):
    """A 3x3 convolution to 16 channels, three stages of n blocks, norm, ReLU, global mean, one linear layer."""

    def __init__(self, blocks: int, channels: tuple[int, int, int, int], in_channels: int, classes: int) -> None:
        super().__init__()
        stem, first, second, third = channels
        self.conv1 = nn.Conv2d(in_channels, stem, 3, 1, 1, bias=False)
        self.layer1 = _stage(stem, first, blocks, stride=1)
        self.layer2 = _stage(first, second, blocks, stride=2)
        self.layer3 = _stage(second, third, blocks, stride=2)
        self.bn = nn.BatchNorm2d(third)
        self.linear = nn.Linear(third, classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """`(N, in_channels, H, W)` to `(N, classes)`."""
        x = self.layer3(self.layer2(self.layer1(self.conv1(x))))
        return self.linear(F.relu(self.bn(x)).mean((2, 3)))


def _stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
    return nn.Sequential(PreBlock(inputs, outputs, stride), *(PreBlock(outputs, outputs, 1) for _ in range(blocks - 1)))


@network("wrn164", depth=16, widening=4)
def wide_resnet(
    *, depth: int, widening: int, width: float = 1.0, in_channels: int = 3, classes: int = 10
) -> WideResNet:
    """WRN-`depth`-`widening`, without dropout; the depth is 6n + 4."""
    positive(in_channels=in_channels, classes=classes)
    first, second, third = (scaled(widening * channels, width) for channels in (16, 32, 64))
    return WideResNet((depth - 4) // 6, (scaled(16, width), first, second, third), in_channels, classes)
