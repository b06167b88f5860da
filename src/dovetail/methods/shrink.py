"""Physical removal of channels: dead channels leave the network, and every layer that touched them becomes smaller.

Channels are followed through the lowered Program, so that tensors which are added keep the same ones, a flattened
channel takes its columns along, and what cannot be followed stays as it is, with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from dovetail.errors import SpecError
from dovetail.methods.shrinking.binding import Bound, Example, bind, call
from dovetail.methods.shrinking.channels import ChannelMap, Channels
from dovetail.methods.shrinking.rebuild import Rebuilt, foldable, rebuild
from dovetail.methods.shrinking.removal import Mode, chosen, dead
from dovetail.training.metrics import evaluating

__all__ = ["Bound", "ChannelMap", "Channels", "bind", "shrink"]


def shrink(
    model: nn.Module,
    example: Example,
    *,
    mode: Mode = "exact",
    keep: ChannelMap | Mapping[str, Sequence[int]] | None = None,
) -> ChannelMap:
    """Remove dead channels from `model` in place; batch norms in eval mode are part of what counts as dead.

    A channel is dead when no weight that matters reads it, or when it carries a constant whatever the input is (its
    producer has only zero weights; PENNI, section 3). At least one channel of every layer stays.

    Args:
        model: any network that `lower` can read; layers that lose channels are replaced by smaller ones.
        example: an input (or a tuple of them) as for `lower`.
        mode: `"exact"` keeps the function in eval mode: a constant v = activation(shift) is folded into the consumer's
            bias or norm where that is exact (no zero padding around it, or v = 0), otherwise its channel stays.
            `"paper"` just deletes constants, for networks that are trained on or recalibrated afterwards.
        keep: kept output channels of some layers, chosen by the caller, or the map of an earlier shrink of an equal
            model. Exactly the others go, dead or not; coupled layers follow.

    Returns:
        Which channels every layer kept, and why channels elsewhere were left alone.

    Raises:
        SpecError: `keep` cannot be followed, or the model does not run with fewer channels (a hard-coded number in its
            `forward`); the model is then as it was.
    """
    if mode not in ("exact", "paper"):
        raise SpecError(f"unknown shrink mode {mode!r}; known are exact, paper")
    bound = bind(model, example)
    if keep is None:
        removed = dead(bound.coupling, mode, foldable(model, bound))
    else:
        removed = chosen(bound.coupling, keep.outputs() if isinstance(keep, ChannelMap) else keep, bound.norms)
    with evaluating(model):
        before = _leaves(model, example)
    rebuilt = rebuild(model, bound, removed, mode)
    _check(model, example, rebuilt, before, exact=mode == "exact" and keep is None)
    return rebuilt.map


def _leaves(model: nn.Module, example: Example) -> list[Any]:
    return tree_leaves(call(model, example))


def _check(model: nn.Module, example: Example, rebuilt: Rebuilt, before: list[Any], *, exact: bool) -> None:
    """Run the smaller model; where it fails or an exact result moved, restore the old one and say so."""
    problem = ""
    try:
        with evaluating(model):
            after = _leaves(model, example)
        if [_shape(leaf) for leaf in after] != [_shape(leaf) for leaf in before]:
            problem = "its outputs change their shape"
        elif exact and not all(_near(a, b) for a, b in zip(after, before)):
            problem = "its outputs change, so its forward must depend on channel numbers"
    except (RuntimeError, ValueError, IndexError) as error:
        problem = f"its forward fails ({str(error).splitlines()[0]})"
    if problem:
        rebuilt.undo(model)
        raise SpecError(f"with fewer channels this model does not work: {problem}; the model is unchanged")


def _shape(leaf: Any) -> Any:
    return tuple(leaf.shape) if isinstance(leaf, Tensor) else None


def _near(after: Any, before: Any) -> bool:
    """Equal to a thousandth of the range: rounding passes, a channel taken for another does not."""
    if not isinstance(before, Tensor) or not before.is_floating_point() or not bool(before.isfinite().all()):
        return True
    return float((after - before).abs().max()) <= 1e-3 * max(float(before.abs().max()), 1e-3)
