"""Linear layers of permuted diagonals and circulant blocks on a GPU against cuBLAS and torch.compile, in one run.

    python benchmarks/gpu_structured.py --out benchmarks/results/gpu_structured.json

One case a layer of `LAYERS` (`gpu/diagonal10_4096x9216`) and batch size, with seeded random numbers; cases of another
batch than 1 end in `_b16` and go into a file of their own. How they race is told in `gpu_race.py`.

Peers of `vs_best` run the dense layer of the same sizes: cuBLAS, and torch.compile in max-autotune. Peers of `vs_same`
run ours in torch's ops: a batched product of the classes between two permutations, or transforms whose spectra are
made before.

Every repetition in a graph has a copy of the weight to itself, so that weights come from memory unless all copies fit
the cache; `--warm` gives all of them one.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

import gpu_race
from dovetail.gpu import block_circulant_linear, permuted_diagonal_linear, tuning
from dovetail.gpu.block_circulant import plain as circulant
from dovetail.gpu.permuted_diagonal import plain as diagonal
from dovetail.gpu.timing import full_float32
from gpu_race import PRECISIONS, TOLERANCE, Case, Target, Work, compile_best, ours, suffix, wanted

REPEATS = 20
Product = Callable[..., Tensor]
"""Of inputs with the tensors of a weight."""


@dataclass(frozen=True)
class Shape:
    """A layer: blocks of `size`, permuted diagonals (natural index) or circulant ones."""

    kind: str
    size: int
    outputs: int
    inputs: int

    def __str__(self) -> str:
        return f"{self.kind}{self.size}_{self.outputs}x{self.inputs}"

    @property
    def stored(self) -> tuple[int, int]:
        """Shape of the numbers."""
        return -(-self.outputs // self.size), -(-self.inputs // self.size) * self.size


LAYERS = (
    Shape("diagonal", 8, 2048, 2048),
    Shape("diagonal", 8, 4096, 4096),
    Shape("diagonal", 10, 4096, 9216),
    Shape("circulant", 64, 4096, 4096),
    Shape("circulant", 128, 4096, 4096),
)
"""PermDNN's layers of translation and of AlexNet (fc7 with 8 in place of 10), and fc7 in circulant blocks."""


def case_of(shape: Shape, batch: int, dtype: str, tiles: str, compiled: bool, copies: int) -> Case:
    """One layer at one batch size."""
    random = torch.Generator().manual_seed(0)
    kind, precision = getattr(torch, PRECISIONS[dtype][0]), PRECISIONS[dtype][1]
    x = torch.randn((batch, shape.inputs), generator=random)
    values = torch.randn(shape.stored, generator=random) / shape.inputs**0.5
    weight = torch.randn((shape.outputs, shape.inputs), generator=random) / shape.inputs**0.5

    def work(product: Product, prepare: Callable[[Tensor], tuple[Tensor, ...]], numbers: Tensor) -> Work:
        there = numbers.to(gpu_race.DEVICE, kind)
        return rotating(product, x.to(gpu_race.DEVICE, kind), [prepare(there.clone()) for _ in range(copies)])

    def kernels(which: str) -> Work:
        product, prepare = structured(shape, precision, which)
        return work(product, prepare, values)

    def peer(role: str, inductor: bool) -> Work:
        product, prepare, numbers = (F.linear, _alone, weight) if role == "dense" else (*same(shape), values)
        return work(compile_best(product) if inductor else product, prepare, numbers)

    targets = [Target(name, "ours", partial(kernels, which)) for name, which in ours(tiles)]
    for role, name in (("dense", "cublas"), ("same", "torch-same")):
        targets.append(Target(name, role, partial(peer, role, False)))
        if compiled:
            targets.append(Target(f"torch-compile-{role}", role, partial(peer, role, True)))

    def truth(role: str) -> Tensor:
        with full_float32():
            exact = weight if role == "dense" else dense(shape, values)
            return F.linear(x.to(gpu_race.DEVICE), exact.to(gpu_race.DEVICE))

    return Case(f"gpu/{shape}{suffix(batch, dtype)}", tuple(targets), truth, TOLERANCE[dtype] / 10, REPEATS)


