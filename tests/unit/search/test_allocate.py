"""Which candidates the allocators take, against trying everything."""

from __future__ import annotations

import contextlib
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dovetail.errors import BudgetError
from dovetail.formats import BlockSparseSpec
from dovetail.search import Candidate, Group, allocate, tdc_rule
from dovetail.search.allocate import tdc_within


def candidate(latency, damage=0.0, size=0, **costs):
    spec = None if damage == 0 else BlockSparseSpec(density=0.5)
    return Candidate(spec, {"latency": latency, **costs}, damage, size)


def group(name, *candidates):
    return Group(name, candidates[0], candidates[1:])


def random_groups(seed, count=5, most=4, costs=("latency",)):
    random = np.random.default_rng(seed)
    groups = []
    for i in range(count):
        dense = candidate(**{name: float(random.uniform(1, 2)) for name in costs})
        others = [
            candidate(damage=float(random.uniform(0.1, 3)), **{name: float(random.uniform(0.1, 1.6)) for name in costs})
            for _ in range(int(random.integers(0, most + 1)))
        ]
        groups.append(group(f"g{i}", dense, *others))
    return groups


def best_of_all(groups, limits, fixed):
    """Least damage over all ways to choose, or None."""
    found = None
    for chosen in itertools.product(*(g.all for g in groups)):
        spent = {name: fixed + sum(c.costs[name] for c in chosen) for name in limits}
        if all(spent[name] <= limits[name] for name in limits):
            damage = sum(c.damage for c in chosen)
            found = damage if found is None else min(found, damage)
    return found


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), share=st.floats(0.25, 1.05), fixed=st.floats(0, 1))
def test_the_knapsack_is_as_good_as_trying_everything(seed, share, fixed):
    groups = random_groups(seed)
    limits = {"latency": fixed + share * sum(g.dense.costs["latency"] for g in groups)}
    best = best_of_all(groups, limits, fixed)
    if best is None:
        with pytest.raises(BudgetError, match="cannot be met: the best that can is"):
            allocate(groups, limits, margin=-9.0, fixed={"latency": fixed})
        return
    found = allocate(groups, limits, margin=-9.0, fixed={"latency": fixed})
    assert found.cost("latency") <= limits["latency"] * (1 + 1e-9)
    tight = best_of_all(groups, {"latency": fixed + (limits["latency"] - fixed) * (1 - 5 / 4096)}, fixed)
    assert found.damage <= (tight if tight is not None else np.inf) + 1e-9  # the rounding of costs, at most
    assert found.damage >= best - 1e-9


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_several_limits_hold_together(seed):
    groups = random_groups(seed, costs=("latency", "bytes"))
    limits = {name: 0.8 * sum(g.dense.costs[name] for g in groups) for name in ("latency", "bytes")}
    best = best_of_all(groups, limits, 0.0)
    if best is None:
        with pytest.raises(BudgetError):
            allocate(groups, limits, margin=-9.0)
        return
    try:
        found = allocate(groups, limits, margin=-9.0)
    except BudgetError:  # prices do not find everything; how often is in the test below
        return
    assert all(found.cost(name) <= limit * (1 + 1e-9) for name, limit in limits.items())
    assert found.damage >= best - 1e-9


def test_prices_find_nearly_all_that_there_is():
    there = found = 0
    for seed in range(120):
        groups = random_groups(seed, costs=("latency", "bytes"))
        limits = {name: 0.8 * sum(g.dense.costs[name] for g in groups) for name in ("latency", "bytes")}
        if best_of_all(groups, limits, 0.0) is None:
            continue
        there += 1
        with contextlib.suppress(BudgetError):
            found += bool(allocate(groups, limits, margin=-9.0).chosen)
    assert there > 60
    assert found >= 0.9 * there


def test_nothing_changes_where_dense_fits():
    groups = [group("a", candidate(1.0), candidate(0.2, damage=1e-9)), group("b", candidate(1.0))]
    found = allocate(groups, {"latency": 2.0})
    assert [c.spec for c in found.chosen.values()] == [None, None]


def test_a_gain_below_the_margin_is_none():
    groups = [group("a", candidate(1.0), candidate(0.95, damage=0.1), candidate(0.5, damage=5.0))]
    assert allocate(groups, {"latency": 0.96}, margin=0.1).damage == 5.0
    assert allocate(groups, {"latency": 0.96}, margin=0.04).damage == 0.1


def test_what_cannot_be_met_says_the_best_and_who_holds_it_up():
    groups = [group("small", candidate(1.0), candidate(0.1, damage=1.0)), group("stubborn", candidate(3.0))]
    with pytest.raises(
        BudgetError, match=r"latency of 3 s cannot be met: the best that can is 3\.6 s, 500 ms .*'stubborn' \(3 s\)"
    ):
        allocate(groups, {"latency": 3.0}, fixed={"latency": 0.5})


def test_room_that_rounding_leaves_is_used():
    """Costs are rounded up to parts of the room, so that only four candidates seem to fit; two dense layers do, too."""
    unit = 1.0 / 4096
    groups = [group(f"g{i}", candidate(1024.6 * unit), candidate(1023.3 * unit, damage=1.0)) for i in range(4)]
    found = allocate(groups, {"latency": 1.0}, margin=0.0)
    assert found.cost("latency") <= 1.0
    assert found.damage == 2.0


def test_tdc_takes_the_cheapest_and_the_largest_of_equals():
    layer = group(
        "conv",
        candidate(10.0, size=100),
        candidate(4.0, damage=1.0, size=20),
        candidate(4.03, damage=1.0, size=25),  # within one percent of the cheapest
        candidate(4.1, damage=1.0, size=26),
    )
    assert tdc_rule([layer], "latency").chosen["conv"].size == 25


def test_tdc_leaves_a_layer_that_gains_too_little():
    layer = group("conv", candidate(1.0), candidate(0.86, damage=1.0))
    assert tdc_rule([layer], "latency").chosen["conv"].spec is None
    assert tdc_rule([layer], "latency", theta=0.14).chosen["conv"].spec is not None


def test_tdc_within_a_limit_is_the_rule_or_refused():
    layer = group(
        "conv",
        candidate(10.0, size=100),
        candidate(6.0, damage=1.0, size=80),
        candidate(3.0, damage=2.0, size=40),
    )
    wide = group("wide", candidate(1.0, size=10))
    assert tdc_within([layer, wide], "latency", 5.0) == tdc_rule([layer, wide], "latency")
    least = r"latency of 3\.5 s cannot be met: the best that can is 4 s; most of it is held by 'conv' \(3 s\)"
    with pytest.raises(BudgetError, match=least):
        tdc_within([layer, wide], "latency", 3.5)
    slow = group("slow", candidate(2.0), candidate(1.8, damage=1.0))
    dense = r"latency 5 s, more than 4\.9 s: layers that gain less than 15%.* from 'slow' \(2 s, 1\.8 s at best\)"
    with pytest.raises(BudgetError, match=dense):
        tdc_within([layer, slow], "latency", 4.9)
