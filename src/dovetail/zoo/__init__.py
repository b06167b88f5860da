"""Reference networks, their published weights, and the data sets they are measured on.

The library itself never needs this room: only the command line, tests, examples, benchmarks and recipes do.
"""

from dovetail.zoo import (  # noqa: F401 - they enter the registry
    densenet,
    lenet,
    lstm,
    mlp,
    mobilenet,
    resnet,
    resnet_cifar,
    squeezenet,
    vgg,
    wide_resnet,
)
from dovetail.zoo.normalisation import Normalisation
from dovetail.zoo.registry import NETWORKS, Network, Weights, build, find, network
from dovetail.zoo.root import data_root
from dovetail.zoo.weights import load_weights, normalisation, pretrained, save_int8, weights_path

__all__ = [
    "NETWORKS",
    "Network",
    "Normalisation",
    "Weights",
    "build",
    "data_root",
    "find",
    "load_weights",
    "network",
    "normalisation",
    "pretrained",
    "save_int8",
    "weights_path",
]
