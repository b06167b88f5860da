"""What an image goes through before a network sees it: `(x / 255 - mean) / std`, per channel."""

from __future__ import annotations

from typing import NamedTuple


class Normalisation(NamedTuple):
    """Mean and standard deviation per channel (RGB, or one grey channel), of images scaled to 0..1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CIFAR10 = Normalisation((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
SYMMETRIC = Normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))  # x / 127.5 - 1, what TensorFlow's mobile networks take
CAFFE = Normalisation((123 / 255, 117 / 255, 104 / 255), (1 / 255,) * 3)  # minus the mean colour, no scaling
DIGITS = Normalisation((0.3052,), (0.3760,))
MNIST = Normalisation((0.1307,), (0.3081,))
FASHION_MNIST = Normalisation((0.2860,), (0.3530,))
SPOKEN_DIGITS = Normalisation((0.2331,), (0.3063,))

BY_DATA = {
    "digits": DIGITS,
    "cifar10": CIFAR10,
    "mnist": MNIST,
    "fashion_mnist": FASHION_MNIST,
    "spoken_digits": SPOKEN_DIGITS,
}
