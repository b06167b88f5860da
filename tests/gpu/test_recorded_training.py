"""Training on a GPU, with steps that are replayed as CUDA graphs."""

from __future__ import annotations

import pytest
import torch

from dovetail.api import compress
from dovetail.methods import Distill
from dovetail.training import Settings
from dovetail.training.recording import CudaRecording
from method_samples import SAMPLES, batches, build

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings("default"),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA GPU here"),
]
RECORDED = ("block", "escalate", "magnitude", "tdc", "thin", "tucker")


def trained(name: str, record: bool, precision: str) -> tuple[torch.nn.Module, list[float]]:
    data = [(images.to("cuda"), labels.to("cuda")) for images, labels in batches()]
    data.append((data[0][0][:5], data[0][1][:5]))
    model = build().to("cuda")
    settings = Settings(seed=3, record=record, precision=precision, channels_last=True)
    done = compress(model, Distill(SAMPLES[name](), build()), train=data, validate=data, settings=settings)
    return model, [record.loss for record in done.history.records]


@pytest.mark.parametrize("precision", ["f32", "bf16"])
@pytest.mark.parametrize("name", RECORDED)
def test_replayed_steps_train_as_others_do(name, precision, monkeypatch):
    replays = []
    replay = CudaRecording.replay
    monkeypatch.setattr(CudaRecording, "replay", lambda self, batch: replays.append(1) or replay(self, batch))
    monkeypatch.setattr(torch.nn.functional, "dropout", lambda x, *args: x)  # its draws differ in a graph
    plain, want = trained(name, False, precision)
    assert not replays
    model, got = trained(name, True, precision)
    assert len(replays) > 3
    assert got == pytest.approx(want, rel=0.02 if precision == "f32" else 0.1)
    for key, tensor in plain.state_dict().items():
        if tensor.is_floating_point() and precision == "f32" and name in ("thin", "tucker"):
            assert torch.allclose(model.state_dict()[key], tensor, atol=0.02), key
