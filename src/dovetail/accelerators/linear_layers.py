"""Linear layers of which shapes and densities are published, drawn, on machines that have their weights on the chip."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import numpy as np

from dovetail.accelerators.common_size import SHARED
from dovetail.accelerators.draw import mask
from dovetail.accelerators.machine import Machine
from dovetail.accelerators.permdnn import Permdnn
from dovetail.accelerators.sensitivity import Value, variations
from dovetail.accelerators.trace import Trace
from dovetail.accelerators.workload import Workload
from dovetail.errors import MachineError
from dovetail.formats.permuted_diagonal import PackedPermutedDiagonal, PermutedDiagonalSpec
from dovetail.formats.sparse import PackedSparse, SparseSpec

OFF_CHIP: Final = ("memory", "first load")
WEIGHTS: Final = ("weights", "shifts", "pointers")  # parts that are written once, when a network is loaded
Factors = tuple[float | None, float | None]


@dataclass(frozen=True)
class Resident:
    """What vectors take on a machine that has the weights already.

    Attributes:
        cycles: of all vectors.
        fill: of these, those in which operands come or results go.
        seconds: at the machine's clock.
        used: share of the multipliers' cycles that held a product.
        joules: of events on the chip, without writing its weights.
    """

    cycles: int
    fill: int
    seconds: float
    used: float
    joules: float

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


@dataclass(frozen=True)
class Sway:
    """By which factors the ratio to another machine changes with half and twice a parameter; None: it cannot be.

    Attributes:
        field: the parameter.
        of: the name of the machine.
        value: as the machine has it.
        time: factors of the geometric mean over layers.
        energy: the same of the energy of events.
    """

    field: str
    of: str
    value: Value
    time: Factors
    energy: Factors


def vectors(inputs: int, density: float, count: int, seed: int) -> np.ndarray:
    """Masks `(count, inputs, 1, 1)`, the zeros spread evenly."""
    if count < 1:
        raise MachineError(f"{count} vectors are none; draw at least one")
    return mask((count, inputs, 1, 1), 1, density, np.random.default_rng(seed), correlated=False)


def permuted(name: str, outputs: int, size: int, inputs: np.ndarray, seed: int) -> Workload:
    """Permuted diagonals of a size, with natural index and normal numbers, times vectors."""
    shape, spec = (outputs, inputs.shape[1]), PermutedDiagonalSpec(size=size)
    return Workload(name, PackedPermutedDiagonal.random(shape, spec, np.random.default_rng(seed)), inputs)


def scattered(name: str, outputs: int, density: float, inputs: np.ndarray, seed: int) -> Workload:
    """A weight whose zeros are spread evenly, times vectors."""
    kept = mask((outputs, inputs.shape[1]), 0, density, np.random.default_rng(seed), correlated=False)
    return Workload(name, PackedSparse.from_dense(kept.astype(np.float32), SparseSpec()), inputs)


def resident(machine: Machine, layer: Workload) -> Resident:
    """The layer on a machine that has its weights."""
    trace = machine.simulate(layer)
    cycles = sum(count for cause, count in trace.cycles_by.items() if cause not in OFF_CHIP)
    used = trace.macs / (machine.units * cycles) if cycles else 0.0
    return Resident(cycles, trace.cycles_by.get("fill", 0), cycles / machine.clock_hz, used, 1e-12 * _events(trace))


def sweep(machine: Permdnn, layer: Workload, elements: Iterable[int]) -> Iterator[tuple[Permdnn, Resident]]:
    """The layer with so many elements, one column at a time and several."""
    for several in (False, True):
        for count in elements:
            changed = replace(machine, elements=count, multi_column=several)
            yield changed, resident(changed, layer)


def sways(
    machines: Mapping[str, Machine], layers: Sequence[Mapping[str, Workload]], marks: Sequence[str]
) -> list[Sway]:
    """Of the parameters of these marks, but for those that machines share.

    Args:
        machines: by the names that `Sway.of` has; a ratio is what the last takes over what the first takes.
        layers: of each, the workload of every machine.
        marks: of the parameters.
    """
    found = []
    for name, machine in machines.items():
        each = [layer[name] for layer in layers]
        before = [resident(machine, layer) for layer in each]
        power = -1 if machine is next(iter(machines.values())) else 1
        for variation in variations(machine, marks):
            if variation.field not in SHARED and not variation.field.startswith("costs."):
                factors = [_factors(one, each, before) for one in (variation.halved, variation.doubled)]
                time, energy = ([None if one is None else one[what] ** power for one in factors] for what in (0, 1))
                found.append(Sway(variation.field, name, variation.value, (time[0], time[1]), (energy[0], energy[1])))
    return found


def _factors(
    machine: Machine | None, layers: Sequence[Workload], before: Sequence[Resident]
) -> tuple[float, float] | None:
    """Of times and energies, geometric means over layers; None where the machine cannot run them."""
    try:
        after = [] if machine is None else [resident(machine, layer) for layer in layers]
    except MachineError:
        return None
    if not after:
        return None
    pairs = list(zip(after, before, strict=True))
    return _mean(a.seconds / b.seconds for a, b in pairs), _mean(a.joules / b.joules for a, b in pairs)


def _mean(ratios: Iterable[float]) -> float:
    """Geometric."""
    logarithms = [math.log(ratio) for ratio in ratios]
    return math.exp(math.fsum(logarithms) / len(logarithms))


def _events(trace: Trace) -> float:
    """Picojoules on the chip without loading weights."""
    return sum(
        charge.total
        for charge in trace.charges
        if charge.on_chip and not (charge.part in WEIGHTS and charge.event.startswith("write"))
    )
