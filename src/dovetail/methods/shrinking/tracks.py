"""The channels of one tensor while they are followed: which ones they are, and which of them carry no signal.

A channel is an *atom*: a number that every tensor position carrying that channel shares. Atoms that must live or die
together (because tensors are added) are joined; atoms that nothing may remove are pinned, with the reason.
A position is *silent* where its value does not depend on the network's input; its `level` is that value where it is
the same everywhere on the map, and NaN where it is not (near the borders, say).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]


class Atoms:
    """Union-find over channels, and the reasons why some of them stay."""

    def __init__(self) -> None:
        self._parent: list[int] = []
        self._pins: dict[int, str] = {}

    def fresh(self, count: int) -> Ints:
        """`count` new atoms."""
        start = len(self._parent)
        self._parent.extend(range(start, start + count))
        return np.arange(start, start + count, dtype=np.int64)

    def find(self, atom: int) -> int:
        """The representative of the set that holds `atom`."""
        while self._parent[atom] != atom:
            self._parent[atom] = self._parent[self._parent[atom]]
            atom = self._parent[atom]
        return atom

    def join(self, left: Ints, right: Ints) -> None:
        """Position by position, the two channels share one fate."""
        for a, b in zip(left.tolist(), right.tolist(), strict=True):
            low, high = sorted((self.find(a), self.find(b)))
            self._parent[high] = low

    def pin(self, atoms: Ints, reason: str) -> None:
        """None of these may be removed; the first reason given is the one reported."""
        for atom in atoms.tolist():
            self._pins.setdefault(atom, reason)

    def resolve(self) -> tuple[Ints, dict[int, str]]:
        """Every atom's number among the joined sets, and the reason of each pinned set."""
        roots = np.array([self.find(atom) for atom in range(len(self._parent))], dtype=np.int64)
        _, numbers = np.unique(roots, return_inverse=True)
        pins: dict[int, str] = {}
        for atom, reason in sorted(self._pins.items()):
            pins.setdefault(int(numbers[atom]), reason)
        return numbers.astype(np.int64), pins


@dataclass(frozen=True)
class Track:
    """The channels along `axis` of a tensor: atoms, silence and levels, each of the length of that axis."""

    axis: int
    atoms: Ints
    silent: Bools
    level: Floats

    @classmethod
    def speaking(cls, axis: int, atoms: Ints) -> Self:
        """Channels that carry signal."""
        return cls(axis, atoms, np.zeros(len(atoms), dtype=bool), np.full(len(atoms), np.nan))

    @property
    def uniform(self) -> Bools:
        """Silent with one known value on the whole map."""
        return self.silent & ~np.isnan(self.level)

    def take(self, index: Ints | slice) -> Self:
        """The channels at `index`, in that order."""
        return replace(self, atoms=self.atoms[index], silent=self.silent[index], level=self.level[index])

    def on(self, axis: int) -> Self:
        """The same channels along another axis."""
        return replace(self, axis=axis)

    def levelled(self, level: Floats, where: Bools | None = None) -> Self:
        """With new levels; where `where` is false the level is no longer uniform."""
        known = self.silent if where is None else self.silent & where
        return replace(self, level=np.where(known, level, np.nan))

    def mixed(self) -> Self:
        """Nothing is known about silence any more."""
        return type(self).speaking(self.axis, self.atoms)


def joined(tracks: Sequence[Track]) -> Track:
    """Channels one after another (a concatenation along their axis)."""
    parts = [np.concatenate([getattr(track, name) for track in tracks]) for name in ("atoms", "silent", "level")]
    return Track(tracks[0].axis, *parts)
