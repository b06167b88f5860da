"""A recording of a training step without a GPU: traced once and run again, with the semantics of a CUDA graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from dovetail.training.loop import Run
from dovetail.training.recording import Recorder, Work

Batch = tuple[Tensor, Tensor]


class Traced:
    """What `CudaRecording` is on a GPU: tensors that the step saw are read and written where they lie, and numbers of
    Python, branches and all else that is not an operation of torch stay as they were when it was recorded."""

    counts: ClassVar[Counter[str]] = Counter()

    def __init__(self, model: nn.Module, parameters: Callable[[], list[Tensor]], work: Work, batch: Batch) -> None:
        self.counts["recorded"] += 1
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}

        def step(images: Tensor, labels: Tensor) -> tuple[Tensor, list[Tensor | None]]:
            loss = work((images, labels))
            return loss.detach(), [parameter.grad for parameter in parameters()]

        random = torch.get_rng_state()
        self.graph = make_fx(step)(*batch)  # runs it once, which a recording does not
        torch.set_rng_state(random)
        model.load_state_dict(before)
        self.parameters = parameters()

    @torch.no_grad()
    def replay(self, batch: Batch) -> Tensor:
        self.counts["replayed"] += 1
        loss, gradients = self.graph(*batch)
        for parameter, gradient in zip(self.parameters, gradients):
            parameter.grad = gradient
        return loss


def record_all(monkeypatch) -> Counter[str]:
    """From now on trainings record steps, though there is no GPU; counts what was recorded and replayed."""
    begin = Run.__init__

    def recorded(self, model, *args, **kwargs) -> None:
        begin(self, model, *args, **kwargs)
        self.recorder = Recorder(model, partial(Traced, model, self._trained))

    monkeypatch.setattr(Run, "__init__", recorded)
    Traced.counts.clear()
    return Traced.counts
