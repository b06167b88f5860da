"""LeNet-5 as Caffe has it, which the literature of compression compares on: 20 and 50 filters, 500 hidden units."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from dovetail.errors import RecipeError
from dovetail.zoo.layers import positive
from dovetail.zoo.mlp import height_and_width
from dovetail.zoo.registry import network


class LeNet5(nn.Module):
    """Two 5x5 convolutions without padding, each followed by max pooling; then `fc1`, ReLU and `fc2`.

    It is not the LeNet-5 of LeCun et al. 1998 (6 and 16 filters, trained sub-sampling, Gaussian connections), but what
    the name came to mean: 430,500 weights on images of 28x28.
    """

    def __init__(self, in_channels: int, classes: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 20, 5)
        self.conv2 = nn.Conv2d(20, 50, 5)
        left = [((each - 4) // 2 - 4) // 2 for each in size]
        if min(left) < 1:
            raise RecipeError(f"option size={size}: LeNet-5 takes images of at least 16x16")
        self.fc1 = nn.Linear(50 * left[0] * left[1], 500)
        self.fc2 = nn.Linear(500, classes)

    def forward(self, x: Tensor) -> Tensor:
        """`(N, in_channels, H, W)` to `(N, classes)`."""
        x = F.max_pool2d(self.conv1(x), 2)
        x = F.max_pool2d(self.conv2(x), 2)
        return self.fc2(F.relu(self.fc1(x.flatten(1))))


@network("lenet5")
def lenet5(*, in_channels: int = 1, classes: int = 10, size: int | Sequence[int] = 28) -> LeNet5:
    """`size` is the height and width of the images, at least 16 each."""
    positive(in_channels=in_channels, classes=classes)
    return LeNet5(in_channels, classes, height_and_width(size))
