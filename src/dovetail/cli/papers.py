"""Papers: what each claims of its machine, and the networks that are simulated to see, as data."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationInfo, field_validator

from dovetail.cli.schema import YAML, Part, folder_of, part_in, suggest
from dovetail.errors import RecipeError

OURS = "ours"


class Claim(Part):
    """What other machines take, over what the paper's machine takes.

    Attributes:
        machines: the others, by their names.
        time, energy: as published.
    """

    machines: tuple[str, ...] = Field(min_length=1)
    time: float = Field(gt=0)
    energy: float = Field(gt=0)


class Within(Part):
    """By which factor the models may miss what is published."""

    time: float = Field(gt=1)
    energy: float = Field(gt=1)


class Paper(Part):
    """A machine, its claims, and the networks that run on it and on the others.

    Attributes:
        title: of the page.
        machine: that the paper describes.
        known: where the published figures are known from, in words.
        claims: name → figures.
        within: what is asked of the models; nothing where left out.
        beside: machines of no claim that run the paper's own networks, too.
        images: of the test set, that each network meets.
        tornado: parameters with these marks are halved and doubled.
        networks: name → the recipe of the paper's own network (`ours`), and of the one that the machines of each claim
            run.
        notes: what decides the figures, in Markdown.
    """

    title: str
    machine: str
    known: str
    claims: dict[str, Claim] = Field(min_length=1)
    within: Within | None = None
    beside: tuple[str, ...] = ()
    images: int = Field(1, ge=1)
    tornado: tuple[str, ...] = ()
    networks: dict[str, dict[str, str]] = Field(min_length=1)
    notes: str = ""

    @field_validator("claims")
    @classmethod
    def _of_others(cls, claims: dict[str, Claim], info: ValidationInfo) -> dict[str, Claim]:
        if OURS in claims:
            raise ValueError(f"{OURS!r} names the paper's own network; call the claim something else")
        if own := [name for name, claim in claims.items() if info.data.get("machine") in claim.machines]:
            raise ValueError(f"{own[0]!r} compares {info.data['machine']!r} with itself; name other machines")
        return claims

    @field_validator("beside")
    @classmethod
    def _of_no_claim(cls, beside: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        claimed = [
            info.data.get("machine"),
            *(m for claim in info.data.get("claims", {}).values() for m in claim.machines),
        ]
        if twice := [name for i, name in enumerate(beside) if name in (*claimed, *beside[:i])]:
            raise ValueError(f"{twice[0]!r} runs the paper's own network anyway; leave it out")
        return beside

    @field_validator("tornado")
    @classmethod
    def _marks(cls, marks: tuple[str, ...]) -> tuple[str, ...]:
        return known_marks(marks)

    @field_validator("networks")
    @classmethod
    def _of_claims(cls, networks: dict[str, dict[str, str]], info: ValidationInfo) -> dict[str, dict[str, str]]:
        known = (OURS, *info.data.get("claims", ()))
        for name, parts in networks.items():
            if unknown := [part for part in parts if part not in known]:
                raise ValueError(f"{name!r} says what {unknown[0]!r} is; {suggest(unknown[0], known)}")
            if OURS not in parts or len(parts) == 1:
                raise ValueError(f"{name!r} needs {OURS!r}, and what the machines of one claim run at least")
        return networks

    def run_ours(self, claims: Iterable[str]) -> tuple[str, ...]:
        """The machines that run the paper's own network: its own, those of claims, and those beside them."""
        return (self.machine, *self.others(claims), *self.beside)

    def others(self, claims: Iterable[str]) -> tuple[str, ...]:
        """The machines of claims, each once."""
        return tuple(dict.fromkeys(name for claim in claims for name in self.claims[claim].machines))


def known_marks(marks: tuple[str, ...]) -> tuple[str, ...]:
    """The same marks; `ValueError` where one is none."""
    from dovetail.accelerators.parameters import MARKS

    if unknown := [mark for mark in marks if mark not in MARKS]:
        raise ValueError(f"there is no mark {unknown[0]!r}; {suggest(unknown[0], MARKS)}")
    return marks


def folder() -> Path:
    """`benchmarks/papers`, here or in the checkout."""
    return folder_of("benchmarks/papers")


def find(name: str) -> Path:
    """The file of a paper, by name or path; `RecipeError` suggests the nearest name."""
    if name.endswith(YAML):
        return Path(name)
    known = {path.stem: path for path in sorted(folder().glob("*.yaml"))}
    if name not in known:
        raise RecipeError(f"there is no paper {name!r} in {folder()}; {suggest(name, known)}")
    return known[name]


def read(path: Path) -> Paper:
    """The paper in a file; `RecipeError`."""
    return part_in(path, Paper, "paper")


def result_path(path: Path) -> Path:
    """Where the result of a paper stands: `results/<paper>.json` beside it."""
    return path.parent / "results" / f"{path.stem}.json"


def other_machines(result: Mapping[str, Any]) -> list[str]:
    """How machines differ from those that a result is of."""
    from dovetail.accelerators import machine_named

    found = []
    for name, before in result["machines"].items():
        now = json.loads(json.dumps(machine_named(name).to_json()))
        then = {row["field"]: (row["value"], row["mark"]) for row in before["parameters"]}
        fields = [row["field"] for row in now["parameters"] if (row["value"], row["mark"]) != then.get(row["field"])]
        if fields or now["units"] != before["units"]:
            found.append(f"{name} has another {', '.join(fields) or 'number of multipliers'}")
    return found
