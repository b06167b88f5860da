"""Each fusion pass alone, on hand-built graphs: what it merges, what it must leave, and that the meaning stays."""

from __future__ import annotations

import numpy as np
import pytest

from dovetail.formats import DenseSpec, PackedDense
from dovetail.program import fuse
from dovetail.program.build import Builder, Call, Const, Var
from dovetail.program.check import check
from dovetail.program.program import Activation, Epilogue
from dovetail.program.reference import run

RNG = np.random.default_rng(0)
CONV = {"stride": (1, 1), "padding": (1, 1, 1, 1), "dilation": (1, 1), "groups": 1}


class Net(Builder):
    """A Builder with a name for every node and random weights of 4 channels."""

    def __init__(self):
        super().__init__(lambda name: (_ for _ in ()).throw(KeyError(name)))
        self.x = self.input("x", ("batch", 4, 7, 5))

    def conv(self, name: str, x: Var, epilogue: Epilogue | None = None, **attributes) -> Var:
        self.at(Call(name, "conv"))
        self.weights[name] = PackedDense.from_dense(RNG.normal(size=(4, 4, 3, 3)).astype(np.float32), DenseSpec())
        return self.emit("conv2d", x, weight=name, epilogue=epilogue, **{**CONV, **attributes})

    def affine(self, name: str, x: Var, *parts: str, axis: int = 1) -> Var:
        self.at(Call(name, "affine"))
        names = {part: self.array(f"{name}.{part}", RNG.normal(size=x.shape[axis])) for part in parts}
        return self.emit("affine", x, epilogue=Epilogue(**names), axis=axis)

    def op(self, op: str, name: str, *operands: Var | Const, **attributes) -> Var:
        self.at(Call(name, op))
        return self.emit(op, *operands, **attributes)

    def relu(self, name: str, x: Var) -> Var:
        self.at(Call(name, "relu"))
        return self.activation(x, "relu")

    def done(self, *outputs: Var):
        return self.program(tuple(y.name for y in outputs), {})


