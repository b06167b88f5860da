"""The native module is there: without it, most tests of the engine would be skipped, and nobody would notice."""

from __future__ import annotations

import math
import os
import shutil

import pytest

from dovetail.engine import Session, native, native_status
from dovetail.errors import EngineError


def test_the_engine_is_built_where_there_is_a_compiler():
    if not any(shutil.which(name) for name in ("c++", "g++", "clang++")):
        pytest.skip("there is no C++ compiler here")
    status = native_status()
    assert status.available, status


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, math.inf),
        ({"cpu.max": "max 100000\n"}, math.inf),
        ({"cpu.max": "250000 100000\n"}, 2.5),
        ({"cpu.max": "rubbish"}, math.inf),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, math.inf),
        ({"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 0.5),
        ({"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "0\n"}, math.inf),
        ({"cpu/cpu.cfs_quota_us": "50000\n"}, math.inf),
    ],
    ids=str,
)
def test_cores_are_no_more_than_the_control_group_has_time_for(tmp_path, monkeypatch, files, cores):
    (tmp_path / "cpu").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(native, "CONTROL_GROUPS", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    assert native.cores() == max(1, int(min(8, cores)))


@pytest.mark.skipif(not native_status().available, reason="the native engine is not built")
def test_threads_that_the_system_does_not_give_are_an_error_of_ours(program, monkeypatch):
    def fails(threads):
        raise RuntimeError("Resource temporarily unavailable")

    monkeypatch.setattr(native.require_native(), "Pool", fails)
    with pytest.raises(EngineError, match=r"1 threads cannot be started here \(Resource temporarily"):
        Session(program, threads=1)
