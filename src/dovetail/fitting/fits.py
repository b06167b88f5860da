"""The verb `fit`: formats by measured time under a budget; trained, packed, raced against the best dense network."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from dovetail.accelerators.machine import machine_named
from dovetail.engine.quantize import quantize
from dovetail.engine.session import Session
from dovetail.errors import BudgetError, SpecError
from dovetail.fitting.choices import choose
from dovetail.fitting.modelled import Modelled
from dovetail.fitting.offers import Asked
from dovetail.fitting.outcomes import Expected, came_of
from dovetail.fitting.prices import open_table, references
from dovetail.fitting.rehearsals import raced_as_surveyed, rehearse
from dovetail.fitting.surveys import CALIBRATION, Survey, in_values, survey
from dovetail.fitting.widths import Build, choose_width
from dovetail.methods import Int8, Method
from dovetail.peers.peer import DEFAULT
from dovetail.program.lower import lower
from dovetail.search.budget import Budget
from dovetail.search.plan import Found, Rule
from dovetail.training.batches import require_anew
from dovetail.training.settings import Settings

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dovetail.api import Compression
    from dovetail.program.program import Program

    Loader = Iterable[tuple[Tensor, Tensor]]

SENSITIVE: Final = 512
"""Held-out images on which sensitivity is measured."""


@dataclass(frozen=True)
class Fit:
    """What `fit` chose, and what came of it.

    Attributes:
        found: the plan, its prediction and the numbers behind it.
        survey: what was measured of the dense network.
        compression: of the training; None where only a plan was wanted, or there was nothing to gain.
        program: the packed network, likewise.
        achieved: as `came_of` tells it; accuracies are of the validation data.
        drop: points of accuracy that it may lose.
        model: what was trained: the network that was handed in, or a thinner one.
    """

    found: Found
    survey: Survey
    compression: Compression | None = None
    program: Program | None = None
    achieved: Mapping[str, Any] | None = None
    drop: float | None = None
    model: nn.Module | None = None

    @property
    def met(self) -> bool | None:
        """Whether everything that the budget limits keeps to it; None where nothing was trained."""
        return None if self.achieved is None else all(self.achieved["kept"].values())


def fit(
    model: nn.Module,
    budget: Budget,
    *,
    train: Loader,
    validate: Loader,
    method: str = "block",
    options: Mapping[str, Any] | None = None,
    build: Build | None = None,
    int8: bool = True,
    threads: int | None = None,
    peers: Sequence[str] = DEFAULT,
    rule: Rule = "knapsack",
    margin: float | None = None,
    machine: str | None = None,
    costs: Path | None = None,
    memory: Path | None = None,
    plan_only: bool = False,
    teacher: nn.Module | None = None,
    settings: Settings | None = None,
) -> Fit:
    """Choose formats by measured time so that a network meets a budget, train it into them, and check.

    A layer that would not gain the margin stays dense. Where nothing has to change or nothing would gain,
    `found.gains` is false and nothing is trained.

    Args:
        model: trained, dense, on the CPU; training changes it, but for method "thin", which trains another.
        budget: limits on latency, bytes or multiplications, and the accuracy that they may take.
        train: batches of images and labels, as `compress` takes them; the first of them calibrate int8, as many as the
            method wants.
        validate: batches held out, which can be iterated anew, too: sensitivity is measured on the first of them,
            accuracy on all.
        method: "block", "tucker", "tdc", "magnitude", "penni", "escalate", "permdnn" or "circnn"; "mixed" may take
            another one in every layer, and "thin" is the widest network that keeps to the budget, with dense layers.
        options: of the method, such as epochs; of "mixed" the methods with theirs, as `Mixed` takes them.
        build: makes the network with a share of its channels, untrained; for "thin" alone.
        int8: the network computes in whole numbers in the end.
        threads: of the engine; all cores by default.
        peers: other runtimes; a share of the latency is of the fastest of them. Nobody else needs them.
        rule: "knapsack", or TDC's own.
        margin: share of its time by which a format must beat the dense layer.
        machine: whose model counts cycles and energy, by name; needed where the budget limits them.
        costs: file of the times of layers; in the cache by default.
        memory: file of the sensitivities, so that a stopped search goes on.
        plan_only: train nothing.
        teacher: as `compress` takes it.
        settings: as `compress` takes them.

    Raises:
        BudgetError: the budget cannot be met, or limits what is not known here.
        MachineError: the machine is not known, or cannot run a layer.
        SpecError: nothing is known of the method's candidates, it does not take these options, or lacks `build`.
        DataError: the file of costs is of another machine.
        TrainingError: `train` or `validate` can be iterated only once.
    """
    import torch

    require_anew(train, "training")
    require_anew(validate, "validation")
    asked = Asked(budget, method, options or {}, rule, margin, int8, machine)
    if (build is None) == (method == "thin"):
        raise SpecError("build makes networks of other widths: method thin needs it, and no other takes it")
    images, held_out = as_array(first_images(train, CALIBRATION)), first_images(validate, SENSITIVE)
    table = open_table(threads, costs, int8=int8)
    asked.require(model, torch.from_numpy(images[:1]))
    peers = peers if "latency" in budget.limits() else ()
    modelled = on_machine(asked, model, images)
    measured = survey(model, images, int8=int8, threads=threads, peers=peers)
    if build is None:
        found = choose(
            model, images, asked, measured, table=table, modelled=modelled, memory=memory, held_out=held_out,
            rehearse=lambda plan: rehearse(model, images, plan, measured),
        )  # fmt: skip
    else:
        race = partial(raced_as_surveyed, model=model, images=images, measured=measured)
        found = choose_width(build, images, asked, measured, race=race)
    planned = Fit(found, measured, drop=budget.accuracy_drop)
    if plan_only or not found.gains:
        return planned
    dense = copy.deepcopy(model).eval()
    network = model if build is None or found.width is None else build(found.width)
    return _carried_out(
        replace(planned, model=network), asked, modelled, network, dense, images, peers, train=train,
        validate=validate, teacher=teacher, settings=settings,
    )  # fmt: skip


def _carried_out(
    planned: Fit,
    asked: Asked,
    modelled: Modelled | None,
    model: nn.Module,
    dense: nn.Module,
    images: np.ndarray,
    peers: Sequence[str],
    *,
    train: Loader,
    validate: Loader,
    teacher: nn.Module | None,
    settings: Settings | None,
) -> Fit:
    """The plan with what came of it: trained, packed, raced and scored."""
    from dovetail.api import compress

    trainer, measured = asked.trainer(), planned.survey
    plan = planned.found.plan() if planned.found.changed else None
    trained = compress(model, trainer, train=train, validate=validate, plan=plan, teacher=teacher, settings=settings)
    program = _packed(model, images[:1], train, trainer, int8=asked.int8)
    accuracies = {
        "dense_accuracy": _accuracy(_torch(dense), validate),
        "accuracy": _accuracy(Session(program, threads=measured.threads), validate),
    }
    shares = references(measured, modelled)
    expected = Expected(planned.found.predicted, shares, measured.layers, measured.scale, measured.threads)
    achieved = came_of(program, dense, images, asked, expected, accuracies, peers=peers)
    return replace(planned, compression=trained, program=program, achieved=achieved)


def _packed(model: nn.Module, image: np.ndarray, train: Loader, trainer: Method, *, int8: bool) -> Program:
    """The trained network, in whole numbers as its method ends in them, or as `Int8` comes to them without training."""
    import torch

    program = lower(model.eval(), torch.from_numpy(image))
    how = trainer.quantization() or (Int8(epochs=0).quantization() if int8 else None)
    return program if how is None else quantize(program, [as_array(first_images(train, how.images))], **how.options())


def on_machine(asked: Asked, model: nn.Module, images: np.ndarray, memory: Path | None = None) -> Modelled | None:
    """The dense network on the model of the machine that is named, if one is; `memory` as `Modelled.of` takes it."""
    import torch

    if asked.machine is None:
        return None
    program = in_values(lower(model.eval(), torch.from_numpy(images[:1])), images, int8=asked.int8)
    return Modelled.of(machine_named(asked.machine), program, images, int8=asked.int8, memory=memory)


def first_images(batches: Loader, count: int) -> list[Tensor]:
    """The first so many images, in batches; `BudgetError` where there are none."""
    found: list[Tensor] = []
    for images, _ in batches:
        found.append(images[: count - sum(map(len, found))])
        if sum(map(len, found)) >= count:
            break
    if not found:
        raise BudgetError("train and validate must have images, to calibrate with and to measure sensitivity on")
    return found


def as_array(batches: Sequence[Tensor]) -> np.ndarray:
    """All images, contiguous `(N, C, H, W)`."""
    return np.concatenate([np.ascontiguousarray(images.cpu().numpy()) for images in batches])


def _torch(model: nn.Module) -> Callable[[np.ndarray], np.ndarray]:
    import torch

    def run(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            answer: np.ndarray = model(torch.from_numpy(images)).numpy()
        return answer

    return run


def _accuracy(run: Callable[[np.ndarray], np.ndarray], batches: Loader) -> float:
    """Top-1, in percent."""
    right = count = 0
    for images, labels in batches:
        classes = run(np.ascontiguousarray(images.cpu().numpy())).argmax(1)
        right += int((classes == labels.cpu().numpy()).sum())
        count += len(classes)
    return 100.0 * right / count
