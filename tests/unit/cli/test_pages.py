"""From races and packed networks to the report's data: nothing mixed up, nothing claimed that was not measured."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from dovetail.cli import evidence, pages
from dovetail.errors import RecipeError
from dovetail.formats.dense import DenseSpec, PackedDense
from dovetail.program.program import BATCH, Graph, Node, Program, Tensor


def program(channels: int, **metadata) -> Program:
    """One linear layer from 4 numbers to `channels`."""
    weight = PackedDense.from_dense(np.ones((channels, 4), np.float32), DenseSpec())
    tensors = {"x": Tensor("x", (BATCH, 4)), "y": Tensor("y", (BATCH, channels))}
    graph = Graph(("x",), ("y",), (Node("linear", "fc", ("x",), "y", weight="fc"),), tensors)
    return Program({"main": graph}, {"fc": weight}, {}, metadata)


def row(case: str, target: str, dtype: str, milliseconds: float, **more):
    return {"case": case, "target": target, "dtype": dtype, "median_ms": milliseconds, **more}


def race(case: str, accuracy: float = 90.5, ours: float = 0.5, **more):
    rows = [
        row(case, "dovetail", "f32", ours),
        row(case, "dovetail-dense", "f32", 1.15),
        row(case, "onnxruntime", "f32", 1.2),
        row(case, "openvino-f32", "f32", 1.1, accuracy=accuracy),
        row(case, "torch-eager", "f32", 0.1),
        row(case, "onnxruntime-same", "f32", 0.7),
        row(case, "onnxruntime-same-factored", "f32", 0.3),
        row(case, "openvino-int8", "int8", 0.4, accuracy=89.5),
        row(f"{case}_t1", "openvino-f32", "f32", 0.01),
    ]
    ratios = [
        {"case": f"{case}/vs_f32", "value": 2.2, "peer": "openvino-f32"},
        {"case": f"{case}/vs_own_dense", "value": 1.9, "peer": "dovetail-dense"},
    ]
    plain = {"machine": {"cpu": "cpu", "cores": 2, "isa": ["avx2"]}, "versions": {"torch": "2.13"}, "threads": [1, 2]}
    return {"date": "2026-01-02T03:04", "batch": 1, "rows": rows, "ratios": ratios, "noise": [], **plain, **more}


@pytest.fixture
def material():
    left = {"conv1": "too few channels", "conv2": "too few channels"}
    entries = [
        pages.Entry("penni", program(2, left=left), 90.0, [race("net/penni")]),
        pages.Entry(
            "thin", program(3), 88.0, [race("net/thin"), race("net/thin_self", accuracy=88.1, ours=1.2)], thin=True
        ),
    ]
    dense = pages.Entry("net", program(8), 91.0)
    return pages.Material("A title", dense, entries, "test images", "dovetail report", timed=False)


def test_peers_are_dense_baselines_only(material):
    found = pages.fastest(material.entries[0].races[0], "f32")
    assert found["target"] == "openvino-f32"
    assert found["median_ms"] == 1.1
    assert pages.fastest(material.entries[0].races[0], "bf16") is None


def test_every_point_has_its_own_accuracy_and_time(material):
    points = {(p.label, p.group): (p.latency_ms, p.accuracy) for p in pages.build(material).points}
    assert points == {
        ("penni", "ours"): (0.5, 90.0),
        ("thin", "thin"): (1.1, 88.1),
        ("thin int8", "int8"): (0.4, 89.5),
        ("net", "dense"): (1.1, 90.5),  # what the race measured, beside the int8 of the same weights
        ("net int8", "int8"): (0.4, 89.5),
    }


def test_the_dense_control_stands_for_the_original_where_it_was_raced(material):
    control = race("net/dense_self", accuracy=90.9, ours=1.2)
    dense = replace(material.dense, races=[control])
    points = {p.group: p.accuracy for p in pages.build(replace(material, dense=dense)).points if p.label == "net"}
    assert points == {"dense": 90.9}


@pytest.mark.parametrize(("ours", "wanted"), [(0.9, (0.9, 88.0)), (1.2, (1.1, 88.1))])
def test_the_curve_of_thin_networks_is_that_of_the_fastest_runtime_ours_included(material, ours, wanted):
    own = race("net/thin_self", accuracy=88.1, ours=ours)
    thin = replace(material.entries[1], races=[race("net/thin"), own])
    points = pages.build(replace(material, entries=[thin])).points
    assert [(p.latency_ms, p.accuracy) for p in points if p.label == "thin" and p.group == "thin"] == [wanted]


def in_whole_numbers(case, **more):
    found = race(case, **more)
    found["rows"][0] |= {"dtype": "f32+int8", "median_ms": 0.3, "accuracy": 87.9}
    return found


@pytest.mark.parametrize("itself", [False, True])
def test_thin_networks_in_whole_numbers_are_points_of_the_int8_curve(material, itself):
    races = [in_whole_numbers("net/thin_int8")] + [in_whole_numbers("net/thin_int8_self")] * itself
    thin = pages.Entry("thin_int8", program(3), 88.0, races, thin=True)
    points = pages.build(replace(material, entries=[thin, *material.entries])).points
    found = [(p.group, p.latency_ms, p.accuracy) for p in points if p.label.startswith("thin_int8")]
    assert found == [("int8", 0.3, 87.9)]


def test_the_dense_original_takes_our_engine_where_that_is_fastest(material):
    fast = race("net/penni")
    fast["rows"][1] |= {"median_ms": 0.8, "accuracy": 90.7}
    entries = [replace(material.entries[0], races=[fast])]
    points = pages.build(replace(material, entries=entries)).points
    assert [(p.latency_ms, p.accuracy) for p in points if p.group == "dense"] == [(0.8, 90.7)]


def test_a_race_about_time_only_leaves_the_accuracy_of_the_results():
    timed = race("net/p")
    timed["rows"] = [{k: v for k, v in row.items() if k != "accuracy"} for row in timed["rows"]]
    entries = [pages.Entry("p", program(2), 90.0, [timed])]
    page = pages.build(pages.Material("t", pages.Entry("net", program(8), 91.0), entries, "s", "c", timed=False))
    assert {(p.group, p.accuracy) for p in page.points} == {("ours", 90.0), ("dense", 91.0)}


def test_speedups_are_the_claims_of_one_run_and_never_quotients(material):
    dense, penni, thin = pages.build(material).variants
    assert dense.speedup is None
    assert (penni.speedup, thin.speedup) == (1.9, 1.9)
    assert (dense.params, penni.params, thin.params) == (32, 8, 12)


def test_our_dense_time_is_that_of_floating_point(material):
    """Beside a network in whole numbers our dense one races in whole numbers, too."""
    whole = race("net/int8")
    for one in whole["rows"][:2]:
        one |= {"dtype": "int8", "median_ms": 0.3}
    entries = [pages.Entry("int8", program(2, floating={"conv1": "reads the image"}), 90.0, [whole])]
    page = pages.build(replace(material, entries=entries))
    assert [variant.latency_ms for variant in page.variants] == [None, 0.3]
    page = pages.build(replace(material, entries=[*entries, *material.entries]))
    assert page.variants[0].latency_ms == 1.15
    assert page.left[0].reason == "in floating point: reads the image"


def test_ratios_of_a_network_against_itself_are_no_claims(material):
    ratios = pages.build(material).ratios
    assert [(r.variant, r.name) for r in ratios] == [
        ("penni", "vs_f32"),
        ("penni", "vs_own_dense"),
        ("thin", "vs_f32"),
        ("thin", "vs_own_dense"),
    ]


def test_layers_left_dense_are_grouped_by_reason_and_thin_networks_have_none(material):
    page = pages.build(material)
    assert [(left.variant, left.layer, left.reason) for left in page.left] == [
        ("penni", "conv1, conv2", "too few channels")
    ]
    assert [section.variant for section in page.sections] == ["penni"]


def test_absent_peers_and_noise_are_told():
    noisy = race("net/p", noise=[{"median": 0.97}], versions={"nncf": "not run: not installed", "torch": "2.13"})
    entry = pages.Entry("p", program(2), 90.0, [noisy])
    page = pages.build(pages.Material("t", pages.Entry("net", program(8), 91.0), [entry], "s", "c", timed=False))
    assert "nncf: not run: not installed" in page.notes
    assert any("3.0%" in note for note in page.notes)
    assert page.versions == {"torch": "2.13"}


def test_ratios_are_dense_over_compressed_in_both_types():
    found = evidence.ratios(program(8), program(2))
    assert (found.params_ratio, found.macs_ratio) == (4.0, 4.0)
    assert (found.bits_ratio, found.bits_ratio_int8) == (4.0, 1.0)


@pytest.mark.parametrize(("text", "message"), [("{", "not JSON"), ("[]", "lacks"), ('{"recipe": 1}', "lacks command")])
def test_a_result_that_is_none_is_refused(tmp_path, text, message):
    path = tmp_path / "r.json"
    path.write_text(text)
    with pytest.raises(RecipeError, match=message):
        evidence.read(path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("accuracy", value) for value in ([], 91.0, ["high"], [True], None)),
        ("macs_ratio", "2x"),
        ("program", "r.dovetail"),
        ("program", {"file": "r.dovetail"}),
        ("weights", None),
    ],
)
def test_a_result_with_something_else_in_a_field_is_refused(tmp_path, field, value):
    path = tmp_path / "r.json"
    stamp = {"file": "r.dovetail", "sha256": "0"}
    told = dict.fromkeys(evidence.FIELDS, 1) | {"accuracy": [91.0, 92], "program": stamp, "weights": stamp}
    path.write_text(json.dumps(told))
    assert evidence.read(path) == told
    path.write_text(json.dumps(told | {field: value}))
    with pytest.raises(RecipeError, match=f"{field} is .*restore it or run the recipe again"):
        evidence.read(path)


def test_a_missing_result_says_how_to_make_it(tmp_path):
    with pytest.raises(RecipeError, match="dovetail recipe run r"):
        evidence.read(tmp_path / "r.json")
