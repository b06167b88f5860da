"""The three convolutions of a Tucker layer as implicit matrix products.

Images lie channels last: pixel by pixel, the channels of a pixel side by side. All sums are kept in float32, and no
block adds to another's, so results are the same in every run.

    core       Z2[p, n]    = sum over r, s, c of  Z1[at(p, r, s), c]  G[n, c, r, s]
    fused      Y[p, k]     = sum over n of  Z2[p, n]  U[k, n]  (+ bias[k] + residual[p, k], then ReLU)
    pointwise  Y[p, k]     = sum over c of  (sum over splits of X[split, p, c])  U[k, c]  (+ …, as above)

A block has TH x TW pixels and TN output channels. The rows of all images of a batch are counted through, so that a tile
may span two images. A step of its loop brings one tap (r, s) of TC input channels: a matrix of TH*TW x TC from the
image, zeros where the tap lies in the padding, and one of TC x TN from the weight; taps are the inner loop, since
neighbouring taps read the same lines. `core` may share the input channels out among several blocks, each with sums of
its own, which `pointwise` adds up in a fixed order as it reads them: small maps alone would leave a GPU idle. `fused`
holds all channels of Z2 at once, and multiplies them by U without writing them.

What a step moves: (TH*TW + TN) * TC numbers for TH*TW * TN * TC multiply-adds.
"""

from dovetail.gpu.language import jit, tl


