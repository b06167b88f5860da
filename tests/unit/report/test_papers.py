"""A paper's claims beside simulations: ratios and factors by hand, and a page that leaves nothing out."""

from __future__ import annotations

from typing import Any

import pytest

from dovetail.report.papers import CLAIMS, GAINS, NETWORKS, gains, network_cells, page, verdicts
from dovetail.report.sways import SWAYS, little, swayed
from dovetail.report.tables import markdown

PAPER: dict[str, Any] = {
    "title": "A paper",
    "machine": "own",
    "known": "read nowhere",
    "claims": {
        "dense": {"machines": ["array"], "time": 8.0, "energy": 3.0},
        "sparse": {"machines": ["join", "cross"], "time": 2.0, "energy": 4.0},
    },
    "within": {"time": 1.5, "energy": 2},
    "networks": {"net": {"ours": "bases", "dense": "plain", "sparse": "pruned"}, "later": {"ours": "a", "dense": "b"}},
    "notes": "Why it is so.\n",
}


def pair(network: str, machine: str, cycles: int, joules: float, *effects: dict[str, Any]) -> dict[str, Any]:
    """At 1 GHz; the paper's machine has 1200 multipliers, the others 1000."""
    return {
        "network": network,
        "machine": machine,
        "units": 1200 if machine == "own" else 1000,
        "cycles": cycles,
        "seconds": 1e-9 * cycles,
        "utilisation": 0.5,
        "bytes_by": {"dram": 5000},
        "joules": joules,
        "sensitivity": list(effects),
    }


def effect(field: str, value: Any, cycles: Any, joules: Any) -> dict[str, Any]:
    return {"field": field, "value": value, "means": "", "values": [None, None], "cycles": cycles, "joules": joules}


def machine(*rows: tuple[str, Any, str, str]) -> dict[str, Any]:
    return {"parameters": [dict(zip(("field", "value", "mark", "note"), row, strict=True)) for row in rows]}


MACHINES = {
    "own": machine(
        ("bandwidth", 16, "chosen", "for comparisons"),
        ("lanes", 8, "chosen", "reconstructed"),
        ("order", "first", "recalled", ""),
        ("bases", 6, "paper", ""),
        ("costs", {"name": "set"}, "chosen", ""),
    ),
    "array": machine(("bandwidth", 16, "chosen", ""), ("grid", 32, "chosen", ""), ("costs", {}, "chosen", "a table")),
    "join": machine(("fill", 4, "chosen", ""), ("clock", 1, "chosen", "")),
    "cross": machine(),
}
PAIRS = [
    pair(
        "bases",
        "own",
        1000,
        2.0,
        effect("bandwidth", 16, [2000, 800], [2.0, 2.0]),
        effect("lanes", 8, [1250, 1000], [2.0, None]),
        effect("costs.dram_factor", 1, [1000, 1000], [1.5, 3.0]),
    ),
    pair("bases", "array", 3000, 4.0),
    pair("bases", "join", 2000, 4.0),
    pair("bases", "cross", 2500, 8.0),
    pair(
        "plain",
        "array",
        9000,
        6.0,
        effect("bandwidth", 16, [9000, 9000], [6.0, 6.0]),
        effect("grid", 32, [None, 4500], [6.0, 6.3]),
        effect("costs.dram_factor", 1, [9000, 9000], [4.5, 9.0]),
    ),
    pair(
        "pruned",
        "join",
        1000,
        4.0,
        effect("fill", 4, [990, 1020], [4.0, 4.0]),
        effect("clock", 1, [2000, 500], [4.0, 4.0]),
    ),
    pair("pruned", "cross", 4000, 16.0),
]
RESULT: dict[str, Any] = {
    "machines": MACHINES,
    "shared": ["bandwidth", "costs", "clock"],
    "networks": [
        {
            "name": "net",
            "inputs": "the first test image",
            "batch": 1,
            "alike": "multipliers differ",
            "networks": {
                part: {"recipe": name, "network": name, "accuracy": 90.0 + n, "bits_ratio": 4.0, "macs_ratio": 2.0 + n}
                for n, (part, name) in enumerate(PAPER["networks"]["net"].items())
            },
            "pairs": PAIRS,
        }
    ],
}
NOTHING: dict[str, Any] = {"machines": {}, "shared": [], "networks": []}


def test_every_claim_has_its_ratios_by_network_by_machine_and_by_multiplier():
    rows = [dict(zip(GAINS, gain.cells(), strict=True)) for gain in gains(PAPER, RESULT)]
    assert [(row["against"], row[""]) for row in rows] == [
        (f"{network} on {name}", what)
        for network, name in (("plain", "array"), ("pruned", "join"), ("pruned", "cross"))
        for what in ("time", "energy")
    ]
    dense, energy, join = rows[0], rows[1], rows[2]
    assert (dense["paper"], dense["all in all"], dense["per multiplier"]) == ("8.00×", "9.00×", "7.50×")
    assert (dense["by the network"], dense["by the machine"]) == ("3.00×", "3.00×")
    assert (energy["paper"], energy["all in all"], energy["per multiplier"]) == ("3.00×", "3.00×", "–")
    assert (join["all in all"], join["by the network"], join["by the machine"]) == ("1.00×", "0.50×", "2.00×")


