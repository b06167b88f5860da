"""`dovetail fit`: formats chosen by measured time under a budget; then trained, packed, and held to the prediction."""

from __future__ import annotations

import json
import logging
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from dovetail import files
from dovetail.cli.adhoc import adhoc
from dovetail.cli.console import say, table
from dovetail.cli.notes import SUFFIX
from dovetail.cli.options import DataFolder, On, Runs, Seed, Set, Threads, Weights, writable
from dovetail.cli.schema import Recipe, read
from dovetail.errors import BudgetError, DataError, RecipeError
from dovetail.report import fits, numbers

if TYPE_CHECKING:
    import numpy as np

    from dovetail.cli.materials import Sets
    from dovetail.fitting import Asked, Survey
    from dovetail.program.program import Program
    from dovetail.search.budget import Budget
    from dovetail.search.plan import Found

log = logging.getLogger("dovetail.cli")
YAML = (".yaml", ".yml")
PEERS = ("onnxruntime", "openvino-f32", "openvino-bf16", "openvino-int8")
"""Whose best time a share of the budget is of; the compiled torch network is never the fastest and slow to start."""


AUTO: Mapping[str, Mapping[str, Any]] = {"block": {}, "tucker": {}}
"""What `--method auto` mixes."""


def fit(
    network: Annotated[str, Parameter(help="A recipe (*.yaml), a zoo name, or package.module:callable.")],
    /,
    *,
    budget: Annotated[str, Parameter(help="What it may cost: latency=0.5x, latency=4.5ms, bytes=2MB, or several.")],
    accuracy_drop: Annotated[
        float | None, Parameter(help="Points of accuracy that it may lose; a latency needs it.")
    ] = None,
    method: Annotated[
        str | None, Parameter(help="Whose formats: block, tucker, tdc, magnitude or escalate; auto: a mixture.")
    ] = None,
    on: On | None = None,
    weights: Weights = None,
    values: Annotated[Literal["int8", "f32"], Parameter(help="What the network computes in.")] = "int8",
    rule: Annotated[
        Literal["knapsack", "tdc"], Parameter(help="How formats are chosen: by time and damage, or as TDC does.")
    ] = "knapsack",
    margin: Annotated[
        float | None, Parameter(help="Share of its time by which a format must beat the dense layer.")
    ] = None,
    plan_only: Annotated[bool, Parameter(help="Say what could be gained, and train nothing.", negative=())] = False,
    against: Annotated[tuple[str, ...], Parameter(help="Peers whose best time 1x is.", negative=())] = PEERS,
    costs: Annotated[Path | None, Parameter(help="File of the times of layers; by default in the cache.")] = None,
    threads: Threads = None,
    seed: Seed = 0,
    overrides: Set = (),
    runs: Runs = Path("runs"),
    data: DataFolder = None,
    out: Annotated[
        Path | None, Parameter(name=["--out", "-o"], help="The recipe to write; the packed network goes beside it.")
    ] = None,
) -> None:
    """Choose a format for every layer by its measured time, write the plan as a recipe, then train, pack and race it.

    1x is the fastest dense network in any runtime here. A layer that gains less than the margin stays dense, and the
    table says by how much. The prediction is written before anything is trained; the same command goes on from there.
    """
    from dovetail.search.budget import Budget

    wanted = Budget.parse(budget, accuracy_drop)
    base = _base(network, method, on, weights, overrides, runs)
    target = _target(out, network, f"fit-{base.method.name}-{Path(network).stem.rpartition(':')[2]}-{_label(budget)}")
    if base.network.random and not plan_only:
        raise RecipeError(
            f"{network} has random weights, and a bound on accuracy is against a trained network: give --weights, or "
            "a recipe with weights; --plan-only plans without"
        )
    asked = _asked(wanted, base, rule, margin, int8=values == "int8")
    peers = tuple(against) if "latency" in wanted.limits() else ()
    work = _Work(base, asked, budget, target, values == "int8", threads, seed, data, peers)
    work.open()
    plan = work.remembered() or work.choose(costs)
    _show(plan)
    if not any(layer["spec"] for layer in plan["decisions"]):
        say(f"nothing to gain here: the dense network keeps the budget as it is; {work.notes} has the numbers")
    elif plan_only:
        say(f"wrote {target} and {work.notes}; `dovetail recipe run {target}` trains it")
    else:
        _conclude(work, plan, work.train())
    say(work.drawn)


