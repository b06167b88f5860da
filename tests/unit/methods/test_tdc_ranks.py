"""The rank sets of TDC on the zoo's networks: what they cost, to the printed digit, by the counters of the house."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

import dovetail
from counted import counted, zeros
from dovetail import zoo
from dovetail.errors import SpecError
from dovetail.formats import TuckerSpec
from dovetail.formats.layer import from_packed, swap
from dovetail.methods.base import Plan
from dovetail.methods.tdc_ranks import RANKS, ranks_named
from dovetail.program.counts import count
from dovetail.program.lower import lower

SHEETS = Path(dovetail.__file__).parents[2] / "benchmarks" / "networks"
IMAGE = (3, 224, 224)
# Set → network, part of it that counts, GMAC dense and Tucker for one image of 224x224, reduction in percent, millions
# of weights in convolutions and linear layers, dense and Tucker.
COSTS = {
    "resnet18": ("resnet18", "", 1.814, 0.786, 56.6, 11.68, 3.38),
    "resnet50": ("resnet50", "", 4.089, 2.583, 36.8, 25.50, 15.02),
    "resnet50_3x": ("resnet50", "", 4.089, 1.781, 56.4, 25.50, 8.49),
    "vgg16_bn": ("vgg16_bn", "features", 15.347, 3.322, 78.4, 14.71, 1.98),
    "densenet121": ("densenet121", "", 2.834, 2.075, 26.8, 7.89, 6.59),
    "densenet201": ("densenet201", "", 4.291, 3.930, 8.4, 19.78, 18.88),
}
# Layer of ResNet-18 → millions of multiply-accumulates, dense and Tucker.
LAYERS = {
    "layer1.0.conv1": (115.6, 77.1),
    "layer1.0.conv2": (115.6, 41.7),
    "layer2.0.conv1": (57.8, 48.2),
    "layer2.1.conv1": (115.6, 59.4),
    "layer3.0.conv1": (57.8, 30.7),
    "layer3.0.conv2": (115.6, 32.9),
    "layer4.0.conv1": (57.8, 23.3),
    "layer4.1.conv2": (115.6, 22.4),
}


def planned(model: nn.Module, name: str) -> dict[str, TuckerSpec]:
    specs = {layer: TuckerSpec(rank_in=d1, rank_out=d2) for layer, (d1, d2) in ranks_named(name).items()}
    return Plan(specs).resolve(model)  # type: ignore[return-value]


def test_every_set_has_its_costs():
    assert set(COSTS) == set(RANKS)


def printed(macs: tuple[int, int], params: tuple[int, int]) -> list[float]:
    """As the table has it: GMAC, how much less in percent, millions."""
    less = round(100 * (1 - macs[1] / macs[0]), 1)
    return [*(round(n / 1e9, 3) for n in macs), less, *(round(n / 1e6, 2) for n in params)]


@pytest.mark.parametrize("name", RANKS)
def test_the_costs_of_a_set_are_the_published_ones(name):
    network, part, *published = COSTS[name]
    with torch.device("meta"):
        model = zoo.build(network)
    assert printed(**counted(model, planned(model, name), IMAGE, part)) == published


def test_the_program_of_a_resnet18_counts_the_same_layer_by_layer():
    model = zoo.build("resnet18").eval()
    for layer, spec in planned(model, "resnet18").items():
        dense = model.get_submodule(layer)
        swap(model, layer, from_packed(dense, zeros(tuple(dense.weight.shape), spec)))
    counts = count(lower(model, torch.zeros(1, *IMAGE)))
    rows = {row.name: (round(row.dense_macs / 1e6, 1), round(row.macs / 1e6, 1)) for row in counts.rows}
    assert {name: rows[name] for name in LAYERS} == LAYERS
    stored = (sum(row.dense_params for row in counts.rows), sum(row.params for row in counts.rows))
    assert printed((counts.dense_macs, counts.macs), stored) == list(COSTS["resnet18"][2:])


def test_folding_saves_what_the_published_counts_have():
    """ResNet-18 on one image of 224x224: the first layer's 64 x 64 factor goes, at 56 x 56 positions."""
    with torch.device("meta"):
        model = zoo.build("resnet18")
    plain = planned(model, "resnet18")
    folded = {layer: replace(spec, fold=True) for layer, spec in plain.items()}
    macs, fewer = (counted(model, specs, IMAGE)["macs"][1] for specs in (plain, folded))
    first, second = 64 * 64 * 56**2, 64 * 64 * 56**2  # layer1.0.conv1, and layer2.0.conv1 before its stride
    assert macs - fewer == first + second


@pytest.mark.parametrize("name", RANKS)
def test_ranks_are_multiples_of_a_warp(name):
    assert all(rank % 32 == 0 for pair in RANKS[name].values() for rank in pair)


@pytest.mark.parametrize(("name", "sheet", "variant"), [
    ("resnet18", "resnet18_224", "tucker_tdc"),
    ("resnet50", "resnet50_224", "tucker_tdc"),
    ("vgg16_bn", "vgg16_224", "tucker_tdc_convs"),
    ("densenet121", "densenet121_224", "tucker_tdc"),
])  # fmt: skip
def test_the_networks_that_are_raced_have_these_ranks(name, sheet, variant):
    raced = yaml.safe_load((SHEETS / f"{sheet}.yaml").read_text())["variants"][variant]["layers"]
    with torch.device("meta"):
        model = zoo.build(name)
    given = {layer: TuckerSpec(rank_in=s["rank_in"], rank_out=s["rank_out"]) for layer, s in raced.items()}
    assert Plan(given).resolve(model) == planned(model, name)


def test_an_unknown_set_lists_the_known_ones():
    with pytest.raises(SpecError, match=r"'alexnet'.*resnet18, resnet50, resnet50_3x"):
        ranks_named("alexnet")
