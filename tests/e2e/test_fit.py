"""`dovetail fit` from the command line to a packed network, and again."""

from __future__ import annotations

import json

import pytest

from dovetail.cli import main
from dovetail.engine import native_status
from dovetail.formats import spec_from_json
from dovetail.methods import METHODS

pytest.importorskip("sklearn")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not native_status().available, reason="needs the native engine")]

NARROW = ["--set", "network.options.width=0.5", "--set", "method.parameters.epochs=1", "--set", "data.held_out=200"]
FIT = ["fit", "resnet8", "--weights", "t.safetensors", "--method", "block", "--budget", "bytes=0.15x", *NARROW]


def test_a_network_is_fitted_and_the_same_command_goes_on(here, capsys):
    assert main([*FIT, "--against", "onnxruntime", "-o", "f.yaml"]) == 0
    told = capsys.readouterr().out
    assert "What came of it" in told
    assert "met: at most" in told
    notes = json.loads((here / "f.fit.json").read_text())
    plan, achieved = notes["plan"], notes["achieved"]
    assert achieved["bytes"] <= plan["limits"]["bytes"]
    assert plan["predicted"]["bytes"] == pytest.approx(achieved["bytes"], rel=0.05)
    assert any(layer["spec"] for layer in plan["decisions"])
    assert all(spec_from_json(layer["spec"]) for layer in plan["decisions"] if layer["spec"])
    assert (here / "f.dovetail").is_file()
    assert "`dovetail report --fits f.fit.json` draws what was measured" in told
    assert main(["report", "--fits", "f.fit.json", "--out", "page.html"]) == 0
    assert "Fitted to a budget" in (here / "page.html").read_text()
    before = (here / "f.yaml").read_text()
    assert main([*FIT, "--against", "onnxruntime", "-o", "f.yaml"]) == 0
    assert "going on from the plan" in capsys.readouterr().out
    assert (here / "f.yaml").read_text() == before


def test_formats_are_chosen_by_the_cycles_of_a_machine(here, capsys):
    command = [word if word != "bytes=0.15x" else "cycles=0.6x" for word in FIT]
    command += ["--accuracy-drop", "100", "--machine", "sparten", "-o", "f.yaml"]
    assert main(command) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "an image, dense on the model of sparten" in told
    assert "What came of it" in told
    notes = json.loads((here / "f.fit.json").read_text())
    assert notes["asked"]["machine"] == "sparten"
    assert notes["achieved"]["kept"].keys() == {"accuracy", "cycles"}
    assert notes["plan"]["predicted"]["cycles"] <= notes["plan"]["limits"]["cycles"]
    assert len(list((here / "runs").glob("f-sparten-*.json"))) == 1
    assert main(["report", "--fits", "f.fit.json", "--out", "page.html"]) == 0
    page = (here / "page.html").read_text()
    assert "on the model of the machine sparten" in page
    assert "cycles" in page
    assert main([*command[:-4], "--machine", "scnn", "-o", "f.yaml"]) == 2
    assert "the plan of another call" in capsys.readouterr().err


def test_another_call_does_not_take_the_plan(here, capsys):
    assert main([*FIT, "--plan-only", "--against", "onnxruntime", "-o", "f.yaml"]) == 0
    other = [word if word != "bytes=0.15x" else "bytes=0.2x" for word in FIT]
    assert main([*other, "--against", "onnxruntime", "-o", "f.yaml"]) == 2
    assert "the plan of another call" in capsys.readouterr().err
    (here / "f.fit.json").write_text("{")
    assert main([*FIT, "--against", "onnxruntime", "-o", "f.yaml"]) == 2
    assert "is no plan of `dovetail fit`" in capsys.readouterr().err


def test_the_report_shows_fits_of_its_network(here, capsys):
    command = [word if word != "bytes=0.15x" else "latency=100x" for word in FIT]
    where = ["--plan-only", "--accuracy-drop", "1", "--costs", "costs.json", "-o", "recipes/f.yaml"]
    assert main([*command, *where, "--against", "onnxruntime"]) == 0
    assert main(["report", "--no-time", "--out", "page.html"]) == 0
    page = (here / "page.html").read_text()
    assert "Fitted to a budget" in page
    assert 'class="stair strong"' in page
    assert "not needed: dense is within the budget" in page
    (here / "recipes/f.fit.json").write_text("[]")
    assert main(["report", "--no-time", "--out", "page.html"]) == 2
    assert "holds no notes of `dovetail fit`" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(("method", "values"), [("permdnn", "int8"), ("circnn", "f32")])
def test_structured_formats_are_planned_and_trained_as_a_recipe(here, capsys, method, values):
    command = [word if word != "block" else method for word in FIT]
    assert main([*command, "--plan-only", "--values", values, "-o", "f.yaml"]) == 0
    assert "nothing to gain" not in capsys.readouterr().out
    notes = json.loads((here / "f.fit.json").read_text())
    specs = [spec_from_json(layer["spec"]) for layer in notes["plan"]["decisions"] if layer["spec"]]
    assert {spec.format for spec in specs} == {METHODS[method].format}
    assert notes["plan"]["predicted"]["bytes"] <= notes["plan"]["limits"]["bytes"]
    assert not (here / "f.dovetail").exists()
    assert main(["compress", "f.yaml", "-o", "g.dovetail"]) == 0
    assert main(["inspect", "g.dovetail"]) == 0
    assert METHODS[method].format in capsys.readouterr().out


def test_a_plan_is_a_recipe(here, capsys):
    assert main([*FIT, "--plan-only", "--against", "onnxruntime", "-o", "f.yaml"]) == 0
    assert "nothing" not in capsys.readouterr().out
    assert main(["compress", "f.yaml", "-o", "g.dovetail"]) == 0
    assert main(["inspect", "g.dovetail"]) == 0
    assert "block_sparse" in capsys.readouterr().out


def test_a_thinner_network_is_fitted_and_drawn(here, capsys):
    command = [word if word != "block" else "thin" for word in FIT]
    assert main([*command, "--accuracy-drop", "100", "--against", "onnxruntime", "-o", "f.yaml"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    notes = json.loads((here / "f.fit.json").read_text())
    plan, achieved = notes["plan"], notes["achieved"]
    assert f"{plan['width']:g} of the channels, all layers dense" in told
    assert "What came of it" in told
    assert achieved["bytes"] == pytest.approx(plan["predicted"]["bytes"], rel=0.01)
    assert achieved["kept"] == {"accuracy": True, "bytes": True}
    assert main(["report", "--fits", "f.fit.json", "--out", "page.html"]) == 0
    page = (here / "page.html").read_text()
    assert f"A dense network of {plan['width']:g} of the channels" in page
    assert "No layer was left dense" not in page
