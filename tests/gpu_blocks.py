"""Linear layers in blocks to try kernels on, and how far from the truth they may be."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

import gpu_layers
from dovetail.formats import BlockCirculantSpec, PermutedDiagonalSpec
from dovetail.formats.block_circulant.packed import PackedBlockCirculant
from dovetail.formats.permuted_diagonal.packed import PackedPermutedDiagonal
from dovetail.gpu import block_circulant_linear, permuted_diagonal_linear

DIAGONAL, CIRCULANT = "permuted_diagonal", "block_circulant"


@dataclass(frozen=True)
class Case:
    """A layer with random numbers, and the plan that is to run it."""

    name: str
    kind: str
    size: int
    outputs: int
    inputs: int
    batch: int = 1
    natural: bool = True
    dtype: str = "float32"
    bias: bool = False
    tiles: str = "model"

    def __str__(self) -> str:
        return f"{self.kind}: {self.name}"


PLAIN = Case("plain", DIAGONAL, 3, 12, 15, tiles="direct 1x1x4:1:1")
GROUPED = replace(PLAIN, name="grouped", batch=5, tiles="grouped 1x16x16x16:1:4:3")
TURNED = Case("plain", CIRCULANT, 4, 12, 16, tiles="direct 1x16x16x16:1:4:3")
CASES = [
    PLAIN,
    replace(PLAIN, name="ragged", size=10, outputs=33, inputs=47, batch=3, tiles="direct 2x2x2:1:1"),
    replace(PLAIN, name="ragged, half", size=10, outputs=33, inputs=47, dtype="float16", tiles="direct 1x1x2:1:1"),
    replace(PLAIN, name="bfloat16", dtype="bfloat16"),
    replace(PLAIN, name="bias", batch=2, bias=True, tiles="direct 4x1x2:1:1"),
    replace(PLAIN, name="stored shifts", size=5, outputs=17, inputs=23, natural=False, bias=True),
    replace(PLAIN, name="splits", outputs=14, inputs=40, batch=3, bias=True, tiles="direct 2x1x2:3:1"),
    replace(PLAIN, name="more splits than columns", tiles="direct 1x1x4:4:1"),
    replace(PLAIN, name="splits, stored shifts, half", natural=False, dtype="float16", tiles="direct 1x2x2:2:1"),
    replace(PLAIN, name="blocks of one", size=1, outputs=5, inputs=7),
    replace(PLAIN, name="one block", size=12, outputs=12, inputs=12),
    replace(PLAIN, name="by the model", size=7, outputs=30, inputs=50, batch=2),
    replace(PLAIN, name="dense", natural=False, tiles="dense"),
    GROUPED,
    replace(GROUPED, name="grouped, ragged", size=10, outputs=33, inputs=47, batch=18, bias=True),
    replace(GROUPED, name="grouped, half", size=4, outputs=18, inputs=27, batch=17, dtype="float16", bias=True),
    replace(
        GROUPED, name="grouped, splits", outputs=14, inputs=100, bias=True, tiles="grouped 1x16x16x16:3:4:3"
    ),
    replace(GROUPED, name="grouped, several tiles", size=2, outputs=67, inputs=35, batch=20),
    replace(GROUPED, name="grouped, layers that never mix", outputs=9, inputs=6),
    replace(GROUPED, name="grouped, by the model", size=5, outputs=31, inputs=44, batch=19, tiles="model"),
    TURNED,
    replace(TURNED, name="ragged", size=5, outputs=17, inputs=23, batch=7, bias=True),
    replace(TURNED, name="half", outputs=10, inputs=21, batch=3, dtype="float16", bias=True),
    replace(TURNED, name="splits", outputs=30, inputs=45, batch=2, bias=True, tiles="direct 1x16x16x16:3:4:3"),
    replace(TURNED, name="blocks of one", size=1, outputs=5, inputs=7, batch=3),
    replace(TURNED, name="one block, wider than the layer", size=16, outputs=16, inputs=9),
    replace(TURNED, name="many rows of blocks", size=2, outputs=67, inputs=9),
    replace(TURNED, name="by the model", size=8, outputs=30, inputs=50, batch=2, tiles="model"),
    replace(TURNED, name="transforms", size=6, outputs=17, inputs=23, batch=3, bias=True, tiles="fft"),
    replace(TURNED, name="transforms, odd, half", size=5, outputs=17, inputs=23, dtype="float16", tiles="fft"),
]  # fmt: skip

QUICK = ("ragged", "splits", "stored shifts", "grouped, ragged", "grouped, half")
"""One of each kernel."""


def interpreted(*, quick: bool) -> list[Case]:
    """The cases for Triton's interpreter: it multiplies bfloat16 as if its bits were whole numbers."""
    return [case for case in CASES if case.dtype != "bfloat16" and (case.name in QUICK or not quick)]


