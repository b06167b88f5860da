"""The verb `fit`: formats by measured time under a budget; trained, packed, raced against the best dense network."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from dovetail.engine.quantize import quantize
from dovetail.engine.session import Session
from dovetail.errors import BudgetError
from dovetail.fitting.choices import choose, methods_of, open_table
from dovetail.fitting.surveys import CALIBRATION, Survey, against_peers, survey
from dovetail.methods import METHODS
from dovetail.peers.peer import DEFAULT
from dovetail.program.lower import lower
from dovetail.search.budget import Budget
from dovetail.search.plan import Found, Rule
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
        achieved: `latency` of the packed network in seconds, raced in a process of its own, and `rival_seconds` of the
            fastest dense network beside it; `accuracy` and `dense_accuracy` on the validation data, in percent.
        drop: points of accuracy that it may lose.
    """

    found: Found
    survey: Survey
    compression: Compression | None = None
    program: Program | None = None
    achieved: Mapping[str, Any] | None = None
    drop: float | None = None

    @property
    def met(self) -> bool | None:
        """Whether time (as a share of the rival's) and accuracy keep to the budget; None where nothing was trained."""
        if self.achieved is None:
            return None
        lost = self.achieved["dense_accuracy"] - self.achieved["accuracy"]
        fits = self.drop is None or lost <= self.drop
        if "latency" in self.found.limits:
            share = self.achieved["latency"] / self.achieved["rival_seconds"]
            fits = fits and share <= self.found.limits["latency"] / self.survey.rival_seconds
        return bool(fits)


def fit(
    model: nn.Module,
    budget: Budget,
    *,
    train: Loader,
    validate: Loader,
    method: str = "block",
    options: Mapping[str, Any] | None = None,
    int8: bool = True,
    threads: int | None = None,
    peers: Sequence[str] = DEFAULT,
    rule: Rule = "knapsack",
    margin: float | None = None,
    costs: Path | None = None,
    memory: Path | None = None,
    plan_only: bool = False,
    teacher: nn.Module | None = None,
    settings: Settings | None = None,
) -> Fit:
    """Choose formats by measured time so that a network meets a budget, train it into them, and check.

    A layer that would not gain the margin stays dense. Where nothing has to change or nothing would gain,
    `found.changed` is empty and nothing is trained.

    Args:
        model: trained, dense, on the CPU; training changes it.
        budget: limits on latency and bytes, and the accuracy that they may take.
        train: batches of images and labels; the first 300 images calibrate int8.
        validate: batches held out: sensitivity is measured on the first of them, accuracy on all.
        method: "block", "tucker", "tdc", "magnitude" or "escalate"; "mixed" may take another one in every layer.
        options: of the method, such as epochs; of "mixed" the methods with theirs, as `Mixed` takes them.
        int8: the network computes in whole numbers in the end.
        threads: of the engine; all cores by default.
        peers: other runtimes; a share of the latency is of the fastest of them.
        rule: "knapsack", or TDC's own.
        margin: share of its time by which a format must beat the dense layer.
        costs: file of the times of layers; in the cache by default.
        memory: file of the sensitivities, so that a stopped search goes on.
        plan_only: train nothing.
        teacher: as `compress` takes it.
        settings: as `compress` takes them.

    Raises:
        BudgetError: the budget cannot be met, or limits what is not known here.
        SpecError: nothing is known of the method's candidates.
        DataError: the file of costs is of another machine.
    """
    import torch

    from dovetail.api import compress

    images = as_array(first_images(train, CALIBRATION))
    measured = survey(model, images, int8=int8, threads=threads, peers=peers)
    methods = methods_of(method, options or {})
    found = choose(
        model, images, budget, methods, measured, table=open_table(measured, costs), memory=memory, rule=rule,
        margin=margin, held_out=first_images(validate, SENSITIVE),
    )  # fmt: skip
    if plan_only or not found.changed:
        return Fit(found, measured, drop=budget.accuracy_drop)
    dense = copy.deepcopy(model).eval()
    trained = compress(
        model, METHODS[method](**(options or {})), train=train, validate=validate, plan=found.plan(), teacher=teacher,
        settings=settings,
    )  # fmt: skip
    program = lower(model.eval(), torch.from_numpy(images[:1]))
    program = quantize(program, [images]) if int8 else program
    raced = against_peers(program, dense, images, threads=measured.threads, peers=peers)
    before, after = (_accuracy(run, validate) for run in (_torch(dense), Session(program, threads=measured.threads)))
    achieved = {**raced, "dense_accuracy": before, "accuracy": after}
    return Fit(found, measured, trained, program, achieved, budget.accuracy_drop)


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
