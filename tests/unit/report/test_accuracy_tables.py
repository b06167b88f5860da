"""The tables of accuracy in the documentation are those of the committed numbers."""

from __future__ import annotations

from pathlib import Path

import pytest

from accuracy.structured import NETWORKS, Row, read, table

PAGE = Path(__file__).parents[3] / "docs" / "methods" / "permdnn.md"


@pytest.mark.parametrize("network", NETWORKS)
def test_the_page_of_permuted_diagonals_shows_what_was_trained(network):
    assert table(read(), network) in PAGE.read_text()


def test_a_cell_is_the_mean_and_the_span_of_its_seeds():
    rows = [Row("mlp_digits", "permdnn", 4, "scratch", seed, 100, 90.0, test) for seed, test in enumerate((95, 96, 98))]
    rows += [
        Row("mlp_digits", "dense", 1, "scratch", 0, 1000, 90.0, 97.0),
        Row("lenet300100", "permdnn", 4, "scratch", 0),
    ]
    lines = table(rows, "mlp_digits").splitlines()
    assert lines[0] == "Dense: 97.00 %, 1,000 numbers."
    (line,) = (line for line in lines if line.startswith("| 4 |"))
    assert line == "| 4 | 100 | 96.33 (95.00-98.00) |  |  |  |  |  |"
