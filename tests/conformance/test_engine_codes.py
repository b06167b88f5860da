"""Every kernel over codes, forced by name on every ISA: bit for bit what the reference gives, for any thread count."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from dovetail.engine import Schedule, Session, native_status
from dovetail.engine.codes_coefficients import LARGEST_MAP
from dovetail.engine.codes_emit import EMITTERS
from dovetail.engine.codes_kernels import CANDIDATES, candidates_of
from dovetail.engine.native import cores, require_native
from dovetail.formats import KernelBasisSpec, PackedKernelBasis, PackedSparse, SparseSpec
from dovetail.formats.values import INT8, TERNARY
from dovetail.program import integer, reference
from dovetail.program.calibrate import calibrate
from dovetail.program.program import Activation, Program
from dovetail.program.quantize import quantize
from engine_cases import CONVS, LINEARS, WINDOWS, Case
from programs import Sketch, native_calls, poisoned, random_packed
from thinned import thinned

pytestmark = pytest.mark.skipif(not native_status().available, reason="the native engine is not built")
ISAS = native_status().isas
THREADS = (1, 2) if cores() > 1 else (1,)
MOVES = {"copy_f32", "halo_f32", "fill_f32", "deal_f32", "quantize_int8", "dequantize_int8"}
WITHOUT_WEIGHTS = {"add_int8", "pool2d_int8"}
COEFFICIENTS = [c.name for c in CANDIDATES if c.name.endswith("coefficients")]
MAPS = "conv2d_map_coefficients"
TOGETHER = {"conv2d_chain"}  # takes the place of several nodes: tests/unit/engine/test_chains.py
MEASURES = {"peak_int8"}  # of the machine, for no network: tests/unit/engine/test_peaks.py
# What stays what it is in whole numbers, and its format.
FORMATS = {
    "dense": "dense",
    "sparse": "sparse",
    "block_sparse": "block_sparse",
    "permuted_diagonal": "permuted_diagonal",
    "kernel_basis": "kernel_basis",
    "depthwise_basis": "kernel_basis",
    "ternary": "sparse",
    "ternary_basis": "kernel_basis",
    "shared_ternary_basis": "kernel_basis",
    "block_ternary_basis": "kernel_basis",
}


def spec_fields(name: str, case: Case) -> dict[str, Any] | None:
    """Parameters of the format for this weight; None where it cannot hold it."""
    taps = math.prod(case.weight[2:])
    match name:
        case "sparse" | "block_sparse":
            return {"density": 0.2}
        case "permuted_diagonal":
            return {"size": min(3, *case.weight[:2])} if case.attributes.get("groups", 1) == 1 else None
        case "ternary":
            return {"density": 0.2, "values": TERNARY}
        case "shared_ternary_basis" | "block_ternary_basis":
            together = "shared" if name.startswith("shared") else "block"
            fields = {"bases": min(taps, 5), "coefficients": "ternary", together: 4, "values": INT8}
            return fields if len(case.weight) == 4 else None
        case "ternary_basis":  # among them as many bases as a kernel has places
            fields = {"bases": taps if taps <= 9 else 6, "coefficients": "ternary", "values": INT8}
            return fields if len(case.weight) == 4 else None
        case "kernel_basis":  # which stays one because its values are int8
            return {"bases": min(6, taps), "coefficients": "sparse", "values": INT8} if taps > 1 else None
        case "depthwise_basis":
            return {"bases": min(4, taps), "values": INT8} if taps > 1 and case.weight[1] == 1 else None
    return {}


def forced() -> list[Any]:
    """Every (format, case, kernel) that the registries allow, over codes with a zero of their own and without."""
    found = []
    for name, format_name in FORMATS.items():
        for case in (*CONVS, *LINEARS):
            fields = spec_fields(name, case)
            if fields is None:
                continue
            packed = random_packed(format_name, case.weight, np.random.default_rng(1), **fields)
            op = "conv2d" if len(case.weight) == 4 else "linear"
            found += [
                pytest.param(name, case, c.name, signed, id=f"{name}-{case}-{c.name}-{sign}")
                for c in CANDIDATES
                if c.op == op and c.runs(packed, case.place)
                for signed, sign in ((True, "signed"), (False, "positive"))
            ]
    return thinned(found, every=6, key=lambda name, case, kernel, signed: (name, kernel, signed))


def program_of(name: str, case: Case, *, signed: bool) -> tuple[Program, np.ndarray]:
    """The op to codes, to codes with a residual of codes, and to real numbers with one of those.

    Codes of `signed` numbers have a zero of their own, those of positive ones 0.
    """
    sketch = Sketch(3)
    groups = case.attributes.get("groups", 1)
    image = len(case.weight) == 4
    shape = (case.weight[1] * groups, *case.size) if image else (*case.size, case.weight[1])
    x, op = sketch.input("batch", *shape), "conv2d" if image else "linear"

    def add(activation: Activation | None, residual: str | None = None) -> str:
        packed = random_packed(FORMATS[name], case.weight, sketch.random, **(spec_fields(name, case) or {}))
        options = {"biased": True, "scaled": residual is None, "residual": residual, "activation": activation}
        return sketch.add(op, x, packed=packed, **case.attributes, **options)

    first = add(Activation("relu"))
    second = add(None, first)
    third = add(Activation("clamp", (-0.5, 2.0)), second)
    sums = sketch.add("add", second, third, activation=Activation("relu"))
    last = add(Activation("gelu"), sums)
    program = sketch.program(sums, last)
    inputs = sketch.random.standard_normal((case.batch, *shape)).astype(np.float32)
    inputs = inputs if signed else np.abs(inputs)
    return quantized(program, inputs), inputs


def quantized(program: Program, *inputs: np.ndarray) -> Program:
    (x,) = inputs
    ranges = {name: found.range("minmax") for name, found in calibrate(program, [x]).items()}
    return quantize(program, {name: (0.9 * low, 0.9 * high) for name, (low, high) in ranges.items()})


def assert_same(session: Session, x: np.ndarray, want: Any) -> None:
    """Bit for bit, from a clean and from a dirty arena."""
    for got in (session(x), poisoned(session, x)):
        for a, b in zip(got if isinstance(got, tuple) else (got,), want if isinstance(want, tuple) else (want,)):
            assert np.array_equal(a, b), f"{session.isa}: {np.count_nonzero(a != b)} of {a.size} differ"


@pytest.mark.parametrize(("name", "case", "kernel", "signed"), forced())
def test_forced_kernel_equals_reference(name: str, case: Case, kernel: str, signed: bool) -> None:
    program, x = program_of(name, case, signed=signed)
    specs = [(node, program.weights[node.weight].spec) for node in program.graph.nodes if node.weight is not None]
    assert {spec.values.name for _, spec in specs} == {"ternary" if name == "ternary" else "int8"}
    nodes = [node for node, spec in specs if spec.format == FORMATS[name]]
    assert not name.endswith("ternary_basis") or {program.weights[n.weight].spec.coefficients for n in nodes} == {
        "ternary"
    }
    assert all(bool(program.graph.tensors[node.inputs[0]].zero) == signed for node in nodes)
    # sums over two hundred channels of shared bases cannot all be proved to fit 32 bits: such layers become dense
    assert len(nodes) == len(specs) or (name == "kernel_basis" and case.weight[1] == 200 and nodes)
    want = reference.run(program, x)
    schedule = Schedule({node.name: kernel for node in nodes})
    for isa in ISAS:
        for threads in THREADS:
            session = Session(program, threads=threads, isa=isa, schedule=schedule)
            codes, real = poisoned(session, x)
            assert np.array_equal(codes, want[0]), f"{isa}: {np.count_nonzero(codes != want[0])} differ"
            assert np.abs(real - want[1]).max() <= 1e-5 * np.abs(want[1]).max()  # gelu is no exact function
            for node in nodes:
                calls, moves = native_calls(session, node.name), {f"{name}__{isa}" for name in MOVES}
                assert {name: n for name, n in calls.items() if name not in moves} == {f"{kernel}_int8__{isa}": 1}


def small_maps() -> list[Case]:
    """Layers whose maps are a vector or a few, of every kind that their kernel tells apart."""
    sizes = [(1, 1), (3, 2), (4, 4), (5, 3), (2, 7), (7, 7), (8, 4), (8, 8), (14, 15), (16, 16), (7, 13)]
    cases = [Case(f"1x1 {size}", (9, 21, 1, 1), size) for size in sizes if max(size) <= LARGEST_MAP]
    cases += [Case(f"1x1 {size}, stride 2", (9, 21, 1, 1), size, attributes={"stride": (2, 2)}) for size in sizes]
    for end in ((1, 1), (2, 1), (1, 3)):
        attributes = {"padding": (1, end[0], 1, end[1])}
        cases += [Case(f"3x3 {size} {end}", (9, 21, 3, 3), size, attributes=attributes) for size in sizes]
    for end in ((1, 1), (0, 2), (2, 0)):
        attributes = {"padding": (1, end[0], 1, end[1]), "stride": (2, 2)}
        cases += [Case(f"3x3 {size} {end}, stride 2", (9, 21, 3, 3), size, attributes=attributes) for size in sizes]
    fitting = [
        replace(case, batch=1) for case in cases if 1 <= min(case.place.size) <= max(case.place.size) <= LARGEST_MAP
    ]
    assert len(fitting) > 60
    return fitting


@pytest.mark.parametrize("name", ["ternary_basis", "block_ternary_basis"])
@pytest.mark.parametrize("case", small_maps(), ids=str)
def test_small_maps_are_added_up_whole(case: Case, name: str) -> None:
    for signed, isa in itertools.product((True, False), ISAS):
        program, x = program_of(name, case, signed=signed)
        nodes = [node for node in program.graph.nodes if node.weight is not None]
        session = Session(program, threads=THREADS[-1], isa=isa, schedule=Schedule({node.name: MAPS for node in nodes}))
        want = reference.run(program, x)
        codes, real = poisoned(session, x)
        assert np.array_equal(codes, want[0]), f"{isa}: {np.count_nonzero(codes != want[0])} differ"
        assert np.abs(real - want[1]).max() <= 1e-5 * np.abs(want[1]).max()
        assert native_calls(session, nodes[0].name)[f"{MAPS}_int8__{isa}"] == 1


@pytest.mark.parametrize("end", [(0, 1), (1, 0)])
def test_maps_smaller_than_what_their_taps_reach_are_not(end: tuple[int, int]) -> None:
    case = Case("3x3", (9, 21, 3, 3), (9, 9), attributes={"padding": (1, end[0], 1, end[1])})
    program, _ = program_of("ternary_basis", case, signed=False)
    node = program.graph.nodes[1]
    assert node.weight is not None
    packed = program.weights[node.weight]
    assert MAPS not in {c.name for c in candidates_of(node, program.graph, packed, replace(case.place, size=(8, 8)))}


@pytest.mark.parametrize("kernel", ["conv2d_kernel_basis", *COEFFICIENTS])
@pytest.mark.parametrize("isa", ISAS)
def test_layers_without_ternary_numbers_give_their_biases(isa: str, kernel: str) -> None:
    sketch = Sketch(4)
    x = sketch.input("batch", 6, 7, 8)
    bases = PackedKernelBasis.from_factors(
        sketch.random.standard_normal((4, 3, 3)),
        np.zeros((8, 6, 4)),
        KernelBasisSpec(bases=4, coefficients="ternary", values=INT8, shared=4),
    )
    weight = PackedSparse.from_dense(np.zeros((8, 8, 3, 3), np.float32), SparseSpec(values=TERNARY))
    first = sketch.add("conv2d", x, packed=bases, biased=True, padding=(1, 1, 1, 1))
    last = sketch.add("conv2d", first, packed=weight, biased=True)
    images = sketch.random.standard_normal((2, 6, 7, 8)).astype(np.float32)
    program = quantized(sketch.program(first, last), images)
    assert [packed.nonzeros() for packed in program.weights.values()] == [np.count_nonzero(bases.decode("bases")), 0]
    schedule = Schedule({first: kernel, last: "conv2d_sparse"})
    session = Session(program, isa=isa, schedule=schedule)
    assert_same(session, images, reference.run(program, images))
    for name, kernel in schedule.choices.items():
        assert native_calls(session, name)[f"{kernel}_int8__{isa}"] == 1
    spread = [np.ptp(made, axis=(0, 2, 3)).max() for made in session(images)]
    assert spread == [0, 0]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kernel", COEFFICIENTS)
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(("side", "stride"), [(3, 1), (3, 2), (1, 1)])
def test_sums_of_coefficients_that_16_bits_cannot_hold(
    side: int, stride: int, sign: int, kernel: str, isa: str
) -> None:
    """All codes are 255, or as far below their zero, and some outputs add or take away those of many of 300 channels.

    Of four channels two neighbours come together first, and three are no divisor of what 16 bits hold.
    """
    sketch = Sketch(8)
    x, bases = sketch.input("batch", 300, 4, 5), 3 if side == 3 else 1
    coefficients = sketch.random.choice([-1.0, 0.0, 1.0], (8, 300, bases), p=[0.05, 0.05, 0.9])
    coefficients[4:] = sketch.random.choice([-1.0, 0.0, 0.0, 1.0], (4, 300, bases))
    coefficients[0], coefficients[1, :, -1], coefficients[2] = 1, -1, np.where(np.arange(300) < 150, -1, 1)[:, None]
    coefficients[3], coefficients[4] = (np.arange(300) % 4 < 2)[:, None], (np.arange(300) % 4 < 3)[:, None]
    shared = kernel == "conv2d_shared_coefficients"
    if shared:
        coefficients[4:] = np.where(coefficients[4:5] == 0, 0, np.where(coefficients[4:] == 0, 1, coefficients[4:]))
        coefficients[:4] = np.where(coefficients[:4] == 0, 1, coefficients[:4])
    spec = KernelBasisSpec(bases=bases, coefficients="ternary", values=INT8, shared=4 if shared else 1)
    packed = PackedKernelBasis.from_factors(sketch.random.standard_normal((bases, side, side)), coefficients, spec)
    geometry = {"stride": (stride, stride), "padding": (side // 2,) * 4, "dilation": (1, 1), "groups": 1}
    y = sketch.add("conv2d", x, packed=packed, biased=True, **geometry)
    last = sketch.add("conv2d", y, packed=random_packed("dense", (5, 8, 1, 1), sketch.random), biased=True)
    images = np.full((2, 300, 4, 5), sign, np.float32)
    program = quantized(sketch.program(y, last), images)
    (weight,) = (program.weights[node.weight] for node in program.graph.nodes if node.name == y)
    assert isinstance(weight, PackedKernelBasis)
    assert np.abs(weight.codes()[1]).sum(axis=1).max() == 300
    codes = program.graph.tensors[next(node for node in program.graph.nodes if node.name == y).inputs[0]]
    assert codes.zero == (0 if sign > 0 else 255)
    assert 1 / codes.scale > 255
    session = Session(program, isa=isa, schedule=Schedule({y: kernel}))
    assert_same(session, images, reference.run(program, images))
    assert native_calls(session, y)[f"{kernel}_int8__{isa}"] == 1


@pytest.mark.parametrize("isa", ISAS)
def test_a_single_base_of_zeros_gives_biases(isa: str) -> None:
    sketch = Sketch(4)
    spec = KernelBasisSpec(bases=1, coefficients="ternary", values=INT8)
    packed = PackedKernelBasis.from_factors(np.zeros((1, 1, 1)), sketch.random.choice([-1.0, 1.0], (6, 5, 1)), spec)
    y = sketch.add("conv2d", sketch.input("batch", 5, 3, 3), packed=packed, biased=True)
    images = sketch.random.standard_normal((2, 5, 3, 3)).astype(np.float32)
    program = quantized(sketch.program(y), images)
    assert_same(Session(program, isa=isa, schedule=Schedule({y: MAPS})), images, reference.run(program, images))


def test_every_kernel_is_forced_somewhere() -> None:
    assert {c.name for c in CANDIDATES} - TOGETHER == {parameters.values[2] for parameters in forced()}


def test_no_native_kernel_is_left_out() -> None:
    products = {f"{c.name}_int8" for c in CANDIDATES}
    known = {f"dovetail_{name}" for name in (*MOVES, *WITHOUT_WEIGHTS, *MEASURES, *products)}
    assert known >= {name for name in require_native().kernels() if name.endswith("_int8")}


def test_every_op_over_codes_has_its_calls() -> None:
    assert set(EMITTERS) == set(integer.EVALUATE)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_maxima_of_any_step(isa: str, window: dict[str, Any]) -> None:
    sketch = Sketch(9)
    x = sketch.input("batch", 5, 9, 71)
    packed = random_packed("dense", (6, 5, 1, 1), sketch.random)
    y = sketch.add("conv2d", x, packed=packed, biased=True)
    maxima = [
        sketch.add("max_pool2d", y, dilation=(1, 1), **window),
        sketch.add("max_pool2d", y, dilation=(2, 3), **{**window, "kernel": (2, 2)}),
    ]
    made = [sketch.add("conv2d", z, packed=random_packed("dense", (3, 6, 1, 1), sketch.random)) for z in maxima]
    images = sketch.random.standard_normal((2, 5, 9, 71)).astype(np.float32)
    program = quantized(sketch.program(*made), images)
    pools = [node for node in program.graph.nodes if node.op == "max_pool2d"]
    assert [program.graph.tensors[node.output].dtype for node in pools] == ["uint8", "uint8"]
    assert_same(Session(program, isa=isa), images, reference.run(program, images))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("include_pad", [False, True])
def test_means_of_windows_larger_than_the_image(isa: str, include_pad: bool) -> None:
    """There are as many multipliers as counts of pixels, not as places of a window."""
    sketch = Sketch(9)
    packed = random_packed("dense", (6, 5, 1, 1), sketch.random)
    y = sketch.add("conv2d", sketch.input("batch", 5, 9, 8), packed=packed)
    window = {"kernel": (19, 2001), "stride": (3, 300), "padding": (9, 9, 1000, 1000)}
    y = sketch.add("avg_pool2d", y, include_pad=include_pad, **window)
    y = sketch.add("conv2d", y, packed=random_packed("dense", (3, 6, 1, 1), sketch.random))
    images = sketch.random.standard_normal((2, 5, 9, 8)).astype(np.float32)
    program = quantized(sketch.program(y), images)
    session = Session(program, isa=isa)
    assert_same(session, images, reference.run(program, images))
    assert session.memory()["weights"] < 10_000


def every_move(sketch: Sketch) -> dict[str, str]:
    """Every op over codes, channels in whole words and not, outputs by name."""
    x = sketch.input("batch", 3, 9, 8)
    pointwise = {"stride": (1, 1), "padding": (0, 0, 0, 0), "dilation": (1, 1), "groups": 1}

    def channels(count: int, source: str, inputs: int) -> str:
        packed = random_packed("dense", (count, inputs, 1, 1), sketch.random)
        return sketch.add("conv2d", source, packed=packed, biased=True, **pointwise)

    y, z = channels(8, x, 3), channels(6, x, 3)
    pool = {"kernel": (3, 2), "stride": (2, 1), "padding": (1, 1, 0, 1)}
    rows = sketch.add("reshape", y, shape=("batch", 8, 72))
    flat = sketch.add("reshape", sketch.add("mean", z, axes=(2, 3), keepdims=True), shape=("batch", 6))
    return {
        "add": sketch.add("add", z, channels(6, y, 8), activation=Activation("relu")),
        "mean": sketch.add("mean", y, axes=(2, 3), keepdims=False),
        "mean of rows": sketch.add("mean", rows, axes=(1,), keepdims=False),
        "flat": sketch.add("linear", flat, packed=random_packed("dense", (5, 6), sketch.random)),
        "sequence": sketch.add("linear", rows, packed=random_packed("dense", (7, 72), sketch.random)),
        "max_pool2d": sketch.add("max_pool2d", z, dilation=(1, 2), **pool),
        "avg_pool2d": sketch.add("avg_pool2d", z, include_pad=False, **pool),
        "padded avg_pool2d": sketch.add("avg_pool2d", y, include_pad=True, **pool),
        "adaptive_avg_pool2d": sketch.add("adaptive_avg_pool2d", y, output=(4, 3)),
        "adaptive_max_pool2d": sketch.add("adaptive_max_pool2d", y, output=(4, 3)),
        "concat": sketch.add("concat", y, z, axis=1),
        "uneven concat": sketch.add("concat", z, y, z, axis=1),
        "tall concat": sketch.add("concat", z, z, axis=2),
        "slice": sketch.add("slice", y, axis=1, start=4, stop=8, step=1),
        "uneven slice": sketch.add("slice", y, axis=1, start=1, stop=8, step=3),
        "strided slice": sketch.add("slice", sketch.add("slice", z, axis=3, start=1, stop=8, step=2), axis=2, start=0,
                                    stop=9, step=3),
        "permute": sketch.add("permute", y, order=(0, 2, 3, 1)),
        "pad": sketch.add("pad", y, pads=((0, 0), (0, 0), (2, 1), (0, 3)), value=0.4),
        "channel pad": sketch.add("pad", y, pads=((0, 0), (4, 3), (0, 0), (0, 0)), value=0.0),
        "uneven channel pad": sketch.add("pad", z, pads=((0, 0), (3, 1), (1, 0), (0, 0)), value=0.0),
        "upsample_nearest": sketch.add("upsample_nearest", z, scale=(2, 3)),
    }  # fmt: skip


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("threads", THREADS)
def test_ops_over_codes(isa: str, threads: int) -> None:
    sketch = Sketch(5)
    made = every_move(sketch)
    # What nobody computes with is left in real numbers: somebody must.
    images = [name for name in made.values() if len(sketch.tensors[name].shape) == 4]
    readers = [sketch.add("mean", name, axes=(2, 3), keepdims=False) for name in images]
    x = sketch.random.standard_normal((2, 3, 9, 8)).astype(np.float32)
    program = quantized(sketch.program(*made.values(), *readers), x)
    coded = [node.op for node in program.graph.nodes if integer.touches_codes(node, program.graph)]
    assert set(coded) == set(EMITTERS)
    want = reference.run(program, x)
    session, names = Session(program, threads=threads, isa=isa), (*made, *readers)
    for name, got, expected in zip(names, poisoned(session, x), want, strict=True):
        assert np.array_equal(got, expected), name
    ran = set().union(*(native_calls(session, node) for node in session.kernels()))
    assert ran >= {f"{name}__{isa}" for name in (*MOVES - {"deal_f32"}, *WITHOUT_WEIGHTS)}


@pytest.mark.parametrize(
    "size", [(14, 14), (7, 7), (8, 8), (4, 4), (3, 4), (2, 3), (16, 16), (3, 5), (17, 31)], ids=str
)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", ["conv2d_sparse_columns", MAPS])
@pytest.mark.parametrize("isa", ISAS)
def test_halos_after_sums_by_lines(isa: str, kernel: str, stride: int, size: tuple[int, int]) -> None:
    sketch = Sketch(7)
    x = sketch.input("batch", 9, *size)
    same_size = {"padding": (1, 1, 1, 1), "dilation": (1, 1), "groups": 1}
    sparse = random_packed("sparse", (10, 9, 3, 3), sketch.random, density=0.3)
    if kernel == MAPS:
        if max(size) > LARGEST_MAP * stride:
            pytest.skip("a larger map than the kernel takes")
        sparse = random_packed(
            "kernel_basis", (10, 9, 3, 3), sketch.random, bases=3, coefficients="ternary", values=INT8
        )
    y = sketch.add("conv2d", x, packed=sparse, stride=(stride, stride), biased=True, **same_size)
    dense = random_packed("dense", (6, 10, 3, 3), sketch.random)
    last = sketch.add("conv2d", y, packed=dense, stride=(1, 1), biased=True, **same_size)
    images = sketch.random.standard_normal((2, 9, *size)).astype(np.float32)
    program = quantized(sketch.program(y, last), images)
    session = Session(program, isa=isa, schedule=Schedule({y: kernel}))
    assert_same(session, images, reference.run(program, images))


def test_one_image_of_many_channels_and_two_shapes_in_one_session() -> None:
    sketch = Sketch(6)
    x = sketch.input("batch", 20, 5, 5)
    y = sketch.add("conv2d", x, packed=random_packed("dense", (36, 20, 3, 3), sketch.random), padding=(1, 1, 1, 1),
                   stride=(2, 2), dilation=(1, 1), groups=1, activation=Activation("relu"))  # fmt: skip
    y = sketch.add("mean", y, axes=(2, 3), keepdims=False)
    y = sketch.add("linear", y, packed=random_packed("dense", (70, 36), sketch.random), biased=True)
    images = sketch.random.standard_normal((3, 20, 5, 5)).astype(np.float32)
    program = quantized(sketch.program(y), images)
    session = Session(program)
    for batch in (3, 1):
        assert_same(session, images[:batch], reference.run(program, images[:batch]))
