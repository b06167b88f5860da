"""What `dovetail fit` refuses and writes; what it would measure is made up."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from dovetail import zoo
from dovetail.cli import main
from dovetail.cli.app import REFUSED
from dovetail.cli.evidence import FIELDS, sha256
from dovetail.cli.fit import _short
from dovetail.cli.pipeline import describe
from dovetail.cli.plans import written
from dovetail.cli.schema import check, merge, read
from dovetail.engine import native_status
from dovetail.errors import RecipeError, TrainingError
from dovetail.fitting import Rehearsal
from dovetail.fitting.surveys import in_values, stored_bytes
from dovetail.program.lower import lower
from fit_calls import BYTES, FIT, opened

RECIPE = {
    "title": "a base",
    "network": {"name": "resnet18", "options": {"stem": "cifar"}, "trained": "dense-resnet18-cifar10"},
    "data": {"name": "cifar10", "held_out": 5000},
    "method": {
        "name": "block",
        "parameters": {"epochs": 3},
        "teacher": {"network": {"name": "resnet18", "trained": "teacher-resnet18-cifar10"}},
    },
    "control": "dense-resnet18-cifar10",
    "case": "resnet18_cifar/block85",
    "runs": "elsewhere",
}


def located(recipe):
    """As the command line has it, which has found the files of what other recipes trained."""
    network = recipe.network.model_copy(update={"weights": "somewhere/dense.safetensors"})
    teacher = recipe.method.teacher
    known = teacher.network.model_copy(update={"weights": "somewhere/teacher.safetensors"})
    method = recipe.method.model_copy(update={"teacher": teacher.model_copy(update={"network": known})})
    return recipe.model_copy(update={"network": network, "method": method})


def test_what_is_written_is_a_recipe_again_and_names_no_place():
    recipe = check(RECIPE, "here")
    data = written(located(recipe))
    assert "somewhere" not in str(data)
    assert "elsewhere" not in str(data)
    again = check(merge(data, {"method": {"quantize": True}}), "there")
    assert again.network == recipe.network
    assert again.method.teacher == recipe.method.teacher
    assert again.control == recipe.control
    assert again.case is None


def test_weights_by_name_stay():
    data = written(
        check({**RECIPE, "network": {"name": "resnet20", "weights": "resnet20_cifar10.safetensors"}}, "here")
    )
    assert data["network"]["weights"] == "resnet20_cifar10.safetensors"


@pytest.mark.parametrize(
    ("network", "name"),
    [
        ("pkg.nets:small", "small"),
        ("pkg.nets:large", "large"),
        ("resnet18", "resnet18"),
        ("recipes/block.v2.yaml", "block.v2"),
    ],
)
def test_recipes_are_named_by_their_network(network, name):
    assert _short(network) == name


def test_both_would_be_refused():
    with pytest.raises(RecipeError, match="weights or trained, not both"):
        check(merge(RECIPE, {"network": {"weights": "a.safetensors"}}), "here")


@pytest.mark.parametrize("flag", [["--on", "digits"], ["--weights", "t.safetensors"], ["--runs", "elsewhere"]])
def test_what_a_recipe_says_itself_is_no_flag(tmp_path, capsys, flag):
    (tmp_path / "base.yaml").write_text(yaml.safe_dump(RECIPE))
    assert main(["fit", str(tmp_path / "base.yaml"), "--budget", "bytes=0.5x", *flag]) == 2
    assert "says itself what --on, --weights and --runs would" in " ".join(capsys.readouterr().err.split())


needs_engine = pytest.mark.skipif(not native_status().available, reason="needs the native engine")


@needs_engine
@pytest.mark.parametrize(
    ("method", "form"), [("permdnn", "permuted_diagonal"), ("circnn", "block_circulant")], ids=lambda what: what
)
def test_blocks_of_one_vector_are_planned_too(surveys, tmp_path, method, form):
    assert main([*FIT, "--method", method, "--budget", "bytes=0.15x"]) == 0
    recipe = yaml.safe_load((tmp_path / "f.yaml").read_text())
    assert recipe["method"]["name"] == method
    changed = [spec for spec in recipe["method"]["plan"].values() if not isinstance(spec, str)]
    assert {spec["format"] for spec in changed} == {form}
    plan = json.loads((tmp_path / "f.fit.json").read_text())["plan"]
    assert plan["predicted"]["bytes"] <= plan["limits"]["bytes"] < plan["dense"]["bytes"]


@needs_engine
@pytest.mark.parametrize(
    ("more", "warned"),
    [
        (["--method", "circnn"], True),
        (["--method", "mixed", "--set", "method.parameters.methods={block: {}, circnn: {}}"], True),
        (["--method", "circnn", "--values", "f32"], False),
        (["--method", "permdnn"], False),
    ],
    ids=str,
)
def test_circulant_blocks_gain_no_time_in_whole_numbers(surveys, capsys, monkeypatch, more, warned):
    monkeypatch.setattr("dovetail.fitting.rehearse", lambda *_: Rehearsal(1e-5, {}))
    assert main([*FIT, "--budget", "latency=100x", "--accuracy-drop", "1", *more]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert ("circulant layers run by their expanded weight" in told) == warned


@pytest.fixture
def trains(monkeypatch):
    """Nothing is trained: what would be is listed."""
    asked = []

    def train(recipe, name, seed, root):
        asked.append((recipe, name, seed))
        raise TrainingError("it would take too long")

    monkeypatch.setattr("dovetail.cli.pipeline.train", train)
    return asked


@needs_engine
def test_training_has_the_seed_and_the_folder_of_runs(surveys, trains):
    small = [argument for argument in BYTES if argument != "--plan-only"]
    assert main([*small, "--runs", "elsewhere", "--seed", "3"]) == REFUSED
    ((recipe, name, seed),) = trains
    assert (name, seed, recipe.runs) == ("f", 3, "elsewhere")
    assert recipe.settings.seeds == (3,)
    assert read(Path("f.yaml")).settings.seeds == (3,)
    assert "elsewhere" not in Path("f.yaml").read_text()


@needs_engine
def test_runs_of_a_base_recipe_are_those_of_its_fit(surveys, trains):
    base = {
        "network": {"name": "resnet8", "options": {"width": 0.25}, "weights": "t.safetensors"},
        "data": {"name": "digits", "held_out": 100},
        "method": {"name": "block"},
        "settings": {"seeds": [1, 2]},
        "runs": "elsewhere",
    }
    Path("base.yaml").write_text(yaml.safe_dump(base))
    assert main(["fit", "base.yaml", "-o", "f.yaml", "--budget", "bytes=0.15x"]) == REFUSED
    ((recipe, _, seed),) = trains
    assert (seed, recipe.runs, recipe.settings.seeds) == (0, "elsewhere", (0,))


@needs_engine
@pytest.mark.parametrize("target", ["f.yaml", "other/f.yaml"])
def test_weights_that_another_recipe_has_trained_are_found_again(surveys, trains, target):
    small = {"name": "resnet8", "options": {"width": 0.25, "in_channels": 1}}
    data = {"name": "digits", "held_out": 100}
    results, kept = Path("other/results"), Path("other/results/dense.safetensors")
    results.mkdir(parents=True)
    save_file(load_file("t.safetensors"), kept)
    stamp = {"file": kept.name, "sha256": sha256(kept)}
    told = dict.fromkeys(FIELDS, 0) | {"accuracy": [91.0], "program": stamp, "weights": stamp}
    (results / "dense.json").write_text(json.dumps(told))
    dense = {"network": small, "data": data, "method": {"name": "thin"}, "weights": "int8"}
    Path("other/dense.yaml").write_text(yaml.safe_dump(dense))
    trained = small | {"trained": "dense"}
    base = {"network": trained, "data": data, "method": {"name": "block", "teacher": {"network": trained}}}
    Path("other/net.yaml").write_text(yaml.safe_dump(base))
    assert main(["fit", "other/net.yaml", "-o", target, "--budget", "bytes=0.15x"]) == REFUSED
    ((recipe, _, _),) = trains
    assert Path(recipe.network.weights) == Path(recipe.method.teacher.network.weights) == kept


@needs_engine
def test_peers_count_and_race_only_where_a_latency_is_limited(surveys, capsys):
    assert main([*BYTES, "--against", "onnxruntime"]) == 0
    assert main([*BYTES, "--against", "openvino-f32"]) == 0
    assert [one["peers"] for one in surveys] == [()]
    timed = [*FIT, "--method", "block", "--budget", "latency=100ms", "--accuracy-drop", "1"]
    timed[timed.index("f.yaml")] = "g.yaml"
    assert main([*timed, "--against", "onnxruntime"]) == 0
    assert surveys[-1]["peers"] == ("onnxruntime",)
    assert "1x of latency is 1.00 ms, by somebody" in capsys.readouterr().out
    assert main([*timed, "--against", "openvino-f32"]) == 2


@needs_engine
def test_a_plan_of_a_time_is_rehearsed_and_the_notes_say_so(surveys, tmp_path, monkeypatch):
    ran = []

    def rehearse(model, images, plan, measured):
        ran.append(measured.rival)
        return Rehearsal(7.8e-5, {decision.name: 0.4 for decision in plan.changed})

    monkeypatch.setattr("dovetail.fitting.rehearse", rehearse)
    assert main([*FIT, "--method", "block", "--budget", "latency=0.08x", "--accuracy-drop", "1"]) == 0
    plan = json.loads((tmp_path / "f.fit.json").read_text())["plan"]
    assert ran == ["somebody"]
    ((predicted, took),) = plan["rehearsals"]
    assert predicted <= 8e-5
    assert took == plan["predicted"]["latency"] == 7.8e-5
    changed = [layer for layer in plan["decisions"] if layer["spec"]]
    assert changed
    assert all(layer["chosen"] == pytest.approx(0.4 * layer["dense"]) for layer in changed)


@needs_engine
def test_floating_point_is_what_the_recipe_says_then(surveys, tmp_path):
    base = ["--set", "method.quantize=true", "--set", "method.parameters.epochs=1"]
    assert main([*FIT, "--method", "block", "--budget", "bytes=0.5x", "--values", "f32", *base]) == 0
    recipe = yaml.safe_load((tmp_path / "f.yaml").read_text())
    assert recipe["method"].get("quantize", False) is False
    assert surveys == [{"int8": False, "threads": None, "peers": ()}]


@needs_engine
def test_a_width_is_planned_as_a_recipe_of_a_thinner_network(surveys, tmp_path, capsys):
    save_file(zoo.build("resnet8", in_channels=1).state_dict(), "w.safetensors")
    thin = ["fit", "resnet8", "--weights", "w.safetensors", "-o", "f.yaml", "--plan-only", "--method", "thin"]
    thin += ["--set", "data.held_out=100", "--budget", "bytes=0.15x"]
    assert main(thin) == 0
    told = capsys.readouterr().out
    plan = json.loads((tmp_path / "f.fit.json").read_text())["plan"]
    recipe = read(tmp_path / "f.yaml")
    assert recipe.network.options["width"] == plan["width"] < 1
    assert recipe.network.random
    assert recipe.original.weights == "w.safetensors"
    assert "width" not in recipe.original.options
    assert recipe.method.quantize
    assert not recipe.method.plan
    assert plan["predicted"]["bytes"] <= plan["limits"]["bytes"]
    assert f"Plan: {plan['width']:g} of the channels, all layers dense" in told
    assert main(thin) == 0
    assert "going on from the plan in f.fit.json" in capsys.readouterr().out
    assert len(surveys) == 1


@needs_engine
def test_a_network_without_a_width_has_none_to_choose(surveys, capsys):
    thin = ["fit", "mlp", "--weights", "t.safetensors", "--method", "thin", "--budget", "bytes=0.2x", "-o", "f.yaml"]
    assert main(thin) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "the network 'mlp' has no option `width`; densenet121," in told
    assert not surveys


ESCALATE = "method.parameters.methods={block: {}, escalate: {}}"
RANKS = "method.parameters.ranks"
MIXED_RANKS = "method.parameters.methods={tucker: {ranks: {conv1: [999, 4]}}}"
STAGES = "method.parameters.methods={escalate: {}, penni: {}}"


@needs_engine
@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--method", "magic"], "no candidates for method 'magic'; known are tucker"),
        (["--method", "thin", "--margin", "0.2"], "the widest within the budget, without a rule or a margin"),
        (["--method", "thin", "--set", "method.parameters.density=0.5"], "method.parameters.density"),
        (["--method", "penni", "--set", "method.parameters.finish=auto"], "makes layers dense that fit has given"),
        (["--method", "penni", "--set", "method.parameters.init=pca_mean"], "a coefficient of every kernel"),
        (["--method", "mixed", "--set", STAGES], "escalate and penni have several phases each"),
        (["--method", "block", "--set", "method.parameters.epoch=3"], "did you mean 'method.parameters.epochs'"),
        (["--method", "block", "--set", "method.parameters.density=7"], "density 7"),
        (["--method", "block", "--set", "method.parameters.keep=[2, 4]"], "fit chooses layer by layer"),
        (["--method", "auto", "--set", "method.parameters.methods={thin: {}}"], "no candidates for method 'thin'"),
        (["--method", "tdc", "--set", f"{RANKS}=[0, 4]"], "method.parameters.ranks: give a mapping of names"),
        (["--method", "tdc", "--set", f"{RANKS}={{conv1: [0, 4]}}"], "ranks of 'conv1': tucker spec: rank_in must be"),
        (["--method", "tdc", "--set", f"{RANKS}={{conv1: 0}}"], "ranks of 'conv1': svd spec: rank must be"),
        (["--method", "tdc", "--set", f"{RANKS}={{conv1: [999, 4]}}"], "layer 'conv1': Tucker rank 999 of the input"),
        (["--method", "tucker", "--set", f"{RANKS}={{nobody: [4, 4]}}"], "no layer is called 'nobody'"),
        (["--method", "auto", "--set", MIXED_RANKS], "layer 'conv1': Tucker rank 999 of the input"),
        (["--method", "penni", "--set", "method.parameters.bases={nobody: 2}"], "no layer is called 'nobody'"),
        (["--method", "block", "--margin", "2"], "a margin of 2.0 is none"),
        (["--method", "block", "--budget", "bytes=0.5x,latency=0.5x", "--rule", "tdc"], "TDC's rule holds one limit"),
        (["--method", "block", "--budget", "cycles=3M"], "name one"),
        (["--method", "escalate", "--values", "f32"], "method escalate ends in whole numbers"),
        (["--method", "mixed", "--set", ESCALATE, "--values", "f32"], "method escalate ends in whole numbers"),
        (["--method", "block", "--against", "nobody"], "unknown peer 'nobody'"),
        (["--method", "block", "--case", "fit50"], "--case fit50: write <network>/<variant>"),
        (["--method", "block", "--set", "data.held_out=0"], "give data.held_out"),
        (["--method", "block", "--set", "network.options.width=0.5"], "do not fit the model"),
        (["--method", "block", "--set", "method.teacher={network: {name: nobody}}"], "unknown network 'nobody'"),
        (["--method", "block", "--costs", "costs.json"], "costs.json was measured elsewhere"),
    ],
    ids=lambda what: what if isinstance(what, str) else None,
)
def test_what_cannot_be_is_refused_before_anything_is_measured(surveys, tmp_path, capsys, more, message):
    table = {"version": 1, "machine": {"cpu": "another"}, "entries": {}}
    (tmp_path / "costs.json").write_text(json.dumps(table))
    budget = [] if "--budget" in more else ["--budget", "bytes=0.5x"]
    assert main([*FIT, *budget, "--accuracy-drop", "1", *more]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not surveys
    assert not (tmp_path / "f.fit.json").exists()


@needs_engine
def test_a_case_goes_through_the_recipe_into_what_the_network_says_of_itself(surveys):
    assert main([*BYTES, "--case", "resnet8_digits/fit15"]) == 0
    recipe = read(Path("f.yaml"), ())
    assert recipe.case == "resnet8_digits/fit15"
    assert describe(recipe, "f", opened().sets)["case"] == "resnet8_digits/fit15"
    assert main([*BYTES, "--case", "resnet8_digits/fit20"]) == 2


@needs_engine
def test_the_cpu_is_the_target(surveys, tmp_path):
    assert main([*BYTES, "--target", "cpu"]) == 0
    assert main(BYTES) == 0  # the same call
    assert len(surveys) == 1


@pytest.mark.parametrize("device", [False, True])
def test_a_gpu_is_no_target_yet(surveys, tmp_path, capsys, monkeypatch, device):
    monkeypatch.setattr("torch.cuda.is_available", lambda: device)
    assert main([*BYTES, "--target", "gpu"]) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert ("torch sees no CUDA device here" in told) != device
    assert "fit times layers on the CPU's engine alone so far" in told
    assert not surveys
    assert not (tmp_path / "f.fit.json").exists()


@needs_engine
def test_layers_are_told_in_the_seconds_of_the_plan(surveys, monkeypatch):
    call = opened()
    plan = call.choose(None)
    plan["survey"] |= {"scale": 3.0, "layers": dict.fromkeys(plan["survey"]["layers"], 1e-6)}
    names = list(plan["survey"]["layers"])
    profiled = []

    def layer_seconds(programs, image, named, threads):
        """A minute in which everything takes four times as long, and the packed layers half of the dense ones."""
        profiled.extend(programs)
        assert named == set(names)
        return [dict.fromkeys(names, 2e-6), dict.fromkeys(names, 4e-6)]

    raced = {"latency": 9e-3, "dense": 1e-2, "rival": "somebody", "rival_seconds": 18e-3}
    monkeypatch.setattr("dovetail.fitting.outcomes.layer_seconds", layer_seconds)
    monkeypatch.setattr("dovetail.fitting.outcomes.against_peers", lambda *_, **__: raced)
    packed = in_values(lower(call.model, torch.from_numpy(call.images[:1])), call.images, int8=True)
    achieved = call.achieved(plan, packed)
    assert achieved["layers"] == {name: pytest.approx(3.0 * 0.5e-6) for name in names}
    assert profiled[0] is packed
    assert len(profiled) == 2
    assert achieved["bytes"] == stored_bytes(packed)
    assert achieved["bounds"] == {"bytes": pytest.approx(0.15 * plan["survey"]["references"]["bytes"])}
    assert achieved["off"] == {"bytes": pytest.approx(stored_bytes(packed) / plan["predicted"]["bytes"] - 1)}
    assert achieved["used"] == {"bytes": pytest.approx(stored_bytes(packed) / achieved["bounds"]["bytes"])}
    assert achieved["kept"]["bytes"] is False  # nothing was trained: it is the dense network
    shown = call.note(plan, achieved)
    assert shown.achieved.kept == achieved["kept"]