def test_a_claim_is_told_by_the_mean_over_machines_and_networks():
    dense, dense_energy, sparse, sparse_energy = (
        dict(zip(CLAIMS, verdict.cells(), strict=True)) for verdict in verdicts(PAPER, gains(PAPER, RESULT))
    )
    assert (dense["against"], dense["model"], dense["from – to"]) == ("dense (array)", "9.00×", "")
    assert (dense["model / paper"], dense["asked"]) == ("1.12×", "within 1.5×")
    assert dense_energy["asked"] == "within 2×"
    assert (sparse["model"], sparse["from – to"]) == ("2.00×", "1.00× – 4.00×")  # of 1 and 4, geometric
    assert (sparse_energy["model"], sparse_energy["asked"]) == ("4.00×", "within 2×")


@pytest.mark.parametrize(
    ("published", "asked"), [(9.0, ""), (6.01, "within 1.5×"), (5.9, "not within 1.5×"), (13.6, "not within 1.5×")]
)
def test_a_miss_to_either_side_is_told(published, asked):
    claims = {"dense": {"machines": ["array"], "time": published, "energy": 1.0}}
    paper = PAPER | {"claims": claims, "within": PAPER["within"] if asked else None}
    result = RESULT | {"networks": [RESULT["networks"][0] | {"networks": without("sparse")}]}
    assert verdicts(paper, gains(paper, result))[0].asked == asked


def without(part: str) -> dict[str, Any]:
    return {name: facts for name, facts in RESULT["networks"][0]["networks"].items() if name != part}


def test_networks_are_told_with_what_is_known_of_them():
    rows = [dict(zip(NETWORKS, cells, strict=True)) for cells in network_cells(PAPER, RESULT)]
    assert [row["for"] for row in rows] == ["own", "dense", "sparse", "own", "dense"]
    assert (rows[2]["recipe"], rows[2]["accuracy"], rows[2]["fewer MACs"]) == ("pruned", "92.00 %", "4.00×")
    assert rows[3]["accuracy"] == "–"  # not simulated yet


def test_parameters_change_ratios_by_hand():
    found = {(sway.field, sway.of): sway for sway in swayed(PAIRS, MACHINES, RESULT["shared"])}
    # Of the first machine: a ratio falls where it takes longer. What no machine can have is not known.
    lanes = found["lanes", "own"]
    assert (lanes.time, lanes.energy) == (pytest.approx((0.8, 1.0)), (1.0, None))
    # Of another: a ratio rises where that takes longer.
    grid = found["grid", "array"]
    assert (grid.time, grid.energy) == ((None, 0.5), pytest.approx((1.0, 1.05)))
    # Of both: the first takes twice the time, the other the same.
    both = found["bandwidth", "own and array"]
    assert (both.time, both.energy) == (pytest.approx((0.5, 1.25)), (1.0, 1.0))
    assert found["costs.dram_factor", "own and array"].energy == pytest.approx((1.0, 1.0))
    # Shared, but varied on one side only; and not reconstructed.
    assert not {field for field, _ in found} & {"clock", "bases", "costs"}
    assert (found["order", "own"].time, found["order", "own"].most) == ((None, None), 0)


def test_own_parameters_are_all_shown_the_strongest_first_and_others_where_they_matter():
    found = swayed(PAIRS, MACHINES, RESULT["shared"])
    assert [sway.field for sway in found if sway.shown] == ["lanes", "order", "bandwidth", "grid"]
    assert little(found) == "Less than 5%: `fill` of join, `costs.dram_factor` of own and array.\n"
    assert little(found[:2]) == ""
    cells = dict(zip(SWAYS, found[0].cells(), strict=True))
    assert (cells["parameter"], cells["known from"], cells["time, ½"]) == (
        "`lanes` †",
        "chosen, reconstructed",
        "0.80×",
    )
    assert found[3].cells()[0] == "`grid`"


def test_the_page_has_every_table_and_the_notes():
    text = page("it", PAPER, RESULT)
    for shown in (
        "# A paper: paper against model",
        "[`own`](own.md)",
        "dovetail paper it --out",
        "read nowhere.",
        "| plain on array | time | 8.00× | 9.00× | 3.00× | 3.00× | 7.50× |",
        "## What decides it\n\nWhy it is so.\n",
        "## net in figures\n\nOf the first test image, 1 at a time. Multipliers differ.",
        "| bases | cross | 1,000 |",
        "| `order` † | own | first | recalled |",
    ):
        assert shown in text
    assert "\n\n\n" not in text
    assert text.endswith(".\n")


def test_a_page_before_anything_is_simulated_claims_nothing():
    text = page("it", PAPER | {"notes": ""}, NOTHING)
    assert "| dense (array) | time | 8.00× | not simulated |  | – |  |" in text
    for absent in ("Whose gain", "decides", "in figures", "within"):
        assert absent not in text


def test_numbers_are_aligned_to_the_right():
    assert markdown(("a", "b"), [("x", "1")], ("b",)) == "| a | b |\n|---|---:|\n| x | 1 |\n"
