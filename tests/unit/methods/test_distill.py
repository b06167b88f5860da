from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dovetail.api import compress
from dovetail.errors import SpecError, TrainingError
from dovetail.methods import Distill, Magnitude, Thin, Tucker
from dovetail.methods.base import Method, Phase
from dovetail.methods.distill import divergence
from dovetail.training import Settings


class Penalised(Method):
    """A method with a penalty of its own."""

    def phases(self):
        return (Phase("p", 1, 0.1),)

    def penalty(self):
        return 3.0


def linear(seed, out=3):
    torch.manual_seed(seed)
    return nn.Linear(5, out)


def test_the_gradient_by_hand():
    """d/dz of w T^2 KL(q || p) is w T (p - q) per image; of (1 - w) CE it is (1 - w) (softmax(z) - onehot)."""
    w, t, n = 0.3, 4.0, 6
    z, taught, labels = torch.randn(n, 3, requires_grad=True), torch.randn(n, 3), torch.arange(n) % 3
    ((1 - w) * F.cross_entropy(z, labels) + w * divergence(z, taught, t)).backward()
    p, q = (F.softmax(x.detach() / t, 1) for x in (z, taught))
    by_hand = (1 - w) * (F.softmax(z.detach(), 1) - F.one_hot(labels, 3)) + w * t * (p - q)
    torch.testing.assert_close(z.grad, by_hand / n, rtol=1e-5, atol=1e-6)


def test_the_loss_mixes_criterion_teacher_and_penalty():
    model, teacher, images, labels = linear(1), linear(2), torch.randn(4, 5), torch.tensor([0, 1, 2, 0])
    method = Distill(Penalised(), teacher, weight=0.25, temperature=2.0)
    loss = method.loss(model, (images, labels), nn.CrossEntropyLoss())
    p, q = (F.softmax(net(images) / 2, 1) for net in (model, teacher))
    expected = 0.75 * F.cross_entropy(model(images), labels) + 0.25 * 4 * (q * (q / p).log()).sum(1).mean() + 3.0
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_the_ends_of_the_mixture(weight):
    model, images, labels = linear(1), torch.randn(4, 5), torch.tensor([0, 1, 2, 0])
    method = Distill(Thin(), model, weight=weight)
    loss = method.loss(model, (images, labels), nn.CrossEntropyLoss())
    expected = F.cross_entropy(model(images), labels) if weight == 0 else torch.zeros(())
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-6)


def test_the_teacher_is_a_frozen_copy_in_eval_mode(build, data):
    model = build()
    before = copy.deepcopy(model.state_dict())
    method = Distill(Magnitude(density=0.5, epochs=1), model, precision="bf16")
    compress(model, method, train=data)
    assert not method.teacher.training
    assert not any(p.requires_grad for p in method.teacher.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in method.teacher.state_dict().items())
    assert not torch.equal(model.fc.weight, before["fc.weight"])


@pytest.mark.parametrize(("student", "teacher"), [("bf16", "f32"), ("f32", "bf16"), ("bf16", "bf16"), ("f32", "f32")])
def test_the_teacher_computes_in_its_own_precision(build, data, student, teacher):
    seen = set()

    class Watched(Distill):
        def loss(self, model, batch, criterion):
            handle = self.teacher.fc.register_forward_hook(lambda *parts: seen.add(parts[-1].dtype))
            try:
                return super().loss(model, batch, criterion)
            finally:
                handle.remove()

    compress(
        build(), Watched(Thin(epochs=1), build(), precision=teacher), train=data, settings=Settings(precision=student)
    )
    assert seen == {torch.bfloat16 if teacher == "bf16" else torch.float32}


@pytest.mark.parametrize("make", [Thin, Magnitude, lambda **options: Tucker(ratio=0.5, **options)])
def test_every_method_takes_a_teacher(build, data, make):
    taught, alone = build(), build()
    compress(taught, make(epochs=1), train=data, teacher=build())
    compress(alone, make(epochs=1), train=data)
    assert [type(m) for m in taught.modules()] == [type(m) for m in alone.modules()]
    assert not torch.equal(taught.fc.weight, alone.fc.weight)


def test_a_teacher_of_other_classes_is_refused(data):
    student = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(36, 4))
    with pytest.raises(TrainingError, match=r"different shapes, \(8, 3\) and \(8, 4\)"):
        compress(student, Thin(epochs=1), train=data, teacher=teacher)
    with pytest.raises(SpecError, match="logits of shape"):
        compress(student, Thin(epochs=1), train=data, teacher=nn.Identity())


@pytest.mark.parametrize("options", [{"weight": 1.5}, {"weight": -0.1}, {"temperature": 0.0}])
def test_options_out_of_range(options):
    with pytest.raises(SpecError, match=next(iter(options))):
        Distill(Thin(), linear(1), **options)


def test_state_is_the_methods_and_another_teacher_is_refused(build, example):
    method = Distill(Magnitude(), linear(1))
    method.method.plan(build(), example)
    method.method._step = 7
    state = method.state_dict()
    other = Distill(Magnitude(), linear(1))
    other.load_state_dict(state)
    assert other.method._step == 7
    with pytest.raises(TrainingError, match="another teacher"):
        Distill(Magnitude(), linear(2)).load_state_dict(state)


def test_a_run_of_another_teacher_is_refused(build, data, tmp_path):
    settings = Settings(run=tmp_path)
    compress(build(), Thin(epochs=1), train=data, teacher=build(), settings=settings)
    torch.manual_seed(99)
    other = type(build())()
    nn.init.zeros_(other.fc.weight)
    with pytest.raises(TrainingError, match="its method differ"):
        compress(build(), Thin(epochs=1), train=data, teacher=other, settings=settings)
