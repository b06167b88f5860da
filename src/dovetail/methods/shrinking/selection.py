"""Choosing channels: the least important ones of the whole network, until a count or a number of multiplications."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from dovetail.errors import SpecError
from dovetail.formats.kernel_basis.layer import KernelBasisLayer
from dovetail.methods.shrinking.coupling import Coupling
from dovetail.methods.shrinking.removal import producers, readers
from dovetail.methods.shrinking.sites import Site
from dovetail.methods.shrinking.tracks import Bools, Floats, Ints

Cost = Callable[[Site, Bools, Bools], int]
"""Multiply-accumulates per image of a site with these outputs and inputs kept (booleans)."""

Costs = Mapping[str, Cost]


def dense_macs(site: Site, outputs: Bools, inputs: Bools) -> int:
    """K' C'/groups R S H' W'; a depthwise convolution has one input per output, other groups keep all."""
    fan_in = int(inputs.sum()) if site.reader else site.weight.shape[1]
    kernel = int(np.prod(site.weight.shape[2:]))
    return int(outputs.sum()) * fan_in * kernel * site.positions[1]


def total_macs(coupling: Coupling, removed: Bools, costs: Costs = {}) -> int:  # noqa: B006 - never changed
    """Of all weight ops without the removed channels; sites that `costs` does not name are dense."""
    return sum(_cost(site, removed, costs) for site in coupling.sites.values())


def importance(coupling: Coupling, thrift: float = 0.0) -> Floats:
    """`(count,)`: norm of the producer's row times norm of the consumer's column, over the mean of the layer.

    Joined channels have the root of the sum of squares of all their rows, and of all their columns. The score is then
    divided by the channel's dense multiply-accumulates to the power `thrift`, so that dear channels go earlier.
    """
    rows, columns = np.zeros(coupling.count), np.zeros(coupling.count)
    for site in producers(coupling):
        np.add.at(rows, site.outputs, site.energy.sum(axis=1))
    for site in readers(coupling):
        np.add.at(columns, site.inputs, site.energy.sum(axis=0))
    score = np.sqrt(rows * columns)
    means = np.ones(coupling.count)
    for site in producers(coupling):
        means[site.outputs] = max(float(score[site.outputs].mean()), np.finfo(float).tiny)
    score = score / means
    return score / savings(coupling) ** thrift if thrift else score


def savings(coupling: Coupling) -> Floats:
    """`(count,)`: dense multiply-accumulates that leave with each free channel alone; 1 for the others."""
    saved, nothing, touching = np.ones(coupling.count), np.zeros(coupling.count, dtype=bool), _touching(coupling)
    for atom in coupling.free.tolist():
        alone = nothing.copy()
        alone[atom] = True
        sites = [coupling.sites[name] for name in touching[atom]]
        saved[atom] = max(1, sum(_cost(site, nothing, {}) - _cost(site, alone, {}) for site in sites))
    return saved


def weakest(coupling: Coupling, score: Floats, removed: Bools, keep: int) -> Bools:
    """`removed` and the weakest free channels besides, until at most `keep` are left (at least one of every layer)."""
    removed = removed.copy()
    for atom in _order(coupling, score, removed):
        if int((~removed[coupling.free]).sum()) <= keep:
            break
        if not _last(coupling, removed, atom):
            removed[atom] = True
    return removed


def within(coupling: Coupling, score: Floats, removed: Bools, budget: int, costs: Costs) -> Bools:
    """`removed` and the weakest free channels besides, one by one until the network takes at most `budget`.

    Raises:
        SpecError: even with one free channel left in every layer the network takes more.
    """
    removed = removed.copy()
    touching = _touching(coupling)
    spent = {name: _cost(site, removed, costs) for name, site in coupling.sites.items()}
    total = sum(spent.values())
    for atom in _order(coupling, score, removed):
        if total <= budget:
            return removed
        if _last(coupling, removed, atom):
            continue
        removed[atom] = True
        for name in touching[atom]:
            now = _cost(coupling.sites[name], removed, costs)
            total, spent[name] = total + now - spent[name], now
    if total > budget:
        raise SpecError(
            f"the network cannot come down to {budget} multiply-accumulates by removing channels: {total} remain with "
            "one removable channel per layer; raise the target"
        )
    return removed


def least_macs(coupling: Coupling, costs: Costs = {}) -> int:  # noqa: B006 - never changed
    """With one removable channel per layer; sites that `costs` does not name are dense."""
    order = np.zeros(coupling.count)
    return total_macs(coupling, weakest(coupling, order, np.zeros(coupling.count, dtype=bool), 0), costs)


@torch.no_grad()
def silence(model: nn.Module, coupling: Coupling, removed: Bools) -> None:
    """Zero the rows that produce these channels and the columns that read them."""
    for site in producers(coupling):
        if removed[site.outputs].any():
            _weights(model, site.name)[_at(removed, site.outputs)] = 0.0
    for site in readers(coupling):
        if removed[site.inputs].any():
            _weights(model, site.name)[:, _at(removed, site.inputs)] = 0.0


def _weights(model: nn.Module, name: str) -> Tensor:
    """The tensor whose first two axes are output and input channels."""
    layer = model.get_submodule(name)
    return layer.coefficients if isinstance(layer, KernelBasisLayer) else layer.get_parameter("weight")


def _at(removed: Bools, atoms: Ints) -> Tensor:
    return torch.from_numpy(np.flatnonzero(removed[atoms]))


def _cost(site: Site, removed: Bools, costs: Costs) -> int:
    return costs.get(site.name, dense_macs)(site, ~removed[site.outputs], ~removed[site.inputs])


def _order(coupling: Coupling, score: Floats, removed: Bools) -> list[int]:
    free = coupling.free[~removed[coupling.free]]
    return free[np.argsort(score[free], kind="stable")].tolist()


def _touching(coupling: Coupling) -> dict[int, list[str]]:
    names: dict[int, list[str]] = {}
    for name, site in coupling.sites.items():
        for atom in np.union1d(site.inputs, site.outputs).tolist():
            names.setdefault(atom, []).append(name)
    return names


def _last(coupling: Coupling, removed: Bools, atom: int) -> bool:
    """Whether some layer has no other channel left."""
    return any(
        atom in site.outputs and not (~removed[site.outputs] & (site.outputs != atom)).any()
        for site in coupling.sites.values()
    )
