"""Smaller modules: each weight layer and norm with its kept channels only, constants folded on the way."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from dovetail.formats.kernel_basis.layer import KernelBasisLayer
from dovetail.formats.layer import FormatLayer, parameter, swap
from dovetail.formats.values import INT8
from dovetail.methods.shrinking.binding import Bound
from dovetail.methods.shrinking.channels import ChannelMap, Channels
from dovetail.methods.shrinking.removal import Mode, readers
from dovetail.methods.shrinking.sites import Site
from dovetail.methods.shrinking.tracks import Bools, Floats


@dataclass(frozen=True)
class Rebuilt:
    """What was done, and the modules that stood there before."""

    map: ChannelMap
    before: dict[str, nn.Module]

    def undo(self, model: nn.Module) -> None:
        """Put every old module back."""
        for name, module in self.before.items():
            swap(model, name, module)


def foldable(model: nn.Module, bound: Bound) -> set[str]:
    """Weight layers that can take a constant: in their bias, or in the running mean of the norm behind them."""
    return {site.name for site in readers(bound.coupling) if _place(model, bound, site.name) is not None}


def rebuild(model: nn.Module, bound: Bound, removed: Bools, mode: Mode) -> Rebuilt:
    """Replace every layer that loses channels (or bases) in place; parameters are new tensors."""
    constants = _constants(model, bound, removed) if mode == "exact" else {}
    layers: dict[str, Channels] = {}
    before: dict[str, nn.Module] = {}
    modules = dict(model.named_modules())
    for name, site in bound.coupling.sites.items():
        if name in modules:  # a weight that no module holds is whole: its channels are pinned
            layers[name] = _channels(removed, site)
    for name, atoms in bound.norms.items():
        kept = tuple(np.flatnonzero(~removed[atoms]).tolist())
        layers[name] = Channels(kept, kept, (len(atoms), len(atoms)))
    made = {name: _layer(model.get_submodule(name), kept, constants.get(name)) for name, kept in layers.items()}
    for name, module in made.items():
        old = model.get_submodule(name)
        if module is not old:
            before[name] = old
            swap(model, name, module)
    return Rebuilt(ChannelMap(layers, bound.coupling.left, mode), before)


def _channels(removed: Bools, site: Site) -> Channels:
    kept = [tuple(np.flatnonzero(~removed[atoms]).tolist()) for atoms in (site.inputs, site.outputs)]
    return Channels(kept[0], kept[1], (len(site.inputs), len(site.outputs)))


def _constants(model: nn.Module, bound: Bound, removed: Bools) -> dict[str, Floats]:
    """Layer or norm → what each of its outputs loses with the removed inputs, where that is not nothing."""
    found: dict[str, Floats] = {}
    for site in readers(bound.coupling):
        lost = site.constants(removed[site.inputs])
        if lost.any() and (place := _place(model, bound, site.name)) is not None:
            found[place] = lost
    return found


def _layer(layer: nn.Module, channels: Channels, lost: Floats | None) -> nn.Module:
    """The new module, or the old one where nothing changes."""
    if lost is not None:
        layer = _folded(layer, lost)
    if not channels.whole:
        layer = slice_layer(layer, torch.tensor(channels.outputs), torch.tensor(channels.inputs))
    return _without_idle_bases(layer)


def _folded(layer: nn.Module, constant: Floats) -> nn.Module:
    """A copy with what the outputs lose added to its bias, or taken off the mean that a norm subtracts."""
    layer = copy.deepcopy(layer)
    with torch.no_grad():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm):
            layer.running_mean -= torch.from_numpy(constant).to(layer.running_mean)
        else:
            layer.bias += torch.from_numpy(constant).to(layer.bias)
    return layer


def slice_layer(layer: nn.Module, out: Tensor, into: Tensor) -> nn.Module:
    """A layer with only these output and input channels (indices): `nn.Conv2d`, `nn.Linear`, batch norm, any format."""
    if isinstance(layer, FormatLayer):
        return layer.slice_channels(out, into)
    if isinstance(layer, nn.modules.batchnorm._BatchNorm):
        return _sliced_norm(layer, out)
    return _sliced_dense(layer, out, into)


def _sliced_dense(layer: nn.Conv2d | nn.Linear, out: Tensor, into: Tensor) -> nn.Module:
    layer = copy.deepcopy(layer)
    weight = layer.weight.detach()[out]
    layer.weight = parameter(weight if _depthwise(layer) else weight[:, into], layer.weight)
    if layer.bias is not None:
        layer.bias = parameter(layer.bias[out], layer.bias)
    if isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = len(out), len(into)
        return layer
    if _depthwise(layer):
        layer.groups = len(into)
    layer.out_channels, layer.in_channels = len(out), len(into)
    return layer


def _sliced_norm(layer: nn.modules.batchnorm._BatchNorm, out: Tensor) -> nn.Module:
    layer = copy.deepcopy(layer)
    for name, value in list(layer.named_parameters(recurse=False)):
        setattr(layer, name, parameter(value[out], value))
    for name, value in list(layer.named_buffers(recurse=False)):
        if value.ndim:
            setattr(layer, name, value[out].clone())
    layer.num_features = len(out)
    return layer


def _depthwise(layer: nn.Module) -> bool:
    return isinstance(layer, nn.Conv2d) and layer.groups > 1


def _without_idle_bases(layer: nn.Module) -> nn.Module:
    """Shared kernels that no coefficient uses any more go, too.

    Bases of ternary coefficients, or of int8 values, lie on one grid, from the largest of their numbers; so one that
    holds it stays.
    """
    if not isinstance(layer, KernelBasisLayer):
        return layer
    bases, coefficients = (factor.detach() for factor in layer.live_factors())
    used = (coefficients != 0).any(dim=0).any(dim=0)
    if layer.spec.coefficients == "ternary" or layer.spec.values == INT8:
        sizes = bases.abs().flatten(1).amax(dim=1)
        used[sizes.argmax()] |= sizes.max() > sizes.where(used, 0).max()
    return layer if used.all() or len(used) == 1 else copy.deepcopy(layer).drop_bases(used)


def _place(model: nn.Module, bound: Bound, name: str) -> str | None:
    """The module that can take a constant added to the outputs of the weight op called `name`."""
    modules = dict(model.named_modules())
    if getattr(modules.get(name), "bias", None) is not None:
        return name
    norm = bound.norm_of.get(name)
    return norm if norm and getattr(modules[norm], "running_mean", None) is not None else None
