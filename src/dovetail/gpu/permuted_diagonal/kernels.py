"""A linear layer of permuted diagonals, by its diagonals or by its classes.

    direct    y[n, P R + c] = sum over G of  q[R, G, c]  x[n, P G + (c + k[R, G]) mod P]                (+ bias)
    grouped   y[n, P R + c] = sum over G of  x[n, P G + (u + G) mod P]  q[R, G, c],  u = (c + columns R) mod P

`direct` reads q in the order of memory, once for TB inputs, and finds each x through the shift, which under a natural
index is (columns R + G) mod P and nowhere stored. A program holds TR rows of blocks and walks over TG columns at a
time; each of its TR x TG x TP lanes keeps a sum of its own, which are added up at the end. At one input a number of q
feeds one multiply-add: it is bound by memory.

`grouped` is for natural indices: output i = P R + c is of class u and reads all inputs of its class, so the layer is P
dense products of (N x columns) by (columns x rows). Programs of one class make TM x TN of them; both permutations are
the addresses of loads and stores. Neighbouring G lie P numbers apart in q: the P classes read the same lines, from L2.

All sums are kept in float32. Programs that share the columns out write sums of their own, which `added` adds up in
order.
"""

from dovetail.gpu.language import jit, tl


@jit
def direct(
    x, q, shifts, bias, y, batch, rows, columns, inputs, outputs, chunks,
    P: tl.constexpr, NATURAL: tl.constexpr, BIAS: tl.constexpr,
    TB: tl.constexpr, TR: tl.constexpr, TG: tl.constexpr, TP: tl.constexpr,
):  # fmt: skip
    """Grid: tiles of TR rows of blocks, tiles of TB inputs, splits of `chunks` times TG columns each."""
    row = tl.program_id(0) * TR + tl.arange(0, TR)
    n = tl.program_id(1) * TB + tl.arange(0, TB)
    lane = tl.arange(0, TP)
    sums = tl.zeros((TB, TR, TG, TP), dtype=tl.float32)
    for step in range(chunks):
        column = (tl.program_id(2) * chunks + step) * TG + tl.arange(0, TG)
        block = row[:, None] * columns + column[None, :]
        known = (row < rows)[:, None] & (column < columns)[None, :]
        shift = block % P
        if not NATURAL:
            shift = tl.load(shifts + block, mask=known, other=0).to(tl.int32) % P + P  # of the sign of what is divided
        at = column[None, :, None] * P + (lane[None, None, :] + shift[:, :, None]) % P
        there = known[:, :, None] & (lane < P)[None, None, :]
        w = tl.load(q + block[:, :, None] * P + lane[None, None, :], mask=there, other=0.0).to(tl.float32)
        found = (there & (at < inputs))[None, :, :, :] & (n < batch)[:, None, None, None]
        a = tl.load(x + n[:, None, None, None] * inputs + at[None, :, :, :], mask=found, other=0.0).to(tl.float32)
        sums += a * w[None, :, :, :]
    total = tl.sum(sums, axis=2)
    i = row[:, None] * P + lane[None, :]
    last = (lane < P)[None, :] & (i < outputs)
    if BIAS:
        total += tl.load(bias + i, mask=last, other=0.0).to(tl.float32)[None, :, :]
    place = (tl.program_id(2) * batch + n)[:, None, None] * outputs + i[None, :, :]
    tl.store(y + place, total.to(y.dtype.element_ty), mask=last[None, :, :] & (n < batch)[:, None, None])


@jit
def grouped(
    x, q, bias, y, batch, rows, columns, inputs, outputs, chunks,
    P: tl.constexpr, BIAS: tl.constexpr, TM: tl.constexpr, TN: tl.constexpr, TC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Grid: tiles of TN rows of blocks by classes, tiles of TM inputs, splits of `chunks` times TC columns each."""
    u = tl.program_id(0) % P
    row = (tl.program_id(0) // P) * TN + tl.arange(0, TN)
    n = tl.program_id(1) * TM + tl.arange(0, TM)
    lane = (u + P - (row * columns) % P) % P
    sums = tl.zeros((TM, TN), dtype=tl.float32)
    for step in range(chunks):
        column = (tl.program_id(2) * chunks + step) * TC + tl.arange(0, TC)
        at = column * P + (u + column) % P
        a = tl.load(
            x + n[:, None] * inputs + at[None, :],
            mask=(n < batch)[:, None] & ((column < columns) & (at < inputs))[None, :],
            other=0.0,
        )
        b = tl.load(
            q + (row * columns * P + lane)[None, :] + (column * P)[:, None],
            mask=(column < columns)[:, None] & (row < rows)[None, :],
            other=0.0,
        )
        sums = tl.dot(a, b, sums, input_precision=PRECISION)
    i = row * P + lane
    last = (row < rows) & (i < outputs)
    if BIAS:
        sums += tl.load(bias + i, mask=last, other=0.0).to(tl.float32)[None, :]
    place = (tl.program_id(2) * batch + n)[:, None] * outputs + i[None, :]
    tl.store(y + place, sums.to(y.dtype.element_ty), mask=(n < batch)[:, None] & last[None, :])
