"""A network on machines: every weight layer with what it met on real images, in the form that suits each machine.

A machine runs the weights that it takes as they are packed. Of a decomposed weight that it does not take it may run the
plain convolutions that the weight stands for, in any order, or the one dense convolution; it runs whichever takes the
fewest cycles, and the result says which.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Final, Self, overload

import numpy as np

from dovetail.accelerators.identity import of_workload
from dovetail.accelerators.machine import Machine, machine_named
from dovetail.accelerators.memory import chained
from dovetail.accelerators.parts import DECOMPOSED, ORDERS, Order, as_convolutions
from dovetail.accelerators.record import handovers, record
from dovetail.accelerators.trace import Trace, total
from dovetail.accelerators.workload import Workload
from dovetail.errors import InputError, MachineError
from dovetail.formats.kernel_basis import PackedKernelBasis
from dovetail.program.integer import CODES
from dovetail.program.program import BATCH, Graph, Program
from dovetail.program.reference import check_inputs
from dovetail.program.store import load

AS_PACKED: Final = "as packed"
MULTIPLIED_OUT: Final = "multiplied out"
WORDS: Final[Mapping[Order, str]] = {"conv_first": ", bases first", "coef_first": ", coefficients first"}

Report = Callable[[str], None]
Named = str | Machine


@dataclass(frozen=True, eq=False)
class Recorded:
    """A weight layer of a network, with a workload for each batch of images.

    Attributes:
        received: of each batch, how many values the layer before reads and gives, which hands its output to this one
            alone; empty where none does.
        hands_on: whether this layer hands its output to the next one alone.
    """

    name: str
    workloads: tuple[Workload, ...]
    received: tuple[int, ...] = ()
    hands_on: bool = False

    @property
    def format(self) -> str:
        """Of its weight."""
        return self.workloads[0].weight.spec.format

    @cached_property
    def digest(self) -> str:
        """Of the weight, what it met, and the shapes: equal for equal layers, whatever their names."""
        return "".join(map(of_workload, self.workloads)) + f"{self.received}, {self.hands_on}"

    @cached_property
    def forms(self) -> Mapping[str, tuple[tuple[Workload, ...], ...]]:
        """What a decomposed layer may become: in words → of each batch, the workloads. Empty for other layers."""
        made: dict[str, tuple[tuple[Workload, ...], ...]] = {}
        weight = self.workloads[0].weight
        if not isinstance(weight, DECOMPOSED):
            return made
        for order, words in WORDS.items() if isinstance(weight, PackedKernelBasis) else ((ORDERS[0], ""),):
            parts = tuple(as_convolutions(workload, order) for workload in self.workloads)
            made[f"{len(parts[0])} convolutions{words}"] = parts
        made[MULTIPLIED_OUT] = tuple((workload.recomposed(),) for workload in self.workloads)
        return made


@dataclass(frozen=True)
class Layer:
    """A layer on a machine, all images together.

    Attributes:
        name: in the model.
        format: of its weight.
        form: how the machine ran it.
        trace: what it cost.
        others: the cycles of the forms that would have been slower.
    """

    name: str
    format: str
    form: str
    trace: Trace
    others: Mapping[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain data, with what follows from the trace beside it."""
        told = {"name": self.name, "format": self.format, "form": self.form, "others": dict(self.others)}
        return told | {**figures(self.trace), "trace": self.trace.to_json()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The layer that `to_json` wrote; `MachineError` where it is none."""
        try:
            given = {name: data[name] for name in ("name", "format", "form", "others")}
            return cls(**given, trace=Trace.from_json(data["trace"]))
        except (KeyError, TypeError) as error:
            raise MachineError(f"this is no layer of a simulation: {error!r}") from None


@dataclass(frozen=True)
class Simulation:
    """A network on a machine.

    Attributes:
        machine: the description that it ran on.
        images: how many there were; all figures are for all of them.
        batch: images that went through the machine together.
        layers: in order of execution.
    """

    machine: Machine
    images: int
    batch: int
    layers: tuple[Layer, ...]

    @cached_property
    def total(self) -> Trace:
        """All layers, added up."""
        return total(layer.trace for layer in self.layers)

    def to_json(self) -> dict[str, Any]:
        """Plain data: the machine with its parameters, every layer, and the sum."""
        return {
            "machine": self.machine.to_json(),
            "images": self.images,
            "batch": self.batch,
            "layers": [layer.to_json() for layer in self.layers],
            "total": figures(self.total),
        }


def figures(trace: Trace) -> dict[str, Any]:
    """What people ask of a trace, as plain data: cycles by cause, bytes by level, energy by part in picojoules."""
    return {
        "cycles": trace.cycles,
        "cycles_by": dict(trace.cycles_by),
        "seconds": trace.seconds,
        "utilisation": trace.utilisation,
        "macs": trace.macs,
        "gated_macs": trace.gated_macs,
        "additions": trace.additions,
        "bytes_by": dict(trace.bytes_by),
        "joules": trace.joules,
        "picojoules_by": trace.energy_by,
    }


@overload
def simulate(  # type: ignore[overload-overlap]  # a name is a sequence of names, too
    program: Program | str | os.PathLike[str],
    *,
    on: Named,
    inputs: Any = ...,
    batch: int = ...,
    report: Report | None = ...,
) -> Simulation: ...
@overload
def simulate(
    program: Program | str | os.PathLike[str],
    *,
    on: Sequence[Named],
    inputs: Any = ...,
    batch: int = ...,
    report: Report | None = ...,
) -> dict[str, Simulation]: ...
def simulate(
    program: Program | str | os.PathLike[str],
    *,
    on: Named | Sequence[Named],
    inputs: Any = None,
    batch: int = 1,
    report: Report | None = None,
) -> Simulation | dict[str, Simulation]:
    """Cycles by cause, bytes by level and energy by part of every weight layer of a network.

    Args:
        program: the packed network, or its file.
        on: a machine or its name, or several; `dovetail.accelerators.MACHINES` lists the known ones.
        inputs: images `(N, C, H, W)` as the network takes them: their zeros decide what a sparse machine does. A tuple
            of arrays for a network of several inputs.
        batch: how many of them go through the machine together.
        report: is told of every layer that is done.

    Returns:
        The simulation; for several machines, one by the name of each.

    Raises:
        InputError: there are no inputs, or they do not fit the network or are not finite.
        MachineError: a machine is not known, or cannot run a layer.
    """
    machines = chosen(on)
    layers = recorded(program if isinstance(program, Program) else load(program), inputs, batch)
    require(machines, layers)
    found: dict[str, list[Layer]] = {machine.name: [] for machine in machines}
    for number, layer in enumerate(layers, 1):
        for machine in machines:
            found[machine.name].append(run(machine, layer))
            if report is not None:
                report(f"{machine.name}: {layer.name} ({number} of {len(layers)})")
    images = _images(inputs)
    done = {machine.name: Simulation(machine, images, batch, tuple(found[machine.name])) for machine in machines}
    return done[machines[0].name] if isinstance(on, str | Machine) else done


def chosen(on: Named | Sequence[Named]) -> list[Machine]:
    """The machines that are meant; `MachineError` where one is unknown, or two have the same name."""
    given = [on] if isinstance(on, str | Machine) else list(on)
    if not given:
        raise MachineError("no machine is named; give on='sparten', or another of dovetail.accelerators.MACHINES")
    found = []
    for one in given:
        if not isinstance(one, str | Machine):
            raise MachineError(f"{one!r} is no machine; give a name, or an instance of a subclass of Machine")
        found.append(one if isinstance(one, Machine) else machine_named(one))
    names = [machine.name for machine in found]
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        raise MachineError(f"two machines are called {doubled[0]!r}; give each a name of its own")
    return found


def recorded(program: Program, inputs: Any, batch: int = 1) -> list[Recorded]:
    """Every weight layer with what it meets on the images, `batch` of them at a time.

    Raises:
        InputError: there are no inputs, or they do not fit the network, or are not finite in it.
        MachineError: the network has no weight layer.
    """
    if not any(node.weight is not None for graph in program.run_by(program.graph) for node in graph.nodes):
        raise MachineError("the network has no convolution and no linear layer; there is nothing to simulate")
    given = _checked(program, inputs, batch)
    batches = [record(program, *part) for part in _batches(program, given, batch)]
    layers, before = {same[0].name: same for same in zip(*batches, strict=True)}, handovers(program)
    return [
        Recorded(name, same, tuple(map(_held, layers[before[name]])) if name in before else (), name in before.values())
        for name, same in layers.items()
    ]


def require(machines: Iterable[Machine], layers: Iterable[Recorded]) -> None:
    """`MachineError` where a machine cannot run a layer of such a shape, before any of them starts."""
    for layer in layers:
        for machine in machines:
            machine.require(layer.workloads[0])


def run(machine: Machine, layer: Recorded) -> Layer:
    """A layer on a machine, in the form that takes the fewest cycles there.

    Raises:
        MachineError: the machine can run it in none.
    """
    if machine.takes(layer.workloads[0].weight):
        trace = total(_traces(machine, layer, ((workload,) for workload in layer.workloads)), layer.name)
        return Layer(layer.name, layer.format, AS_PACKED, trace)
    traces, refused = {}, []
    for words, batches in layer.forms.items():
        try:
            traces[words] = total(_traces(machine, layer, batches), layer.name)
        except MachineError as error:
            refused.append(str(error))
    if not traces:
        raise MachineError("; ".join(refused) or f"{machine.what} does not take layer {layer.name!r}: {layer.format}")
    best = min(traces, key=lambda words: (traces[words].cycles, traces[words].joules))
    others = {words: trace.cycles for words, trace in traces.items() if words != best}
    return Layer(layer.name, layer.format, best, traces[best], others)


def _traces(machine: Machine, layer: Recorded, batches: Iterable[tuple[Workload, ...]]) -> Iterator[Trace]:
    """Of every part; what one part hands to the next stays on the chip where it fits."""
    for index, parts in enumerate(batches):
        made = list(chained(parts, machine.kept_values, bits=1))
        if machine.keep_maps and layer.received and layer.received[index] <= machine.kept_values:
            made[0] = replace(made[0], input_on_chip=True)
        if machine.keep_maps and layer.hands_on and _held(layer.workloads[index]) <= machine.kept_values:
            made[-1] = replace(made[-1], output_on_chip=True)
        for part in made:
            yield machine.simulate(part)


def _held(layer: Workload) -> int:
    """Values that it reads and gives."""
    return int(layer.input.size) + math.prod(layer.out_shape)


def _checked(program: Program, inputs: Any, batch: int) -> tuple[np.ndarray, ...]:
    if isinstance(batch, bool) or not isinstance(batch, int) or batch < 1:
        raise InputError(f"batch is {batch!r}; it must be a whole number of at least 1")
    if inputs is None:
        raise InputError(
            "a simulation needs images, whose zeros decide what a machine skips; give inputs=images, as the network "
            "takes them"
        )
    arrays = tuple(check_inputs(program.graph, inputs if isinstance(inputs, tuple) else (inputs,)).values())
    for name, array in zip(program.graph.inputs, arrays):
        if not np.isfinite(array).all():
            raise InputError(f"input {name!r} holds NaN or infinity; give finite numbers, normalised as in training")
        _require_reach(program.graph, name, array)
    return arrays


def _require_reach(graph: Graph, name: str, array: np.ndarray) -> None:
    """`InputError` where most numbers of an input are beyond what its codes stand for."""
    for node in graph.nodes:
        codes = graph.tensors[node.output]
        if node.op != "quantize" or node.inputs != (name,) or codes.scale is None or codes.zero is None:
            continue
        least, most = (codes.scale * (code - codes.zero) for code in (0, CODES))
        if np.count_nonzero((array < least) | (array > most)) > array.size / 2:
            raise InputError(
                f"most numbers of input {name!r} are beyond its codes, which reach from {least:.3g} to {most:.3g}; "
                "give images normalised as in training"
            )


def _batches(program: Program, arrays: tuple[np.ndarray, ...], batch: int) -> Iterator[tuple[np.ndarray, ...]]:
    """The images `batch` at a time; all at once, where the network fixes how many it takes."""
    if any(program.graph.tensors[name].shape[:1] != (BATCH,) for name in program.graph.inputs):
        yield arrays
        return
    for start in range(0, len(arrays[0]), batch):
        yield tuple(array[start : start + batch] for array in arrays)


def _images(inputs: Any) -> int:
    first = inputs[0] if isinstance(inputs, tuple) else inputs
    return math.prod(np.shape(first)[:1])
