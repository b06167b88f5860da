"""Sheets: networks of seeded random weights for races about time only, as data. A sheet has one case a variant.

Like a recipe, a sheet may name another as its `base` and say only what differs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from dovetail.cli.schema import YAML, Layers, Network, Part, folder_of, part_in, suggest
from dovetail.errors import RecipeError
from dovetail.peers import PEERS
from dovetail.peers.machine import portable

Values = Literal["f32", "int8"]


class Variant(Part):
    """What becomes of the network in one case.

    Attributes:
        layers: as in a recipe's plan; of random weights the largest are at random places.
        values: "int8" computes in whole numbers; by default as the sheet says.
        part: a module of the network that races alone.
        zeros: the part of the inputs that is zero, at random places: a layer after a ReLU.
        options: of the network, beside or in place of the sheet's.
        input: shape of one image, in place of the sheet's.
        beside: another variant, of the same network and images, that our engine runs in the same race.
    """

    layers: Layers = Field(default_factory=dict)
    values: Values | None = None
    part: str | None = None
    zeros: float = Field(default=0.0, ge=0, lt=1)
    options: dict[str, Any] = Field(default_factory=dict)
    input: tuple[int, ...] | None = Field(default=None, min_length=1)
    beside: str | None = None

    def asks(self) -> tuple[object, ...]:
        """What variants that race beside each other have in common."""
        return self.part, self.zeros, self.options, self.input


class Sheet(Part):
    """A network and the cases that it races in.

    Attributes:
        network: without weights.
        input: shape of one image.
        values: of variants that say nothing else.
        seed: of weights and images.
        variants: second part of the cases' names → what becomes of the network.
        peers: who races beside the usual ones: those for networks of linear layers.
    """

    network: Network
    input: tuple[int, ...] = Field(min_length=1)
    values: Values = "f32"
    seed: int = 0
    variants: dict[str, Variant] = Field(min_length=1)
    peers: tuple[str, ...] = ()

    @field_validator("peers")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in PEERS:
                raise ValueError(f"unknown peer {name!r}; known are {', '.join(PEERS)}")
        return names

    @field_validator("variants")
    @classmethod
    def _neighbours(cls, variants: dict[str, Variant]) -> dict[str, Variant]:
        for name, what in variants.items():
            if what.beside is None:
                continue
            if what.beside == name or what.beside not in variants:
                others = ", ".join(other for other in variants if other != name)
                raise ValueError(f"{name} cannot race beside {what.beside!r}; the other variants are {others}")
            if variants[what.beside].asks() != what.asks():
                raise ValueError(f"{name} and {what.beside}, beside it, differ in part, zeros, options or input")
        return variants

    @field_validator("network")
    @classmethod
    def _no_weights(cls, network: Network) -> Network:
        if not network.random:
            raise ValueError("the weights of a sheet are random; race trained ones from their .dovetail file")
        return network


@dataclass(frozen=True)
class Case:
    """One variant of a sheet."""

    path: Path
    variant: str
    sheet: Sheet

    @property
    def network(self) -> str:
        """First part of the case's name: the sheet's."""
        return self.path.stem

    @property
    def name(self) -> str:
        """As results have it."""
        return f"{self.network}/{self.variant}"

    @property
    def word(self) -> str:
        """What `cases` takes for this one case."""
        return self.name if self.path.parent == folder() else f"{portable(self.path)}/{self.variant}"

    @property
    def what(self) -> Variant:
        """What becomes of the network."""
        return self.sheet.variants[self.variant]

    @property
    def values(self) -> Values:
        """What it computes in."""
        return self.what.values or self.sheet.values

    @property
    def beside(self) -> Case | None:
        """The case that races in the same race, if any."""
        return None if self.what.beside is None else replace(self, variant=self.what.beside)

    @property
    def built(self) -> Network:
        """The dense network, with the options of this case."""
        network = self.sheet.network
        return network.model_copy(update={"options": network.options | self.what.options})

    @property
    def input(self) -> tuple[int, ...]:
        """Shape of one image."""
        return self.what.input or self.sheet.input


def folder() -> Path:
    """`benchmarks/networks`, here or in the checkout."""
    return folder_of("benchmarks/networks")


def listed() -> list[Path]:
    """Every sheet, by name."""
    return sorted(folder().glob("*.yaml"))


def read(path: Path) -> Sheet:
    """The sheet in a file; `RecipeError`."""
    return part_in(path, Sheet, "sheet")


def cases(name: str) -> list[Case]:
    """The cases of a sheet, by its path or name, or the one whose variant follows after a slash.

    Raises:
        RecipeError: there is no such sheet or variant; the message suggests the nearest.
    """
    path, variant = _parsed(name)
    sheet = read(path)
    if variant and variant not in sheet.variants:
        raise RecipeError(f"{path} has no variant {variant!r}; {suggest(variant, sheet.variants)}")
    return [Case(path, one, sheet) for one in ([variant] if variant else sheet.variants)]


def _parsed(name: str) -> tuple[Path, str]:
    """The sheet's file, and the variant or nothing."""
    if name.endswith(YAML):
        return Path(name), ""
    network, _, variant = name.rpartition("/") if "/" in name else (name, "", "")
    if network.endswith(YAML):
        return Path(network), variant
    known = {path.stem: path for path in listed()}
    if network not in known:
        raise RecipeError(f"there is no sheet {network!r} in {folder()}; {suggest(network, known)}")
    return known[network], variant
