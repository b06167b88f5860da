"""`dovetail demo`: the whole way in a minute or two, on data that comes with scikit-learn."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from dovetail.cli import pages, pipeline, score
from dovetail.cli.adhoc import adhoc
from dovetail.cli.console import say, table
from dovetail.cli.options import writable
from dovetail.report import Page, numbers

if TYPE_CHECKING:
    from torch import nn

    from dovetail.cli.schema import Recipe

log = logging.getLogger("dovetail.cli")
NETWORK, DATA, CASE = "resnet8", "digits", "resnet8_digits"
WIDER = ("network.options.width=2.0",)
TRAINING = {"epochs": 12, "learning_rate": 0.1}
METHODS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "penni": (
        "5 shared kernels a layer, channels removed",
        {"sparsifier": "prox", "macs_target": 0.25, "alternate_epochs": 8, "retrain_epochs": 6, "learning_rate": 0.05},
    ),
    "escalate": (
        "5 shared 8-bit kernels a layer, combined by -1, 0 and 1",
        {
            "bases": 5,
            "density": 0.25,
            "shared": 4,
            "sparsify_epochs": 6,
            "ternarise_epochs": 6,
            "settle_epochs": 2,
            "learning_rate": 0.05,
            "update": 10,
        },
    ),
    "permdnn": (
        "one diagonal of every 4x4 block of weights",
        {"size": 4, "epochs": 14, "learning_rate": 0.1},
    ),
    "tucker": ("ranks of half the channels", {"ratio": 0.5, "epochs": 10, "learning_rate": 0.02}),
    "magnitude": ("a quarter of the weights kept", {"density": 0.25, "epochs": 10, "learning_rate": 0.02}),
}
PEERS = ("onnxruntime",)
BLOCKS = 8


def demo(
    *,
    epochs: Annotated[float, Parameter(help="Multiplies all epochs; below 1 for a hurry.")] = 1.0,
    race: Annotated[bool, Parameter(help="Time everything on the engine, beside onnxruntime.")] = True,
    keep: Annotated[Path, Parameter(help="Folder for the packed networks.")] = Path("runs/demo"),
    out: Annotated[Path, Parameter(name=["--out", "-o"], help="The page.")] = Path("report.html"),
) -> None:
    """Train a small ResNet on the digits, compress it five ways, pack, race, and write report.html."""
    from dovetail.report import write

    started = time.monotonic()
    target = writable(out, ".html")
    keep.mkdir(parents=True, exist_ok=True)
    dense = _train_dense(keep, epochs)
    entries = [_entry(name, keep, dense.model, epochs, race=race) for name in METHODS]
    page = pages.build(
        pages.Material(
            title="A small ResNet on the digits, compressed five ways",
            dense=pages.Entry("dense", _pack(dense, "dense", keep), _accuracy(dense)),
            entries=entries,
            split=f"{len(dense.sets.test.data)} test images",
            command="dovetail demo",
            timed=race,
            notes=("A demonstration on 8x8 images: networks this small spend much of their time between layers.",),
        )
    )
    _show(page, entries)
    write(page, target)
    say(f"packed networks: {keep}/*.dovetail (try: dovetail inspect {keep}/penni.dovetail)")
    say(f"report: {target}")
    say(f"{time.monotonic() - started:.0f} seconds")


def _train_dense(keep: Path, epochs: float) -> pipeline.Trained:
    log.info("training %s on the %s", NETWORK, DATA)
    done = pipeline.train(_recipe("thin", _scaled(TRAINING, epochs), None), "dense", 0, None, keep=False)
    pipeline.save_weights(done.model, _weights(keep))
    return done


def _entry(name: str, keep: Path, original: nn.Module, epochs: float, *, race: bool) -> pages.Entry:
    """Compress by one method, pack, measure and race."""
    note, parameters = METHODS[name]
    log.info("compressing by %s: %s", name, note)
    recipe = _recipe(name, _scaled(parameters, epochs), str(_weights(keep)))
    done = pipeline.train(recipe, name, 0, None, keep=False)
    program = _pack(done, name, keep)
    accuracy = score.through_engine(program, done.sets.test).accuracy
    races = [_race(name, keep, original, done)] if race else []
    return pages.Entry(name, program, accuracy, races, note)


def _race(name: str, keep: Path, original: nn.Module, done: pipeline.Trained) -> Mapping[str, Any]:
    from dovetail.peers.race import race

    log.info("racing %s", name)
    result = race(
        keep / f"{name}.dovetail",
        original,
        peers=PEERS,
        data=done.sets.calibration,
        test=done.sets.test,
        blocks=BLOCKS,
        network=CASE,
        variant=name,
        report=log.debug,
    )
    return result.to_json()


def _show(page: Page, entries: list[pages.Entry]) -> None:
    """The table of the README: accuracy, size, work, time on our engine, and the claim against the f32 peer.

    Each row is a race of its own, so the peer's time stands in each; the dense network ran in the first.
    """
    dense, *others = page.variants
    claims = {ratio.variant: numbers.times(ratio.value) for ratio in page.ratios if ratio.name == "vs_f32"}
    races = {entry.name: entry.races[0] for entry in entries if entry.races}
    if entries and entries[0].races:
        races[dense.name] = entries[0].races[0]
    rows = [_cells(variant, races.get(variant.name), claims.get(variant.name)) for variant in (dense, *others)]
    columns = ["network", "accuracy", "parameters", "MACs", "size", "time", "dense in onnxruntime", "faster"]
    table(page.title, columns, rows)
    for note in page.notes[1:]:
        say(note)


def _cells(variant: Any, race: Mapping[str, Any] | None, claim: str | None) -> tuple[str, ...]:
    peer = None if race is None else pages.fastest(race, "f32")
    return (
        variant.name,
        numbers.percent(variant.accuracy),
        numbers.count(variant.params),
        numbers.count(variant.macs),
        numbers.size(variant.bytes),
        numbers.milliseconds(variant.latency_ms),
        numbers.DASH if peer is None else numbers.milliseconds(peer["median_ms"]),
        claim or numbers.DASH,
    )


def _recipe(method: str, parameters: Mapping[str, Any], weights: str | None) -> Recipe:
    return adhoc(NETWORK, DATA, method, parameters, weights=weights, overrides=WIDER, batch=64)


def _scaled(parameters: Mapping[str, Any], factor: float) -> dict[str, Any]:
    return {key: max(1, round(factor * n)) if key.endswith("epochs") else n for key, n in parameters.items()}


def _pack(done: pipeline.Trained, name: str, keep: Path) -> Any:
    program = pipeline.pack_trained(_recipe(_method(name), {}, str(_weights(keep))), "", done)
    program.save(keep / f"{name}.dovetail")
    return program


def _method(name: str) -> str:
    return name if name in METHODS else "thin"


def _accuracy(done: pipeline.Trained) -> float:
    return score.through_torch(done.model, done.sets.test).accuracy


def _weights(keep: Path) -> Path:
    return keep / "dense.safetensors"
