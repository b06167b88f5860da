"""The nearest weights of low rank, in torch: truncated HOSVD and HOOI of convolutions, truncated SVD of matrices.

The twins of `formats.tucker.packed` and `formats.svd.packed`, on whatever device a weight is trained. All compute in
float64 and without gradients.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dovetail.formats.svd import SvdSpec
from dovetail.formats.tucker import TuckerSpec

LowRank = TuckerSpec | SvdSpec


@torch.no_grad()
def project(weight: Tensor, spec: LowRank, *, refine: bool = True) -> Tensor:
    """The weight of `spec` that is near `weight`, of its shape, type and device; `spec` must fit.

    Tucker-2 by HOOI, or without `refine` by HOSVD, whose squared error is at most twice the least. An SVD is the
    nearest either way.
    """
    if isinstance(spec, SvdSpec):
        return _nearest(_double(weight).flatten(1), spec.rank).view(weight.shape).to(weight.dtype)
    if refine:
        u_out, core, inputs = hooi(weight, spec.rank_out, spec.rank_in)
        return compose(u_out, core, inputs).to(weight.dtype)
    u_out, u_in = hosvd(weight, spec.rank_out, spec.rank_in)
    return compose(u_out, _core(_double(weight), u_out, u_in), u_in.T).to(weight.dtype)


@torch.no_grad()
def hosvd(weight: Tensor, rank_out: int, rank_in: int) -> tuple[Tensor, Tensor]:
    """Leading left singular vectors of both channel unfoldings: `(K, rank_out)` and `(C, rank_in)`."""
    weight = _double(weight)
    return _leading(weight, 0, rank_out), _leading(weight, 1, rank_in)


@torch.no_grad()
def hooi(
    weight: Tensor, rank_out: int, rank_in: int, *, tolerance: float = 1e-4, rounds: int = 100
) -> tuple[Tensor, Tensor, Tensor]:
    """Factors `(K, D2)`, `(D2, D1, R, S)`, `(D1, C)` by alternating re-estimation, started from HOSVD.

    It ends when the relative error changes by less than `tolerance` in a round.
    """
    weight = _double(weight)
    u_out = _leading(weight, 0, rank_out)
    norm = float(weight.norm()) or 1.0
    previous = float("inf")
    for _ in range(rounds):
        u_in = _leading(torch.einsum("kcrs,kb->bcrs", weight, u_out), 1, rank_in)
        u_out = _leading(torch.einsum("kcrs,ca->kars", weight, u_in), 0, rank_out)
        core = _core(weight, u_out, u_in)
        error = max(norm**2 - float(core.norm()) ** 2, 0.0) ** 0.5 / norm
        if abs(previous - error) < tolerance:
            break
        previous = error
    return u_out, core, u_in.T


def compose(output: Tensor, core: Tensor, inputs: Tensor) -> Tensor:
    """The weight `(K, C, R, S)` of three factors `(K, D2)`, `(D2, D1, R, S)`, `(D1, C)`."""
    return torch.einsum("kb,bars,ac->kcrs", output, core, inputs)


def _double(weight: Tensor) -> Tensor:
    """In float64 and in one layout, whatever the weight's: sums must not depend on it (resumed runs are bit-equal)."""
    return weight.detach().double().contiguous()


def _core(weight: Tensor, u_out: Tensor, u_in: Tensor) -> Tensor:
    return torch.einsum("kcrs,kb,ca->bars", weight, u_out, u_in)


def _leading(weight: Tensor, mode: int, rank: int) -> Tensor:
    """Leading left singular vectors of an unfolding, from its small Gram matrix; of a full rank, the unit vectors."""
    unfolded = weight.movedim(mode, 0).flatten(1)
    if rank == len(unfolded):
        return torch.eye(rank).to(weight)
    _, vectors = torch.linalg.eigh(unfolded @ unfolded.T)
    return vectors.flip(1)[:, :rank]


def _nearest(matrix: Tensor, rank: int) -> Tensor:
    """The truncated SVD, from the Gram matrix of the smaller side."""
    if matrix.shape[0] > matrix.shape[1]:
        return _nearest(matrix.T, rank).T
    u = _leading(matrix, 0, rank)
    return u @ (u.T @ matrix)
