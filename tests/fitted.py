"""A network for tests of `fit`, what a machine of known times takes for it, and rehearsals on such a machine."""

from __future__ import annotations

import torch
from torch import nn

from dovetail.fitting import Asked, Rehearsal, choose, open_table
from dovetail.methods import METHODS
from dovetail.search import Budget
from dovetail.search.candidates import PROPOSERS, work

METHODS_THAT_FIT = sorted(set(PROPOSERS) & set(METHODS))
PER_MAC = 1e-9
REST = 2e-5
NUMBERS = 9 * (3 * 16 + 16 * 16 + 16 * 16 + 16 * 32) + 32 * 48 + 48 * 4
OUTPUTS = 16 + 16 + 16 + 32 + 48 + 4
DENSE = NUMBERS + 4 * 2 * OUTPUTS  # codes, and a scale and a bias of each output


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.one = nn.Conv2d(16, 16, 3, padding=1)
        self.two = nn.Conv2d(16, 16, 3, padding=1)
        self.down = nn.Conv2d(16, 32, 3, stride=2, padding=1)
        self.point = nn.Conv2d(32, 48, 1)
        self.fc = nn.Linear(48, 4)

    def forward(self, x):
        for layer in (self.stem, self.one, self.two, self.down, self.point):
            x = torch.relu(layer(x))
        return self.fc(x.mean((2, 3)))


def plan_of(model, images, budget, measured, tmp_path, method="block", **more):
    table = open_table(1, tmp_path / "costs.json", int8=measured.int8)
    asking = {name: more.pop(name) for name in ("rule", "margin", "options") if name in more}
    if "+" in method:
        method, asking = "mixed", {"options": {"methods": {name: {} for name in method.split("+")}}, **asking}
    asked = Asked(Budget.parse(budget, 1.0), method, **asking, int8=measured.int8)
    return choose(model, images, asked, measured, table=table, memory=tmp_path / "s.json", **more)


def stage(measured, rest=REST, **slower):
    """A rehearsal on a machine where layers of a network take so many times what they take alone; and what was run."""
    seen = []

    def run(plan):
        ratios = {d.name: work_of(d, measured) * slower.get(d.name, 1.0) for d in plan.changed}
        layers = {name: measured.scale * seconds * ratios.get(name, 1.0) for name, seconds in measured.layers.items()}
        seen.append(plan)
        return Rehearsal(rest + sum(layers.values()), ratios)

    return run, seen


def work_of(decision, measured):
    shape = next(shape for shape in measured.shapes if decision.name in shape.layers)
    return work(decision.spec, shape) / shape.macs
