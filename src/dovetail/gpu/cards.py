"""Graphics cards as the tile models see them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

_KIB: Final = 1024


@dataclass(frozen=True)
class Gpu:
    """One card.

    Attributes:
        sms: multiprocessors.
        threads_per_sm: that can be resident.
        ratio: the share of the candidates, by score, of which TDC takes the one with the least volume.
        shared_per_sm: bytes of shared memory.
        shared_per_block: bytes that one block may have.
        macs: multiply-adds of an SM in a cycle, by the type of the product: `f16` (bf16 too), `tf32`, `f32`.
        l2_bytes: that an SM gets from the L2 cache in a cycle.
        latency: cycles from asking for a line in L2 to having it.
    """

    name: str
    sms: int
    threads_per_sm: int
    ratio: float
    shared_per_sm: int
    shared_per_block: int
    macs: tuple[int, int, int]
    l2_bytes: int
    latency: int

    def macs_of(self, product: str) -> int:
        """Multiply-adds of an SM in a cycle."""
        return dict(zip(("f16", "tf32", "f32"), self.macs))[product]


# Multiply-adds follow from the makers' peak numbers (sums in float32). The ratios of H100 and H200 are as of the A100
# [chosen]; l2_bytes and latency are round numbers [chosen], set before any kernel was timed.
GPUS: Final = {
    gpu.name: gpu
    for gpu in (
        Gpu("A100", 108, 2048, 0.05, 164 * _KIB, 163 * _KIB, (1024, 512, 64), 48, 700),
        Gpu("RTX 2080 Ti", 68, 1024, 0.15, 64 * _KIB, 64 * _KIB, (256, 64, 64), 32, 700),
        Gpu("H100", 132, 2048, 0.05, 228 * _KIB, 227 * _KIB, (2048, 1024, 128), 48, 700),
        Gpu("H200", 132, 2048, 0.05, 228 * _KIB, 227 * _KIB, (2048, 1024, 128), 48, 700),
    )
}
FALLBACK: Final = GPUS["A100"]


def described(properties: Any) -> Gpu:
    """The card of these `torch.cuda.get_device_properties`; an unknown one is like an A100 or, if older, a 2080 Ti."""
    known = [gpu for name, gpu in GPUS.items() if name.removeprefix("RTX ") in properties.name]
    like = known[0] if known else FALLBACK if properties.major >= 8 else GPUS["RTX 2080 Ti"]
    shared = getattr(properties, "shared_memory_per_multiprocessor", like.shared_per_sm)
    return replace(
        like,
        name=properties.name,
        sms=properties.multi_processor_count,
        threads_per_sm=getattr(properties, "max_threads_per_multi_processor", like.threads_per_sm),
        shared_per_sm=shared,
        shared_per_block=getattr(properties, "shared_memory_per_block_optin", min(like.shared_per_block, shared)),
    )
