"""Peers whose linear layers have weights of 4 bits: named alone, near the truth, and small."""

from __future__ import annotations

import importlib
import importlib.util
import json

import numpy as np
import pytest
import torch
from torch import nn

from dovetail.errors import PeerError
from dovetail.peers import PEERS, Source
from dovetail.peers.peer import DEFAULT

FOUR_BITS = [name for name, peer in PEERS.items() if peer.dtype == "int4"]


def test_they_race_where_they_are_asked_for_alone() -> None:
    assert FOUR_BITS == ["onnxruntime-int4", "openvino-int4"]
    assert not set(FOUR_BITS) & set(DEFAULT)


@pytest.mark.slow
@pytest.mark.parametrize(("inputs", "bias"), [(256, True), (256, False), (216, True)])
@pytest.mark.parametrize("name", FOUR_BITS)
def test_weights_take_four_bits_and_the_outputs_stay(name: str, inputs: int, bias: bool, tmp_path) -> None:
    peer = PEERS[name]
    if missing := [need for need in peer.needs if importlib.util.find_spec(need) is None]:
        pytest.skip(f"not installed: {', '.join(missing)}")
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(inputs, 192, bias=bias), nn.ReLU()).eval(), torch.randn(1, inputs)
    target = peer.target(Source(model, x), tmp_path)
    runner = importlib.import_module(target.module).load(threads=1, **json.loads(json.dumps(target.arguments)))
    runner.bind(x.numpy())
    runner.run()
    (y,), want = runner.outputs(), model(x).detach().numpy()
    assert 1e-4 < np.abs(y - want).max() / np.ptp(want) < 0.1  # other weights than those of float32, but near them
    stored = max(file.stat().st_size for file in tmp_path.glob("*int4*"))
    assert stored < inputs * 192 * 4 / 3


@pytest.mark.slow
def test_a_network_without_linear_layers_is_refused(tmp_path) -> None:
    model, x = nn.Conv2d(3, 4, 3).eval(), torch.randn(1, 3, 5, 5)
    with pytest.raises(PeerError, match="no linear layer"):
        PEERS["onnxruntime-int4"].target(Source(model, x), tmp_path)
