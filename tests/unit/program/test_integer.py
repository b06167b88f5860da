"""Nodes over codes, against sums in plain Python whole numbers; what cannot be in codes is refused."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from dovetail.errors import ProgramError
from dovetail.formats import (
    DenseSpec,
    KernelBasisSpec,
    PackedDense,
    PackedKernelBasis,
    PackedSparse,
    PackedSvd,
    SparseSpec,
    SvdSpec,
)
from dovetail.formats.values import INT8, TERNARY
from dovetail.program import functions as f
from dovetail.program.check import check
from dovetail.program.integer import code_of, product
from dovetail.program.program import Activation, Epilogue, Graph, Node, Program, Tensor
from dovetail.program.reference import run
from dovetail.program.store import load, save

RANDOM = np.random.default_rng(7)
POOL = {"kernel": (3, 2), "stride": (2, 2), "padding": (1, 1, 1, 0)}
CONV = {"stride": (1, 1), "padding": (0, 0, 0, 0), "dilation": (1, 1), "groups": 1}


def network(
    op: str,
    shapes: list[tuple[int, ...]],
    out: tuple[int, ...],
    *,
    inside: tuple[float, int] = (0.02, 9),
    result: tuple[float, int] | None = (0.05, 3),
    weight: Any = None,
    bias: np.ndarray | None = None,
    residual: bool = False,
    activation: Activation | None = None,
    **attributes: Any,
) -> Program:
    """quantize → the op → dequantize; one input per operand, the residual last."""
    names = [f"x{i}" for i in range(len(shapes))]
    tensors = {n: Tensor(n, ("batch", *s[1:])) for n, s in zip(names, shapes)}
    nodes = []
    for i, (n, s) in enumerate(zip(names, shapes)):
        if residual and result is None and i == len(names) - 1:
            continue
        grid = result if residual and i == len(names) - 1 else inside
        tensors[f"{n}.codes"] = Tensor(f"{n}.codes", ("batch", *s[1:]), "uint8", *(grid or inside))
        nodes.append(Node("quantize", f"{n}.codes", (n,), f"{n}.codes"))
    codes = [f"{n}.codes" if f"{n}.codes" in tensors else n for n in names]
    epilogue = Epilogue(None, None if bias is None else "bias", codes.pop() if residual else None, activation)
    tensors["y"] = Tensor("y", ("batch", *out[1:]), *(("uint8", *result) if result else ()))
    nodes.append(Node(op, "n", tuple(codes), "y", None if weight is None else "w", attributes, epilogue))
    if result:
        tensors["z"] = Tensor("z", ("batch", *out[1:]))
        nodes.append(Node("dequantize", "z", ("y",), "z"))
    graph = Graph(tuple(names), ("z" if result else "y",), tuple(nodes), tensors)
    program = Program(
        {"main": graph}, {} if weight is None else {"w": weight}, {} if bias is None else {"bias": np.float32(bias)}
    )
    check(program)
    return program


def values(program: Program, *shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    return run(program, *(RANDOM.uniform(-1, 4, s) for s in shapes), every=True)


@pytest.mark.parametrize("activation", [None, Activation("relu"), Activation("clamp", (0.1, 1.0))], ids=str)
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("real", [False, True], ids=["codes", "float32"])
def test_conv2d(activation: Activation | None, residual: bool, real: bool) -> None:
    weight = PackedDense.from_dense(RANDOM.normal(size=(4, 2, 3, 2)).astype(np.float32), DenseSpec(values=INT8))
    bias = RANDOM.normal(size=4).astype(np.float32)
    attributes = {**CONV, "stride": (2, 1), "padding": (1, 0, 1, 1), "groups": 2}
    shapes, out = [(2, 4, 5, 4)], (2, 4, 2, 5)
    if residual:
        shapes.append(out)
    result = None if real else (0.05, 3)
    program = network(
        "conv2d", shapes, out, result=result, weight=weight, bias=bias, residual=residual, activation=activation,
        **attributes,
    )  # fmt: skip
    found = values(program, *shapes)
    codes, scale = weight.integers()
    x = np.pad(found["x0.codes"].astype(int) - 9, ((0, 0), (0, 0), (1, 0), (1, 1)))
    for n, k, h, w in np.ndindex(*out):
        total = round(float(bias[k]) / (0.02 * float(scale[k])))
        for c, r, s in np.ndindex(2, 3, 2):
            total += int(codes[k, c, r, s]) * int(x[n, k // 2 * 2 + c, 2 * h + r, w + s])
        t = np.float32(total) * np.float32(0.02 * float(scale[k]) / (1 if real else 0.05))
        if residual and real:
            t += np.float32(found["x1"][n, k, h, w])
        elif residual:
            t += np.float32(int(found["x1.codes"][n, k, h, w]) - 3) * np.float32(1)
        assert t.dtype == np.float32
        low, high = {None: (-np.inf, np.inf), "relu": (0, np.inf), "clamp": (0.1, 1.0)}[activation and activation.name]
        if real:
            assert found["y"][n, k, h, w] == np.clip(t, np.float32(low), np.float32(high))
        else:
            ends = [0 if low < 0 else round(low / 0.05) + 3, 255 if high > 9 else round(high / 0.05) + 3]
            assert found["y"][n, k, h, w] == min(max(round(Fraction(float(t))) + 3, ends[0]), ends[1])


@pytest.mark.parametrize("coefficients", ["dense", "sparse", "ternary"])
def test_linear_of_a_shared_basis_is_exact_in_any_order(coefficients: Any) -> None:
    packed = PackedKernelBasis.from_dense(
        RANDOM.normal(size=(3, 5, 3, 3)).astype(np.float32),
        KernelBasisSpec(bases=4, coefficients=coefficients, values=INT8),
    )
    program = network("conv2d", [(1, 5, 4, 4)], (1, 3, 2, 2), weight=packed, **CONV)
    found = values(program, (1, 5, 4, 4))
    bases, coefficients = packed.codes()
    x = found["x0.codes"].astype(int) - 9
    first = np.array([[[[ (x[0, c, i : i + 3, j : j + 3] * bases[b]).sum() for j in range(2)] for i in range(2)]
                       for b in range(4)] for c in range(5)])  # fmt: skip
    sums = np.einsum("kcb,cbij->kij", coefficients.astype(int), first)
    _, scale = packed.integers()
    for k in range(3):
        t = sums[k].astype(np.float32) * np.float32(0.02 * float(scale[k]) / 0.05)
        np.testing.assert_array_equal(found["y"][0, k], np.clip(np.rint(t) + 3, 0, 255))


@pytest.mark.parametrize("form", ["bases", "weight"])
def test_ternary_layers_in_codes_are_those_of_real_numbers_to_one_step(form: str) -> None:
    """Of the codes of the result: the real layer reads what the codes stand for, and is rounded once in the end."""
    dense = RANDOM.normal(size=(6, 5, 3, 3)).astype(np.float32)
    packed = (
        PackedKernelBasis.from_dense(dense, KernelBasisSpec(bases=6, coefficients="ternary", values=INT8))
        if form == "bases"
        else PackedSparse.from_dense(dense, SparseSpec(values=TERNARY))
    )
    bias = RANDOM.normal(size=6).astype(np.float32)
    program = network("conv2d", [(2, 5, 6, 6)], (2, 6, 4, 4), result=(0.2, 100), weight=packed, bias=bias, **CONV)
    found = values(program, (2, 5, 6, 6))
    x = (found["x0.codes"].astype(np.float64) - 9) * 0.02
    real = f.conv2d(x, packed.dense().astype(np.float64), **CONV) + bias[:, None, None]
    codes = np.clip(np.rint(real / 0.2) + 100, 0, 255)
    assert np.count_nonzero((codes > 0) & (codes < 255)) > codes.size / 2
    assert np.abs(found["y"] - codes).max() <= 1
    assert np.mean(found["y"] == codes) > 0.95


def test_add() -> None:
    program = network("add", [(2, 3)] * 2, (2, 3), activation=Activation("relu"))
    found = values(program, (2, 3), (2, 3))
    for at in np.ndindex(2, 3):
        t = np.float32(0)
        for i in range(2):
            t = np.float32(t + np.float32(int(found[f"x{i}.codes"][at]) - 9) * np.float32(0.02 / 0.05))
        assert found["y"][at] == min(max(round(Fraction(float(t))) + 3, 3), 255)


@pytest.mark.parametrize(
    ("op", "out", "attributes"),
    [
        ("mean", (2, 3), {"axes": (2, 3), "keepdims": False}),
        ("avg_pool2d", (2, 3, 3, 3), {**POOL, "include_pad": True}),
        ("avg_pool2d", (2, 3, 3, 3), {**POOL, "include_pad": False}),
        ("adaptive_avg_pool2d", (2, 3, 2, 3), {"output": (2, 3)}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("result", [(0.05, 3), None])
def test_means_round_once(op: str, out: tuple[int, ...], attributes: dict[str, Any], result: Any) -> None:
    program = network(op, [(2, 3, 5, 5)], out, result=result, **attributes)
    found = values(program, (2, 3, 5, 5))
    x = found["x0.codes"].astype(np.int64) - 9
    for n, c, *at in np.ndindex(*out):
        if op == "mean":
            part, count = x[n, c], 25
        elif op == "adaptive_avg_pool2d":
            ends = [(i * 5 // o, -(-(i + 1) * 5 // o)) for i, o in zip(at, (2, 3))]
            part = x[n, c, slice(*ends[0]), slice(*ends[1])]
            count = part.size
        else:
            top, left = 2 * at[0] - 1, 2 * at[1] - 1
            part = x[n, c, max(top, 0) : top + 3, max(left, 0) : left + 2]
            count = 6 if attributes["include_pad"] else part.size
        t = np.float32(int(part.sum())) * np.float32(0.02 / ((0.05 if result else 1) * count))
        want = min(max(round(Fraction(float(t))) + 3, 0), 255) if result else t
        assert found["y"][(n, c, *at)] == want


@pytest.mark.parametrize(
    ("op", "shapes", "out", "attributes"),
    [
        ("max_pool2d", [(2, 3, 5, 5)], (2, 3, 3, 3),
         {"kernel": (3, 3), "stride": (2, 2), "padding": (1, 1, 1, 1), "dilation": (1, 1)}),
        ("adaptive_max_pool2d", [(2, 3, 5, 5)], (2, 3, 2, 2), {"output": (2, 2)}),
        ("concat", [(2, 3, 2), (2, 4, 2)], (2, 7, 2), {"axis": 1}),
        ("slice", [(2, 7, 2)], (2, 3, 2), {"axis": 1, "start": 1, "stop": 6, "step": 2}),
        ("reshape", [(2, 3, 4)], (2, 12), {"shape": ("batch", 12)}),
        ("permute", [(2, 3, 4)], (2, 4, 3), {"order": (0, 2, 1)}),
        ("pad", [(2, 3, 4)], (2, 4, 6), {"pads": ((0, 0), (1, 0), (0, 2)), "value": 0.5}),
        ("upsample_nearest", [(2, 3, 2, 2)], (2, 3, 4, 6), {"scale": (2, 3)}),
    ],
)  # fmt: skip
def test_moves_keep_codes(op: str, shapes: list[tuple[int, ...]], out: tuple[int, ...], attributes: Any) -> None:
    """The same numbers as the op over the real values that the codes stand for."""
    program = network(op, shapes, out, inside=(0.05, 3), **attributes)
    arrays = [RANDOM.uniform(-0.1, 4, shape) for shape in shapes]
    found = run(program, *arrays, every=True)
    names = tuple(f"x{i}" for i in range(len(shapes)))
    tensors = {n: Tensor(n, ("batch", *s[1:])) for n, s in (*zip(names, shapes), ("y", out))}
    plain = Program({"main": Graph(names, ("y",), (Node(op, "n", names, "y", None, attributes),), tensors)}, {}, {})
    real = run(plain, *(np.float32(0.05) * (found[f"{n}.codes"].astype(np.float32) - 3) for n in names))
    np.testing.assert_array_equal(found["z"], real)


def test_codes_are_clamped_and_ties_go_to_even() -> None:
    program = network("add", [(1, 6)] * 2, (1, 6), inside=(0.5, 100))
    found = run(program, np.array([[-1e30, 1e30, 0.25, 0.75, -0.25, 60]]), np.zeros((1, 6)), every=True)
    np.testing.assert_array_equal(found["x0.codes"], [[0, 255, 100, 102, 100, 220]])
    assert code_of(-1e30, program.graph.tensors["y"]) == 0


def test_they_survive_storage(tmp_path: Any) -> None:
    weight = PackedDense.from_dense(RANDOM.normal(size=(4, 6)).astype(np.float32), DenseSpec(values=INT8))
    program = network("linear", [(2, 6)], (2, 4), weight=weight, bias=np.ones(4), residual=False)
    again, x = load(save(program, tmp_path / "n.dovetail")), RANDOM.normal(size=(3, 6))
    assert again.graph.tensors == program.graph.tensors
    np.testing.assert_array_equal(run(again, x), run(program, x))


def change(program: Program, name: str, **fields: Any) -> Program:
    tensors = {**program.graph.tensors, name: replace(program.graph.tensors[name], **fields)}
    return program.with_graph(replace(program.graph, tensors=tensors))


@pytest.mark.parametrize(
    ("name", "fields", "words"),
    [
        ("y", {"dtype": "int4"}, "known are float32 and uint8"),
        ("y", {"scale": None}, "scale None"),
        ("y", {"scale": float("nan")}, "scale nan"),
        ("y", {"scale": -1.0}, "scale -1"),
        ("y", {"zero": 256}, "zero 256"),
        ("z", {"scale": 1.0}, "float32 and has a scale"),
        ("y", {"scale": 0.06}, "one scale and one zero"),
        ("z", {"dtype": "uint8", "scale": 1.0, "zero": 0}, "the other way round"),
        ("x0", {"dtype": "uint8", "scale": 1.0, "zero": 0}, "the other way round"),
    ],
)
def test_unsound_types_are_refused(name: str, fields: dict[str, Any], words: str) -> None:
    program = network("slice", [(2, 7)], (2, 3), inside=(0.05, 3), axis=1, start=0, stop=3, step=1)
    with pytest.raises(ProgramError, match=words):
        check(change(program, name, **fields))


def test_ops_that_need_real_numbers_refuse_codes() -> None:
    with pytest.raises(ProgramError, match=r"softmax.*dequantize"):
        network("softmax", [(2, 7)], (2, 7), axis=1)
    with pytest.raises(ProgramError, match="gelu needs a float32 result"):
        network("add", [(2, 7)] * 2, (2, 7), activation=Activation("gelu"))
    weight = PackedSvd.from_dense(np.eye(4, dtype=np.float32), SvdSpec(rank=2, values=INT8))
    with pytest.raises(ProgramError, match="svd of int8 is no product of whole numbers"):
        network("linear", [(2, 4)], (2, 4), weight=weight)


def test_sums_that_could_overflow_are_refused() -> None:
    weight = PackedDense.from_dense(np.ones((1, 40000), np.float32), DenseSpec(values=INT8))
    with pytest.raises(ProgramError, match="beyond 32 bits"):
        network("linear", [(1, 40000)], (1, 1), weight=weight)
    small = PackedDense.from_dense(np.ones((1, 100), np.float32), DenseSpec(values=INT8))
    program = network("linear", [(1, 100)], (1, 1), weight=small, bias=np.array([2.0]))
    found = product(program, program.graph, program.graph.node("n"))
    assert found.bound == 2 * 255 * 127 * 100 + round(2.0 * 127 / 0.02)


def test_scales_too_far_apart_for_float32_are_refused() -> None:
    with pytest.raises(ProgramError, match=r"the scale of 'x0.codes' is too large beside its result's"):
        network("add", [(2, 7)] * 2, (2, 7), inside=(1e20, 0), result=(1e-20, 0))
    large = PackedDense.from_dense(np.full((1, 4), 1e30, np.float32), DenseSpec(values=INT8))
    with pytest.raises(ProgramError, match="too far apart for float32"):
        network("linear", [(1, 4)], (1, 1), weight=large, inside=(1e10, 0))
