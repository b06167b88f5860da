"""`dovetail simulate` on the digits: results, pictures, resuming after a kill, and what a page makes of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

import dovetail
from dovetail.accelerators import Trace, machine_named, record, simulate
from dovetail.cli import main
from dovetail.cli.simulations import Pair
from dovetail.program.store import load

pytest.importorskip("sklearn")
CHILD = Path(__file__).with_name("simulate_child.py")
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(dovetail.__file__).parents[1])}
COMMAND = ["simulate", "t.dovetail", "--on", "sparten,eyeriss-1024"]
FOLDER = Path("simulations/t")


def read(name: str, folder: Path = FOLDER) -> dict:
    return json.loads((folder / name).read_text())


def layers(name: str, folder: Path = FOLDER) -> list:
    return read(name, folder)["layers"]


def test_a_network_on_two_machines(here, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["dovetail", *COMMAND])
    assert main(COMMAND) == 0
    captured = capsys.readouterr()
    weights = [node.name for node in load("t.dovetail").graph.nodes if node.weight is not None]
    for name in weights:
        assert name in captured.out
        assert f"t on sparten: {name} (" in captured.err
    pair, compared = read("t-on-sparten.json"), read("comparison.json")
    assert pair["complete"]
    assert [layer["name"] for layer in pair["layers"]] == weights
    assert pair["total"]["cycles"] == sum(layer["cycles"] for layer in pair["layers"])
    assert {row["field"] for row in pair["machine"]["parameters"]} >= {"clusters", "dram_bytes_per_cycle", "costs"}
    assert pair["command"] == "dovetail simulate t.dovetail --on sparten,eyeriss-1024"
    assert pair["inputs"] == "the first test image of digits"
    assert [(one["network"], one["machine"]) for one in compared["pairs"]] == [("t", "sparten"), ("t", "eyeriss-1024")]
    for name in ("cycles", "energy"):
        assert ElementTree.parse(FOLDER / f"{name}.svg").getroot().tag.endswith("svg")


def test_the_figures_are_those_of_the_library(here):
    x = np.random.default_rng(0).standard_normal((3, 1, 8, 8)).astype(np.float32)
    np.save("x.npy", x)
    assert main([*COMMAND, "--inputs", "x.npy", "--images", "2", "--batch", "2"]) == 0
    done = simulate("t.dovetail", on="sparten", inputs=x[:2], batch=2)
    pair = read("t-on-sparten.json")
    assert (pair["images"], pair["batch"], pair["inputs"]) == (2, 2, "x.npy")
    assert [Trace.from_json(layer["trace"]) for layer in pair["layers"]] == [layer.trace for layer in done.layers]
    assert done.layers[0].trace == machine_named("sparten").simulate(record(load("t.dovetail"), x[:2])[0])


def test_more_images_than_a_file_has_are_refused(here, capsys):
    np.save("x.npy", np.zeros((3, 1, 8, 8), np.float32))
    assert main([*COMMAND, "--inputs", "x.npy", "--images", "4"]) == 2
    assert "--images 4: x.npy has 3" in capsys.readouterr().err


def test_a_second_time_everything_is_taken_from_the_results(here, capsys, monkeypatch):
    assert main(COMMAND) == 0
    first, out = layers("t-on-sparten.json"), capsys.readouterr().out
    monkeypatch.setattr("dovetail.accelerators.simulation.run", None)
    assert main(COMMAND) == 0
    captured = capsys.readouterr()
    assert captured.out == out
    assert f"t on sparten: {len(first)} of {len(first)} layers are taken from" in captured.err
    assert layers("t-on-sparten.json") == first


def test_what_changed_is_simulated_again(here, capsys):
    assert main(COMMAND) == 0
    capsys.readouterr()
    assert main([*COMMAND, "--images", "2"]) == 0
    assert "are taken from" not in capsys.readouterr().err
    path = FOLDER / "t-on-sparten.json"
    pair = json.loads(path.read_text())
    pair["layers"][0]["fingerprint"] = "of another machine"
    path.write_text(json.dumps(pair))
    assert main([*COMMAND, "--images", "2"]) == 0
    err = capsys.readouterr().err
    count = len(pair["layers"])
    assert f"t on sparten: {count - 1} of {count} layers are taken from" in err
    assert f"t on eyeriss-1024: {count} of {count} layers" in err
    assert len(layers("t-on-sparten.json")) == count


def test_a_damaged_result_is_made_anew(here, capsys):
    assert main(COMMAND) == 0
    first, path = layers("t-on-sparten.json"), FOLDER / "t-on-sparten.json"
    for damaged in (path.read_text()[:1000], "{}", json.dumps({"layers": [{"trace": 1}], "sensitivity": []})):
        path.write_text(damaged)
        assert main(COMMAND) == 0
        assert "is no simulation" in " ".join(capsys.readouterr().err.split())
        assert layers("t-on-sparten.json") == first


@pytest.mark.parametrize("writes", [1, *(pytest.param(n, marks=pytest.mark.slow) for n in (0, 5, 16))])
def test_killed_in_the_middle_it_goes_on(here, capsys, writes):
    command = [sys.executable, str(CHILD), str(writes), *COMMAND]
    child = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=100, check=False)
    assert child.returncode == -signal.SIGKILL, child.stderr
    assert main([*COMMAND]) == 0
    err = " ".join(capsys.readouterr().err.split())
    count = len(layers("t-on-sparten.json"))
    sparten, eyeriss = min(-(-writes // 2), count), min(writes // 2, count)  # layer by layer, on one and the other
    for name, taken in (("sparten", sparten), ("eyeriss-1024", eyeriss)):
        assert (f"t on {name}: {taken} of {count} layers are taken" in err) == (taken > 0)
    assert not list(FOLDER.glob(".*part"))
    assert main([*COMMAND, "--out", "fresh"]) == 0
    for name in ("sparten", "eyeriss-1024"):
        assert layers(f"t-on-{name}.json") == layers(f"t-on-{name}.json", Path("fresh"))


@pytest.mark.slow
def test_a_stopped_command_keeps_what_an_earlier_one_left(here):
    assert main(COMMAND) == 0
    path = FOLDER / "t-on-sparten.json"
    pair = json.loads(path.read_text())
    pair["layers"][0]["fingerprint"] = "of another machine"
    path.write_text(json.dumps(pair))
    command = [sys.executable, str(CHILD), "1", *COMMAND]  # the first layer is written, then it ends
    child = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=100, check=False)
    assert child.returncode == -signal.SIGKILL, child.stderr
    kept = read("t-on-sparten.json")
    assert not kept["complete"]
    assert len(kept["layers"]) + len(kept["earlier"]) == len(pair["layers"]) + 1


def test_baselines_run_their_own_network(here, capsys):
    assert main(["recipe", "list"]) == 0
    Path("tiny.dovetail").write_bytes(Path("recipes/results/tiny.dovetail").read_bytes())
    command = ["simulate", "tiny.dovetail", "--on", "sparten,eyeriss", "--equal", "--baseline", "eyeriss=t.dovetail"]
    assert main(command) == 0
    pairs = [(one["network"], one["machine"]) for one in read("comparison.json", Path("simulations/tiny"))["pairs"]]
    assert pairs == [("tiny", "sparten"), ("tiny", "eyeriss-1024"), ("t", "eyeriss-1024")]
    out = capsys.readouterr().out
    assert "Whose gain it is" in out
    assert "t on eyeriss-1024" in out
    assert "multipliers differ" not in out
    unlike = ["--on", "sparten", "--on", "tpu-v1", "--baseline", "tpu-v1=t.dovetail", "--out", "unlike"]
    assert main(["simulate", "tiny.dovetail", *unlike]) == 0
    assert "multipliers differ: sparten 1,024, tpu-v1 65,536; clocks differ" in " ".join(
        capsys.readouterr().out.split()
    )


def test_a_tornado_is_drawn_and_taken_again(here, capsys, monkeypatch):
    Path("u.dovetail").write_bytes(Path("t.dovetail").read_bytes())
    own = ["--baseline", "systolic=u.dovetail"]
    command = ["simulate", "t.dovetail", "--on", "systolic", *own, "--tornado", "chosen"]
    assert main(command) == 0
    capsys.readouterr()
    effects = read("t-on-systolic.json")["sensitivity"]
    assert {effect["field"] for effect in read("u-on-systolic.json")["sensitivity"]} == {e["field"] for e in effects}
    bandwidth = next(effect for effect in effects if effect["field"] == "dram_bytes_per_cycle")
    assert bandwidth["cycles"][0] > read("t-on-systolic.json")["total"]["cycles"] > bandwidth["cycles"][1]
    assert "dram_bytes_per_cycle" in (FOLDER / "t-on-systolic-tornado.svg").read_text()
    monkeypatch.setattr(sys.modules["dovetail.accelerators.sensitivity"], "effect", None)
    for words in (command, command[:-2]):  # not asked for again, it still holds
        assert main(words) == 0
        assert read("t-on-systolic.json")["sensitivity"] == effects
    assert main([*command[:-2], "--images", "2"]) == 0
    assert read("t-on-systolic.json")["sensitivity"] == []


def test_the_effects_of_other_inputs_are_not_those_of_these(here, monkeypatch):
    command = ["simulate", "t.dovetail", "--on", "systolic"]
    assert main([*command, "--tornado", "chosen"]) == 0
    assert read("t-on-systolic.json")["sensitivity"]
    with monkeypatch.context() as stopped:  # after the last layer
        stopped.setattr(Pair, "finish", None)
        assert main([*command, "--images", "2"]) == 70
    assert not read("t-on-systolic.json")["complete"]
    assert main([*command, "--images", "2"]) == 0
    assert read("t-on-systolic.json")["sensitivity"] == []


def test_the_effects_of_more_layers_are_not_those_of_some(here):
    command = ["simulate", "t.dovetail", "--on", "systolic"]
    assert main([*command, "--tornado", "chosen"]) == 0
    path = FOLDER / "t-on-systolic.json"
    pair = json.loads(path.read_text())
    pair["layers"].append(pair["layers"][0] | {"fingerprint": "of a layer that was there once"})
    path.write_text(json.dumps(pair))
    assert main(command) == 0
    assert read("t-on-systolic.json")["sensitivity"] == []


def test_the_report_shows_simulations_of_its_network(here, capsys):
    Path("tiny.dovetail").write_bytes(Path("recipes/results/tiny.dovetail").read_bytes())
    assert main(["simulate", "tiny.dovetail", "--on", "sparten,systolic"]) == 0
    assert main(COMMAND) == 0  # of no recipe: on no page
    assert main(["report", "--no-time", "--out", "page.html"]) == 0
    page = Path("page.html").read_text()
    assert "On models of accelerators" in page
    assert "on systolic" in page
    assert "on eyeriss-1024" not in page
    Path("simulations/tiny/comparison.json").write_text("[]")
    assert main(["report", "--no-time", "--out", "page.html"]) == 2
    assert "is no comparison of" in " ".join(capsys.readouterr().err.split())
