"""One change for each kind of error that random ones seldom reach, made to a Program that has everything.

`AIMED` maps kinds of `error_kinds.ERRORS` to changes of `everything()`, stored; `aimed_codes.py` has those over codes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from dovetail.formats.values import TERNARY
from dovetail.program.program import Activation, Program
from mutations import Data, Stored
from programs import Sketch, random_packed, ternary_basis

Change = Callable[[Stored], Any]


@cache
def everything() -> Program:
    """A convolution in every format, every op without weights, rows, and a sequence of unknown length, scanned."""
    sketch = Sketch(1)
    x, s = sketch.input("batch", 4, 9, 7), sketch.input("batch", "time", 6)
    formats: list[tuple[str, dict[str, Any]]] = [
        ("dense", {}),
        ("tucker", {"rank_in": 2, "rank_out": 3}),
        ("kernel_basis", {"bases": 4, "coefficients": "sparse"}),
        ("sparse", {"density": 0.03}),
        ("sparse", {"density": 0.5}),
        ("block_sparse", {"density": 0.4}),
        ("block_sparse", {"block": 1, "keep": (1, 2)}),
    ]
    y = x
    for name, fields in formats:
        packed = random_packed(name, (6, sketch.tensors[y].shape[1], 3, 3), sketch.random, **fields)
        y = sketch.add(
            "conv2d", y, packed=packed, residual=None if y == x else y, scaled=True, biased=True,
            activation=Activation("clamp", (-1.0, 6.0)), padding=(1, 1, 1, 1),
        )  # fmt: skip
    for kind in ("groups", "runs", "rows"):
        y = sketch.add("conv2d", y, packed=ternary_basis(kind, (6, 6, 3, 3)), padding=(1, 1, 1, 1))
    y = sketch.add("conv2d", y, packed=random_packed("sparse", (6, 6, 1, 1), sketch.random, values=TERNARY))
    y = sketch.add("conv2d", y, packed=random_packed("svd", (6, 6, 1, 1), sketch.random, rank=3))
    gate = sketch.add("mean", y, axes=(2, 3), keepdims=True)
    y = sketch.add("mul", sketch.add("affine", y, axis=1, scaled=True), gate)
    y = sketch.add("add", y, sketch.array(1, 6, 1, 1), activation=Activation("relu"))
    y = sketch.add("concat", y, sketch.add("activation", y, activation=Activation("leaky_relu", (0.1,))), axis=1)
    y = sketch.add("pad", y, pads=((0, 0), (0, 0), (1, 0), (0, 2)), value=0.5)
    y = sketch.add("slice", y, axis=1, start=2, stop=8)
    y = sketch.add("max_pool2d", y, kernel=(2, 2), stride=(2, 2), padding=(0, 0, 0, 1))
    y = sketch.add("upsample_nearest", sketch.add("avg_pool2d", y, kernel=(2, 2), stride=(1, 1)), scale=(1, 2))
    y = sketch.add("adaptive_avg_pool2d", sketch.add("adaptive_max_pool2d", y, output=(3, 3)), output=(2, 2))
    rows = sketch.add("permute", sketch.add("reshape", y, shape=("batch", 6, 4)), order=(0, 2, 1))
    rows = sketch.add("layer_norm", rows, sketch.array(6), sketch.array(6), axes=1)
    rows = sketch.add("softmax", sketch.add("matmul", rows, sketch.array(6, 6)), axis=2)
    out = sketch.add("linear", rows, packed=random_packed("dense", (5, 6), sketch.random), biased=True)
    tokens = sketch.add("linear", s, packed=random_packed("svd", (7, 6), sketch.random, rank=2))
    inside = Sketch(2, "cell.")
    step, state, count = inside.input("batch", 7), inside.input("batch", 7), inside.input("batch", 7)
    packed = random_packed("sparse", (7, 7), inside.random, density=0.4)
    made = inside.add("linear", state, packed=packed, residual=step, activation=Activation("tanh"))
    cell = sketch.body(inside, made, inside.add("add", count, inside.array(7)))
    return sketch.program(out, tokens, sketch.add("scan", tokens, body=cell))


def cut_short(file: Stored) -> None:
    file.damage = lambda data: data[: len(data) // 2]


def other_container_type(file: Stored) -> None:
    """A type that numpy does not have."""

    def rename(data: bytes) -> bytes:
        size = int.from_bytes(data[:8], "little")
        table = json.loads(data[8 : 8 + size])
        entry = next(entry for name, entry in table.items() if name != "__metadata__" and entry["dtype"] == "F32")
        entry["dtype"], entry["shape"] = "BF16", [*entry["shape"], 2]
        text = json.dumps(table).encode()
        return len(text).to_bytes(8, "little") + text + data[8 + size :]

    file.damage = rename


def set_header(value: Data) -> Change:
    def change(file: Stored) -> None:
        file.header = value

    return change


def attributes(op: str, **values: Any) -> Change:
    return lambda file: file.node(op)["attributes"].update(values)


def epilogue(op: str, **values: Any) -> Change:
    return lambda file: file.node(op)["epilogue"].update(values)


def spec(format_name: str, **values: Any) -> Change:
    return lambda file: file.entry(format_name)["spec"].update(values)


def array(format_name: str, part: str, change: Callable[[np.ndarray], np.ndarray]) -> Change:
    return lambda file: file.change(file.key(format_name, part), change)


def ternary(part: str, change: Callable[[np.ndarray], np.ndarray]) -> Change:
    """Of the positions of ternary coefficients, without their first byte; or of their signs."""
    if part:
        return array("kernel_basis", f"coefficients.{part}", lambda a: np.concatenate([a[:1], change(a[1:])]))

    def apply(file: Stored) -> None:
        key = next(k for k, a in file.arrays.items() if k.endswith("/coefficients") and a.dtype == np.uint8)
        file.change(key, change)

    return apply


def empty_the_first_row(file: Stored) -> None:
    """Of a set of which a mask says that there are no empty ones, six places each."""
    rows = file.key("kernel_basis", "coefficients.rows")
    file.change(rows.replace(".rows", ".bitmap"), lambda a: np.append(a[:1] & np.uint8(0b11000000), a[1:]))


def operand(op: str, place: int, name: str) -> Change:
    return lambda file: file.node(op)["inputs"].__setitem__(place, name)


def forget_the_bitmap(file: Stored) -> None:
    key = file.key("sparse", "weight.bitmap")
    file.header["weights"][key.split("/")[1]]["arrays"].remove("weight.bitmap")
    del file.arrays[key]


def array_as_residual(file: Stored) -> None:
    """Of the right shape, so that all dimensions are known."""
    for tensor in file.main["tensors"].values():
        tensor["shape"] = [2 if d == "batch" else d for d in tensor["shape"]]
    node = file.node("conv2d")
    shape = file.tensor(node["output"])["shape"]
    node["epilogue"] = {"residual": file.add_array("residual", np.ones(shape, np.float32))}


def shared_unevenly(file: Stored) -> None:
    """Six outputs in five groups, over as many channels."""
    name = file.weight("dense")
    file.node("conv2d")["attributes"]["groups"] = 5
    file.exchange(name, random_packed("dense", (6, 1, 3, 3), np.random.default_rng(0)))
    file.tensor("x0")["shape"][1] = 5


def join_above_one_another(file: Stored) -> None:
    """Parts of different channels."""
    node = file.node("concat")
    node["inputs"][1], node["attributes"]["axis"] = "x0", 2


def body(file: Stored) -> Data:
    return file.header["graphs"]["cell."]


def state_of_others(file: Stored) -> None:
    """A state that nothing computes with the sequence."""
    for name in (body(file)["inputs"][2], body(file)["outputs"][1]):
        body(file)["tensors"][name]["shape"] = ["others", 7]


def quantize_nothing(file: Stored) -> None:
    file.node("activation").update(op="quantize", epilogue={})


AIMED: dict[str, Change] = {
    "no container": cut_short,
    "no program": set_header(None),
    "no JSON": set_header("{"),
    "no mapping": set_header([]),
    "no version": lambda file: file.header.update(version="1.0"),
    "newer version": lambda file: file.header.update(version=[1, 99]),
    "older version": lambda file: file.header.update(version=[0, 1]),
    "type of the container": other_container_type,
    "malformed spec": spec("block_sparse", density=10**400),
    "unknown format": spec("dense", format="felt"),
    "unknown field of a spec": spec("svd", colour=1),
    "incomplete spec": lambda file: file.entry("svd")["spec"].pop("rank"),
    "rank or count": spec("svd", rank=0),
    "version of a spec": spec("dense", version=0),
    "newer spec": spec("dense", version=9),
    "value type": spec("dense", values="f8"),
    "Tucker rank": spec("tucker", rank_in=7),
    "fold": spec("tucker", fold=1),
    "SVD rank": spec("svd", rank=7),
    "SVD of larger kernels": lambda file: file.entry("svd").update(shape=[6, 6, 2, 1]),
    "number of bases": spec("kernel_basis", bases=10),
    "kind of coefficients": spec("kernel_basis", coefficients="few"),
    "density": spec("sparse", density=1.5),
    "block": spec("block_sparse", block=0),
    "keep": spec("block_sparse", keep=[3, 2], density=None),
    "density and keep": spec("block_sparse", keep=[1, 2], density=0.5),
    "dimensions of a weight": lambda file: file.entry("tucker").update(shape=[6, 4, 9]),
    "value type of a format": spec("dense", values="ternary"),
    "kind of positions": forget_the_bitmap,
    "type of positions": array("sparse", "weight.bitmap", lambda a: a.astype(np.int16)),
    "open gap": array("sparse", "weight.gaps", lambda a: np.append(a, np.uint8(255))),
    "sum of gaps": array("sparse", "weight.gaps", lambda a: np.append(np.uint8(255), a)),
    "size of a bitmap": array("sparse", "weight.bitmap", lambda a: a[:-1]),
    "last bits of a bitmap": array("block_sparse", "weight.bitmap", lambda a: np.append(a[:-1], np.uint8(255))),
    "width of positions": array("kernel_basis", "coefficients.runs", lambda a: np.append(np.uint8(1), a[1:])),
    "size of groups": ternary("groups", lambda a: a[:-1]),
    "end of positions": ternary("runs", lambda a: np.append(a, np.uint8(0))),
    "empty group": ternary("groups", lambda a: np.append(a[:-9], np.zeros(9, np.uint8))),
    "empty row": empty_the_first_row,
    "number of signs": ternary("", lambda a: a[:-1]),
    "last signs": ternary("", lambda a: np.append(a[:-1], np.uint8(255))),
    "NaN in a weight": lambda file: file.put(file.key("tucker", "core"), np.nan),
    "shape of an array": array("tucker", "core", lambda a: a[None]),
    "too many entries": spec("sparse", density=0.0001),
    "too many blocks": spec("block_sparse", density=0.0001),
    "weights beyond": array("block_sparse", "weight", np.ones_like),
    "no main graph": lambda file: file.header["graphs"].update(other=file.header["graphs"].pop("main")),
    "type of a constant": lambda file: file.add_array("halves", np.ones(6)),
    "NaN in a constant": lambda file: file.add_array("nothing", np.full(6, np.nan, np.float32)),
    "no ends": lambda file: file.main.update(outputs=[]),
    "name twice": lambda file: file.nodes()[1].update(name=file.nodes()[0]["name"]),
    "input elsewhere": lambda file: file.main["inputs"].append(file.header["arrays"][0]),
    "input of multiples": lambda file: file.tensor("x0").update(shape=["2*batch", 4, 9, 7]),
    "impossible dimension": lambda file: file.tensor("x0").update(shape=["batch", 0, 9, 7]),
    "too many dimensions": lambda file: file.tensor("x0").update(shape=["batch", *[1] * 16]),
    "enormous tensor": lambda file: file.tensor("x0").update(shape=["batch", 1 << 20, 1 << 20, 2]),
    "float32 with a scale": lambda file: file.tensor("x0").update(scale=0.5, zero=3),
    "type of a tensor": lambda file: file.tensor("x0").update(dtype="float16"),
    "missing weight": lambda file: file.node("conv2d").update(weight="wait"),
    "writes what exists": lambda file: file.node("affine").update(output="x0"),
    "residual that is an array": array_as_residual,
    "writes elsewhere": lambda file: file.node("affine").update(output="gone"),
    "false shape": lambda file: file.output("affine").update(shape=["batch", 6, 9, 8]),
    "output of nobody": lambda file: file.main["outputs"].append("gone"),
    "idle tensor": lambda file: file.main["tensors"].update(idle={"shape": [1], "dtype": "float32"}),
    "conversion of nothing": quantize_nothing,
    "unknown op": lambda file: file.node("affine").update(op="fold"),
    "unknown attribute": attributes("affine", colour=1),
    "attribute": attributes("affine", axis=-1),
    "number of operands": lambda file: file.node("affine")["inputs"].append("x0"),
    "order": lambda file: file.main["nodes"].reverse(),
    "no weight": lambda file: file.node("conv2d").pop("weight"),
    "needless weight": lambda file: file.node("affine").update(weight=file.weight("dense")),
    "weight of another op": lambda file: file.node("linear").update(weight=file.weight("tucker")),
    "needless epilogue": epilogue("softmax", activation=["relu"]),
    "scale or bias": epilogue("conv2d", bias="x0"),
    "residual": epilogue("conv2d", residual="x0"),
    "no activation": lambda file: file.node("activation").pop("epilogue"),
    "unknown activation": epilogue("conv2d", activation=["swish"]),
    "arguments of an activation": epilogue("conv2d", activation=["clamp", 1]),
    "empty clamp": epilogue("conv2d", activation=["clamp", 2, 1]),
    "channels": attributes("conv2d", groups=2),
    "groups": shared_unevenly,
    "inputs of a linear layer": operand("linear", 0, "x0"),
    "window in the padding": attributes("max_pool2d", padding=[0, 0, 0, 9]),
    "axis twice": attributes("mean", axes=[2, 2]),
    "parts of a concatenation": join_above_one_another,
    "slice": attributes("slice", start=3, stop=99),
    "reshape": attributes("reshape", shape=["batch", 6, 5]),
    "order of axes": attributes("permute", order=[0, 1, 1]),
    "pads": attributes("pad", pads=[[0, 0]]),
    "matrices": lambda file: file.node("matmul")["inputs"].reverse(),
    "axes of a norm": attributes("layer_norm", axes=3),
    "parameters of a norm": attributes("layer_norm", axes=2),
    "images": operand("max_pool2d", 0, "x1"),
    "missing axis": attributes("softmax", axis=3),
    "symbolic axis": attributes("mean", axes=[0]),
    "window": attributes("avg_pool2d", kernel=[9, 9]),
    "offsets beyond 32 bits": attributes("conv2d", padding=[30000] * 4, dilation=[30000] * 2),
    "broadcast": operand("add", 1, "x1"),
    "missing body": attributes("scan", body="loop"),
    "body that scans": attributes("scan", body="main"),
    "too few sequences": attributes("scan", sequences=2),
    "states of a body": lambda file: body(file)["outputs"].pop(),
    "state of another size": lambda file: body(file)["tensors"]["cell.x2"].update(shape=["batch", 1]),
    "steps of a sequence": operand("scan", 0, "x0"),
    "initial states": lambda file: file.node("scan")["inputs"].append("x1"),
    "size of a state": state_of_others,
    "name inside and outside": lambda file: body(file)["nodes"][0].update(name=file.nodes()[0]["name"]),
}
