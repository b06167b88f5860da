"""Random Programs of odd shapes: the engine agrees with the reference to 1e-4 of the range, over codes bit for bit.

Where codes are made of sums of real numbers, it agrees to a few of them.

A case that fails is named by its seed; see `fuzz_child.py`.
"""

from __future__ import annotations

from collections import Counter

import pytest

import fuzz
from dovetail.engine import native_status

pytestmark = pytest.mark.skipif(not native_status().available, reason="the native engine is not built")
FEW, MANY, UNDER_SANITIZERS = 100, 2_000, 400


def check(found: Counter[str], count: int) -> None:
    assert found.keys() == {"in codes", "in real numbers", "in both"}
    assert found["in real numbers"] == found["in codes"] + found["in both"] == count // 2


def test_a_hundred_programs() -> None:
    check(fuzz.outcomes("programs", 0, FEW), FEW)


@pytest.mark.slow
def test_two_thousand_programs() -> None:
    check(fuzz.outcomes("programs", 0, MANY), MANY)


@pytest.mark.slow
def test_programs_under_sanitizers() -> None:
    found = fuzz.outcomes("programs", MANY, UNDER_SANITIZERS, over_sanitizers=True)
    assert found.total() == UNDER_SANITIZERS
