"""ResNet-18, 34 and 50 of He et al. 2016, with torchvision's key names (ResNet-50 strides in the 3x3, "v1.5")."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from dovetail.zoo.layers import choose, initialise, positive, scaled
from dovetail.zoo.normalisation import CIFAR10
from dovetail.zoo.registry import Weights, network


class BasicBlock(nn.Module):
    """Two 3x3 convolutions."""

    expansion: ClassVar[int] = 1

    def __init__(self, inputs: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.downsample = _projection(inputs, planes, stride)

    def forward(self, x: Tensor) -> Tensor:
        """`(N, C, H, W)` to `(N, planes, H / stride, W / stride)`."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 with four times the channels."""

    expansion: ClassVar[int] = 4

    def __init__(self, inputs: int, planes: int, stride: int) -> None:
        super().__init__()
        outputs = planes * self.expansion
        self.conv1 = nn.Conv2d(inputs, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _projection(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        """`(N, C, H, W)` to `(N, 4 * planes, H / stride, W / stride)`."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """Stem, four stages, global pooling, `fc`."""

    def __init__(
        self,
        block: type[BasicBlock | Bottleneck],
        blocks: tuple[int, ...],
        *,
        width: float,
        stem: str,
        in_channels: int,
        classes: int,
    ) -> None:
        super().__init__()
        planes = [scaled(count, width) for count in (64, 128, 256, 512)]
        self.conv1 = _stem(stem, in_channels, planes[0])
        self.bn1 = nn.BatchNorm2d(planes[0])
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1) if stem == "imagenet" else nn.Identity()
        inputs = [planes[0], *(count * block.expansion for count in planes)]
        self.layer1 = _stage(block, inputs[0], planes[0], blocks[0], stride=1)
        self.layer2 = _stage(block, inputs[1], planes[1], blocks[1], stride=2)
        self.layer3 = _stage(block, inputs[2], planes[2], blocks[2], stride=2)
        self.layer4 = _stage(block, inputs[3], planes[3], blocks[3], stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(inputs[4], classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        """`(N, in_channels, H, W)` to `(N, classes)`."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(self.avgpool(x).flatten(1))


def _stem(stem: str, in_channels: int, channels: int) -> nn.Conv2d:
    if stem == "imagenet":
        return nn.Conv2d(in_channels, channels, 7, 2, 3, bias=False)
    return nn.Conv2d(in_channels, channels, 3, 1, 1, bias=False)


def _projection(inputs: int, outputs: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


def _stage(block: type[BasicBlock | Bottleneck], inputs: int, planes: int, blocks: int, stride: int) -> nn.Sequential:
    outputs = planes * block.expansion
    return nn.Sequential(block(inputs, planes, stride), *(block(outputs, planes, 1) for _ in range(blocks - 1)))


_OWN = Weights("cifar10", "resnet18_cifar10.safetensors", CIFAR10, {"stem": "cifar", "classes": 10})


@network("resnet50", block=Bottleneck, blocks=(3, 4, 6, 3))
@network("resnet34", block=BasicBlock, blocks=(3, 4, 6, 3))
@network("resnet18", block=BasicBlock, blocks=(2, 2, 2, 2), weights=[_OWN])
def resnet(
    *,
    block: type[BasicBlock | Bottleneck],
    blocks: tuple[int, ...],
    width: float = 1.0,
    stem: str = "imagenet",
    in_channels: int = 3,
    classes: int = 1000,
) -> ResNet:
    """`stem="cifar"` starts with a 3x3 convolution of stride 1 and no pooling, for images of about 32x32."""
    positive(in_channels=in_channels, classes=classes)
    choose("stem", stem, ("imagenet", "cifar"))
    return ResNet(block, blocks, width=width, stem=stem, in_channels=in_channels, classes=classes)
