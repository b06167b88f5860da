"""What a budget may say."""

from __future__ import annotations

import pytest

from dovetail.errors import BudgetError
from dovetail.search import Budget, Limit
from dovetail.search.budget import read_limit, told


@pytest.mark.parametrize(
    ("text", "limits"),
    [
        ("latency=0.5x", {"latency": Limit(0.5, relative=True)}),
        ("latency=4.5ms", {"latency": Limit(0.0045)}),
        ("latency = 300us , bytes=2MB", {"latency": Limit(3e-4), "bytes": Limit(2e6)}),
        ("bytes=1e6", {"bytes": Limit(1e6)}),
        ("cycles=3M", {"cycles": Limit(3e6)}),
        ("energy=0.25x", {"energy": Limit(0.25, relative=True)}),
    ],
)
def test_a_text_says_the_limits(text, limits):
    found = Budget.parse(text, accuracy_drop=1.0).limits()
    assert list(found) == list(limits)
    for name, limit in limits.items():
        assert found[name].relative == limit.relative
        assert found[name].value == pytest.approx(limit.value)


def test_numbers_are_in_the_unit_of_the_cost():
    assert Budget(latency=0.004, accuracy_drop=1).limits() == {"latency": Limit(0.004)}
    assert Budget(bytes=10_000).limits() == {"bytes": Limit(10_000.0)}


def test_a_share_is_of_the_reference():
    assert Limit(0.5, relative=True).absolute(8.0) == 4.0
    assert Limit(0.5).absolute(8.0) == 0.5


def test_bounds_are_of_references_from_the_same_race():
    budget = Budget(latency="0.5x", bytes=100, accuracy_drop=1)
    assert budget.bounds({"latency": 8.0, "bytes": 7.0}) == {"latency": 4.0, "bytes": 100.0}
    assert budget.bounds({"latency": 2.0, "bytes": 7.0})["latency"] == 1.0
    with pytest.raises(BudgetError, match="knows latency and bytes and nothing of cycles"):
        Budget(cycles=3, accuracy_drop=1).bounds({"latency": 8.0, "bytes": 7.0})


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("latency", "latency=0.5x"),
        ("speed=3", "known are latency, bytes, macs, cycles, energy"),
        ("latency=fast", "cannot be read; units are s, ms, us, x"),
        ("latency=3", "cannot be read; units are s, ms, us, x"),
        ("latency=3MB", "cannot be read"),
        ("latency=0ms", "above 0"),
        ("bytes=-2MB", "cannot be read"),
        ("bytes=infMB", "cannot be read"),
        ("bytes=1MB,bytes=2MB", "names bytes twice"),
    ],
)
def test_a_budget_that_cannot_be_read_is_refused(text, told):
    with pytest.raises(BudgetError, match=told):
        Budget.parse(text, accuracy_drop=1.0)


def test_time_is_not_limited_without_a_bound_on_accuracy():
    with pytest.raises(BudgetError, match="latency needs a bound on accuracy"):
        Budget(latency="0.5x")
    with pytest.raises(BudgetError, match="energy needs a bound"):
        Budget(energy="1mJ", bytes="1MB")
    assert Budget(bytes="1MB").accuracy_drop is None


def test_a_budget_limits_something():
    with pytest.raises(BudgetError, match="limits something"):
        Budget(accuracy_drop=1.0)
    with pytest.raises(BudgetError, match="points"):
        Budget(latency="0.5x", accuracy_drop=-1)


@pytest.mark.parametrize(
    ("cost", "value", "references", "words"),
    [
        ("latency", 4.1e-6, {}, "4.1 us"),
        ("latency", 9.996e-4, {"latency": 2e-3}, "1000 us (0.5x)"),
        ("latency", 2e-9, {}, "0.002 us"),
        ("latency", 0.0, {"latency": 1.0}, "0 us (0x)"),
        ("bytes", 29949, {"bytes": 3e5}, "29.9 kB (0.0998x)"),
        ("bytes", 3, {}, "3 B"),
        ("macs", 2.95e5, {"bytes": 1.0}, "295 k"),
        ("macs", 0.5, {}, "0.5"),
        ("cycles", 1234567890123, {}, "1230 G"),
        ("energy", 1.5e-5, {"energy": 1e-5}, "15 uJ (1.5x)"),
    ],
)
def test_costs_are_told_as_a_budget_could_be_written(cost, value, references, words):
    assert told(cost, value, references) == words
    amount = words.partition(" (")[0]
    if value:
        assert read_limit(cost, amount).value == pytest.approx(value, rel=0.005)
