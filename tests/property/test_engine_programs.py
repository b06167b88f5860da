"""Random programs: whatever shape an image network has, the engine agrees with the reference."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dovetail.engine import Schedule, native_status
from dovetail.engine.kernels import candidates, place
from dovetail.engine.native import cores
from dovetail.program.program import Activation, Program
from programs import Sketch, agrees, random_packed

pytestmark = pytest.mark.skipif(not native_status().available, reason="the native engine is not built")


@st.composite
def programs(draw: st.DrawFn) -> tuple[Program, tuple[int, ...]]:
    """A few image ops in a row with branches that are added or concatenated."""
    sketch = Sketch(draw(st.integers(0, 1000)))
    shape = ("batch", draw(st.integers(1, 9)), draw(st.integers(1, 18)), draw(st.integers(1, 18)))
    live = [sketch.input(*shape)]
    for _ in range(draw(st.integers(1, 6))):
        live.append(draw_node(draw, sketch, draw(st.sampled_from(live))))
    outputs = [live[-1], *draw(st.lists(st.sampled_from(live[1:]), max_size=1, unique=True))]
    return sketch.program(*dict.fromkeys(outputs)), (draw(st.integers(1, 3)), *shape[1:])


OPS = ["conv"] * 4 + [
    "max",
    "avg",
    "adaptive",
    "affine",
    "add",
    "mul",
    "concat",
    "rows",
    "channels",
    "pad",
    "up",
    "act",
]


def draw_node(draw: st.DrawFn, sketch: Sketch, x: str) -> str:
    _, channels, height, width = sketch.tensors[x].shape
    same = [name for name, tensor in sketch.tensors.items() if tensor.shape == sketch.tensors[x].shape]
    kind, stride = draw(st.sampled_from(OPS)), draw(st.sampled_from([(1, 1), (2, 2), (1, 2)]))
    match kind:
        case "conv":
            return draw_conv(draw, sketch, x, channels, height, width)
        case "max" if height >= 2 and width >= 2:
            return sketch.add("max_pool2d", x, kernel=(2, 2), stride=stride)
        case "avg":
            return sketch.add("avg_pool2d", x, kernel=(3, 3), stride=stride, padding=(1, 1, 1, 1), include_pad=False)
        case "adaptive":
            return sketch.add("adaptive_avg_pool2d", x, output=(draw(st.integers(1, 5)), draw(st.integers(1, 5))))
        case "affine":
            return sketch.add("affine", x, axis=1, scaled=True, biased=True)
        case "add":
            return sketch.add("add", x, draw(st.sampled_from(same)), activation=Activation("relu"))
        case "mul":
            return sketch.add("mul", x, sketch.add("mean", x, axes=(2, 3), keepdims=True))
        case "concat":
            others = draw(st.lists(st.sampled_from(same), min_size=1, max_size=2))
            return sketch.add("concat", x, *others, axis=draw(st.sampled_from([1, 1, 2])))
        case "rows":
            stop = max(1, min(height, width))
            return sketch.add("slice", x, axis=draw(st.sampled_from([2, 3])), start=0, stop=stop, step=2)
        case "channels" if channels > 1:
            return sketch.add("slice", x, axis=1, start=draw(st.integers(0, channels - 2)), stop=channels, step=1)
        case "pad":
            return sketch.add("pad", x, pads=((0, 0), (draw(st.integers(0, 2)), 1), (0, 0), (0, 1)), value=0.0)
        case "up" if height * width <= 64:
            return sketch.add("upsample_nearest", x, scale=(1, 2))
    if draw(st.booleans()) and height * width * channels < 500:
        return sketch.add("permute", x, order=(0, 3, 1, 2))
    return sketch.add("activation", x, activation=Activation("hardswish"))


def draw_conv(draw: st.DrawFn, sketch: Sketch, x: str, channels: int, height: int, width: int) -> str:
    kernel = draw(st.integers(1, min(3, height + 2))), draw(st.integers(1, min(3, width + 2)))
    padding = tuple(draw(st.integers(0, 1)) for _ in range(4))
    if kernel[0] > height + padding[0] + padding[1] or kernel[1] > width + padding[2] + padding[3]:
        padding = (1, 1, 1, 1)
    groups = draw(st.sampled_from([g for g in (1, 1, 2, channels) if channels % g == 0]))
    outputs = groups * draw(st.integers(1, 5))
    weight = (outputs, channels // groups, *kernel)
    taps = kernel[0] * kernel[1]
    name, fields = draw(
        st.sampled_from(
            [
                ("dense", {}),
                ("sparse", {"density": 0.4}),
                ("kernel_basis", {"bases": max(1, taps // 2), "coefficients": "sparse"}),
            ]
        )
    )
    if name == "kernel_basis" and taps == 1:
        name, fields = "dense", {}
    packed = random_packed(name, weight, sketch.random, **fields)
    stride = draw(st.sampled_from([(1, 1), (1, 1), (2, 2), (2, 1)]))
    y = sketch.add("conv2d", x, packed=packed, stride=stride, padding=padding, groups=groups, scaled=True, biased=True)
    fits = [n for n, t in sketch.tensors.items() if t.shape == sketch.tensors[y].shape and n != y]
    if fits and draw(st.booleans()):
        return sketch.add(
            "conv2d",
            x,
            packed=packed,
            stride=stride,
            padding=padding,
            groups=groups,
            residual=fits[0],
            activation=Activation("relu"),
        )
    return y


@given(programs(), st.data())
@settings(max_examples=80)
def test_random_programs(case: tuple[Program, tuple[int, ...]], data: st.DataObject):
    program, shape = case
    image = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    shapes, choices = program.shapes(program.graph, {"batch": shape[0]}), {}
    for node in program.graph.nodes:
        if node.weight is not None:
            found = candidates(node.op, program.weights[node.weight], place(node, shapes))
            choices[node.name] = data.draw(st.sampled_from([c.name for c in found]))
    threads = data.draw(st.integers(1, cores()))
    assert agrees(program, [image], threads=threads, schedule=Schedule(choices))
