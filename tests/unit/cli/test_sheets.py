"""Sheets: what they may say, and that every committed one makes the networks that its cases promise."""

from __future__ import annotations

import fnmatch
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from dovetail import zoo
from dovetail.cli import random_networks, sheets
from dovetail.cli.pipeline import given_plan
from dovetail.errors import RecipeError, SpecError
from dovetail.methods.base import Kept
from dovetail.peers.engine import dtype_of
from dovetail.program.counts import count
from dovetail.program.reference import run

SMALL = {
    "network": {"name": "resnet8", "options": {"width": 0.5}},
    "input": [3, 8, 8],
    "variants": {
        "dense": {},
        "int8": {"values": "int8"},
        "sparse90": {"layers": {"layer*.conv*": {"format": "sparse", "density": 0.1}}},
        "block85": {"values": "int8", "layers": {"layer*.conv*": {"format": "block_sparse", "density": 0.15}}},
        "first": {"part": "layer1", "layers": {"layer1.*": {"format": "tucker", "rank_in": 4, "rank_out": 4}}},
    },
}
SHEETS = sheets.listed()
CASES = [case for path in SHEETS for case in sheets.cases(path.stem)]


@pytest.fixture
def sheet(tmp_path):
    """`sheet(**changes)` is the path of a small sheet."""

    def write(**changes) -> Path:
        path = tmp_path / "small.yaml"
        path.write_text(yaml.safe_dump(SMALL | changes, sort_keys=False))
        return path

    return write


def case_of(path: Path, variant: str) -> sheets.Case:
    (case,) = sheets.cases(f"{path}/{variant}")
    return case


def test_a_sheet_is_one_case_a_variant(sheet, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = sheet()
    assert [case.name for case in sheets.cases(str(path))] == [f"small/{name}" for name in SMALL["variants"]]
    (again,) = sheets.cases(case_of(path, "int8").word)
    assert (again.name, again.sheet) == ("small/int8", case_of(path, "int8").sheet)


def test_the_word_for_a_committed_case_is_its_name():
    (case,) = sheets.cases("resnet20_cifar/sparse90")
    assert case.word == case.name == "resnet20_cifar/sparse90"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet20_cifar/spars90", "did you mean 'sparse90'"),
        ("resnet20_cifa", "no sheet 'resnet20_cifa' in .*did you mean 'resnet20_cifar'"),
        ("nowhere.yaml", "there is no sheet nowhere.yaml"),
    ],
)
def test_unknown_names_are_refused_with_the_nearest(name, message):
    with pytest.raises(RecipeError, match=message):
        sheets.cases(name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"varants": {}}, "unknown key 'varants'; did you mean 'variants'"),
        ({"variants": {}}, "variants: "),
        ({"variants": {"a": {"value": "int8"}}}, "unknown key 'variants.a.value'; did you mean 'variants.a.values'"),
        ({"variants": {"a": {"values": "int4"}}}, "variants.a.values: .*'int8'"),
        ({"variants": {"a": {"layers": {"conv1": 3}}}}, "layer 'conv1' has 3; give a spec"),
        ({"variants": {"a": {"beside": "b"}, "c": {}}}, "a cannot race beside 'b'; the other variants are c"),
        ({"variants": {"a": {"beside": "a"}, "c": {}}}, "a cannot race beside 'a'; the other variants are c"),
        ({"variants": {"a": {"beside": "c"}, "c": {"zeros": 0.5}}}, "a and c, beside it, differ in part, zeros"),
        ({"peers": ["onnxruntime-int5"]}, "peers: .*unknown peer 'onnxruntime-int5'; known are .*onnxruntime-int4"),
        ({"network": {"name": "resnet8", "weights": "w.safetensors"}}, "the weights of a sheet are random"),
        ({"network": {"name": "resnet8", "trained": "dense-resnet8"}}, "the weights of a sheet are random"),
    ],
)
def test_a_sheet_that_says_something_else_is_told(sheet, change, message):
    with pytest.raises(RecipeError, match=message):
        sheets.cases(str(sheet(**change)))


def test_codes_of_four_bits_race_beside_the_same_numbers_in_floating_point():
    (case,) = sheets.cases("fc_4096x9216/permdnn_p10_4bit")
    beside = case.beside
    assert beside is not None
    assert (beside.name, beside.beside) == ("fc_4096x9216/permdnn_p10", None)
    (book,), (plain,) = (one.what.layers.values() for one in (case, beside))
    assert {**book, "values": "f32"} == {"values": "f32", **plain}