def rotating(product: Product, x: Tensor, weights: Sequence[tuple[Tensor, ...]]) -> Work:
    """The product with each weight in turn."""
    turn = itertools.cycle(weights)
    return lambda: product(x, *next(turn))


def structured(shape: Shape, precision: str, tiles: str) -> tuple[Product, Callable[[Tensor], tuple[Tensor, ...]]]:
    """Our op, and what it is given beside the inputs."""
    options = {"precision": precision, "tiles": tiles}
    if shape.kind == "diagonal":
        return lambda x, q: permuted_diagonal_linear(x, q, shape.size, shape.outputs, **options), _alone

    def product(x: Tensor, w: Tensor, spectra: Tensor) -> Tensor:
        return block_circulant_linear(x, w, shape.size, shape.outputs, spectra=spectra, **options)

    return product, lambda w: (w, circulant.spectra_of(w, shape.size))


def same(shape: Shape) -> tuple[Product, Callable[[Tensor], tuple[Tensor, ...]]]:
    """The layer in torch's ops, with all that can be made before."""
    if shape.kind == "diagonal":
        return by_classes, partial(classes, shape)

    def product(x: Tensor, w: Tensor, spectra: Tensor) -> Tensor:
        return circulant.transformed(x, w, None, shape.size, shape.outputs, spectra)

    return product, lambda w: (w, circulant.spectra_of(w, shape.size))


def classes(shape: Shape, q: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs in the order of their classes, (size, columns, rows) of numbers, and where each output then is."""
    rows, columns, size = q.shape[0], q.shape[1] // shape.size, shape.size
    row, column, u = (torch.arange(count, device=q.device) for count in (rows, columns, size))
    inputs = ((u[:, None] + column) % size + column * size).flatten()
    weights = q.view(rows, columns, size)[row, :, (u[:, None] - row * columns) % size].transpose(1, 2).contiguous()
    outputs = ((u + row[:, None] * columns) % size * rows + row[:, None]).flatten()
    return inputs, weights, outputs[: shape.outputs]


def by_classes(x: Tensor, inputs: Tensor, weights: Tensor, outputs: Tensor) -> Tensor:
    """A batched product of the classes between two permutations."""
    size, columns, _ = weights.shape
    x = F.pad(x, (0, size * columns - x.shape[1]))[:, inputs].view(-1, size, columns)
    return torch.bmm(x.transpose(0, 1), weights).transpose(0, 1).flatten(1)[:, outputs]


def dense(shape: Shape, values: Tensor) -> Tensor:
    """The weight that the numbers stand for."""
    whole = (
        circulant.dense(values, shape.size) if shape.kind == "circulant" else diagonal.dense(values, None, shape.size)
    )
    return whole[: shape.outputs, : shape.inputs]


def _alone(numbers: Tensor) -> tuple[Tensor, ...]:
    return (numbers,)


def cases(options: argparse.Namespace, batch: int) -> Iterator[Case]:
    """All that the options ask for, made one by one; small work first."""
    for shape in LAYERS:
        if wanted(options, str(shape)):
            copies = 1 if options.warm else REPEATS
            yield case_of(shape, batch, options.dtype, options.tiles, not options.no_compile, copies)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = gpu_race.parser(__doc__, "gpu_structured.json", (1, 16, 64), "diagonal* or *_4096x4096")
    parser.add_argument("--warm", action="store_true", help="one weight for all repetitions: it stays in the cache")
    options = gpu_race.checked(parser, arguments)
    options.conditions = ("weights-warm" if options.warm else f"weights-{REPEATS}-copies",)
    return options


def main(arguments: Sequence[str]) -> int:
    """Measure; 1 where there is no GPU."""
    options = parse(arguments)
    tuning.TRIED = options.tried
    return gpu_race.measure(options, " ".join(["python", "benchmarks/gpu_structured.py", *arguments]), cases)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
