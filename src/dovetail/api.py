"""The verbs that need several rooms of the house."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor, nn

from dovetail.engine import Schedule, Session, native_status
from dovetail.errors import TrainingError
from dovetail.formats import structure
from dovetail.formats.base import Spec
from dovetail.methods import Distill, Kept, Method, Plan
from dovetail.peers.race import race
from dovetail.program.calibrate import Rule, calibrate, correct_bias
from dovetail.program.program import Program
from dovetail.program.quantize import quantize as into_codes
from dovetail.program.quantize import split_factors
from dovetail.training.loop import Settings
from dovetail.training.loop import train as run
from dovetail.training.metrics import History, device_of

__all__ = ["Compression", "compress", "quantize", "race"]

Loader = Iterable[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Compression:
    """What `compress` did: the plan of every weight layer, and the record of every epoch."""

    plan: Plan
    history: History


def compress(
    model: nn.Module,
    method: Method,
    *,
    train: Loader,
    validate: Loader | None = None,
    example: Tensor | None = None,
    plan: Plan | Mapping[str, Spec | Kept] | None = None,
    teacher: nn.Module | None = None,
    settings: Settings | None = None,
    network: Mapping[str, Any] | None = None,
) -> Compression:
    """Train `model` into the method's formats, in place.

    With `settings.run` set, the same call on the same freshly built model resumes a stopped run from its last
    checkpoint, and returns at once when the run is finished.

    Args:
        model: on the device where it is to be trained; layers are swapped in it.
        method: one of `dovetail.methods`, or your own `Method`.
        train: batches of images `(N, C, H, W)` and int64 labels `(N,)`; anything that can be iterated anew for each
            epoch. `epoch(number, start)`, as `dovetail.training.data.Loader` has it, makes resuming cheap.
        validate: scored after every epoch.
        example: one input for planning; None takes the first image of `train`.
        plan: layer name or glob → spec, or `Kept` with a reason; the method completes it.
        teacher: the network to distil from, often `model` itself: it is copied before anything changes. For weight and
            temperature use `dovetail.methods.Distill`.
        settings: precision, seed, run folder and so on.
        network: name and options of the model, JSON-able: a run folder is not resumed with others. Shapes and start
            weights are compared anyway.

    Raises:
        SpecError: the plan does not fit the model, which is then unchanged.
        TrainingError: the loss is not finite, the run was interrupted, or its folder cannot be used.
    """
    if teacher is not None:
        method = Distill(method, teacher)
    given = Plan(plan) if isinstance(plan, Mapping) else plan
    chosen = method.plan(model, _example(train, model) if example is None else example, given)
    identity = {"method": _identity(method, chosen)} | ({} if network is None else {"network": dict(network)})
    history = run(model, method, train, validate, settings, structure=structure, identity=identity)
    return Compression(chosen, history)


def quantize(
    program: Program,
    images: Iterable[Any],
    *,
    rule: Rule = "mse",
    keep: Collection[str] = (),
    correct: bool = True,
) -> Program:
    """The network in whole numbers: int8 weights, uint8 tensors between them, no training.

    Tucker and SVD layers become the convolutions (linear layers) that they are, kernel bases the weights that they
    stand for; everything without an integer form stays in floating point, between `dequantize` and `quantize` nodes.

    Args:
        program: in floating point; one input.
        images: a few hundred training images, normalised, not augmented: batches `(N, C, H, W)`, or pairs of those with
            their labels.
        rule: how far codes reach: to the extremes seen ("minmax"), to the 99.99th percentile ("percentile"), or as
            errs least ("mse").
        keep: nodes of weight layers to leave in floating point.
        correct: shift biases by what rounding the weights changes on average.

    Raises:
        InputError: there are no images, or one of them is no number.
        ProgramError: `keep` names no weight layer, or the program is quantised already.
    """
    split = split_factors(program)
    statistics = calibrate(split, map(_images, images), _every_tensor(split))
    made = into_codes(split, {name: found.range(rule) for name, found in statistics.items()}, keep)
    return correct_bias(split, made, statistics) if correct else made


def _images(batch: Any) -> np.ndarray:
    images = batch[0] if isinstance(batch, tuple | list) else batch
    return np.ascontiguousarray(images, dtype=np.float32)


def _every_tensor(program: Program) -> Callable[[np.ndarray], Mapping[str, np.ndarray]] | None:
    """All tensors of a batch through the engine, where there is one."""
    if not native_status().available:
        return None
    graph = program.graph
    made = tuple(node.output for node in graph.nodes)
    session = Session(program.with_graph(replace(graph, outputs=made)), schedule=Schedule())
    (source,) = graph.inputs

    def evaluate(batch: np.ndarray) -> Mapping[str, np.ndarray]:
        outputs = session(batch)
        return {source: batch, **dict(zip(made, outputs if isinstance(outputs, tuple) else (outputs,)))}

    return evaluate


def _example(loader: Loader, model: nn.Module) -> Tensor:
    for images, _ in loader:
        return images[:1].to(device_of(model))
    raise TrainingError("the training data has no batch; check the data set, the batch size and drop_last")


def _identity(method: Method, plan: Plan) -> dict[str, Any]:
    layers = {name: what.to_json() if isinstance(what, Spec) else what.reason for name, what in plan.layers.items()}
    return {"name": method.name, "options": method.options(), "plan": layers}
