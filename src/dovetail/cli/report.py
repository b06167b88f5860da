"""`dovetail report`: one page from committed results."""

from __future__ import annotations

import logging
import shlex
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from dovetail.cli import evidence, networks, notes, pages, recipes
from dovetail.cli.bench import RESULTS
from dovetail.cli.console import say
from dovetail.cli.options import DataFolder, writable
from dovetail.cli.pipeline import dense_like
from dovetail.cli.schema import Recipe, read, suggest
from dovetail.cli.simulations import FOLDER, read_comparisons
from dovetail.cli.speed import read_races
from dovetail.errors import RecipeError
from dovetail.peers.machine import portable
from dovetail.report.fits import Fitted
from dovetail.report.staircase import staircases

log = logging.getLogger("dovetail.cli")
DENSE = "dense"
SLACK = 0.05
"""Points of accuracy: a few test images that fall on the other side by rounding."""
APART = 1.0
"""Points that controls of one network may differ by: a start may be better than a control that was trained longer."""
ORDER = ("escalate", "penni", "tdc", "tucker", "permdnn", "circnn", "block", "magnitude", "int8", "thin")
Found = list[tuple[Path, Recipe, dict[str, Any]]]


def report(
    *,
    network: Annotated[str | None, Parameter(help="Which network's results, such as resnet56_cifar.")] = None,
    bench: Annotated[Path, Parameter(help="Folder of race results.")] = RESULTS,
    simulations: Annotated[Path, Parameter(help="Folder of what `dovetail simulate` wrote.")] = FOLDER,
    fits: Annotated[
        tuple[Path, ...],
        Parameter(
            negative=(),
            show_default=False,
            help="Notes of `dovetail fit` (NAME.fit.json); by default those of the network beside the recipes. Without "
            "--network the page is about these alone.",
        ),
    ] = (),
    layer: Annotated[
        str | None,
        Parameter(help="Whose time against rank is drawn of a fit; by default the slowest layer with candidates."),
    ] = None,
    time: Annotated[bool, Parameter(help="Time every layer on this machine.")] = True,
    data: DataFolder = None,
    out: Annotated[Path, Parameter(name=["--out", "-o"], help="The page.")] = Path("report.html"),
) -> None:
    """Make one HTML page from recipes/results, benchmarks/results and simulations: nothing is trained or raced."""
    from dovetail.report import write

    target = writable(out, ".html")
    if fits and network is None:
        noted = _noted(fits, layer)
        write(pages.of_fits(noted, _command(None, bench, simulations, fits, layer, time=True), layer), target)
        say(f"wrote {target}: {', '.join(name for name in noted)} beside the dense {_first(noted).network}")
        return
    chosen, found = _choose(network)
    races = read_races(bench)
    accuracy = _dense_accuracy(found)
    entries = [_entry(path, recipe, result, races, accuracy) for path, recipe, result in found]
    name, data_set = found[0][1].dense.name, found[0][2]["dataset"]
    noted = _noted(fits or notes.beside(recipes.folder()), layer, (name, found[0][1].data.name), named=bool(fits))
    control = [races[case] for case in (f"{chosen}/{DENSE}{pages.SELF}",) if case in races]
    dense = pages.Entry(name, dense_like(entries[0].program, data), accuracy, control)
    material = pages.Material(
        title=f"{name} on {data_set}, compressed",
        dense=dense,
        entries=entries,
        split=f"the test images of {data_set}",
        command=_command(chosen, bench, simulations, fits, layer, time=time),
        timed=time,
        simulations=[one for one in read_comparisons(simulations) if one["case"].partition("/")[0] == chosen],
        fits=tuple(noted.values()),
        layer=layer,
        notes=() if races else ("No race has been run yet: `dovetail bench` adds times against other runtimes.",),
    )
    write(pages.build(material), target)
    say(f"wrote {target}: {len(entries)} networks beside the dense {name}")


def _choose(network: str | None) -> tuple[str, Found]:
    """The network with most results, or the named one; its compressed variants in the order of a claim."""
    found = [(path, recipe, evidence.read(target)) for path, recipe, target in _results()]
    cases = Counter(recipe.case.partition("/")[0] for _, recipe, _ in found if recipe.case)
    if not cases:
        raise RecipeError(f"no recipe in {recipes.folder()} has a result; run one, or see `dovetail demo`")
    chosen = network or cases.most_common(1)[0][0]
    if chosen not in cases:
        raise RecipeError(f"there are no results of {chosen!r}; there are results of {', '.join(cases)}")
    mine = [
        f for f in found if f[1].case and f[1].case.partition("/")[0] == chosen and f[1].case != f"{chosen}/{DENSE}"
    ]
    if not mine:
        raise RecipeError(f"only the dense control of {chosen!r} has a result; run a recipe that compresses")
    here = [f for f in mine if _packed(f).is_file()]
    if not here:
        raise RecipeError(
            f"none of the packed networks of {chosen!r} is beside its result; `dovetail recipe run {mine[0][0].stem}` "
            "packs one"
        )
    for path, *_ in (f for f in mine if f not in here):
        log.warning(
            "%s is left out: its packed network is not here; `dovetail recipe run %s` packs it", *[path.stem] * 2
        )
    return chosen, sorted(here, key=_rank)


