"""Papers that compare two machines on drawn linear layers whose weights are on the chip, as data, and their results."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import Field, ValidationInfo, field_validator

from dovetail.cli.console import say
from dovetail.cli.papers import known_marks, other_machines
from dovetail.cli.schema import Part, part_in, suggest
from dovetail.errors import DataError, MachineError
from dovetail.peers.machine import command as command_line
from dovetail.peers.machine import versions

if TYPE_CHECKING:
    from dovetail.accelerators.machine import Machine
    from dovetail.accelerators.permdnn import Permdnn
    from dovetail.accelerators.workload import Workload

Pair = tuple[float, float]
OURS, RIVAL, EQUAL = "ours", "rival", "equal"


class Linear(Part):
    """A linear layer.

    Attributes:
        outputs, inputs: of the layer.
        size: of the permuted diagonals; 1 / size of the weights are left.
        density: share of the inputs that are not zero.
        rival: share of the weights that are not zero on the other machine.
    """

    outputs: int = Field(ge=1)
    inputs: int = Field(ge=1)
    size: int = Field(ge=1)
    density: float = Field(gt=0, le=1)
    rival: float = Field(gt=0, le=1)


class Span(Part):
    """From the least to the largest ratio, what the other machine takes over what the paper's takes."""

    time: Pair
    energy: Pair
    area: Pair


class Asked(Part):
    """Between what the model's ratios of time are asked to be: each layer's, and their geometric mean."""

    each: Pair
    mean: Pair


class Sweep(Part):
    """A layer on the paper's machine with other counts of elements."""

    layer: str
    elements: tuple[int, ...] = Field(min_length=2)


class LayerPaper(Part):
    """Two machines on layers.

    Attributes:
        title: of the page.
        machine: that the paper describes.
        rival: the other one, brought to the node of the first by the rule of `chips`.
        known: where the published figures are known from, in words.
        vectors: drawn for each layer.
        seed: equal seeds give equal layers.
        layers: name → layer.
        claims: published ratios.
        asked: of the model.
        sweep: of elements.
        tornado: parameters with these marks are halved and doubled.
        notes: what decides the figures, in Markdown.
    """

    title: str
    machine: str
    rival: str
    known: str
    vectors: int = Field(1, ge=1)
    seed: int = Field(0, ge=0)
    layers: dict[str, Linear] = Field(min_length=1)
    claims: Span
    asked: Asked
    sweep: Sweep
    tornado: tuple[str, ...] = ()
    notes: str = ""

    @field_validator("tornado")
    @classmethod
    def _of_marks(cls, marks: tuple[str, ...]) -> tuple[str, ...]:
        return known_marks(marks)

    @field_validator("sweep")
    @classmethod
    def _of_a_layer(cls, sweep: Sweep, info: ValidationInfo) -> Sweep:
        known = info.data.get("layers")  # none where they are wrong themselves
        if known is not None and sweep.layer not in known:
            raise ValueError(f"there is no layer {sweep.layer!r}; {suggest(sweep.layer, known)}")
        return sweep


def is_one(path: Path) -> bool:
    """Whether a file is a paper of layers; one that cannot be read is none."""
    try:
        data = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return False
    return isinstance(data, dict) and "layers" in data


def read(path: Path) -> LayerPaper:
    """The paper in a file; `RecipeError`."""
    return part_in(path, LayerPaper, "paper")


