"""What is measured while training: scores, one record per epoch, and the running loss."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from dovetail import files
from dovetail.errors import TrainingError

CPU = "CPU"


@dataclass(frozen=True)
class Score:
    """How well a model does: `correct` of `total` images, and the mean cross entropy."""

    correct: int
    total: int
    loss: float

    @property
    def accuracy(self) -> float:
        """Top-1, in percent."""
        return 100.0 * self.correct / self.total


@dataclass(frozen=True)
class Record:
    """One epoch. `accuracy` (percent) and `validation_loss` are of the network as the epoch leaves it.

    In the last epoch of a phase that is after the method's hard projection. A phase without epochs has one record,
    with `epoch` 0 and no `loss`. `step` counts optimizer steps of the whole run, `seconds` its time without pauses.
    `metrics` are the method's own, by name; `processor` is the GPU's name, or "CPU" ("" in runs of earlier versions).
    """

    phase: str
    epoch: int
    epochs: int
    step: int
    loss: float | None
    accuracy: float | None
    validation_loss: float | None
    learning_rate: float
    seconds: float
    metrics: Mapping[str, float] = field(default_factory=dict)
    processor: str = ""

    def __str__(self) -> str:
        parts = [f"{self.phase} {self.epoch}/{self.epochs}"]
        parts += [f"loss {self.loss:.4f}"] if self.loss is not None else []
        parts += [f"accuracy {self.accuracy:.2f} %"] if self.accuracy is not None else []
        parts += [f"{name} {value:.4g}" for name, value in self.metrics.items()]
        return "  ".join([*parts, f"rate {self.learning_rate:.3g}", f"{self.seconds:.0f} s"])


@dataclass
class History:
    """The records of a run, in order."""

    records: list[Record] = field(default_factory=list)

    @property
    def accuracy(self) -> float | None:
        """Of the finished network, in percent; None without validation data."""
        return self.records[-1].accuracy if self.records else None

    @property
    def seconds(self) -> float:
        """Time spent, pauses between resumed parts not counted."""
        return self.records[-1].seconds if self.records else 0.0

    @property
    def gpus(self) -> list[str]:
        """Names of the GPUs that trained some of it."""
        return sorted({record.processor for record in self.records} - {"", CPU})

    def to_json(self) -> list[dict[str, Any]]:
        """Plain data, the inverse of `from_json`."""
        return [asdict(record) for record in self.records]

    @classmethod
    def from_json(cls, data: Iterable[Mapping[str, Any]]) -> Self:
        """From `to_json` data."""
        return cls([Record(**record) for record in data])

    def write(self, path: Path) -> None:
        """One JSON line per record, as `metrics.jsonl` holds them."""
        files.write(path, "".join(json.dumps(record) + "\n" for record in self.to_json()), error=TrainingError)


class Meter:
    """Mean loss over an epoch without waiting for the device at every step.

    Losses stay on the device and are read every `every` steps; they are then added one by one, so that the mean does
    not depend on when they were read.
    """

    def __init__(self, every: int = 50) -> None:
        self.every = every
        self.reset()

    def reset(self, total: float = 0.0, images: int = 0) -> None:
        """Start at a sum of losses over so many images."""
        self.total, self.images = total, images
        self._losses: list[Tensor] = []
        self._sizes: list[int] = []

    def add(self, loss: Tensor, images: int) -> int | None:
        """Count a batch; returns what `flush` does when it is time to look, else None."""
        self._losses.append(loss.detach())
        self._sizes.append(images)
        return self.flush() if len(self._losses) >= self.every else None

    def flush(self) -> int | None:
        """Read the waiting losses; how many batches ago the first one that is not finite was, or None."""
        if not self._losses:
            return None
        values = torch.stack(self._losses).double().tolist()
        sizes, self._losses, self._sizes = self._sizes, [], []
        for index, (value, size) in enumerate(zip(values, sizes)):
            if not math.isfinite(value):
                return len(values) - 1 - index
            self.total += value * size
            self.images += size
        return None

    @property
    def mean(self) -> float | None:
        """Per image, of what was read; None before the first."""
        return self.total / self.images if self.images else None


def autocast(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """bf16 autocast on the device; none for "f32", even within an outer one."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def device_of(model: nn.Module) -> torch.device:
    """Where the model's parameters are; the CPU for a model without any."""
    parameter = next(model.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device


def processor(device: torch.device) -> str:
    """What a record calls the device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else CPU


def evaluate(model: nn.Module, loader: Iterable[tuple[Tensor, Tensor]], *, precision: str = "f32") -> Score:
    """Top-1 and cross entropy over all batches, in eval mode; every module's mode is put back.

    Raises:
        TrainingError: the loader gives no batch.
    """
    with evaluating(model), torch.no_grad(), autocast(device_of(model), precision):
        return _score(model, loader)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Within: evaluation mode; afterwards every module is as it was."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _score(model: nn.Module, loader: Iterable[tuple[Tensor, Tensor]]) -> Score:
    device, total = device_of(model), 0
    correct, loss = (
        torch.zeros((), dtype=torch.int64, device=device),
        torch.zeros((), dtype=torch.float64, device=device),
    )
    for images, labels in loader:
        labels = labels.to(device)
        logits = model(images.to(device)).float()
        correct += (logits.argmax(1) == labels).sum()
        loss += nn.functional.cross_entropy(logits, labels, reduction="sum")
        total += len(labels)
    if total == 0:
        raise TrainingError("the data to evaluate on has no batch; check the loader")
    return Score(int(correct), total, float(loss) / total)
