"""The slow twin of the kernels, and the gradients, in torch's ops."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def plain(x: Tensor, q: Tensor, shifts: Tensor | None, bias: Tensor | None, size: int, outputs: int) -> Tensor:
    """One product with the dense weight."""
    return F.linear(x, dense(q, shifts, size)[:outputs, : x.shape[1]], bias)


def dense(q: Tensor, shifts: Tensor | None, size: int) -> Tensor:
    """The weight with its filling, (rows x size, columns x size)."""
    at = places(q, shifts, size)
    rows, columns, _ = at.shape
    tiles = q.new_zeros(rows, columns, size, size).scatter(3, at.unsqueeze(3), q.view(rows, columns, size, 1))
    return tiles.transpose(1, 2).reshape(rows * size, columns * size)


def places(q: Tensor, shifts: Tensor | None, size: int) -> Tensor:
    """(rows, columns, size): which input of its block each number meets. Without shifts the index is natural."""
    rows, columns = q.shape[0], q.shape[1] // size
    if shifts is None:
        shifts = torch.arange(rows * columns, device=q.device).view(rows, columns)
    return (torch.arange(size, device=q.device) + shifts.long()[:, :, None]) % size


def gradients(
    grad: Tensor, x: Tensor, q: Tensor, shifts: Tensor | None, size: int, wants: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    """Of inputs and numbers, as far as they are wanted.

    Under a natural index from the products of the classes; else from the dense weight, whose gradient is read where the
    diagonals lie.
    """
    rows, columns, inputs = q.shape[0], q.shape[1] // size, x.shape[1]
    x, grad = F.pad(x, (0, columns * size - inputs)), F.pad(grad, (0, rows * size - grad.shape[1]))
    by_x, by_q = (_by_class if shifts is None else _by_weight)(grad, x, q, shifts, size, wants)
    return None if by_x is None else by_x[:, :inputs], by_q


def _by_weight(
    grad: Tensor, x: Tensor, q: Tensor, shifts: Tensor | None, size: int, wants: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    by_x = grad @ dense(q, shifts, size) if wants[0] else None
    if not wants[1]:
        return by_x, None
    at = places(q, shifts, size)
    rows, columns, _ = at.shape
    tiles = (grad.t() @ x).view(rows, size, columns, size).transpose(1, 2)
    return by_x, tiles.gather(3, at.unsqueeze(3)).reshape(q.shape)


def _by_class(
    grad: Tensor, x: Tensor, q: Tensor, shifts: Tensor | None, size: int, wants: tuple[bool, bool]
) -> tuple[Tensor | None, Tensor | None]:
    """Input G size + d is of class (d - G) mod size, output R size + c of class (c + columns R) mod size."""
    rows, columns = q.shape[0], q.shape[1] // size
    row, column, each = (torch.arange(count, device=q.device) for count in (rows, columns, size))
    lanes = (each[:, None] - row * columns) % size
    of_class = grad[:, (lanes + row * size).flatten()].view(-1, size, rows).transpose(0, 1)
    by_x, by_q = None, None
    if wants[0]:
        products = torch.bmm(of_class, q.view(rows, columns, size)[row, :, lanes])
        place = (each - column[:, None]) % size * columns + column[:, None]
        by_x = products.transpose(0, 1).flatten(1)[:, place.flatten()]
    if wants[1]:
        inputs = ((each[:, None] + column) % size + column * size).flatten()
        products = torch.bmm(of_class.transpose(1, 2), x[:, inputs].view(-1, size, columns).transpose(0, 1))
        by_q = products[(each + row[:, None] * columns) % size, row[:, None]].transpose(1, 2).reshape(q.shape)
    return by_x, by_q
