"""The picture of layers under the roofline."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from dovetail.report.layers import WORDS, marks, picture, share

SVG = "{http://www.w3.org/2000/svg}"


def own(kernel: str, threads: int, ms: float, *, dtype: str = "f32", exact: bool = True, inside: float = 0.0) -> dict:
    target = f"dovetail-{kernel}" if dtype == "f32" else f"dovetail-int8-{kernel}"
    return {"target": target, "dtype": dtype, "threads": threads, "median_ms": ms, "kernel": kernel, "exact": exact,
            "layer_ms": inside or ms / 2}  # fmt: skip


def other(target: str, threads: int, ms: float, dtype: str = "f32") -> dict:
    return {"target": target, "dtype": dtype, "threads": threads, "median_ms": ms}


SHAPE = {
    "name": "64→64 3x3 <56x56>",
    "layer": {"count": 4},
    "bound_ms": {"1": {"f32": 0.2, "int8": 0.05}, "2": {"f32": 0.1, "int8": 0.025}},
    "rows": [
        own("conv2d_dense", 1, 0.8),
        own("conv2d_dense", 2, 0.4, inside=0.25),
        own("conv2d_lanes", 2, 0.5, inside=0.3),
        own("conv2d_winograd4", 2, 0.15, exact=False),
        own("conv2d_dense", 2, 0.1, dtype="int8", inside=0.05),
        other("onnxruntime", 1, 0.9),
        other("onnxruntime", 2, 0.45),
        other("openvino-f32", 2, 0.46),
        other("openvino-int8", 2, 0.2, "int8"),
        other("ncnn", 2, 0.3),
        other("mnn", 1, 0.095),
        other("mnn-winograd2", 1, 0.09),
        other("mnn-winograd2", 2, 0.2),
    ],
    "noise": 1.0,
    "absent": {"openvino-int8": "not installed: nncf"},
}
BARE = {**SHAPE, "name": "64→10", "layer": {"count": 1}, "rows": [other("onnxruntime", 1, 0.01)]}
RESULT = {
    "network": "net",
    "machine": {"cpu": "a processor", "engine_isa": "avx2"},
    "peaks": {"1": {"gmacs": {"f32": 100.0, "int8": 400.0}}, "2": {"gmacs": {"f32": 200.0, "int8": 800.0}}},
    "shapes": [SHAPE, BARE],
}


def test_each_runtime_counts_with_its_better_setting_and_number_of_threads_and_ours_with_its_best_kernel():
    found = {mark.kind: mark.milliseconds for mark in marks(SHAPE, "f32")}
    assert found == {
        "roof": 0.1, "ours": 0.4, "inside": 0.25, "winograd": 0.15, "onnxruntime": 0.45, "openvino": 0.46, "ncnn": 0.3,
        "mnn": 0.09,
    }  # fmt: skip
    assert {mark.kind: mark.milliseconds for mark in marks(SHAPE, "int8")} == {
        "roof": 0.025, "ours": 0.1, "inside": 0.05, "openvino": 0.2,
    }  # fmt: skip


def test_the_share_of_the_roof_is_of_exact_kernels_between_other_layers():
    assert share(marks(SHAPE, "f32")) == pytest.approx(0.1 / 0.25)
    assert share(marks(BARE, "f32")) is None


def test_the_picture_is_a_file_of_its_own_with_a_mark_for_every_time():
    root = ElementTree.fromstring(picture(RESULT))
    assert root.tag == f"{SVG}svg"
    text = "".join(root.itertext())
    for word in ("net, layer by layer", "64→64 3x3 <56x56>  ×4", "64→10", "a processor", "40%", "f32, microseconds"):
        assert word in text
    drawn = [group.get("class") for group in root.iter(f"{SVG}g")]
    titled = [group for group in root.iter(f"{SVG}g") if group.find(f"{SVG}title") is not None]
    assert len(titled) == sum(len(marks(shape, dtype)) for shape in RESULT["shapes"] for dtype in ("f32", "int8"))
    assert set(drawn) == set(WORDS)
    told = {group.get("class"): group.findtext(f"{SVG}title") for group in titled[:8]}
    assert (told["ncnn"], told["mnn"]) == ("ncnn, 2 threads: 0.300 ms", "mnn-winograd2, 1 thread: 90.0 µs")


def test_marks_stand_within_the_picture_and_in_the_order_of_time():
    root = ElementTree.fromstring(picture(RESULT))
    width = float(root.get("width"))
    lines = [line for line in root.iter(f"{SVG}line") if line.get("class") == "span"]
    assert len(lines) == 4
    for line in lines:
        assert 0 < float(line.get("x1")) <= float(line.get("x2")) < width


def test_nothing_is_fetched():
    drawn = picture(RESULT)
    assert "href" not in drawn
    assert drawn.count("http") == 1  # the name space
