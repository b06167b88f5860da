"""Programs that need care: halos of parts, strided operands, many dimensions, constants as inputs."""

from __future__ import annotations

import numpy as np
import pytest

from dovetail.engine import Schedule, Session, native_status
from dovetail.errors import EngineError, InputError, ProgramError
from dovetail.program.program import Activation, Graph, Program
from programs import Sketch, agrees, random_packed

pytestmark = pytest.mark.skipif(not native_status().available, reason="the native engine is not built")
RELU = Activation("relu")


@pytest.fixture
def sketch() -> Sketch:
    return Sketch(0)


def conv(sketch: Sketch, x: str, outputs: int, kernel: int = 3, **more) -> str:
    channels = sketch.tensors[x].shape[1]
    weight = random_packed("dense", (outputs, channels, kernel, kernel), sketch.random)
    return sketch.add("conv2d", x, packed=weight, **({"padding": (kernel // 2,) * 4} | more))


def images(sketch: Sketch, batch: int = 2) -> list[np.ndarray]:
    shapes = [sketch.tensors[name].shape for name in sketch.inputs]
    return [sketch.random.standard_normal([batch if d == "batch" else d for d in s]).astype(np.float32) for s in shapes]


def test_parts_of_a_concatenation_that_are_copied_have_halos(sketch):
    x = sketch.input("batch", 3, 6, 6)
    h = x
    for _ in range(3):
        h = conv(sketch, h, 24)
    y = conv(sketch, sketch.add("concat", conv(sketch, h, 4, 1), x, axis=1), 5)
    assert agrees(sketch.program(conv(sketch, y, 3)), images(sketch))


def test_concatenation_of_rows_of_pixels(sketch):
    x = sketch.input("batch", 3, 6, 6)
    y = sketch.add("concat", conv(sketch, x, 3), x, axis=2)
    assert agrees(sketch.program(conv(sketch, y, 4)), images(sketch))


@pytest.mark.parametrize("view", ["permute", "slice"])
@pytest.mark.parametrize(
    ("op", "attributes"),
    [
        ("max_pool2d", {"kernel": (2, 2), "stride": (1, 1)}),
        ("avg_pool2d", {"kernel": (2, 2), "stride": (2, 1)}),
        ("adaptive_avg_pool2d", {"output": (2, 3)}),
        ("adaptive_max_pool2d", {"output": (3, 2)}),
    ],
)
def test_pools_of_views(sketch, view, op, attributes):
    if view == "permute":
        x = sketch.add("permute", sketch.input("batch", 6, 8, 3), order=(0, 3, 1, 2))
    else:
        x = sketch.add("slice", sketch.input("batch", 3, 6, 16), axis=3, start=1, stop=16, step=2)
    assert agrees(sketch.program(sketch.add(op, x, **attributes)), images(sketch))


@pytest.mark.parametrize("kernel", ["conv2d_dense", "conv2d_lanes"])
def test_residual_that_is_a_slice_of_single_pixels(sketch, kernel):
    x = sketch.input("batch", 4, 1, 1)
    r = sketch.add("slice", conv(sketch, x, 8, 1), axis=1, start=2, stop=6, step=1)
    y = conv(sketch, x, 4, 1, residual=r)
    assert agrees(sketch.program(y), images(sketch, 3), schedule=Schedule({y: kernel}))


def test_a_single_pixel_with_a_halo(sketch):
    x = sketch.input(1, 3, 1, 1)
    assert agrees(sketch.program(conv(sketch, conv(sketch, x, 1, 1), 2)), images(sketch))


def test_layer_norm_with_a_strided_weight(sketch):
    x, w = sketch.input("batch", 4, 5), sketch.input(10)
    y = sketch.add("layer_norm", x, sketch.add("slice", w, axis=0, start=0, stop=10, step=2), axes=1, eps=1e-5)
    assert agrees(sketch.program(y), images(sketch))


def test_means_over_many_dimensions(sketch):
    x = sketch.input(2, 3, 4, 5)
    deep = sketch.input(*(2, 3) * 4)
    outputs = [
        sketch.add("mean", conv(sketch, x, 3), axes=(0, 1, 2, 3), keepdims=False),
        sketch.add("mean", deep, axes=(1, 3, 5, 7), keepdims=True),
        sketch.add("mean", sketch.add("permute", deep, order=(7, 6, 5, 4, 3, 2, 1, 0)), axes=(0, 3), keepdims=False),
    ]
    assert agrees(sketch.program(*outputs), images(sketch))


def test_permutation_and_sum_of_seven_dimensions(sketch):
    x = sketch.input(2, 3, 2, 3, 2, 3, 2)
    turned = sketch.add("permute", x, order=(6, 5, 4, 3, 2, 1, 0))
    assert agrees(sketch.program(turned, sketch.add("add", x, turned)), images(sketch))


def test_a_weight_applied_to_a_constant(sketch):
    x = sketch.input("batch", 7)
    packed = random_packed("dense", (4, 7), sketch.random)
    y = sketch.add("linear", sketch.array(3, 7), packed=packed)
    assert agrees(sketch.program(y, sketch.add("linear", x, packed=packed)), images(sketch))


def test_images_beyond_32_bit_offsets_are_refused(sketch):
    x = sketch.input("batch", 2048, 1024, 1024)
    y = sketch.add("conv2d", x, packed=random_packed("dense", (1, 2048, 1, 1), sketch.random))
    with pytest.raises(EngineError, match="32-bit"):
        Session(sketch.program(y), schedule=Schedule({y: "conv2d_dense"})).compile((1, 2048, 1024, 1024))


def test_networks_beyond_the_memory_are_refused(sketch):
    x = sketch.input("batch", 1 << 30)
    y = sketch.add("activation", x, activation=RELU)
    session = Session(sketch.program(sketch.add("activation", y, activation=RELU)))
    with pytest.raises(EngineError, match=r"cannot get \d+ MB"):
        session.compile((1 << 20, 1 << 30))


def full(*_, **__):
    raise MemoryError("no more")


def test_results_beyond_the_memory_are_refused(sketch, monkeypatch):
    session = Session(sketch.program(sketch.add("activation", sketch.input("batch", 3), activation=RELU)))
    image = np.ones((2, 3), np.float32)
    session(image)
    with monkeypatch.context() as patch:
        patch.setattr("dovetail.engine.session.np.empty", full)
        with pytest.raises(EngineError, match="no memory for the results: no more"):
            session(image)
    assert session(image).shape == (2, 3)


def test_constants_beyond_the_memory_are_refused(sketch, monkeypatch):
    x = sketch.input("batch", 3)
    session = Session(sketch.program(sketch.add("linear", x, packed=random_packed("dense", (4, 3), sketch.random))))
    monkeypatch.setattr("dovetail.engine.builder.aligned_copy", full)
    with pytest.raises(EngineError, match="too large for this machine at batch=5: no more"):
        session.compile((5, 3))


def test_orders_of_axes_that_take_too_many_copies_are_refused(sketch):
    x = sketch.input(*(2, 3) * 8)
    session = Session(sketch.program(sketch.add("permute", x, order=tuple(reversed(range(16))))))
    with pytest.raises(EngineError, match="more than 4096 copies"):
        session.compile((2, 3) * 8)


def test_programs_made_in_memory_are_checked(sketch):
    x = sketch.input("batch", 3)
    program = sketch.program(sketch.add("slice", x, axis=1, start=0, stop=2))
    graph = program.graph
    broken = Program({"main": Graph(graph.inputs, ("nowhere",), graph.nodes, graph.tensors)}, {}, {})
    with pytest.raises(ProgramError, match="nowhere"):
        Session(broken)


def test_compile_wants_one_shape_per_input(sketch):
    session = Session(sketch.program(sketch.add("activation", sketch.input("batch", 3), activation=RELU)))
    with pytest.raises(InputError, match="takes 1"):
        session.compile()
    with pytest.raises(EngineError, match="at least 1"):
        session.profile(np.zeros((1, 3), np.float32), runs=0)


def test_only_the_last_shapes_are_kept(sketch):
    session = Session(sketch.program(sketch.add("activation", sketch.input("batch", 3), activation=RELU)))
    for batch in range(1, 20):
        assert session(np.ones((batch, 3), np.float32)).shape == (batch, 3)
    assert len(session._compiled) <= 8


@pytest.mark.parametrize("size", [(14, 14), (7, 7), (8, 8), (4, 4), (3, 4), (2, 3), (16, 16), (3, 5), (17, 31)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("isa", native_status().isas)
def test_halos_after_sums_by_columns(sketch, size, stride, isa):
    x = sketch.input("batch", 5, *size)
    packed = random_packed("sparse", (6, 5, 3, 3), sketch.random, density=0.3)
    y = sketch.add("conv2d", x, packed=packed, padding=(1, 1, 1, 1), stride=(stride, stride), biased=True)
    program = sketch.program(conv(sketch, y, 3))
    assert agrees(program, images(sketch), schedule=Schedule({y: "conv2d_sparse_columns"}), isa=isa)


@pytest.mark.parametrize("size", [(8, 8), (6, 8), (6, 4), (7, 8)])
def test_halos_after_kernel_bases_on_small_maps(sketch, size):
    x = sketch.input("batch", 5, *size)
    packed = random_packed("kernel_basis", (6, 5, 3, 3), sketch.random, bases=4, coefficients="sparse")
    y = sketch.add("conv2d", x, packed=packed, padding=(1, 1, 1, 1), biased=True)
    program = sketch.program(conv(sketch, y, 3))
    assert agrees(program, images(sketch), schedule=Schedule({y: "conv2d_kernel_basis"}))
