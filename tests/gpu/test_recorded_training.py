"""Training on a GPU, with steps that are replayed as CUDA graphs."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch.nn import functional as F

from dovetail.api import compress
from dovetail.methods import Distill
from dovetail.training import Settings
from dovetail.training.recording import CudaRecording, Recorder
from method_samples import SAMPLES, batches, build

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings("default"),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA GPU here"),
]
RECORDED = ("block", "escalate", "magnitude", "tdc", "thin", "tucker")


def test_a_replay_gives_the_gradients_of_its_own_batch_and_weights():
    """Every step again as it is, on the same weights, which move in place; a batch of another shape between them."""
    data = [(images.to("cuda"), labels.to("cuda")) for images, labels in batches()]
    model = build().to("cuda").train()
    beside = torch.zeros(3, device="cuda", requires_grad=True)  # a parameter that is not the model's
    parameters = [*model.parameters(), beside]
    optimizer = torch.optim.SGD(parameters, lr=0.05)

    def work(batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(batch[0]) + beside, batch[1])
        loss.backward()
        return loss

    recorder = Recorder(model, partial(CudaRecording, lambda: parameters))
    with torch.cuda.stream(torch.cuda.Stream()), pytest.MonkeyPatch.context() as patch:
        patch.setattr(F, "dropout", lambda x, *_: x)
        for number in range(20):
            images, labels = data[number % 5]
            batch = (images[:5], labels[:5]) if number == 12 else (images, labels)
            got, gradients = recorder.run(work, batch, ()), [parameter.grad.clone() for parameter in parameters]
            want = work(batch)
            assert torch.allclose(got, want, rtol=1e-4), number
            for gradient, parameter in zip(gradients, parameters):
                assert torch.allclose(gradient, parameter.grad, rtol=1e-3, atol=1e-6), number
            optimizer.step()
    assert not recorder.refused


def test_what_cannot_be_captured_runs_as_it_is(caplog):
    """A norm without a momentum reads the number of its batches."""
    model, data = build(), [(images.to("cuda"), labels.to("cuda")) for images, labels in batches()]
    model.bn.momentum = None
    done = compress(model.to("cuda"), SAMPLES["thin"](), train=data, settings=Settings(seed=3))
    assert done.history.records
    assert "steps run as they are, not recorded" in caplog.text


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
