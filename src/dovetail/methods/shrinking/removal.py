"""Which channels are dead: nobody needs them, or all that they carry is a constant.

Both sets are least fixed points of monotone rules, so the answer depends on no order, and removing it leaves nothing
more to remove.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import numpy as np

from dovetail.errors import SpecError
from dovetail.methods.shrinking.coupling import Coupling
from dovetail.methods.shrinking.sites import Site
from dovetail.methods.shrinking.tracks import Bools, Ints

Mode = Literal["exact", "paper"]


def dead(coupling: Coupling, mode: Mode, foldable: Iterable[str]) -> Bools:
    """`(count,)`: the channels to remove, at least one of every layer being left.

    Args:
        coupling: the channels and what they carry.
        mode: `"exact"` removes what nobody needs, and constants where they are zero or can be folded away;
            `"paper"` removes every constant.
        foldable: layers that have a bias or a norm to fold a constant into.
    """
    places, forced = set(foldable), np.zeros(coupling.count, dtype=bool)
    while True:
        removed = _settle(coupling, mode, places, forced)
        empty = [site.outputs[0] for site in producers(coupling) if removed[site.outputs].all()]
        if not empty:
            return removed
        forced[empty[0]] = True


def chosen(coupling: Coupling, keep: Mapping[str, Sequence[int]], norms: Mapping[str, Ints]) -> Bools:
    """`(count,)`: the channels outside of `keep`, which gives the kept outputs of some layers (or `norms`).

    Raises:
        SpecError: a layer is unknown, a channel does not exist or must stay, a layer would be left without any, or
            two lists disagree about channels that are coupled.
    """
    removed, wanted = np.zeros(coupling.count, dtype=bool), {}
    for name, listed in keep.items():
        outputs = _outputs(coupling, norms, name)
        stays = np.zeros(len(outputs), dtype=bool)
        stays[_checked(name, listed, len(outputs))] = True
        removed[outputs[~stays]] = True
        wanted.update(dict.fromkeys(outputs[stays].tolist(), name))
        for channel in np.flatnonzero(removed & coupling.pinned).tolist():
            raise SpecError(f"layer {name!r}: channels left out of keep= must stay: {coupling.pins[channel]}")
    for atom, name in wanted.items():
        if removed[atom]:
            raise SpecError(f"keep= contradicts itself: a channel kept in {name!r} is coupled to one that is left out")
    return removed


def producers(coupling: Coupling) -> list[Site]:
    """Sites that make channels of their own (all but the depthwise ones), in order."""
    return [site for site in coupling.sites.values() if not site.depthwise]


def readers(coupling: Coupling) -> list[Site]:
    """Sites that read channels through a weight column each, in order."""
    return [site for site in coupling.sites.values() if site.reader]


def _settle(coupling: Coupling, mode: Mode, places: set[str], forced: Bools) -> Bools:
    free = np.zeros(coupling.count, dtype=bool)
    free[coupling.free] = True
    free &= ~forced
    removed = np.zeros(coupling.count, dtype=bool)
    while True:
        kept = _needed(coupling, removed)
        following = _together(coupling, free & (~kept | _constant(coupling, mode, places, kept)))
        if (following == removed).all():
            return removed
        removed = following


def _together(coupling: Coupling, removed: Bools) -> Bools:
    """Those of `removed` whose neighbours that share places with them are all among them: the largest such set."""
    removed, sites = removed.copy(), [site for site in producers(coupling) if site.together > 1]
    while True:
        before = int(removed.sum())
        for site in sites:
            starts = np.arange(0, len(site.outputs), site.together)
            whole = np.logical_and.reduceat(removed[site.outputs], starts).repeat(site.together)[: len(site.outputs)]
            removed[site.outputs[~whole]] = False
        if int(removed.sum()) == before:
            return removed


def _needed(coupling: Coupling, removed: Bools) -> Bools:
    """Channels that reach something pinned through weights that are not zero, `removed` ones left out."""
    needed, sites = coupling.pinned & ~removed, readers(coupling)
    while True:
        before = int(needed.sum())
        for site in reversed(sites):
            read = site.reads[needed[site.outputs]].any(axis=0)
            needed[site.inputs[read]] = True
            needed &= ~removed
        if int(needed.sum()) == before:
            return needed


def _constant(coupling: Coupling, mode: Mode, places: set[str], kept: Bools) -> Bools:
    """Channels of which every kept reader would miss a constant only, one that it may lose."""
    constant = np.ones(coupling.count, dtype=bool)
    for site in readers(coupling):
        loses = site.silent if mode == "paper" else site.removable(site.name in places)
        read = site.reads[kept[site.outputs]].any(axis=0)
        constant[site.inputs[read & ~loses]] = False
    return constant


def _outputs(coupling: Coupling, norms: Mapping[str, Ints], name: str) -> Ints:
    if name in coupling.sites:
        return coupling.sites[name].outputs
    if name in norms:
        return norms[name]
    raise SpecError(f"keep= names {name!r}, but no such layer has channels; it could name {', '.join(coupling.sites)}")


def _checked(name: str, listed: Sequence[int], count: int) -> list[int]:
    kept = sorted({int(channel) for channel in listed})
    if not kept or kept[0] < 0 or kept[-1] >= count:
        raise SpecError(f"layer {name!r}: keep= must list some of its {count} channels, not {list(listed)}")
    return kept
