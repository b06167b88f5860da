"""What every competitor is given to work from."""

from __future__ import annotations

import fake_targets
import numpy as np
import pytest
import torch
from torch import nn

from dovetail.engine.quantize import quantize
from dovetail.export.torch_module import to_torch
from dovetail.formats import SvdSpec
from dovetail.formats.layer import from_dense, swap
from dovetail.formats.recurrent import FusedLstm, Lstm
from dovetail.peers import Peer, Source
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
