"""Mutated `.dovetail` files: each is refused by an error of Dovetail's, or loads and runs as the reference does.

Children try them, so that a crash, a hang or a foreign exception is seen; the guilty file is kept in build/fuzz.
"""

from __future__ import annotations

from collections import Counter

import pytest

import aimed_codes
import aimed_mutations
import fuzz
from dovetail.engine import native_status
from error_kinds import ERRORS

pytestmark = pytest.mark.skipif(not native_status().available, reason="the native engine is not built")
AIMED = [*aimed_mutations.AIMED, *aimed_codes.AIMED]
FEW, MANY, UNDER_SANITIZERS = 250, 10_000, 1_000


def table(found: Counter[str]) -> str:
    return "\n".join(f"{count:6d}  {outcome}" for outcome, count in found.most_common())


def test_every_aimed_change_meets_its_error_and_some_random_ones_any() -> None:
    """The aimed cases come first, each alone."""
    found = fuzz.outcomes("files", 0, FEW)
    print(table(found))
    assert found.total() == FEW
    assert [kind for kind in AIMED if not found[kind]] == []
    assert found["runs"] > 0


@pytest.mark.slow
def test_ten_thousand_files() -> None:
    found = fuzz.outcomes("files", 0, MANY)
    print(table(found))
    assert found.total() == MANY
    assert [kind for kind in ERRORS if not found[kind]] == []
    assert found["runs"] > MANY // 10


@pytest.mark.slow
def test_a_thousand_files_under_sanitizers() -> None:
    found = fuzz.outcomes("files", MANY, UNDER_SANITIZERS, over_sanitizers=True)
    print(table(found))
    assert found.total() == UNDER_SANITIZERS
    assert found["runs"] > UNDER_SANITIZERS // 10


def test_every_aim_has_its_words() -> None:
    assert set(AIMED) <= set(ERRORS)
    assert len(set(AIMED)) == len(AIMED)
