"""SqueezeNet 1.0 (Iandola et al. 2016) with torchvision's key names."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dovetail.zoo.layers import initialise, positive
from dovetail.zoo.normalisation import CAFFE
from dovetail.zoo.registry import Weights, network


class Fire(nn.Module):
    """Squeeze 1x1, then expand 1x1 and 3x3 side by side; ReLU after each."""

    def __init__(self, inputs: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeeze, 1)
        self.expand1x1 = nn.Conv2d(squeeze, expand, 1)
        self.expand3x3 = nn.Conv2d(squeeze, expand, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """`(N, inputs, H, W)` to `(N, 2 * expand, H, W)`."""
        x = F.relu(self.squeeze(x))
        return torch.cat([F.relu(self.expand1x1(x)), F.relu(self.expand3x3(x))], 1)


class SqueezeNet(nn.Module):
    """`features`, a 1x1 convolution as `classifier`, global mean."""

    def __init__(self, final_padding: int, in_channels: int, classes: int) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, 96, 7, 2),
            nn.ReLU(inplace=True),
            _pool(),
            Fire(96, 16, 64),
            Fire(128, 16, 64),
            Fire(128, 32, 128),
            _pool(),
            Fire(256, 32, 128),
            Fire(256, 48, 192),
            Fire(384, 48, 192),
            Fire(384, 64, 256),
            _pool(),
            Fire(512, 64, 256),
        )
        final = nn.Conv2d(512, classes, 1, padding=final_padding)
        self.classifier = nn.Sequential(nn.Dropout(0.5), final, nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d((1, 1)))
        initialise(self)
        nn.init.normal_(final.weight, 0.0, 0.01)

    def forward(self, x: Tensor) -> Tensor:
        """`(N, in_channels, H, W)` to `(N, classes)`; H and W at least 21."""
        return self.classifier(self.features(x)).flatten(1)


def _pool() -> nn.MaxPool2d:
    return nn.MaxPool2d(3, 2, ceil_mode=True)


_DEEP_COMPRESSION = Weights(
    "imagenet", "squeezenet10_deepcompression.safetensors", CAFFE, {"final_padding": 1, "classes": 1000}
)


@network("squeezenet10", weights=[_DEEP_COMPRESSION])
def squeezenet10(*, final_padding: int = 0, in_channels: int = 3, classes: int = 1000) -> SqueezeNet:
    """`final_padding=1` is the published (Caffe) network: the last 1x1 convolution pads, the mean counts the rim."""
    positive(in_channels=in_channels, classes=classes)
    return SqueezeNet(final_padding, in_channels, classes)
