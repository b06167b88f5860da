"""Which channels of a network belong together: the Program walked once, node by node.

The result names atoms (see `tracks`) for the inputs and outputs of every weight op and norm. It knows nothing of torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from dovetail.methods.shrinking.rules import RULES, unknown
from dovetail.methods.shrinking.sites import Site
from dovetail.methods.shrinking.tracks import Bools, Ints
from dovetail.methods.shrinking.walk import Walk
from dovetail.program.ops import complete
from dovetail.program.program import Program


@dataclass(frozen=True)
class Coupling:
    """Every channel of a Program.

    Attributes:
        count: how many atoms there are.
        sites: weight ops by name, in order.
        affine: channels of the per-channel scale-and-bias nodes by name (norms that follow no weight op).
        pins: atom → why it cannot be removed.
        left: layer or op name → why its channels stay.
    """

    count: int
    sites: Mapping[str, Site]
    affine: Mapping[str, Ints]
    pins: Mapping[int, str]
    left: Mapping[str, str] = field(default_factory=dict)

    @property
    def pinned(self) -> Bools:
        """`(count,)`: atoms that stay."""
        return self.mask(self.pins)

    @property
    def free(self) -> Ints:
        """Atoms that some site produces and that may be removed, ascending."""
        produced = [site.outputs for site in self.sites.values() if not site.depthwise]
        every = np.unique(np.concatenate(produced)) if produced else np.zeros(0, dtype=np.int64)
        return every[~self.pinned[every]]

    def mask(self, atoms: Mapping[int, str] | Ints) -> Bools:
        """`(count,)`: true at these atoms."""
        mask = np.zeros(self.count, dtype=bool)
        mask[list(atoms)] = True
        return mask

    def pin(self, atoms: Ints, name: str, reason: str) -> Coupling:
        """A copy where these atoms stay as well, because of the layer called `name`."""
        pins = {**{int(atom): reason for atom in atoms}, **self.pins}
        return replace(self, pins=pins, left={name: reason, **self.left})


def couple(program: Program) -> Coupling:
    """Follow every channel of the main graph.

    Ops that cannot be followed pin the channels that they read; `Coupling.left` says which and why.
    """
    walk = Walk(program)
    for node in program.graph.nodes:
        walk.visit(complete(node), RULES.get(node.op, unknown))
    for name in program.graph.outputs:
        walk.atoms.pin(walk.tracks[name].atoms, "the network returns it")
    numbers, pins = walk.atoms.resolve()
    sites = {s.name: replace(s, inputs=numbers[s.inputs], outputs=numbers[s.outputs]) for s in walk.sites}
    affine = {name: numbers[atoms] for name, atoms in walk.affine.items()}
    return Coupling(int(numbers.max(initial=-1)) + 1, sites, affine, pins, walk.left)
