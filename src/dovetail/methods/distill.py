"""Distillation from the dense network, around any method.

Source: Hinton, Vinyals and Dean, "Distilling the knowledge in a neural network" (2015), section 2.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dovetail.errors import SpecError, TrainingError
from dovetail.methods.answers import Answers
from dovetail.methods.base import Batch, Criterion, Method, ParamGroups, Phase, Plan, Quantization
from dovetail.training.fingerprint import checksum
from dovetail.training.metrics import autocast


class Distill(Method):
    """Any method, with loss `(1 - weight) * criterion + weight * T^2 * KL(teacher / T || student / T)`.

    The factor T^2 keeps the size of the gradients as the temperature changes. The wrapped method's own penalties stay;
    its `loss` must give the criterion the logits of the whole batch.
    """

    def __init__(
        self,
        method: Method,
        teacher: nn.Module,
        *,
        weight: float = 0.5,
        temperature: float = 4.0,
        precision: Literal["f32", "bf16"] = "f32",
        answers: str | Path | None = None,
    ) -> None:
        """Copy the teacher: it stays as it is now, even if it is the very model that the method is going to change.

        Args:
            method: everything but the loss is its business.
            teacher: gives logits of the same shape as the model's.
            weight: of the teacher's part, 0 to 1.
            temperature: above 0; softens both distributions.
            precision: of the teacher alone, whatever the student trains in; "bf16" runs it under autocast.
            answers: a file that remembers what the teacher said, for this training and others with the same teacher and
                images (also augmented ones, if their seeds agree). None asks it anew every time.
        """
        if not 0 <= weight <= 1:
            raise SpecError(f"distillation weight {weight} must lie between 0 and 1")
        if not temperature > 0:
            raise SpecError(f"distillation temperature {temperature} must be above 0")
        self.method, self.weight, self.temperature, self.precision = method, weight, temperature, precision
        self.teacher = copy.deepcopy(teacher).eval().requires_grad_(False)
        self.name = f"{method.name}+teacher"
        self._checksum = checksum(self.teacher)
        self._answers = None if answers is None else Answers(answers, f"{_digest(self.teacher)} {precision}")

    def options(self) -> dict[str, Any]:
        """Those of the method, and the teacher's checksum."""
        own = {"weight": self.weight, "temperature": self.temperature, "precision": self.precision}
        return {**self.method.options(), "distill": {**own, "teacher": self._checksum}}

    def plan(self, model: nn.Module, example: Tensor, given: Plan | None = None) -> Plan:
        """The method's; the teacher must answer the example in the model's shape (else `SpecError`)."""
        plan = self.method.plan(model, example, given)
        with torch.no_grad():
            taught = self.teacher.to(example.device)(example)
        if not isinstance(taught, Tensor) or taught.dim() != 2:
            raise SpecError("a teacher must answer images with logits of shape (images, classes)")
        return plan

    def phases(self) -> Sequence[Phase]:
        """The method's."""
        self.method.steps_per_epoch = self.steps_per_epoch
        return self.method.phases()

    def begin(self, phase: Phase, model: nn.Module) -> ParamGroups:
        """The method's."""
        self.method.steps_per_epoch = self.steps_per_epoch
        return self.method.begin(phase, model)

    def loss(self, model: nn.Module, batch: Batch, criterion: Criterion) -> Tensor:
        """The method's, over a criterion that listens to the teacher too."""
        taught = self._teach(batch[0]) if self._answers is None else self._answers.ask(batch[0], self._teach)

        def mixed(logits: Tensor, labels: Tensor) -> Tensor:
            if logits.shape != taught.shape:
                shapes = f"{tuple(logits.shape)} and {tuple(taught.shape)}"
                raise TrainingError(
                    f"model and teacher give logits of different shapes, {shapes}; they need the same classes"
                )
            return (1 - self.weight) * criterion(logits, labels) + self.weight * divergence(
                logits, taught, self.temperature
            )

        return self.method.loss(model, batch, mixed)

    def recordable(self) -> Hashable | None:
        """As the method; answers from a file cannot be recorded."""
        inner = self.method.recordable()
        return None if inner is None or self._answers is not None else (inner, self.weight, self.temperature)

    def before_step(self) -> None:
        """The method's."""
        self.method.before_step()

    def after_step(self) -> None:
        """The method's."""
        self.method.after_step()

    def before_epoch(self, epoch: int) -> None:
        """The method's."""
        self.method.before_epoch(epoch)

    def after_epoch(self, epoch: int) -> None:
        """The method's."""
        self.method.after_epoch(epoch)

    def end(self, phase: Phase, model: nn.Module) -> None:
        """The method's."""
        self.method.end(phase, model)

    def metrics(self) -> dict[str, float]:
        """The method's."""
        return self.method.metrics()

    def settled(self, model: nn.Module, plan: Plan) -> Plan:
        """The method's."""
        return self.method.settled(model, plan)

    def quantization(self) -> Quantization | None:
        """The method's."""
        return self.method.quantization()

    def state_dict(self) -> dict[str, Any]:
        """The method's, and which teacher it was: the teacher itself is given again when a run resumes."""
        return {"method": self.method.state_dict(), "teacher": self._checksum}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`; another teacher is a `TrainingError`."""
        if state["teacher"] != self._checksum:
            raise TrainingError("this run was begun with another teacher; give the same weights, or begin a new run")
        self.method.load_state_dict(state["method"])

    @torch.no_grad()
    def _teach(self, images: Tensor) -> Tensor:
        with autocast(images.device, self.precision):
            logits: Tensor = self.teacher(images)
        return logits.float()


def divergence(logits: Tensor, taught: Tensor, temperature: float) -> Tensor:
    """T^2 KL(softmax(taught / T) || softmax(logits / T)), averaged over the batch."""
    student, teacher = (F.log_softmax(z.float() / temperature, dim=1) for z in (logits, taught))
    return temperature**2 * F.kl_div(student, teacher, reduction="batchmean", log_target=True)


def _digest(model: nn.Module) -> str:
    """Of all its parameters and buffers: it finds answers in a file that outlives runs, so it is a strong one."""
    found = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.detach().to("cpu").contiguous().reshape(-1).view(torch.uint8).numpy())
    return found.hexdigest()