def test_what_is_made_is_what_the_variant_says(sheet):
    path = sheet()
    dense, int8, sparse, block = (
        random_networks.make(case_of(path, variant)) for variant in ("dense", "int8", "sparse90", "block85")
    )
    assert [dtype_of(made.program) for made in (dense, int8, sparse, block)] == ["f32", "int8", "f32", "int8"]
    assert [made.compressed is None for made in (dense, int8, sparse, block)] == [True, True, False, False]
    weights = sparse.program.weights
    pruned = [name for name in weights if name.startswith("layer")]
    assert [round(weights[name].nonzeros() / np.prod(weights[name].shape), 2) for name in pruned] == [0.1] * 6
    assert {weights[name].spec.format for name in weights if name not in pruned} == {"dense"}
    assert count(block.program).nonzeros < 0.25 * count(int8.program).nonzeros


def test_the_same_sheet_makes_the_same_network_and_another_seed_another(sheet):
    first, again = (random_networks.make(case_of(sheet(), "sparse90")) for _ in range(2))
    other = random_networks.make(case_of(sheet(seed=1), "sparse90"))
    weights = [made.program.weights["layer2.0.conv2"].dense() for made in (first, again, other)]
    assert np.array_equal(weights[0], weights[1])
    assert np.array_equal(first.images, again.images)
    assert not np.array_equal(weights[0], weights[2])


def test_zeros_are_a_part_of_the_inputs_and_leave_the_others(sheet):
    path = sheet(variants={"all": {}, "some": {"zeros": 0.75}})
    full, some = (random_networks.random_images(case_of(path, variant)) for variant in ("all", "some"))
    assert np.array_equal(some[some != 0], full[some != 0])
    assert (some == 0).mean() == pytest.approx(0.75, abs=0.02)


def test_our_torch_network_is_the_program_and_the_original_is_dense(sheet):
    made = random_networks.make(case_of(sheet(), "sparse90"))
    x = torch.from_numpy(made.images[:2])
    with torch.no_grad():
        np.testing.assert_allclose(made.compressed(x), run(made.program, made.images[:2]), rtol=1e-3, atol=1e-4)
        assert not np.allclose(made.original(x), made.compressed(x), atol=1e-2)
    dense = random_networks.make(case_of(sheet(), "dense"))
    with torch.no_grad():
        np.testing.assert_array_equal(made.original(x), dense.original(x))


def test_numbers_neither_vanish_nor_explode_on_their_way(sheet):
    network = {"name": "mobilenetv2", "options": {"classes": 10}}
    made = random_networks.make(case_of(sheet(network=network, input=[3, 32, 32]), "dense"))
    seen: list[float] = []
    for module in made.original.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_hook(lambda *args: seen.append(float(args[2].std())))
    with torch.no_grad():
        made.original(torch.from_numpy(made.images[:8]))
    assert len(seen) > 50
    assert 0.3 < min(seen) < max(seen) < 3


def test_a_part_races_alone(sheet):
    made = random_networks.make(case_of(sheet(input=[8, 8, 8]), "first"))
    assert {packed.spec.format for packed in made.program.weights.values()} == {"tucker"}
    assert isinstance(made.original, nn.Sequential)
    with pytest.raises(RecipeError, match=r"no part 'layer9'; it has conv1, .*layer1"):
        random_networks.make(case_of(sheet(variants={"first": {"part": "layer9"}}), "first"))


def test_a_variant_may_build_and_feed_the_network_in_its_own_way(sheet):
    path = sheet(variants={"usual": {}, "wide": {"options": {"width": 1.0}, "input": [3, 12, 12]}})
    usual, wide = (random_networks.make(case_of(path, variant)) for variant in ("usual", "wide"))
    assert [made.images.shape[1:] for made in (usual, wide)] == [(3, 8, 8), (3, 12, 12)]
    first = [made.program.weights["conv1"].shape[0] for made in (usual, wide)]
    assert first == [8, 16]


def test_a_sheet_says_only_how_it_differs_from_its_base(sheet, tmp_path):
    sheet()
    path = tmp_path / "wide.yaml"
    path.write_text("base: small\nvalues: int8\nvariants: {dense: {values: f32}, wide: {options: {width: 1.0}}}\n")
    found = {case.variant: case.values for case in sheets.cases(str(path))}
    assert found == {**dict.fromkeys(SMALL["variants"], "int8"), "dense": "f32", "wide": "int8"}
    made = random_networks.make(case_of(path, "wide"))
    assert made.program.weights["conv1"].shape[0] == 16
    assert made.program.weights["conv1"].integers() is not None
    assert random_networks.make(case_of(path, "dense")).program.weights["conv1"].integers() is None
    path.write_text("base: smal\n")
    with pytest.raises(RecipeError, match=r"there is no sheet .*smal\.yaml"):
        sheets.read(path)


