"""The shape suite on a tiny layer in real processes, and its verbs. Nothing here asserts which is faster."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from dovetail.cli import main
from dovetail.engine import native_status, peaks
from dovetail.peers import layerwise
from dovetail.peers.layerwise import Row, Timed, time_layer
from dovetail.peers.peer import LAYERWISE
from dovetail.peers.schedule import Pace
from dovetail.program.layers import LayerShape

needs_native = pytest.mark.skipif(not native_status().available, reason="the native engine is not built")
QUICK = Pace(blocks=2, runs=3, warm=1, warm_seconds=0.0, gap=0.0)
CONV = LayerShape("conv2d", (8, 8, 8), (8, 8, 8), (8, 8, 3, 3), (1, 1), (1, 1, 1, 1), layers=("a", "b"))
SHEET = "network: { name: resnet8, options: { width: 0.5 } }\ninput: [3, 8, 8]\nvariants: { dense: {} }\n"


@needs_native
def test_every_kernel_that_can_run_a_layer_is_timed_in_f32_and_int8():
    timed = time_layer(CONV, [], threads=(1,), pace=QUICK)
    assert timed.absent == {}
    assert {(row.dtype, row.kernel, row.exact) for row in timed.rows} == {
        ("f32", "conv2d_dense", True),
        ("f32", "conv2d_lanes", True),
        ("f32", "conv2d_winograd2", False),
        ("f32", "conv2d_winograd4", False),
        ("int8", "conv2d_dense", True),
        ("int8", "conv2d_lanes", True),
    }
    for row in timed.rows:
        assert row.max_error < 1e-4
        assert row.runs == 6
        assert 0 < row.p10_ms <= row.median_ms <= row.p90_ms
        assert row.layer_ms > 0
    assert timed.noise > 0


@needs_native
@pytest.mark.slow
def test_other_runtimes_run_the_layer_too_and_those_that_are_absent_are_named():
    timed = time_layer(replace(CONV, layers=("a",)), list(LAYERWISE.values()), threads=(1,), pace=QUICK)
    named = {row.target for row in timed.rows} | set(timed.absent)
    assert set(LAYERWISE) <= named
    assert {"onnxruntime", "openvino-f32", "openvino-int8"} & {row.target for row in timed.rows}
    assert [row.kernel for row in timed.rows if not row.target.startswith("dovetail")] == [""] * (
        len(named) - len(timed.absent) - 6
    )
    for name, why in timed.absent.items():
        assert "not installed" in why, name


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with one small sheet, where nothing is really timed."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "benchmarks/networks").mkdir(parents=True)
    (tmp_path / "benchmarks/networks/small.yaml").write_text(SHEET)
    asked: list[dict] = []

    def timed(shape, peers, **options):
        asked.append({"peers": [peer.name for peer in peers], **options})
        rows = [
            Row(f"dovetail{part}-conv2d_dense", dtype, t, 0.2, 0.1, 0.3, 60, 0.0, "conv2d_dense", True, 0.1)
            for part, dtype in (("", "f32"), ("-int8", "int8"))
            for t in options["threads"]
        ]
        rows.append(Row("onnxruntime", "f32", 1, 0.3, 0.2, 0.4, 60, 0.0))
        return Timed(shape, tuple(rows), 1.01, {"ncnn": "not installed: ncnn"})

    def measure(threads):
        rates, caches = {"f32": 1e9, "int8": 4e9}, {"L1": 1 << 15, "L2": 1 << 20}
        return peaks.Peaks(threads, "portable", rates, {"L1": 1e10, "L2": 1e9, "memory": 1e8}, caches)

    monkeypatch.setattr(layerwise, "time_layer", timed)
    monkeypatch.setattr(peaks, "measure", measure)
    return asked


def test_shapes_are_collected_from_sheets_then_timed_and_drawn(here, tmp_path, capsys):
    assert main(["shapes", "collect"]) == 0
    assert "small.json: 7 shapes of 8 layers" in capsys.readouterr().out
    assert main(["shapes", "run", "small", "--threads", "1", "--blocks", "3"]) == 0
    assert len(here) == 7
    assert here[0]["peers"] == list(LAYERWISE)
    assert (here[0]["threads"], here[0]["pace"].blocks) == ((1,), 3)
    out = capsys.readouterr().out
    assert "not run: ncnn: not installed: ncnn" in out
    result = json.loads(Path("benchmarks/shapes/results/small.json").read_text())
    assert set(result) == {"network", "command", "date", "machine", "versions", "peaks", "shapes"}
    first = result["shapes"][0]
    assert first["name"] == "3→8 3x3 8x8"
    assert first["macs"] == 3 * 8 * 9 * 64
    assert first["bound_ms"]["1"]["f32"] == pytest.approx(1e3 * first["macs"] / 1e9)
    assert {"kernel", "exact", "layer_ms"} <= set(first["rows"][0])
    assert "kernel" not in first["rows"][-1]
    drawn = Path("benchmarks/shapes/results/small.svg")
    before = drawn.read_text()
    ElementTree.fromstring(before)
    drawn.unlink()
    assert main(["shapes", "draw", "benchmarks/shapes/results/small.json"]) == 0
    assert drawn.read_text() == before
    assert main(["shapes", "draw", "benchmarks/shapes/results/small.json", "--out", "pictures"]) == 0
    assert Path("pictures/small.svg").read_text() == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "small"], "no shapes small in benchmarks/shapes; `dovetail shapes collect` writes them"),
        (["run"], "no shapes at all"),
        (["collect", "smal"], "no sheet 'smal' in benchmarks/networks; did you mean 'small'"),
        (["draw", "benchmarks/networks/small.yaml"], "is no result of `dovetail shapes run`"),
    ],
)
def test_what_is_not_there_is_refused(here, capsys, words, message):
    assert main(["shapes", *words]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_a_peer_that_runs_no_layers_is_refused_before_anything_is_timed(here, capsys):
    assert main(["shapes", "collect"]) == 0
    assert main(["shapes", "run", "small", "--against", "torch-compile"]) == 2
    assert "'torch-compile' runs no single layers; known are onnxruntime" in " ".join(capsys.readouterr().err.split())
    assert not here