def _packed(found: tuple[Path, Recipe, dict[str, Any]]) -> Path:
    """Where the packed network of a result should be."""
    path, _, result = found
    return recipes.result_path(path).with_name(result["program"]["file"])


def _results() -> list[tuple[Path, Recipe, Path]]:
    found = []
    for path in recipes.listed():
        recipe, target = read(path), recipes.result_path(path)
        if target.is_file():
            found.append((path, recipe, target))
    return found


def _noted(
    paths: Sequence[Path], layer: str | None, of: tuple[str, str] | None = None, *, named: bool = True
) -> dict[str, Fitted]:
    """File name without ending → notes; all are of the network and data `of`, or of one and the same.

    Others are left out where nobody has named them.
    """
    names = [path.name.removesuffix(notes.SUFFIX) for path in paths]
    found = {name if names.count(name) == 1 else str(path): notes.read(path) for name, path in zip(names, paths)}
    if of is None:
        of = _about(_first(found))
    if named and (other := next((name for name, fitted in found.items() if _about(fitted) != of), None)):
        told, wanted = (" on ".join(about) for about in (_about(found[other]), of))
        raise RecipeError(f"--fits: {other} is of {told}, and the page is about {wanted}; name notes of one network")
    found = {name: fitted for name, fitted in found.items() if _about(fitted) == of}
    known = dict.fromkeys(name for fitted in found.values() for name in staircases(fitted))
    if layer is not None and layer not in known:
        raise RecipeError(f"--layer {layer}: no fit of this page has times of its candidates; {suggest(layer, known)}")
    return found


def _about(fitted: Fitted) -> tuple[str, str]:
    return fitted.network, fitted.data


def _first(found: Mapping[str, Fitted]) -> Fitted:
    return next(iter(found.values()))


def _dense_accuracy(found: Found) -> float:
    """The highest that results shown were held against; entries that were held against another say so."""
    told = {path.stem: float(result["dense_accuracy"]) for path, _, result in found}
    if max(told.values()) - min(told.values()) > APART:
        listed = ", ".join(f"{name} {accuracy:g} %" for name, accuracy in told.items())
        raise RecipeError(
            f"the results stand against dense networks of different accuracy ({listed}); "
            "run the older recipes again, or move their results elsewhere"
        )
    return max(told.values())


def _command(
    network: str | None,
    bench: Path,
    simulations: Path,
    fits: Sequence[Path] = (),
    layer: str | None = None,
    *,
    time: bool,
) -> str:
    words = ["dovetail", "report", *([] if network is None else ["--network", network])]
    words += [] if time else ["--no-time"]
    words += [] if network is None or bench == RESULTS else ["--bench", portable(bench)]
    words += [] if network is None or simulations == FOLDER else ["--simulations", portable(simulations)]
    words += [word for path in fits for word in ("--fits", portable(path))]
    return shlex.join(words + ([] if layer is None else ["--layer", layer]))


def _rank(found: tuple[Path, Recipe, dict[str, Any]]) -> tuple[int, float, str]:
    """By method, then the most accurate first."""
    path, recipe, result = found
    method = recipe.method.name
    place = ORDER.index(method) if method in ORDER else len(ORDER)
    return place, -statistics.fmean(result["accuracy"]), path.stem


def _entry(
    path: Path, recipe: Recipe, result: dict[str, Any], races: dict[str, dict[str, Any]], dense: float
) -> pages.Entry:
    file = evidence.program_file(result, recipes.result_path(path))
    variant = (recipe.case or "/").partition("/")[2]
    return pages.Entry(
        name=variant,
        program=networks.load(str(file)),
        accuracy=statistics.fmean(result["accuracy"]),
        races=[races[case] for case in (recipe.case, f"{recipe.case}{pages.SELF}") if case in races],
        note="; ".join(filter(None, (_differing(recipe), _against(result, dense)))),
        thin=_is_thin(path, recipe),
    )


def _is_thin(path: Path, recipe: Recipe) -> bool:
    """Dense as it was trained, or the whole numbers of such a one of another shape than the original."""
    if recipe.start is None or recipe.method.name != "int8":
        return recipe.method.name == "thin"
    start = read(path.with_name(f"{recipe.start}.yaml"))
    return start.method.name == "thin" and start.network != start.dense


def _against(result: dict[str, Any], dense: float) -> str:
    """Another accuracy of the dense network than the page has, which this result was held against."""
    own = float(result["dense_accuracy"])
    return f"held against a dense {own:.2f} %" if abs(own - dense) > SLACK else ""


def _differing(recipe: Recipe) -> str:
    """Another network than the original is named, with its options."""
    if recipe.network == recipe.dense:
        return ""
    return ", ".join([recipe.network.name, *(f"{key} {value}" for key, value in recipe.network.options.items())])
