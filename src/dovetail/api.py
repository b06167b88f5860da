"""The verbs that need several rooms of the house."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from dovetail.accelerators.simulation import simulate
from dovetail.engine.quantize import quantize
from dovetail.errors import TrainingError
from dovetail.formats import structure
from dovetail.formats.base import Spec
from dovetail.methods import Distill, Kept, Method, Plan
from dovetail.peers.race import race
from dovetail.training.loop import Settings
from dovetail.training.loop import train as run
from dovetail.training.metrics import History, device_of

__all__ = ["Compression", "compress", "quantize", "race", "simulate"]

Loader = Iterable[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Compression:
    """What `compress` did: the plan of every weight layer as training left it, and the record of every epoch."""

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
    return Compression(method.settled(model, chosen), history)


def _example(loader: Loader, model: nn.Module) -> Tensor:
    try:
        batches = iter(loader)
    except TypeError:
        raise TrainingError(f"train must be batches of images and labels, not {loader!r}") from None
    for images, _ in batches:
        return images[:1].to(device_of(model))
    raise TrainingError("the training data has no batch; check the data set, the batch size and drop_last")


def _identity(method: Method, plan: Plan) -> dict[str, Any]:
    layers = {name: what.to_json() if isinstance(what, Spec) else what.reason for name, what in plan.layers.items()}
    return {"name": method.name, "options": method.options(), "plan": layers}
