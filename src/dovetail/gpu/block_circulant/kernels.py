"""A linear layer of circulant blocks, in all rotations of its inputs.

    y[n, K R + r] = sum over G, t of  x[n, K G + (r - t) mod K]  w[R, G, t]                         (+ bias[K R + r])

Of all rows of blocks this is a matrix product: on one side the numbers w[R, (G, t)] as they lie in memory, on the other
the inputs in all K rotations, one for each of the N K outputs (n, r), which nobody writes down: they are the addresses
of loads. So a number of w, once loaded, meets K outputs of every input in a tile, and matrix units do the work of the
dense layer with the bytes of the small one. Any K will do.

Sums are kept in float32. Programs that share the terms out write sums of their own, which `added` adds up in order.
"""

from dovetail.gpu.language import jit, tl


@jit
def rotated(
    x, w, bias, y, batch, rows, columns, inputs, outputs, chunks,
    K: tl.constexpr, BIAS: tl.constexpr, TM: tl.constexpr, TN: tl.constexpr, TC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Grid: tiles of TM outputs of a row, tiles of TN rows of blocks, splits of `chunks` times TC numbers each."""
    m = tl.program_id(0) * TM + tl.arange(0, TM)
    n = m // K
    r = m % K
    row = tl.program_id(1) * TN + tl.arange(0, TN)
    sums = tl.zeros((TM, TN), dtype=tl.float32)
    for step in range(chunks):
        f = (tl.program_id(2) * chunks + step) * TC + tl.arange(0, TC)
        at = (f - f % K)[None, :] + (r[:, None] + K - (f % K)[None, :]) % K
        a = tl.load(
            x + n[:, None] * inputs + at,
            mask=(n < batch)[:, None] & (f < columns * K)[None, :] & (at < inputs),
            other=0.0,
        )
        b = tl.load(
            w + (row * columns * K)[None, :] + f[:, None],
            mask=(f < columns * K)[:, None] & (row < rows)[None, :],
            other=0.0,
        )
        sums = tl.dot(a, b, sums, input_precision=PRECISION)
    i = row[None, :] * K + r[:, None]
    last = (n < batch)[:, None] & (row < rows)[None, :] & (i < outputs)
    if BIAS:
        sums += tl.load(bias + i, mask=last, other=0.0).to(tl.float32)
    place = (tl.program_id(2) * batch + n)[:, None] * outputs + i
    tl.store(y + place, sums.to(y.dtype.element_ty), mask=last)
