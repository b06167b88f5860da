"""A page of two machines on layers: ratios by hand, what is asked, and nothing left out."""

from __future__ import annotations

from typing import Any

import pytest

from dovetail.report.layer_papers import (
    ARITHMETIC,
    CLAIMS,
    LAYERS,
    RATIOS,
    SWAYS,
    SWEEP,
    arithmetic_rows,
    claim_rows,
    layer_rows,
    page,
    ratio_rows,
    sway_rows,
    sweep_rows,
)


def cost(cycles: int, seconds: float, joules: float, watts: float, fill: int = 0) -> dict[str, Any]:
    return {
        "cycles": cycles,
        "fill": fill,
        "seconds": seconds,
        "used": 0.5,
        "joules": joules,
        "chip_joules": watts * seconds,
        "parts_joules": 0.5 * watts * seconds,
    }


PAPER: dict[str, Any] = {
    "title": "One against another",
    "machine": "one",
    "rival": "other",
    "known": "read nowhere",
    "vectors": 2,
    "layers": {
        "wide": {"outputs": 8, "inputs": 40, "size": 4, "density": 0.35, "rival": 0.2},
        "tall": {"outputs": 40, "inputs": 8, "size": 4, "density": 1, "rival": 0.25},
    },
    "claims": {"time": [3.0, 5.0], "energy": [2.0, 4.0], "area": [6.0, 9.0]},
    "asked": {"each": [2.5, 5.5], "mean": [3.0, 5.0]},
    "sweep": {"layer": "wide", "elements": [2, 4]},
    "notes": "Why it is so.\n",
}
RESULT: dict[str, Any] = {
    "node_nm": 28.0,
    "machines": {
        "one": {
            "parameters": [
                {"field": "multipliers", "value": 8, "mark": "recalled", "note": "a talk"},
                {"field": "elements", "value": 32, "mark": "paper", "note": ""},
                {"field": "fast", "value": True, "mark": "chosen", "note": ""},
            ]
        },
        "other": {"parameters": [{"field": "costs", "value": {"name": "set"}, "mark": "chosen", "note": ""}]},
    },
    "area": {"ours": 5.0, "rival": 10.0},
    "layers": [
        {
            "name": "wide",
            "ours": cost(2000, 2e-6, 1e-6, 0.5, fill=20),
            "rival": cost(8000, 8e-6, 3e-6, 0.4),
            "equal": cost(10000, 10e-6, 4e-6, 0.4),
        },
        {"name": "tall", "ours": cost(1000, 1e-6, 1e-6, 0.5), "rival": cost(1000, 1e-6, 2e-6, 0.4)},
    ],
    "sweep": [
        {"elements": 2, "several": False, "cycles": 2000, "fill": 200},
        {"elements": 4, "several": False, "cycles": 1400, "fill": 200},
        {"elements": 4, "several": True, "cycles": 1100, "fill": 200},
    ],
    "arithmetic": [
        {"what": "power", "published": 2.0, "computed": 2.05, "within": 0.03, "off": 0.025},
        {"what": "area", "published": 2.0, "computed": 1.9, "within": 0.03, "off": -0.05},
    ],
    "sways": [
        {"field": "multipliers", "of": "one", "value": 8, "time": [0.5, 1.25], "energy": [1.0, None]},
    ],
}


def rows(columns: tuple[str, ...], found: Any) -> list[dict[str, str]]:
    return [dict(zip(columns, cells, strict=True)) for cells in found]


def test_ratios_by_hand():
    wide, tall = rows(RATIOS, ratio_rows(PAPER, RESULT))
    # 8 over 2 microseconds; at equal density 10; of energy 8 x 0.4 over 2 x 0.5, over half of that; 3 over 1; times 2.
    assert (wide["time"], wide["at equal density"], wide["area"]) == ("4.00×", "5.00×", "8.00×")
    assert (wide["energy, chips"], wide["energy, by use"], wide["energy, events"]) == ("3.20×", "6.40×", "3.00×")
    assert wide["asked"] == "within 2.50× – 5.50×"
    assert (tall["time"], tall["at equal density"], tall["asked"]) == ("1.00×", "1.00×", "not within 2.50× – 5.50×")


