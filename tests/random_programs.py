"""Random small Programs: image ops in a row with branches that are added or concatenated, then often a head of rows.

One seed makes one Program. Sizes are odd on purpose; strides, paddings, dilations, groups, formats and activations are
drawn; in whole numbers it holds only ops that compute over codes, so that every target must give the same bits, unless
some of its layers are kept in real numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from random import Random
from typing import Any

import numpy as np

from dovetail.formats.values import F32, INT8, TERNARY
from dovetail.program.calibrate import calibrate
from dovetail.program.integer import MOVES, touches_codes
from dovetail.program.program import Activation, Program
from dovetail.program.quantize import quantize
from programs import Sketch, random_packed

Make = Callable[[Random, Sketch, str], str | None]
ACTIVATIONS = (
    None,
    Activation("relu"),
    Activation("clamp", (-0.5, 1.5)),
    Activation("leaky_relu", (0.1,)),
    *(Activation(name) for name in ("sigmoid", "tanh", "hardswish", "silu", "gelu", "gelu_tanh")),
)
IN_CODES = ACTIVATIONS[:3]


def random_program(seed: int, *, codes: bool = False) -> tuple[Program, list[np.ndarray]]:
    """The Program of a seed, and inputs for it; with `codes`, quantised."""
    random = Random(f"{seed} {codes}")
    sketch = Sketch(random.randrange(1 << 30))
    shape = ("batch", random.randint(1, 9), random.randint(1, 18), random.randint(1, 18))
    live = [sketch.input(*shape)]
    if codes:
        live = [conv(random, sketch, live[0], codes=True)]
    for _ in range(random.randint(1, 7)):
        made = random.choice(OVER_CODES if codes else IMAGE_OPS)(random, sketch, random.choice(live))
        live.append(made or conv(random, sketch, live[0], codes=codes))
    if random.random() < 0.5:
        live.append(head(random, sketch, live[-1], codes=codes))
    outputs = list(dict.fromkeys([live[-1], random.choice(live)]))
    if codes:  # what no product reads in the end is left in real numbers
        read = {name for node in sketch.nodes for name in node.reads()}
        ends = [name for name in sketch.tensors if name not in read and len(sketch.tensors[name].shape) == 4]
        outputs += [conv(random, sketch, name, codes=True) for name in ends]
    images = sketch.random.standard_normal((random.randint(1, 3), *shape[1:])).astype(np.float32)
    program = sketch.program(*dict.fromkeys(outputs))
    return (in_codes(program, images, keep=kept(random, program)) if codes else program), [images]


def kept(random: Random, program: Program) -> list[str]:
    """Weight nodes of a quantised program that stay in real numbers: of two programs in three, none."""
    share = random.choice((0, 0, 0.4))
    return [node.name for node in program.graph.nodes if node.weight is not None and random.random() < share]


def in_codes(program: Program, images: np.ndarray, keep: Collection[str] = ()) -> Program:
    """Quantised, its ends a little short, so that codes are clamped."""
    ranges = {name: found.range("minmax") for name, found in calibrate(program, [images]).items()}
    return quantize(program, {name: (0.9 * low, 0.9 * high) for name, (low, high) in ranges.items()}, keep)


def rounded(program: Program) -> set[str]:
    """Tensors that depend on sums of real numbers, or on their functions, which targets may round as they like.

    All others are rounded nowhere but as `program/integer.py` says, so that every target has the same bits.
    """
    clamps, found = {a.name for a in IN_CODES if a}, set[str]()
    for node in program.graph.nodes:
        exact = touches_codes(node, program.graph) or node.op in MOVES | {"add"}
        exact = exact and (node.epilogue.activation is None or node.epilogue.activation.name in clamps)
        if not exact or found & set(node.reads()):
            found.add(node.output)
    return found


def pair(random: Random, *choices: int) -> tuple[int, int]:
    return random.choice(choices), random.choice(choices)


def conv(random: Random, sketch: Sketch, x: str, *, codes: bool = False) -> str:
    """A convolution of any geometry that fits, in any format that holds its weight; sometimes with a residual."""
    _, channels, *size = sketch.tensors[x].shape
    groups = random.choice([g for g in (1, 1, 2, 3, 4, channels) if channels % g == 0])
    kernel, dilation = pair(random, 1, 1, 2, 3, 3, 5, 7), pair(random, 1, 1, 1, 2)
    padding = [random.choice((0, 1, 1, 2)) if random.random() < 0.97 else 40 for _ in range(4)]
    for axis in (0, 1):
        reach = dilation[axis] * (kernel[axis] - 1) + 1
        short = max(0, reach - size[axis] - padding[2 * axis] - padding[2 * axis + 1])
        padding[2 * axis] += (short + 1) // 2
        padding[2 * axis + 1] += short // 2
    outputs = groups * random.choice((1, 2, 3, 5, 8, 17) if groups == 1 else (1, 2, 4))
    weight = (outputs, channels // groups, *kernel)
    geometry: dict[str, Any] = {
        "packed": packed_in(random, sketch, weight, groups, codes=codes),
        "stride": random.choice([(1, 1), (1, 1), (1, 1), (2, 2), (2, 1), (1, 2), (1, 3)]),
        "padding": tuple(padding), "dilation": dilation, "groups": groups, "biased": random.random() < 0.7,
    }  # fmt: skip
    acts = IN_CODES if codes else ACTIVATIONS
    y = sketch.add("conv2d", x, scaled=random.random() < 0.5, activation=random.choice(acts), **geometry)
    same = [n for n, t in sketch.tensors.items() if t.shape == sketch.tensors[y].shape]
    if random.random() < 0.5:
        return sketch.add("conv2d", x, residual=random.choice(same), activation=random.choice(acts), **geometry)
    return y


def separable(random: Random, sketch: Sketch, x: str, *, codes: bool = False) -> str:
    """A 1x1 convolution and a depthwise one of what it makes."""
    acts, size = IN_CODES if codes else ACTIVATIONS, random.choice((3, 5))
    channels, wide = sketch.tensors[x].shape[1], random.choice((3, 8, 20))
    packed = random_packed("dense", (wide, channels, 1, 1), sketch.random)
    y = sketch.add("conv2d", x, packed=packed, biased=random.random() < 0.7, activation=random.choice(acts))
    packed = random_packed("dense", (wide, 1, size, size), sketch.random)
    around = {"padding": (size // 2,) * 4, "stride": random.choice([(1, 1), (1, 1), (2, 2)]), "groups": wide}
    return sketch.add("conv2d", y, packed=packed, biased=True, activation=random.choice(acts), **around)


def packed_in(random: Random, sketch: Sketch, weight: tuple[int, ...], groups: int, *, codes: bool) -> Any:
    """The weight in a format that can hold it."""
    k, c, *kernel = weight
    area = kernel[0] * kernel[1] if kernel else 1
    formats: list[tuple[str, dict[str, Any]]] = [
        ("dense", {}), ("dense", {}), ("sparse", {"density": random.choice((0.05, 0.4, 1.0))}),
        ("block_sparse", {"density": 0.4, "block": random.choice((1, 2, 4))}), ("block_sparse", {"keep": (1, 2)}),
    ]  # fmt: skip
    if area > 1:
        values = INT8 if codes else F32  # bases in int8 stay bases
        fields = {"bases": random.randint(1, min(6, area)), "coefficients": "sparse", "values": values}
        formats.append(("kernel_basis", fields))
    if kernel:
        fields = {"bases": random.randint(1, min(9, area)), "coefficients": "ternary", "values": INT8 if codes else F32}
        formats.append(("kernel_basis", fields))
    formats.append(("sparse", {"density": random.choice((0.05, 0.4)), "values": TERNARY}))
    if area > 1:
        formats.append(("kernel_basis", {"bases": random.randint(1, area), "coefficients": "dense"}))
    if area == 1 and groups == 1 and not codes:
        formats.append(("svd", {"rank": random.randint(1, min(k, c))}))
    if kernel and groups == 1 and not codes:
        ranks = {"rank_in": random.randint(1, c), "rank_out": random.randint(1, k)}
        formats.append(("tucker", ranks | {"fold": random.random() < 0.5}))
    if groups == 1:
        index = random.choice(("natural", "searched", "random"))
        fields = {"size": random.randint(1, min(k, c, 5)), "index": index, "seed": 3 if index == "random" else None}
        formats += [("permuted_diagonal", fields), ("block_circulant", {"size": random.randint(1, min(8, max(k, c)))})]
    name, fields = random.choice(formats)
    return random_packed(name, weight, sketch.random, **fields)


def head(random: Random, sketch: Sketch, x: str, *, codes: bool) -> str:
    """Rows at the end: pooled or as they are, linear layers, and in floating point attention or a norm."""
    _, channels, height, width = sketch.tensors[x].shape
    if random.random() < 0.5:
        y = sketch.add("mean", x, axes=(2, 3), keepdims=False)
    elif codes:
        y = sketch.add("reshape", sketch.add("mean", x, axes=(2, 3), keepdims=True), shape=("batch", channels))
    else:
        y = sketch.add("reshape", x, shape=("batch", channels, height * width))
        y = sketch.add("permute", y, order=(0, 2, 1)) if random.random() < 0.5 else y
    if len(sketch.tensors[y].shape) == 3:
        y = rows(random, sketch, y)
    inner, outputs = sketch.tensors[y].shape[-1], random.choice((1, 7, 33, 70))
    packed = packed_in(random, sketch, (outputs, inner), 1, codes=codes)
    acts = IN_CODES if codes else ACTIVATIONS
    y = sketch.add("linear", y, packed=packed, biased=random.random() < 0.5, activation=random.choice(acts))
    return y if codes or random.random() < 0.5 else sketch.add("softmax", y, axis=len(sketch.tensors[y].shape) - 1)


def rows(random: Random, sketch: Sketch, x: str) -> str:
    """Attention of a sequence to itself, or a norm."""
    inner = sketch.tensors[x].shape[-1]
    if random.random() < 0.5:
        return sketch.add("layer_norm", x, sketch.array(inner), sketch.array(inner), axes=1, eps=1e-2)
    scores = sketch.add("matmul", x, sketch.add("permute", x, order=(0, 2, 1)))
    scale = sketch.array(1)
    sketch.arrays[scale][:] = 0.1
    return sketch.add("matmul", sketch.add("softmax", sketch.add("mul", scores, scale), axis=2), x)


def max_pool(random: Random, sketch: Sketch, x: str) -> str | None:
    return _pool(random, sketch, x, "max_pool2d", dilation=pair(random, 1, 1, 2))


def avg_pool(random: Random, sketch: Sketch, x: str) -> str | None:
    return _pool(random, sketch, x, "avg_pool2d", include_pad=random.random() < 0.5)


def _pool(random: Random, sketch: Sketch, x: str, op: str, **more: Any) -> str | None:
    """None where no window fits."""
    size, kernel = sketch.tensors[x].shape[2:], pair(random, 1, 2, 3)
    reach = [d * (k - 1) + 1 for d, k in zip(more.get("dilation", (1, 1)), kernel)]
    if any(r > n for r, n in zip(reach, size)):
        return None
    padding = tuple(random.randint(0, (kernel[i // 2]) // 2) for i in range(4)) if "include_pad" in more else (0,) * 4
    return sketch.add(op, x, kernel=kernel, stride=pair(random, 1, 2, 3), padding=padding, **more)


def adaptive(random: Random, sketch: Sketch, x: str) -> str:
    op = random.choice(("adaptive_avg_pool2d", "adaptive_max_pool2d"))
    return sketch.add(op, x, output=(random.randint(1, 5), random.randint(1, 5)))


def add(random: Random, sketch: Sketch, x: str) -> str:
    return sketch.add("add", x, random.choice(_alike(sketch, x)), activation=random.choice(IN_CODES))


def concat(random: Random, sketch: Sketch, x: str) -> str:
    parts = [x, *(random.choice(_alike(sketch, x)) for _ in range(random.randint(1, 2)))]
    return sketch.add("concat", *parts, axis=random.choice((1, 1, 2, 3)))


def _alike(sketch: Sketch, x: str) -> list[str]:
    return [name for name, tensor in sketch.tensors.items() if tensor.shape == sketch.tensors[x].shape]


def slice_(random: Random, sketch: Sketch, x: str) -> str:
    axis = random.choice((1, 2, 3))
    size = sketch.tensors[x].shape[axis]
    start, step = random.randrange(size), random.randint(1, 3)
    return sketch.add("slice", x, axis=axis, start=start, stop=random.randint(start + 1, size), step=step)


def pad(random: Random, sketch: Sketch, x: str) -> str:
    pads = ((0, 0), *((random.choice((0, 0, 1, 4)), random.choice((0, 1, 3))) for _ in range(3)))
    return sketch.add("pad", x, pads=pads, value=random.choice((0.0, 0.5)))


def upsample(random: Random, sketch: Sketch, x: str) -> str | None:
    _, _, height, width = sketch.tensors[x].shape
    return sketch.add("upsample_nearest", x, scale=(1, 2)) if height * width <= 100 else None


def permute(random: Random, sketch: Sketch, x: str) -> str | None:
    _, channels, height, width = sketch.tensors[x].shape
    small = channels * height * width < 500
    return sketch.add("permute", x, order=random.choice([(0, 3, 1, 2), (0, 1, 3, 2), (0, 2, 3, 1)])) if small else None


def affine(random: Random, sketch: Sketch, x: str) -> str:
    return sketch.add("affine", x, axis=random.choice((1, 1, 3)), scaled=True, biased=random.random() < 0.5)


def activation(random: Random, sketch: Sketch, x: str) -> str:
    return sketch.add("activation", x, activation=random.choice(ACTIVATIONS[1:]))


def mul(random: Random, sketch: Sketch, x: str) -> str:
    return sketch.add("mul", x, sketch.add("mean", x, axes=(2, 3), keepdims=True))


def float_conv(random: Random, sketch: Sketch, x: str) -> str:
    return conv(random, sketch, x)


def code_conv(random: Random, sketch: Sketch, x: str) -> str:
    return conv(random, sketch, x, codes=True)


def code_separable(random: Random, sketch: Sketch, x: str) -> str:
    return separable(random, sketch, x, codes=True)


BOTH: tuple[Make, ...] = (max_pool, avg_pool, adaptive, add, concat, slice_, pad, upsample, permute)
IMAGE_OPS: tuple[Make, ...] = (*(float_conv,) * 6, separable, *BOTH, affine, activation, mul)
OVER_CODES: tuple[Make, ...] = (*(code_conv,) * 6, code_separable, *BOTH)
