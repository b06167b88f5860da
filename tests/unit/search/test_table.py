"""Measured costs on disk."""

from __future__ import annotations

import json
import threading

import pytest

from dovetail import files
from dovetail.errors import DataError
from dovetail.formats import SvdSpec, TuckerSpec
from dovetail.program.layers import LayerShape
from dovetail.search import CostTable
from dovetail.search.table import Entry

CONV = LayerShape("conv2d", (8, 4, 4), (16, 4, 4), (16, 8, 3, 3), padding=(1, 1, 1, 1), layers=("a", "b"))
LINEAR = LayerShape("linear", (16,), (10,), (10, 16))
RANKS = TuckerSpec(rank_in=2, rank_out=2)
HERE = {"cpu": "a good one", "isa": ("avx2",), "threads": 1}


def counting(value=1.0):
    calls = []

    def measure(shape, spec):
        calls.append((shape, spec))
        return Entry(value * len(calls), 0.5, 2.0, "a kernel")

    return calls, measure


def test_a_layer_is_measured_once_whatever_its_name(tmp_path):
    calls, measure = counting()
    table = CostTable.open(tmp_path / "costs.json", HERE)
    first = table.measured(CONV, RANKS, measure)
    other = LayerShape(**{**vars(CONV), "layers": ("c",)})
    assert table.measured(other, RANKS, measure) == first
    assert table.measured(CONV, TuckerSpec(rank_in=4, rank_out=4), measure) != first
    assert table.measured(CONV, TuckerSpec(rank_in=4, rank_out=8), measure).value == 3.0
    assert len(calls) == 3


@pytest.mark.parametrize("change", [{"stride": (2, 2)}, {"padding": (0, 0, 0, 0)}, {"dilation": (2, 2)}])
def test_another_geometry_is_another_layer(change):
    calls, measure = counting()
    table = CostTable(HERE)
    table.measured(CONV, RANKS, measure)
    table.measured(LayerShape(**{**vars(CONV), **change}), RANKS, measure)
    assert len(calls) == 2


def test_a_stopped_search_goes_on_from_its_file(tmp_path):
    path = tmp_path / "deep" / "costs.json"

    def killed(shape, spec):
        if spec != RANKS:
            raise KeyboardInterrupt
        return Entry(1.0, 1.0, 1.0)

    table = CostTable.open(path, HERE)
    table.measured(CONV, RANKS, killed)
    with pytest.raises(KeyboardInterrupt):
        table.measured(LINEAR, SvdSpec(rank=4), killed)
    calls, measure = counting()
    again = CostTable.open(path, HERE)
    assert again.get(CONV, RANKS) == Entry(1.0, 1.0, 1.0)
    assert again.get(LINEAR, SvdSpec(rank=4)) is None
    again.measured(CONV, RANKS, measure)
    again.measured(LINEAR, SvdSpec(rank=4), measure)
    assert len(calls) == 1


def test_two_searches_at_once_lose_nothing(tmp_path, monkeypatch):
    """The other search saves while the first one writes what it has merged."""
    _, measure = counting()
    one, other = (CostTable.open(tmp_path / "costs.json", HERE) for _ in range(2))
    meanwhile = threading.Thread(target=other.measured, args=(LINEAR, SvdSpec(rank=4), measure))
    plain = files.write

    def slowly(*arguments, **options):
        if threading.current_thread() is not meanwhile:
            meanwhile.start()
            meanwhile.join(0.2)
        return plain(*arguments, **options)

    monkeypatch.setattr("dovetail.files.write", slowly)
    one.measured(CONV, RANKS, measure)
    meanwhile.join()
    known = CostTable.open(tmp_path / "costs.json", HERE)
    assert known.get(CONV, RANKS) is not None
    assert known.get(LINEAR, SvdSpec(rank=4)) is not None


def test_costs_of_another_machine_are_refused_with_the_difference(tmp_path):
    _, measure = counting()
    CostTable.open(tmp_path / "costs.json", HERE).measured(CONV, RANKS, measure)
    with pytest.raises(DataError, match=r"measured elsewhere: threads is 1 there and 2 here; .*another machine"):
        CostTable.open(tmp_path / "costs.json", {**HERE, "threads": 2})
    with pytest.raises(DataError, match="cpu is 'a good one' there and None here"):
        CostTable.open(tmp_path / "costs.json", {"isa": ("avx2",), "threads": 1})


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"version": 1, "machine": {}, "entries": {"a": {"seconds": 1}}}'])
def test_a_file_that_is_no_table_is_named(tmp_path, text):
    (tmp_path / "odd.json").write_text(text)
    with pytest.raises(DataError, match=r"odd\.json is no table of costs"):
        CostTable.open(tmp_path / "odd.json", HERE)


def test_a_table_of_another_version_is_refused(tmp_path):
    path = tmp_path / "costs.json"
    path.write_text(json.dumps({"version": 99, "machine": {}, "entries": {}}))
    with pytest.raises(DataError, match="version 99, not 1"):
        CostTable.open(path, HERE)
