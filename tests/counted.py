"""Work and weights of networks that are never computed: shapes from the meta device, packed weights of zeros."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from dovetail.formats import DenseSpec, Geometry, Packed, PackedDense, PackedTucker, TuckerSpec


def zeros(shape: tuple[int, ...], spec: object) -> Packed:
    """A weight of this shape by Tucker factors, or dense where the spec is another thing."""
    if not isinstance(spec, TuckerSpec):
        return PackedDense.from_dense(np.zeros(shape, np.float32), DenseSpec())
    (k, c, *kernel), d1, d2 = shape, spec.rank_in, spec.rank_out
    return PackedTucker.from_factors(np.zeros((k, d2)), np.zeros((d2, d1, *kernel)), np.zeros((d1, c)), spec)


def places(model: nn.Module, image: tuple[int, int, int]) -> dict[str, tuple[tuple[int, ...], Geometry]]:
    """Shape and geometry of every weight layer for one image; the model is on the meta device."""
    found: dict[str, tuple[tuple[int, ...], Geometry]] = {}

    def note(layer: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor, name: str) -> None:
        at = Geometry(math.prod(inputs[0].shape[2:]), math.prod(output.shape[2:]))
        found[name] = (tuple(layer.weight.shape), at)

    hooks = [
        module.register_forward_hook(lambda *call, name=name: note(*call, name=name))
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    ]
    model.eval()(torch.zeros(1, *image, device="meta"))
    for hook in hooks:
        hook.remove()
    return found


def counted(
    model: nn.Module, specs: Mapping[str, object], image: tuple[int, int, int], part: str = ""
) -> dict[str, tuple[int, int]]:
    """Multiply-accumulates and numbers of the layers whose names begin with `part`: dense, and as `specs` say."""
    sums = {"macs": (0, 0), "params": (0, 0)}
    for name, (shape, at) in places(model, image).items():
        if name.startswith(part):
            pair = zeros(shape, None), zeros(shape, specs.get(name))
            work = (pair[0].macs(at), pair[1].macs(at)), (pair[0].params(), pair[1].params())
            sums = {key: (a + x, b + y) for (key, (a, b)), (x, y) in zip(sums.items(), work)}
    return sums
