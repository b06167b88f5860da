"""How format layers appear in graphs, and the registry without torch."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import dovetail.formats
from dovetail.errors import DovetailError, InputError, SpecError
from dovetail.formats import FORMATS, KernelBasisSpec, SparseSpec, SvdSpec, TuckerSpec
from dovetail.formats import layer as layers


@pytest.fixture
def model():
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=2, padding=(2, 1), dilation=2),
        nn.ReLU(),
        nn.Conv2d(6, 4, 3, padding="same", bias=False),
        nn.Conv2d(4, 5, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(5, 2),
    )
    specs = {
        "0": KernelBasisSpec(bases=3),
        "2": TuckerSpec(rank_in=2, rank_out=3),
        "3": SvdSpec(rank=2),
        "6": SparseSpec(density=0.5),
    }
    for name, spec in specs.items():
        layers.swap(model, name, layers.from_dense(model.get_submodule(name), spec, name))
    return model.eval()


def export(model, x):
    shapes = ({0: torch.export.Dim("batch", min=1, max=64)},)
    return torch.export.export(model, (x,), dynamic_shapes=shapes)


def opaque_nodes(program):
    return [node for node in program.graph.nodes if node.target is torch.ops.dovetail.format_layer.default]


def test_opaque_layers_are_one_op_that_names_them(model):
    x = torch.randn(2, 3, 9, 11)
    shapes, hooks = {}, []
    for name, module in model.named_children():
        hooks.append(module.register_forward_hook(lambda _m, _i, y, name=name: shapes.update({name: tuple(y.shape)})))
    model(x)
    for hook in hooks:
        hook.remove()
    with layers.appear("opaque"):
        nodes = opaque_nodes(export(model, x))
    assert [node.args[1] for node in nodes] == ["0", "2", "3", "6"]
    for node in nodes:
        assert tuple(node.meta["val"].shape)[1:] == shapes[node.args[1]][1:]
        assert isinstance(node.meta["val"].shape[0], torch.SymInt)
    assert list(nodes[0].args[2:]) == [[6, 3, 3], [2, 2], [2, 1], [2, 2]]
    assert list(nodes[3].args[2:]) == [[2], [], [], []]


def test_nothing_leaks_out_of_the_context(model):
    x = torch.randn(2, 3, 9, 11)
    before = model(x)
    with layers.appear("opaque"):
        export(model, x)
    assert torch.equal(model(x), before)
    with pytest.raises(RuntimeError, match="stop"), layers.appear("opaque"):
        raise RuntimeError("stop")
    assert torch.equal(model(x), before)
    assert not opaque_nodes(export(model, x))


def test_contexts_nest(model):
    x = torch.randn(2, 3, 9, 11)
    with layers.appear("opaque"):
        with layers.appear("train"):
            inside = model(x)
        assert len(opaque_nodes(export(model, x))) == 4
    assert torch.equal(inside, model(x))


def test_an_opaque_layer_has_no_numbers(model):
    with layers.appear("opaque"), pytest.raises(DovetailError, match="'0'"):
        model(torch.randn(2, 3, 9, 11))
    with layers.appear("opaque"), torch.device("meta"):
        shape = model.to("meta")(torch.randn(2, 3, 9, 11)).shape
    assert shape == (2, 2)


def test_an_opaque_convolution_wants_a_batch(model):
    with layers.appear("opaque"), pytest.raises(InputError, match="'0'"):
        model[0].to("meta")(torch.empty(3, 9, 11, device="meta"))


def test_factored_graph_has_only_standard_ops(model):
    x = torch.randn(2, 3, 9, 11)
    with layers.appear("factored"):
        program = export(model, x)
    targets = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert all(target.startswith("aten.") for target in targets)
    assert sum("conv2d" in target for target in targets) == 2 + 3 + 2
    assert torch.allclose(program.module()(torch.cat([x, x]))[:2], model(x), atol=1e-5)


@pytest.mark.parametrize(
    "name, message", [("", "nn.Sequential"), ("9", "no layer '9'"), ("body.0", "no layer 'body.0'")]
)
def test_swapping_needs_a_layer_of_that_name(model, name, message):
    before = list(model.modules())
    with pytest.raises(SpecError, match=message):
        layers.swap(model, name, nn.Identity())
    assert all(a is b for a, b in zip(before, model.modules(), strict=True))


def test_linear_layers_take_sequences():
    dense = nn.Linear(5, 4)
    x = torch.randn(2, 7, 5)
    for spec in (SvdSpec(rank=4), SparseSpec()):
        layer = layers.from_dense(dense, spec)
        assert torch.allclose(layer(x), dense(x), atol=1e-5)
        layer.name = "head"
        with layers.appear("opaque"):
            (node,) = opaque_nodes(torch.export.export(nn.Sequential(layer), (x,)))
        assert tuple(node.meta["val"].shape) == (2, 7, 4)


@pytest.mark.parametrize(
    "layer, message",
    [
        (nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), "reflect"),
        (nn.Conv2d(4, 4, 2, padding="same"), "even kernel"),
        (nn.Conv1d(4, 4, 3), "Conv1d"),
        (nn.BatchNorm2d(4), "BatchNorm2d"),
    ],
)
def test_layers_that_no_format_holds(layer, message):
    with pytest.raises(SpecError, match=message):
        layers.from_dense(layer, SparseSpec(), "conv1")


def test_no_random_numbers_are_drawn_by_compressing():
    dense = nn.Conv2d(4, 4, 3)
    state = torch.get_rng_state()
    layer = layers.from_dense(dense, KernelBasisSpec(bases=2))
    layers.from_packed(dense, layer.pack())
    layer.to_dense()
    assert torch.equal(torch.get_rng_state(), state)


def test_every_folder_is_registered():
    folder = Path(dovetail.formats.__file__).parent
    assert set(FORMATS) == {path.parent.name for path in folder.glob("*/spec.py")}
    for made in FORMATS.values():
        assert callable(made.layer.from_dense)
        assert callable(made.layer.from_packed)


def test_formats_need_no_torch():
    code = (
        "import sys; sys.modules['torch'] = None; import numpy as np; "
        "from dovetail.formats import FORMATS, SparseSpec; "
        "FORMATS['sparse'].packed.from_dense(np.eye(3), SparseSpec()).validate(); print(*sorted(FORMATS))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == sorted(FORMATS)


def test_a_name_is_registered_once():
    with pytest.raises(SpecError, match="already"):
        dovetail.formats.base.register(FORMATS["dense"].spec, FORMATS["dense"].packed)
