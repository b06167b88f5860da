"""The op table: what a node may say, and what is refused."""

from __future__ import annotations

import pytest

from dovetail.errors import ProgramError
from dovetail.program.ops import OPS, check_node, complete
from dovetail.program.program import Activation, Epilogue, Node, bind_shape

IMAGE = ("batch", 4, 9, 7)
KNOWN = {"x": IMAGE, "rows": ("batch", 4), "k": (8,), "c": (4,), "same": ("batch", 8, 9, 7), "folded": ("6*batch", 5)}
FULL = {"stride": (1, 1), "padding": (1, 1, 1, 1), "dilation": (1, 1), "groups": 1}


def node(op: str, inputs=("x",), epilogue: Epilogue | None = None, weight=None, **attributes) -> Node:
    return Node(op, "n", tuple(inputs), "y", weight, attributes, epilogue or Epilogue(), source="net.py:7")


def conv(epilogue: Epilogue | None = None, **attributes) -> Node:
    return node("conv2d", epilogue=epilogue, weight="w", **{**FULL, **attributes})


def shape(n: Node, weight=None):
    return check_node(n, KNOWN, weight)


def test_a_convolution_keeps_the_batch_symbolic():
    assert shape(conv(), (8, 4, 3, 3)) == ("batch", 8, 9, 7)
    assert shape(conv(stride=(2, 3)), (8, 4, 3, 3)) == ("batch", 8, 5, 3)


def test_defaults_are_filled_in():
    done = complete(node("conv2d", weight="w"))
    assert dict(done.attributes) == {"stride": (1, 1), "padding": (0, 0, 0, 0), "dilation": (1, 1), "groups": 1}
    assert shape(node("conv2d", weight="w"), (8, 4, 3, 3)) == ("batch", 8, 7, 5)


def test_a_full_epilogue_is_taken():
    epilogue = Epilogue("k", "k", "same", Activation("clamp", (0.0, 6.0)))
    assert shape(conv(epilogue), (8, 4, 3, 3)) == ("batch", 8, 9, 7)


def test_multiples_of_the_batch_are_dimensions():
    split = node("reshape", ("folded",), shape=("batch", 6, 5))
    assert shape(split) == ("batch", 6, 5)
    assert bind_shape(("6*batch", 5), {"batch": 3}) == (18, 5)


REFUSED = [
    (node("fold"), None, "unknown op"),
    (conv(padding=(1, 1)), (8, 4, 3, 3), "padding"),
    (conv(groups=0), (8, 4, 3, 3), "groups"),
    (conv(stride=(1, True)), (8, 4, 3, 3), "stride"),
    (conv(colour=1), (8, 4, 3, 3), "unknown attribute"),
    (conv(), None, "lacks its packed weight"),
    (conv(), (8, 4), "weight of shape"),
    (conv(), (8, 3, 3, 3), "4 channels"),
    (conv(groups=2), (7, 2, 3, 3), "groups"),
    (conv(dilation=(9, 9)), (8, 4, 3, 3), "does not fit"),
    (conv(Epilogue(scale="c")), (8, 4, 3, 3), "scale"),
    (conv(Epilogue(bias="gone")), (8, 4, 3, 3), "bias"),
    (conv(Epilogue(residual="x")), (8, 4, 3, 3), "residual"),
    (conv(Epilogue(activation=Activation("swish"))), (8, 4, 3, 3), "unknown activation"),
    (conv(Epilogue(activation=Activation("clamp", (1.0,)))), (8, 4, 3, 3), "low, high"),
    (conv(Epilogue(activation=Activation("clamp", (1.0, 0.0)))), (8, 4, 3, 3), "empty"),
    (conv(Epilogue(activation=Activation("leaky_relu", (float("inf"),)))), (8, 4, 3, 3), "finite"),
    (node("activation"), None, "names no activation"),
    (node("add"), None, "operands"),
    (node("add", ("x", "gone")), None, "computed before"),
    (node("add", ("x", "rows")), None, "do not fit together"),
    (node("softmax", axis=1, weight="w"), (8, 4), "takes no packed weight"),
    (node("mul", ("x", "x"), Epilogue(bias="c")), None, "no bias"),
    (node("max_pool2d", kernel=(2, 2), stride=(1, 1), padding=(2, 0, 0, 0)), None, "wholly in the padding"),
    (node("max_pool2d", kernel=(2, 2), stride=(1, 1), padding=(0, 2, 0, 0)), None, "wholly in the padding"),
    (node("max_pool2d", kernel=(9, 1), stride=(1, 1), padding=(70000, 0, 0, 0)), None, "4 integers from 0 to 65536"),
    (conv(dilation=(1, 1 << 20)), (8, 4, 3, 3), "2 integers from 1 to 65536"),
    (node("mean", axes=(0,)), None, "only when the network runs"),
    (node("mean", axes=(2, 2)), None, "twice"),
    (node("mean", axes=(-1,)), None, "at least 0"),
    (node("concat", ("x", "rows"), axis=1), None, "cannot join"),
    (node("slice", axis=1, start=2, stop=2), None, "slice 2:2"),
    (node("slice", axis=1, start=0, stop=5), None, "within its 4"),
    (node("slice", axis=0, start=0, stop=1), None, "only when the network runs"),
    (node("reshape", shape=("batch", 251)), None, "cannot be reshaped"),
    (node("reshape", shape=("batch", -1)), None, "shape"),
    (node("reshape", shape=("batch*4", 63)), None, "shape"),
    (node("permute", order=(0, 1, 1, 2)), None, "no order"),
    (node("pad", pads=((0, 0), (1, 1))), None, "4 axes"),
    (node("pad", pads=((1, 0), (0, 0), (0, 0), (0, 0))), None, "only when the network runs"),
    (node("matmul", ("x", "x")), None, "matrices"),
    (node("layer_norm", axes=4), None, "no 4 axes"),
    (node("layer_norm", ("x", "c"), axes=1), None, "must have shape (7)"),
    (node("layer_norm", axes=1, eps=0.0), None, "positive"),
    (node("upsample_nearest", ("rows",), scale=(2, 2)), None, "takes images"),
    (node("affine", axis=0), None, "only when the network runs"),
]


@pytest.mark.parametrize(("bad", "weight", "words"), REFUSED, ids=lambda value: getattr(value, "op", None))
def test_what_does_not_fit_is_refused_by_name(bad, weight, words):
    with pytest.raises(ProgramError) as caught:
        shape(bad, weight)
    message = str(caught.value)
    assert words in message
    assert "'n'" in message
    assert "net.py:7" in message


def test_the_longest_windows_and_paddings_are_judged_at_once():
    long = {"kernel": (1 << 16, 1), "stride": (1, 1), "padding": (1 << 16, 1 << 16, 0, 0)}
    with pytest.raises(ProgramError, match="wholly in the padding"):
        shape(node("avg_pool2d", **long))
    most = {**long, "padding": ((1 << 16) - 1, (1 << 16) - 1, 0, 0)}
    assert shape(node("avg_pool2d", **most)) == ("batch", 4, 65544, 7)


def test_every_row_has_functions_and_known_epilogue_parts():
    for name, op in OPS.items():
        assert op.name == name
        assert op.epilogue <= {"scale", "bias", "residual", "activation"}
        assert (op.channel is not None) == bool(op.weight)
