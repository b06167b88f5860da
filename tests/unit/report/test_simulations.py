"""Networks on machines in figures and pictures: everything adds up, and nothing that was measured is missing."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree

import pytest

from dovetail.accelerators.trace import CAUSES as KNOWN
from dovetail.report import Page, Variant, render, stacked
from dovetail.report.comparison import PAIRS, layer_cells, layer_columns, pair_cells, shares
from dovetail.report.tornado import swings, tornado

SVG = "{http://www.w3.org/2000/svg}"


def pair(network: str, machine: str, compute: int, memory: int, joules: float, **more: Any) -> dict[str, Any]:
    """At 1 GHz; 3/4 of the energy in off-chip memory."""
    parts = {"multipliers": 0.25e12 * joules, "dram": 0.75e12 * joules}
    return {
        "network": network,
        "machine": machine,
        "units": 1024,
        "cycles": compute + memory,
        "cycles_by": {"compute": compute, "memory": memory},
        "seconds": 1e-9 * (compute + memory),
        "utilisation": compute / (compute + memory),
        "bytes_by": {"dram": 5000},
        "joules": joules,
        "picojoules_by": parts,
        "sensitivity": [],
        **more,
    }


OURS = pair("penni", "escalate", 900, 100, 1e-6, units=1152)
SAME = pair("penni", "eyeriss-1024", 2000, 0, 3e-6)
DENSE = pair("dense", "eyeriss-1024", 9000, 1000, 6e-6)
EFFECTS = [
    {"field": "fill", "value": 4, "means": "m", "values": [2, 8], "cycles": [1000, 1000], "joules": [1e-6, 1e-6]},
    {"field": "lanes", "value": 8, "means": "m", "values": [4, 16], "cycles": [2000, 600], "joules": [1e-6, 1e-6]},
    {"field": "one", "value": 1, "means": "m", "values": [None, 2], "cycles": [None, 900], "joules": [None, 1.3e-6]},
]
COMPARED = {
    "case": "net/penni",
    "inputs": "the first test image",
    "batch": 1,
    "alike": "multipliers differ",
    "command": "dovetail simulate penni.dovetail",
    "pairs": [OURS | {"sensitivity": EFFECTS}, SAME, DENSE],
}


def widths(drawing: str) -> list[list[float]]:
    """Of each bar, the widths of its parts; bars share their y."""
    rows: dict[str, list[float]] = {}
    for rect in ElementTree.fromstring(drawing).iter(f"{SVG}rect"):
        if rect.attrib["class"].startswith("part"):
            rows.setdefault(rect.attrib["y"], []).append(float(rect.attrib["width"]))
    return list(rows.values())


def words(drawing: str) -> str:
    return " ".join(ElementTree.fromstring(drawing).itertext())


def test_the_causes_are_those_of_the_models():
    assert [cause for cause in stacked.CAUSES if cause in KNOWN] == list(KNOWN)


def test_every_part_has_a_colour_of_its_own():
    for names in (stacked.CAUSES, stacked.FAMILIES):
        colours = {stacked.COLOURS.get(name, name) for name in names}
        assert len(colours) == len(names)
        for colour in colours:
            assert stacked.style().count(f"--{colour}: #") == 2  # light and dark
            assert f".sim .{colour} {{ fill: var(--{colour}); }}" in stacked.style()


def test_bars_are_as_long_as_their_cycles():
    drawn = widths(stacked.cycles([OURS, SAME, DENSE]))
    scale = (stacked.WIDTH - stacked.LABELS - stacked.END) / 10000
    assert [sum(row) / scale for row in drawn] == pytest.approx([1000, 2000, 10000], abs=1)
    assert [len(row) for row in drawn] == [2, 1, 2]  # no part of nothing
    assert drawn[2][0] == pytest.approx(9 * drawn[2][1], rel=0.01)


def test_energy_is_stacked_by_kinds_of_parts():
    odd = OURS | {
        "picojoules_by": {"multipliers": 2.0, "registers": 1.0, "a part of its own": 3.0, "buffer": 4.0, "units": 2.0}
    }
    found = stacked.by_family(odd["picojoules_by"])
    assert {family: sum(parts.values()) for family, parts in found.items() if parts} == {
        "arithmetic": 2.0,
        "registers": 1.0,
        "memory on the chip": 6.0,
        "other": 3.0,
    }
    told = words(stacked.energy([odd]))
    assert "memory on the chip: 6.00 pJ, 50.0% = buffer 4.00 pJ + units 2.00 pJ" in told
    assert "other: 3.00 pJ, 25.0% = a part of its own 3.00 pJ" in told


def test_every_bar_is_named_and_told_in_figures():
    told = words(stacked.cycles([OURS, DENSE]))
    for shown in ("penni", "on escalate", "dense", "on eyeriss-1024", "1.00 k", "10.0 k", "90%", "compute", "memory"):
        assert shown in told
    assert "imbalance" not in told
    assert stacked.cycles([]) == stacked.energy([]) == ""


def test_names_are_escaped_and_long_ones_cut():
    drawing = stacked.cycles([pair("<net> " + "x" * 80, "m & n", 1, 0, 1.0)])
    assert "<net> xxx" in words(drawing)
    assert "…" in words(drawing)


def test_a_drawing_alone_brings_its_style_and_one_in_a_page_does_not():
    drawing = stacked.cycles([OURS])
    alone = stacked.standalone(drawing)
    assert "<style>" not in drawing
    assert (alone.count("<style>"), "--paper" in alone) == (1, True)
    assert not re.search(r"url\(|@import|href|<script", alone)
    assert widths(alone) == widths(drawing)


def test_swings_are_shares_of_the_whole_and_the_strongest_is_on_top():
    found = swings(EFFECTS, OURS)
    assert [(swing.name, swing.value) for swing in found] == [("lanes", "8"), ("one", "1"), ("fill", "4")]
    assert found[0].cycles == pytest.approx((1.0, -0.4))
    assert (found[1].cycles, found[1].energy) == ((None, pytest.approx(-0.1)), (None, pytest.approx(0.3)))
    assert found[2].most == 0


def test_a_tornado_draws_what_changes_and_names_what_does_not():
    drawing = tornado(EFFECTS, OURS, "penni on escalate")
    assert len([width for row in widths(drawing) for width in row]) == 4  # lanes twice, one once in each panel
    told = words(drawing)
    assert "without effect: fill" in told
    for shown in ("½: +100.0%", "2×: -40.0%", "2×: -10.0%", "2×: +30.0%", "half the value", "cycles", "energy"):
        assert shown in told
    assert tornado([], OURS, "nothing") == ""


def test_many_parameters_without_effect_take_several_lines():
    effects = [EFFECTS[0] | {"field": f"a_parameter_of_a_long_name_{i}"} for i in range(12)]
    told = words(tornado(effects, OURS, "all the same"))
    assert all(effect["field"] in told for effect in effects)


def test_pairs_are_told_against_the_first():
    cells = dict(zip(PAIRS, pair_cells([OURS, SAME, DENSE])[2], strict=True))
    assert (cells["network"], cells["on"], cells["multipliers"]) == ("dense", "eyeriss-1024", "1,024")
    assert (cells["time / first"], cells["energy / first"]) == ("10.0×", "6.00×")
    assert cells["per multiplier"] == "8.89×"  # 10 * 1024 / 1152
    assert pair_cells([OURS])[0][-3:] == ("1.00×", "1.00×", "1.00×")


def test_the_gain_is_shared_out_between_network_and_machine():
    time, energy = shares([OURS, SAME, DENSE])
    assert (time.what, time.whole, time.by_network, time.by_machine) == ("time", *map(pytest.approx, (10, 5, 2)))
    assert (energy.whole, energy.by_network, energy.by_machine) == tuple(map(pytest.approx, (6, 2, 3)))
    assert time.cells()[0] == "dense on eyeriss-1024"
    assert shares([OURS, DENSE]) == []  # without penni on eyeriss nobody can tell
    assert shares([OURS, SAME]) == []


def test_layers_have_a_column_for_each_cause_that_occurs():
    layers = [{"name": f"conv{i}", "form": "as packed", **one} for i, one in enumerate((OURS, SAME))]
    assert layer_columns(layers) == ("layer", "run as", "cycles", "compute", "memory", "used", "off-chip", "energy")
    rows = list(layer_cells(layers, DENSE))
    assert rows[1] == ("conv1", "as packed", "2.00 k", "2.00 k", "0", "100%", "5.00 kB", "3.00 µJ")
    assert rows[-1][:3] == ("total", "", "10.0 k")


class Tags(HTMLParser):
    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.found.append(tag)
        if tag not in ("meta", "link", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_has_the_pictures_tables_and_the_style_once():
    page = Page("A network", (Variant("dense"), Variant("penni")), simulations=(COMPARED, COMPARED))
    html = render(page)
    tags = Tags(html)
    assert tags.open == []
    assert tags.found.count("svg") >= 2 * 3
    for shown in ("On models of accelerators", "Whose gain it is", "dense on eyeriss-1024", "multipliers differ"):
        assert shown in html
    assert html.count("--compute: #") == 2  # light and dark
    assert "On models of accelerators" not in render(Page("A network", (Variant("dense"),)))
    assert ".sim" not in render(Page("A network", (Variant("dense"),)))
