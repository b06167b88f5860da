"""As `aimed_mutations.py`, for Programs in whole numbers."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from aimed_mutations import Change, array
from dovetail.formats import DenseSpec, PackedDense
from dovetail.formats.values import INT8
from dovetail.program.program import Activation, Program
from mutations import Data, Stored
from programs import Sketch, random_packed
from random_programs import in_codes


@cache
def everything_in_codes() -> Program:
    """Products, a sum, means and moves over codes; images, rows, and a float result."""
    sketch = Sketch(2)
    x = sketch.input("batch", 4, 6, 6)

    def packed(format_name: str, *shape: int, **fields: Any) -> Any:
        return random_packed(format_name, shape, sketch.random, **fields)

    a = sketch.add("conv2d", x, packed=packed("dense", 8, 4, 1, 1), biased=True, activation=Activation("relu"))
    b = sketch.add("conv2d", a, packed=packed("sparse", 8, 8, 1, 1, density=0.3), residual=a)
    c = sketch.add("conv2d", b, packed=packed("block_sparse", 8, 8, 1, 1, density=0.5))
    y = sketch.add("concat", sketch.add("add", b, c), sketch.add("max_pool2d", c, kernel=(1, 1), stride=(1, 1)), axis=1)
    y = sketch.add("slice", sketch.add("avg_pool2d", y, kernel=(2, 2), stride=(2, 2)), axis=1, start=4, stop=12)
    y = sketch.add("conv2d", y, packed=packed("dense", 8, 8, 1, 1))
    rows = sketch.add("linear", sketch.add("reshape", y, shape=("batch", 8, 9)), packed=packed("dense", 5, 9))
    y = sketch.add("linear", sketch.add("mean", rows, axes=(1,), keepdims=False), packed=packed("dense", 3, 5))
    return in_codes(sketch.program(y), sketch.random.standard_normal((4, 4, 6, 6)).astype(np.float32))


def over_codes(change: Callable[[Stored, Data], Any], op: str) -> Change:
    """A change to the first node of an op that reads codes."""

    def apply(file: Stored) -> None:
        node = next(n for n in file.nodes(op) if file.tensor(n["inputs"][0])["dtype"] == "uint8")
        node.setdefault("epilogue", {})
        change(file, node)

    return apply


def a_float_weight(file: Stored, node: Data) -> None:
    file.exchange(node["weight"], random_packed("dense", (5, 9), np.random.default_rng(0)))


def too_many_inputs(file: Stored, node: Data) -> None:
    """Rows so long that sums over them leave 32 bits."""
    first, last = file.nodes("linear")
    for name in (first["output"], node["output"]):
        file.tensor(name)["shape"][-1] = 1 << 17
    for layer, shape in ((first, (1 << 17, 9)), (last, (3, 1 << 17))):
        file.exchange(layer["weight"], PackedDense.from_dense(np.ones(shape, np.float32), DenseSpec(values=INT8)))
        layer.pop("epilogue", None)


def too_large_scales(file: Stored, node: Data) -> None:
    file.tensor(node["inputs"][0])["scale"] = 1e19
    file.change(f"weights/{node['weight']}/weight.scale", lambda a: np.full_like(a, 1e30))


def scales_far_apart(file: Stored, node: Data) -> None:
    file.tensor(node["inputs"][0])["scale"], file.tensor(node["output"])["scale"] = 1e19, 1e-19


def add_an_array(file: Stored, node: Data) -> None:
    node["inputs"][1] = file.add_array("one", np.ones(1, np.float32))


def five_dimensions(file: Stored, node: Data) -> None:
    node["attributes"]["shape"] = file.tensor(node["output"])["shape"] = ["batch", 1, 2, 2, 18]


def rows_as_images(file: Stored, node: Data) -> None:
    reshape = file.node("reshape")
    reshape["attributes"]["shape"] = file.tensor(reshape["output"])["shape"] = ["batch", 2, 4, 9]
    file.tensor(node["output"])["shape"] = ["batch", 2, 4, 5]


def add_one_channel(file: Stored, node: Data) -> None:
    shape = list(file.tensor(node["inputs"][1])["shape"])
    part = {"axis": 1, "start": 0, "stop": 1, "step": 1}
    shape[1] = 1
    node["inputs"][1] = file.insert_before(node, "slice", node["inputs"][1], shape, attributes=part)


def mean_of_channels(file: Stored, node: Data) -> None:
    node["attributes"]["axes"], file.tensor(node["output"])["shape"] = [2], ["batch", 8]


def add_real_numbers(file: Stored, node: Data) -> None:
    node["inputs"][1] = _real(file, node, node["inputs"][1])


def real_residual(file: Stored, node: Data) -> None:
    owner = next(n for n in file.nodes("conv2d") if "residual" in n.get("epilogue", {}))
    owner["epilogue"]["residual"] = _real(file, owner, owner["epilogue"]["residual"])


def _real(file: Stored, node: Data, source: str) -> str:
    """The codes as real numbers, made before the node."""
    return file.insert_before(node, "dequantize", source, file.tensor(source)["shape"])


def scale_after_codes(file: Stored, node: Data) -> None:
    node["epilogue"]["scale"] = file.add_array("eight", np.ones(8, np.float32))


def real_sum(file: Stored, node: Data) -> None:
    tensor = file.tensor(node["output"])
    del tensor["scale"], tensor["zero"]
    tensor["dtype"] = "float32"


def too_large_images(file: Stored) -> None:
    """So large that sums over their windows could leave 32 bits."""
    for tensor in file.main["tensors"].values():
        tensor["shape"] = [3000 if d == 6 else d for d in tensor["shape"]]
    file.node("avg_pool2d")["attributes"].update(kernel=[1000, 1000], stride=[1000, 1000])


def quantize_twice(file: Stored) -> None:
    node = file.node("conv2d")
    source = node["inputs"][0]
    node["inputs"][0] = file.insert_before(node, "quantize", source, file.tensor(source)["shape"])


AIMED: dict[str, Change] = {
    "code of -128": lambda file: file.put(file.key("dense", "weight"), -128),
    "scale": lambda file: file.put(file.key("dense", "weight.scale"), 0.0),
    "number of scales": array("dense", "weight.scale", lambda a: a[:-1]),
    "set of arrays": lambda file: file.entry("dense")["spec"].update(values="f32"),
    "type of an array": array("dense", "weight", lambda a: a.astype(np.uint8)),
    "scale of codes": lambda file: file.output("quantize").update(scale=1e-30),
    "codes at the ends": lambda file: file.main["outputs"].append(file.node("quantize")["output"]),
    "no whole numbers": over_codes(a_float_weight, "linear"),
    "sums beyond 32 bits": over_codes(too_many_inputs, "mean"),
    "scales too far apart": over_codes(too_large_scales, "conv2d"),
    "scale beside the result's": over_codes(scales_far_apart, "add"),
    "codes for a float op": over_codes(lambda file, node: node.update(op="mul"), "add"),
    "codes and an array": over_codes(add_an_array, "add"),
    "dimensions of codes": over_codes(five_dimensions, "reshape"),
    "rows of four dimensions": over_codes(rows_as_images, "linear"),
    "sum of two shapes": over_codes(add_one_channel, "add"),
    "axes of a mean": over_codes(mean_of_channels, "mean"),
    "mean beyond 32 bits": too_large_images,
    "direction of a conversion": quantize_twice,
    "operands of mixed types": over_codes(add_real_numbers, "add"),
    "another scale or zero": lambda file: file.output("concat").update(zero=200),
    "scale after codes": over_codes(scale_after_codes, "conv2d"),
    "residual of another type": over_codes(real_residual, "conv2d"),
    "activation over codes": over_codes(lambda file, node: node["epilogue"].update(activation=["gelu"]), "conv2d"),
    "float sum of codes": over_codes(real_sum, "add"),
}
