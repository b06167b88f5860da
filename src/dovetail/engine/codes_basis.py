"""Shared kernel bases over codes: exact sums of whole numbers."""

from __future__ import annotations

import math

import numpy as np

from dovetail.engine.builder import Builder
from dovetail.engine.codes import CodeCall, sums, words_of
from dovetail.engine.codes_conv import geometry, residual_fields, run_tables
from dovetail.engine.conv import entry_lists, plane_fields, prepare, runs_over
from dovetail.engine.layout import View
from dovetail.formats.kernel_basis import PackedKernelBasis
from dovetail.program.integer import Product

MOST_MAPS = 1 << 17  # numbers in the maps of a run: they stay in L2
NEAR_MAPS = 3 << 12  # where nothing is multiplied and loads are what takes time: in L1


def conv_kernel_basis(b: Builder, call: CodeCall, x: View, found: Product, y: View) -> None:
    """Every used word of channels meets the bases, then each output combines maps by its coefficients."""
    packed = call.program.weights[call.node.weight or ""]
    assert isinstance(packed, PackedKernelBasis)
    bases, coefficients = packed.codes()
    at, count = geometry(call.node), len(bases)
    taps = prepare(b, x, packed.shape, y, at)
    k, c, basis = np.nonzero(coefficients)
    channel = k // (len(coefficients) // at.groups) * coefficients.shape[1] + c
    used, index = np.unique(channel // 4, return_inverse=True)
    maps, coefficient = max(4 * len(used) * count, 1), coefficients[k, c, basis]
    signed = bool((np.abs(coefficient) == 1).all())
    vectors = (NEAR_MAPS // (maps * b.lanes) if signed else 0) or MOST_MAPS // (maps * b.lanes)
    runs = runs_over(b, y, taps, max(1, min(6 if b.lanes == 16 else 3, vectors)), 1, pieces=1)
    stride = runs.longest * b.lanes
    b.scratch = max(b.scratch, maps * stride)
    place = ((4 * index + channel % 4) * count + basis) * stride
    if signed:  # those that are added come first
        order = np.lexsort((-coefficient, k))
        k, place, coefficient = k[order], place[order], coefficient[order]
    entries, starts = entry_lists(k, place, coefficient, len(coefficients))
    splits = starts[:-1] + np.bincount(k[coefficient > 0], minlength=len(coefficients))
    offsets = np.pad(taps.offsets.ravel(), (0, -taps.offsets.size % 4), mode="edge")
    b.emit(
        "conv2d_kernel_basis_int8",
        {"x": taps.x, **sums(b, call, found), **run_tables(b, call, runs), "entries": b.constant(entries),
         "starts": b.constant(starts), "splits": b.constant(splits.astype(np.int64)) if signed else None,
         "bases": b.constant(words_of(bases.reshape(count, -1, 1, 1))[:, :, 0, 0].T),
         "used": b.constant((used * taps.channel).astype(np.int64)), "taps": b.constant(offsets.astype(np.int32))},
        {"y": y}, disjoint=True, **plane_fields(taps.x, y), **runs.fields, **residual_fields(call), **call.rounding(),
        base_count=count, quad_count=len(offsets) // 4, used_count=len(used), map_stride=stride,
        out_channels=len(coefficients), work=(maps * len(offsets) // 4 + len(k)) * math.prod(y.shape[2:]) * y.shape[0],
    )  # fmt: skip
