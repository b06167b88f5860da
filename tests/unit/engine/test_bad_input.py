"""What users get wrong: each is an error that says what to do, or is put right, and never computed with."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import numpy as np
import pytest

from dovetail.engine import Schedule, Session, native_status
from dovetail.engine.quantize import quantize
from dovetail.errors import EngineError, InputError, ProgramError
from dovetail.formats import FORMATS
from dovetail.formats.values import INT8
from dovetail.program import reference
from dovetail.program.program import Graph, Node, Program, Tensor
from programs import poisoned

pytestmark = pytest.mark.skipif(not native_status().available, reason="the native engine is not built")


@pytest.mark.parametrize("threads", [0, -1, 100_000, 1.0, "2", True, [1]], ids=str)
def test_impossible_thread_counts(program, threads):
    with pytest.raises(EngineError, match=r"threads=.* is not possible here; give 1 to \d+"):
        Session(program, threads=threads)


def test_thread_counts_of_numpy(program):
    assert Session(program, threads=np.int64(1)).threads == 1


def test_an_isa_that_this_cpu_lacks(program, monkeypatch):
    poor = SimpleNamespace(isas=lambda: ["portable"])
    monkeypatch.setattr("dovetail.engine.native.require_native", lambda: poor)
    with pytest.raises(EngineError, match="ISA 'avx512' cannot run here; this build and CPU run portable"):
        Session(program, isa="avx512")
    monkeypatch.setenv("DOVETAIL_ISA", "avx2")
    with pytest.raises(EngineError, match="ISA 'avx2' cannot run here"):
        Session(program)


def test_a_forced_isa_that_nobody_knows_is_no_reason_to_run_another(program, image, monkeypatch):
    monkeypatch.setenv("DOVETAIL_ISA", "avx1024")
    with pytest.raises(EngineError, match="ISA 'avx1024' cannot run here"):
        Session(program)
    with pytest.raises(EngineError, match="ISA 'avx1024' cannot run here"):
        quantize(program, [image])
    assert not native_status().available


def strange_views(image: np.ndarray) -> dict[str, np.ndarray]:
    """The same numbers in other places and types."""
    unaligned = np.empty(image.nbytes + 1, np.uint8)[1:].view(np.float32).reshape(image.shape)
    unaligned[...] = image
    wide = np.zeros((*image.shape[:3], 2 * image.shape[3]), np.float32)
    wide[..., ::2] = image
    return {
        "channels last": np.ascontiguousarray(image.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2),
        "every second": wide[..., ::2],
        "backwards": np.ascontiguousarray(image[..., ::-1])[..., ::-1],
        "unaligned": unaligned,
        "other byte order": image.astype(">f4"),
        "float64": image.astype(np.float64),
        "Fortran order": np.asfortranarray(image),
    }


def test_inputs_in_other_places_are_copied_once_with_a_note(program, image, caplog):
    session = Session(program)
    want = session(image)
    caplog.set_level(logging.DEBUG, logger="dovetail.engine")
    for name, x in strange_views(image).items():
        assert np.array_equal(x, image), name
        caplog.clear()
        assert np.array_equal(session(x), want), name
        assert [record.getMessage().endswith("is copied") for record in caplog.records] == [True], name
    repeated = np.broadcast_to(image[:1], image.shape)
    assert np.array_equal(session(repeated), session(repeated.copy()))
    caplog.clear()
    session(image)
    assert caplog.records == []


def test_inputs_that_are_read_only(program, image):
    session = Session(program)
    image.flags.writeable = False
    assert np.array_equal(session(image), session(image.copy()))


@pytest.mark.parametrize("images", [[], [np.zeros((0, 3, 8, 8), np.float32)]], ids=["no batches", "an empty batch"])
def test_calibration_without_images(program, images):
    with pytest.raises(InputError, match="calibration needs images, and there are none"):
        quantize(program, images)


def test_calibration_on_what_holds_no_batches(program):
    with pytest.raises(InputError, match="calibration needs batches of training images, not None"):
        quantize(program, None)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_calibration_on_numbers_that_are_none(program, image, value):
    image[1, 2, 3, 4] = value
    with pytest.raises(InputError, match="tensor 'x0' has NaN or Inf on these images"):
        quantize(program, [image])


def test_calibration_on_images_of_another_size(program):
    with pytest.raises(InputError, match="takes"):
        quantize(program, [np.zeros((2, 3, 8, 9), np.float32)])


def full_weight(format_name: str, outputs: int, inputs: int, op: str) -> Program:
    """Codes of zero 0 times weights of 127 and -127, to real numbers."""
    shape = (outputs, inputs, 1, 1) if op == "conv2d" else (outputs, inputs)
    signs = np.where(np.arange(outputs) % 2, -1, 1).reshape(-1, *(1,) * (len(shape) - 1))
    row = FORMATS[format_name]
    packed = row.packed.from_dense(np.broadcast_to(signs, shape).astype(np.float32), row.spec(values=INT8))
    size = (inputs, 1, 1) if op == "conv2d" else (inputs,)
    tensors = {
        "x": Tensor("x", ("batch", *size)),
        "codes": Tensor("codes", ("batch", *size), "uint8", 1.0, 0),
        "y": Tensor("y", ("batch", outputs, *size[1:])),
    }
    nodes = (Node("quantize", "codes", ("x",), "codes"), Node(op, "y", ("codes",), "y", "w"))
    return Program({"main": Graph(("x",), ("y",), nodes, tensors)}, {"w": packed}, {})


# With 255 * 127 each, doubled for sums less their zero, 33155 products are the most that 32 bits are sure to hold.
@pytest.mark.parametrize(
    ("format_name", "kernel"),
    [
        ("dense", "conv2d_dense"),
        ("dense", "conv2d_lanes"),
        ("sparse", "conv2d_sparse"),
        ("block_sparse", "conv2d_sparse"),
        ("dense", "linear_dense"),
    ],
)
def test_the_largest_sums_are_exact_and_larger_ones_are_refused(format_name, kernel):
    op = kernel.partition("_")[0]
    with pytest.raises(ProgramError, match="beyond 32 bits; keep this layer in floating point"):
        Session(full_weight(format_name, 2, 33156, op))
    program = full_weight(format_name, 6, 33155, op)
    x = np.full((1, *program.graph.tensors["x"].shape[1:]), 255, np.float32)
    want = reference.run(program, x)
    assert np.abs(want).max() == pytest.approx(255 * 33155, rel=1e-6)
    for isa in native_status().isas:
        assert np.array_equal(poisoned(Session(program, isa=isa, schedule=Schedule({"y": kernel})), x), want)