def test_claims_are_told_by_their_span_and_mean():
    time, chips, by_use, events, area = rows(CLAIMS, claim_rows(PAPER, RESULT))
    assert (time["paper"], time["model, from – to"], time["model, mean"]) == ("3.00× – 5.00×", "1.00× – 4.00×", "2.00×")
    assert time["asked"] == "1 of 2 within 2.50× – 5.50×; mean not within 3.00× – 5.00×"
    assert (chips["paper"], chips["model, mean"], chips["asked"]) == ("2.00× – 4.00×", "1.60×", "")
    assert (by_use["model, mean"], events["model, mean"]) == ("3.20×", "2.45×")
    assert (area["paper"], area["model, from – to"]) == ("6.00× – 9.00×", "2.00× – 8.00×")
    fine = PAPER | {"asked": {"each": [1.0, 4.0], "mean": [2.0, 2.1]}}
    assert rows(CLAIMS, claim_rows(fine, RESULT))[0]["asked"].startswith("2 of 2 within 1.00× – 4.00×; mean within")


def test_layers_are_told_by_the_vector():
    cells = dict(enumerate(next(layer_rows(PAPER, RESULT))))
    assert len(cells) == len(LAYERS)
    assert [cells[n] for n in range(4)] == ["wide", "8 x 40", "4", "35 %"]
    assert [cells[n] for n in range(4, 8)] == ["1,000", "10", "1.00 µs", "50 %"]
    assert [cells[n] for n in range(8, 12)] == ["20 %", "4,000", "4.00 µs", "50 %"]


def test_a_sweep_is_told_against_its_first_row():
    first, more, several = rows(SWEEP, sweep_rows(RESULT))
    assert (first["speed-up"], first["efficiency"]) == ("1.00×", "100 %")
    # 2000 / 1400; without fill 1800 / 1200, on twice the elements.
    assert (more["speed-up"], more["speed-up without fill"], more["efficiency"]) == ("1.43×", "1.50×", "75 %")
    assert (several["columns"], several["efficiency"]) == ("several", "100 %")


def test_arithmetic_that_misses_is_told():
    power, area = rows(ARITHMETIC, arithmetic_rows(RESULT))
    assert (power["off"], power["asked"]) == ("+2.50 %", "within 3 %")
    assert (area["off"], area["asked"]) == ("-5.00 %", "not within 3 %")


def test_what_was_not_read_in_the_paper_is_marked():
    multipliers, fast, costs = rows(SWAYS, sway_rows(RESULT))
    assert (multipliers["parameter"], multipliers["known from"]) == ("`multipliers` †", "recalled, a talk")
    assert [multipliers[name] for name in SWAYS[4:]] == ["0.50×", "1.25×", "1.00×", "–"]
    assert (fast["value"], fast["time, ½"], costs["value"], costs["of"]) == ("True", "–", "set", "other")


@pytest.mark.parametrize("notes", ["", "Why it is so.\n"])
def test_the_page_has_every_table_and_the_notes(notes):
    text = page("it", PAPER | {"notes": notes}, RESULT)
    for shown in (
        "# One against another: paper against model",
        "[`one`](one.md) claims against [`other`](other.md)",
        "dovetail paper it --out docs/accelerators/it-paper.md",
        "read nowhere.",
        "work on the same 2\nvectors; `other` is brought to 28 nm",
        "wide on more elements of 8 multipliers",
        "| wide | 4.00× | 5.00× |",
        "| power | 2 | 2.05 | +2.50 % | within 3 % |",
        "| `fast` † | one | True | chosen |",
    ):
        assert shown in text
    assert ("## What decides it\n\nWhy it is so.\n" in text) == bool(notes)
    assert "\n\n\n" not in text
    assert text.endswith("|\n")