def same(before, step):
    """The program after a pass, which must be whole and mean the same."""
    after = step(before)
    check(after)
    x = np.random.default_rng(1).normal(size=(2, 4, 7, 5))
    wants, gots = (run(p, x, dtype=np.float64) for p in (before, after))
    for want, got in zip(*(y if isinstance(y, tuple) else (y,) for y in (wants, gots)), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    return [node.name for node in after.graph.nodes], after


@pytest.mark.parametrize("first", [(), ("scale",), ("bias",), ("scale", "bias")])
@pytest.mark.parametrize("second", [("scale",), ("bias",), ("scale", "bias")])
def test_affine_joins_the_layer_before(first, second):
    net = Net()
    y = net.conv("c", net.x)
    y = net.affine("n", y, *first) if first else y
    names, after = same(net.done(net.affine("m", y, *second)), fuse.fold_affine)
    assert names == ["c"]
    assert after.graph.nodes[0].output == "m"


def test_affine_stays_where_its_input_is_read_twice_or_shown():
    net = Net()
    y = net.conv("c", net.x)
    z = net.affine("n", y, "scale")
    assert same(net.done(net.op("add", "a", y, z)), fuse.fold_affine)[0] == ["c", "n", "a"]
    assert same(net.done(y, z), fuse.fold_affine)[0] == ["c", "n", "a"]


def test_affine_stays_behind_an_activation_or_along_another_axis():
    net = Net()
    y = net.conv("c", net.x, Epilogue(activation=Activation("relu")))
    assert same(net.done(net.affine("n", y, "scale")), fuse.fold_affine)[0] == ["c", "n"]
    net = Net()
    y = net.conv("c", net.x)
    assert same(net.done(net.affine("n", y, "bias", axis=3)), fuse.fold_affine)[0] == ["c", "n"]


def test_the_later_layer_takes_the_residual():
    net = Net()
    a, b = net.conv("a", net.x), net.conv("b", net.x)
    names, after = same(net.done(net.op("add", "s", b, a)), fuse.fuse_residual)
    assert names == ["a", "b"]
    assert after.graph.nodes[1].epilogue.residual == "a"
    assert after.graph.nodes[1].output == "s"


def test_an_earlier_layer_takes_the_residual_if_it_alone_can():
    net = Net()
    a = net.conv("a", net.x)
    pool = net.op("permute", "p", net.x, order=(0, 1, 2, 3))
    names, _ = same(net.done(net.op("add", "s", a, pool)), fuse.fuse_residual)
    assert names == ["p", "a"]


def test_sums_that_no_layer_can_take_stay():
    net = Net()
    y = net.conv("c", net.x)
    assert same(net.done(net.op("add", "s", y, y)), fuse.fuse_residual)[0] == ["c", "s"]
    net = Net()
    y = net.conv("c", net.x, Epilogue(activation=Activation("relu")))
    assert same(net.done(net.op("add", "s", y, net.x)), fuse.fuse_residual)[0] == ["c", "s"]
    net = Net()
    y = net.conv("c", net.x)
    row = net.op("mean", "m", net.x, axes=(2,), keepdims=True)
    assert same(net.done(net.op("add", "s", y, row)), fuse.fuse_residual)[0] == ["c", "m", "s"]
    net = Net()
    y = net.op("add", "s", net.conv("c", net.x), Const("k", np.ones((4, 7, 5))))
    assert same(net.done(y), fuse.fuse_residual)[0] == ["c", "s"]


def test_activation_joins_what_is_before():
    net = Net()
    y = net.relu("r", net.conv("c", net.x))
    assert same(net.done(net.relu("q", net.op("add", "s", y, net.x))), fuse.fuse_activation)[0] == ["c", "s"]


def test_activation_stays_after_another_or_after_an_op_without_one():
    net = Net()
    y = net.relu("r", net.conv("c", net.x, Epilogue(activation=Activation("tanh"))))
    y = net.op("softmax", "m", y, axis=1)
    assert same(net.done(net.relu("q", y)), fuse.fuse_activation)[0] == ["c", "r", "m", "q"]


PADS = ((0, 0), (0, 0), (1, 2), (0, 1))


@pytest.mark.parametrize(
    ("op", "attributes", "value", "merges"),
    [
        ("conv", {}, 0.0, True),
        ("conv", {}, 1.0, False),
        ("avg_pool2d", {"include_pad": True, "padding": (1, 0, 1, 0)}, 0.0, True),
        ("avg_pool2d", {"include_pad": False, "padding": (0, 0, 0, 0)}, 0.0, True),
        ("avg_pool2d", {"include_pad": False, "padding": (1, 0, 0, 1)}, 0.0, False),
        ("max_pool2d", {"padding": (0, 0, 0, 0)}, 0.0, False),
        ("max_pool2d", {"padding": (0, 0, 0, 0)}, -3.4028234663852886e38, True),
    ],
)
def test_pads_become_padding_where_that_is_the_same(op, attributes, value, merges):
    net = Net()
    y = net.op("pad", "p", net.x, pads=PADS, value=value)
    window = {"kernel": (3, 2), "stride": (2, 1), **attributes}
    y = net.conv("y", y) if op == "conv" else net.op(op, "y", y, **window)
    names, _ = same(net.done(y), lambda program: fuse.remove_dead(fuse.merge_pads(program)))
    assert names == (["y"] if merges else ["p", "y"])


def test_a_zero_pad_never_wins_after_a_relu():
    net = Net()
    y = net.op("pad", "p", net.conv("c", net.x, Epilogue(activation=Activation("relu"))), pads=PADS, value=0.0)
    y = net.op("max_pool2d", "y", y, kernel=(3, 2), stride=(2, 1))
    assert same(net.done(y), lambda program: fuse.remove_dead(fuse.merge_pads(program)))[0] == ["c", "y"]


def test_a_pad_between_the_taps_of_a_dilated_pool_stays():
    """On two columns with one zero on each side, the taps of a window 3 apart can both be zeros of the pad."""
    net = Net()
    y = net.op("slice", "s", net.conv("c", net.x, Epilogue(activation=Activation("relu"))), axis=3, start=0, stop=2)
    y = net.op("pad", "p", y, pads=((0, 0), (0, 0), (0, 0), (1, 1)), value=0.0)
    y = net.op("max_pool2d", "y", y, kernel=(1, 2), stride=(1, 1), dilation=(1, 3))
    assert same(net.done(y), lambda program: fuse.remove_dead(fuse.merge_pads(program)))[0] == ["c", "s", "p", "y"]


def test_a_pad_of_channels_stays():
    net = Net()
    y = net.op("pad", "p", net.op("slice", "s", net.x, axis=1, start=0, stop=2), pads=((0, 0), (1, 1), (0, 0), (0, 0)))
    assert same(net.done(net.conv("c", y)), fuse.merge_pads)[0] == ["s", "p", "c"]


def test_copies_go():
    net = Net()
    y = net.op("reshape", "a", net.x, shape=("batch", 28, 5))
    y = net.op("reshape", "b", y, shape=("batch", 4, 7, 5))
    y = net.op("permute", "c", net.conv("k", y), order=(0, 2, 3, 1))
    y = net.op("permute", "d", y, order=(0, 3, 1, 2))
    names, _ = same(net.done(net.relu("r", y)), lambda program: fuse.remove_dead(fuse.drop_copies(program)))
    assert names == ["k", "r"]


def test_what_no_output_needs_goes():
    net = Net()
    y = net.conv("c", net.x)
    net.affine("n", net.conv("dead", net.x), "scale")
    names, after = same(net.done(y), fuse.remove_dead)
    assert names == ["c"]
    assert set(after.weights) == {"c"}
    assert not after.arrays
