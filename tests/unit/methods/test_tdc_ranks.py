"""The rank sets of TDC on the zoo's networks: what they cost, to the printed digit, by the counters of the house."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import nn

import dovetail
from dovetail import zoo
from dovetail.errors import SpecError
from dovetail.formats import DenseSpec, Geometry, Packed, PackedDense, PackedTucker, TuckerSpec
from dovetail.formats.layer import from_packed, swap
from dovetail.methods.base import Plan
from dovetail.methods.tdc_ranks import RANKS, ranks_named
from dovetail.program.counts import count
from dovetail.program.lower import lower

SHEETS = Path(dovetail.__file__).parents[2] / "benchmarks" / "networks"
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


def zeros(shape: tuple[int, ...], spec: TuckerSpec) -> PackedTucker:
    (k, c, *kernel), d1, d2 = shape, spec.rank_in, spec.rank_out
    return PackedTucker.from_factors(np.zeros((k, d2)), np.zeros((d2, d1, *kernel)), np.zeros((d1, c)), spec)


def places(model: nn.Module) -> dict[str, tuple[tuple[int, ...], Geometry]]:
    """Shape and geometry of every weight layer for an image of 224x224; the model is on the meta device."""
    found: dict[str, tuple[tuple[int, ...], Geometry]] = {}

    def note(layer: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor, name: str) -> None:
        at = Geometry(math.prod(inputs[0].shape[2:]), math.prod(output.shape[2:]))
        found[name] = (tuple(layer.weight.shape), at)

    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(lambda *call, name=name: note(*call, name=name))
    model.eval()(torch.zeros(1, 3, 224, 224, device="meta"))
    return found


def test_every_set_has_its_costs():
    assert set(COSTS) == set(RANKS)


@pytest.mark.parametrize("name", RANKS)
def test_the_costs_of_a_set_are_the_published_ones(name):
    network, part, *published = COSTS[name]
    with torch.device("meta"):
        model = zoo.build(network)
    specs = planned(model, name)
    macs, dense_macs, params, dense_params = 0, 0, 0, 0
    for layer, (shape, at) in places(model).items():
        if layer.startswith(part):
            dense = PackedDense.from_dense(np.zeros(shape, np.float32), DenseSpec())
            packed: Packed = zeros(shape, specs[layer]) if layer in specs else dense
            macs, params = macs + packed.macs(at), params + packed.params()
            dense_macs, dense_params = dense_macs + dense.macs(at), dense_params + dense.params()
    reduction = round(100 * (1 - macs / dense_macs), 1)
    giga, million = ([round(n / scale, digits) for n in pair] for pair, scale, digits in (
        ((dense_macs, macs), 1e9, 3), ((dense_params, params), 1e6, 2)
    ))  # fmt: skip
    assert [*giga, reduction, *million] == published


def test_the_program_of_a_resnet18_counts_the_same_layer_by_layer():
    model = zoo.build("resnet18").eval()
    for layer, spec in planned(model, "resnet18").items():
        dense = model.get_submodule(layer)
        swap(model, layer, from_packed(dense, zeros(tuple(dense.weight.shape), spec)))
    counts = count(lower(model, torch.zeros(1, 3, 224, 224)))
    rows = {row.name: (round(row.dense_macs / 1e6, 1), round(row.macs / 1e6, 1)) for row in counts.rows}
    assert {name: rows[name] for name in LAYERS} == LAYERS
    stored = (sum(row.dense_params for row in counts.rows), sum(row.params for row in counts.rows))
    giga, million = ([round(n / scale, digits) for n in pair] for pair, scale, digits in (
        ((counts.dense_macs, counts.macs), 1e9, 3), (stored, 1e6, 2)
    ))  # fmt: skip
    assert [*giga, *million] == [1.814, 0.786, 11.68, 3.38]


@pytest.mark.parametrize("name", RANKS)
def test_ranks_are_multiples_of_a_warp(name):
    assert all(rank % 32 == 0 for pair in RANKS[name].values() for rank in pair)


@pytest.mark.parametrize(("name", "sheet", "variant"), [
    ("resnet18", "resnet18_224", "tucker_tdc"),
    ("resnet50", "resnet50_224", "tucker_tdc"),
    ("vgg16_bn", "vgg16_224", "tucker_tdc_convs"),
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
