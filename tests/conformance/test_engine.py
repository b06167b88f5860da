"""Every kernel of the engine, forced by name on every ISA, against the reference; bit-equal for any thread count."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from dovetail.engine import Schedule, Session, native_status
from dovetail.engine.kernels import CANDIDATES, candidates
from dovetail.engine.native import cores, require_native
from dovetail.formats import FORMATS
from dovetail.formats.values import CODEBOOK4, INT8
from dovetail.program import reference
from dovetail.program.ops import OPS
from dovetail.program.program import Activation
from engine_cases import CONVS, EXPANDED, LINEARS, WINDOWS, Case
from programs import Sketch, close, native_calls, poisoned, random_packed
from thinned import thinned

pytestmark = pytest.mark.skipif(not native_status().available, reason="the native engine is not built")
ISAS = native_status().isas
THREADS = (1, 2) if cores() > 1 else (1,)
# What each candidate is made of, beside the moves of its input: the factored ones of their factors, convolutions of
# circulant blocks of two transforms and, as their size is three, two frequencies.
PRODUCTS = {
    "conv2d_dense": {"conv2d_dense_f32": 1},
    "conv2d_lanes": {"conv2d_lanes_f32": 1},
    "conv2d_depthwise": {"conv2d_depthwise_f32": 1},
    "conv2d_expanded_depthwise": {"conv2d_expanded_depthwise_f32": 1},
    "conv2d_winograd2": {"conv2d_winograd_f32": 1},
    "conv2d_winograd4": {"conv2d_winograd_f32": 1},
    "conv2d_winograd_rows": {"conv2d_winograd_f32": 1},
    "conv2d_sparse": {"conv2d_sparse_f32": 1},
    "conv2d_sparse_columns": {"conv2d_sparse_columns_f32": 1},
    "conv2d_kernel_basis": {"conv2d_kernel_basis_f32": 1},
    "conv2d_tucker": {"conv2d_dense_f32": 3},
    "conv2d_fused_tucker": {"conv2d_tucker_f32": 1},
    "conv2d_svd": {"conv2d_dense_f32": 2},
    "conv2d_classes": {"conv2d_dense_f32": 1},
    "conv2d_classes_winograd2": {"conv2d_winograd_f32": 1},
    "conv2d_classes_winograd4": {"conv2d_winograd_f32": 1},
    "conv2d_circulant": {"conv2d_dense_f32": 4},
    "conv2d_circulant_lanes": {"conv2d_dense_f32": 2, "conv2d_lanes_f32": 2},
    "conv2d_circulant_winograd2": {"conv2d_dense_f32": 2, "conv2d_winograd_f32": 2},
    "conv2d_circulant_winograd4": {"conv2d_dense_f32": 2, "conv2d_winograd_f32": 2},
    "linear_dense": {"linear_dense_f32": 1},
    "linear_sparse": {"linear_sparse_f32": 1},
    "linear_classes": {"linear_classes_f32": 1},
    "linear_classes_bytes": {"linear_classes_bytes_f32": 1},
    "linear_classes_book": {"linear_classes_book_f32": 1},
    "linear_diagonals": {"linear_diagonals_f32": 1},
    "linear_circulant": {"linear_dense_f32": 2, "linear_circulant_f32": 1, "pointwise_f32": 1},
    "linear_svd": {"linear_dense_f32": 2},
}
MOVES = {"copy_f32", "halo_f32", "fill_f32", "deal_f32", "take_f32"}
WITHOUT_WEIGHTS = {"pointwise_f32", "pool2d_f32", "adaptive_pool2d_f32", "mean_f32", "softmax_f32", "layer_norm_f32"}
# Specs of a format that has kernels for their index or values.
VARIANTS = ("permuted_diagonal, searched", "permuted_diagonal, int8", "permuted_diagonal, codebook4")
MEASURES = {"peak_f32", "stream_f32"}  # of the machine, for no network: tests/unit/engine/test_peaks.py


def products(kernel: str, case: Case, isa: str, *, placed: bool) -> Counter[str]:
    """The native kernels that a candidate has to call there.

    A dense 1x1 of one pixel is a matrix product, but where its result is `placed` in a part of a concatenation.
    """
    names = Counter(PRODUCTS[kernel])
    if names.keys() == {"conv2d_dense_f32"}:
        flat = sum(one_pixel(kernel, case)) - (placed and one_pixel(kernel, case)[-1])
        names += Counter({"linear_dense_f32": flat})
        names -= Counter({"conv2d_dense_f32": flat})
    return Counter({f"{name}__{isa}": count for name, count in names.items()})


def one_pixel(kernel: str, case: Case) -> list[bool]:
    """Which of the dense convolutions of a candidate, in turn, are 1x1 and of one pixel."""
    before, after, point = case.size == (1, 1), case.place.size == (1, 1), case.weight[2:] == (1, 1)
    core = before and after and point
    return {
        "conv2d_dense": [core],
        "conv2d_classes": [False],
        "conv2d_circulant": [False],
        "conv2d_svd": [core, after],
        "conv2d_tucker": [before, core, after],
    }[kernel]


def held(name: str) -> str:
    """The format of a variant."""
    return name.partition(",")[0]


def spec_fields(format_name: str, case: Case) -> dict[str, Any] | None:
    """Parameters of the format for this weight; None where it cannot hold it."""
    k, c, *kernel = case.weight
    taps = int(np.prod(kernel)) if kernel else 1
    match format_name:
        case "tucker":
            return (
                {"rank_in": max(1, c // 2), "rank_out": max(1, k // 2)}
                if kernel and case.attributes.get("groups", 1) == 1
                else None
            )
        case "svd":
            return {"rank": max(1, min(k, c) // 2)} if taps == 1 and case.attributes.get("groups", 1) == 1 else None
        case "kernel_basis":
            return {"bases": min(6, taps), "coefficients": "sparse"} if taps > 1 else None
        case "sparse" | "block_sparse":
            return {"density": 0.3}
        case "permuted_diagonal":
            return {"size": max(1, min(k, c, 3))} if case.attributes.get("groups", 1) == 1 else None
        case "permuted_diagonal, searched":
            return {"size": 10, "index": "searched"} if not kernel and min(k, c) >= 10 else None
        case "permuted_diagonal, int8":
            return {"size": 4, "values": INT8} if not kernel else None
        case "permuted_diagonal, codebook4":
            return {"size": 3, "values": CODEBOOK4} if not kernel else None
        case "block_circulant":
            return {"size": 3 if kernel else 4} if case.attributes.get("groups", 1) == 1 else None
    return {}


def forced() -> list[Any]:
    """Every (format, case, kernel) that the registries allow; where there is an expansion, those that take it in."""
    found = []
    for format_name in (*FORMATS, *VARIANTS):
        for case in (*CONVS, *EXPANDED, *LINEARS):
            fields = spec_fields(format_name, case)
            if fields is None:
                continue
            packed = random_packed(held(format_name), case.weight, np.random.default_rng(1), **fields)
            op = "conv2d" if len(case.weight) == 4 else "linear"
            found += [
                pytest.param(format_name, case, c.name, id=f"{format_name}-{case}-{c.name}")
                for c in candidates(op, packed, case.place)
                if c.expands == case.place.expanded
            ]
    return thinned(found, every=4, key=lambda format_name, case, kernel: (format_name, kernel))


def sketch_of(format_name: str, case: Case) -> Sketch:
    sketch = Sketch(3)
    fields = spec_fields(format_name, case) or {}
    packed = random_packed(held(format_name), case.weight, sketch.random, **fields)
    if case.expansion:
        x = sketch.input("batch", case.expansion, *case.size)
        before = random_packed("dense", (case.weight[0], case.expansion, 1, 1), sketch.random)
        plain = sketch.add("conv2d", x, packed=before, **case.epilogue)
        plain = sketch.add("conv2d", plain, packed=packed, **case.attributes, **case.epilogue)
        sketch.add("concat", plain, sketch.add("activation", plain, activation=Activation("tanh")), axis=1)
    elif len(case.weight) == 4:
        x = sketch.input("batch", case.weight[1] * case.attributes.get("groups", 1), *case.size)
        plain = sketch.add("conv2d", x, packed=packed, **case.attributes, **case.epilogue)
        if case.epilogue:
            double = sketch.add("concat", plain, sketch.add("activation", plain, activation=Activation("tanh")), axis=1)
            half = sketch.add("slice", double, axis=1, start=case.weight[0], stop=2 * case.weight[0], step=1)
            sketch.add("conv2d", x, packed=packed, residual=half, **case.attributes, **case.epilogue)
    else:
        x = sketch.input("batch", *case.size, case.weight[1])
        sketch.add("linear", x, packed=packed, **case.epilogue)
    return sketch


def joined(results: Any) -> np.ndarray:
    """One output, or several of one shape behind one another."""
    return np.concatenate(results) if isinstance(results, tuple) else results


@pytest.mark.parametrize(("format_name", "case", "kernel"), forced())
def test_forced_kernel_equals_reference(format_name: str, case: Case, kernel: str):
    sketch = sketch_of(format_name, case)
    nodes = [node for node in sketch.nodes if node.weight and sketch.weights[node.weight].shape == case.weight]
    program = sketch.program(*(node.output for node in nodes))
    x = sketch.random.standard_normal((case.batch, *sketch.tensors["x0"].shape[1:])).astype(np.float32)
    want = joined(reference.run(program, x))
    for isa in ISAS:
        results = []
        for threads in THREADS:
            session = Session(
                program, threads=threads, isa=isa, schedule=Schedule({node.name: kernel for node in nodes})
            )
            results.append(joined(poisoned(session, x)))
            for node in nodes:
                calls, moves = native_calls(session, node.name), {f"{name}__{isa}" for name in MOVES}
                wanted = products(kernel, case, isa, placed=node is not nodes[-1])
                assert Counter({name: n for name, n in calls.items() if name not in moves}) == wanted
        assert close(results[0], want), f"{isa}: {np.abs(results[0] - want).max()}"
        assert np.array_equal(results[0], results[-1]), f"{isa}: results depend on the number of threads"


def test_every_kernel_is_forced_somewhere():
    assert {c.name for c in CANDIDATES} == {parameters.values[2] for parameters in forced()} == set(PRODUCTS)


def test_no_native_kernel_is_left_out():
    known = {
        f"dovetail_{name}"
        for name in (*MOVES, *WITHOUT_WEIGHTS, *MEASURES, *(k for made in PRODUCTS.values() for k in made))
    }
    assert known == {name for name in require_native().kernels() if name.endswith("_f32")}


@pytest.mark.parametrize(
    "activation", ["relu", "clamp", "leaky_relu", "sigmoid", "tanh", "hardswish", "silu", "gelu", "gelu_tanh"]
)
@pytest.mark.parametrize("isa", ISAS)
def test_activations_after_products_and_alone(activation: str, isa: str):
    args = {"clamp": (-0.5, 1.5), "leaky_relu": (0.1,)}.get(activation, ())
    sketch = Sketch(4)
    x = sketch.input("batch", 3, 5, 6)
    act = Activation(activation, args)
    y = sketch.add(
        "conv2d",
        x,
        packed=random_packed("dense", (7, 3, 3, 3), sketch.random),
        padding=(1, 1, 1, 1),
        biased=True,
        residual=None,
        activation=act,
    )
    z = sketch.add("activation", y, activation=act)
    w = sketch.add(
        "linear",
        sketch.add("reshape", z, shape=("batch", 210)),
        packed=random_packed("dense", (9, 210), sketch.random),
        activation=act,
    )
    program = sketch.program(y, z, w)
    image = 4 * sketch.random.standard_normal((2, 3, 5, 6)).astype(np.float32)
    for got, want in zip(Session(program, isa=isa)(image), reference.run(program, image, dtype=np.float64)):
        assert close(got, want, 1e-5)


def one_of_each(sketch: Sketch) -> dict[str, str]:
    """A program's outputs, by op: every op that has no weight, on odd sizes."""
    x = sketch.input("batch", 6, 9, 7)
    s = sketch.input("batch", 4, 10)
    relu = Activation("relu")
    made = {
        "affine": sketch.add("affine", x, axis=1, scaled=True, biased=True, residual=x, activation=relu),
        "activation": sketch.add("activation", x, activation=Activation("sigmoid")),
        "add": sketch.add("add", x, sketch.array(1, 6, 1, 1), activation=relu),
        "mul": sketch.add("mul", x, sketch.add("mean", x, axes=(2, 3), keepdims=True)),
        "max_pool2d": sketch.add("max_pool2d", x, kernel=(3, 2), stride=(2, 1), padding=(1, 1, 0, 1), dilation=(1, 1)),
        "avg_pool2d": sketch.add(
            "avg_pool2d", x, kernel=(3, 3), stride=(2, 2), padding=(1, 1, 1, 1), include_pad=False
        ),
        "adaptive_avg_pool2d": sketch.add("adaptive_avg_pool2d", x, output=(4, 3)),
        "adaptive_max_pool2d": sketch.add("adaptive_max_pool2d", x, output=(2, 5)),
        "mean": sketch.add("mean", s, axes=(1,), keepdims=False),
        "slice": sketch.add("slice", x, axis=2, start=1, stop=8, step=2),
        "reshape": sketch.add("reshape", x, shape=("batch", 54, 7)),
        "permute": sketch.add("permute", x, order=(0, 2, 3, 1)),
        "pad": sketch.add("pad", x, pads=((0, 0), (1, 2), (0, 1), (2, 0)), value=0.5),
        "softmax": sketch.add("softmax", s, axis=1),
        "layer_norm": sketch.add("layer_norm", s, sketch.array(10), sketch.array(10), axes=1, eps=1e-5),
        "upsample_nearest": sketch.add("upsample_nearest", x, scale=(2, 3)),
    }
    made["concat"] = sketch.add("concat", x, made["affine"], made["activation"], axis=1)
    made["matmul"] = sketch.add("matmul", s, sketch.add("permute", s, order=(0, 2, 1)))
    return made


