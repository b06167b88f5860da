"""Which modules hold the channels that the Program shows: weight layers by name, norms by watching one forward pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dovetail.formats.layer import FormatLayer
from dovetail.methods.shrinking.coupling import Coupling, couple
from dovetail.methods.shrinking.tracks import Ints
from dovetail.training.metrics import evaluating

Example = Tensor | tuple[Any, ...]


@dataclass(frozen=True)
class Bound:
    """The channels of a model.

    Attributes:
        coupling: with the channels pinned that no known module holds.
        norms: channels of each batch norm by name.
        norm_of: weight layer → the batch norm that it alone feeds, which can take a constant in its mean.
    """

    coupling: Coupling
    norms: Mapping[str, Ints]
    norm_of: Mapping[str, str]


@dataclass
class _Watched:
    calls: dict[str, int] = field(default_factory=dict)
    source: dict[str, str] = field(default_factory=dict)
    makers: dict[int, str] = field(default_factory=dict)
    alive: list[Tensor] = field(default_factory=list)


def bind(model: nn.Module, example: Example) -> Bound:
    """Lower `model`, follow its channels, and find the module behind each weight and norm."""
    from dovetail.program.lower import lower

    with evaluating(model):
        coupling = couple(lower(model, example))
        watched = _watch(model, example)
    norms = _norms(coupling, watched)
    for name in coupling.sites:
        if reason := _unbound(model, name, coupling, watched):
            site = coupling.sites[name]
            coupling = coupling.pin(np.concatenate([site.inputs, site.outputs]), name, reason)
    for name, atoms in coupling.affine.items():
        if name not in norms:
            coupling = coupling.pin(atoms, name, "its numbers per channel are not held by a batch norm")
    norm_of = {source: norm for norm, source in watched.source.items() if norm not in coupling.affine}
    return Bound(coupling, norms, norm_of)


def call(model: nn.Module, example: Example) -> Any:
    """The model's answer, without gradients."""
    with torch.no_grad():
        return model(*example) if isinstance(example, tuple) else model(example)


def _watch(model: nn.Module, example: Example) -> _Watched:
    """One forward pass: how often each layer is called, and which weight layer feeds each batch norm directly."""
    watched, hooks = _Watched(), []
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear | FormatLayer | _BatchNorm):
            hooks.append(module.register_forward_hook(_hook(watched, name, isinstance(module, _BatchNorm))))
    try:
        call(model, example)
    finally:
        for hook in hooks:
            hook.remove()
    return watched


def _hook(watched: _Watched, name: str, norm: bool) -> Any:
    def seen(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        watched.calls[name] = watched.calls.get(name, 0) + 1
        watched.alive += [inputs[0], output]
        if norm and id(inputs[0]) in watched.makers:
            watched.source[name] = watched.makers[id(inputs[0])]
        elif not norm:
            watched.makers[id(output)] = name

    return seen


def _norms(coupling: Coupling, watched: _Watched) -> dict[str, Ints]:
    found = {
        norm: coupling.sites[source].outputs for norm, source in watched.source.items() if source in coupling.sites
    }
    return {**found, **{name: atoms for name, atoms in coupling.affine.items() if name in watched.calls}}


def _unbound(model: nn.Module, name: str, coupling: Coupling, watched: _Watched) -> str:
    """Why the weight op called `name` cannot be rebuilt, or nothing."""
    module = dict(model.named_modules()).get(name)
    site = coupling.sites[name]
    if not (type(module) in (nn.Conv2d, nn.Linear) or isinstance(module, FormatLayer)):
        return "its weight is not held by an nn.Conv2d, nn.Linear or format layer"
    if watched.calls.get(name, 0) != 1 or _aliases(model, module) != 1:
        return "the layer is used more than once"
    if site.depthwise and isinstance(module, FormatLayer) and len(site.outputs) != len(site.inputs):
        return "a depthwise convolution in a format, with several outputs per group, keeps its groups"
    followed = name in watched.source.values()
    if (site.scaled and not followed) or (site.biased and module.bias is None and not followed):
        return "numbers per channel follow it that are not held by a batch norm or bias"
    return ""


def _aliases(model: nn.Module, module: nn.Module | None) -> int:
    return sum(other is module for _, other in model.named_modules(remove_duplicate=False))
