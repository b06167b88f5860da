"""`dovetail fit`: formats chosen by measured time under a budget; then trained, packed, and held to the prediction."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from dovetail.cli.adhoc import adhoc
from dovetail.cli.console import say, table
from dovetail.cli.options import DataFolder, On, Runs, Seed, Set, Threads, Weights, writable
from dovetail.cli.plans import Call, free, gains, require_width
from dovetail.cli.schema import CASE, YAML, Recipe, read
from dovetail.errors import GpuError, RecipeError
from dovetail.report import fits, numbers

if TYPE_CHECKING:
    from dovetail.fitting import Asked
    from dovetail.program.program import Program
    from dovetail.search.budget import Budget

PEERS = ("onnxruntime", "openvino-f32", "openvino-bf16", "openvino-int8")
"""Whose best time a share of the budget is of; the compiled torch network is never the fastest and slow to start."""
AUTO: Mapping[str, Mapping[str, Any]] = {"block": {}, "tucker": {}}
"""What `--method auto` mixes."""


def fit(
    network: Annotated[str, Parameter(help="A recipe (*.yaml), a zoo name, or package.module:callable.")],
    /,
    *,
    budget: Annotated[
        str, Parameter(help="What it may cost: latency=0.5x or 4.5ms, bytes=2MB, macs=0.4x, cycles=0.3x.")
    ],
    accuracy_drop: Annotated[
        float | None, Parameter(help="Points of accuracy that it may lose; needed with a latency.")
    ] = None,
    method: Annotated[
        str | None,
        Parameter(
            help="Whose formats: block, tucker, tdc, magnitude, penni, escalate, permdnn, circnn; auto: a mixture; "
            "thin: none, but fewer channels."
        ),
    ] = None,
    on: On | None = None,
    weights: Weights = None,
    target: Annotated[Literal["cpu", "gpu"], Parameter(help="Where layers are timed: only the CPU, so far.")] = "cpu",
    values: Annotated[Literal["int8", "f32"], Parameter(help="What the network computes in.")] = "int8",
    rule: Annotated[
        Literal["knapsack", "tdc"], Parameter(help="How formats are chosen: by time and damage, or as TDC does.")
    ] = "knapsack",
    margin: Annotated[
        float | None, Parameter(help="Share of its time by which a format must beat the dense layer.")
    ] = None,
    machine: Annotated[
        str | None, Parameter(help="Whose model counts cycles and energy; `dovetail simulate` knows the same.")
    ] = None,
    plan_only: Annotated[bool, Parameter(help="Say what could be gained, and train nothing.", negative=())] = False,
    against: Annotated[tuple[str, ...], Parameter(help="Peers whose best time 1x is.", negative=())] = PEERS,
    costs: Annotated[Path | None, Parameter(help="File of the times of layers; by default in the cache.")] = None,
    threads: Threads = None,
    seed: Seed = 0,
    overrides: Set = (),
    runs: Runs | None = None,
    data: DataFolder = None,
    case: Annotated[
        str | None, Parameter(help="What benchmarks call the fitted network, such as resnet18_cifar/fit50.")
    ] = None,
    out: Annotated[
        Path | None, Parameter(name=["--out", "-o"], help="The recipe to write; the packed network goes beside it.")
    ] = None,
) -> None:
    """Choose a format for every layer by its measured time, write the plan as a recipe, then train, pack and race it.

    1x is the fastest dense network in any runtime here. A layer that gains less than the margin stays dense, and the
    table says by how much. The prediction is written before anything is trained; the same command goes on from there.
    Method thin chooses the widest dense network within the budget instead, and trains it from nothing.
    """
    from dovetail.search.budget import Budget

    _require_target(target)
    _require_case(case)
    wanted = Budget.parse(budget, accuracy_drop)
    base = _base(network, method, on, weights, overrides, runs)
    written = _target(out, network, f"fit-{base.method.name}-{_short(network)}-{_label(budget)}")
    if base.network.random and not plan_only:
        raise RecipeError(
            f"{network} has random weights, and a bound on accuracy is against a trained network: give --weights, or "
            "a recipe with weights; --plan-only plans without"
        )
    if base.method.name == "thin":
        require_width(base.network)
    asked, known = _asked(wanted, base, rule, margin, machine, int8=values == "int8"), _known(against)
    peers = known if "latency" in wanted.limits() else ()
    if asked.int8 and "latency" in wanted.limits() and "circnn" in asked.makers:
        say("in whole numbers circulant layers run by their expanded weight and gain no time; --values f32 has kernels")
    call = Call.open(
        base, asked, budget, written, case=case, threads=threads, seed=seed, root=data, peers=peers,
        folder=_folder(network),
    )  # fmt: skip
    plan = call.remembered() or call.choose(costs)
    _show(plan)
    if not gains(plan):
        say(f"nothing to gain here: the dense network keeps the budget as it is; {call.notes} has the numbers")
    elif plan_only:
        say(f"wrote {written} and {call.notes}; the same command without --plan-only trains it")
    else:
        _conclude(call, plan, call.train())
    say(call.drawn)


def _require_target(target: str) -> None:
    """`GpuError` for a GPU: nothing here times layers on one."""
    if target == "cpu":
        return
    import torch

    missing = "" if torch.cuda.is_available() else "torch sees no CUDA device here, and "
    raise GpuError(
        f"--target {target}: {missing}fit times layers on the CPU's engine alone so far; leave --target out to fit to "
        "this CPU, or limit macs or bytes, which are the same everywhere"
    )


def _require_case(case: str | None) -> None:
    if case is not None and re.fullmatch(CASE, case) is None:
        raise RecipeError(f"--case {case}: write <network>/<variant>, such as resnet18_cifar/fit50")


def _target(out: Path | None, network: str, name: str) -> Path:
    """The recipe to write: beside a recipe that is given, else here."""
    beside = Path(network).parent if network.endswith(YAML) else Path()
    target = writable(out or beside / f"{name}.yaml")
    if target.suffix not in YAML:
        raise RecipeError(f"--out {target}: a recipe is a .yaml file")
    return free(target)


def _short(network: str) -> str:
    """A network's name without folders and modules, or its recipe's."""
    return Path(network.rpartition(":")[2]).stem


def _asked(
    budget: Budget, recipe: Recipe, rule: Any, margin: float | None, machine: str | None, *, int8: bool
) -> Asked:
    """What a plan is wanted for; whatever cannot be is refused before anything is measured."""
    from dovetail.cli.parameters import checked
    from dovetail.fitting import Asked
    from dovetail.methods import METHODS

    name, options = recipe.method.name, recipe.method.parameters
    given = checked(METHODS[name], options) if name in METHODS else options
    return Asked(budget, name, given, rule, margin, int8, machine)


def _known(peers: tuple[str, ...]) -> tuple[str, ...]:
    """The peers; `PeerError` names one that there is not."""
    from dovetail.peers.peer import peer_named

    return tuple(peer_named(name).name for name in peers)


def _base(
    network: str,
    method: str | None,
    on: str | None,
    weights: str | None,
    overrides: tuple[str, ...],
    runs: Path | None,
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
            raise RecipeError("say whose formats to choose from: --method block, tucker, tdc, magnitude, auto, thin …")
        name, parameters = ("mixed", {"methods": AUTO}) if method in ("auto", "mixed") else (method, {})
        where = runs or Path("runs")
        recipe = adhoc(network, on or "digits", name, parameters, weights=weights, overrides=overrides, runs=where)
    else:
        if (on, weights, runs) != (None, None, None):
            raise RecipeError(f"{network} says itself what --on, --weights and --runs would; change it with --set")
        recipe = recipes.with_weights(read(Path(network), overrides), _folder(network))
    if ("mixed" if method == "auto" else method) not in (None, recipe.method.name):
        raise RecipeError(
            f"{network} trains by {recipe.method.name}; --method {method} is another: give a recipe of it"
        )
    if recipe.start is not None:
        raise RecipeError(f"{network} begins from a packed network, which cannot be trained; give one that trains")
    if recipe.method.plan:
        raise RecipeError(f"{network} has a plan already; `dovetail recipe run` trains it, and fit looks for another")
    return recipe


def _folder(network: str) -> Path:
    """Where recipes lie whose weights the network may start from: beside its own, else where all do."""
    from dovetail.cli import recipes

    return Path(network).parent if network.endswith(YAML) else recipes.folder()


def _label(budget: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in budget)


def _show(plan: Mapping[str, Any]) -> None:
    """The decisions, and what they add up to."""
    first = next(iter(plan["limits"]))
    rows = [_row(layer, first) for layer in plan["decisions"]]
    rows += [(name, numbers.DASH, reason, *[numbers.DASH] * 3) for name, reason in plan.get("unpriced", {}).items()]
    title = "Plan" if (width := plan.get("width")) is None else f"Plan: {width:g} of the channels, all layers dense"
    table(title, ["layer", "shape", "becomes", "dense", "then", "best"], rows, left=3)
    for name, limit in plan["limits"].items():
        told = (fits.told(name, plan[key][name]) for key in ("dense", "predicted"))
        say("{}: {} dense, {} predicted, at most {}".format(name, *told, fits.told(name, limit)))
    if plan.get("thin"):
        words = f"{plan['thin']['width']:g} of the channels would take {fits.told('latency', plan['thin']['seconds'])}"
        say(f"a dense network with {words}: the rival that the formats must beat in accuracy (--method thin fits it)")


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


def _conclude(call: Call, plan: Mapping[str, Any], program: Program) -> None:
    """What came of the plan: measured, written down and shown."""
    achieved = call.achieved(plan, program)
    fitted = call.note(plan, achieved)
    if "latency" in plan["limits"]:
        rows = [_beside(layer, achieved["layers"]) for layer in plan["decisions"]]
        table("Layer by layer", ["layer", "dense", "predicted", "measured", "off by"], rows)
    table("What came of it", fits.OUTCOME, fits.outcome(fitted), left=5)
    say(f"wrote {call.packed} and {call.notes}")


def _beside(layer: Mapping[str, Any], measured: Mapping[str, float]) -> tuple[str, ...]:
    found = measured[layer["name"]]
    times = (fits.told("latency", seconds) for seconds in (layer["dense"], layer["chosen"], found))
    return (layer["name"], *times, f"{found / layer['chosen'] - 1:+.0%}" if layer["chosen"] else numbers.DASH)