def simulated(path: Path, told: LayerPaper) -> dict[str, Any]:
    """Every layer on both machines, the sweep, and what parameters do."""
    from dovetail.accelerators import chips, linear_layers

    own, other = _machines(told)
    machines = {told.machine: own, told.rival: chips.projected(other, own.node_nm)}
    costs, pairs = [], []
    for number, name in enumerate(told.layers):
        drawn = _drawn(told, name, number)
        pairs.append({told.machine: drawn[OURS], told.rival: drawn[RIVAL]})
        sides = {side: told.machine if side == OURS else told.rival for side in drawn}
        costs.append({"name": name, **{side: _cost(machines, sides[side], drawn[side]) for side in drawn}})
        say(f"{name}: {told.vectors} vectors on {' and '.join(machine.name for machine in machines.values())}")
    swept = pairs[list(told.layers).index(told.sweep.layer)][told.machine]
    say(f"{told.sweep.layer} on {', '.join(map(str, told.sweep.elements))} elements, and parameters halved and doubled")
    return {
        "paper": path.stem,
        "command": command_line(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(()),
        "asked": _asked(told),
        "node_nm": own.node_nm,
        "machines": {machine.name: machine.to_json() for machine in (own, other)},
        "area": {side: chips.CHIPS[name].projected(own.node_nm).area_mm2 for side, name in _sides(told)},
        "layers": costs,
        "sweep": [
            {"elements": machine.elements, "several": machine.multi_column, **cost.to_json()}
            for machine, cost in linear_layers.sweep(own, swept, told.sweep.elements)
        ],
        "arithmetic": [{**asdict(row), "off": row.off} for row in chips.arithmetic(2 * own.units * own.clock_hz)],
        "sways": [asdict(sway) for sway in linear_layers.sways(machines, pairs, told.tornado)],
    }


def read_result(target: Path, path: Path, told: LayerPaper) -> dict[str, Any]:
    """The committed result of the paper in `path`.

    Raises:
        DataError: there is none, or it is of other layers or machines.
    """
    if not target.exists():
        raise DataError(f"there is no result {target}; run `dovetail paper {path.stem}` without --no-simulate")
    try:
        result: dict[str, Any] = json.loads(target.read_text(encoding="utf-8"))
        changed = other_machines(result) + (
            ["layers, seed or what is varied differ"] if result["asked"] != _asked(told) else []
        )
    except (OSError, ValueError, KeyError, TypeError, MachineError) as error:
        raise DataError(f"{target} is no result of `dovetail paper` ({error!r}); restore it or remove it") from None
    if changed:
        raise DataError(
            f"{target} is not of {path} as it is now ({'; '.join(changed)}); run `dovetail paper {path.stem}`"
        )
    return result


def _machines(told: LayerPaper) -> tuple[Permdnn, Machine]:
    from dovetail.accelerators import Permdnn, chips, machine_named

    own, other = machine_named(told.machine), machine_named(told.rival)
    if not isinstance(own, Permdnn):
        raise MachineError(f"{own.what} has no elements that work on permuted diagonals; compare 'permdnn' with others")
    for machine in (own, other):
        if machine.name not in chips.CHIPS:
            known = ", ".join(chips.CHIPS)
            raise MachineError(f"of {machine.what} no power of a chip is known, which papers of layers need: {known}")
    return own, other


def _drawn(told: LayerPaper, name: str, number: int) -> dict[str, Workload]:
    """The layer as the paper's machine has it, as the other has, and, where that differs, at equal density."""
    from dovetail.accelerators import linear_layers

    layer, seed = told.layers[name], told.seed + 10 * number
    inputs = linear_layers.vectors(layer.inputs, layer.density, told.vectors, seed)
    drawn = {
        OURS: linear_layers.permuted(name, layer.outputs, layer.size, inputs, seed + 1),
        RIVAL: linear_layers.scattered(name, layer.outputs, layer.rival, inputs, seed + 2),
    }
    if not math.isclose(layer.rival, 1 / layer.size):
        drawn[EQUAL] = linear_layers.scattered(name, layer.outputs, 1 / layer.size, inputs, seed + 2)
    return drawn


def _cost(machines: Mapping[str, Machine], name: str, layer: Workload) -> dict[str, Any]:
    """With the energy of the chip: its power times time, and by its parts where these are known."""
    from dovetail.accelerators import chips, linear_layers

    cost = linear_layers.resident(machines[name], layer)
    made = cost.to_json() | {"chip_joules": chips.CHIPS[name].joules(cost.seconds)}
    if name in chips.BREAKDOWNS:
        made["parts_joules"] = chips.BREAKDOWNS[name].watts(cost.used) * cost.seconds
    return made


def _sides(told: LayerPaper) -> tuple[tuple[str, str], ...]:
    return (OURS, told.machine), (RIVAL, told.rival)


def _asked(told: LayerPaper) -> dict[str, Any]:
    """What a result depends on."""
    data = told.model_dump(mode="json")
    return {key: data[key] for key in ("machine", "rival", "vectors", "seed", "layers", "sweep", "tornado")}
