"""Tables that people wrote have accuracies, times and ratios of the races that they are about, to their last digit."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import dovetail

ROOT = Path(dovetail.__file__).parents[2]
RATIOS = ("vs_f32", "vs_best", "vs_own_dense")
RESNET18 = [
    "dense", "int8", "escalate_rich", "escalate", "escalate_w050", "block85", "block92", "block92_w050", "fit50",
    "fit35", "magnitude", "tucker", "tdc", "penni", "penni_int8", "thin_w050", "dense_w050", "thin_w025",
    "thin_w025_int8",
]  # fmt: skip
RESNET56 = ["dense", "magnitude", "penni", "tucker", "int8", "penni_int8", "escalate", "escalate_lean", "thin"]
ESCALATE = [
    "resnet18_cifar/escalate_rich", "resnet18_cifar/escalate", "resnet18_cifar/escalate_lean",
    "resnet18_cifar/escalate_w050", "resnet56_cifar/escalate", "resnet56_cifar/escalate_lean",
    "resnet20_cifar/escalate_d10", "resnet20_cifar/escalate_d03",
]  # fmt: skip
FRONT = [["int8", "block92", "escalate"], ["dense_w050", "block92_w050", "escalate_w050"], ["thin_w025_int8"]]


def raced(case: str) -> dict[str, float]:
    """Accuracy in percent, milliseconds and ratios of our engine."""
    told = json.loads((ROOT / "benchmarks/results" / f"{case.replace('/', '_')}.json").read_text())
    (ours,) = (row for row in told["rows"] if (row["case"], row["target"]) == (case, "dovetail"))
    ratios = {ratio["case"]: ratio["value"] for ratio in told["ratios"]}
    return {"accuracy": ours["accuracy"], "ms": ours["median_ms"]} | {
        name: ratios[f"{case}/{name}"] for name in RATIOS if f"{case}/{name}" in ratios
    }


def table(page: str, after: str) -> list[list[str]]:
    """Cells of the first table behind a text, without its head."""
    text = (ROOT / page).read_text()
    found = re.search(r"(?:^\|.*\n)+", text[text.index(after) :], re.MULTILINE)
    assert found is not None
    return [[cell.strip() for cell in line.strip("|\n").split("|")] for line in found[0].splitlines()[2:]]


def agrees(cell: str, value: float) -> bool:
    """Whether a cell shows a value, to as many digits as it has."""
    (number, decimals) = re.match(r"(\d+\.?(\d*))", cell).groups()
    return abs(float(number) - value) <= 0.5001 * 10 ** -len(decimals)


@pytest.mark.parametrize(("network", "cases"), [("ResNet-18", RESNET18), ("ResNet-56", RESNET56)])
def test_rows_of_the_readme_are_those_of_their_races(network, cases):
    rows = table("README.md", f"{network} on CIFAR-10:")
    assert len(rows) == len(cases)
    for (what, accuracy, _, _, time, *ratios), case in zip(rows, cases):
        found = raced(f"{network.lower().replace('-', '')}_cifar/{case}")
        assert agrees(accuracy, found["accuracy"]), what
        assert agrees(time, found["ms"]), what
        for cell, name in zip(ratios, RATIOS, strict=True):
            assert agrees(cell, found[name]), (what, name)


def test_rows_of_the_page_on_escalate_are_those_of_their_races():
    rows = table("docs/methods/escalate.md", "## On the CPU")
    assert len(rows) == len(ESCALATE)
    for (what, *cells), case in zip(rows, ESCALATE):
        found = raced(case)
        for cell, name in zip(cells, ("accuracy", "ms", *RATIOS), strict=True):
            assert agrees(cell, found[name]), (what, name)


def test_cells_of_the_front_are_those_of_their_races():
    rows = table("docs/methods/thin.md", "## The front")
    assert len(rows) == len(FRONT)
    for (_, *cells), cases in zip(rows, FRONT):
        assert [bool(cell) for cell in cells] == [i < len(cases) for i in range(len(cells))]
        for cell, case in zip(cells, cases):
            found = raced(f"resnet18_cifar/{case}")
            for part, name in zip(cell.split(", "), ("accuracy", "ms", "vs_best"), strict=True):
                assert agrees(part, found[name]), (case, name)
