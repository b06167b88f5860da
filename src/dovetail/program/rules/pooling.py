"""Pooling, means and upsampling."""

from __future__ import annotations

from typing import Any

from dovetail.program.build import Builder, Var
from dovetail.program.rules.table import Pads, Pair, axis_of, pair, rule, size


@rule("max_pool2d", "max_pool2d_with_indices")
def max_pool2d(
    b: Builder, x: Var, *, kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool
) -> Any:
    """Explicit pads; `ceil_mode` becomes more of them."""
    kernel, spread = pair(kernel_size), pair(dilation)
    step = pair(stride) if stride else kernel
    pads = _pads(b, x, kernel, step, pair(padding), spread, ceil_mode)
    y = b.emit("max_pool2d", x, kernel=kernel, stride=step, padding=pads, dilation=spread)
    return (y, None) if "indices" in b.call.op else y


@rule("avg_pool2d")
def avg_pool2d(
    b: Builder, x: Var, *, kernel_size: Any, stride: Any, padding: Any, ceil_mode: bool, count_include_pad: bool,
    divisor_override: int | None,
) -> Var:  # fmt: skip
    """The same; what `ceil_mode` adds never counts, so padding that counts then becomes a pad of its own."""
    if divisor_override is not None:
        b.call.refuse("divisor_override is not known", "scale after the pooling instead")
    kernel, (top, left) = pair(kernel_size), pair(padding)
    step = pair(stride) if stride else kernel
    pads = _pads(b, x, kernel, step, (top, left), (1, 1), ceil_mode)
    if count_include_pad and pads != (top, top, left, left):
        if top or left:
            x = b.emit("pad", x, pads=((0, 0), (0, 0), (top, top), (left, left)), value=0.0)
        pads, count_include_pad = (0, pads[1] - top, 0, pads[3] - left), False
    return b.emit("avg_pool2d", x, kernel=kernel, stride=step, padding=pads, include_pad=bool(count_include_pad))


@rule("adaptive_avg_pool2d", "_adaptive_avg_pool2d")
def adaptive_avg_pool2d(b: Builder, x: Var, *, output_size: Any) -> Var:
    """To one pixel it is a mean."""
    if tuple(output_size) == (1, 1):
        return b.emit("mean", x, axes=(2, 3), keepdims=True)
    return b.emit("adaptive_avg_pool2d", x, output=tuple(output_size))


@rule("adaptive_max_pool2d")
def adaptive_max_pool2d(b: Builder, x: Var, *, output_size: Any) -> tuple[Var, None]:
    """Values only; nothing can read the indices."""
    return b.emit("adaptive_max_pool2d", x, output=tuple(output_size)), None


@rule("mean")
def mean(b: Builder, x: Var, *, dim: Any = None, keepdim: bool = False, **_: Any) -> Var:
    """Over the given axes, or all."""
    axes = range(len(x.shape)) if dim is None else [axis_of(x, d) for d in ([dim] if isinstance(dim, int) else dim)]
    return b.emit("mean", x, axes=tuple(sorted(axes)), keepdims=bool(keepdim))


@rule("upsample_nearest2d", "_upsample_nearest_exact2d")
def upsample(b: Builder, x: Var, **_: Any) -> Var:
    """By whole factors, where both kinds of nearest agree."""
    before, after = [size(b, x, i) for i in (2, 3)], [int(n) for n in b.call.shape[2:]]
    if any(q % p for p, q in zip(before, after)):
        b.call.refuse(f"it resizes {before} to {after}", "upsample by whole factors")
    return b.emit("upsample_nearest", x, scale=tuple(q // p for p, q in zip(before, after)))


def _pads(b: Builder, x: Var, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair, ceil: bool) -> Pads:
    """Top, bottom, left, right; `ceil` lets the last window, which starts inside, reach beyond the image."""
    pads: list[int] = []
    for i in range(2):
        reach = (int(b.call.shape[2 + i]) - 1) * stride[i] + dilation[i] * (kernel[i] - 1) + 1
        beyond = reach - size(b, x, 2 + i) - padding[i]
        pads += [padding[i], max(padding[i], beyond) if ceil else padding[i]]
    return (pads[0], pads[1], pads[2], pads[3])
