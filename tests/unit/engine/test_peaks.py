"""The measuring kernels do the work that is counted for them, and bounds follow from what they measure."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dovetail.engine import native_status
from dovetail.engine.native import cores, require_native
from dovetail.engine.peaks import ROWS, STEPS, USUAL, VECTORS, Peaks, cache_sizes, measure

ISAS = native_status().isas
needs_native = pytest.mark.skipif(not native_status().available, reason="the native engine is not built")
PEAKS = Peaks(
    threads=2,
    isa="portable",
    rates={"f32": 1e9, "int8": 4e9},
    bandwidths={"L1": 8e9, "L2": 4e9, "L3": 2e9, "memory": 1e9},
    caches={"L1": 64, "L2": 1024, "L3": 4096},
)


def ran(isa: str, kernel: str, x: np.ndarray, y: np.ndarray, **fields: Any) -> np.ndarray:
    native = require_native()
    plan = native.Plan()
    plan.add(isa, f"dovetail_{kernel}", {"x": x.ctypes.data, "y": y.ctypes.data, **fields}, {}, False, False)
    plan.run(native.Pool(min(2, cores())), [])
    return y


def table(isa: str, dtype: Any) -> tuple[np.ndarray, int]:
    lanes = require_native().lanes(isa)
    count = STEPS * (VECTORS * lanes + ROWS)
    random = np.random.default_rng(0)
    if dtype is np.float32:
        return random.standard_normal(count, dtype=np.float32), lanes
    return random.integers(-(1 << 31), 1 << 31, count).astype(np.int32), lanes


@needs_native
@pytest.mark.parametrize("isa", ISAS)
def test_the_float_peak_multiplies_and_adds_all_that_is_counted(isa):
    x, lanes = table(isa, np.float32)
    vectors, numbers = x[: -STEPS * ROWS].reshape(STEPS, VECTORS, lanes), x[-STEPS * ROWS :].reshape(STEPS, ROWS)
    want = 5 * np.einsum("ivl,ir->rvl", vectors.astype(np.float64), numbers)
    got = ran(isa, "peak_f32", x, np.empty((3, ROWS, VECTORS, lanes), np.float32), units=3, rounds=5)
    np.testing.assert_allclose(got, np.broadcast_to(want, got.shape), rtol=1e-4, atol=1e-4)


@needs_native
@pytest.mark.parametrize("isa", ISAS)
def test_the_integer_peak_multiplies_and_adds_all_that_is_counted(isa):
    x, lanes = table(isa, np.int32)
    codes = x[: -STEPS * ROWS].view(np.uint8).reshape(STEPS, VECTORS, lanes, 4).astype(np.int64)
    weights = x[-STEPS * ROWS :].view(np.int8).reshape(STEPS, ROWS, 4).astype(np.int64)
    want = 5 * np.einsum("ivlb,irb->rvl", codes, weights)
    got = ran(isa, "peak_int8", x, np.empty((3, ROWS, VECTORS, lanes), np.int32), units=3, rounds=5)
    assert (got == want).all()


@needs_native
@pytest.mark.parametrize("isa", ISAS)
def test_the_stream_reads_all_that_is_counted(isa):
    size = 16 * require_native().lanes(isa)
    x = np.arange(3 * size, dtype=np.float32)
    got = ran(isa, "stream_f32", x, np.empty(3, np.float32), units=3, size=size, rounds=2)
    assert got.tolist() == [2 * part.sum() for part in x.reshape(3, -1)]


@needs_native
def test_a_measurement_is_of_this_machine():
    found = measure(1, seconds=1e-5, repeats=2)
    assert found.threads == 1
    assert found.isa == native_status().isa
    assert list(found.bandwidths) == [*cache_sizes(), "memory"]
    assert all(rate > 1e6 for rate in (*found.rates.values(), *found.bandwidths.values()))
    assert set(found.to_json()) == {"isa", "gmacs", "gigabytes", "caches"}


def test_the_bound_is_the_work_or_the_bytes_whichever_takes_longer():
    assert PEAKS.bound(8_000_000, 16, "f32") == pytest.approx(8e-3)
    assert PEAKS.bound(8_000_000, 16, "int8") == pytest.approx(2e-3)
    assert PEAKS.bound(1, 64, "f32") == pytest.approx(64 / 8e9)


def test_bytes_come_from_the_nearest_level_that_holds_them():
    assert [PEAKS.level(size) for size in (64, 65, 1024, 4096, 4097)] == ["L1", "L2", "L2", "L3", "memory"]
    assert PEAKS.bound(1, 5000, "f32") == pytest.approx(5e-6)


def test_caches_are_those_that_the_system_tells(tmp_path):
    for index, (level, kind, size) in enumerate(
        [("1", "Data", "48K"), ("1", "Instruction", "32K"), ("2", "Unified", "1024K"), ("3", "Unified", "32M")]
    ):
        folder = tmp_path / f"index{index}"
        folder.mkdir()
        for name, text in (("level", level), ("type", kind), ("size", size)):
            (folder / name).write_text(f"{text}\n")
    assert cache_sizes(tmp_path) == {"L1": 48 << 10, "L2": 1 << 20, "L3": 32 << 20}
    assert cache_sizes(tmp_path / "nowhere") == USUAL
