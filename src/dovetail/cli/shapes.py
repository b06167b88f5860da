"""`dovetail shapes`: the layers of the networks in sheets, timed one by one and drawn."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import App, Parameter

from dovetail import files
from dovetail.cli import sheets
from dovetail.cli.console import say, table
from dovetail.cli.schema import suggest
from dovetail.engine.native import cores
from dovetail.errors import DataError, PeerError, RecipeError
from dovetail.peers.machine import command as command_line
from dovetail.report import numbers

if TYPE_CHECKING:
    from dovetail.engine.peaks import Peaks
    from dovetail.peers.layerwise import Timed
    from dovetail.peers.peer import Peer
    from dovetail.program.layers import LayerShape

log = logging.getLogger("dovetail.cli")
app = App(name="shapes", help="The layers of networks, timed one by one and drawn under the machine's roofline.")
FOLDER = Path("benchmarks/shapes")
BLOCKS = 8
COLUMNS = ("layer", "f32", "Winograd", "best other", "roof", "int8", "best other", "roof")


@app.command
def collect(
    *networks: Annotated[str, Parameter(help="Sheets; all by default.")],
    out: Annotated[Path, Parameter(name=["--out", "-o"], help="Folder of the files.")] = FOLDER,
) -> None:
    """Write the distinct layers of each sheet's networks, with their sizes and how often they occur."""
    from dovetail.peers.shapes import write

    files.make_folder(out, error=DataError)
    for path in [path for name in networks or (None,) for path in _sheets(name)]:
        found = _shapes_of(str(path))
        target = out / f"{path.stem}.json"
        write(path.stem, f"dovetail shapes collect {path.stem}", found, target)
        say(f"wrote {target}: {len(found)} shapes of {sum(shape.count for shape in found)} layers")


@app.command
def run(
    *networks: Annotated[str, Parameter(help="Names in benchmarks/shapes, or files; all by default.")],
    against: Annotated[
        tuple[str, ...], Parameter(help="onnxruntime, openvino-f32, …; all by default.", negative=())
    ] = (),
    threads: Annotated[tuple[int, ...], Parameter(help="Thread counts to try.", negative=())] = (),
    blocks: Annotated[int, Parameter(help="Blocks of about 20 runs per target.")] = BLOCKS,
    out: Annotated[Path, Parameter(name=["--out", "-o"], help="Folder of the results.")] = FOLDER / "results",
) -> None:
    """Time every layer on our engine (every kernel, f32 and int8) and in other runtimes; write JSON and a picture."""
    from dovetail.peers.race import require

    chosen = [path for name in networks or (None,) for path in _files(name)]
    counts = threads or tuple(dict.fromkeys((1, min(2, cores()))))
    require(counts, 1, blocks)
    rivals = _rivals(against)
    files.make_folder(out, error=DataError)
    for path in chosen:
        result = _run(path, rivals, counts, blocks)
        target = out / f"{path.stem}.json"
        files.write(target, json.dumps(result, indent=1, ensure_ascii=False) + "\n")
        _show(result)
        _draw(result, target)


@app.command
def draw(
    *results: Annotated[Path, Parameter(help="Files that `dovetail shapes run` wrote.")],
    out: Annotated[Path | None, Parameter(name=["--out", "-o"], help="Folder of the pictures.")] = None,
) -> None:
    """Draw the pictures of results again, beside them by default."""
    if out is not None:
        files.make_folder(out, error=DataError)
    for path in results:
        try:
            _draw(json.loads(path.read_text()), path if out is None else out / path.name)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path} is no result of `dovetail shapes run` ({error!r})") from None


