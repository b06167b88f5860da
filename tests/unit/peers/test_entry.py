"""What every competitor is given to work from."""

from __future__ import annotations

import fake_targets
import numpy as np
import pytest
import torch
from torch import nn

from dovetail.engine.quantize import quantize
from dovetail.export.torch_module import to_torch
from dovetail.formats import FORMATS, SvdSpec
from dovetail.formats.layer import appearance, from_dense, swap
from dovetail.formats.permuted_diagonal import PermutedDiagonalSpec
from dovetail.formats.recurrent import FusedLstm, Lstm
from dovetail.peers import PEERS, Peer, Source, onnx_runtime
from dovetail.peers.entry import Entry
from dovetail.program.lower import lower
from dovetail.zoo.lstm import lstm_with_state

IMAGES = np.random.default_rng(0).standard_normal((5, 3, 6, 6), dtype=np.float32)


def test_int8_peers_calibrate_our_network_on_the_same_images_as_the_original(tmp_path, monkeypatch):
    sources: dict[str, Source] = {}

    def export(source, folder, dtype):
        sources[source.name] = source
        return {}

    monkeypatch.setattr(fake_targets, "export", export, raising=False)
    original, ours = (nn.Conv2d(3, 8, 3), nn.Conv2d(3, 8, 3))
    program = quantize(lower(ours.eval(), torch.from_numpy(IMAGES[:1])), [IMAGES])
    entry = Entry.open(program, original, ours, data=[IMAGES], test=None, example=None, batch=2)
    peer = Peer("whole", "int8", "fake_targets", ("json",))
    targets, absent = entry.targets([peer], tmp_path, lambda _: None)
    assert absent == {}
    assert [target.name for target in targets] == ["dovetail", "dovetail-dense", "whole", "whole-same"]
    assert np.array_equal(sources["original"].calibration, IMAGES[:4])
    assert np.array_equal(sources["compressed"].calibration, IMAGES[:4])


@pytest.mark.parametrize("dense", [True, False])
def test_peers_run_an_lstm_as_they_know_it_where_its_matrices_are_dense(tmp_path, monkeypatch, dense):
    """A compressed one keeps its structure; a packed one is as good as any."""
    sources: dict[str, Source] = {}
    monkeypatch.setattr(
        fake_targets, "export", lambda source, *_: sources.setdefault(source.name, source) and {}, raising=False
    )
    network, sequences = lstm_with_state(8).eval(), np.ones((1, 5, 8), np.float32)
    original = to_torch(lower(network, torch.from_numpy(sequences)))
    if not dense:
        swap(network, "lstm.h_f", from_dense(network.lstm.h_f, SvdSpec(rank=2)))
    program = lower(network, torch.from_numpy(sequences))
    entry = Entry.open(program, original, to_torch(program), data=None, test=None, example=sequences, batch=1)
    _, absent = entry.targets([Peer("whole", "f32", "fake_targets", ("json",))], tmp_path, lambda _: None)
    assert absent == {}
    assert isinstance(sources["original"].model.lstms["lstm"], FusedLstm)
    assert isinstance(sources["compressed"].model.lstms["lstm"], FusedLstm if dense else Lstm)
    assert set(sources) == {"original", "compressed"} | (
        set() if dense else {"compressed-factored", "compressed-fused"}
    )
    if not dense:
        assert isinstance(sources["compressed-factored"].model.lstms["lstm"], Lstm)
        assert isinstance(sources["compressed-fused"].model.lstms["lstm"], FusedLstm)


def packed_net(specs, width=24):
    """Linear layers, each from `width` numbers to as many, with those formats."""
    model = nn.Sequential(*(nn.Linear(width, width) for _ in specs)).eval()
    for number, spec in enumerate(specs):
        swap(model, str(number), from_dense(model[number], spec))
    return model


PLAIN = {"whole": ("original", "train"), "whole-same": ("compressed", "train")}
FACTORED = PLAIN | {"whole-same-factored": ("compressed", "factored")}


