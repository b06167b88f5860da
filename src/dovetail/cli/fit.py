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
    from torch import nn

    from dovetail.cli.materials import Sets
    from dovetail.fitting import Survey
    from dovetail.program.program import Program
    from dovetail.search.budget import Budget
    from dovetail.search.plan import Found

log = logging.getLogger("dovetail.cli")
YAML = (".yaml", ".yml")
PEERS = ("onnxruntime", "openvino-f32", "openvino-bf16", "openvino-int8")
"""Whose best time a share of the budget is of; the compiled torch network is never the fastest and slow to start."""


AUTO: Mapping[str, Mapping[str, Any]] = {"block": {"epochs": 20}, "tucker": {}}
"""What `--method auto` mixes, and how."""


def fit(
    network: Annotated[str, Parameter(help="A recipe (*.yaml), a zoo name, or package.module:callable.")],
    /,
    *,
    budget: Annotated[str, Parameter(help="What it may cost: latency=0.5x, latency=4.5ms, bytes=2MB, or several.")],
    accuracy_drop: Annotated[float | None, Parameter(help="Points of accuracy that it may lose.")] = None,
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
    base = _base(network, method, on, weights, overrides, runs, data)
    name = f"fit-{base.method.name}-{Path(network).stem.rpartition(':')[2]}-{_label(budget)}"
    target = writable(out or (Path(network).parent if network.endswith(YAML) else Path()) / f"{name}.yaml")
    if target.suffix not in YAML:
        raise RecipeError(f"--out {target}: a recipe is a .yaml file")
    asked = {
        "recipe": written(base), "budget": budget, "accuracy_drop": accuracy_drop, "values": values, "rule": rule,
        "margin": margin,
    }  # fmt: skip
    work = _Work(base, wanted, target, asked, values == "int8", threads, seed, data, tuple(against))
    if base.network.random and not plan_only:
        raise RecipeError(
            f"{network} has random weights, and a bound on accuracy is against a trained network: give --weights, or "
            "a recipe with weights; --plan-only plans without"
        )
    plan = work.remembered() or work.choose(rule, margin, costs)
    _show(plan)
    if plan_only:
        say(f"wrote {target} and {work.notes}; `dovetail recipe run {target}` trains it")
        say(work.drawn)
    elif not any(layer["spec"] for layer in plan["decisions"]):
        say("nothing to gain here: the dense network is within the budget, or no format beats it by the margin")
        say(work.drawn)
    else:
        _conclude(work, plan, work.train())


@dataclass(frozen=True)
class _Work:
    """One call of `fit`: what is asked, and where things go."""

    recipe: Recipe
    budget: Budget
    target: Path
    asked: Mapping[str, Any]
    int8: bool
    threads: int | None
    seed: int
    root: Path | None
    peers: tuple[str, ...]

    @property
    def notes(self) -> Path:
        """The prediction, beside the recipe, and in the end what came of it."""
        return self.target.with_suffix(SUFFIX)

    def remembered(self) -> dict[str, Any] | None:
        """What an earlier call with the same words has written."""
        if not self.notes.is_file() or not self.target.is_file():
            return None
        try:
            told = json.loads(self.notes.read_text())
            same, plan = told["asked"] == json.loads(json.dumps(self.asked)), told["plan"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{self.notes} is no plan of `dovetail fit` ({error!r}); remove it, or give --out"
            ) from None
        if not same:
            raise RecipeError(
                f"{self.notes} is the plan of another call of `dovetail fit`; remove it to plan anew, or give --out"
            )
        say(f"going on from the plan in {self.notes}; remove it to plan anew")
        found: dict[str, Any] = plan
        return found

    def choose(self, rule: Any, margin: float | None, costs: Path | None) -> dict[str, Any]:
        """Measure, choose, and write the recipe and the prediction."""
        from dovetail import fitting

        model, sets = self._network()
        images = _images(sets)
        measured = fitting.survey(model, images, int8=self.int8, threads=self.threads, peers=self.peers)
        say(
            f"dense here: {numbers.milliseconds(1e3 * measured.raced)}; 1x is {measured.rival} with "
            f"{numbers.milliseconds(1e3 * measured.rival_seconds)}"
        )
        found = fitting.choose(
            model, images, self.budget, fitting.methods_of(*self._method()), measured, rule=rule, margin=margin,
            table=fitting.open_table(measured, costs), held_out=_held_out(sets),
            memory=Path(self.recipe.runs) / f"{self.target.stem}-sensitivity.json",
        )  # fmt: skip
        plan = found.to_json() | {"survey": _told(measured), "thin": self._thin(images, found, measured)}
        self._write(found, plan)
        return plan

    def train(self) -> Program:
        """The packed network of the written recipe."""
        from dovetail.cli import pipeline, recipes

        recipe = recipes.with_weights(read(self.target), recipes.folder())
        done = pipeline.train(recipe, self.target.stem, self.seed, self.root)
        program = pipeline.pack_trained(recipe, self.target.stem, done)
        program.save(self.target.with_suffix(".dovetail"))
        return program

    def dense(self) -> tuple[nn.Module, Sets]:
        """The network that everything is compared with, and its data."""
        return self._network()

    @property
    def drawn(self) -> str:
        """Where the notes can be looked at."""
        return f"`dovetail report --fits {shlex.quote(str(self.notes))}` draws what was measured"

    def conclude(self, plan: Mapping[str, Any], achieved: Mapping[str, Any]) -> fits.Fitted:
        """Add to the notes what came of the plan."""
        notes = {"asked": dict(self.asked), "plan": dict(plan), "achieved": dict(achieved)}
        self._note(notes)
        return fits.Fitted.from_json(notes)

    def _method(self) -> tuple[str, dict[str, Any]]:
        return self.recipe.method.name, self.recipe.method.parameters

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

    def _network(self) -> tuple[nn.Module, Sets]:
        from dovetail.cli.materials import build_network, fitted, open_sets, require_fit

        sets = open_sets(self.recipe.data, self.recipe.dense.name, self.root, self.seed)
        network = fitted(self.recipe.network, sets)
        model = build_network(network, self.root).eval()
        require_fit(model, network.name, sets)
        return model, sets

    def _write(self, found: Found, plan: Mapping[str, Any]) -> None:
        recipe = written(self.recipe)
        method = dict(recipe["method"]) | {"plan": _plan_of(found)}
        if self.int8:
            method["quantize"] = True
        title = f"{self.recipe.network.name} within {self.asked['budget']}: formats chosen by their measured time"
        files.write(self.target, _yaml({**recipe, "title": title, "method": method}), error=DataError)
        self._note({"asked": dict(self.asked), "plan": dict(plan)})

    def _note(self, what: Mapping[str, Any]) -> None:
        files.write(self.notes, json.dumps(what, indent=1, ensure_ascii=False) + "\n", error=DataError)


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
    root: Path | None,
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
            raise RecipeError("say whose formats to choose from: --method block, tucker, tdc, magnitude or escalate")
        name, parameters = ("mixed", {"methods": AUTO}) if method == "auto" else (method, {})
        recipe = adhoc(network, on or "digits", name, parameters, weights=weights, overrides=overrides, runs=runs)
    else:
        if on is not None or weights is not None:
            raise RecipeError(f"{network} says itself what --on and --weights would; change it with --set")
        recipe = recipes.with_weights(read(Path(network), overrides), Path(network).parent)
    if method not in (None, "auto" if recipe.method.name == "mixed" else recipe.method.name):
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


def _held_out(sets: Sets) -> list[Any]:
    """Some images that training does not see, in batches."""
    from dovetail.fitting import SENSITIVE, first_images

    if sets.held_out is None:
        raise BudgetError("sensitivity is measured on held-out images, and none are held out; give data.held_out")
    return first_images(sets.held_out, SENSITIVE)


def _told(measured: Survey) -> dict[str, Any]:
    from dovetail.peers.machine import machine

    return {
        "machine": machine(), "threads": measured.threads, "dense_ms": 1e3 * measured.raced, "rival": measured.rival,
        "rival_ms": 1e3 * measured.rival_seconds, "rest_ms": 1e3 * measured.rest, "scale": measured.scale,
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
    fitted = work.conclude(plan, achieved)
    if "latency" in plan["limits"]:
        rows = [_beside(layer, achieved["layers"]) for layer in plan["decisions"]]
        table("Layer by layer", ["layer", "dense", "predicted", "measured", "off by"], rows)
    table("What came of it", fits.OUTCOME, fits.outcome(fitted), left=5)
    say(f"wrote {work.target.with_suffix('.dovetail')} and {work.notes}")
    say(work.drawn)


def _achieved(work: _Work, plan: Mapping[str, Any], program: Program) -> dict[str, Any]:
    """Accuracy on held-out images, a race in processes of its own, and the time of each layer."""
    from dovetail.cli import score
    from dovetail.cli.layers import rows
    from dovetail.fitting import against_peers, layer_of

    model, sets = work.dense()
    assert sets.held_out is not None
    threads = plan["survey"]["threads"]
    dense = score.through_torch(model, sets.held_out).accuracy
    accuracy = score.through_engine(program, sets.held_out).accuracy
    raced = against_peers(program, model, _images(sets), threads=threads, peers=work.peers)
    times = {row.name: row.seconds or 0.0 for row in rows(program, timed=True, threads=threads)}
    layers = dict.fromkeys((layer["name"] for layer in plan["decisions"]), 0.0)
    for node, seconds in times.items():
        if (name := layer_of(node, set(layers))) is not None:
            layers[name] += seconds
    size = sum(packed.bits() for packed in program.weights.values()) / 8
    return {"dense_accuracy": dense, "accuracy": accuracy, "bytes": size, "layers": layers, **raced}


def _beside(layer: Mapping[str, Any], measured: Mapping[str, float]) -> tuple[str, ...]:
    found = measured[layer["name"]]
    times = (fits.told("latency", seconds) for seconds in (layer["dense"], layer["chosen"], found))
    return (layer["name"], *times, f"{found / layer['chosen'] - 1:+.0%}")
