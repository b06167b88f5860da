"""What layers cost on the model of a machine: cycles and energy, dense and in other formats, with their real zeros."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from dovetail.accelerators import identity, simulation
from dovetail.accelerators.machine import Machine
from dovetail.accelerators.parts import as_convolutions
from dovetail.errors import BudgetError
from dovetail.formats import FORMATS, PackedSvd, PackedTucker
from dovetail.formats.base import Spec
from dovetail.formats.values import INT8
from dovetail.program.quantize import whole_form
from dovetail.search.table import CostTable, Entry

if TYPE_CHECKING:
    import numpy as np

    from dovetail.accelerators.simulation import Layer, Recorded
    from dovetail.accelerators.workload import Workload
    from dovetail.program.program import Program

COSTS: Final = ("cycles", "energy")
IMAGES: Final = 4
"""Whose zeros a machine meets; a cost is of one image, their mean."""


@dataclass(frozen=True, eq=False)
class Modelled:
    """A dense network on a machine's model.

    A layer in another format is the layer's own weight in that format, as nothing has trained it yet, and meets what
    the dense one met. So the zeros of weights that training moves, and of the tensors between layers, are estimates.

    Attributes:
        machine: the description that it runs on.
        layers: the dense layers, with what they met on the images, in order of execution.
        images: how many there were.
        int8: weights are whole numbers.
        table: cycles and energy by layer and format, so that a stopped search goes on.
    """

    machine: Machine
    layers: Mapping[str, Recorded]
    images: int
    int8: bool
    table: CostTable

    @classmethod
    def of(
        cls, machine: Machine, program: Program, images: np.ndarray, *, int8: bool, memory: Path | None = None
    ) -> Self:
        """The dense network on a machine.

        Args:
            machine: on whose model it runs.
            program: packed as it computes, in whole numbers or not.
            images: `(N, C, H, W)`, normalised; the first ones are taken.
            int8: formats are brought to whole numbers.
            memory: file of what layers cost, whose name gets a digest of the network and of the models' sources; None
                keeps none.

        Raises:
            MachineError: the machine cannot run a layer of such a shape.
            DataError: the file is of another machine.
        """
        some = images[:IMAGES]
        layers = simulation.recorded(program, some)
        simulation.require([machine], layers)
        met = f"{zlib.crc32(''.join([identity.code(), *(layer.digest for layer in layers)]).encode()):08x}"
        conditions = {"machine": machine.to_json(), "models": identity.code(), "layers": met, "images": len(some)}
        file = None if memory is None else memory.with_stem(f"{memory.stem}-{met}")
        table = CostTable(conditions) if file is None else CostTable.open(file, conditions)
        return cls(machine, {layer.name: layer for layer in layers}, len(some), int8, table)

    @property
    def references(self) -> dict[str, float]:
        """What the dense network costs: shares of a budget are of it."""
        each = [self.costs(name, None) for name in self.layers]
        return {cost: sum(one[cost] for one in each) for cost in COSTS}

    def costs(self, name: str, spec: Spec | None, report: Callable[[str], None] = lambda _: None) -> dict[str, float]:
        """Cycles, and energy in joules, of one image in a layer; dense for None."""
        format = "dense" if spec is None else json.dumps(spec.to_json(), sort_keys=True)
        known = [self.table.entries.get(f"{cost} of {name}: {format}") for cost in COSTS]
        if None not in known:
            return {cost: entry.value for cost, entry in zip(COSTS, known) if entry is not None}
        ran = [simulation.run(self.machine, part) for part in self._recorded(name, spec)]
        found = of_image(ran, self.images)
        for cost, value in found.items():
            self.table.entries[f"{cost} of {name}: {format}"] = Entry(value, value, value, ran[0].form)
        self.table.save()
        report(f"{name}, {format}: {found['cycles']:.0f} cycles on {self.machine.name}")
        return found

    def _recorded(self, name: str, spec: Spec | None) -> list[Recorded]:
        """The layer, in another format, with what it met; in whole numbers factors are layers of their own."""
        layer = self.layers[name]
        if spec is None:
            return [layer]
        packed = FORMATS[spec.format].packed.from_dense(layer.workloads[0].weight.dense(), spec)
        weight = whole_form(packed, layer.workloads[0].groups).cast(INT8) if self.int8 else packed
        works = [replace(one, weight=weight) for one in layer.workloads]
        if not (self.int8 and isinstance(packed, PackedTucker | PackedSvd)):
            return [simulation.Recorded(name, tuple(works))]
        stages = zip(*(as_convolutions(work) for work in works), strict=True)
        return [simulation.Recorded(name, tuple(_whole(part) for part in parts)) for parts in stages]


def came_to(program: Program, machine: str, images: np.ndarray) -> dict[str, float]:
    """What a packed network costs on a machine, for each of the images that plans are made with."""
    some = images[:IMAGES]
    return of_image(simulation.simulate(program, on=machine, inputs=some).layers, len(some))


def _whole(part: Workload) -> Workload:
    """A factor in whole numbers."""
    return replace(part, weight=part.weight.cast(INT8))


def of_image(layers: Iterable[Layer], images: int) -> dict[str, float]:
    """Cycles, and energy in joules, for each of so many images."""
    traces = [layer.trace for layer in layers]
    return {
        "cycles": sum(trace.cycles for trace in traces) / images,
        "energy": sum(trace.joules for trace in traces) / images,
    }


def require_machine(limited: Iterable[str], machine: str | None) -> None:
    """`BudgetError` where cycles or energy are limited and no machine is named, or one is for nothing."""
    modelled = [cost for cost in limited if cost in COSTS]
    if modelled and machine is None:
        raise BudgetError(
            f"{' and '.join(modelled)} are counted on the model of a machine; name one: machine='escalate', or "
            "--machine escalate"
        )
    if machine is not None and not modelled:
        raise BudgetError(
            f"machine {machine!r} is there to count cycles and energy, and the budget limits neither; limit one, or "
            "leave the machine out"
        )
