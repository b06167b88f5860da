"""SCNN: elements that multiply every input that is not zero with every weight that is not zero, whatever the output.

The plane of the input is shared out over the elements. For a group of Kc filters, whose sums fit the accumulators, and
channel by channel, each element goes through its pairs of vectors (see `cartesian`); then it hands the sums that belong
to a neighbour's part of the plane over. Masks are the real ones, so that fragments of vectors, conflicts of banks and
imbalance are counted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np

from dovetail.accelerators.cartesian import Grid, Steps, axis_of, input_vectors, meet, phases, tile_of
from dovetail.accelerators.encodings import Mask, run_length_entries
from dovetail.accelerators.machine import Machine, charge, register, sram_bits
from dovetail.accelerators.memory import KB, Traffic, refetch, with_memory
from dovetail.accelerators.parameters import one_of, positive, whole
from dovetail.accelerators.trace import Charge, Trace
from dovetail.accelerators.workload import Workload
from dovetail.formats.sparse import PackedSparse, SparseSpec

SYNCS: Final = ("relaxed", "strict")
PLANE: Final = 16  # side of the planes into which a linear layer's features are folded
SUMS_IN_BANK: Final = 32


@dataclass
class Work:
    """What a layer takes; added up filter group by filter group.

    Attributes:
        cycles: with conflicts of banks, and without the halo.
        steps: cycles as if no bank had a conflict.
        halo: cycles to hand sums to the neighbours.
        products: that fall into the output.
        pairs: all products.
        vectors: of weights, that meet a vector of inputs, in all elements.
        fetched: inputs read from the elements' memories.
        handed: sums handed to neighbours by each element.
    """

    cycles: int = 0
    steps: int = 0
    halo: int = 0
    products: int = 0
    pairs: int = 0
    vectors: int = 0
    fetched: int = 0
    handed: int = 0


@dataclass
class Sums:
    """Cycles and steps of each element for one group of filters, and those with a barrier after each channel."""

    elements: int
    cycles: np.ndarray = field(init=False)
    steps: np.ndarray = field(init=False)
    strict_cycles: int = 0
    strict_steps: int = 0

    def __post_init__(self) -> None:
        self.cycles, self.steps = np.zeros(self.elements, np.int64), np.zeros(self.elements, np.int64)

    def add(self, found: list[Steps]) -> None:
        """A channel, phase by phase."""
        cycles, steps = sum(part.cycles for part in found), sum(part.steps for part in found)
        self.cycles += cycles
        self.steps += steps
        self.strict_cycles += int(np.max(cycles))
        self.strict_steps += int(np.max(steps))


@dataclass(frozen=True, kw_only=True)
class Scnn(Machine):
    """`rows` x `columns` elements of `input_vector` x `weight_vector` multipliers each."""

    rows: int = whole("rows of elements")
    columns: int = whole("columns of elements")
    input_vector: int = whole("inputs of a step", default=4)
    weight_vector: int = whole("weights of a step", default=4)
    accumulators: int = whole("sums that an element holds", default=1024)
    sync: str = one_of("elements wait for each other after a group of filters, or after each channel", SYNCS)
    bits: int = whole("operands", "bits", default=8)
    accumulator_bits: int = whole("sums", "bits", default=24)
    run_bits: int = whole("count of zeros beside a stored value", "bits", default=4)
    weight_kb: int = whole("buffer of weights", "KB")
    input_kb: int = whole("memories of inputs, of all elements", "KB")
    fifo_bytes: int = whole("queue of weights of an element", "bytes", least=64)
    route_picojoules: float = positive("crossbar at 45 nm, of a product", "pJ")

    @property
    def units(self) -> int:
        """Multipliers."""
        return self.rows * self.columns * self.input_vector * self.weight_vector

    @property
    def grid(self) -> Grid:
        """Elements and vectors."""
        return Grid(self.rows, self.columns, self.input_vector, self.weight_vector)

    @property
    def kept_values(self) -> int:
        """Those that the memories of inputs hold."""
        return 8 * KB * self.input_kb // self.bits

    def require(self, layer: Workload) -> None:
        """It has no dilation."""
        self.require_undilated(layer)

    def simulate(self, layer: Workload) -> Trace:
        """Exactly, on the layer's own masks."""
        self.require_undilated(layer)
        layer = as_planes(layer)
        work, traffic = self.work(layer), self._traffic(layer)
        # To start: a vector of weights for all, and one of inputs for each element.
        values = self.weight_vector + self.rows * self.columns * self.input_vector
        first_bits = min(values * (self.bits + self.run_bits), traffic.weights + traffic.inputs)
        cycles = with_memory(self._cycles(work), traffic.bits, first_bits, self.dram_bytes_per_cycle)
        charges = self._charges(layer, work, traffic)
        sram = sram_bits(charges, "inputs", "weights")
        return self.trace(layer, cycles, {"dram": traffic.bits / 8, "sram": sram / 8}, charges, work.products)

    def array_cycles(self, layer: Workload) -> dict[str, int]:
        """Cycles by cause as if off-chip memory never made the elements wait."""
        self.require_undilated(layer)
        return self._cycles(self.work(layer))

    def filters_at_once(self, layer: Workload) -> int:
        """Kc: filters whose sums fit the accumulators of an element."""
        rows, columns = layer.out_size
        sums = math.ceil(rows / self.rows) * math.ceil(columns / self.columns)
        return min(max(1, self.accumulators // sums), layer.outputs // layer.groups)

    def work(self, layer: Workload) -> Work:
        """Every pair of vectors of the layer; a linear layer as planes."""
        layer, work = as_planes(layer), Work()
        for image in range(layer.images):
            for group in range(layer.groups):
                self._add_group(work, layer, image, group)
        return work

    def _add_group(self, work: Work, layer: Workload, image: int, group: int) -> None:
        top, bottom, left, right = layer.padding
        channels, filters = layer.weight.shape[1], layer.outputs // layer.groups
        kc, area = self.filters_at_once(layer), halo_area(layer, self.grid)
        starts = range(0, filters, kc)
        sums = [Sums(self.rows * self.columns) for _ in starts]
        for c in range(channels):
            mask = np.pad(layer.mask[image, group * channels + c], ((top, bottom), (left, right)))
            weights = layer.weight_mask[group * filters : (group + 1) * filters, c]
            for found, part in zip(self._channel(layer, mask, weights, starts, kc), sums):
                part.add(found)
                work.products += sum(steps.products for steps in found)
                work.pairs += sum(steps.pairs for steps in found)
            work.fetched += int(mask.sum()) * len(starts)
        for start, part in zip(starts, sums):
            strict = self.sync == "strict"
            work.cycles += part.strict_cycles if strict else int(part.cycles.max())
            work.steps += part.strict_steps if strict else int(part.steps.max())
            work.vectors += int(part.steps.sum())
            work.halo += area * min(kc, filters - start)
            work.handed += area * min(kc, filters - start) * self.rows * self.columns

    def _channel(self, layer: Workload, mask: Mask, weights: Mask, starts: range, kc: int) -> list[list[Steps]]:
        """Of each group of filters, a channel phase by phase."""
        (down, across), found = layer.stride, [[] for _ in starts]  # type: tuple[int, int], list[list[Steps]]
        for row, column in phases(layer.stride, layer.kernel):
            places = weights[:, row::down, column::across]
            axes = tuple(
                axis_of(math.ceil((size - at) / step), count, outputs)
                for size, at, step, count, outputs in zip(
                    mask.shape, (row, column), layer.stride, places.shape[1:], layer.out_size
                )
            )
            inputs = input_vectors(mask, (row, column), layer.stride, axes, self.grid)  # type: ignore[arg-type]
            for start, parts in zip(starts, found):
                parts.append(meet(inputs, places[start : start + kc], start, axes, self.grid))  # type: ignore[arg-type]
        return found

    def _cycles(self, work: Work) -> dict[str, int]:
        compute = math.ceil(work.products / self.units)
        return {
            "compute": compute,
            "imbalance": work.steps - compute,
            "stalls": work.cycles - work.steps,
            "halo": work.halo,
        }

    def dense_cycles(self, layer: Workload) -> int:
        """Of the same elements if neither operand had a zero and no bank a conflict: the dense peer."""
        layer = as_planes(layer)
        kc, filters = self.filters_at_once(layer), layer.outputs // layer.groups
        kernels = [min(kc, filters - start) for start in range(0, filters, kc)]
        steps = 0
        for count in kernels:
            each = np.zeros((self.rows, self.columns), np.int64)
            for phase in phases(layer.stride, layer.kernel):
                rows, columns = (self._inputs_in_tiles(layer, axis, at) for axis, at in enumerate(phase))
                places = math.prod(len(range(at, k, s)) for at, k, s in zip(phase, layer.kernel, layer.stride))
                each += -(-np.outer(rows, columns) // self.input_vector) * -(-count * places // self.weight_vector)
            steps += int(each.max())
        halo = halo_area(layer, self.grid) * sum(kernels)
        return layer.images * layer.groups * (layer.weight.shape[1] * steps + halo)

    def _inputs_in_tiles(self, layer: Workload, axis: int, phase: int) -> np.ndarray:
        """How many rows (axis 0) or columns of a phase each row (or column) of elements has."""
        start, elements = layer.padding[2 * axis], (self.rows, self.columns)[axis]
        at = np.arange(start, start + layer.size[axis])
        at = at[at % layer.stride[axis] == phase]
        return np.bincount(at // tile_of(layer.padded, self.grid)[axis], minlength=elements)

    def _traffic(self, layer: Workload) -> Traffic:
        entry = self.bits + self.run_bits
        outputs = math.prod(layer.out_shape) if layer.output_mask is None else self._map_entries(layer.output_mask)
        return refetch(
            entry * self._weight_entries(layer),
            0 if layer.input_on_chip else entry * self._map_entries(layer.mask),
            0 if layer.output_on_chip else entry * outputs,
            8 * KB * self.weight_kb,
            8 * KB * self.input_kb,
        )

    def _weight_entries(self, layer: Workload) -> int:
        """Streams of a channel and a group of filters, in the order (r, s, k)."""
        kc, filters, entries = self.filters_at_once(layer), layer.outputs // layer.groups, 0
        for group in range(layer.groups):
            of_group = layer.weight_mask[group * filters : (group + 1) * filters]
            for start in range(0, filters, kc):
                streams = of_group[start : start + kc].transpose(1, 2, 3, 0)
                entries += int(run_length_entries(streams.reshape(len(streams), -1), self.run_bits).sum())
        return entries

    def _map_entries(self, mask: Mask) -> int:
        """Streams of a channel in an element, row by row."""
        down, across = tile_of(mask.shape[2:], self.grid)
        entries = 0
        for row in range(0, mask.shape[2], down):
            for column in range(0, mask.shape[3], across):
                tile = mask[:, :, row : row + down, column : column + across]
                streams = tile.reshape(mask.shape[0] * mask.shape[1], -1)
                entries += int(run_length_entries(streams, self.run_bits).sum())
        return entries

    def _charges(self, layer: Workload, work: Work, traffic: Traffic) -> list[Charge]:
        b, acc, node, costs = self.bits, self.accumulator_bits, self.node_nm, self.costs
        entry, outputs = b + self.run_bits, b * math.prod(layer.out_shape)
        route = self.route_picojoules * costs.add(8, node).picojoules / costs.add(8).picojoules
        bank = costs.registers(SUMS_IN_BANK, acc, node)
        each = max(1, self.input_kb // (self.rows * self.columns)) * KB
        fifo = costs.sram(self.fifo_bytes, self.weight_vector * entry, node)
        return [
            charge("multipliers", f"{b}x{b} bit product", work.pairs, costs.multiply(b, b, node)),
            charge("accumulators", "addition", work.products + work.handed, costs.add(acc, node)),
            charge("accumulators", "read or write of a bank", 2 * (work.products + work.handed), bank),
            Charge("crossbar", "product routed to a bank", work.products, route, "[derived]"),
            charge("halo", "sum handed to a neighbour", work.handed, costs.hop(acc, node)),
            charge("queues", "read of a vector of weights", work.vectors, fifo),
            *self.memory_charges("inputs", each, entry * work.fetched + outputs, traffic.inputs + outputs),
            *self.memory_charges("weights", self.weight_kb * KB, layer.images * traffic.weights, traffic.weights),
            self.dram_charge(traffic.bits),
        ]


def halo_area(layer: Workload, grid: Grid) -> int:
    """Outputs of a filter that an element hands to the neighbour that gets most.

    Sides are those of the borders around its tile, no longer than the output.
    """
    sides = []
    for size, kernel, before, tile in zip(
        layer.out_size, layer.kernel, (layer.padding[0], layer.padding[2]), tile_of(layer.padded, grid)
    ):
        sides.append([min(size, max(0, side)) for side in (kernel - 1 - before, tile, before)])
    areas = [down * across for i, down in enumerate(sides[0]) for j, across in enumerate(sides[1]) if (i, j) != (1, 1)]
    return max(areas)


def as_planes(layer: Workload) -> Workload:
    """A linear layer as a convolution over planes of 16 x 16, as SCNN runs it; other layers as they are.

    The features are filled up to a multiple of 256; each plane is a channel.
    """
    if layer.size != (1, 1) or layer.kernel != (1, 1) or layer.groups != 1:
        return layer
    fill, side = -layer.channels % (PLANE * PLANE), (PLANE, PLANE)
    inputs = np.pad(layer.mask.reshape(layer.images, -1), ((0, 0), (0, fill)))
    weights = np.pad(layer.weight_mask.reshape(layer.outputs, -1), ((0, 0), (0, fill)))
    packed = PackedSparse.from_dense(weights.reshape(layer.outputs, -1, *side).astype(np.float32), SparseSpec())
    return replace(layer, weight=packed, input=inputs.reshape(layer.images, -1, *side), zero=0)


SCNN: Final = register(
    Scnn(
        name="scnn",
        clock_hz=800e6,
        node_nm=45,
        dram_bytes_per_cycle=16,
        rows=8,
        columns=8,
        sync="relaxed",
        weight_kb=256,
        input_kb=256,
        fifo_bytes=500,
        route_picojoules=4.1,
    ).sourced(
        ("rows columns input_vector weight_vector", "repo", "two simulators"),
        ("accumulators run_bits fifo_bytes", "recalled", "ISCA 2017"),
        ("accumulator_bits", "recalled", "ISCA 2017"),
        ("sync", "chosen", "a queue of weights decouples the elements [recalled]"),
        ("route_picojoules", "derived", "16 x 32 crossbar of 24 bits"),
        (
            "clock_hz node_nm dram_bytes_per_cycle weight_kb input_kb bits dram costs keep_maps",
            "chosen",
            "for comparisons",
        ),
    )
)
