"""PENNI through the training loop, on the digits: it learns, really shrinks, and resumes to the same bits."""

from __future__ import annotations

import copy

import pytest
import torch

import dovetail as dt
from dovetail import zoo
from dovetail.formats import structure
from dovetail.methods import Penni, Thin
from dovetail.program.counts import count
from dovetail.training.data import Images, Loader
from dovetail.training.loop import evaluate
from dovetail.zoo.data import open_data


@pytest.fixture(scope="module")
def digits():
    data = open_data("digits")

    def loader(images, limit, **options):
        part = Images(images.images[:limit], images.labels[:limit], images.classes)
        return Loader(part, 64, mean=data.mean, std=data.std, **options)

    return loader(data.train, 960, shuffle=True, seed=1), loader(data.test, 360)


@pytest.fixture(scope="module")
def trained(digits):
    torch.manual_seed(0)
    model = zoo.build("resnet8", in_channels=next(iter(digits[0]))[0].shape[1], width=0.5)
    dt.compress(model, Thin(epochs=5, learning_rate=0.1), train=digits[0], settings=quiet())
    return model


def quiet(**options):
    return dt.Settings(progress=False, threads=1, **options)


def method(**options):
    chosen = {"alternate_epochs": 3, "retrain_epochs": 4, "learning_rate": 0.05, "schedule": "cosine", **options}
    return Penni(threshold=0.3, group_l1=1e-4, macs_target=0.5, **chosen)


def test_it_learns_and_really_shrinks(digits, trained):
    model, example = copy.deepcopy(trained), next(iter(digits[0]))[0][:1]
    before, dense = evaluate(model, digits[1]).accuracy, count(dt.lower(model, example))
    chosen = method(finish="auto")
    dt.compress(model, chosen, train=digits[0], settings=quiet())
    after, small = evaluate(model, digits[1]).accuracy, count(dt.lower(model, example))
    assert before > 85
    assert after > before - 6
    assert small.macs <= 0.5 * dense.macs
    assert small.params < dense.params
    assert model.layer1[0].conv1.out_channels < 8 or model.layer3[0].conv1.out_channels < 32
    assert chosen.channel_map.removed > 0
    fresh = zoo.build("resnet8", in_channels=example.shape[1], width=0.5)
    structure.rebuild(fresh, structure.describe(model)).load_state_dict(model.state_dict())
    assert torch.equal(fresh.eval()(example), model.eval()(example))


class Killed(Exception):
    """Stands for the end of the process."""


@pytest.mark.slow  # what the conformance tests ask of every method, on real data
@pytest.mark.parametrize(
    ("step", "sparsifier"), [pytest.param(8, "prox", id="alternating"), pytest.param(24, "l1", id="retraining")]
)
def test_a_resumed_run_ends_with_the_same_bits(digits, trained, tmp_path, step, sparsifier):
    """Stopped in the middle of an epoch, before and after the network has shrunk."""
    few = Loader(digits[0].data, 192, mean=(0.5,), std=(0.25,), shuffle=True, seed=2)  # 5 steps an epoch
    options = {"alternate_epochs": 3, "retrain_epochs": 3, "sparsifier": sparsifier}
    expected = copy.deepcopy(trained)
    dt.compress(expected, method(**options), train=few, settings=quiet())

    killed, stopped = method(**options), copy.deepcopy(trained)
    original, left = killed.after_step, step

    def after_step():
        nonlocal left
        original()
        left -= 1
        if left == 0:
            raise Killed

    killed.after_step = after_step
    settings = quiet(run=tmp_path, checkpoint_minutes=1e-9)
    with pytest.raises(Killed):
        dt.compress(stopped, killed, train=few, settings=settings)

    resumed, again = copy.deepcopy(trained), method(**options)
    remaining, counted = 0, again.after_step

    def count_step():
        nonlocal remaining
        remaining += 1
        counted()

    again.after_step = count_step
    dt.compress(resumed, again, train=few, settings=settings)
    assert remaining == 30 - step + 1  # the last step was never saved
    assert again.channel_map.removed > 0
    assert [type(m) for m in resumed.modules()] == [type(m) for m in expected.modules()]
    for (name, tensor), other in zip(resumed.state_dict().items(), expected.state_dict().values(), strict=True):
        assert torch.equal(tensor, other), name
