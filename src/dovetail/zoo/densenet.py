"""DenseNet-121 and 201 (Huang et al. 2017) with torchvision's key names."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dovetail.zoo.layers import initialise, positive, scaled
from dovetail.zoo.registry import network

_BOTTLENECK = 4
"""Channels between the 1x1 and the 3x3 of a layer, as a multiple of the growth."""


class DenseLayer(nn.Module):
    """Norm, ReLU, 1x1, norm, ReLU, 3x3: makes `growth` channels of all that are there."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv1 = nn.Conv2d(inputs, _BOTTLENECK * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(_BOTTLENECK * growth)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(_BOTTLENECK * growth, growth, 3, 1, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """`(N, inputs, H, W)` to `(N, growth, H, W)`."""
        x = self.conv1(self.relu1(self.norm1(x)))
        return self.conv2(self.relu2(self.norm2(x)))


class DenseBlock(nn.ModuleDict):
    """Layers, each of which sees its input and what all before it have made."""

    def __init__(self, layers: int, inputs: int, growth: int) -> None:
        super().__init__({f"denselayer{i + 1}": DenseLayer(inputs + i * growth, growth) for i in range(layers)})

    def forward(self, x: Tensor) -> Tensor:
        """`(N, inputs, H, W)` to `(N, inputs + layers * growth, H, W)`."""
        for layer in self.values():
            x = torch.cat([x, layer(x)], 1)
        return x


class Transition(nn.Sequential):
    """Norm, ReLU, 1x1 to other channels, mean over 2x2."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(inputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.pool = nn.AvgPool2d(2, 2)


class DenseNet(nn.Module):
    """`features` (stem, blocks, transitions that halve the channels between them, norm), ReLU, mean, `classifier`."""

    def __init__(self, blocks: tuple[int, ...], width: float, in_channels: int, classes: int) -> None:
        super().__init__()
        channels, growth = scaled(64, width), scaled(32, width)
        self.features = nn.Sequential()
        self.features.conv0 = nn.Conv2d(in_channels, channels, 7, 2, 3, bias=False)
        self.features.norm0 = nn.BatchNorm2d(channels)
        self.features.relu0 = nn.ReLU(inplace=True)
        self.features.pool0 = nn.MaxPool2d(3, 2, 1)
        for number, layers in enumerate(blocks, 1):
            self.features.add_module(f"denseblock{number}", DenseBlock(layers, channels, growth))
            channels += layers * growth
            if number < len(blocks):
                self.features.add_module(f"transition{number}", Transition(channels, channels // 2))
                channels //= 2
        self.features.norm5 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.classifier = nn.Linear(channels, classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """`(N, in_channels, H, W)` to `(N, classes)`; H and W at least 29."""
        return self.classifier(self.avgpool(self.relu(self.features(x))).flatten(1))


@network("densenet201", blocks=(6, 12, 48, 32))
@network("densenet121", blocks=(6, 12, 24, 16))
def densenet(*, blocks: tuple[int, ...], width: float = 1.0, in_channels: int = 3, classes: int = 1000) -> DenseNet:
    """`width` scales the stem and the growth (64 and 32 channels)."""
    positive(in_channels=in_channels, classes=classes)
    return DenseNet(blocks, width, in_channels, classes)
