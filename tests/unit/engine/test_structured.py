"""Linear layers of permuted diagonals and circulant blocks: any size of block, zeros among inputs, several rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dovetail.engine import Schedule, Session, native_status
from dovetail.engine.circulant import inverse, spectra_of, transform
from dovetail.engine.circulant_conv import filtering_error, frequencies
from dovetail.engine.classes import NONE, classes_of, halves
from dovetail.engine.kernels import Place, candidates, place
from dovetail.engine.winograd import relative_error
from dovetail.formats import FORMATS, PackedPermutedDiagonal, PermutedDiagonalSpec
from dovetail.formats.values import CODEBOOK4, F32, INT8, Values
from dovetail.program import reference
from dovetail.program.calibrate import calibrate
from dovetail.program.ops import complete
from dovetail.program.program import Activation, Program
from dovetail.program.quantize import quantize
from programs import Sketch, close, poisoned, random_packed
from thinned import product, thinned

needs_native = pytest.mark.skipif(not native_status().available, reason="the native engine is not built")
ISAS = native_status().isas
KERNEL_OF = {F32: "linear_classes", INT8: "linear_classes_bytes", CODEBOOK4: "linear_classes_book"}


def program_of(format_name: str, shape: tuple[int, int], **fields: Any) -> tuple[Program, str]:
    """One linear layer with everything that can follow it."""
    sketch = Sketch(1)
    x = sketch.input("batch", shape[1])
    other = sketch.input("batch", shape[0])
    packed = random_packed(format_name, shape, sketch.random, **fields)
    act = Activation("leaky_relu", (0.1,))
    y = sketch.add("linear", x, packed=packed, scaled=True, biased=True, residual=other, activation=act)
    return sketch.program(y), y


def inputs_of(program: Program, rows: int, zeros: float = 0.0) -> list[np.ndarray]:
    random = np.random.default_rng(2)
    made = []
    for name in program.graph.inputs:
        shape = (rows, program.graph.tensors[name].shape[1])
        kept = random.random(shape) >= zeros
        made.append((random.standard_normal(shape) * kept).astype(np.float32))
    return made


def assert_agrees(program: Program, node: str, kernel: str, *inputs: np.ndarray) -> None:
    want = reference.run(program, *inputs)
    for isa in ISAS:
        results = [
            poisoned(Session(program, isa=isa, threads=threads, schedule=Schedule({node: kernel})), *inputs)
            for threads in (1, 2)
        ]
        assert close(results[0], want, 1e-5), f"{isa}: {np.abs(results[0] - want).max()}"
        assert np.array_equal(results[0], results[1])


@needs_native
@pytest.mark.parametrize("rows", [1, 2, 13])
@pytest.mark.parametrize("values", KERNEL_OF, ids=lambda v: v.name)
@pytest.mark.parametrize("size", [1, 2, 3, 10])
@pytest.mark.parametrize("shape", [(131, 57), (10, 10), (433, 12), (24, 240)], ids=str)
def test_classes(shape: tuple[int, int], size: int, values: Values, rows: int) -> None:
    program, node = program_of("permuted_diagonal", shape, size=size, values=values)
    assert_agrees(program, node, KERNEL_OF[values], *inputs_of(program, rows))


@needs_native
@pytest.mark.parametrize("zeros", [0.65, 0.95, 1.0])
@pytest.mark.parametrize("values", KERNEL_OF, ids=lambda v: v.name)
def test_zero_inputs_are_left_out_and_change_nothing(values: Values, zeros: float) -> None:
    program, node = program_of("permuted_diagonal", (130, 101), size=3, values=values)
    assert_agrees(program, node, KERNEL_OF[values], *inputs_of(program, 1, zeros))


@needs_native
def test_an_input_that_is_nan_reaches_its_class_alone() -> None:
    program, node = program_of("permuted_diagonal", (60, 45), size=3)
    x, other = inputs_of(program, 1, 0.5)
    x[0, 7] = np.nan
    packed = next(iter(program.weights.values()))
    reads = packed.dense()[:, 7] != 0
    for isa in ISAS:
        y = Session(program, isa=isa, schedule=Schedule({node: "linear_classes"}))(x, other)
        assert np.array_equal(np.isnan(y[0]), reads)


@needs_native
@pytest.mark.parametrize("size", [1, 2, 5, 8, 9, 11, 16, 17, 24, 31, 32, 33, 50])
@pytest.mark.parametrize("rows", [1, 3])
def test_diagonals_anywhere(size: int, rows: int) -> None:
    program, node = program_of("permuted_diagonal", (131, 117), size=size, index="searched")
    assert_agrees(program, node, "linear_diagonals", *inputs_of(program, rows))


def test_shifts_of_very_large_blocks_are_left_to_other_kernels() -> None:
    """A shift and a place add up to a word of 16 bits."""
    for size, fits in ((1 << 15, True), ((1 << 15) + 1, False)):
        spec = PermutedDiagonalSpec(size=size, index="random", seed=1)
        packed = PackedPermutedDiagonal.random((size, size), spec, np.random.default_rng(0))
        names = {candidate.name for candidate in candidates("linear", packed, Place(1, 1))}
        assert ("linear_diagonals" in names) == fits


@needs_native
@pytest.mark.parametrize("size", [256, 1024])
def test_circulant_blocks_of_all(size: int) -> None:
    program, node = program_of("block_circulant", (1024, 1024), size=size)
    assert_agrees(program, node, "linear_circulant", *inputs_of(program, 2))


@needs_native
@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 8, 16, 31, 32, 33, 64, 100])
@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("shape", [(131, 117), (520, 36), (12, 300)], ids=str)
def test_circulant_blocks(shape: tuple[int, int], size: int, rows: int) -> None:
    program, node = program_of("block_circulant", shape, size=size)
    assert_agrees(program, node, "linear_circulant", *inputs_of(program, rows))


@needs_native
@pytest.mark.parametrize("size", [1, 4, 30])
def test_a_row_with_nan_leaves_the_others_as_they_are(size: int) -> None:
    program, node = program_of("block_circulant", (8, 30), size=size)
    x, other = inputs_of(program, 4)
    for isa in ISAS:
        session = Session(program, isa=isa, schedule=Schedule({node: "linear_circulant"}))
        x[2, 7] = 0
        want = session(x, other).copy()
        x[2, 7] = np.nan
        got = session(x, other)
        assert np.isnan(got[2]).all()
        assert np.array_equal(np.delete(got, 2, 0), np.delete(want, 2, 0))


@needs_native
@pytest.mark.parametrize("size", [1, 3, 8, 10])
@pytest.mark.parametrize("rows", [1, 9])
def test_classes_over_codes_are_exact(size: int, rows: int) -> None:
    sketch = Sketch(3)
    x = sketch.input("batch", 83)
    kept = {"size": size}
    first = sketch.add("linear", x, packed=random_packed("permuted_diagonal", (150, 83), sketch.random, **kept),
                       biased=True, activation=Activation("relu"))  # fmt: skip
    last = sketch.add("linear", first, packed=random_packed("permuted_diagonal", (83, 150), sketch.random, **kept))
    images = sketch.random.standard_normal((rows, 83)).astype(np.float32)
    plain = sketch.program(last)
    ranges = {name: found.range("minmax") for name, found in calibrate(plain, [images]).items()}
    program = quantize(plain, ranges)
    assert [node.op for node in program.graph.nodes].count("quantize") == 1
    want = reference.run(program, images)
    for isa in ISAS:
        session = Session(program, isa=isa, schedule=Schedule(dict.fromkeys((first, last), "linear_classes")))
        assert np.array_equal(poisoned(session, images), want)


def test_classes_are_the_weight() -> None:
    row = FORMATS["permuted_diagonal"]
    packed = row.packed.random((23, 31), row.spec(size=4), np.random.default_rng(0))
    found = classes_of(packed, packed.diagonals())
    weight = np.zeros((23, 31), np.float32)
    for part, inputs, outputs in zip(found.weights, found.inputs, found.outputs):
        inside = np.ix_(outputs != NONE, inputs != NONE)
        weight[np.ix_(outputs[outputs != NONE], inputs[inputs != NONE])] = part[inside]
    assert np.array_equal(weight, packed.dense())


@pytest.mark.parametrize("vectors", [4, 8])
@pytest.mark.parametrize("lanes", [8, 16])
def test_codes_lie_where_the_vector_headers_look_for_them(lanes: int, vectors: int) -> None:
    codes = np.random.default_rng(0).integers(0, 16, (5, vectors, lanes)).astype(np.uint8)
    stored = halves(codes).reshape(5, -1)
    assert stored.shape[1] == vectors * lanes // 2
    for vector, lane in np.ndindex(vectors, lanes):
        if lanes == 16:  # the `vector`-th of a word, or half word, of its lane
            byte, half = lane * vectors // 2 + vector // 2, vector % 2
        elif vectors == 8:
            byte, half = 16 * (lane // 4) + 4 * (vector % 4) + lane % 4, vector // 4
        else:
            byte, half = 4 * vector + lane % 4, lane // 4
        assert np.array_equal(stored[:, byte] >> 4 * half & 15, codes[:, vector, lane])


@pytest.mark.parametrize("size", [1, 2, 3, 6, 7, 16, 31, 40])
def test_transforms_are_those_of_numpy(size: int) -> None:
    x = np.random.default_rng(0).standard_normal(size).astype(np.float32)
    found, numbers = np.fft.rfft(x), transform(size) @ x
    ends = 2 - size % 2
    assert close(numbers[:ends], found.real[[0, -1][:ends]], 1e-5)
    pairs = np.stack([found.real, found.imag], axis=1)[1 : (size + 1) // 2]
    assert close(numbers[ends:].reshape(-1, 2), pairs, 1e-5) if size > 2 else not pairs.size
    assert close(inverse(size) @ numbers, x, 1e-5)


@pytest.mark.parametrize("lanes", [8, 16])
@pytest.mark.parametrize("size", [1, 2, 3, 8, 15])
@pytest.mark.parametrize("shape", [(131, 37), (1100, 30)], ids=str)
def test_spectra_lie_where_the_kernel_looks_for_them(shape: tuple[int, int], size: int, lanes: int) -> None:
    row = FORMATS["block_circulant"]
    packed = row.packed.random(shape, row.spec(size=size), np.random.default_rng(0))
    weights, blocks = spectra_of(packed, lanes)
    want, (rows, columns) = packed.spectra(), packed.spec.grid(shape)
    ends, at = 2 - size % 2, 0
    for frequency in range((size + 1) // 2):
        count = 2 if frequency else ends
        for first, vectors in blocks:
            part = weights[at : at + columns * count * vectors * lanes].reshape(columns, count, vectors * lanes)
            at += part.size
            inside = slice(first * lanes, min((first + vectors) * lanes, rows))
            found = part[:, :, : inside.stop - inside.start].transpose(1, 2, 0)
            of = want[inside, :, frequency]
            second = of.imag if frequency else want[inside, :, -1].real
            assert close(found, np.stack([of.real, second])[:count], 1e-6)
            assert not part[:, :, inside.stop - inside.start :].any()
    assert at == weights.size


@needs_native
@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 8, 16, 31, 64])
def test_as_many_numbers_are_read_as_are_stored(size: int) -> None:
    program, node = program_of("block_circulant", (64 * size, 10 * size), size=size)
    for isa in ISAS:
        session = Session(program, isa=isa, threads=1, schedule=Schedule({node: "linear_circulant"}))
        session(*inputs_of(program, 1))
        (ready,) = session._compiled.values()
        (step,) = [s for s in ready.compiled.steps if s.kernel == "linear_circulant_f32"]
        assert step.pointers["w"].shape == (64 * 10 * size,)


CIRCULANT_CONVS = (
    ((11, 13, 3, 3), (9, 14), {"padding": (1, 1, 1, 1)}),
    ((24, 9, 3, 3), (8, 8), {"padding": (0, 1, 2, 1), "stride": (2, 1)}),
    ((7, 30, 1, 1), (5, 9), {"stride": (1, 2)}),
    ((10, 12, 3, 2), (7, 6), {"padding": (2, 2, 2, 2), "dilation": (2, 1)}),
    ((16, 16, 3, 3), (1, 1), {"padding": (1, 1, 1, 1)}),
)


def circulant_conv(weight: tuple[int, ...], pixels: tuple[int, int], size: int, **attributes: Any) -> Program:
    """A convolution with all that can follow it, and a gain."""
    sketch, row = Sketch(5), FORMATS["block_circulant"]
    x = sketch.input("batch", weight[1], *pixels)
    blocks = row.packed.random(weight, row.spec(size=size), sketch.random)
    gain = sketch.random.uniform(0.5, 2, weight[0]).astype(np.float32)
    packed = row.packed.from_columns(blocks.columns(), blocks.spec, weight, gain)
    plain = sketch.add("conv2d", x, packed=packed, **attributes)
    last = sketch.add("conv2d", x, packed=packed, scaled=True, biased=True, residual=plain,
                      activation=Activation("leaky_relu", (0.1,)), **attributes)  # fmt: skip
    return sketch.program(last)


CONV_KERNELS = ("circulant", "circulant_lanes", "circulant_winograd2", "circulant_winograd4")
CONV_ROWS = product(CIRCULANT_CONVS, (1, 2, 3, 8, 11), CONV_KERNELS)


@needs_native
@pytest.mark.parametrize(
    ("case", "size", "kernel"), thinned(CONV_ROWS, every=4, key=lambda case, size, kernel: (size, kernel))
)
def test_circulant_convolutions(case: tuple[Any, Any, Any], size: int, kernel: str) -> None:
    weight, pixels, attributes = case
    program = circulant_conv(weight, pixels, size, **attributes)
    nodes = [complete(node) for node in program.graph.nodes]
    packed, where = program.weights[nodes[0].name], place(nodes[0], program.graph.bind(batch=2))
    name = f"conv2d_{kernel}"
    if name not in {c.name for c in candidates("conv2d", packed, where)}:
        assert "winograd" in kernel
        assert weight[2:] != (3, 3) or attributes.get("stride") or min(where.size) < int(kernel[-1])
        return
    image = np.random.default_rng(6).standard_normal((2, weight[1], *pixels)).astype(np.float32)
    want = reference.run(program, image)
    for isa in ISAS:
        results = [
            poisoned(Session(program, isa=isa, threads=n, schedule=Schedule({v.name: name for v in nodes})), image)
            for n in (1, 2)
        ]
        assert close(results[0], want, 1e-5), f"{isa}: {np.abs(results[0] - want).max()}"
        assert np.array_equal(results[0], results[1])


def test_frequencies_are_the_weight_between_transforms() -> None:
    row, size, (rows, columns) = FORMATS["block_circulant"], 6, (3, 2)
    packed = row.packed.random((rows * size, columns * size, 2, 3), row.spec(size=size), np.random.default_rng(0))
    ends, others = frequencies(packed)
    assert [len(w) for w in (*ends, *others)] == [rows, rows, 2 * rows, 2 * rows]
    product = np.zeros((size, rows, size, columns, 2, 3))
    first = 0
    for weight in (*ends, *others):
        count = len(weight) // rows
        part = slice(first, first + count)
        product[part, :, part] = weight.reshape(count, rows, count, columns, 2, 3)
        first += count
    dense = np.einsum("on,nipjrs,pc->iojcrs", inverse(size), product, transform(size))
    assert close(dense.reshape(packed.shape), packed.dense(), 1e-5)


def test_filtering_is_judged_by_the_frequency_where_it_errs_most() -> None:
    row, spec = FORMATS["block_circulant"], FORMATS["block_circulant"].spec(size=4)
    packed = row.packed.random((32, 64, 3, 3), spec, np.random.default_rng(0))
    errors = [relative_error(weight, 4) for part in frequencies(packed) for weight in part]
    assert filtering_error(packed, 4) == max(errors) < 10
    exact = row.packed.from_columns(np.eye(3)[1] * np.eye(3)[:, 1:2] * np.ones((1, 1, 4, 1, 1)), spec, (4, 4, 3, 3))
    where = Place(64, 64, size=(8, 8))
    assert [c.name for c in candidates("conv2d", packed, where) if "circulant_winograd" in c.name]
    assert not [c.name for c in candidates("conv2d", exact, where) if "circulant_winograd" in c.name]
    assert not [c.name for c in candidates("conv2d", packed, where, exact=True) if "winograd" in c.name]