def _run(path: Path, rivals: list[Peer], counts: tuple[int, ...], blocks: int) -> dict[str, Any]:
    from dovetail.engine import peaks
    from dovetail.peers.layerwise import PACE, Timed, time_layer
    from dovetail.peers.machine import machine, versions
    from dovetail.peers.shapes import read

    shapes = read(path)
    log.info("measuring what the machine can do")
    most = {count: peaks.measure(count) for count in counts}
    timed = []
    for number, shape in enumerate(shapes, 1):
        log.info("%s: %s (%d of %d)", path.stem, shape, number, len(shapes))
        try:
            timed.append(time_layer(shape, rivals, threads=counts, pace=replace(PACE, blocks=blocks), report=log.debug))
        except PeerError as error:  # the other layers are still worth their time
            log.warning("%s is left out: %s", shape, error)
            timed.append(Timed(shape, (), None, {"dovetail": str(error)}))
    return {
        "network": path.stem,
        "command": command_line(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": versions(dict.fromkeys(("torch", *(name for peer in rivals for name in peer.needs)))),
        "peaks": {str(count): peak.to_json() for count, peak in most.items()},
        "shapes": [_layer(one, most) for one in timed],
    }


def _layer(timed: Timed, most: dict[int, Peaks]) -> dict[str, Any]:
    shape = timed.shape
    bounds = {
        str(count): {
            dtype: round(1e3 * peak.bound(shape.macs, shape.bytes(each), dtype), 6)
            for dtype, each in (("f32", 4), ("int8", 1))
        }
        for count, peak in most.items()
    }
    return {
        "name": str(shape),
        "layer": shape.to_json(),
        "macs": shape.macs,
        "bound_ms": bounds,
        "rows": [row.to_json() for row in timed.rows],
        "noise": timed.noise,
        "absent": dict(timed.absent),
    }


def _show(result: dict[str, Any]) -> None:
    from dovetail.report.layers import marks, share

    def cells(shape: dict[str, Any]) -> tuple[str, ...]:
        shown: list[str] = [shape["name"]]
        for dtype in ("f32", "int8"):
            found = marks(shape, dtype)
            times = {mark.kind: mark.milliseconds for mark in found}
            others = [t for kind, t in times.items() if kind not in ("roof", "ours", "inside", "winograd")]
            reached = share(found)
            shown += [numbers.milliseconds(times.get("ours"))]
            shown += [numbers.milliseconds(times.get("winograd"))] if dtype == "f32" else []
            shown += [numbers.milliseconds(min(others, default=None))]
            shown += [numbers.DASH if reached is None else f"{reached:.0%}"]
        return tuple(shown)

    absent = {f"not run: {name}: {why}": None for shape in result["shapes"] for name, why in shape["absent"].items()}
    table(result["network"], COLUMNS, map(cells, result["shapes"]), note="\n".join(absent))


def _draw(result: dict[str, Any], beside: Path) -> None:
    from dovetail.report.layers import picture

    target = files.write(beside.with_suffix(".svg"), picture(result))
    say(f"wrote {beside} and {target}" if beside.is_file() else f"wrote {target}")


def _shapes_of(name: str) -> list[LayerShape]:
    """Of every network that a sheet's variants build."""
    import torch

    from dovetail.cli.materials import build_network
    from dovetail.program.layers import layer_shapes
    from dovetail.program.lower import lower

    found: dict[LayerShape, tuple[str, ...]] = {}
    distinct = {repr((case.built, case.input)): (case.built, case.input) for case in sheets.cases(name)}
    for network, image in distinct.values():
        for shape in layer_shapes(lower(build_network(network, None).eval(), torch.zeros(1, *image))):
            same = replace(shape, layers=())
            found[same] = found.get(same, ()) + shape.layers
    return [replace(shape, layers=names) for shape, names in found.items()]


def _sheets(name: str | None) -> list[Path]:
    if name is not None:
        return [sheets.cases(name)[0].path]
    return [path for path in sheets.listed() if sheets.read(path).values == "f32"]  # those in int8 have the same layers


def _files(name: str | None) -> list[Path]:
    """The files of shapes that a name means."""
    if name is not None and name.endswith(".json"):
        return [Path(name)]
    known = {path.stem: path for path in sorted(FOLDER.glob("*.json"))}
    if name is None and known:
        return list(known.values())
    if name is None or name not in known:
        told = suggest(name or "", known) if known else "`dovetail shapes collect` writes them"
        raise RecipeError(f"there are no shapes {name or 'at all'} in {FOLDER}; {told}")
    return [known[name]]


def _rivals(names: tuple[str, ...]) -> list[Peer]:
    from dovetail.peers.peer import LAYERWISE

    if unknown := [name for name in names if name not in LAYERWISE]:
        raise PeerError(f"{unknown[0]!r} runs no single layers; known are {', '.join(LAYERWISE)}")
    return [LAYERWISE[name] for name in names or LAYERWISE]