def test_a_layer_that_does_not_exist_is_refused(sheet):
    layers = {"conv9": {"format": "sparse", "density": 0.5}}
    with pytest.raises(SpecError, match="no layer is called 'conv9'"):
        random_networks.make(case_of(sheet(variants={"a": {"layers": layers}}), "a"))


def test_the_committed_sheets_are_the_networks_of_the_plan():
    assert {path.stem for path in SHEETS} == {
        "resnet18_224", "resnet18_cifar", "resnet50_224", "vgg16_224", "densenet121_224", "squeezenet_224",
        "mobilenetv2_224", "resnet20_cifar", "resnet56_cifar", "fc_4096x9216", "fc_4096x4096", "fc_2048x2048",
        "lstm_1024", "tucker_core", "tucker_core_int8",
    }  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_committed_case_fits_its_network(case):
    with torch.device("meta"):
        model = zoo.build(case.built.name, **case.built.options)
    given = given_plan(case.what.layers)
    plan = {} if given is None else given.resolve(model)
    assert case.what.part is None or all(fnmatch.fnmatch(name, f"{case.what.part}.*") for name in plan)
    for name, spec in plan.items():
        layer = model.get_submodule(name)
        assert isinstance(layer, nn.Linear) or tuple(layer.kernel_size) == (3, 3)
        if not isinstance(spec, Kept):
            spec.check(tuple(layer.weight.shape), name)


@pytest.mark.parametrize("name", ["sparse90", "sparse95", "block85", "block92"])
def test_pruned_cases_prune_every_3x3_layer_but_stems_without_blocks(name):
    for case in CASES:
        if case.variant.removesuffix("_convs") != name:
            continue
        with torch.device("meta"):
            model = zoo.build(case.built.name, **case.built.options)
        plan = complete_plan(model, case)
        kept = [n for n, what in plan.items() if isinstance(what, Kept)]
        stems = {n for n in kept if tuple(getattr(model.get_submodule(n), "kernel_size", ())) == (3, 3)}
        assert stems <= ({"conv1", "features.0"} if name.startswith("block") else set()), case.name
        densities = {what.density for what in plan.values() if not isinstance(what, Kept)}
        assert densities == {round(1 - int(name[-2:]) / 100, 2)}


def complete_plan(model: nn.Module, case: sheets.Case):
    found = given_plan(case.what.layers).resolve(model)
    rest = [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear) and n not in found]
    return found | dict.fromkeys(rest, Kept(""))


@pytest.mark.parametrize(
    ("name", "dense", "tucker"),
    [
        ("resnet18_224/tucker_tdc", 1.814, 0.786),
        ("resnet50_224/tucker_tdc", 4.089, 2.583),
        ("vgg16_224/tucker_tdc_convs", 15.347, 3.322),
        ("densenet121_224/tucker_tdc", 2.834, 2.075),
    ],
)
def test_tdc_ranks_leave_the_work_that_its_formulas_give(name, dense, tucker):
    """Multiply-accumulates of one image in thousand millions, worked out by hand for the shipped ranks."""
    (case,) = sheets.cases(name)
    with torch.device("meta"):
        model = zoo.build(case.built.name, **case.built.options).eval()
        uses = positions(model, torch.zeros(1, *case.input), case.what.part or "")
    plan = given_plan(case.what.layers).resolve(model)
    before = sum(layer.weight.numel() * outputs for layer, _, outputs in uses.values())
    after = before
    for layer_name, spec in plan.items():
        layer, inputs, outputs = uses[layer_name]
        (k, c), (d1, d2) = layer.weight.shape[:2], (spec.rank_in, spec.rank_out)
        after += c * d1 * inputs + 9 * d1 * d2 * outputs + d2 * k * outputs - 9 * c * k * outputs
    assert (round(before / 1e9, 3), round(after / 1e9, 3)) == (dense, tucker)


def positions(model: nn.Module, x: torch.Tensor, part: str) -> dict[str, tuple[nn.Module, int, int]]:
    """Layer → itself, and the pixels that it reads and writes; a linear layer has one of each."""
    found: dict[str, tuple[nn.Module, int, int]] = {}
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear) and name.startswith(part):
            layer.register_forward_hook(
                lambda layer, args, y, name=name: found.update({name: (layer, args[0][0, 0].numel(), y[0, 0].numel())})
            )
    model(x)
    return found
