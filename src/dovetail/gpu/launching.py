"""What all ops share: which tensors kernels take, and how a kernel is launched on them."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor

from dovetail.gpu import support

KERNEL_TYPES = (torch.float32, torch.float16, torch.bfloat16)
OLDEST = (8, 0)
"""Compute capability of the cards that Triton 3.6 supports: Ampere."""


def kernels_take(x: Tensor) -> bool:
    """Whether there are kernels for such a tensor, or the interpreter plays them (it cannot multiply bfloat16)."""
    if x.dtype not in KERNEL_TYPES or not support.INSTALLED:
        return False
    if support.INTERPRETED:
        return x.dtype != torch.bfloat16
    return x.is_cuda and torch.version.hip is None


def runs(x: Tensor, *sizes: int) -> bool:
    """Whether the kernels can run now: the card is new enough, and 32 bits number every element."""
    if not kernels_take(x) or x.numel() == 0 or max(x.numel(), *sizes) >= 2**31:
        return False
    return too_old(x.device) is None


def too_old(device: torch.device) -> str | None:
    """Why a card has no kernels, in words; None where it has."""
    if device.type != "cuda" or (here := torch.cuda.get_device_capability(device)) >= OLDEST:
        return None
    least, own = (".".join(map(str, capability)) for capability in (OLDEST, here))
    return f"Triton's kernels need compute capability {least}, {torch.cuda.get_device_name(device)} has {own}"


def under_autocast(device: str) -> bool:
    """Whether autocast is on; of devices that have none torch refuses the question."""
    return torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)


def autocast(tensor: Tensor, device: str) -> Tensor:
    """As autocast treats the operands of a convolution or a linear layer."""
    return tensor.to(torch.get_autocast_dtype(device)) if tensor.dtype in KERNEL_TYPES else tensor


def on(x: Tensor) -> Any:
    """Launches go to the current device: within, that is the tensor's; in the interpreter there is none."""
    support.require()
    return torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext()


def options(tiles: Any) -> dict[str, Any]:
    """Of a launch. Contraction of multiply and add is asked for by name: its default depends on Triton's version."""
    return {"num_warps": tiles.warps, "num_stages": tiles.stages, "enable_fp_fusion": True}