@pytest.mark.parametrize(
    ("specs", "wanted"),
    [
        ([SvdSpec(rank=2)], PLAIN),
        ([PermutedDiagonalSpec(size=4, index="searched")], PLAIN),
        ([SvdSpec(rank=2), PermutedDiagonalSpec(size=4)], FACTORED),
        ([FORMATS["kernel_basis"].spec(bases=1)], FACTORED),
    ],
    ids=["low rank", "searched", "natural", "basis"],
)
def test_peers_get_our_network_in_its_factored_form_too_where_that_differs(tmp_path, monkeypatch, specs, wanted):
    found = []
    monkeypatch.setattr(fake_targets, "export", lambda *_: found.append(appearance()) or {}, raising=False)
    model, x = packed_net(specs), np.ones((1, 24), np.float32)
    program = lower(model, torch.from_numpy(x))
    entry = Entry.open(program, nn.Linear(24, 24), model, data=None, test=None, example=x, batch=1)
    targets, absent = entry.targets([Peer("whole", "f32", "fake_targets", ("json",))], tmp_path, lambda _: None)
    assert absent == {}
    exported = [target for target in targets if target.module == "fake_targets"]
    assert {one.name: (one.reference, how) for one, how in zip(exported, found, strict=True)} == wanted


def exported_to_onnxruntime(original, ours, x, folder):
    """Name of target → the ONNX file that it got; each computes what `ours` does."""
    onnx, _ = (pytest.importorskip(name) for name in ("onnx", "onnxruntime"))
    entry = Entry.open(lower(ours, torch.from_numpy(x)), original, ours, data=None, test=None, example=x, batch=len(x))
    targets, absent = entry.targets([PEERS["onnxruntime"]], folder, lambda _: None)
    assert absent == {}
    found = {target.name: target for target in targets if target.name.startswith("onnxruntime-same")}
    for target in found.values():
        runner = onnx_runtime.load(1, **target.arguments)
        runner.bind(x)
        runner.run()
        assert np.allclose(runner.outputs()[0], ours(torch.from_numpy(x)).detach(), atol=1e-5)
    return {name: onnx.load(target.arguments["path"]) for name, target in found.items()}


def test_the_factored_file_of_permuted_diagonals_holds_no_matrix_of_the_dense_shape(tmp_path):
    ours, x = packed_net([PermutedDiagonalSpec(size=4)]), np.ones((2, 24), np.float32)
    files = exported_to_onnxruntime(nn.Linear(24, 24), ours, x, tmp_path)
    assert set(files) == {"onnxruntime-same", "onnxruntime-same-factored"}
    graph = files["onnxruntime-same-factored"].graph
    assert max(np.prod(array.dims) for array in graph.initializer) == 24 * 24 / 4
    assert not {"ScatterElements", "Gemm", "Pad"} & {node.op_type for node in graph.node}


def test_a_compressed_lstm_is_unrolled_a_scan_and_fused(tmp_path):
    network, x = lstm_with_state(8).eval(), np.ones((1, 5, 8), np.float32)
    for name in ("lstm.h_f", "lstm.x_g"):
        swap(network, name, from_dense(network.lstm.get_submodule(name[5:]), PermutedDiagonalSpec(size=4)))
    files = exported_to_onnxruntime(lstm_with_state(8).eval(), network, x, tmp_path)
    kinds = {name: [node.op_type for node in file.graph.node] for name, file in files.items()}
    assert {name: (kind.count("Scan"), kind.count("LSTM")) for name, kind in kinds.items()} == {
        "onnxruntime-same": (0, 0),
        "onnxruntime-same-factored": (1, 0),
        "onnxruntime-same-fused": (0, 1),
    }
    (scan,) = (node for node in files["onnxruntime-same-factored"].graph.node if node.op_type == "Scan")
    (body,) = (part.g for part in scan.attribute if part.name == "body")
    assert "ScatterElements" not in {node.op_type for node in body.node}
