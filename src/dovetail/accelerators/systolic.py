"""A systolic array, TPU-like: a dense grid of multipliers through which operands march, in closed form.

A convolution is the product of P = N E F positions, Q = C/groups R S products per output and K/groups outputs, once per
group. One operand stays in the grid while the others pass; what does not fit is done in folds:

    dataflow  rows hold  columns hold  T passes  fill and drain of a fold
    weight    Q          K             P         2 rows + columns - 2
    input     Q          P             K         2 rows + columns - 2
    output    P          K             Q         rows + columns - 2

    cycles = folds (T + fill), folds = groups ceil(Sr/rows) ceil(Sc/columns)

as SCALE-Sim 3 reports, plus one. With a double-buffered stationary operand the fill shows once, but no fold is shorter
than the rows it takes to load the next.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from dovetail.accelerators.machine import Machine, charge, register
from dovetail.accelerators.memory import KB, Traffic, refetch, with_memory
from dovetail.accelerators.parameters import flag, one_of, whole
from dovetail.accelerators.trace import Charge, Trace
from dovetail.accelerators.workload import Workload

DATAFLOWS: Final = ("weight", "input", "output")


@dataclass(frozen=True)
class Product:
    """The matrix product of one group: `positions` x `depth` times `depth` x `outputs`, `groups` times."""

    positions: int
    depth: int
    outputs: int
    groups: int


@dataclass(frozen=True)
class Words:
    """Words that each buffer is asked for: reads of operands, writes and reads of partial sums."""

    weight_reads: int
    input_reads: int
    sum_writes: int
    sum_reads: int


@dataclass(frozen=True, kw_only=True)
class Systolic(Machine):
    """A grid of `rows` x `columns` multipliers with a buffer for each operand."""

    rows: int = whole("rows of the grid")
    columns: int = whole("columns of the grid")
    dataflow: str = one_of("the operand that stays in the grid", DATAFLOWS, default="weight")
    bits: int = whole("operands", "bits", default=8)
    accumulator_bits: int = whole("partial sums", "bits", default=32)
    weight_kb: int = whole("buffer of weights", "KB")
    input_kb: int = whole("buffer of inputs", "KB")
    output_kb: int = whole("buffer of partial sums", "KB")
    double_buffered: bool = flag("the next stationary operand is loaded during a fold", default=False)
    packing: bool = flag("short products share the rows: weight dataflow only", default=False)
    gating: bool = flag("multipliers are switched off for inputs of zero", default=True)

    @property
    def units(self) -> int:
        """Multipliers."""
        return self.rows * self.columns

    @property
    def kept_values(self) -> int:
        """Those that both buffers hold."""
        return 8 * KB * (self.input_kb + self.output_kb) // self.bits

    def simulate(self, layer: Workload) -> Trace:
        """Closed form; zeros save energy, never cycles."""
        traffic = self._traffic(layer)
        cycles = with_memory(self.grid_cycles(layer), traffic.bits, self._first_bits(layer), self.dram_bytes_per_cycle)
        done = layer.input_macs if self.gating else layer.dense_macs
        words = self.words(product_of(layer))
        sram_bits = self.bits * (words.weight_reads + words.input_reads)
        sram_bits += self.accumulator_bits * (words.sum_writes + words.sum_reads)
        levels = {"dram": traffic.bits / 8, "sram": (sram_bits + traffic.bits) / 8}
        gated = layer.dense_macs - done
        return self.trace(layer, cycles, levels, self._charges(traffic, words, done, gated), done, gated)

    def grid_cycles(self, layer: Workload) -> dict[str, int]:
        """Cycles by cause as if memory never made the grid wait."""
        product = product_of(layer)
        folds, steps = self._folds(product)
        fill = (2 if self.dataflow != "output" else 1) * self.rows + self.columns - 2
        shortest = self.rows if self.double_buffered else 0
        compute = math.ceil(layer.dense_macs / self.units)
        return {
            "compute": compute,
            "imbalance": folds * steps - compute,
            "stalls": folds * max(0, shortest - steps),
            "fill": fill if self.double_buffered else folds * fill,
        }

    def words(self, product: Product) -> Words:
        """What the grid asks of its buffers."""
        p, q, k, groups = product.positions, product.depth, product.outputs, product.groups
        in_rows, in_columns = self._spans(product)
        weights, inputs, sums = q * k * groups, p * q * groups, p * k * groups
        if self.dataflow == "output":
            return Words(weights * in_rows, inputs * in_columns, sums, 0)
        if self.dataflow == "input":
            return Words(weights * in_columns, inputs, sums * in_rows, sums * (in_rows - 1))
        return Words(weights, inputs * in_columns, sums * in_rows, sums * (in_rows - 1))

    def _spans(self, product: Product) -> tuple[int, int]:
        """Folds along the rows and along the columns, of one group."""
        p, q, k = product.positions, product.depth, product.outputs
        on_rows, on_columns = {"weight": (q, k), "input": (q, p), "output": (p, k)}[self.dataflow]
        return math.ceil(on_rows / self.rows), math.ceil(on_columns / self.columns)

    def _folds(self, product: Product) -> tuple[int, int]:
        """Folds of all groups, and the steps of each."""
        in_rows, in_columns = self._spans(product)
        steps = {"weight": product.positions, "input": product.outputs, "output": product.depth}[self.dataflow]
        if self.packing and self.dataflow == "weight" and product.depth < self.rows:
            steps = math.ceil(steps / (self.rows // product.depth))
        return product.groups * in_rows * in_columns, steps

    def _traffic(self, layer: Workload) -> Traffic:
        return refetch(
            self.bits * math.prod(layer.weight.shape),
            0 if layer.input_on_chip else self.bits * layer.input.size,
            0 if layer.output_on_chip else self.bits * math.prod(layer.out_shape),
            8 * KB * self.weight_kb,
            8 * KB * self.input_kb,
        )

    def _first_bits(self, layer: Workload) -> int:
        """The stationary tile; with stationary outputs, what their first step reads."""
        product = product_of(layer)
        on_rows, on_columns = min(self.rows, product.depth), min(self.columns, product.outputs)
        fetched = 0 if layer.input_on_chip else 1
        if self.dataflow == "weight":
            words = on_rows * on_columns
        elif self.dataflow == "input":
            words = fetched * on_rows * min(self.columns, product.positions)
        else:
            words = on_columns + fetched * min(self.rows, product.positions)
        return self.bits * words

    def _charges(self, traffic: Traffic, words: Words, done: int, gated: int) -> list[Charge]:
        b, acc, node, costs = self.bits, self.accumulator_bits, self.node_nm, self.costs
        whole_mac, gated_mac = (cost(b, b, acc, node) for cost in (costs.mac, costs.gated_mac))
        register_bits = (done + gated) * 2 * (b + acc)  # two operands, and a sum twice
        sums_out = acc * words.sum_reads + traffic.outputs
        return [
            charge("multipliers", f"{b}x{b} bit MAC", done, whole_mac),
            charge("multipliers", f"gated {b}x{b} bit MAC", gated, gated_mac),
            charge("registers", "bit read or written", register_bits, costs.registers(1, 1, node)),
            *self.memory_charges("sram", KB * self.weight_kb, b * words.weight_reads, traffic.weights, "weights"),
            *self.memory_charges("sram", KB * self.input_kb, b * words.input_reads, traffic.inputs, "inputs"),
            *self.memory_charges("sram", KB * self.output_kb, sums_out, acc * words.sum_writes, "sums"),
            self.dram_charge(traffic.bits),
        ]


def product_of(layer: Workload) -> Product:
    """A convolution as a matrix product."""
    return Product(layer.positions, math.prod(layer.weight.shape[1:]), layer.outputs // layer.groups, layer.groups)


SMALL: Final = register(
    Systolic(
        name="systolic",
        clock_hz=800e6,
        node_nm=45,
        dram_bytes_per_cycle=16,
        rows=32,
        columns=32,
        weight_kb=64,
        input_kb=64,
        output_kb=64,
    ).sourced(
        (
            "clock_hz node_nm dram_bytes_per_cycle rows columns bits weight_kb input_kb output_kb",
            "chosen",
            "small default",
        ),
        ("dram costs keep_maps dataflow accumulator_bits double_buffered packing gating", "chosen", ""),
    )
)
TPU: Final = register(
    Systolic(
        name="tpu-v1",
        clock_hz=700e6,
        node_nm=28,
        dram_bytes_per_cycle=34e9 / 700e6,
        dram="ddr3",
        rows=256,
        columns=256,
        weight_kb=256,
        input_kb=24 * 1024,
        output_kb=4 * 1024,
        double_buffered=True,
        gating=False,
    ).sourced(
        ("clock_hz node_nm rows columns bits", "recalled", "ISCA 2017"),
        ("dram_bytes_per_cycle dram", "recalled", "ISCA 2017: 34 GB/s of DDR3 for weights; here for everything"),
        ("weight_kb", "recalled", "a FIFO of four tiles"),
        ("input_kb output_kb", "recalled", "ISCA 2017: unified buffer and accumulators"),
        ("dataflow accumulator_bits double_buffered", "recalled", "ISCA 2017"),
        ("gating packing costs keep_maps", "chosen", ""),
    )
)