def test_the_program_of_all_ops_has_them_all():
    assert set(one_of_each(Sketch())) == set(OPS) - {"conv2d", "linear", "quantize", "dequantize", "scan"}


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("threads", THREADS)
def test_ops_without_weights(isa: str, threads: int):
    sketch = Sketch(5)
    made = one_of_each(sketch)
    program = sketch.program(*made.values())
    inputs = [
        sketch.random.standard_normal((3, *sketch.tensors[name].shape[1:])).astype(np.float32) for name in sketch.inputs
    ]
    session = Session(program, threads=threads, isa=isa)
    for op, got, want in zip(made, session(*inputs), reference.run(program, *inputs)):
        assert close(got, want, 1e-5), op
    ran = set().union(*(native_calls(session, node) for node in session.kernels()))
    assert ran == {
        f"{name}__{isa}" for name in (*MOVES - {"deal_f32", "take_f32"}, *WITHOUT_WEIGHTS, "linear_dense_f32")
    }


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("stride", [(2, 2), (1, 2), (3, 1)], ids=str)
def test_strided_convolutions_of_turned_images(isa: str, stride: tuple[int, int]):
    sketch = Sketch(9)
    turned = sketch.add("permute", sketch.input("batch", 11, 38, 3), order=(0, 3, 1, 2))
    packed = random_packed("dense", (4, 3, 3, 3), sketch.random)
    program = sketch.program(sketch.add("conv2d", turned, packed=packed, stride=stride, padding=(1, 1, 1, 1)))
    image = sketch.random.standard_normal((2, 11, 38, 3)).astype(np.float32)
    assert close(poisoned(Session(program, isa=isa), image), reference.run(program, image))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_pools_of_any_step(isa: str, window: dict[str, Any]):
    sketch = Sketch(8)
    x = sketch.input("batch", 3, 9, 71)
    made = [
        sketch.add("max_pool2d", x, dilation=(1, 1), **window),
        sketch.add("max_pool2d", x, dilation=(2, 3), **{**window, "kernel": (2, 2)}),
        sketch.add("avg_pool2d", x, include_pad=False, **window),
        sketch.add("avg_pool2d", x, include_pad=True, **window),
    ]
    program = sketch.program(*made)
    image = sketch.random.standard_normal((2, 3, 9, 71)).astype(np.float32)
    for got, want in zip(poisoned(Session(program, isa=isa), image), reference.run(program, image)):
        assert close(got, want, 1e-6)


