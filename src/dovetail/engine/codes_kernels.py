"""Which kernels can run a weight op over codes: rows like those of `kernels.py`, by the same names."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dovetail.engine import kernels
from dovetail.engine.codes import CodeCandidate
from dovetail.engine.codes_basis import conv_kernel_basis
from dovetail.engine.codes_classes import linear_classes
from dovetail.engine.codes_coefficients import (
    MOST_REACH,
    adds_up,
    conv_block_coefficients,
    conv_coefficients,
    conv_map_coefficients,
    conv_run_coefficients,
    conv_shared_coefficients,
    fits_whole_map,
    shares_places,
)
from dovetail.engine.codes_conv import conv_dense, conv_grouped, conv_lanes, conv_sparse, conv_sparse_columns
from dovetail.engine.codes_emit import linear_dense
from dovetail.engine.codes_fused import PARTS, conv_chain
from dovetail.engine.columns import reach
from dovetail.engine.kernels import Candidate, Place, candidates, in_classes, is_narrow, is_small
from dovetail.errors import EngineError
from dovetail.formats.base import Packed
from dovetail.formats.kernel_basis import PackedKernelBasis
from dovetail.program.integer import is_quantized
from dovetail.program.program import Graph, Node

AnyCandidate = Candidate | CodeCandidate


def candidates_of(node: Node, graph: Graph, packed: Packed, at: Place, *, exact: bool = False) -> list[AnyCandidate]:
    """All ways to run a weight op there (or the `exact` ones), over codes or real numbers as its input is."""
    if not _reads_codes(node, graph):
        return list(candidates(node.op, packed, at, exact=exact))
    return [c for c in CANDIDATES if c.op == node.op and c.runs(packed, at)]


def candidate_named(name: str, node: Node, graph: Graph, packed: Packed, at: Place) -> AnyCandidate:
    """The candidate called `name`; `EngineError` where it cannot run this weight there."""
    known: tuple[AnyCandidate, ...] = CANDIDATES if _reads_codes(node, graph) else kernels.CANDIDATES
    for candidate in known:
        if (candidate.name, candidate.op) == (name, node.op) and candidate.runs(packed, at):
            return candidate
    possible = ", ".join(c.name for c in candidates_of(node, graph, packed, at))
    raise EngineError(
        f"node {node.name!r}: kernel {name!r} cannot run a {packed.spec.format} weight of shape {packed.shape}; "
        f"possible are {possible}"
    )


def by_rows(whole: AnyCandidate, parts: Sequence[AnyCandidate]) -> bool:
    """Whether a candidate can run its parts so: those of a chain take a few rows of a map for a map."""
    return isinstance(whole, Candidate) or all(part.name in PARTS for part in parts)


def sparse_words(packed: Packed) -> int:
    """Words of four input channels that are not zero, of sparse whole numbers: what their kernel pays for."""
    found = packed.integers() if packed.spec.format in ("sparse", "block_sparse") else None
    if found is None:
        return 0
    flat = found[0].reshape(*packed.shape[:2], -1)
    filled = np.pad(flat, ((0, 0), (0, -flat.shape[1] % 4), (0, 0)))
    return int(filled.reshape(len(flat), -1, 4, flat.shape[2]).any(axis=2).sum())


def _reads_codes(node: Node, graph: Graph) -> bool:
    source = graph.tensors.get(node.inputs[0])
    return source is not None and is_quantized(source)


def _bytes(packed: Packed) -> bool:
    """Whether the weight's whole numbers fit into a byte; those of several shared bases are sums of products of two."""
    if not isinstance(packed, PackedKernelBasis):
        return True
    if packed.spec.bases > 1:
        return False
    found = packed.integers()
    return found is not None and int(np.abs(found[0]).max()) <= 127


def _whole_words(packed: Packed, at: Place) -> bool:
    return at.groups == 1 or (packed.shape[1] % 4 == 0 and packed.shape[0] // at.groups % 4 == 0)


def _dense_blocks(packed: Packed, at: Place) -> bool:
    return _whole_words(packed, at) and _bytes(packed)


def _few_pixels(packed: Packed, at: Place) -> bool:
    return is_small(packed, at) and _bytes(packed)


def _odd_groups(packed: Packed, at: Place) -> bool:
    return not _whole_words(packed, at) and _bytes(packed)


def _shared_bases(packed: Packed, at: Place) -> bool:
    return isinstance(packed, PackedKernelBasis)


def _ternary_words(packed: Packed, at: Place) -> bool:
    return at.groups == 1 and adds_up(packed)


def _ternary(packed: Packed, at: Place) -> bool:
    low = reach(packed.shape[2], at.stride[0], at.dilation[0]) <= MOST_REACH
    return _ternary_words(packed, at) and is_narrow(packed, at) and low


def _ternary_maps(packed: Packed, at: Place) -> bool:
    return _ternary_words(packed, at) and fits_whole_map(packed, at)


def _shared_ternary(packed: Packed, at: Place) -> bool:
    return _ternary(packed, at) and shares_places(packed)


def _sparse(packed: Packed, at: Place) -> bool:
    return at.groups == 1 and packed.spec.format in ("sparse", "block_sparse")


def _narrow_and_sparse(packed: Packed, at: Place) -> bool:
    return _sparse(packed, at) and is_narrow(packed, at)


def _chain(packed: Packed, at: Place) -> bool:
    """The last of a chain, on more than a pixel."""
    return at.chained and max(at.size) > 1


CANDIDATES = (
    CodeCandidate("conv2d_dense", "conv2d", _dense_blocks, conv_dense),
    CodeCandidate("conv2d_lanes", "conv2d", _few_pixels, conv_lanes, reads="lying"),
    CodeCandidate("conv2d_sparse", "conv2d", _sparse, conv_sparse),
    CodeCandidate("conv2d_sparse_columns", "conv2d", _narrow_and_sparse, conv_sparse_columns, reads="lying"),
    CodeCandidate("conv2d_grouped", "conv2d", _odd_groups, conv_grouped),
    CodeCandidate("conv2d_kernel_basis", "conv2d", _shared_bases, conv_kernel_basis),
    CodeCandidate("conv2d_coefficients", "conv2d", _ternary, conv_coefficients, reads="lying"),
    CodeCandidate("conv2d_shared_coefficients", "conv2d", _shared_ternary, conv_shared_coefficients, reads="lying"),
    CodeCandidate("conv2d_block_coefficients", "conv2d", _ternary, conv_block_coefficients, reads="lying"),
    CodeCandidate("conv2d_run_coefficients", "conv2d", _ternary_words, conv_run_coefficients),
    CodeCandidate("conv2d_map_coefficients", "conv2d", _ternary_maps, conv_map_coefficients, reads="lying"),
    CodeCandidate("conv2d_chain", "conv2d", _chain, conv_chain, expands=True),
    CodeCandidate("linear_dense", "linear", lambda packed, at: True, linear_dense),
    CodeCandidate("linear_classes", "linear", in_classes(), linear_classes),
)
