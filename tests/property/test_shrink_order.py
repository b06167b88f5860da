"""Random networks with random zeros: removal is exact, order-independent, and leaves nothing to remove."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from dovetail.methods.shrink import shrink
from dovetail.methods.shrinking.coupling import Coupling
from dovetail.methods.shrinking.removal import dead
from dovetail.methods.shrinking.sites import Site


@st.composite
def couplings(draw):
    """Layers 0 → 1 → … whose channels are joined at random (residual sums), with random zeros and constants."""
    widths = draw(st.lists(st.integers(1, 4), min_size=2, max_size=5))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    numbers, atoms = itertools.count(), []
    for i, width in enumerate(widths):
        same = [a for a in atoms if len(a) == width]
        if 0 < i < len(widths) - 1 and same and draw(st.booleans()):
            atoms.append(same[-1])
        else:
            atoms.append(np.array([next(numbers) for _ in range(width)]))
    sites = {}
    for i, (source, target) in enumerate(itertools.pairwise(atoms)):
        weight = rng.normal(size=(len(target), len(source), 1, 1)) * (
            rng.random((len(target), len(source), 1, 1)) < 0.4
        )
        silent = rng.random(len(source)) < 0.3
        level = np.where(silent, rng.choice([0.0, 1.5, np.nan], size=len(source)), np.nan)
        sites[f"s{i}"] = Site(f"s{i}", source, target, weight, silent, level, padded=bool(rng.random() < 0.5))
    pins = {int(a): "an end, or the first of its layer" for a in (*atoms[0], *atoms[-1], *(a[0] for a in atoms))}
    return Coupling(next(numbers), sites, {}, pins)


def one_by_one(coupling: Coupling, mode: str, places: set[str], order: list[int]) -> set[int]:
    """Removes single channels, in the given order, as long as a local rule allows one; the textbook procedure.

    A channel may go when every kept output that reads it with a weight that is not zero would lose a constant that
    it may lose. It sees no cycles: a channel that only keeps itself alive stays.
    """
    removed: set[int] = set()

    def may_go(atom: int) -> bool:
        if atom in coupling.pins:
            return False
        for site in coupling.sites.values():
            loses = site.silent if mode == "paper" else site.removable(site.name in places)
            for k, c in zip(*np.nonzero(site.weight[:, :, 0, 0])):
                if site.inputs[c] == atom and int(site.outputs[k]) not in removed and not loses[c]:
                    return False
        return True

    while going := [atom for atom in order if atom not in removed and may_go(atom)]:
        removed.add(going[0])
    return removed


@given(couplings(), st.sampled_from(["exact", "paper"]), st.booleans(), st.randoms(use_true_random=False))
@settings(max_examples=150)
def test_every_order_removes_the_same_set(coupling, mode, foldable, random):
    places = set(coupling.sites) if foldable else set()
    removed = set(np.flatnonzero(dead(coupling, mode, places)).tolist())
    assert not removed & set(coupling.pins)
    produced = np.concatenate([site.outputs for site in coupling.sites.values()])
    joined = len(np.unique(produced)) < len(produced)
    order = list(range(coupling.count))
    for _ in range(3):
        random.shuffle(order)
        found = one_by_one(coupling, mode, places, order)
        assert found <= removed if joined else found == removed


class Net(nn.Module):
    """Stem, a residual block with some kernel size, an optional pool, a head."""

    def __init__(self, width, inner, size, bias, pool):
        super().__init__()
        self.stem, self.bn = nn.Conv2d(2, width, 3, padding=1, bias=bias), nn.BatchNorm2d(width)
        self.a, self.bn_a = nn.Conv2d(width, inner, size, padding=size // 2, bias=False), nn.BatchNorm2d(inner)
        self.b, self.bn_b = nn.Conv2d(inner, width, 4 - size, padding=(4 - size) // 2, bias=bias), nn.BatchNorm2d(width)
        self.pool = nn.MaxPool2d(2) if pool else nn.AvgPool2d(3, 2, 1)
        self.head = nn.Linear(width, 3)

    def forward(self, x):
        x = F.relu(self.bn(self.stem(x)))
        x = F.relu(x + self.bn_b(self.b(F.relu(self.bn_a(self.a(x))))))
        return self.head(self.pool(x).mean((2, 3)))


@pytest.mark.parametrize("seed", range(4))
def test_random_residual_networks_keep_their_function(seed):
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    width, inner = (int(n) for n in rng.integers(2, 9, size=2))
    model = Net(width, inner, int(rng.choice([1, 3])), bool(rng.integers(2)), bool(rng.integers(2))).eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                for values in (module.running_mean, module.bias):
                    values.normal_(0, 0.7)
                module.running_var.uniform_(0.3, 2)
            elif isinstance(module, nn.Conv2d):
                module.weight[torch.rand(len(module.weight)) < 0.4] = 0
                module.weight[:, torch.rand(module.weight.shape[1]) < 0.3] = 0
    x = torch.randn(2, 2, 7, 7)
    before = model(x)
    shrink(model, x)
    assert (model(x) - before).abs().max() <= 1e-5
    assert shrink(model, x).removed == 0
