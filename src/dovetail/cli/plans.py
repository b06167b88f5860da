"""A plan of `dovetail fit`: made, noted, written as a recipe, taken up again, and trained."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dovetail import files
from dovetail.cli.console import say
from dovetail.cli.notes import SUFFIX
from dovetail.cli.schema import Network, Recipe, read
from dovetail.errors import BudgetError, DataError, RecipeError
from dovetail.report import fits

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

    from dovetail.cli.materials import Sets
    from dovetail.fitting import Asked, Modelled, Survey
    from dovetail.program.program import Program
    from dovetail.search.plan import Found
    from dovetail.training.data import Loader

PACKED = ".dovetail"
MACHINE = ("cpu", "cores", "isa", "engine_isa")
"""What times of layers hang on."""


@dataclass(frozen=True)
class Call:
    """One call of `dovetail fit`: what is asked, of what, and where the answer goes.

    Attributes:
        recipe: whose network, data and training are taken.
        budget: in the words of the caller.
        target: the recipe to write.
        case: of the benchmarks, which the written recipe and its packed network get; None: none.
        peers: of which the fastest is 1x of a latency.
        model: the dense network.
        folder: of recipes, in which its weights were found where another one has trained them.
    """

    recipe: Recipe
    asked: Asked
    budget: str
    target: Path
    threads: int | None
    seed: int
    root: Path | None
    peers: tuple[str, ...]
    model: nn.Module
    sets: Sets
    held_out: Loader
    folder: Path
    case: str | None = None

    @classmethod
    def open(
        cls,
        recipe: Recipe,
        asked: Asked,
        budget: str,
        target: Path,
        *,
        threads: int | None,
        seed: int,
        root: Path | None,
        peers: tuple[str, ...],
        folder: Path,
        case: str | None = None,
    ) -> Call:
        """With the network, its data and the teacher, if there is one: what is missing is missed now."""
        import torch

        from dovetail.cli.materials import build_method, build_network, fitted, open_sets, require_fit

        torch.manual_seed(seed)
        sets = open_sets(recipe.data, recipe.dense.name, root, seed)
        if sets.held_out is None:
            raise BudgetError("sensitivity and accuracy are measured on held-out images; give data.held_out")
        network = fitted(recipe.network, sets)
        model = build_network(network, root).eval()
        require_fit(model, network.name, sets)
        build_method(recipe.method, root, sets)
        return cls(recipe, asked, budget, target, threads, seed, root, peers, model, sets, sets.held_out, folder, case)

    @property
    def notes(self) -> Path:
        """The prediction, beside the recipe, and in the end what came of it."""
        return self.target.with_suffix(SUFFIX)

    @property
    def packed(self) -> Path:
        """The trained network."""
        return self.target.with_suffix(PACKED)

    @property
    def drawn(self) -> str:
        """Where the notes can be looked at."""
        return f"`dovetail report --fits {shlex.quote(str(self.notes))}` draws what was measured"

    @property
    def images(self) -> np.ndarray:
        """Training images as they are, for calibration."""
        from dovetail.fitting import CALIBRATION, as_array, first_images

        return as_array(first_images(self.sets.calibration, CALIBRATION))

    @property
    def question(self) -> dict[str, Any]:
        """All that a plan depends on, as plain data."""
        from dovetail.engine.native import cores
        from dovetail.training.fingerprint import checksum

        asked = {
            "recipe": written(self.recipe),
            "weights": checksum(self.model),
            "budget": self.budget,
            "accuracy_drop": self.asked.budget.accuracy_drop,
            "values": "int8" if self.asked.int8 else "f32",
            "rule": self.asked.rule,
            "margin": self.asked.margin,
            "against": list(self.peers),
            "threads": self.threads or cores(),
            "seed": self.seed,
        } | {name: value for name, value in (("machine", self.asked.machine), ("case", self.case)) if value is not None}
        plain: dict[str, Any] = json.loads(json.dumps(asked))
        return plain

    def remembered(self) -> dict[str, Any] | None:
        """What an earlier call with the same words has written.

        Raises:
            DataError: the notes are damaged, or have the times of another machine.
            RecipeError: they are of another call.
        """
        from dovetail.peers.machine import machine
        from dovetail.search.table import differences

        if not self.notes.is_file():
            return None
        try:
            told = json.loads(self.notes.read_text())
            asked, found = told["asked"], told["plan"]
            trains, there = gains(found), {name: found["survey"]["machine"].get(name) for name in MACHINE}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{self.notes} is no plan of `dovetail fit` ({error!r}); {self._anew}, or give another --out"
            ) from None
        own = machine()
        if other := differences({name: own[name] for name in MACHINE}, there):
            raise DataError(
                f"{self.notes} has the times of another machine: {other}; {self._anew}, or give another --out"
            )
        if asked != self.question:
            raise RecipeError(
                f"{self.notes} is the plan of another call of `dovetail fit`; {self._anew}, or give another --out"
            )
        if trains and not self.target.is_file():
            return None
        say(f"going on from the plan in {self.notes}; {self._anew}")
        plan: dict[str, Any] = found
        return plan

    def choose(self, costs: Path | None) -> dict[str, Any]:
        """Measure, choose, and write the prediction and then the recipe, which is not there where nothing changes."""
        import torch

        from dovetail import fitting

        times, int8 = fitting.open_table(self.threads, costs, int8=self.asked.int8), self.asked.int8
        images = self.images
        self.asked.require(self.model, torch.from_numpy(images[:1]))
        modelled = self._modelled(images)
        measured = fitting.survey(self.model, images, int8=int8, threads=self.threads, peers=self.peers)
        for name in self.asked.budget.limits():
            say(f"1x of {name} is {_reference(name, measured, modelled)}")
        if self.recipe.method.name == "thin":
            race = partial(fitting.raced_as_surveyed, model=self.model, images=images, measured=measured)
            found = fitting.choose_width(self._of_width, images, self.asked, measured, race=race)
        else:
            found = fitting.choose(
                self.model, images, self.asked, measured, table=times, modelled=modelled,
                held_out=fitting.first_images(self.held_out, fitting.SENSITIVE),
                memory=Path(self.recipe.runs) / f"{self.target.stem}-sensitivity.json",
                rehearse=lambda plan: fitting.rehearse(self.model, images, plan, measured),
            )  # fmt: skip
        told = _told(measured) | {"references": fitting.references(measured, modelled)}
        plan = found.to_json() | {"survey": told, "thin": self._thin(images, found, measured)}
        self.note(plan)
        if found.gains:
            self._write(found)
        return plan

    def train(self) -> Program:
        """The packed network of the written recipe."""
        from dovetail.cli import pipeline, recipes

        whole = read(self.target).model_copy(update={"runs": self.recipe.runs})  # what is written names no folder
        recipe = recipes.with_weights(whole, self.folder)
        done = pipeline.train(recipe, self.target.stem, self.seed, self.root)
        program = pipeline.pack_trained(recipe, self.target.stem, done)
        program.save(self.packed)
        return program

    def achieved(self, plan: Mapping[str, Any], program: Program) -> dict[str, Any]:
        """What came of the plan, with accuracies on held-out images."""
        from dovetail import fitting
        from dovetail.cli import score

        told = plan["survey"]
        accuracies = {
            "dense_accuracy": score.through_torch(self.model, self.held_out).accuracy,
            "accuracy": score.through_engine(program, self.held_out).accuracy,
        }
        expected = fitting.Expected(
            plan["predicted"], told["references"], told["layers"], told["scale"], told["threads"]
        )
        return fitting.came_of(program, self.model, self.images, self.asked, expected, accuracies, peers=self.peers)

    def note(self, plan: Mapping[str, Any], achieved: Mapping[str, Any] | None = None) -> fits.Fitted:
        """Write down the plan, and what came of it once that is known."""
        ended = {} if achieved is None else {"achieved": dict(achieved)}
        told = json.dumps({"asked": self.question, "plan": dict(plan), **ended}, indent=1, ensure_ascii=False)
        files.write(self.notes, told + "\n", error=DataError)
        return fits.Fitted.from_json(json.loads(told))

    def _modelled(self, images: np.ndarray) -> Modelled | None:
        """The dense network on the machine that is named, if one is; what layers cost there is kept in the runs."""
        from dovetail import fitting

        name = f"{self.target.stem}-{self.asked.machine}.json"
        return fitting.on_machine(self.asked, self.model, images, memory=Path(self.recipe.runs) / name)

    @property
    def _anew(self) -> str:
        """How to plan anew, in words."""
        there = [str(path) for path in (self.notes, self.target, self.packed) if path.is_file()]
        return f"remove {', '.join(there)} to plan anew"

    def _thin(self, images: np.ndarray, found: Found, measured: Survey) -> dict[str, float] | None:
        """The dense network of fewer channels that would take as long; None where the network has no width."""
        from dovetail.fitting import width_within

        if not (found.changed and "latency" in found.limits) or not has_width(self.recipe.network):
            return None
        thin = width_within(self._of_width, images, found.predicted["latency"], measured)
        return None if thin is None else {"width": thin[0], "seconds": thin[1]}

    def _of_width(self, width: float) -> nn.Module:
        """The network with a share of its channels and random weights."""
        from dovetail import zoo
        from dovetail.cli.materials import fitted

        network = narrower(fitted(self.recipe.network, self.sets), width)
        return zoo.build(network.name, **network.options)

    def _write(self, found: Found) -> None:
        settings = self.recipe.settings.model_copy(update={"seeds": (self.seed,)})
        recipe = written(self.recipe.model_copy(update={"settings": settings}))
        method, name = dict(recipe["method"]) | {"quantize": self.asked.int8}, self.recipe.network.name
        if found.width is None:
            title = f"{name} within {self.budget}: a format for each layer by what it costs here"
            method["plan"] = _plan_of(found)
        else:
            title = f"{name} within {self.budget}: {found.width:g} of the channels, trained from nothing"
            thinner = narrower(self.recipe.network, found.width).model_dump(mode="json", exclude_defaults=True)
            recipe |= {"network": thinner, "original": recipe["network"]}
        case = {} if self.case is None else {"case": self.case}
        files.write(self.target, _yaml({**recipe, "title": title, "method": method, **case}), error=DataError)


def gains(plan: Mapping[str, Any]) -> bool:
    """Whether a plan, as notes have it, trains anything."""
    return plan.get("width") is not None or any(layer["spec"] for layer in plan["decisions"])


def has_width(network: Network) -> bool:
    """Whether the network can be built with a share of its channels."""
    from dovetail import zoo

    return ":" not in network.name and "width" in zoo.registry.find(network.name).options()


def narrower(network: Network, width: float) -> Network:
    """The network with a share of its channels, which may be few already, and random weights."""
    own = network.options.get("width", 1.0)
    return Network(name=network.name, options={**network.options, "width": own * width})


def require_width(network: Network) -> None:
    """`RecipeError` where no width can be chosen."""
    from dovetail import zoo

    if not has_width(network):
        known = [name for name, row in zoo.registry.NETWORKS.items() if "width" in row.options()]
        raise RecipeError(
            f"method thin chooses a width, and the network {network.name!r} has no option `width`; {', '.join(known)} "
            "have one"
        )


def free(target: Path) -> Path:
    """`target`, where no recipe or packed network is in the way but those of an earlier call, with its notes."""
    if not target.with_suffix(SUFFIX).is_file():
        for path in (target, target.with_suffix(PACKED)):
            if path.exists():
                raise RecipeError(
                    f"{path} is there already, without notes of `dovetail fit`; remove it, or give another --out"
                )
    return target


def written(recipe: Recipe) -> dict[str, Any]:
    """A recipe as a file has it: what other recipes have trained by their names, without folders and its own case."""
    data = recipe.model_dump(mode="json", exclude_defaults=True, exclude={"runs", "case", "weights", "aims"})
    for network in (data["network"], data.get("original"), (data["method"].get("teacher") or {}).get("network")):
        if network and network.get("trained"):
            network.pop("weights", None)
    return data


def _reference(cost: str, measured: Survey, modelled: Modelled | None) -> str:
    """What a share of a cost is of, in words."""
    if modelled is not None and cost in modelled.references:
        return f"{fits.told(cost, modelled.references[cost])} an image, dense on the model of {modelled.machine.name}"
    if cost == "macs":
        return f"{fits.told('macs', measured.references['macs'])} an image, dense"
    if cost == "bytes":
        return f"{fits.told(cost, measured.float_bytes)}, in float32; ours is {fits.told(cost, measured.bytes)}, dense"
    rival, ours = (fits.told(cost, seconds) for seconds in (measured.rival_seconds, measured.raced))
    return f"{rival}, by {measured.rival}; ours takes {ours}, dense"


def _told(measured: Survey) -> dict[str, Any]:
    from dovetail.peers.machine import machine

    return {
        "machine": machine(), "threads": measured.threads, "dense_ms": 1e3 * measured.raced, "rival": measured.rival,
        "rival_ms": 1e3 * measured.rival_seconds, "rest_ms": 1e3 * measured.rest, "scale": measured.scale,
        "layers": dict(measured.layers),
    }  # fmt: skip


def _plan_of(found: Found) -> dict[str, Any]:
    """As a recipe writes it: layers in their order, with what differs from the format's defaults."""
    decided = {d.name: d.reason if d.spec is None else _short(d.spec.to_json()) for d in found.decisions}
    return {**decided, **found.unpriced}


def _short(spec: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in spec.items() if key not in ("version", "values") and value is not None}


def _yaml(data: Mapping[str, Any]) -> str:
    import yaml

    return yaml.safe_dump(json.loads(json.dumps(data)), sort_keys=False, width=120, allow_unicode=True)
