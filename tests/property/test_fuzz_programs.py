"""Random Programs of odd shapes: the engine agrees with the reference to 1e-4 of the range, over codes bit for bit.

A case that fails is named by its seed; see `fuzz_child.py`.
"""

from __future__ import annotations

import pytest

import fuzz
from dovetail.engine import native_status

pytestmark = pytest.mark.skipif(not native_status().available, reason="the native engine is not built")
FEW, MANY, UNDER_SANITIZERS = 100, 2_000, 400


def test_a_hundred_programs() -> None:
    assert fuzz.outcomes("programs", 0, FEW) == {"in codes": FEW // 2, "in real numbers": FEW // 2}


@pytest.mark.slow
def test_two_thousand_programs() -> None:
    assert fuzz.outcomes("programs", 0, MANY) == {"in codes": MANY // 2, "in real numbers": MANY // 2}


@pytest.mark.slow
def test_programs_under_sanitizers() -> None:
    found = fuzz.outcomes("programs", MANY, UNDER_SANITIZERS, over_sanitizers=True)
    assert found.total() == UNDER_SANITIZERS
