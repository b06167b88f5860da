"""The engine's tests once more over a build that watches memory and undefined behaviour: nothing to report.

What it sees: every access outside of an input or output array, a constant, a thread's scratch, or a tensor of the arena
(each of which lies there on its own); signed overflow, bad shifts, casts and alignment. What it does not see: reads
within what a kernel is allowed past the end of a tensor (`Buffer.overrun`; tests fill it with NaN), accesses that
land in another part of the same tensor, memory shared by two tensors that live together (the usual build's tests see
both in the results), and races between threads.
"""

from __future__ import annotations

import pytest

import sanitized
from dovetail.engine import native_status

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not native_status().available, reason="the native engine is not built"),
]
PYTEST = ("-m", "pytest", "--noconftest", "-p", "sanitized", "-q", "-x")

# A plan of one copy from a tensor of 37 numbers in the arena to another one, or the step that is said.
ONE_STEP = """
import sanitized
import numpy as np
from dovetail.engine.builder import Builder
from dovetail.engine.compile import _finish
from dovetail.engine.conv import Epilogue, Geometry
from dovetail.engine.lanes import conv_lanes
from dovetail.engine.native import require_native

native = require_native()
isa = {isa!r}
b = Builder(native.lanes(isa), 1)
x, y = b.rows((37,)), b.rows((200,))
constant = b.constant(np.ones(37, np.float32))
row = dict(size=[1, 1, 1, 1, 1, 37], x_stride=[0, 0, 0, 0, 0, 1], y_stride=[0, 0, 0, 0, 0, 1])
{step}
compiled = _finish(native, b, isa, (), {{}})  # holds the tensors that the plan points to
compiled.plan.run(native.Pool(1), [])
print("ran to the end")
"""
GOOD = {
    "a tensor": 'b.emit("copy_f32", {"x": x}, {"y": y}, **row)',
    "a constant": 'b.emit("copy_f32", {"x": constant}, {"y": y}, **row)',
    "scratch": (
        "image, out = b.planar((1, 3, 5, 5)), b.planar((1, 20, 5, 5)); "
        "conv_lanes(b, image, np.ones((20, 3, 1, 1), np.float32), out, Geometry(), Epilogue())"
    ),
}
BAD = {
    "reads past a tensor": ('row["size"][5] = 38; ' + GOOD["a tensor"], "AddressSanitizer"),
    "reads before a tensor": ("x = x.shifted(-1); " + GOOD["a tensor"], "AddressSanitizer"),
    "writes past a tensor": ("y = b.rows((36,)); " + GOOD["a tensor"], "AddressSanitizer"),
    "reads past a constant": ('row["size"][5] = 38; ' + GOOD["a constant"], "AddressSanitizer"),
    "writes past scratch": (GOOD["scratch"] + "; b.scratch //= 2", "AddressSanitizer"),
    "misses alignment": ('row["y_stride"][5] = 2; x.buffer.address = 4097; ' + GOOD["a tensor"], "misaligned address"),
    "overflows": ('row["size"][4] = row["size"][3] = 1 << 40; ' + GOOD["a tensor"], "signed integer overflow"),
}


@pytest.mark.parametrize("isa", native_status().isas)
@pytest.mark.parametrize("step", GOOD)
def test_nothing_is_said_of_sound_steps(step: str, isa: str) -> None:
    done = sanitized.run("-c", ONE_STEP.format(step=GOOD[step], isa=isa), timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    assert "ran to the end" in done.stdout


@pytest.mark.parametrize("isa", native_status().isas)
@pytest.mark.parametrize("step", BAD)
def test_unsound_steps_are_seen(step: str, isa: str) -> None:
    code, words = BAD[step]
    done = sanitized.run("-c", ONE_STEP.format(step=code, isa=isa), timeout=300)
    assert done.returncode != 0
    assert words in done.stderr, done.stderr[-4000:]


@pytest.mark.parametrize(
    "file",
    [
        "conformance/test_engine.py",
        "conformance/test_engine_codes.py",
        "unit/engine/test_chains.py",
        "unit/engine/test_compile.py",
        "unit/engine/test_expanded.py",
        "unit/engine/test_fused.py",
        "unit/engine/test_structured.py",
    ],
)
def test_every_kernel_on_every_isa(file: str) -> None:
    done = sanitized.run(*PYTEST, f"tests/{file}", timeout=3600)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-8000:]
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout
