"""Every method of the registry: steps that are recorded and replayed train to the same bits as those that are not."""

from __future__ import annotations

import pytest
import torch

from dovetail.api import compress
from dovetail.methods import Distill, Escalate, Magnitude, Method, Penni
from dovetail.training import Settings
from method_samples import SAMPLES, batches, build
from recorded_steps import record_all
from thinned import thinned

LONGER = {
    "interval": lambda: Escalate(
        bases=3,
        density=0.3,
        block=4,
        interval=1,
        sparsify_epochs=3,
        ternarise_epochs=4,
        settle_epochs=2,
        update=3,
        blend=0.6,
    ),
    "asymmetric": lambda: Escalate(
        bases=3, density=0.3, asymmetric=True, sparsify_epochs=2, ternarise_epochs=2, settle_epochs=2, update=4
    ),
}
REFUSED = {"int8": "observes operands", "mixed": "asks its members", "penni": "its penalty is its own"}


@pytest.fixture(autouse=True)
def no_dropout(monkeypatch) -> None:
    """On a CPU its draws are seen as those of Python, and steps that draw are not recorded."""
    monkeypatch.setattr(torch.nn.functional, "dropout", lambda x, *_: x)


def trained(method: Method, taught: bool) -> torch.nn.Module:
    model, data = build(), batches()
    data.append((data[0][0][:5], data[0][1][:5]))
    compress(
        model, Distill(method, build()) if taught else method, train=data, validate=data, settings=Settings(seed=3)
    )
    return model


TRAININGS = [
    pytest.param(name, taught, id=f"{name}-{'taught' if taught else 'plain'}")
    for name in (*SAMPLES, *LONGER)
    for taught in (False, True)
]


@pytest.mark.parametrize(("name", "taught"), thinned(TRAININGS, every=2, key=lambda name, taught: name))
def test_replayed_steps_train_to_the_same_bits(name, taught, monkeypatch) -> None:
    make = (SAMPLES | LONGER)[name]
    want = trained(make(), taught).state_dict()
    counts = record_all(monkeypatch)
    got = trained(make(), taught).state_dict()
    assert want.keys() == got.keys()
    for key, tensor in want.items():
        assert torch.equal(got[key], tensor), key
    assert (counts["replayed"] > 3) == (name not in REFUSED)


class Forgetful(Escalate):
    """Does not tell that its layers stop to blend, and writes their share in Python."""

    def recordable(self):
        return ()

    def _blend(self):
        super()._blend()
        for layer in self._ternary.values():
            layer.blend = float(layer.blend)


def test_what_a_method_does_not_tell_is_seen_here(monkeypatch) -> None:
    def options() -> Method:
        return Forgetful(bases=3, density=0.3, sparsify_epochs=0, ternarise_epochs=3, settle_epochs=0, blend=0.9)

    want = trained(options(), taught=False).state_dict()
    record_all(monkeypatch)
    got = trained(options(), taught=False).state_dict()
    assert not all(torch.equal(got[key], tensor) for key, tensor in want.items())


class Rising(Magnitude):
    """Its penalty reads a number of Python that `Magnitude.recordable` knows nothing of."""

    weight = 0.0

    def penalty(self):
        self.weight += 0.1
        return self.weight * sum(weight.square().sum() for weight in self._weights.values())


def test_a_subclass_that_replaces_the_penalty_is_not_recorded(monkeypatch) -> None:
    counts = record_all(monkeypatch)
    trained(Rising(density=0.4, epochs=2, interval=2), taught=False)
    assert not counts


def test_a_network_that_draws_is_not_recorded(monkeypatch) -> None:
    monkeypatch.setattr(torch.nn.functional, "dropout", lambda x, *_: x * (torch.rand(1) < 0.9))
    counts = record_all(monkeypatch)
    trained(SAMPLES["thin"](), taught=False)
    assert not counts


def test_a_teacher_whose_answers_are_kept_is_not_recorded(tmp_path) -> None:
    assert Distill(SAMPLES["thin"](), build(), answers=tmp_path / "answers.sqlite").recordable() is None
    assert Distill(SAMPLES["thin"](), build(), weight=0.25).recordable() == ((), 0.25, 4.0)
    assert Penni().recordable() is None
