from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dovetail.api import compress
from dovetail.errors import TrainingError
from dovetail.formats.sparse import SparseSpec
from dovetail.formats.sparse.layer import SparseConv2d
from dovetail.formats.sparse.packed import PackedSparse
from dovetail.methods import Kept, Magnitude
from dovetail.methods.largest import densest, largest
from dovetail.methods.magnitude import cubic


class Watched(Magnitude):
    """Writes down, after every step, how many weights are left and where zeros are."""

    def plan(self, model, example, given=None):
        self.kept, self.zeros = [], []
        return super().plan(model, example, given)

    def after_step(self):
        super().after_step()
        flat = torch.cat([weight.detach().flatten() for weight in self._weights.values()])
        self.kept.append(int((flat != 0).sum()))
        self.zeros.append(flat == 0)


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=20), st.data())
def test_largest_keeps_exactly_that_many_and_no_smaller_one(values, data):
    count = data.draw(st.integers(0, len(values)))
    vector = torch.tensor(values, dtype=torch.float32)
    kept = largest(vector, count)
    order = sorted(range(len(values)), key=lambda i: (-values[i], i))
    assert sorted(kept.nonzero().flatten().tolist()) == sorted(order[:count])


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=30), st.sampled_from([0.01, 0.1, 0.25, 0.5, 0.75, 1.0]))
def test_methods_and_the_packed_format_keep_the_same_entries(values, density):
    weight = np.array(values, dtype=np.float32).reshape(1, -1)
    kept = densest(torch.tensor(values, dtype=torch.float32).abs(), density).numpy()
    packed = PackedSparse.from_dense(weight, SparseSpec(density=density)).dense()
    np.testing.assert_array_equal(np.where(kept, weight, 0), packed)
    assert kept.sum() == max(1, math.floor(density * len(values) + 0.5))


def test_the_cubic_law():
    assert (cubic(0, 0.1), cubic(1, 0.1)) == (1, pytest.approx(0.1))
    assert cubic(0.5, 0.2) == pytest.approx(0.2 + 0.8 / 8)


@pytest.mark.parametrize("density", [0.03, 0.25, 1.0])
@pytest.mark.parametrize("interval", [1, 3, 1000])
def test_the_density_is_met_to_the_nearest_weight(build, data, density, interval):
    model = build()
    compress(model, Magnitude(density=density, epochs=3, interval=interval), train=data)
    layers = [model.same, model.down, model.point, model.grouped]
    assert all(isinstance(layer, SparseConv2d) for layer in layers)
    total = sum(layer.weight().numel() for layer in layers)
    nonzeros = sum(layer.pack().nonzeros() for layer in layers)
    assert nonzeros == math.floor(density * total + 0.5)
    assert nonzeros == sum(int(layer.weight().count_nonzero()) for layer in layers)


def test_every_epoch_says_how_much_is_left(build, data, tmp_path):
    done = compress(build(), Magnitude(density=0.1, epochs=4, interval=1), train=data)
    told = [record.metrics["density"] for record in done.history.records]
    assert told == sorted(told, reverse=True)
    assert told[0] < 1
    assert told[-1] == pytest.approx(0.1, abs=0.01)


def test_density_follows_the_schedule_and_zeros_stay(build, data):
    """24 steps, ramp of 12, an update every 5: after steps 5, 10 and 12."""
    method = Watched(density=0.1, epochs=6, interval=5)
    compress(build(), method, train=data)
    total = len(method.zeros[0])
    after = [math.floor(cubic(step / 12, 0.1) * total + 0.5) for step in (5, 10, 12)]
    assert method.kept == [total] * 4 + [after[0]] * 5 + [after[1]] * 2 + [after[2]] * 13
    assert all(bool((later >= earlier).all()) for earlier, later in zip(method.zeros, method.zeros[1:]))


def test_the_threshold_is_global(build, data, example):
    model, method = build(), Magnitude(density=0.2, epochs=0)
    names = ["same", "down", "point", "grouped"]
    flat = torch.cat([model.get_submodule(name).weight.detach().abs().flatten() for name in names])
    threshold = flat.sort(descending=True).values[math.floor(0.2 * len(flat) + 0.5) - 1]
    expected = {name: model.get_submodule(name).weight.detach().clone() for name in names}
    compress(model, method, train=data)
    for name in names:
        weight = expected[name]
        torch.testing.assert_close(
            model.get_submodule(name).weight(), weight * (weight.abs() >= threshold), rtol=0, atol=0
        )


def test_first_and_linear_layers_stay_dense_unless_asked(build, example):
    layers = Magnitude().plan(build(), example).layers
    assert [name for name, what in layers.items() if isinstance(what, Kept)] == ["stem", "fc"]
    assert set(Magnitude(everything=True).plan(build(), example).layers.values()) == {SparseSpec()}


def test_a_classifier_that_is_a_convolution_stays_dense_and_an_idle_layer_too(example):
    model = torch.nn.Sequential(*[torch.nn.Conv2d(1, 1, 1) for _ in range(4)])
    model[0].spare = torch.nn.Conv2d(1, 1, 1)
    layers = Magnitude().plan(model, example).layers
    assert [name for name, what in layers.items() if isinstance(what, SparseSpec)] == ["1", "2"]
    assert layers["0.spare"] == Kept("does not run on the example")


def test_a_plan_adds_and_keeps_layers(build, data):
    model = build()
    compress(model, Magnitude(epochs=0), train=data, plan={"fc": SparseSpec(), "point": Kept("mine")})
    assert isinstance(model.point, torch.nn.Conv2d)
    assert type(model.fc).__name__ == "SparseLinear"


def test_layers_with_a_density_in_the_plan_keep_their_own(build, data):
    model, own = build(), {"same": SparseSpec(density=0.2), "down": SparseSpec(density=0.7)}
    compress(model, Magnitude(density=0.4, epochs=2, interval=2), train=data, plan=own)
    sizes = {name: model.get_submodule(name).weight().numel() for name in ("same", "down", "point", "grouped")}
    kept = {name: model.get_submodule(name).pack().nonzeros() for name in sizes}
    assert {name: kept[name] for name in own} == {n: math.floor(s.density * sizes[n] + 0.5) for n, s in own.items()}
    assert kept["point"] + kept["grouped"] == math.floor(0.4 * (sizes["point"] + sizes["grouped"]) + 0.5)


def test_a_plan_that_leaves_no_layer_to_share_the_density(build, data):
    model = build()
    own = {name: SparseSpec(density=0.5) for name in ("same", "down", "point", "grouped")}
    compress(model, Magnitude(density=0.01, epochs=1, interval=2), train=data, plan=own)
    assert all(model.get_submodule(n).pack().nonzeros() >= model.get_submodule(n).weight().numel() // 2 for n in own)


def test_other_layers_train_on_and_one_method_serves_twice(build, data):
    method, before = Magnitude(density=0.5, epochs=2), build().bn.weight
    for model in (build(), build()):
        compress(model, method, train=data)
        assert not torch.equal(model.bn.weight, before)
        total = sum(layer.weight().numel() for layer in (model.same, model.down, model.point, model.grouped))
        kept = sum(layer.pack().nonzeros() for layer in (model.same, model.down, model.point, model.grouped))
        assert kept == math.floor(0.5 * total + 0.5)


def test_own_loops_must_say_how_long_an_epoch_is(build, example):
    model, method = build(), Magnitude()
    method.plan(model, example)
    with pytest.raises(TrainingError, match="steps_per_epoch"):
        method.begin(method.phases()[0], model)
