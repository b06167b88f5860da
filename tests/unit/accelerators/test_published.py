"""Published networks on all machines: the models say what the papers say, within bounds set before they were built.

Densities of weights are those of magnitude pruning (Deep Compression) [recalled]; those of inputs fall with depth in
the range usual for such networks, 30 to 65 % [recalled]. Masks are drawn. Nothing in the machines was fitted to the
results.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import cache

import pytest

from dovetail.accelerators import Workload, costs_named, drawn, machine_named, total
from dovetail.accelerators.scnn import Scnn

pytestmark = pytest.mark.slow

# Weight (K, C/groups, R, S), size, stride, border, groups, percent of weights and of inputs that are not zero.
ALEXNET = [
    ((96, 3, 11, 11), 227, 4, 0, 1, 84, 100),
    ((256, 48, 5, 5), 27, 1, 2, 2, 38, 55),
    ((384, 256, 3, 3), 13, 1, 1, 1, 35, 45),
    ((384, 192, 3, 3), 13, 1, 1, 2, 37, 40),
    ((256, 192, 3, 3), 13, 1, 1, 2, 37, 35),
]
VGG16 = [
    ((k, c, 3, 3), size, 1, 1, 1, weights, inputs)
    for k, c, size, weights, inputs in [
        (64, 3, 224, 58, 100),
        (64, 64, 224, 22, 60),
        (128, 64, 112, 34, 60),
        (128, 128, 112, 36, 55),
        (256, 128, 56, 53, 55),
        (256, 256, 56, 24, 50),
        (256, 256, 56, 42, 50),
        (512, 256, 28, 32, 45),
        (512, 512, 28, 27, 40),
        (512, 512, 28, 34, 40),
        (512, 512, 14, 35, 35),
        (512, 512, 14, 29, 30),
        (512, 512, 14, 36, 30),
    ]
]
NETWORKS = {"alexnet": ALEXNET, "vgg16": VGG16}


def convolutions(network: str, images: int = 1) -> Iterator[Workload]:
    for seed, (weight, size, stride, border, groups, weights, inputs) in enumerate(NETWORKS[network]):
        yield drawn(
            f"conv{seed + 1}",
            weight,
            (size, size),
            weight_density=weights / 100,
            input_density=inputs / 100,
            seed=seed,
            images=images,
            stride=(stride, stride),
            padding=(border,) * 4,
            groups=groups,
        )


@cache
def cycles(machine: str, network: str) -> int:
    """On the chip: what off-chip memory adds depends on buffers that were chosen alike for all."""
    return sum(sum(machine_named(machine).array_cycles(layer).values()) for layer in convolutions(network))


@cache
def dense_peer(network: str) -> int:
    scnn = machine_named("scnn")
    assert isinstance(scnn, Scnn)
    return sum(scnn.dense_cycles(layer) for layer in convolutions(network))


def mean_ratio(slower: str, faster: str) -> float:
    """Geometric mean over the networks."""
    return math.sqrt(math.prod(cycles(slower, network) / cycles(faster, network) for network in NETWORKS))


@pytest.mark.parametrize(("slower", "published"), [("sparten-dense", 4.7), ("sparten-one-sided", 1.8), ("scnn", 3.0)])
def test_sparten_against_others(slower, published):
    assert mean_ratio(slower, "sparten") == pytest.approx(published, rel=0.35)


def test_scnn_against_its_dense_peer():
    # Published 2.7 over AlexNet, GoogLeNet and VGG16.
    ratio = math.sqrt(math.prod(dense_peer(network) / cycles("scnn", network) for network in NETWORKS))
    assert 2.0 <= ratio <= 3.4


def test_cnvlutin_against_its_dense_peer():
    # Published 1.37 on average.
    ratio = math.sqrt(math.prod(cycles("dadiannao", network) / cycles("cnvlutin", network) for network in NETWORKS))
    assert 1.2 <= ratio <= 1.6


@pytest.mark.parametrize(
    ("machine", "network", "images", "frames"),
    [
        ("eyeriss", "alexnet", 4, (35 * 0.95, 35 * 1.05)),
        ("eyeriss-free", "alexnet", 4, (35 * 0.95, 35 * 1.05)),
        ("eyeriss", "vgg16", 3, (0.70, 0.85)),
        ("eyeriss-free", "vgg16", 3, (1.7, 1.8)),
    ],
)
def test_eyeriss_with_its_off_chip_memory(machine, network, images, frames):
    trace = total(machine_named(machine).simulate(layer) for layer in convolutions(network, images))
    assert frames[0] <= images / trace.seconds <= frames[1]


def test_the_cost_set_changes_energy_ratios_by_less_than_two():
    ratios = []
    for costs in ("isscc45", "accelergy45"):
        joules = [
            total(
                replace(machine_named(name), costs=costs_named(costs)).simulate(layer)
                for layer in convolutions("alexnet")
            ).joules
            for name in ("systolic", "eyeriss-1024", "sparten", "scnn")
        ]
        ratios.append([joules[0] / other for other in joules[1:]])
    for one, other in zip(*ratios, strict=True):
        assert 0.5 < one / other < 2
