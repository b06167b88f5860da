"""Kernel bases as methods use them: how many, how they start, which side of them trains, what they cost."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import numpy as np
from torch import Tensor

from dovetail.errors import SpecError
from dovetail.formats.base import Geometry, Spec
from dovetail.formats.kernel_basis import KernelBasisSpec, PackedKernelBasis
from dovetail.formats.kernel_basis.layer import KernelBasisConv2d, KernelBasisLayer
from dovetail.formats.kernel_basis.layer import from_dense as in_bases
from dovetail.formats.kernel_basis.packed import decompose, least_macs
from dovetail.formats.layer import numpy
from dovetail.formats.values import INT8

Init = Literal["svd", "pca_nomean", "pca_mean"]
Bases = int | float


def bases_for(weight: np.ndarray, wanted: Bases) -> int:
    """`wanted` itself, or for a fraction the smallest d whose bases hold that share of the kernels' energy.

    The energy of d bases is the sum of the d largest squared singular values of the (K C, R S) matrix of kernels.
    """
    if isinstance(wanted, int) and wanted >= 1:
        return wanted
    if not 0 < wanted < 1:
        raise SpecError(f"bases {wanted!r} must be a whole number from 1 or a fraction between 0 and 1")
    kernels = weight.reshape(-1, weight.shape[2] * weight.shape[3]).astype(np.float64)
    energies = np.linalg.svd(kernels, compute_uv=False) ** 2
    return min(int(np.searchsorted(np.cumsum(energies), wanted * energies.sum())) + 1, len(energies))


def bases_of(name: str, wanted: Bases | Mapping[str, Bases], otherwise: int) -> Bases:
    """What is wanted of the layer `name`, where that may be said by names and globs, later ones winning."""
    if not isinstance(wanted, Mapping):
        return wanted
    matching = [count for pattern, count in wanted.items() if fnmatch.fnmatchcase(name, pattern)]
    return matching[-1] if matching else otherwise


def is_ternary(spec: Spec) -> bool:
    """Whether shared kernels of this spec are combined by ternary coefficients."""
    return isinstance(spec, KernelBasisSpec) and spec.coefficients == "ternary"


def is_whole(spec: Spec) -> bool:
    """Whether shared kernels of this spec are combined by dense coefficients, and both are of int8."""
    return isinstance(spec, KernelBasisSpec) and spec.coefficients == "dense" and spec.values == INT8


def is_depthwise(layer: Any) -> bool:
    """Whether every output of a convolution reads one channel of several."""
    return bool(getattr(layer, "groups", 1) > 1 and layer.weight.shape[1] == 1)


def train_sides(layers: Iterable[KernelBasisLayer], *, bases: bool, coefficients: bool) -> None:
    """Which of the two sides learn from now on."""
    for layer in layers:
        layer.bases.requires_grad_(bases)
        layer.coefficients.requires_grad_(coefficients)


def drop_frozen_gradients(layers: Iterable[KernelBasisLayer]) -> None:
    """A frozen side has no gradient at all, so that neither momentum nor weight decay moves it."""
    for layer in layers:
        for parameter in (layer.bases, layer.coefficients):
            if not parameter.requires_grad:
                parameter.grad = None


def decomposed(layer: Any, spec: Any, init: Init = "svd") -> KernelBasisLayer:
    """A layer as a kernel basis of `spec.bases` shared kernels, the mean among them for `"pca_mean"`."""
    made: KernelBasisLayer
    if init == "svd" or layer.kernel_size == (1, 1):
        made = in_bases(layer, spec)
    else:
        weight = numpy(layer.weight)
        bases, coefficients = decompose(weight, spec.bases - (init == "pca_mean"), "pca_nomean")
        if init == "pca_mean":
            bases = np.concatenate([bases, weight.mean(axis=(0, 1), dtype=np.float64)[None]])
            coefficients = np.concatenate([coefficients, np.ones((*weight.shape[:2], 1))], axis=2)
        made = KernelBasisConv2d(layer, PackedKernelBasis.from_factors(bases, coefficients, spec))
    return made.train(layer.training)


def soften(values: Tensor, threshold: float) -> None:
    """sign(a) max(|a| - threshold, 0), in place."""
    values.copy_(values.sign() * (values.abs() - threshold).clamp_min(0))


def basis_macs(bases: np.ndarray, coefficients: np.ndarray, at: Geometry) -> int:
    """Of a convolution with these factors, zeros and the bases that only they use left out."""
    present = coefficients != 0
    used, live = max(1, int(present.any(axis=(0, 1)).sum())), int(present.any(axis=2).sum())
    return least_macs((*coefficients.shape[:2], *bases.shape[1:]), used, int(present.sum()), live, at)
