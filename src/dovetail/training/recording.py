"""A training step recorded once on a GPU and then replayed: a small network waits for its launches, not for the GPU."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Hashable, Iterable
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from dovetail.training.batches import Batch

log = logging.getLogger("dovetail.training")
WARM = 3
"""Steps before a recording: libraries choose their kernels and get their memory in the first ones."""

Work = Callable[[Batch], Tensor]


class Recording(Protocol):
    """A step that can be run again on other batches of the same shape."""

    def replay(self, batch: Batch) -> Tensor:
        """The loss; gradients are in the parameters, as after `work`."""


class Recorder:
    """Runs forward and backward of a step: a few times as it is, then from a recording of it.

    A recording reads and writes the tensors that it saw. So there is a new one whenever a tensor of the model moved,
    a parameter was frozen or freed, or `what` says that something else changed. Steps that draw random numbers outside
    of the GPU, or that cannot be recorded, run as they are from then on.
    """

    def __init__(self, model: nn.Module, record: Callable[[Work, Batch], Recording]) -> None:
        self.model, self.record, self.refused = model, record, False
        self.forget()

    def forget(self) -> None:
        """Free the recording and its memory."""
        self._seen, self._of = 0, None
        self._recording: Recording | None = None
        self._shapes: Any = None

    def run(self, work: Work, batch: Batch, what: Hashable | None) -> Tensor:
        """The loss of `work(batch)`, whose gradients are left in the parameters.

        Args:
            work: forward and backward, from parameters without gradients.
            batch: on the GPU; one of another shape than the recorded ones, the last of an epoch say, runs as it is.
            what: all that `work` depends on beside the batch and the tensors of the model; None: it is not recorded.
        """
        if what is None or self.refused:
            self.forget()
            return work(batch)
        now = (what, _places(self.model))
        if now != self._of:
            self.forget()
            self._of = now
        shapes = [(tensor.shape, tensor.stride(), tensor.dtype) for tensor in batch]
        if self._seen < WARM:
            self._seen, self._shapes = (self._seen + 1 if shapes == self._shapes else 1), shapes
            return self._warm(work, batch)
        if shapes != self._shapes:
            return work(batch)
        if self._recording is None:
            try:
                self._recording = self.record(work, batch)
            except RuntimeError as error:
                self._refuse(f"they cannot be recorded ({str(error).partition(chr(10))[0]})")
                return work(batch)
        return self._recording.replay(batch)

    def _warm(self, work: Work, batch: Batch) -> Tensor:
        """Run, and see whether it is the same step every time."""
        before = _draws()
        loss = work(batch)
        if _draws() != before:
            self._refuse("they draw random numbers outside of the GPU")
        return loss

    def _refuse(self, why: str) -> None:
        log.warning("steps run as they are, not recorded: %s", why)
        self.refused = True
        self.forget()


class CudaRecording:
    """A CUDA graph of a step, on the stream that is current."""

    def __init__(self, parameters: Callable[[], Iterable[Tensor]], work: Work, batch: Batch) -> None:
        """Record; nothing is computed yet. What ran before must have run on the same stream.

        Args:
            parameters: all that get gradients.
            work: forward and backward.
            batch: of the shape of all that will be replayed.
        """
        self._batch = tuple(tensor.clone(memory_format=torch.preserve_format) for tensor in batch)
        self._graph = torch.cuda.CUDAGraph()
        # other threads, a loader's say, may go on meanwhile
        with torch.cuda.graph(self._graph, stream=torch.cuda.current_stream(), capture_error_mode="thread_local"):
            self._loss = work((self._batch[0], self._batch[1]))
        self._gradients = [(parameter, parameter.grad) for parameter in parameters()]

    def replay(self, batch: Batch) -> Tensor:
        """The loss, and gradients where the graph writes them, whatever stood there since."""
        for own, tensor in zip(self._batch, batch):
            own.copy_(tensor, non_blocking=True)
        self._graph.replay()
        for parameter, gradient in self._gradients:
            parameter.grad = gradient
        return self._loss.detach().clone()


def _places(model: nn.Module) -> tuple[Hashable, ...]:
    """Where the model's tensors lie and how, and which of them train."""
    tensors = (*model.parameters(), *model.buffers())
    return tuple((tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.requires_grad) for tensor in tensors)


def _draws() -> tuple[Any, ...]:
    """The state of every generator that a GPU knows nothing of."""
    drawn = np.random.get_state()  # noqa: NPY002 - users' networks may draw from it
    return random.getstate(), drawn[1].tobytes(), drawn[2], torch.get_rng_state().numpy().tobytes()