@jit
def _accumulate(
    x, weight, row, column, inside, n, height, width, inputs, outputs, first, chunks,
    weight_n, weight_c, weight_r, weight_s,
    R: tl.constexpr, S: tl.constexpr, STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr,
    PAD_H: tl.constexpr, PAD_W: tl.constexpr, DILATION_H: tl.constexpr, DILATION_W: tl.constexpr,
    out_height, TM: tl.constexpr, TN: tl.constexpr, TC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Sums of (TM, TN) over all taps of the `chunks` times TC input channels that begin with chunk `first`.

    `row` counts output rows through the batch, `n` output channels; `inside` says which pixels there are.
    """
    image = row // out_height
    y = (row % out_height) * STRIDE_H - PAD_H
    z = column * STRIDE_W - PAD_W
    origin = ((image * height + y) * width + z) * inputs
    c0 = tl.arange(0, TC)
    sums = tl.zeros((TM, TN), dtype=tl.float32)
    for step in range(chunks * (R * S)):
        c = (first + step // (R * S)) * TC + c0
        r = (step % (R * S)) // S
        s = (step % (R * S)) % S
        at_y = y + r * DILATION_H
        at_z = z + s * DILATION_W
        there = inside & (at_y >= 0) & (at_y < height) & (at_z >= 0) & (at_z < width)
        shift = (r * DILATION_H * width + s * DILATION_W) * inputs
        a = tl.load(
            x + (origin + shift)[:, None] + c[None, :],
            mask=there[:, None] & (c < inputs)[None, :],
            other=0.0,
        )
        b = tl.load(
            weight + (c * weight_c + r * weight_r + s * weight_s)[:, None] + (n * weight_n)[None, :],
            mask=(c < inputs)[:, None] & (n < outputs)[None, :],
            other=0.0,
        )
        sums = tl.dot(a, b, sums, input_precision=PRECISION)
    return sums


@jit
def _finish(sums, y, bias, residual, pixel, inside, k, outputs, BIAS: tl.constexpr, RESIDUAL: tl.constexpr,
            RELU: tl.constexpr):  # fmt: skip
    """Bias, residual, ReLU, and out; a NaN stays one."""
    known = k < outputs
    place = pixel[:, None] * outputs + k[None, :]
    mask = inside[:, None] & known[None, :]
    if BIAS:
        sums += tl.load(bias + k, mask=known, other=0.0).to(tl.float32)[None, :]
    if RESIDUAL:
        sums += tl.load(residual + place, mask=mask, other=0.0).to(tl.float32)
    if RELU:
        sums = tl.where(sums < 0.0, 0.0, sums)
    tl.store(y + place, sums.to(y.dtype.element_ty), mask=mask)


@jit
def core(
    x, weight, y, rows, height, width, out_height, out_width, inputs, outputs, chunks,
    weight_n, weight_c, weight_r, weight_s,
    R: tl.constexpr, S: tl.constexpr, STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr,
    PAD_H: tl.constexpr, PAD_W: tl.constexpr, DILATION_H: tl.constexpr, DILATION_W: tl.constexpr,
    TH: tl.constexpr, TW: tl.constexpr, TN: tl.constexpr, TC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Grid: tiles of pixels, tiles of outputs, splits. `rows` of all images; a split has `chunks` times TC channels."""
    across = (out_width + TW - 1) // TW
    m = tl.arange(0, TH * TW)
    row = (tl.program_id(0) // across) * TH + m // TW
    column = (tl.program_id(0) % across) * TW + m % TW
    inside = (row < rows) & (column < out_width)
    n = tl.program_id(1) * TN + tl.arange(0, TN)
    sums = _accumulate(
        x, weight, row, column, inside, n, height, width, inputs, outputs, tl.program_id(2) * chunks, chunks,
        weight_n, weight_c, weight_r, weight_s, R, S, STRIDE_H, STRIDE_W, PAD_H, PAD_W, DILATION_H, DILATION_W,
        out_height, TH * TW, TN, TC, PRECISION,
    )  # fmt: skip
    pixel = tl.program_id(2) * (rows * out_width) + row * out_width + column
    _finish(sums, y, y, y, pixel, inside, n, outputs, False, False, False)


@jit
def fused(
    x, weight, last, bias, residual, y, rows, height, width, out_height, out_width, inputs, middle, outputs, chunks,
    weight_n, weight_c, weight_r, weight_s, last_k, last_n,
    R: tl.constexpr, S: tl.constexpr, STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr,
    PAD_H: tl.constexpr, PAD_W: tl.constexpr, DILATION_H: tl.constexpr, DILATION_W: tl.constexpr,
    TH: tl.constexpr, TW: tl.constexpr, TN: tl.constexpr, TC: tl.constexpr, TK: tl.constexpr,
    PRECISION: tl.constexpr, BIAS: tl.constexpr, RESIDUAL: tl.constexpr, RELU: tl.constexpr,
):  # fmt: skip
    """Core and last product. Grid: tiles of pixels; TN holds all `middle` channels, TK outputs are made at a time."""
    across = (out_width + TW - 1) // TW
    m = tl.arange(0, TH * TW)
    row = (tl.program_id(0) // across) * TH + m // TW
    column = (tl.program_id(0) % across) * TW + m % TW
    inside = (row < rows) & (column < out_width)
    n = tl.arange(0, TN)
    sums = _accumulate(
        x, weight, row, column, inside, n, height, width, inputs, middle, 0, chunks,
        weight_n, weight_c, weight_r, weight_s, R, S, STRIDE_H, STRIDE_W, PAD_H, PAD_W, DILATION_H, DILATION_W,
        out_height, TH * TW, TN, TC, PRECISION,
    )  # fmt: skip
    z = sums.to(x.dtype.element_ty)
    pixel = row * out_width + column
    for start in range(0, outputs, TK):
        k = start + tl.arange(0, TK)
        u = tl.load(
            last + (n * last_n)[:, None] + (k * last_k)[None, :],
            mask=(n < middle)[:, None] & (k < outputs)[None, :],
            other=0.0,
        )
        made = tl.dot(z, u, tl.zeros((TH * TW, TK), dtype=tl.float32), input_precision=PRECISION)
        _finish(made, y, bias, residual, pixel, inside, k, outputs, BIAS, RESIDUAL, RELU)


@jit
def pointwise(
    x, weight, bias, residual, y, pixels, inputs, outputs, weight_k, weight_c,
    SPLITS: tl.constexpr, TM: tl.constexpr, TN: tl.constexpr, TC: tl.constexpr,
    PRECISION: tl.constexpr, BIAS: tl.constexpr, RESIDUAL: tl.constexpr, RELU: tl.constexpr,
):  # fmt: skip
    """A 1x1 convolution of the sum of SPLITS images. Grid: tiles of TM pixels, tiles of TN outputs."""
    pixel = tl.program_id(0) * TM + tl.arange(0, TM)
    k = tl.program_id(1) * TN + tl.arange(0, TN)
    inside = pixel < pixels
    sums = tl.zeros((TM, TN), dtype=tl.float32)
    for start in range(0, inputs, TC):
        c = start + tl.arange(0, TC)
        there = inside[:, None] & (c < inputs)[None, :]
        place = pixel[:, None] * inputs + c[None, :]
        a = tl.load(x + place, mask=there, other=0.0)
        for split in tl.static_range(1, SPLITS):
            a += tl.load(x + split * (pixels * inputs) + place, mask=there, other=0.0)
        b = tl.load(
            weight + (c * weight_c)[:, None] + (k * weight_k)[None, :],
            mask=(c < inputs)[:, None] & (k < outputs)[None, :],
            other=0.0,
        )
        sums = tl.dot(a.to(weight.dtype.element_ty), b, sums, input_precision=PRECISION)
    _finish(sums, y, bias, residual, pixel, inside, k, outputs, BIAS, RESIDUAL, RELU)
