"""Layers that walk along time: torch's LSTM is the oracle, and every matrix is a layer that a plan can name."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dovetail.errors import DovetailError, InputError, SpecError
from dovetail.formats import FORMATS, SvdSpec
from dovetail.formats.layer import FormatLayer, appear, from_dense, pack, swap
from dovetail.formats.recurrent import FusedLstm, Lstm, Recurrent, walk, with_fused
from dovetail.methods.base import weight_layers
from samples import SAMPLES


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("inputs", "hidden", "steps"), [(5, 7, 9), (1, 1, 1), (16, 3, 2), (3, 12, 33)])
def test_it_is_torchs_lstm(inputs, hidden, steps, bias):
    theirs = nn.LSTM(inputs, hidden, bias=bias, batch_first=True).double()
    ours, short = (Lstm.from_torch(theirs, last=last) for last in (False, True))
    x = torch.randn(4, steps, inputs, dtype=torch.float64)
    begin = [torch.randn(4, hidden, dtype=torch.float64) for _ in range(2)]
    for given, states in ((None, ()), (tuple(each[None] for each in begin), begin)):
        want, (last, _) = theirs(x, given)
        assert torch.allclose(ours(x, states), want, rtol=0, atol=1e-12)
        assert torch.allclose(short(x, states), last[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("last", [False, True])
def test_in_one_matrix_it_is_the_same_function(last):
    layer = Lstm(5, 7, last=last).double()
    x, states = torch.randn(4, 9, 5, dtype=torch.float64), [torch.randn(4, 7, dtype=torch.float64) for _ in range(2)]
    for begin in ((), states):
        assert torch.allclose(layer.fused()(x, begin), layer(x, begin), rtol=0, atol=1e-12)


def test_lstms_of_dense_matrices_alone_are_fused():
    model = nn.Sequential(nn.Sequential(Lstm(5, 7)), Lstm(7, 7), nn.Linear(7, 2)).eval()
    model[1].x_f = from_dense(model[1].x_f, SvdSpec(rank=7))
    fused, x = with_fused(model), torch.randn(2, 3, 5)
    assert [type(layer) for layer in (fused[0][0], *fused[1:])] == [FusedLstm, Lstm, nn.Linear]
    assert isinstance(model[0][0], Lstm)
    assert torch.allclose(fused(x), model(x), atol=1e-6)
    assert isinstance(with_fused(model[0][0]), FusedLstm)
    assert with_fused(model[2]) is model[2]
    with pytest.raises(SpecError, match="not all of its eight are dense"):
        model[1].fused()


def test_with_dense_copies_of_its_matrices_any_lstm_is_fused():
    model, x = nn.Sequential(Lstm(5, 7)).eval(), torch.randn(2, 3, 5)
    model[0].x_f = from_dense(model[0].x_f, SvdSpec(rank=3))
    fused = with_fused(model, recompose=True)
    assert isinstance(fused[0], FusedLstm)
    assert torch.allclose(fused(x), model(x), atol=1e-6)
    assert isinstance(model[0].x_f, FormatLayer)


def test_in_float32_it_agrees_to_a_millionth():
    theirs = nn.LSTM(32, 128, batch_first=True)
    x = torch.randn(3, 64, 32)
    with torch.no_grad():
        assert (Lstm.from_torch(theirs)(x) - theirs(x)[0]).abs().max() < 1e-6


def test_its_gradients_are_those_of_differences():
    layer = Lstm(3, 4).double()
    x = torch.randn(2, 5, 3, dtype=torch.float64, requires_grad=True)
    names, parameters = zip(*layer.named_parameters(), strict=True)

    def run(x, *values):
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x,))

    assert len(names) == 12
    assert torch.autograd.gradcheck(run, (x, *parameters))


def test_the_eight_matrices_are_layers_by_name_of_which_four_have_a_bias():
    layers = weight_layers(nn.ModuleDict({"lstm": Lstm(3, 4)}))
    assert list(layers) == [f"lstm.{side}_{gate}" for side in "xh" for gate in "ifgo"]
    assert [layer.bias is not None for layer in layers.values()] == [True] * 4 + [False] * 4
    assert torch.equal(layers["lstm.x_f"].bias, torch.ones(4))


@pytest.mark.parametrize("format_name", [name for name in FORMATS if SAMPLES[name].linear])
def test_a_matrix_in_any_format_that_holds_it_changes_the_layer_as_its_dense_weight_does(format_name):
    for spec in SAMPLES[format_name].specs((16, 16)):
        layer, plain = Lstm(8, 16), Lstm(8, 16)
        plain.load_state_dict(layer.state_dict())
        made = from_dense(layer.h_g, spec)
        swap(nn.ModuleDict({"lstm": layer}), "lstm.h_g", made)
        plain.h_g.load_state_dict({"weight": torch.tensor(pack(made).dense())})
        x = torch.randn(2, 6, 8)
        assert torch.allclose(layer(x), plain(x), atol=1e-5)


def test_a_format_within_it_trains():
    layer = Lstm(4, 6)
    model = nn.Sequential(layer)
    swap(model, "0.h_i", from_dense(layer.h_i, SvdSpec(rank=2)))
    model(torch.randn(2, 5, 4)).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in layer.h_i.parameters())


@pytest.mark.parametrize("last", [True, False])
def test_factored_it_is_the_same_function(last):
    layer = Lstm(3, 5, last=last).eval()
    x = torch.randn(2, 7, 3)
    with torch.no_grad(), appear("factored"):
        scanned = layer(x)
    assert torch.allclose(scanned, layer(x), atol=1e-6)


@pytest.mark.filterwarnings("ignore:.*torch.jit.trace.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_where_torch_traces_its_steps_are_factored_and_unrolled():
    layer, x = Lstm(8, 8).eval(), torch.randn(1, 3, 8)
    layer.h_i = from_dense(layer.h_i, FORMATS["permuted_diagonal"].spec(size=4))
    with torch.no_grad(), appear("factored"):
        traced = torch.jit.trace(layer, x)
    assert str(traced.inlined_graph).count("aten::tanh") == 6
    assert "aten::scatter" not in str(traced.inlined_graph)
    assert torch.allclose(traced(x), layer(x), atol=1e-6)


def test_as_an_opaque_op_it_has_a_shape_but_no_numbers():
    layer = Lstm(3, 5)
    with appear("opaque"):
        assert layer.to("meta")(torch.empty(2, 7, 3, device="meta")).shape == (2, 7, 5)
        with pytest.raises(DovetailError, match="opaque op"):
            Lstm(3, 5)(torch.randn(2, 7, 3))


class Delay(Recurrent):
    """Puts out what it read two steps ago: the states change places."""

    def __init__(self, width):
        super().__init__((width, width))

    def sequences(self, x):
        return (x,)

    def step(self, steps, states):
        return states[1], steps[0]


def test_any_step_makes_a_layer():
    x = torch.randn(2, 5, 3)
    y = Delay(3)(x)
    assert torch.equal(y[:, 1:], x[:, :-1])
    assert not y[:, 0].any()
    assert torch.equal(walk(Delay(3).step, (x,), (x[:, 0], x[:, 1]), last=True), x[:, 3])


@pytest.mark.parametrize(
    ("x", "states", "message"),
    [
        (torch.zeros(2, 3), (), "takes sequences"),
        (torch.zeros(2, 0, 3), (), "of at least one step"),
        (torch.zeros(2, 5, 2), (), r"takes sequences \(N, T, 3\)"),
        (torch.zeros(2, 5, 3), (torch.zeros(2, 4),), "begins with states"),
        (torch.zeros(2, 5, 3), (torch.zeros(1, 4), torch.zeros(1, 4)), "begins with states"),
    ],
)
def test_other_inputs_are_refused(x, states, message):
    with pytest.raises(InputError, match=message):
        Lstm(3, 4)(x, states)


@pytest.mark.parametrize(("inputs", "hidden", "words"), [(0, 8, "inputs"), (4, 0, "hidden"), (4, 2.5, "hidden")])
def test_widths_that_are_none_are_refused(inputs, hidden, words):
    with pytest.raises(SpecError, match=f"an Lstm's {words} must be a whole number"):
        Lstm(inputs, hidden)


@pytest.mark.parametrize("options", [{"num_layers": 2}, {"bidirectional": True}, {"proj_size": 2}])
def test_other_lstms_of_torch_are_refused(options):
    with pytest.raises(SpecError, match="one layer in one direction"):
        Lstm.from_torch(nn.LSTM(3, 4, batch_first=True, **options))


def test_it_compiles_and_trains_as_it_is():
    layer = Lstm(3, 4)
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    x = torch.randn(2, 5, 3)
    assert torch.allclose(compiled(x), layer(x), atol=1e-6)