def _target(out: Path | None, network: str, name: str) -> Path:
    """Where the recipe goes; never over one that is not ours."""
    beside = Path(network).parent if network.endswith(YAML) else Path()
    target = writable(out or beside / f"{name}.yaml")
    if target.suffix not in YAML:
        raise RecipeError(f"--out {target}: a recipe is a .yaml file")
    if target.is_file() and not target.with_suffix(SUFFIX).is_file():
        raise RecipeError(f"--out {target} is there already and not by `dovetail fit`; choose another name")
    return target


def _asked(budget: Budget, recipe: Recipe, rule: Any, margin: float | None, *, int8: bool) -> Asked:
    """What a plan is wanted for; whatever cannot be is refused before anything is measured."""
    from dovetail.cli.materials import called
    from dovetail.fitting import Asked
    from dovetail.methods import METHODS

    name = recipe.method.name
    if name in METHODS and called(recipe.method).quantization() is not None and not int8:
        raise RecipeError(f"method {name} ends in whole numbers; --values f32 is not for it")
    return Asked(budget, name, recipe.method.parameters, rule, margin)


@dataclass
class _Work:
    """One call of `fit`: what is asked, and where things go; `open` comes first."""

    recipe: Recipe
    asked: Asked
    budget: str
    target: Path
    int8: bool
    threads: int | None
    seed: int
    root: Path | None
    peers: tuple[str, ...]
    model: Any = None
    sets: Any = None

    def open(self) -> None:
        """The network and its data, and the teacher where there is one: what is missing is missed now."""
        import torch

        from dovetail.cli.materials import build_method, build_network, fitted, open_sets, require_fit

        torch.manual_seed(self.seed)
        self.sets = open_sets(self.recipe.data, self.recipe.dense.name, self.root, self.seed)
        if self.sets.held_out is None:
            raise BudgetError("sensitivity and accuracy are measured on held-out images; give data.held_out")
        network = fitted(self.recipe.network, self.sets)
        self.model = build_network(network, self.root).eval()
        require_fit(self.model, network.name, self.sets)
        build_method(self.recipe.method, self.root, self.sets)

    @property
    def notes(self) -> Path:
        """The prediction, beside the recipe, and in the end what came of it."""
        return self.target.with_suffix(SUFFIX)

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
            "values": "int8" if self.int8 else "f32",
            "rule": self.asked.rule,
            "margin": self.asked.margin,
            "against": list(self.peers),
            "threads": self.threads or cores(),
            "seed": self.seed,
        }
        plain: dict[str, Any] = json.loads(json.dumps(asked))
        return plain

    def remembered(self) -> dict[str, Any] | None:
        """What an earlier call with the same words has written."""
        if not self.notes.is_file():
            return None
        try:
            told = json.loads(self.notes.read_text())
            asked, found = told["asked"], told["plan"]
            changed = any(layer["spec"] for layer in found["decisions"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{self.notes} is no plan of `dovetail fit` ({error!r}); remove it, or give --out"
            ) from None
        if asked != self.question:
            raise RecipeError(
                f"{self.notes} is the plan of another call of `dovetail fit`; remove it to plan anew, or give --out"
            )
        if changed and not self.target.is_file():
            return None
        say(f"going on from the plan in {self.notes}; remove it to plan anew")
        plan: dict[str, Any] = found
        return plan

    def choose(self, costs: Path | None) -> dict[str, Any]:
        """Measure, choose, and write the prediction and the recipe."""
        from dovetail import fitting

        times = fitting.open_table(self.threads, costs, int8=self.int8)
        images = _images(self.sets)
        measured = fitting.survey(self.model, images, int8=self.int8, threads=self.threads, peers=self.peers)
        say(
            f"dense on {self.sets.name}: {numbers.milliseconds(1e3 * measured.raced)}; 1x is {measured.rival} with "
            f"{numbers.milliseconds(1e3 * measured.rival_seconds)}, and {numbers.size(measured.float_bytes)} in float32"
        )
        found = fitting.choose(
            self.model, images, self.asked, measured, table=times,
            held_out=fitting.first_images(self.sets.held_out, fitting.SENSITIVE),
            memory=Path(self.recipe.runs) / f"{self.target.stem}-sensitivity.json",
        )  # fmt: skip
        plan = found.to_json() | {"survey": _told(measured), "thin": self._thin(images, found, measured)}
        self.note(plan)
        if found.changed:
            self._write(found)
        return plan

    def train(self) -> Program:
        """The packed network of the written recipe."""
        from dovetail.cli import pipeline, recipes

        recipe = recipes.with_weights(read(self.target), recipes.folder())
        done = pipeline.train(recipe, self.target.stem, self.seed, self.root)
        program = pipeline.pack_trained(recipe, self.target.stem, done)
        program.save(self.target.with_suffix(".dovetail"))
        return program

    @property
    def drawn(self) -> str:
        """Where the notes can be looked at."""
        return f"`dovetail report --fits {shlex.quote(str(self.notes))}` draws what was measured"

    def note(self, plan: Mapping[str, Any], achieved: Mapping[str, Any] | None = None) -> fits.Fitted:
        """Write down the plan, and what came of it once that is known."""
        ended = {} if achieved is None else {"achieved": dict(achieved)}
        notes = {"asked": self.question, "plan": dict(plan), **ended}
        files.write(self.notes, json.dumps(notes, indent=1, ensure_ascii=False) + "\n", error=DataError)
        return fits.Fitted.from_json(json.loads(json.dumps(notes)))

    def _thin(self, images: np.ndarray, found: Found, measured: Survey) -> dict[str, float] | None:
        """The dense network of fewer channels that would take as long; None where the network has no width."""
        from dovetail import zoo
        from dovetail.fitting import width_within

        network = self.recipe.network
        plain = ":" not in network.name and "width" in zoo.registry.find(network.name).options()
        if not (plain and found.changed and "latency" in found.limits) or "width" in network.options:
            return None
        options = network.options | {"in_channels": images.shape[1]}
        options = {name: value for name, value in options.items() if name in zoo.registry.find(network.name).options()}
        thin = width_within(
            lambda width: zoo.build(network.name, **options, width=width), images, found.predicted["latency"], measured
        )
        return None if thin is None else {"width": thin[0], "seconds": thin[1]}

    def _write(self, found: Found) -> None:
        recipe = written(self.recipe)
        method = dict(recipe["method"]) | {"plan": _plan_of(found), "quantize": self.int8}
        title = f"{self.recipe.network.name} within {self.budget}: a format for each layer by what it costs here"
        files.write(self.target, _yaml({**recipe, "title": title, "method": method}), error=DataError)


def written(recipe: Recipe) -> dict[str, Any]:
    """A recipe as a file has it: what other recipes have trained by their names, without folders and its own case."""
    data = recipe.model_dump(mode="json", exclude_defaults=True, exclude={"runs", "case", "evidence", "weights"})
    for network in (data["network"], data.get("original"), (data["method"].get("teacher") or {}).get("network")):
        if network and network.get("trained"):
            network.pop("weights", None)
    return data


def _base(
    network: str,
    method: str | None,
    on: str | None,
    weights: str | None,
    overrides: tuple[str, ...],
    runs: Path,
) -> Recipe:
    """The recipe whose network, data and training are taken; its plan is what is looked for."""
    from dovetail.cli import recipes

    if weights is not None and Path(weights).suffix and Path(weights).name != weights:
        raise RecipeError(
            f"--weights {weights}: fit writes a recipe, which names weights by their file name alone; go to their "
            "folder, or put them into the data folder"
        )
    if not network.endswith(YAML):
        if method is None:
            raise RecipeError("say whose formats to choose from: --method block, tucker, tdc, magnitude, auto …")
        name, parameters = ("mixed", {"methods": AUTO}) if method in ("auto", "mixed") else (method, {})
        recipe = adhoc(network, on or "digits", name, parameters, weights=weights, overrides=overrides, runs=runs)
    else:
        if on is not None or weights is not None:
            raise RecipeError(f"{network} says itself what --on and --weights would; change it with --set")
        recipe = recipes.with_weights(read(Path(network), overrides), Path(network).parent)
    if ("mixed" if method == "auto" else method) not in (None, recipe.method.name):
        raise RecipeError(
            f"{network} trains by {recipe.method.name}; --method {method} is another: give a recipe of it"
        )
    if recipe.start is not None:
        raise RecipeError(f"{network} begins from a packed network, which cannot be trained; give one that trains")
    if recipe.method.plan:
        raise RecipeError(f"{network} has a plan already; `dovetail recipe run` trains it, and fit looks for another")
    return recipe


def _label(budget: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in budget)


def _images(sets: Sets) -> np.ndarray:
    """Training images as they are, for calibration."""
    from dovetail.fitting import CALIBRATION, as_array, first_images

    return as_array(first_images(sets.calibration, CALIBRATION))


def _told(measured: Survey) -> dict[str, Any]:
    from dovetail.peers.machine import machine

    return {
        "machine": machine(), "threads": measured.threads, "dense_ms": 1e3 * measured.raced, "rival": measured.rival,
        "rival_ms": 1e3 * measured.rival_seconds, "rest_ms": 1e3 * measured.rest, "scale": measured.scale,
        "layers": dict(measured.layers), "references": measured.references,
    }  # fmt: skip


def _plan_of(found: Found) -> dict[str, Any]:
    """As a recipe writes it: layers in their order, with what differs from the format's defaults."""
    return {d.name: d.reason if d.spec is None else _short(d.spec.to_json()) for d in found.decisions}


def _short(spec: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in spec.items() if key not in ("version", "values") and value is not None}


def _yaml(data: Mapping[str, Any]) -> str:
    import yaml

    return yaml.safe_dump(json.loads(json.dumps(data)), sort_keys=False, width=120, allow_unicode=True)


def _show(plan: Mapping[str, Any]) -> None:
    """The decisions, and what they add up to."""
    first = next(iter(plan["limits"]))
    rows = [_row(layer, first) for layer in plan["decisions"]]
    table("Plan", ["layer", "shape", "becomes", "dense", "then", "best"], rows, left=3)
    for name, limit in plan["limits"].items():
        told = (fits.told(name, plan[key][name]) for key in ("dense", "predicted"))
        say("{}: {} dense, {} predicted, at most {}".format(name, *told, fits.told(name, limit)))
    if plan.get("thin"):
        words = f"{plan['thin']['width']:g} of the channels would take {fits.told('latency', plan['thin']['seconds'])}"
        say(f"a dense network with {words}: the rival that the formats must beat in accuracy (method thin trains it)")


def _row(layer: Mapping[str, Any], cost: str) -> tuple[str, ...]:
    from dovetail.fitting import words
    from dovetail.formats import spec_from_json

    best = fits.told(cost, layer["best"])
    becomes = layer["reason"] if layer["spec"] is None else words(spec_from_json(layer["spec"]))
    return (
        layer["name"],
        layer["shape"],
        becomes,
        fits.told(cost, layer["dense"]),
        fits.told(cost, layer["chosen"]),
        best,
    )


def _conclude(work: _Work, plan: Mapping[str, Any], program: Program) -> None:
    """What came of the plan: measured, written down and shown."""
    achieved = _achieved(work, plan, program)
    fitted = work.note(plan, achieved)
    if "latency" in plan["limits"]:
        rows = [_beside(layer, achieved["layers"]) for layer in plan["decisions"]]
        table("Layer by layer", ["layer", "dense", "predicted", "measured", "off by"], rows)
    table("What came of it", fits.OUTCOME, fits.outcome(fitted), left=5)
    say(f"wrote {work.target.with_suffix('.dovetail')} and {work.notes}")


def _achieved(work: _Work, plan: Mapping[str, Any], program: Program) -> dict[str, Any]:
    """Accuracy on held-out images, a race in processes of its own, and the time of each layer in the plan's seconds.

    The dense network is profiled in the same minutes: what its layers take now is what the plan had for them.
    """
    import torch

    from dovetail import fitting
    from dovetail.cli import score
    from dovetail.program.lower import lower

    images, threads = _images(work.sets), plan["survey"]["threads"]
    accuracies = {
        "dense_accuracy": score.through_torch(work.model, work.sets.held_out).accuracy,
        "accuracy": score.through_engine(program, work.sets.held_out).accuracy,
    }
    raced = fitting.against_peers(program, work.model, images, threads=threads, peers=work.peers)
    dense = fitting.in_values(lower(work.model, torch.from_numpy(images[:1])), images, int8=work.int8)
    named = {layer["name"] for layer in plan["decisions"]}
    now, before = fitting.layer_seconds([program, dense], images[:1], named, threads)
    scale = sum(plan["survey"]["layers"].values()) / sum(before.values())
    layers = {name: plan["survey"]["scale"] * scale * now[name] for name in now}
    references = plan["survey"]["references"]
    achieved = fitting.came_to(work.asked.budget, references, program, raced) | accuracies
    return achieved | {"layers": layers, "kept": fitting.kept(achieved, work.asked.budget.accuracy_drop)}


def _beside(layer: Mapping[str, Any], measured: Mapping[str, float]) -> tuple[str, ...]:
    found = measured[layer["name"]]
    times = (fits.told("latency", seconds) for seconds in (layer["dense"], layer["chosen"], found))
    return (layer["name"], *times, f"{found / layer['chosen'] - 1:+.0%}")
