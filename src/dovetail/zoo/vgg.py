"""VGG-16 with batch norm (Simonyan and Zisserman 2015, configuration D), with torchvision's key names."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn

from dovetail.zoo.layers import choose, initialise, positive, scaled
from dovetail.zoo.registry import network

_STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


class Vgg(nn.Module):
    """`features`, pooling to a fixed grid, `classifier`."""

    def __init__(self, width: float, classifier: str, in_channels: int, classes: int) -> None:
        super().__init__()
        channels = scaled(_STAGES[-1][-1], width)
        self.features = nn.Sequential(*_features(width, in_channels))
        if classifier == "imagenet":
            self.avgpool = nn.AdaptiveAvgPool2d((7, 7))
            self.classifier: nn.Module = _imagenet_classifier(channels, scaled(4096, width), classes)
        else:
            self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
            self.classifier = nn.Linear(channels, classes)
        initialise(self, classifier_std=0.01)

    def forward(self, x: Tensor) -> Tensor:
        """`(N, in_channels, H, W)` to `(N, classes)`; H and W at least 32."""
        return self.classifier(self.avgpool(self.features(x)).flatten(1))


def _features(width: float, in_channels: int) -> Iterator[nn.Module]:
    inputs = in_channels
    for stage in _STAGES:
        for outputs in (scaled(count, width) for count in stage):
            yield from (nn.Conv2d(inputs, outputs, 3, 1, 1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))
            inputs = outputs
        yield nn.MaxPool2d(2, 2)


def _imagenet_classifier(channels: int, hidden: int, classes: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(channels * 7 * 7, hidden),
        nn.ReLU(inplace=True),
        nn.Dropout(),
        nn.Linear(hidden, hidden),
        nn.ReLU(inplace=True),
        nn.Dropout(),
        nn.Linear(hidden, classes),
    )


@network("vgg16_bn")
def vgg16_bn(*, width: float = 1.0, classifier: str = "imagenet", in_channels: int = 3, classes: int = 1000) -> Vgg:
    """`classifier="cifar"` replaces the three large linear layers by one (global mean before it)."""
    positive(in_channels=in_channels, classes=classes)
    choose("classifier", classifier, ("imagenet", "cifar"))
    return Vgg(width, classifier, in_channels, classes)
