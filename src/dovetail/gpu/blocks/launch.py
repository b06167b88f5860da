"""Results of layers in blocks: of one program each, or of several whose sums are added up in order."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dovetail.gpu.blocks import kernels
from dovetail.gpu.launching import on

TILE = 256


def finished(
    x: Tensor, outputs: int, bias: Tensor | None, splits: int, work: Callable[[Tensor, Tensor | None], None]
) -> Tensor:
    """(N, outputs) of what `work` writes into its first argument, (splits, N, outputs).

    With several splits these are sums in float32 and the bias comes last; else `work` gets the bias too.
    """
    bias = None if bias is None else bias.contiguous()
    y = torch.empty((len(x), outputs), dtype=x.dtype, device=x.device)
    with on(x):
        if splits == 1:
            work(y, bias)
            return y
        parts = torch.empty((splits, *y.shape), dtype=torch.float32, device=x.device)
        work(parts, None)
        kernels.added[(-(-y.numel() // TILE),)](
            parts, y if bias is None else bias, y, y.numel(), outputs, SPLITS=splits, BIAS=bias is not None, T=TILE,
            num_warps=4,
        )  # fmt: skip
    return y
