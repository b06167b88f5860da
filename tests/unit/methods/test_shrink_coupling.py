"""Channels followed through hand-made graphs: what is joined, what is pinned, what is known of constants."""

from __future__ import annotations

import numpy as np
import pytest

from dovetail.errors import SpecError
from dovetail.formats.dense import DenseSpec, PackedDense
from dovetail.methods.shrinking.coupling import couple
from dovetail.methods.shrinking.removal import chosen, dead
from dovetail.program.ops import check_node, complete
from dovetail.program.program import Activation, Epilogue, Graph, Node, Program, Tensor

RELU = Activation("relu")


class Builder:
    """Adds nodes to a graph; each answers with the name of its output."""

    def __init__(self, *shape):
        self.tensors = {"x": Tensor("x", ("batch", *shape))}
        self.nodes, self.weights, self.arrays = [], {}, {}

    def op(self, op, name, *inputs, weight=None, scale=None, bias=None, residual=None, activation=None, **attributes):
        if weight is not None:
            self.weights[name] = PackedDense.from_dense(np.asarray(weight, np.float32), DenseSpec())
        for part, values in (("scale", scale), ("bias", bias)):
            if values is not None:
                self.arrays[f"{name}.{part}"] = np.asarray(values, np.float32)
        epilogue = Epilogue(
            scale=None if scale is None else f"{name}.scale",
            bias=None if bias is None else f"{name}.bias",
            residual=residual,
            activation=activation,
        )
        node = Node(op, name, inputs, f"{name}:out", name if weight is not None else None, attributes, epilogue)
        node = complete(node)
        known = {k: t.shape for k, t in self.tensors.items()} | {k: a.shape for k, a in self.arrays.items()}
        shape = check_node(node, known, None if weight is None else np.asarray(weight).shape)
        self.tensors[node.output] = Tensor(node.output, shape)
        self.nodes.append(node)
        return node.output

    def conv(self, name, x, weight, **rest):
        pad = np.asarray(weight).shape[2] // 2
        return self.op("conv2d", name, x, weight=weight, **{"padding": (pad,) * 4, **rest})

    def couple(self, *outputs):
        graph = Graph(("x",), outputs, tuple(self.nodes), self.tensors)
        return couple(Program({"main": graph}, self.weights, self.arrays))


def kernels(k, c, size=3):
    return np.random.default_rng(k * 31 + c).normal(size=(k, c, size, size))


def test_a_chain_shares_channels_between_producer_and_consumer():
    b = Builder(3, 8, 8)
    b.couple(b.conv("b", b.conv("a", "x", kernels(4, 3)), kernels(5, 4)))
    c = b.couple("b:out")
    a, last = c.sites["a"], c.sites["b"]
    assert a.outputs.tolist() == last.inputs.tolist()
    assert c.free.tolist() == sorted(a.outputs.tolist())
    assert {c.pins[i] for i in a.inputs} == {"an input of the network"}
    assert {c.pins[i] for i in last.outputs} == {"the network returns it"}
    assert last.positions == (64, 64)


@pytest.mark.parametrize("how", ["add", "residual", "mul"])
def test_operands_share_one_fate(how):
    b = Builder(3, 8, 8)
    left, right = b.conv("a", "x", kernels(4, 3)), b.conv("b", "x", kernels(4, 3))
    if how == "residual":
        y = b.conv("c", left, kernels(4, 4), residual=right)
        pair = ("c", "b")
    else:
        y = b.op(how, "join", left, right)
        pair = ("a", "b")
    b.conv("d", y, kernels(2, 4))
    c = b.couple("d:out")
    assert c.sites[pair[0]].outputs.tolist() == c.sites[pair[1]].outputs.tolist() == c.sites["d"].inputs.tolist()


def test_concat_flatten_and_permute_carry_positions():
    b = Builder(3, 4, 4)
    y = b.op("concat", "cat", b.conv("a", "x", kernels(2, 3)), b.conv("b", "x", kernels(3, 3)), axis=1)
    y = b.op("reshape", "flat", b.op("max_pool2d", "pool", y, kernel=(2, 2), stride=(2, 2)), shape=("batch", 20))
    b.op("linear", "fc", y, weight=np.ones((2, 20)))
    c = b.couple("fc:out")
    each = [*c.sites["a"].outputs, *c.sites["b"].outputs]
    assert c.sites["fc"].inputs.tolist() == [atom for atom in each for _ in range(4)]


def test_padded_channels_pin_both_sides_of_the_sum():
    b = Builder(3, 8, 8)
    stem = b.conv("a", "x", kernels(2, 3))
    small = b.op("slice", "half", stem, axis=2, start=0, stop=8, step=2)
    small = b.op("slice", "half2", small, axis=3, start=0, stop=8, step=2)
    short = b.op("pad", "short", small, pads=((0, 0), (1, 1), (0, 0), (0, 0)))
    inner = b.conv("inner", stem, kernels(5, 2), stride=(2, 2))
    b.conv("c", inner, kernels(4, 5), residual=short)
    b.conv("d", "c:out", kernels(2, 4))
    c = b.couple("d:out")
    assert c.free.tolist() == sorted(c.sites["inner"].outputs.tolist())
    assert {c.pins[i] for i in c.sites["c"].outputs} == {"it pads the channel axis"}
    assert set(c.left) == {"short"}


def test_depthwise_passes_channels_on_and_groups_keep_theirs():
    b = Builder(4, 8, 8)
    y = b.conv("dw", b.conv("a", "x", kernels(4, 4)), kernels(8, 1), groups=4)
    y = b.conv("b", y, kernels(6, 8, 1))
    b.conv("d", b.conv("grouped", y, kernels(6, 3), groups=2), kernels(2, 6))
    c = b.couple("d:out")
    a = c.sites["a"].outputs
    assert c.sites["dw"].outputs.tolist() == np.repeat(a, 2).tolist()
    assert c.free.tolist() == sorted(a.tolist())
    assert set(c.left) == {"grouped"}


