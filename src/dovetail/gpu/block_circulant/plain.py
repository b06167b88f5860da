"""The slow twin of the kernel, the transforms, and the gradients, in torch's ops."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def plain(x: Tensor, values: Tensor, bias: Tensor | None, size: int, outputs: int) -> Tensor:
    """One product with the dense weight."""
    return F.linear(x, dense(values, size)[:outputs, : x.shape[1]], bias)


def dense(values: Tensor, size: int) -> Tensor:
    """Every block's column in all its rotations, with the filling, (rows x size, columns x size)."""
    place = torch.arange(size, device=values.device)
    turned = values.view(len(values), -1, size)[:, :, (place[:, None] - place) % size]
    return turned.transpose(1, 2).reshape(len(values) * size, -1)


def spectra_of(values: Tensor, size: int) -> Tensor:
    """The real transform of every block's column, (frequencies, columns, rows), as `transformed` multiplies by them."""
    return _spectra(values, size).permute(2, 1, 0).contiguous()


def transformed(
    x: Tensor, values: Tensor, bias: Tensor | None, size: int, outputs: int, spectra: Tensor | None = None
) -> Tensor:
    """Transform the inputs, multiply spectra, sum over columns of blocks, transform back (CirCNN, section 3).

    In float32 at least: transforms in 16 bits exist for powers of two alone, and lose what the sums keep.
    """
    spectra = spectra_of(values, size) if spectra is None else spectra
    products = torch.bmm(_spectra(x, size).permute(2, 0, 1), spectra)
    y: Tensor = torch.fft.irfft(products.permute(1, 2, 0), size).flatten(1)[:, :outputs]
    y = y if bias is None else y + bias
    return y.to(x.dtype)


def gradients(
    grad: Tensor, x: Tensor, values: Tensor, size: int, wants: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    """Of inputs and numbers, as far as they are wanted: circular correlations, as products with conjugate spectra."""
    of_grad = _spectra(grad, size).permute(2, 0, 1)
    by_x, by_values = None, None
    if wants[0]:
        products = torch.bmm(of_grad, _spectra(values, size).conj().permute(2, 0, 1))
        by_x = torch.fft.irfft(products.permute(1, 2, 0), size).flatten(1)[:, : x.shape[1]].to(x.dtype)
    if wants[1]:
        products = torch.bmm(of_grad.transpose(1, 2), _spectra(x, size).conj().permute(2, 0, 1))
        by_values = torch.fft.irfft(products.permute(1, 2, 0), size).flatten(1).to(values.dtype)
    return by_x, by_values


def _spectra(rows: Tensor, size: int) -> Tensor:
    """Of each part of `size` numbers, the last one filled up with zeros: (rows, parts, frequencies)."""
    missing = -rows.shape[1] % size
    exact = rows if rows.dtype == torch.float64 else rows.float()
    spectra: Tensor = torch.fft.rfft(F.pad(exact, (0, missing)).view(len(rows), -1, size))
    return spectra
