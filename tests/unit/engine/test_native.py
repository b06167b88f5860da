"""The native module is there: without it, most tests of the engine would be skipped, and nobody would notice."""

from __future__ import annotations

import shutil

import pytest

from dovetail.engine import native_status


def test_the_engine_is_built_where_there_is_a_compiler():
    if not any(shutil.which(name) for name in ("c++", "g++", "clang++")):
        pytest.skip("there is no C++ compiler here")
    status = native_status()
    assert status.available, status
