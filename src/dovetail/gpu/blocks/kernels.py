"""The end of a product whose terms were shared out among several blocks."""

from dovetail.gpu.language import jit, tl


@jit
def added(parts, bias, y, count, outputs, SPLITS: tl.constexpr, BIAS: tl.constexpr, T: tl.constexpr):
    """Y[i] = sum over splits of parts[split, i] (+ bias[i mod outputs]), in order. Grid: tiles of T of `count` sums."""
    at = tl.program_id(0) * T + tl.arange(0, T)
    there = at < count
    sums = tl.load(parts + at, mask=there, other=0.0)
    for split in tl.static_range(1, SPLITS):
        sums += tl.load(parts + split * count + at, mask=there, other=0.0)
    if BIAS:
        sums += tl.load(bias + at % outputs, mask=there, other=0.0).to(tl.float32)
    tl.store(y + at, sums.to(y.dtype.element_ty), mask=there)