@pytest.mark.parametrize(
    ("op", "attributes", "reason"),
    [
        ("slice", {"axis": 1, "start": 0, "stop": 2}, "cuts channels"),
        ("reshape", {"shape": ("batch", 2, 2, 8, 8)}, "channel axis apart"),
        ("softmax", {"axis": 1}, "mixes channels"),
        ("mean", {"axes": (1,), "keepdims": True}, "averages over channels"),
        ("layer_norm", {"axes": 3}, "mixes channels"),
    ],
)
def test_ops_that_see_channel_numbers_pin_them(op, attributes, reason):
    b = Builder(3, 8, 8)
    b.op(op, "it", b.conv("a", "x", kernels(4, 3)), **attributes)
    c = b.couple("it:out")
    assert len(c.free) == 0
    assert reason in c.left["it"]


def test_a_constant_per_channel_pins_and_a_number_does_not():
    b = Builder(3, 4, 4)
    b.arrays["scales"] = np.ones((4, 1, 1), np.float32)
    b.arrays["half"] = np.full((1,), 0.5, np.float32)
    y = b.op("mul", "halved", b.conv("a", "x", np.zeros((4, 3, 3, 3)), bias=[1, 2, 3, 4]), "half")
    b.conv("b", y, kernels(4, 4, 1))
    b.conv("d", b.op("mul", "scaled", "b:out", "scales"), kernels(2, 4))
    c = b.couple("d:out")
    assert c.sites["b"].level.tolist() == [0.5, 1.0, 1.5, 2.0]
    assert c.free.tolist() == sorted(c.sites["a"].outputs.tolist())
    assert set(c.left) == {"scaled"}


def test_levels_by_hand():
    """relu(2 * 0 + 3) = 3; a 1x1 with weight 4 makes 12 of it; a padded 3x3 leaves no uniform value, nor its mean."""
    b = Builder(1, 4, 4)
    y = b.conv("a", "x", np.zeros((1, 1, 3, 3)), scale=[2], bias=[3], activation=RELU)
    y = b.conv("b", y, np.full((1, 1, 1, 1), 4.0), scale=[1], bias=[0.5])
    y = b.conv("c", y, np.ones((1, 1, 3, 3)))
    b.op("linear", "fc", b.op("mean", "gap", y, axes=(2, 3)), weight=np.ones((2, 1)))
    c = b.couple("fc:out")
    assert c.sites["b"].level.tolist() == [3.0]
    assert c.sites["c"].level.tolist() == [12.5]
    assert c.sites["fc"].silent.tolist() == [True]
    assert np.isnan(c.sites["fc"].level).all()


@pytest.mark.parametrize(
    ("bias", "size", "foldable", "mode", "goes"),
    [
        (-1.0, 3, False, "exact", True),  # relu(-1) = 0: nothing is lost
        (1.0, 3, True, "exact", False),  # a constant under zero padding is no constant
        (1.0, 3, True, "paper", True),
        (1.0, 1, False, "exact", False),  # nowhere to put it
        (1.0, 1, True, "exact", True),
    ],
)
def test_silent_channels(bias, size, foldable, mode, goes):
    b = Builder(3, 6, 6)
    weight = kernels(4, 3)
    weight[1] = 0
    b.conv("b", b.conv("a", "x", weight, bias=[9, bias, 9, 9], activation=RELU), kernels(2, 4, size))
    c = b.couple("b:out")
    removed = dead(c, mode, ["b"] if foldable else [])
    assert removed[c.sites["a"].outputs].tolist() == [False, goes, False, False]


def test_channels_that_only_feed_themselves_are_dead():
    """A stream channel that only its own block reads and only its own block writes: no local rule sees it."""
    b = Builder(3, 6, 6)
    stem = b.conv("stem", "x", kernels(3, 3))
    inner, outer, head = kernels(2, 3), kernels(3, 2), kernels(2, 3)
    inner[0, 1:] = 0  # inner 0 reads stream 0 only
    inner[1, 0] = 0
    outer[1:, 0] = 0  # and writes stream 0 only
    outer[0, 1] = 0
    head[:, 0] = 0
    y = b.conv("outer", b.conv("inner", stem, inner, activation=RELU), outer, residual=stem)
    b.conv("head", y, head)
    c = b.couple("head:out")
    removed = dead(c, "exact", [])
    assert removed[c.sites["stem"].outputs].tolist() == [True, False, False]
    assert removed[c.sites["inner"].outputs].tolist() == [True, False]


def test_one_channel_of_every_layer_stays():
    b = Builder(3, 6, 6)
    b.conv("b", b.conv("a", "x", np.zeros((4, 3, 3, 3)), activation=RELU), kernels(2, 4))
    c = b.couple("b:out")
    assert (~dead(c, "paper", []))[c.sites["a"].outputs].sum() == 1


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ({"a": [0, 4]}, "some of its 4 channels"),
        ({"a": []}, "some of its 4 channels"),
        ({"z": [0]}, "no such layer"),
        ({"d": [0]}, "the network returns it"),
        ({"a": [0, 1], "b": [1, 2]}, "contradicts itself"),
    ],
)
def test_impossible_choices_are_refused(keep, message):
    b = Builder(3, 6, 6)
    y = b.op("add", "sum", b.conv("a", "x", kernels(4, 3)), b.conv("b", "x", kernels(4, 3)))
    b.conv("d", y, kernels(2, 4))
    with pytest.raises(SpecError, match=message):
        chosen(b.couple("d:out"), keep, {})
