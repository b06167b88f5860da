"""The table of speed claims."""

from __future__ import annotations

import pytest

from dovetail.report.speed import COLUMNS, Claim, claims, markdown, summary


def race(case: str, *, time_only: bool = False, **ratios: float) -> dict:
    """A race as its JSON has it, our median 0.5 ms; `ratios` are against onnxruntime."""
    rows = [
        {"case": case, "target": "dovetail", "median_ms": 0.5, **({} if time_only else {"accuracy": 91.0})},
        {"case": case, "target": "dovetail-dense", "median_ms": 0.7},
        {"case": f"{case}_t1", "target": "dovetail", "median_ms": 9.0},
    ]
    found = [
        {
            "case": f"{case}/{name}",
            "ours": "dovetail-dense" if name == "vs_int8" else "dovetail",
            "peer": "onnxruntime",
            "value": value,
        }
        for name, value in ratios.items()
    ]
    data = {"rows": rows, "ratios": found, "machine": {"engine_isa": "avx2"}}
    return data | ({"time_only": True} if time_only else {})


def test_every_ratio_stands_beside_its_target():
    found = claims([race("net/b", vs_best=1.1, vs_f32=2.0), race("net/a", vs_f32=3.0)], {"net/b/vs_f32": 2.5})
    assert found == [
        Claim("net/a", "vs_f32", 3.0, None, "onnxruntime", 0.5, 91.0, machine="avx2"),
        Claim("net/b", "vs_f32", 2.0, 2.5, "onnxruntime", 0.5, 91.0, machine="avx2"),
        Claim("net/b", "vs_best", 1.1, None, "onnxruntime", 0.5, 91.0, machine="avx2"),
    ]
    assert [claim.verdict for claim in found] == ["", "80% of it", ""]


def test_a_target_that_nobody_raced_is_in_the_table():
    (found,) = claims([], {"net/a/vs_int8": 1.0})
    assert (found.value, found.verdict) == (None, "not raced")
    assert found.cells()[:5] == ("net/a", "vs_int8", "–", "1.00×", "not raced")


def test_a_geometric_mean_is_over_all_cases_of_a_network_and_no_others():
    races = [
        race("net/a", time_only=True, vs_same=4.0, vs_f32=9.0),
        race("net/b", vs_same=1.0),
        race("net/b_b16", vs_same=50.0),
        race("nets/a", vs_same=50.0),
    ]
    wanted, cases = {"net/geomean/vs_same": 2.5}, {"net": ("net/a", "net/b")}
    found = {(claim.case, claim.ratio): claim for claim in claims(races, wanted, cases)}
    mean = found["net/geomean", "vs_same"]
    assert mean.value == pytest.approx(2.0)
    assert mean.cells()[3:6] == ("2.50×", "80% of it", "the best in each of 2")
    assert mean.cells()[-2:] == ("time only", "avx2")


@pytest.mark.parametrize("missing", ["a case", "one machine", "all"])
def test_a_geometric_mean_of_some_cases_is_none(missing):
    races = [race("net/a", vs_same=4.0), race("net/b", vs_same=1.0)]
    if missing == "one machine":
        races[1]["machine"] = {"engine_isa": "avx512"}
    cases = {"net": ("net/a", "net/b", "net/c") if missing == "a case" else ("net/a", "net/b")}
    found = claims([] if missing == "all" else races, {"net/geomean/vs_same": 2.5}, cases)
    (mean,) = (claim for claim in found if claim.case == "net/geomean")
    assert (mean.value, mean.verdict) == (None, "not raced")


def test_a_target_that_is_just_reached_is_met():
    (found,) = claims([race("net/a", vs_f32=1.5)], {"net/a/vs_f32": 1.5})
    assert found.verdict == "met"


def test_the_time_is_that_of_whoever_the_ratio_is_about():
    (found,) = claims([race("net/a", vs_int8=1.0)], {})
    assert found.milliseconds == 0.7


def test_a_file_of_several_cases_has_the_times_of_each():
    one, two = race("gpu/a", vs_same=2.0), race("gpu/b", vs_same=3.0)
    two["rows"][0]["median_ms"] = 0.25
    both = {key: one[key] + two[key] for key in ("rows", "ratios")} | {"machine": {"gpu": "a card", "cpu": "a CPU"}}
    found = [(claim.case, claim.milliseconds, claim.machine) for claim in claims([both], {})]
    assert found == [("gpu/a", 0.5, "a card"), ("gpu/b", 0.25, "a card")]


def test_what_chance_makes_of_a_ratio_stands_beside_it():
    told = race("net/a", vs_f32=1.0) | {"noise": [{"case": "net/a/noise", "value": 0.956}]}
    (found,) = claims([told], {})
    assert found.twice == 0.956
    assert "0.96" in found.cells()


def test_random_weights_are_marked():
    (found,) = claims([race("net/a", time_only=True, vs_f32=1.0)], {})
    assert found.cells()[-2:] == ("time only", "avx2")


def test_the_summary_counts():
    targets = {"net/a/vs_f32": 1.0, "net/b/vs_f32": 9.0, "net/c/vs_f32": 1.0}
    found = claims([race("net/a", vs_f32=1.0), race("net/b", vs_f32=1.0)], targets)
    assert summary(found) == "1 of 3 targets met, 1 not raced."
    assert summary(claims([race("net/a", vs_f32=1.0)], {})) == ""


def test_markdown_has_a_line_a_claim():
    lines = markdown(claims([race("net/a", vs_f32=1.0)], {"net/b/vs_f32": 1.0})).splitlines()
    assert len(lines) == 4
    assert {line.count("|") for line in lines} == {len(COLUMNS) + 1}
    assert lines[2].startswith("| net/a | vs_f32 | 1.00× |")
