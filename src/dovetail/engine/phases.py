"""Strided inputs dealt into phases: one set of planes per residue of row and column, so that taps have unit stride."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dovetail.engine.builder import Builder
from dovetail.engine.layout import Planes, View, planar_view


def deal(
    b: Builder,
    x: View,
    rows: np.ndarray,
    columns: np.ndarray,
    halo: tuple[int, int],
    stride: tuple[int, int],
    pitch: int,
) -> tuple[View, np.ndarray, np.ndarray]:
    """The phases that taps at `rows` and `columns` read, each tap's offset into them, and its part within a plane.

    Args:
        b: gets the copies.
        x: a planar input.
        rows: of the taps, relative to the stride's grid.
        columns: likewise.
        halo: zeros around the planes of a phase.
        stride: of rows and columns.
        pitch: least distance of two rows.
    """
    (images, channels, height, width), (sh, sw) = x.shape, stride
    residues = sorted({(int(r) % sh, int(c) % sw) for r, c in zip(rows.ravel(), columns.ravel())})
    planes = Planes.of(-(-height // sh), -(-width // sw), *halo, pitch=pitch)
    dealt = planar_view((images, len(residues) * channels, planes.height, planes.width), planes, b.node, x.word)
    if len(residues) == sh * sw and height % sh == width % sw == 0:
        _evenly(b, x, dealt, stride)
    else:
        _one_by_one(b, x, dealt, stride, residues)
    place = np.array([residues.index((int(r) % sh, int(c) % sw)) for r, c in zip(rows.ravel(), columns.ravel())])
    within = rows // sh * planes.pitch + columns // sw
    return dealt, place.reshape(rows.shape) * channels * planes.plane + within, within


def _one_by_one(b: Builder, x: View, dealt: View, stride: tuple[int, int], residues: Sequence[tuple[int, int]]) -> None:
    """The pixels of each residue to their planes; phases at the edge may have fewer pixels than the others, or none."""
    channels = x.shape[1]
    for i, (r, c) in enumerate(residues):
        phase = x.sliced(2, r, x.shape[2], stride[0]).sliced(3, c, x.shape[3], stride[1])
        part = dealt.sliced(1, i * channels, (i + 1) * channels, 1)
        target = View(dealt.buffer, phase.shape, dealt.strides, part.offset, dealt.planes, dealt.word)
        b.clear_halo(target, disjoint=True)  # a phase without pixels is all zeros
        if 0 not in phase.shape:
            by_rows = (0, 2, 1, 3)
            b.copy(phase.permuted(by_rows), target.permuted(by_rows), disjoint=True)


def _evenly(b: Builder, x: View, dealt: View, stride: tuple[int, int]) -> None:
    """The same in one visit, where all phases are of one size.

    Rows are walked first, as convolutions do: each thread then deals about the rows that it made and will read.
    """
    (images, channels, height, width), (sh, sw) = x.shape, stride
    size = (images, height // sh, sh, sw, channels, width // sw)
    (xn, xc, xh, xw), (dn, dc, dh, dw) = x.strides, dealt.strides
    from_ = View(x.buffer, size, (xn, sh * xh, xh, xw, xc, sw * xw), x.offset)
    to = View(dealt.buffer, size, (dn, dh, sw * channels * dc, channels * dc, dc, dw), dealt.offset)
    b.clear_halo(dealt, disjoint=True)
    b.copy(from_, to, disjoint=True)
