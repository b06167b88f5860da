"""The reference networks: exact shrinking of each, and the paper's reductions on full-size ones."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dovetail import zoo
from dovetail.methods import Penni
from dovetail.methods.shrink import shrink
from dovetail.program.counts import count
from dovetail.program.lower import lower

NETWORKS = {
    "resnet20": {},
    "resnet18": {"width": 0.25},
    "resnet50": {"width": 0.25},
    "mobilenetv2": {},
    "squeezenet10": {},
    "vgg16_bn": {"width": 0.25},
}


def randomised(name, **options):
    torch.manual_seed(0)
    model = zoo.build(name, **options).eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                for values in (module.running_mean, module.bias):
                    values.normal_(0, 0.5)
                for values in (module.running_var, module.weight):
                    values.uniform_(0.5, 1.5)
            elif isinstance(module, nn.Conv2d):
                module.weight[torch.rand(len(module.weight)) < 0.3] = 0
                if module.groups == 1:
                    module.weight[:, torch.rand(module.weight.shape[1]) < 0.3] = 0
    return model


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_exact_on_every_network(name):
    model, x = randomised(name, **NETWORKS[name]), torch.randn(2, 3, 64, 64)
    before, size = model(x), sum(p.numel() for p in model.parameters())
    shrink(model, x)
    assert (model(x) - before).abs().max() <= 1e-5 * max(1.0, before.abs().max().item())
    assert sum(p.numel() for p in model.parameters()) < 0.75 * size


@pytest.mark.slow
def test_the_papers_reductions_of_resnet18():
    """ResNet-18 for CIFAR with 95.5 % of all coefficients cut: 97 % of the parameters and 92 % of the work are gone.

    Source: the figures that the PENNI paper leads with. Tolerances are 1 point of parameters, 3 of work. The masks are
    those of an untrained network, so this says nothing of accuracy.
    """
    model, x = zoo.build("resnet18", stem="cifar", classes=10), torch.randn(1, 3, 32, 32)
    method = Penni(pointwise=True, density=0.045, shrink=False, finish="kernel_basis")
    method.plan(model, x)
    for phase in method.phases():
        method.begin(phase, model)
        method.end(phase, model)
    counts = count(lower(model, x))
    assert counts.dense_macs == pytest.approx(555.4e6, rel=0.005)
    assert 1 - counts.macs / counts.dense_macs == pytest.approx(0.92, abs=0.03)
    assert 1 - counts.params / counts.dense_params == pytest.approx(0.97, abs=0.01)
