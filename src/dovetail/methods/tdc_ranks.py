"""The ranks that TDC ships with its networks, by name: layer or glob → `(rank_in, rank_out)`, later entries winning.

Source: the artifact of Xiang et al., "TDC: Towards extremely efficient CNNs on GPUs via hardware-aware Tucker
decomposition" (PPoPP 2023), which writes them as (out, in). All are multiples of 32, the lanes of a warp. What no entry
names stays dense: stems, shortcuts, classifiers. Of VGG-16 the artifact also decomposes two large linear layers, one as
a convolution of 7x7, which it is not here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from dovetail.errors import SpecError

Ranks = Mapping[str, tuple[int, int]]

RANKS: Final[Mapping[str, Ranks]] = {
    "resnet18": {
        "layer1.*.conv*": (32, 32),
        "layer1.0.conv1": (64, 32),
        "layer2.*.conv*": (96, 64),
        "layer2.0.conv1": (64, 64),
        "layer3.*.conv*": (128, 96),
        "layer3.0.conv1": (96, 96),
        "layer4.*.conv*": (192, 160),
        "layer4.0.conv1": (160, 160),
    },
    "resnet50": {
        "layer1.*.conv2": (32, 32),
        "layer1.0.conv2": (64, 32),
        "layer2.*.conv2": (64, 32),
        "layer2.0.conv2": (32, 32),
        "layer3.*.conv2": (64, 32),
        "layer4.*.conv2": (96, 64),
    },
    "resnet50_3x": {
        "layer1.*.conv2": (32, 32),
        "layer1.0.conv2": (64, 32),
        "layer[23].*.conv1": (64, 32),
        "layer[23].*.conv2": (64, 64),
        "layer[23].*.conv3": (32, 64),
        "layer4.*.conv1": (96, 64),
        "layer4.*.conv2": (96, 64),
        "layer4.*.conv3": (64, 96),
    },
    "vgg16_bn": {
        "features.3": (64, 32),
        "features.7": (64, 32),
        "features.10": (64, 32),
        "features.14": (64, 32),
        "features.17": (64, 32),
        "features.20": (64, 64),
        "features.24": (160, 96),
        "features.27": (160, 96),
        "features.30": (192, 96),
        "features.34": (192, 96),
        "features.37": (192, 96),
        "features.40": (192, 96),
    },
    "densenet121": {"features.denseblock*.conv2": (32, 32)},
    "densenet201": {"features.denseblock*.conv2": (64, 32)},
}
"""Name of a network, or of one of its sets → ranks of its layers; the names are those of the zoo's (torchvision's)."""


def ranks_named(name: str) -> Ranks:
    """The shipped ranks called `name`; `SpecError` lists those there are."""
    if name not in RANKS:
        raise SpecError(f"TDC ships no ranks called {name!r}; known are {', '.join(RANKS)}")
    return RANKS[name]
