"""CirCNN: circulant blocks in the frequency domain, on one block of butterflies for all transforms.

Three phases for each image: the Fourier transform of each block of inputs, products of spectra that are summed over
blocks of inputs, and the inverse transform of each block of outputs. With P x Q blocks of k, B butterflies side by side
in D levels, and L lanes that multiply and add complex numbers,

    C(k) = ceil(log2(k) / D) ceil(k / 4 / B)            a transform of real numbers
    C1   = Q H W C(k)          C3 = P H' W' C(k)
    C2   = ceil(P Q R S H' W' (k / 2 + 1) / L)          or what the memory of spectra can give, where that is less
    one image          C1 + C2 + C3 + 3 D
    each further one   max(C1 + C3, C2)                 as both transforms share the butterflies

A layer of another format has blocks of one number: no transform, and a product of real numbers in each lane. Zeros of
inputs gain nothing, as spectra have none.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from dovetail.accelerators.circulants import Circulants, circulants_of
from dovetail.accelerators.machine import Machine, charge, register, sram_bits
from dovetail.accelerators.memory import KB, Traffic, refetch, with_memory
from dovetail.accelerators.parameters import flag, whole
from dovetail.accelerators.trace import Charge, Trace
from dovetail.accelerators.workload import Workload

OF_A_COMPLEX: Final = 4  # real multipliers of a butterfly, and of a lane
LEVEL_CYCLES: Final = 3  # registers of a level [derived]


@dataclass(frozen=True)
class Phases:
    """Cycles of one image.

    Attributes:
        forward: transforms of inputs, C1.
        products: of spectra, C2, if their memory gave everything at once.
        supplied: the same with what it gives.
        inverse: transforms of outputs, C3.
    """

    forward: int
    products: int
    supplied: int
    inverse: int

    @property
    def serial(self) -> int:
        """One phase after another."""
        return self.forward + self.supplied + self.inverse

    @property
    def interval(self) -> int:
        """From one image to the next, where phases of two of them overlap."""
        return max(self.forward + self.inverse, self.supplied)


@dataclass(frozen=True)
class Work:
    """Events of all images: transforms of a block, and products of two spectra."""

    transforms: int
    pairs: int


@dataclass(frozen=True, kw_only=True)
class Circnn(Machine):
    """`butterflies` x `depth` of them, and `lanes` for products of spectra."""

    butterflies: int = whole("butterflies side by side")
    depth: int = whole("levels of butterflies in a row")
    lanes: int = whole("complex multiply-accumulates of the peripheral block")
    overlap: bool = flag("phases of the images of a batch overlap", default=True)
    bits: int = whole("inputs, spectra and weights", "bits", default=16)
    spectrum_bits: int = whole("spectra that the memory of weights gives in a cycle", "bits/cycle")
    weight_kb: int = whole("spectra of weights", "KB")
    activation_kb: int = whole("inputs, outputs and their spectra", "KB")

    @property
    def units(self) -> int:
        """Real multipliers, four for a complex one."""
        return OF_A_COMPLEX * (self.butterflies * self.depth + self.lanes)

    @property
    def fill(self) -> int:
        """Cycles of the pipeline."""
        return LEVEL_CYCLES * self.depth

    @property
    def kept_values(self) -> int:
        """Those that the memory of inputs and outputs holds."""
        return 8 * KB * self.activation_kb // self.bits

    def require(self, layer: Workload) -> None:
        """Blocks are of a power of two."""
        circulants_of(layer, self.what)

    def simulate(self, layer: Workload) -> Trace:
        """In closed form; zeros change nothing."""
        blocks = circulants_of(layer, self.what)
        work, traffic = self._work(layer, blocks), self._traffic(layer, blocks)
        products = self._products(blocks, work)
        first_bits = min(self.bits * blocks.size, traffic.inputs)
        cycles = self._cycles(layer, blocks, products)
        cycles = with_memory(cycles, traffic.bits, first_bits, self.dram_bytes_per_cycle)
        charges = self._charges(layer, blocks, work, traffic)
        levels = {"dram": traffic.bits / 8, "sram": sram_bits(charges, "weights", "activations") / 8}
        return self.trace(layer, cycles, levels, charges, products)

    def array_cycles(self, layer: Workload) -> dict[str, int]:
        """Cycles by cause as if off-chip memory never made the butterflies wait."""
        blocks = circulants_of(layer, self.what)
        return self._cycles(layer, blocks, self._products(blocks, self._work(layer, blocks)))

    def transform_cycles(self, size: int) -> int:
        """A Fourier transform of so many real numbers."""
        levels = size.bit_length() - 1
        return -(-levels // self.depth) * math.ceil(size / (4 * self.butterflies))

    def phases(self, layer: Workload) -> Phases:
        """Of one image of the layer."""
        return self._phases(layer, circulants_of(layer, self.what))

    def _phases(self, layer: Workload, blocks: Circulants) -> Phases:
        transform, written = self.transform_cycles(blocks.size), math.prod(layer.out_size)
        words = blocks.pairs * blocks.taps * written * blocks.bins
        word_bits = self.bits * (2 if blocks.size > 1 else 1)
        products = -(-words // self.lanes)
        return Phases(
            forward=blocks.columns * math.prod(layer.size) * transform,
            products=products,
            supplied=max(products, -(-words * word_bits // self.spectrum_bits)),
            inverse=blocks.rows * written * transform,
        )

    def _cycles(self, layer: Workload, blocks: Circulants, products: int) -> dict[str, int]:
        phases, images = self._phases(layer, blocks), layer.images
        free = Phases(phases.forward, phases.products, phases.products, phases.inverse)
        cycles, unlimited = (
            one.serial + (images - 1) * (one.interval if self.overlap else one.serial) for one in (phases, free)
        )
        compute = math.ceil(products / self.units)
        return {
            "compute": compute,
            "imbalance": unlimited - compute,
            "stalls": cycles - unlimited,
            "fill": self.fill * (1 if self.overlap else images),
        }

    def _work(self, layer: Workload, blocks: Circulants) -> Work:
        written = math.prod(layer.out_size)
        transforms = blocks.columns * math.prod(layer.size) + blocks.rows * written if blocks.size > 1 else 0
        return Work(transforms * layer.images, blocks.pairs * blocks.taps * layer.positions)

    def _products(self, blocks: Circulants, work: Work) -> int:
        """Real multiplications: four in a butterfly and in a bin, one in the bins at both ends, which are real."""
        bins = 1 if blocks.size == 1 else 2 * blocks.size - 2
        return OF_A_COMPLEX * blocks.butterflies * work.transforms + bins * work.pairs

    def _additions(self, blocks: Circulants, work: Work) -> int:
        """Six in a butterfly, two in a transform of two; four in a bin, one in those at both ends."""
        bins = 1 if blocks.size == 1 else 2 * blocks.size - 2
        transform = 2 if blocks.size == 2 else 6 * blocks.butterflies
        return transform * work.transforms + bins * work.pairs

    def _traffic(self, layer: Workload, blocks: Circulants) -> Traffic:
        """A spectrum of k real numbers takes the room of k. What does not fit its memory is fetched again."""
        return refetch(
            self.bits * blocks.stored,
            0 if layer.input_on_chip else self.bits * layer.input.size,
            0 if layer.output_on_chip else self.bits * math.prod(layer.out_shape),
            8 * KB * self.weight_kb,
            8 * KB * self.activation_kb,
        )

    def _charges(self, layer: Workload, blocks: Circulants, work: Work, traffic: Traffic) -> list[Charge]:
        b, node, costs = self.bits, self.node_nm, self.costs
        spectrum = b * blocks.size
        outputs = b * math.prod(layer.out_shape)
        read = spectrum * (work.transforms + work.pairs)
        written = spectrum * work.transforms + outputs
        return [
            charge("multipliers", f"{b}x{b} bit product", self._products(blocks, work), costs.multiply(b, b, node)),
            charge("adders", f"sum of {b} bits", self._additions(blocks, work), costs.add(b, node)),
            *self.memory_charges("weights", self.weight_kb * KB, spectrum * work.pairs, traffic.weights),
            *self.memory_charges("activations", self.activation_kb * KB, read, written + traffic.inputs),
            self.dram_charge(traffic.bits),
        ]


CIRCNN: Final = register(
    Circnn(
        name="circnn",
        clock_hz=200e6,
        node_nm=45,
        dram_bytes_per_cycle=16,
        butterflies=32,
        depth=2,
        lanes=32,
        spectrum_bits=1024,
        weight_kb=1024,
        activation_kb=128,
    ).sourced(
        ("clock_hz node_nm bits", "recalled", "as the PermDNN paper quotes it"),
        ("butterflies depth", "chosen", "in the range of the paper's search; its choice is not known"),
        ("lanes", "chosen", "as many as butterflies side by side"),
        ("spectrum_bits", "derived", "a complex number of 16 bits for each lane"),
        ("overlap", "chosen", "a single image is serial"),
        ("weight_kb", "chosen", "holds a layer of 4096 x 9216 in blocks of 128"),
        ("activation_kb dram_bytes_per_cycle dram costs keep_maps", "chosen", ""),
    )
)