def test_softmax_over_the_last_axis_and_constants_as_matrices():
    sketch = Sketch(6)
    x = sketch.input("batch", 2, 5, 19)
    y = sketch.add("softmax", x, axis=3)
    z = sketch.add("matmul", y, sketch.array(19, 70))
    program = sketch.program(y, z)
    image = 10 * sketch.random.standard_normal((3, 2, 5, 19)).astype(np.float32)
    for got, want in zip(Session(program)(image), reference.run(program, image)):
        assert close(got, want, 1e-5)


@pytest.mark.parametrize("isa", ISAS)
def test_nan_goes_through(isa: str):
    sketch = Sketch(7)
    x = sketch.input("batch", 2, 6, 21)
    packed = random_packed("dense", (3, 2, 1, 1), sketch.random)
    made = {
        name: sketch.add("conv2d", x, packed=packed, activation=Activation(name, args))
        for name, args in (
            ("relu", ()),
            ("clamp", (0.0, 6.0)),
            ("hardswish", ()),
            ("silu", ()),
            ("tanh", ()),
            ("gelu", ()),
        )
    }
    made["max_pool2d"] = sketch.add("max_pool2d", x, kernel=(3, 3), stride=(2, 2), padding=(1, 1, 1, 1))
    made["adaptive_max_pool2d"] = sketch.add("adaptive_max_pool2d", x, output=(2, 2))
    made["softmax"] = sketch.add("softmax", x, axis=3)
    program = sketch.program(*made.values())
    image = sketch.random.standard_normal((2, 2, 6, 21)).astype(np.float32)
    image[0, 1, 2, 18] = np.nan
    for name, got, want in zip(made, Session(program, isa=isa)(image), reference.run(program, image)):
        assert np.array_equal(np.isnan(got), np.isnan(want)), name
        assert np.isnan(want).any(), name
