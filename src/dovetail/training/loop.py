"""One loop over the phases of a method: optimizer, schedule, hooks, validation, checkpoints, exact resume."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dovetail import files
from dovetail.errors import Interrupted, TrainingError
from dovetail.training.batches import Batch, Batches, to
from dovetail.training.checkpoint import Checkpoints, random_state, seed_all, set_random_state
from dovetail.training.fingerprint import fingerprint, require_same
from dovetail.training.hooks import FixedStructure, Hooks, Structure
from dovetail.training.interrupt import Interrupt, interruptible
from dovetail.training.metrics import History, Meter, Record, Score, autocast, device_of, evaluate, processor
from dovetail.training.phase import Phase, build_optimizer, load_optimizer, set_rate
from dovetail.training.progress import Lines, reporter
from dovetail.training.recording import CudaRecording, Recorder
from dovetail.training.settings import Settings

__all__ = ["History", "Record", "Score", "Settings", "evaluate", "train"]

log = logging.getLogger("dovetail.training")


def train(
    model: nn.Module,
    hooks: Hooks,
    train: Iterable[Batch],
    validate: Iterable[Batch] | None = None,
    settings: Settings | None = None,
    *,
    structure: Structure | None = None,
    identity: Mapping[str, Any] | None = None,
) -> History:
    """Train `model` in place through the phases of `hooks`; with `settings.run`, resume what that folder holds.

    On the CPU a resumed run ends with bitwise the weights of an uninterrupted one (same thread count); on a GPU each
    process chooses its kernels anew, and they differ by rounding. A finished run returns its stored result at once. The
    caller then hands in the same freshly built model as at first.

    Args:
        model: on the device where it is to be trained; batches are moved to it.
        hooks: the method; see `dovetail.methods.base.Method`.
        train: re-iterable of (images, labels); may have `epoch(number, start)`.
        validate: scored after every epoch.
        settings: None takes the defaults.
        structure: how to write down and restore layers that `hooks` swap; the module `dovetail.formats.structure`.
        identity: what else tells this run from others, JSON-able, by name; a run folder with another one is refused.

    Raises:
        TrainingError: a phase makes no sense, the loss is not finite, Ctrl-C, the folder holds another run (other
            start weights, too), is another process's, or cannot be written.
    """
    settings = settings or Settings()
    with _threads(settings.threads), interruptible() as interrupt:
        run = Run(
            model,
            hooks,
            Batches(train),
            validate=validate,
            settings=settings,
            structure=structure or FixedStructure(),
            identity=identity or {},
            interrupt=interrupt,
        )
        return run.go()


class Run:
    """A training in progress: everything that a checkpoint must hold is an attribute.

    Attributes:
        phase, epoch, batch: the position; all earlier ones are done.
        step: optimizer steps of the whole run.
    """

    report: Lines

    def __init__(
        self,
        model: nn.Module,
        hooks: Hooks,
        batches: Batches,
        *,
        validate: Iterable[Batch] | None,
        settings: Settings,
        structure: Structure,
        identity: Mapping[str, Any],
        interrupt: Interrupt,
    ) -> None:
        self.interrupt = interrupt
        self.model, self.hooks, self.batches, self.validate = model, hooks, batches, validate
        self.settings, self.structure = settings, structure
        hooks.steps_per_epoch = batches.count
        self.phases = list(hooks.phases())
        self.device = device_of(model)
        self.criterion = nn.CrossEntropyLoss(label_smoothing=settings.label_smoothing)
        self.fingerprint = self._fingerprint(identity)
        self.checkpoints: Checkpoints | None = None
        self.history, self.meter = History(), Meter()
        self.phase = self.epoch = self.batch = self.step = 0
        self.finished = False
        self.optimizer: Any = None
        recorded = settings.record and self.device.type == "cuda"
        self.recorder = Recorder(model, partial(CudaRecording, self._trained)) if recorded else None
        self.rate, self.earlier = 0.0, 0.0
        self.started = self.saved = time.monotonic()
        self.epoch_random: Mapping[str, Any] | None = None

    def go(self) -> History:
        """Restore, then run what is left, alone in the run's folder."""
        with contextlib.ExitStack() as stack:
            if self.settings.run is not None:
                folder = files.make_folder(self.settings.run, error=TrainingError)
                stack.enter_context(files.locked(folder, error=TrainingError))
                self.checkpoints = Checkpoints(folder)
            stack.enter_context(_at_its_best(self.device))
            return self._go()

    def _go(self) -> History:
        state = self.checkpoints.load() if self.checkpoints else None
        if state is None:
            seed_all(self.settings.seed)
        else:
            self._restore(state)
        if not self.finished:
            with reporter(self._steps(), self.step, self.settings.progress) as self.report:
                self._run_phases(None if state is None else state["optimizer"])
        return self.history

    def _run_phases(self, optimizer: Mapping[str, Any] | None) -> None:
        while self.phase < len(self.phases):
            phase = self.phases[self.phase]
            self._begin(phase, optimizer)
            optimizer = None
            while self.epoch < phase.epochs:
                self._run_epoch(phase)
                if self.epoch < phase.epochs:
                    self._record(phase)
                self._save()
                self._stop_if_asked()
            self._end_phase(phase)

    def _begin(self, phase: Phase, optimizer: Mapping[str, Any] | None) -> None:
        """Begin a phase, or enter one in the middle: then with the optimizer and the random numbers it had."""
        random = random_state()
        groups = self.hooks.begin(phase, self.model)
        self._lay_out()
        self.optimizer = build_optimizer(phase, groups) if phase.epochs else None
        if optimizer is not None and self.optimizer is not None:
            load_optimizer(self.optimizer, optimizer)
            set_random_state(random)

    def _run_epoch(self, phase: Phase) -> None:
        self.model.train()
        for batch in self._open_epoch():
            self._run_step(phase, batch)
            self.report.step()
            if self.interrupt.asked or time.monotonic() - self.saved > 60 * self.settings.checkpoint_minutes:
                self._save()
            self._stop_if_asked()
        self._check(self.meter.flush())
        self.hooks.after_epoch(self.epoch)
        self.epoch, self.batch = self.epoch + 1, 0

    def _run_step(self, phase: Phase, batch: Batch) -> None:
        images, labels = to(batch, self.device, self._layout())
        step = self.epoch * self.batches.count + self.batch
        self.rate = set_rate(self.optimizer, phase, step, self.batches.count)
        loss = self._forth_and_back(phase, (images, labels))
        self.hooks.before_step()
        self.optimizer.step()
        self.hooks.after_step()
        self.batch, self.step = self.batch + 1, self.step + 1
        self._check(self.meter.add(loss, len(labels)))

    def _backward(self, batch: Batch) -> Tensor:
        """Forward and backward: the loss, and fresh gradients in the parameters."""
        self.optimizer.zero_grad()
        with autocast(self.device, self.settings.precision):
            loss: Tensor = self.hooks.loss(self.model, batch, self.criterion)
        loss.backward()
        return loss

    def _forth_and_back(self, phase: Phase, batch: Batch) -> Tensor:
        """The same, on a GPU replayed where the hooks allow it."""
        if self.recorder is None:
            return self._backward(batch)
        what = self.hooks.recordable() if _vouches(self.hooks) else None
        return self.recorder.run(self._backward, batch, None if what is None else (phase.name, what))

    def _trained(self) -> list[Tensor]:
        """All parameters that may have gradients: the model's, and what else the method gave to the optimizer."""
        groups = (parameter for group in self.optimizer.param_groups for parameter in group["params"])
        return list({id(parameter): parameter for parameter in (*self.model.parameters(), *groups)}.values())

    def _end_phase(self, phase: Phase) -> None:
        """The hard projection; the last epoch's record is of the network after it."""
        self.hooks.end(phase, self.model)
        self._record(phase)
        self.phase, self.epoch, self.optimizer = self.phase + 1, 0, None
        if self.recorder is not None:
            self.recorder.forget()
        self.finished = self.phase == len(self.phases)
        self._save()
        self._stop_if_asked()

    def _open_epoch(self) -> Iterator[Batch]:
        """Batches of the epoch; in its middle, drawn with the random numbers of its beginning, then with today's."""
        number = sum(phase.epochs for phase in self.phases[: self.phase]) + self.epoch
        now = random_state()
        self.hooks.before_epoch(self.epoch)
        if not self.batch:
            self.epoch_random = random_state()
            self.meter.reset()
            return self.batches.epoch(number)
        set_random_state(self.epoch_random or now)
        batches = self.batches.epoch(number, self.batch)
        set_random_state(now)
        return batches

    def _record(self, phase: Phase) -> None:
        score = (
            None if self.validate is None else evaluate(self.model, self.validate, precision=self.settings.precision)
        )
        record = Record(
            phase=phase.name,
            epoch=self.epoch,
            epochs=phase.epochs,
            step=self.step,
            loss=self.meter.mean if phase.epochs else None,
            accuracy=score.accuracy if score else None,
            validation_loss=score.loss if score else None,
            learning_rate=self.rate if phase.epochs else 0.0,
            seconds=self._seconds(),
            metrics=self.hooks.metrics(),
            processor=processor(self.device),
        )
        self.history.records.append(record)
        self.meter.reset()
        self.report.record(record)

    def _check(self, ago: int | None) -> None:
        """`TrainingError` where the meter found a loss that is not finite, so many batches ago."""
        if ago is None:
            return
        raise TrainingError(
            f"the loss is not a finite number in phase {self.phases[self.phase].name!r}, epoch {self.epoch + 1}, "
            f"batch {self.batch - ago}; {self._kept()}. Lower the learning rate, add warm-up, or check the data"
        )

    def _stop_if_asked(self) -> None:
        if not self.interrupt.asked:
            return
        resume = "; resume with the same command" if self.checkpoints else ""
        place = f"in phase {self._phase_name()!r}, epoch {self.epoch + 1}, batch {self.batch}"
        where = "when all was trained" if self.finished else place
        raise Interrupted(f"interrupted {where}; {self._kept()}{resume}")

    def _kept(self) -> str:
        if self.checkpoints is None:
            return "nothing is kept, for the run has no folder (Settings.run)"
        files = self.checkpoints.files()
        return (
            f"the last good checkpoint is {files[-1]}"
            if files
            else f"{self.checkpoints.folder} holds no checkpoint yet"
        )

    def _phase_name(self) -> str:
        return self.phases[min(self.phase, len(self.phases) - 1)].name

    def _steps(self) -> int:
        return self.batches.count * sum(phase.epochs for phase in self.phases)

    def _seconds(self) -> float:
        return self.earlier + time.monotonic() - self.started

    def _layout(self) -> torch.memory_format:
        return torch.channels_last if self.settings.channels_last else torch.contiguous_format

    def _lay_out(self) -> None:
        """One layout for all weights: it must not depend on how a layer came about (resumed runs are bitwise equal)."""
        for tensor in (*self.model.parameters(), *self.model.buffers()):
            tensor.data = tensor.data.contiguous(
                memory_format=self._layout() if tensor.dim() == 4 else torch.contiguous_format
            )

    def _fingerprint(self, identity: Mapping[str, Any]) -> dict[str, Any]:
        parts = {
            "settings": self.settings.identity(),
            "phases": [asdict(phase) for phase in self.phases],
            "data": self.batches.identity(),
        }
        return fingerprint(self.model, {**parts, **identity})

    def _save(self) -> None:
        """Write a checkpoint, unless there is nowhere to; never of weights that are not finite."""
        if self.checkpoints is None:
            return
        self._check(self.meter.flush())
        state = self._state()
        for name, tensor in state["model"].items():
            if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
                raise TrainingError(
                    f"{name!r} has NaN or Inf in phase {self._phase_name()!r}; {self._kept()}. Lower the learning rate"
                )
        self.checkpoints.save(state)
        self.history.write(self.checkpoints.folder / "metrics.jsonl")
        self.saved = time.monotonic()

    def _state(self) -> dict[str, Any]:
        return {
            "fingerprint": self.fingerprint,
            "finished": self.finished,
            "position": [self.phase, self.epoch, self.batch, self.step],
            "structure": self.structure.describe(self.model),
            "model": self.model.state_dict(),
            "frozen": [name for name, parameter in self.model.named_parameters() if not parameter.requires_grad],
            "optimizer": None if self.optimizer is None else self.optimizer.state_dict(),
            "method": self.hooks.state_dict(),
            "random": random_state(),
            "epoch_random": self.epoch_random if self.batch else None,
            "meter": [self.meter.total, self.meter.images],
            "rate": self.rate,
            "history": self.history.to_json(),
            "seconds": self._seconds(),
        }

    def _restore(self, state: Mapping[str, Any]) -> None:
        require_same(self.fingerprint, state["fingerprint"], self.settings.run)
        self.structure.rebuild(self.model, state["structure"])
        self.model.load_state_dict(state["model"])
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(name not in state["frozen"])
        self.hooks.load_state_dict(state["method"])
        self.phase, self.epoch, self.batch, self.step = state["position"]
        self.history = History.from_json(state["history"])
        self.meter.reset(*state["meter"])
        self.rate = state["rate"]
        self.epoch_random, self.finished, self.earlier = state["epoch_random"], state["finished"], state["seconds"]
        set_random_state(state["random"])
        log.info(
            "run %s: %s", self.settings.run, "finished already" if self.finished else f"resuming at step {self.step}"
        )


def _vouches(hooks: Hooks) -> bool:
    """Whether `recordable` speaks of the `loss` and `penalty` that there are: a subclass may have replaced them."""
    order = [vars(kind) for kind in type(hooks).__mro__]
    own = next((i for i, names in enumerate(order) if "recordable" in names), len(order))
    return own < len(order) and not any(name in names for names in order[:own] for name in ("loss", "penalty"))


@contextlib.contextmanager
def _at_its_best(device: torch.device) -> Iterator[None]:
    """On a GPU: the fastest kernels for the shapes that come, and a stream of its own, for recording steps."""
    if device.type != "cuda":
        yield
        return
    before, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, True
    torch.cuda.synchronize(device)
    stream = torch.cuda.Stream(device)
    try:
        with torch.cuda.stream(stream):
            yield
    finally:
        stream.synchronize()
        torch.backends.cudnn.benchmark = before


@contextlib.contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
