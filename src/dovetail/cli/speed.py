"""`dovetail speed`: what all races have measured, beside what they should reach."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from dovetail import files
from dovetail.cli import sheets
from dovetail.cli.bench import RESULTS, read_race
from dovetail.cli.console import say, table
from dovetail.cli.options import writable
from dovetail.cli.schema import plain_data
from dovetail.errors import DataError, RecipeError

TARGETS = Path("benchmarks/targets.yaml")
SHOWN: Mapping[str, Mapping[str, Any]] = {
    "rows": {"case": str, "target": str, "dtype": str, "median_ms": int | float},
    "ratios": {"case": str, "ours": str, "peer": str, "value": int | float},
    "noise": {"case": str, "value": int | float, "median": int | float},
}
"""What entries of a race must have."""
PAGE = """# Speed

Every ratio in `benchmarks/results`, collected by `dovetail speed --out docs/speed.md`: peer time / our time, so that
above 1 we are faster. What the ratios mean, and how a race is run, is in [the fair race](fair-race.md). Rows marked
"time only" are of random weights. A/A is what the same network gives beside itself in the race: as far as that is from
1, a ratio of the row may be chance. Targets are those of `benchmarks/targets.yaml`. {machines}

{table}
{summary}
"""


def speed(
    *,
    bench: Annotated[Path, Parameter(help="Folder of race results.")] = RESULTS,
    targets: Annotated[Path, Parameter(help="What cases should reach, where the file exists.")] = TARGETS,
    out: Annotated[Path | None, Parameter(name=["--out", "-o"], help="A page in Markdown to write as well.")] = None,
) -> None:
    """Print every measured ratio, and every target that nobody has measured yet. Nothing is raced."""
    from dovetail.report.speed import COLUMNS, claims, markdown, summary

    page = None if out is None else writable(out)
    races = read_races(bench)
    wanted = read_targets(targets)
    found = claims(races.values(), wanted, _cases(wanted))
    table("", COLUMNS, [claim.cells() for claim in found], left=2, note=summary(found))
    if page is not None:
        files.write(page, PAGE.format(machines=_machines(races), table=markdown(found), summary=summary(found)))
        say(f"wrote {page}")


def read_races(folder: Path) -> dict[str, dict[str, Any]]:
    """The races in a folder of results, by case."""
    races = {}
    for path in sorted(folder.glob("*.json")):
        race = read_race(path)
        try:
            races[_case(race)] = race
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise DataError(f"{path} is no race result ({error!r}); restore it or remove it and race again") from None
    return races


def _case(race: Mapping[str, Any]) -> str:
    """Of a race, with all that is shown of it; `KeyError`, `TypeError` or `ValueError` where that is not there."""
    _machine(race["machine"])
    for part, kinds in SHOWN.items():
        for entry in race.get(part, ()) if part == "noise" else race[part]:
            for name, kind in kinds.items():
                if not isinstance(entry[name], kind) or (name == "case" and "/" not in entry[name]):
                    raise ValueError(f"{name} of {part} is {entry[name]!r}")
    return str(race["rows"][0]["case"])


def read_targets(path: Path) -> dict[str, float]:
    """Case and ratio → what it should reach; empty where there is no file."""
    given = plain_data(path.read_text(), str(path)) if path.is_file() else {}
    if not isinstance(given, Mapping):
        raise RecipeError(f"{path}: write lines such as resnet18_224/dense/vs_f32: 1.2")
    for name, value in given.items():
        if str(name).count("/") != 2 or isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            raise RecipeError(f"{path}: {name}: {value}; write <network>/<variant>/<ratio>: a positive number")
    return {str(name): float(value) for name, value in given.items()}


def _cases(targets: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """The cases of each network that has a target for their mean."""
    from dovetail.report.speed import GEOMEAN

    networks = {name.partition("/")[0] for name in targets if name.split("/")[1] == GEOMEAN}
    return {network: tuple(case.name for case in sheets.cases(network)) for network in networks}


def _machines(races: Mapping[str, Mapping[str, Any]]) -> str:
    """Where the times come from, in a sentence."""
    told = {_machine(race["machine"]) for race in races.values()}
    return f"Measured on {' and on '.join(sorted(told))}." if told else "Nothing has been raced yet."


def _machine(machine: Mapping[str, Any]) -> str:
    """The card, where one was measured, or the processor."""
    return str(machine["gpu"]) if "gpu" in machine else "{cpu}, {cores} cores, {engine_isa}".format(**machine)
