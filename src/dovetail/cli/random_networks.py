"""Networks of seeded random weights, made as a sheet says: to measure time, and nothing else."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dovetail.cli.pipeline import given_plan
from dovetail.cli.sheets import Case
from dovetail.errors import RecipeError

if TYPE_CHECKING:
    from torch import nn

    from dovetail.program.program import Program

IMAGES = 32
SETTLING = 8
"""Images that norms take their statistics from."""


@dataclass(frozen=True)
class Made:
    """One case, ready to race.

    Attributes:
        program: ours.
        original: the dense network.
        compressed: ours in torch, in floating point; None where nothing but the values differ.
        images: what int8 is calibrated on; the first is timed.
    """

    program: Program
    original: nn.Module
    compressed: nn.Module | None
    images: np.ndarray


def make(case: Case) -> Made:
    """Build, compress and lower the network of a case.

    Raises:
        RecipeError: the network has no such part.
        SpecError: a layer has no such name, or cannot take its spec.
    """
    import torch

    from dovetail.engine.quantize import quantize
    from dovetail.export.torch_module import to_torch
    from dovetail.methods.base import Kept, complete, into_formats
    from dovetail.program.lower import lower

    whole, images = _network(case), random_images(case)
    original, model, plan = _part(case, whole), None, given_plan(case.what.layers)
    if plan is not None:
        changed = copy.deepcopy(whole)
        into_formats(changed, complete(changed, plan, lambda *_: Kept("not in the sheet")))
        model = _settled(_part(case, changed), images)
    _settled(original, images)
    program = lower(original if model is None else model, torch.from_numpy(images[:1]))
    compressed = None if model is None else to_torch(program)
    if case.values == "int8":
        program = quantize(program, [images])
    return Made(program, original, compressed, images)


def random_images(case: Case) -> np.ndarray:
    """Normal numbers, or zeros where the variant wants them, `(IMAGES, …)` float32."""
    random = np.random.default_rng(case.sheet.seed)
    images = random.standard_normal((IMAGES, *case.input), dtype=np.float32)
    if case.what.zeros:
        images *= random.random(images.shape, dtype=np.float32) >= case.what.zeros
    return images


def _network(case: Case) -> nn.Module:
    import torch

    from dovetail.cli.materials import build_network

    torch.manual_seed(case.sheet.seed)
    return build_network(case.built, None)


def _part(case: Case, whole: nn.Module) -> nn.Module:
    if case.what.part is None:
        return whole
    try:
        return whole.get_submodule(case.what.part)
    except AttributeError:
        parts = ", ".join(name for name, _ in whole.named_children())
        raise RecipeError(
            f"{case.name}: {case.sheet.network.name} has no part {case.what.part!r}; it has {parts}"
        ) from None


def _settled(model: nn.Module, images: np.ndarray) -> nn.Module:
    """The norms take the statistics of some images: numbers then neither vanish nor explode on their way."""
    import torch

    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        model.train()(torch.from_numpy(images[:SETTLING]))
    return model.eval()
