"""`dovetail paper`: what a paper claims of its machine, beside what the models say."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from dovetail import files
from dovetail.cli import evidence, layer_papers, papers, recipes
from dovetail.cli.console import say, table
from dovetail.cli.options import DataFolder, writable
from dovetail.cli.papers import OURS, Paper
from dovetail.cli.schema import Recipe, read
from dovetail.cli.simulations import COMPARISON, FOLDER, read_comparison
from dovetail.errors import DataError, MachineError, RecipeError
from dovetail.peers.machine import command as command_line
from dovetail.peers.machine import versions

Json = Mapping[str, Any]


@dataclass(frozen=True)
class Material:
    """The network of a recipe: its recipe as data, and what the committed result says."""

    name: str
    path: Path
    recipe: Recipe
    result: Json

    @property
    def from_weights(self) -> bool:
        """It is packed from the weights that the result keeps: the packed file may be too large to be committed."""
        return "weights" in self.result

    @property
    def sha256(self) -> str:
        """Of what the network is read from."""
        return str(self.result["weights" if self.from_weights else "program"]["sha256"])

    def file(self) -> Path:
        """What the network is read from, its hash checked."""
        find = evidence.weights_file if self.from_weights else evidence.program_file
        return find(self.result, recipes.result_path(self.path))

    def facts(self, file: Path) -> dict[str, Any]:
        """What the result of a paper says of it."""
        ratios = {key: self.result[key] for key in ("bits_ratio", "macs_ratio")}
        accuracy = round(statistics.fmean(self.result["accuracy"]), 3)
        return {"recipe": self.name, "network": file.stem, "sha256": self.sha256, "accuracy": accuracy, **ratios}


def paper(
    name: Annotated[str, Parameter(help="One of benchmarks/papers, or the path of such a file.")],
    /,
    *,
    simulate: Annotated[bool, Parameter(help="Else the committed result is shown as it is.")] = True,
    data: DataFolder = None,
    out: Annotated[Path | None, Parameter(name=["--out", "-o"], help="A page in Markdown to write as well.")] = None,
) -> None:
    """Simulate the networks or layers of a paper on its machine and on the others, and show what it claims beside that.

    With networks, does what `dovetail simulate --equal` does with the packed networks of committed recipes, and goes on
    where it was stopped. Writes the figures to benchmarks/papers/results.
    """
    path = papers.find(name)
    document = None if out is None else writable(out)
    if layer_papers.is_one(path):
        _of_layers(path, simulate, document)
    else:
        _of_networks(path, simulate, data, document)


def _of_networks(path: Path, simulate: bool, data: Path | None, document: Path | None) -> None:
    from dovetail.report.papers import CLAIMS, GAINS, gains, page, verdicts

    told, target = papers.read(path), papers.result_path(path)
    if simulate:
        _save(_simulated(path, told, data), target)
    result, claimed = read_result(target, path, told), told.model_dump(mode="json")
    found = gains(claimed, result)
    table(told.title, CLAIMS, [verdict.cells() for verdict in verdicts(claimed, found)], left=2)
    if found:
        table("Whose gain it is", GAINS, [gain.cells() for gain in found], left=3)
    if document is not None:
        files.write(document, page(path.stem, claimed, result), error=DataError)
        say(f"wrote {document}")


def _of_layers(path: Path, simulate: bool, document: Path | None) -> None:
    from dovetail.report.layer_papers import CLAIMS, RATIOS, claim_rows, page, ratio_rows

    told, target = layer_papers.read(path), papers.result_path(path)
    if simulate:
        _save(layer_papers.simulated(path, told), target)
    result, claimed = layer_papers.read_result(target, path, told), told.model_dump(mode="json")
    table(told.title, CLAIMS, list(claim_rows(claimed, result)), left=1)
    table("Layers", RATIOS, list(ratio_rows(claimed, result)), left=1)
    if document is not None:
        files.write(document, page(path.stem, claimed, result), error=DataError)
        say(f"wrote {document}")


def read_result(target: Path, path: Path, told: Paper) -> dict[str, Any]:
    """The committed result of the paper in `path`, empty before there is one.

    Raises:
        DataError: it is none, or not of these networks and machines.
    """
    if not target.exists():
        return {"machines": {}, "networks": [], "shared": []}
    try:
        result: dict[str, Any] = json.loads(target.read_text(encoding="utf-8"))
        changed = [*papers.other_machines(result), *_other_networks(result, told)]
    except (OSError, ValueError, KeyError, TypeError, MachineError) as error:
        raise DataError(f"{target} is no result of `dovetail paper` ({error!r}); restore it or remove it") from None
    if changed:
        raise DataError(
            f"{target} is not of {path} as it is now ({'; '.join(changed)}); run `dovetail paper {path.stem}`"
        )
    return result


def _other_networks(result: Json, told: Paper) -> list[str]:
    """How networks differ from those that were simulated; those of the paper that were not are none of them."""
    found = []
    for network in result["networks"]:
        name, parts = network["name"], network["networks"]
        asked = told.networks.get(name, {})
        if {part: facts["recipe"] for part, facts in parts.items()} != asked:
            found.append(f"{name} is of other recipes")
            continue
        if not _needed(told, parts) <= {(pair["machine"], pair["network"]) for pair in network["pairs"]}:
            found.append(f"{name} lacks machines")
        found += [f"{one} has another result" for one in asked.values() if not _same(one, parts)]
    return found


def _needed(told: Paper, parts: Json) -> set[tuple[str, str]]:
    """Machines with their networks: the paper's on all machines, and every claim's on those of the claim."""
    claims = [part for part in parts if part != OURS]
    everywhere = {(machine, parts[OURS]["network"]) for machine in told.run_ours(claims)}
    return everywhere | {(machine, parts[claim]["network"]) for claim in claims for machine in told.others([claim])}


def _same(recipe: str, parts: Json) -> bool:
    sha256 = _material(recipe).sha256
    return any(facts["recipe"] == recipe and facts["sha256"] == sha256 for facts in parts.values())


def _simulated(path: Path, told: Paper, data: Path | None) -> dict[str, Any]:
    """Every network on its machines; what any of them lacks is told before the first is simulated."""
    from dovetail.accelerators import machine_named
    from dovetail.accelerators.common_size import SHARED

    names = told.run_ours(told.claims)
    _require_common_size(names, path)
    try:
        materials = {recipe: _material(recipe) for parts in told.networks.values() for recipe in parts.values()}
        for material in materials.values():
            material.file()
    except RecipeError as error:
        raise RecipeError(f"{path}: {error}") from None
    return {
        "paper": path.stem,
        "command": command_line(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(()),
        "shared": list(SHARED),
        "machines": {name: machine_named(name).to_json() for name in names},
        "networks": [
            _network(name, {part: materials[recipe] for part, recipe in parts.items()}, path.stem, told, data)
            for name, parts in told.networks.items()
        ],
    }


def _network(name: str, parts: Mapping[str, Material], label: str, told: Paper, data: Path | None) -> dict[str, Any]:
    from dovetail.cli.simulate import simulate

    folder = files.make_folder(FOLDER / f"{label}-{name}", error=DataError)
    found = {part: _packed(material, folder, data) for part, material in parts.items()}
    claims = [part for part in parts if part != OURS]
    simulate(
        str(found[OURS]),
        on=told.run_ours(claims),
        baseline=tuple(f"{machine}={found[claim]}" for claim in claims for machine in told.claims[claim].machines),
        equal=True,
        images=told.images,
        tornado=told.tornado,
        data=data,
        out=folder,
    )
    compared = read_comparison(folder / COMPARISON)
    return {
        "name": name,
        "networks": {part: material.facts(found[part]) for part, material in parts.items()},
        **{key: compared[key] for key in ("inputs", "images", "batch", "alike")},
        "pairs": [{key: value for key, value in pair.items() if key != "file"} for pair in compared["pairs"]],
    }


def _require_common_size(names: tuple[str, ...], path: Path) -> None:
    from dovetail.accelerators import machine_named, of_common_size

    for name in names:
        try:
            common = of_common_size(machine_named(name)).name
        except MachineError as error:
            raise MachineError(f"{path}: {error}") from None
        if common != name:
            raise RecipeError(f"{path}: {name} is of another size; write {common}, which stands for it")


def _material(name: str) -> Material:
    path = recipes.find(name)
    return Material(name, path, read(path), evidence.read(recipes.result_path(path)))


def _packed(material: Material, folder: Path, data: Path | None) -> Path:
    """The packed network: the committed one, or one made of committed weights."""
    from dovetail.cli.materials import build_network, fitted, open_sets
    from dovetail.cli.pipeline import describe, pack

    if not material.from_weights:
        return material.file()
    recipe, target = material.recipe, folder / f"{material.name}.dovetail"
    sets = open_sets(recipe.data, recipe.dense.name, data)
    network = fitted(recipe.network.model_copy(update={"weights": str(material.file()), "trained": None}), sets)
    pack(build_network(network, data), sets, describe(recipe, material.name, sets)).save(target)
    return target


def _save(result: Json, target: Path) -> None:
    files.make_folder(target.parent, error=DataError)
    files.write(target, json.dumps(result, indent=1, ensure_ascii=False) + "\n", error=DataError)
    say(f"wrote {target}")
