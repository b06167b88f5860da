"""Every format on small layers of every geometry: what the conformance tests of formats run over.

A new format adds one row to SAMPLES.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dovetail.formats import (
    FORMATS,
    BlockCirculantSpec,
    BlockSparseSpec,
    DenseSpec,
    KernelBasisSpec,
    Packed,
    PermutedDiagonalSpec,
    SparseSpec,
    Spec,
    SvdSpec,
    TuckerSpec,
)
from dovetail.formats import layer as layers
from dovetail.formats.values import TERNARY
from thinned import thinned

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Sample:
    """How to try a format: a spec without loss, lossy specs, and what layers it holds."""

    full: Callable[[Shape], Spec]
    lossy: tuple[Callable[[Shape], Spec], ...] = ()
    linear: bool = True
    convolution: bool = True
    groups: bool = True
    pointwise_only: bool = False
    slices: bool = True

    def specs(self, shape: Shape) -> list[Spec]:
        return [self.full(shape), *(spec(shape) for spec in self.lossy)]

    def holds(self, shape: Shape, groups: int = 1) -> bool:
        if len(shape) == 2:
            return self.linear
        return self.convolution and (groups == 1 or self.groups) and (not self.pointwise_only or shape[2:] == (1, 1))


def some(n: int) -> int:
    return max(1, n // 2)


def area(shape: Shape) -> int:
    return math.prod(shape[2:])


SAMPLES = {
    "dense": Sample(lambda s: DenseSpec()),
    "permuted_diagonal": Sample(
        lambda s: PermutedDiagonalSpec(size=1),
        (
            lambda s: PermutedDiagonalSpec(size=some(min(s[:2]))),
            lambda s: PermutedDiagonalSpec(size=min(s[:2])),
            lambda s: PermutedDiagonalSpec(size=min(s[:2]), index="random", seed=7),
            lambda s: PermutedDiagonalSpec(size=some(min(s[:2])), index="searched"),
            lambda s: PermutedDiagonalSpec(size=min(s[:2]), index="searched"),
        ),
        groups=False,
        slices=False,
    ),
    "block_circulant": Sample(
        lambda s: BlockCirculantSpec(size=1),
        (
            lambda s: BlockCirculantSpec(size=some(min(s[:2]))),
            lambda s: BlockCirculantSpec(size=min(s[:2])),
            lambda s: BlockCirculantSpec(size=max(s[:2])),
        ),
        groups=False,
        slices=False,
    ),
    "svd": Sample(
        lambda s: SvdSpec(rank=min(s[:2])),
        (lambda s: SvdSpec(rank=some(min(s[:2]))),),
        groups=False,
        pointwise_only=True,
    ),
    "tucker": Sample(
        lambda s: TuckerSpec(rank_in=s[1], rank_out=s[0]),
        (
            lambda s: TuckerSpec(rank_in=some(s[1]), rank_out=max(1, s[0] - 1)),
            lambda s: TuckerSpec(rank_in=s[1], rank_out=some(s[0]), fold=True),
            lambda s: TuckerSpec(rank_in=some(s[1]), rank_out=s[0], fold=True),
            lambda s: TuckerSpec(rank_in=s[1], rank_out=s[0], fold=True),
        ),
        linear=False,
        groups=False,
    ),
    "kernel_basis": Sample(
        lambda s: KernelBasisSpec(bases=area(s)),
        (
            lambda s: KernelBasisSpec(bases=some(area(s))),
            lambda s: KernelBasisSpec(bases=some(area(s)), coefficients="sparse"),
            lambda s: KernelBasisSpec(bases=area(s), coefficients="sparse"),
            lambda s: KernelBasisSpec(bases=some(area(s)), coefficients="ternary"),
            lambda s: KernelBasisSpec(bases=area(s), coefficients="ternary"),
            lambda s: KernelBasisSpec(bases=some(area(s)), coefficients="ternary", shared=4),
            lambda s: KernelBasisSpec(bases=some(area(s)), coefficients="ternary", block=4),
            lambda s: KernelBasisSpec(bases=some(area(s)), coefficients="ternary", asymmetric=True),
            lambda s: KernelBasisSpec(bases=some(area(s)), coefficients="ternary", asymmetric=True, shared=4),
        ),
    ),
    "block_sparse": Sample(
        lambda s: BlockSparseSpec(),
        (
            lambda s: BlockSparseSpec(density=0.3),
            lambda s: BlockSparseSpec(block=2, density=0.1),
            lambda s: BlockSparseSpec(block=1, keep=(2, 4)),
            lambda s: BlockSparseSpec(block=3, keep=(1, 2)),
        ),
    ),
    "sparse": Sample(
        lambda s: SparseSpec(),
        (
            lambda s: SparseSpec(density=0.3),
            lambda s: SparseSpec(density=0.02),
            lambda s: SparseSpec(values=TERNARY),
            lambda s: SparseSpec(values=TERNARY, density=0.05),
        ),
    ),
}


@dataclass(frozen=True)
class Case:
    """A convolution (K, C/groups, R, S) on an H x W map, or a linear layer (K, C)."""

    shape: Shape
    stride: int = 1
    padding: int | tuple[int, int] = 0
    dilation: int = 1
    groups: int = 1
    bias: bool = True
    size: tuple[int, int] = (8, 7)

    def __str__(self) -> str:
        return f"{'x'.join(map(str, self.shape))}-s{self.stride}p{self.padding}d{self.dilation}g{self.groups}"

    @property
    def channels(self) -> int:
        return self.shape[1] * self.groups

    def layer(self) -> Any:
        if len(self.shape) == 2:
            return nn.Linear(self.shape[1], self.shape[0], self.bias)
        geometry = (self.shape[2:], self.stride, self.padding, self.dilation, self.groups, self.bias)
        return nn.Conv2d(self.channels, self.shape[0], *geometry)

    def input(self, batch: int = 2) -> torch.Tensor:
        return torch.randn(batch, self.channels, *(self.size if len(self.shape) == 4 else ()))

    def oracle(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        if len(self.shape) == 2:
            return F.linear(x, weight, bias)
        return F.conv2d(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)


CASES = [
    Case((5, 7)),
    Case((1, 3), bias=False),
    Case((5, 7, 1, 1)),
    Case((6, 5, 1, 1), stride=2, bias=False),
    Case((4, 3, 1, 1), padding=1),
    Case((5, 3, 3, 3), padding=1),
    Case((3, 5, 3, 3), stride=2, padding=1, bias=False),
    Case((7, 1, 3, 3), padding=2, dilation=2),
    Case((4, 3, 5, 5), stride=2, padding=2),
    Case((3, 4, 3, 1), padding=(1, 0)),
    Case((6, 2, 3, 3), groups=3, padding=1),
    Case((6, 1, 3, 3), groups=6, stride=2, padding=1, bias=False),
]
ROWS = thinned(
    [
        pytest.param(name, case, number, id=f"{name}-{case}-{number}")
        for name, sample in SAMPLES.items()
        for case in CASES
        if sample.holds(case.shape, case.groups)
        for number in range(len(sample.specs(case.shape)))
    ],
    every=3,
    key=lambda name, case, number: (name, number),
)
ONE_ROW_EACH = [
    pytest.param(name, case, number, id=f"{name}-{case}-{number}")
    for name, sample in SAMPLES.items()
    for case in (Case((5, 7)), Case((5, 4, 1, 1), padding=1), Case((5, 3, 3, 3), stride=2, padding=1))
    if sample.holds(case.shape)
    for number in range(len(sample.specs(case.shape)))
]
every_row = pytest.mark.parametrize("name, case, number", ROWS)
few_rows = pytest.mark.parametrize("name, case, number", ONE_ROW_EACH)


def make(name: str, case: Case, number: int, dtype: torch.dtype = torch.float32) -> tuple[Any, Any]:
    """The dense layer and its twin in the format."""
    dense = case.layer()
    dense.weight.requires_grad_()
    return dense.to(dtype), layers.from_dense(dense.to(dtype), SAMPLES[name].specs(case.shape)[number])


def packed(name: str, case: Case, number: int, values: Any = None) -> Packed:
    """In the value type of the sample unless another is given."""
    spec = SAMPLES[name].specs(case.shape)[number]
    spec = spec if values is None else replace(spec, values=values)
    weight = np.random.default_rng(3).standard_normal(case.shape).astype(np.float32)
    return FORMATS[name].packed.from_dense(weight, spec)


def is_ternary(spec: Spec) -> bool:
    """Whether numbers of the weight are signs, which gradients leave."""
    return spec.values == TERNARY or getattr(spec, "coefficients", "") == "ternary"


def each_held(rows: list[Any]) -> Any:
    """Every row with every value type that its format holds."""
    return pytest.mark.parametrize(
        "name, case, number, values",
        [
            pytest.param(*row.values, values, id=f"{row.id}-{values.name}", marks=row.marks)
            for row in rows
            for values in FORMATS[row.values[0]].spec.holds
        ],
    )


def worst(got: Any, want: Any) -> float:
    """Largest error as a fraction of the range of what is wanted."""
    got, want = np.asarray(got, dtype=np.float64), np.asarray(want, dtype=np.float64)
    assert got.shape == want.shape
    return float(np.abs(got - want).max() / max(np.abs(want).max(), 1e-30))
