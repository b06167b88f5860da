"""Plans of `dovetail fit` that an earlier call has noted: taken up again, or refused."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import yaml
from safetensors.torch import load_file, save_file

from dovetail import zoo
from dovetail.cli import main
from dovetail.cli.plans import Call
from dovetail.engine import native_status
from dovetail.search import Budget
from fit_calls import BYTES, FIT, opened

pytestmark = pytest.mark.skipif(not native_status().available, reason="needs the native engine")


def test_a_plan_is_written_with_its_notes_and_taken_up_again(surveys, tmp_path, capsys):
    assert main(BYTES) == 0
    recipe = yaml.safe_load((tmp_path / "f.yaml").read_text())
    assert recipe["method"]["quantize"] is True
    plan = json.loads((tmp_path / "f.fit.json").read_text())["plan"]
    told = {layer["name"]: layer["reason"] or layer["spec"]["density"] for layer in plan["decisions"]}
    own = recipe["method"]["plan"].items()
    assert {name: what if isinstance(what, str) else what["density"] for name, what in own} == told
    assert (
        plan["predicted"]["bytes"]
        <= plan["limits"]["bytes"]
        == pytest.approx(0.15 * plan["survey"]["references"]["bytes"])
    )
    assert "1x of bytes is" in capsys.readouterr().out
    assert main(BYTES) == 0
    assert "going on from the plan in f.fit.json; remove f.fit.json, f.yaml to plan anew" in capsys.readouterr().out
    assert len(surveys) == 1


def test_the_plan_of_another_call_is_neither_taken_nor_touched(surveys, tmp_path, capsys):
    assert main(BYTES) == 0
    before = [(tmp_path / name).read_text() for name in ("f.yaml", "f.fit.json")]
    assert main([*BYTES, "--margin", "0.2"]) == 2
    assert "is the plan of another call" in " ".join(capsys.readouterr().err.split())
    weights = load_file("t.safetensors")
    save_file({name: 2 * tensor for name, tensor in weights.items()}, "t.safetensors")
    assert main(BYTES) == 2
    assert [(tmp_path / name).read_text() for name in ("f.yaml", "f.fit.json")] == before
    assert len(surveys) == 1


def test_all_that_a_plan_depends_on_is_asked(surveys):
    call, budget = opened(), Budget(bytes="0.15x", accuracy_drop=1.0)
    more = call.recipe.model_copy(
        update={"method": call.recipe.method.model_copy(update={"parameters": {"ramp": 0.5}})}
    )
    calls = [
        call,
        *(
            replace(call, **{name: value})
            for name, value in (("threads", 2), ("seed", 1), ("peers", ("openvino-f32",)))
        ),
        *(replace(call, **{name: value}) for name, value in (("recipe", more), ("budget", "bytes=0.2x"))),
        replace(call, asked=replace(call.asked, rule="tdc")),
        replace(call, asked=replace(call.asked, margin=0.1)),
        replace(call, asked=replace(call.asked, int8=False)),
        replace(call, asked=replace(call.asked, budget=replace(budget, accuracy_drop=2.0))),
        replace(call, case="resnet8_digits/fit15"),
        replace(call, model=zoo.build("resnet8", in_channels=1, width=0.25)),
    ]
    questions = [json.dumps(each.question) for each in calls]
    assert len(set(questions)) == len(calls)
    assert questions[0] == json.dumps(opened().question)


def test_where_nothing_changes_there_are_notes_alone(surveys, tmp_path, capsys):
    wide = [*FIT, "--method", "block", "--budget", "bytes=1x"]
    for _ in range(2):
        assert main(wide) == 0
        told = " ".join(capsys.readouterr().out.split())
        assert "nothing to gain here: the dense network keeps the budget as it is; f.fit.json has the numbers" in told
        assert not (tmp_path / "f.yaml").exists()
    assert len(surveys) == 1


def test_notes_come_before_the_recipe_and_a_stopped_call_plans_again(surveys, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    call = opened()
    with monkeypatch.context() as patch:
        patch.setattr(Call, "_write", stop)
        with pytest.raises(KeyboardInterrupt):
            call.choose(None)
    assert (tmp_path / "f.fit.json").is_file()
    assert not (tmp_path / "f.yaml").exists()
    again = opened()
    assert again.remembered() is None
    plan = again.choose(None)
    assert (tmp_path / "f.yaml").is_file()
    assert again.remembered() == json.loads(json.dumps(plan))


@pytest.mark.parametrize("name", ["f.yaml", "f.dovetail"])
def test_what_is_not_ours_is_never_overwritten(surveys, tmp_path, capsys, name):
    (tmp_path / name).write_text("mine")
    assert main(BYTES) == 2
    assert f"{name} is there already, without notes of `dovetail fit`" in " ".join(capsys.readouterr().err.split())
    assert (tmp_path / name).read_text() == "mine"
    assert not surveys


@pytest.mark.parametrize(
    ("change", "told"), [({"cpu": "another one"}, "cpu is 'another one'"), ({"cores": 99}, "cores is 99")]
)
def test_times_of_another_machine_are_refused(surveys, tmp_path, capsys, change, told):
    assert main(BYTES) == 0
    path = tmp_path / "f.fit.json"
    notes = json.loads(path.read_text())
    notes["plan"]["survey"]["machine"] |= change | {"kernel": "a newer one"}
    notes["asked"]["threads"] = notes["plan"]["survey"]["machine"]["cores"]
    path.write_text(json.dumps(notes))
    capsys.readouterr()
    assert main(BYTES) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert f"f.fit.json has the times of another machine: {told} there" in said
    assert "kernel" not in said
    assert "remove f.fit.json, f.yaml to plan anew, or give another --out" in said


@pytest.mark.parametrize("machine", [None, "a name", []])
def test_damaged_notes_are_told(surveys, tmp_path, capsys, machine):
    assert main(BYTES) == 0
    path = tmp_path / "f.fit.json"
    notes = json.loads(path.read_text())
    notes["plan"]["survey"]["machine"] = machine
    path.write_text(json.dumps(notes))
    assert main(BYTES) == 2
    assert "f.fit.json is no plan of `dovetail fit`" in " ".join(capsys.readouterr().err.split())