@dataclass(frozen=True)
class Layer:
    """Tensors of a case; `weight` is the dense one, of the format's oracle."""

    case: Case
    x: Tensor
    values: Tensor
    shifts: Tensor | None
    bias: Tensor | None
    weight: Tensor

    def truth(self, dtype: torch.dtype = torch.float64) -> Tensor:
        """The product with the dense weight, on the CPU, in another type."""
        x, weight = self.x.cpu().to(dtype), self.weight.to(dtype)
        return F.linear(x, weight, None if self.bias is None else self.bias.cpu().to(dtype))

    def run(self, **options: str) -> Tensor:
        """By the case's plan."""
        case = self.case
        given = (self.x, self.values, case.size, case.outputs, self.bias)
        options = {"tiles": case.tiles, **options}
        if case.kind == CIRCULANT:
            return block_circulant_linear(*given, **options)
        return permuted_diagonal_linear(*given, shifts=self.shifts, **options)

    @property
    def arguments(self) -> tuple:
        """Of the op."""
        case = self.case
        operands = (self.bias, None) if case.kind == CIRCULANT else (self.shifts, self.bias)
        return self.x, self.values, *operands, case.size, case.outputs, "ieee", "auto"


def op_of(case: Case) -> torch._ops.OpOverload:
    return getattr(torch.ops.dovetail, case.kind).default


def make(case: Case, device: str = "cpu", seed: int = 0) -> Layer:
    """The filling of the last blocks holds numbers too: nobody may read them."""
    random = torch.Generator().manual_seed(seed)
    dtype = getattr(torch, case.dtype)
    rows, columns = -(-case.outputs // case.size), -(-case.inputs // case.size)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random).to(dtype)

    x, values = draw(case.batch, case.inputs), draw(rows, columns * case.size)
    bias = draw(2 * case.outputs)[::2] if case.bias else None
    shape, blocks = (case.outputs, case.inputs), values.float().view(rows, columns, case.size).numpy()
    shifts = None
    if case.kind == CIRCULANT:
        dense = PackedBlockCirculant.from_columns(blocks, BlockCirculantSpec(size=case.size), shape).dense()
    else:
        spec = PermutedDiagonalSpec(size=case.size, index="natural" if case.natural else "searched")
        drawn = torch.randint(case.size, (rows, columns), generator=random)
        shifts = None if case.natural else drawn.to(device)
        index = spec.shifts(shape) if case.natural else drawn.numpy()
        dense = PackedPermutedDiagonal.from_diagonals(blocks, spec, shape, index).dense()
    moved = (None if tensor is None else tensor.to(device) for tensor in (x, values, shifts, bias))
    return Layer(case, *moved, torch.from_numpy(dense))


def allowed(layer: Layer) -> float:
    """Twice the error of torch's own product in the same type, and one rounding of the result."""
    plain = gpu_layers.error(layer.truth(layer.x.dtype), layer.truth())
    return 2 * plain + 2 * torch.finfo(layer.x.dtype).eps
