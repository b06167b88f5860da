"""Every method of the registry: plans without touching, resumes exactly, and leaves what can be packed.

A new method adds one row to SAMPLES.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dovetail.api import compress
from dovetail.engine.quantize import quantize
from dovetail.methods import (
    METHODS,
    Block,
    Distill,
    Escalate,
    Int8,
    Magnitude,
    Method,
    Mixed,
    Penni,
    Tdc,
    Thin,
    Tucker,
)
from dovetail.program.lower import lower
from dovetail.program.reference import run
from dovetail.training import Settings
from programs import close

SAMPLES = {
    "block": lambda: Block(density=0.4, epochs=2, interval=2),
    "escalate": lambda: Escalate(
        bases=3,
        density=0.3,
        shared=2,
        sparsify_epochs=1,
        ternarise_epochs=2,
        settle_epochs=1,
        update=2,
        blend=0.5,
        rounded=True,
    ),
    "int8": lambda: Int8(epochs=2, observe=2, freeze=0.5),
    "magnitude": lambda: Magnitude(density=0.4, epochs=2, interval=2),
    "mixed": lambda: Mixed(
        methods={
            "escalate": {"bases": 2, "density": 0.5, "sparsify_epochs": 1, "ternarise_epochs": 1, "settle_epochs": 1},
            "tucker": {"ratio": 0.5, "svd": True},
        }
    ),
    "penni": lambda: Penni(bases=3, l1=0.01, channel_density=0.6, alternate_epochs=2, retrain_epochs=1),
    "tdc": lambda: Tdc(ratio=0.5, svd=True, admm_epochs=2, admm_learning_rate=0.02, epochs=1, rho=0.1, double_rho=1),
    "thin": lambda: Thin(epochs=2, warmup=0.5),
    "tucker": lambda: Tucker(ratio=0.5, epochs=2),
}
each_method = pytest.mark.parametrize("name", SAMPLES)


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.bn = nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.same, self.bn2 = nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.down, self.fc = nn.Conv2d(16, 24, 3, stride=2, padding=1), nn.Linear(24, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.bn(self.stem(x)))
        x = F.relu(self.bn2(self.same(x)) + x)
        return self.fc(F.dropout(F.relu(self.down(x)).mean((2, 3)), 0.1, self.training))


def build() -> nn.Module:
    torch.manual_seed(7)
    return Residual()


@pytest.fixture(scope="module")
def data() -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(40, 1, 6, 6, generator=generator)
    labels = images[:, 0, :3].sum(2).argmax(1)
    return [(images[i : i + 8], labels[i : i + 8]) for i in range(0, 40, 8)]


class Stopped(Exception):
    """The moment at which a training is torn down."""


def stop_after(method: Method, steps: int) -> Method:
    after, left = method.after_step, steps

    def counted() -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise Stopped
        after()

    method.after_step = counted
    return method


def test_every_method_has_a_sample() -> None:
    assert set(SAMPLES) == set(METHODS)
    assert all(type(make()) is METHODS[name] for name, make in SAMPLES.items())


@each_method
def test_a_plan_names_every_layer_and_touches_nothing(name, data) -> None:
    model = build()
    plan = SAMPLES[name]().plan(model, data[0][0][:1])
    assert set(plan.layers) == {"stem", "same", "down", "fc"}
    for key, tensor in build().state_dict().items():
        assert torch.equal(model.state_dict()[key], tensor)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@each_method
@pytest.mark.parametrize("taught", [False, True], ids=["plain", "taught"])
@pytest.mark.parametrize("steps", [2, 7])
def test_a_training_that_was_torn_down_goes_on_exactly(name, taught, steps, data, tmp_path) -> None:
    def train(stopped: int | None, run) -> nn.Module:
        model, method = build(), SAMPLES[name]()
        method = Distill(method, build()) if taught else method
        method = method if stopped is None else stop_after(method, stopped)
        compress(model, method, train=data, validate=data, settings=Settings(run=run, checkpoint_minutes=0, seed=3))
        return model

    left_alone = train(None, None)
    with pytest.raises(Stopped):
        train(steps, tmp_path)
    resumed = train(None, tmp_path)
    assert [type(module) for module in resumed.modules()] == [type(module) for module in left_alone.modules()]
    for key, tensor in left_alone.state_dict().items():
        assert torch.equal(resumed.state_dict()[key], tensor), key


@each_method
def test_what_comes_out_can_be_packed(name, data) -> None:
    model, method = build(), SAMPLES[name]()
    compress(model, method, train=data)
    x = data[0][0]
    program = lower(model.eval(), x[:1])
    with torch.no_grad():
        assert close(run(program, x.numpy()), model(x).numpy())
    how = method.quantization()
    assert (how is not None) == (name in ("escalate", "int8", "mixed"))
    if how is not None:
        made = quantize(program, [images.numpy() for images, _ in data], **how.options())
        assert {packed.spec.values.name for packed in made.weights.values()} == {"int8"}
