"""Which kernels can run a weight op: the candidates among which `compile` chooses, by name.

A new format adds a row here and its kernels in native/.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, TypeVar

import numpy as np

from dovetail.engine import fused, winograd_rows
from dovetail.engine.builder import Builder
from dovetail.engine.circulant import linear_circulant
from dovetail.engine.circulant_conv import conv_circulant, filtering_error
from dovetail.engine.classes import (
    conv_classes,
    conv_classes_winograd,
    linear_classes,
    linear_classes_book,
    linear_classes_bytes,
)
from dovetail.engine.columns import MOST_REACH, conv_sparse_columns, reach
from dovetail.engine.conv import Epilogue, Geometry, conv_dense, conv_kernel_basis, conv_sparse
from dovetail.engine.depthwise import conv_depthwise, fits
from dovetail.engine.diagonals import LARGEST_SIZE, linear_diagonals
from dovetail.engine.expanded import Expansion, conv_expanded
from dovetail.engine.fused import Chain, Stage, conv_fused
from dovetail.engine.lanes import conv_lanes
from dovetail.engine.layout import Shape, View
from dovetail.engine.linear import linear_dense, linear_sparse
from dovetail.engine.winograd import LARGEST_ERROR, conv_winograd, exact_enough
from dovetail.engine.winograd_rows import conv_winograd_rows
from dovetail.formats.base import Geometry as Positions
from dovetail.formats.base import Packed
from dovetail.formats.block_circulant import PackedBlockCirculant
from dovetail.formats.dense import DenseSpec, PackedDense
from dovetail.formats.kernel_basis import PackedKernelBasis
from dovetail.formats.permuted_diagonal import PermutedDiagonalSpec
from dovetail.formats.svd import PackedSvd
from dovetail.formats.tucker import PackedTucker
from dovetail.formats.values import CODEBOOK4, INT8, Values
from dovetail.program.counts import geometry
from dovetail.program.program import Node

Scale = np.ndarray | None
LEAST_OF_GROUP = 4
Reads = Literal["phases", "lying", "pixels"]


@dataclass(frozen=True)
class Place(Positions):
    """Where a weight is applied, with what a kernel may depend on beyond the numbers of positions.

    Attributes:
        size: rows and columns of a convolution's output.
        padding: top, bottom, left, right.
        expanded: whether a 1x1 convolution makes its input, for it alone.
        chained: whether it ends a chain of convolutions over codes.
    """

    size: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    expanded: bool = False
    chained: bool = False


def place(node: Node, shapes: Mapping[str, Shape], *, expanded: bool = False, chained: bool = False) -> Place:
    """Where a node, completed, applies its weight."""
    positions = vars(geometry(node, shapes))
    if node.op != "conv2d":
        return Place(**positions)
    height, width = shapes[node.output][2:]
    attributes = {n: node.attributes[n] for n in ("stride", "dilation", "padding")}
    return Place(**positions, size=(height, width), **attributes, expanded=expanded, chained=chained)


@dataclass(frozen=True)
class Way:
    """A way to run a weight op.

    Attributes:
        name: as schedules and reports show it.
        op: `conv2d` or `linear`.
        runs: whether it can take this packed weight there.
        emit: the kernel calls.
        exact: whether it adds up the products of the op itself, and so errs by rounding sums alone.
        reads: a strided input dealt into "phases", with zeros around each; any input as it is
            "lying", with zeros around it; or its "pixels" alone.
        expands: whether it takes the place of nodes before it, too.
    """

    name: str
    op: str
    runs: Callable[[Packed, Place], bool]
    emit: Callable[..., None]
    exact: bool = True
    reads: Reads = "phases"
    expands: bool = False


@dataclass(frozen=True)
class Candidate(Way):
    """Over real numbers.

    Attributes:
        factors: whether the weight has several, each of which may run by a kernel of its own (`composed`).
    """

    factors: bool = False


AnyWay = TypeVar("AnyWay", bound=Way)


def composed(whole: AnyWay, parts: Sequence[Way]) -> AnyWay:
    """The candidate with a kernel for each part, by which it is named: `conv2d_tucker(lanes,winograd4,dense)`."""
    names = [part.name.removeprefix(f"{part.op}_") for part in parts]
    if set(names) == {"dense"}:
        return whole
    return replace(
        whole,
        name=f"{whole.name}({','.join(names)})",
        emit=partial(whole.emit, parts=tuple(parts)),
        exact=all(part.exact for part in parts),
    )


def names_of_parts(name: str) -> tuple[str, list[str]]:
    """Inverse of the naming of `composed`: the whole's name, and those of the parts' kernels, if there are any."""
    whole, _, inside = name.partition("(")
    op = whole.partition("_")[0]
    return whole, [f"{op}_{part}" for part in inside.removesuffix(")").split(",")] if inside else []


def candidates(op: str, packed: Packed, at: Place, *, exact: bool = False) -> list[Candidate]:
    """All ways to run the weight there; only the `exact` ones if asked (the others are then not even looked at)."""
    return [c for c in CANDIDATES if c.op == op and (c.exact or not exact) and c.runs(packed, at)]


def scaled(weight: np.ndarray, scale: Scale) -> np.ndarray:
    """Output channels times the epilogue's scale, which float weights can take."""
    return weight if scale is None else weight * scale.reshape(-1, *(1,) * (weight.ndim - 1))


def _conv_dense(b: Builder, x: View, packed: Packed, scale: Scale, y: View, at: Geometry, epilogue: Epilogue) -> None:
    weight = scaled(packed.dense(), scale)
    if _is_product(x, weight, y, at):
        epilogue = replace(
            epilogue, residual=None if epilogue.residual is None else _flat(b.as_rows(epilogue.residual))
        )
        linear_dense(b, _flat(b.as_rows(x)), weight[:, :, 0, 0], _flat(y), epilogue)
    else:
        conv_dense(b, x, weight, y, at, epilogue)


def _is_product(x: View, weight: np.ndarray, y: View, at: Geometry) -> bool:
    """A 1x1 convolution of one pixel is a linear layer."""
    single = x.shape[2:] == y.shape[2:] == weight.shape[2:] == (1, 1)
    compact = y.contiguous and (y.planes is None or y.planes.plane == 1)
    return single and compact and at.groups == 1 and not any(at.padding)


def _flat(x: View) -> View:
    return x.reshaped(x.shape[:2])


def _over_dense(conv: Callable[..., None], *options: int) -> Callable[..., None]:
    """The kernel calls of a convolution that takes the dense weight of any format."""

    def emit(
        b: Builder, x: View, packed: Packed, scale: Scale, y: View, at: Geometry, epilogue: Epilogue, *before: Expansion
    ) -> None:
        conv(b, x, scaled(packed.dense(), scale), y, at, epilogue, *options, *before)

    return emit


def _conv_kernel_basis(
    b: Builder, x: View, packed: PackedKernelBasis, scale: Scale, y: View, at: Geometry, epilogue: Epilogue
) -> None:
    bases, coefficients = packed.factors()
    conv_kernel_basis(b, x, bases, scaled(coefficients, scale), y, at, epilogue)


def _conv_tucker(
    b: Builder,
    x: View,
    packed: PackedTucker,
    scale: Scale,
    y: View,
    at: Geometry,
    epilogue: Epilogue,
    parts: Sequence[Candidate] = (),
) -> None:
    """1x1, core, 1x1, or what of them is not in the core; the geometry belongs to the core."""
    stages = packed.stages()
    emits = [part.emit for part in parts] if parts else [_conv_dense] * len(stages)
    *before, last = zip(stages.items(), emits)
    for (name, weight), emit in before:
        size, planes = (x.shape[2:], None) if name == "input" else (y.shape[2:], y.planes)
        made = b.planar((x.shape[0], len(weight), *size), planes)
        emit(b, x, _dense(weight), None, made, at if name == "core" else Geometry(), Epilogue())
        x = made
    (name, weight), emit = last
    emit(b, x, _dense(weight), scale, y, at if name == "core" else Geometry(), epilogue)


def _conv_fused_tucker(
    b: Builder,
    x: View,
    packed: PackedTucker,
    scale: Scale,
    y: View,
    at: Geometry,
    epilogue: Epilogue,
    parts: Sequence[Candidate] = (),
) -> None:
    """The same, a block of rows at a time."""
    stages = packed.stages()
    last = next(reversed(stages))
    made: dict[str, Stage] = {}
    for (name, weight), part in zip(stages.items(), parts or (_DENSE,) * len(stages)):
        weight = scaled(weight, scale) if name == last else weight
        tile = _TILES.get(part.name, 0)
        made[name] = Stage(len(weight), _stage(part, weight), max(tile, 1), tile * b.lanes // 4)
    chain = Chain(made.get("input"), made["core"], made.get("output"), stages["core"].shape[2:])
    conv_fused(b, x, chain, y, at, epilogue)


def _stage(part: Candidate, weight: np.ndarray) -> Callable[[Builder, View, View, Geometry, Epilogue], None]:
    packed = _dense(weight)

    def emit(b: Builder, x: View, y: View, at: Geometry, epilogue: Epilogue) -> None:
        part.emit(b, x, packed, None, y, at, epilogue)

    return emit


def _conv_svd(
    b: Builder,
    x: View,
    packed: PackedSvd,
    scale: Scale,
    y: View,
    at: Geometry,
    epilogue: Epilogue,
    parts: Sequence[Candidate] = (),
) -> None:
    """Two 1x1 convolutions; stride and padding belong to the first."""
    first, last = (part.emit for part in parts) if parts else (_conv_dense,) * 2
    output, inputs = packed.factors()
    inner = b.planar((x.shape[0], packed.spec.rank, *y.shape[2:]), y.planes)
    first(b, x, _dense(inputs[:, :, None, None]), None, inner, at, Epilogue())
    last(b, inner, _dense(output[:, :, None, None]), scale, y, Geometry(), epilogue)


def _dense(weight: np.ndarray) -> PackedDense:
    return PackedDense.from_dense(weight, DenseSpec())


def _linear_dense(b: Builder, x: View, packed: Packed, scale: Scale, y: View, epilogue: Epilogue) -> None:
    linear_dense(b, x, scaled(packed.dense(), scale), y, epilogue)


def _linear_sparse(b: Builder, x: View, packed: Packed, scale: Scale, y: View, epilogue: Epilogue) -> None:
    linear_sparse(b, x, scaled(packed.dense(), scale), y, epilogue)


def _linear_svd(b: Builder, x: View, packed: PackedSvd, scale: Scale, y: View, epilogue: Epilogue) -> None:
    output, inputs = packed.factors()
    inner = b.rows((*x.shape[:-1], packed.spec.rank))
    linear_dense(b, x, inputs, inner, Epilogue())
    linear_dense(b, inner, scaled(output, scale), y, epilogue)


def _is(*formats: str) -> Callable[[Packed, Place], bool]:
    return lambda packed, at: packed.spec.format in formats


def in_classes(*values: Values) -> Callable[[Packed, Place], bool]:
    """Permuted diagonals under a natural index, of these types of values or of any."""

    def runs(packed: Packed, at: Place) -> bool:
        natural = isinstance(packed.spec, PermutedDiagonalSpec) and packed.spec.index == "natural"
        return natural and at.groups == 1 and (not values or packed.spec.values in values)

    return runs


def _diagonals_fit(packed: Packed, at: Place) -> bool:
    return isinstance(packed.spec, PermutedDiagonalSpec) and packed.spec.size <= LARGEST_SIZE


def _any(packed: Packed, at: Place) -> bool:
    return True


def is_small(packed: Packed, at: Place) -> bool:
    """Maps so small that lanes spent on the halo, or left over, cost more than turning the results around.

    Where there is a stride, the kernel also saves dealing the input into phases.
    """
    return at.groups == 1 and at.outputs <= 256 * math.prod(at.stride)


def _fits_rows(packed: Packed, at: Place) -> bool:
    """Wide dense kernels whose columns are two apart, over rows long enough, exact enough likewise."""
    plain = at.groups == 1 and at.stride[1] == 2 and at.dilation == (1, 1)
    plain = plain and at.size[1] >= winograd_rows.LEAST_WIDTH and winograd_rows.fits(packed.shape[3], at.padding[2])
    return plain and winograd_rows.exact_enough(packed)


def is_narrow(packed: Packed, at: Place) -> bool:
    """Kernels of few enough columns to leave lanes for pixels beside those of the neighbours."""
    return reach(packed.shape[3], at.stride[1], at.dilation[1]) <= MOST_REACH


def _narrow_and_sparse(packed: Packed, at: Place) -> bool:
    return _SPARSE(packed, at) and is_narrow(packed, at)


def _depthwise(packed: Packed, at: Place) -> bool:
    """One input and one output a group, of the sizes that the kernel has, padded by less than the weight's width.

    The kernel masks the padding after it has loaded what lies there: more of it could lie before all memory.
    """
    alone = packed.shape[0] == at.groups and packed.shape[1] == 1
    return alone and fits(packed.shape[2:], at.stride, at.dilation) and at.padding[2] < packed.shape[3]


def _expanded(packed: Packed, at: Place) -> bool:
    """The same, of what a 1x1 convolution makes for it alone."""
    return at.expanded and _depthwise(packed, at)


def _fits_tiles(tile: int) -> Callable[[Packed, Place], bool]:
    """Dense 3x3 products of unit stride over maps of a tile at least, exact enough on the layer's own weights.

    Groups of fewer channels than that are left out: blocks of four outputs would be mostly empty.
    """

    def runs(packed: Packed, at: Place) -> bool:
        return _in_tiles(packed, at, tile) and exact_enough(packed, tile)

    return runs


def _in_tiles(packed: Packed, at: Place, tile: int) -> bool:
    plain = at.stride == at.dilation == (1, 1) and packed.shape[2:] == (3, 3)
    wide = at.groups == 1 or min(packed.shape[1], packed.shape[0] // at.groups) >= LEAST_OF_GROUP
    return plain and wide and min(at.size) >= tile


def _circulant(packed: Packed, at: Place) -> bool:
    return packed.spec.format == "block_circulant" and at.groups == 1


def _small_circulant(packed: Packed, at: Place) -> bool:
    return _circulant(packed, at) and is_small(packed, at)


def _circulant_in_tiles(tile: int) -> Callable[[Packed, Place], bool]:
    """The same for every frequency of circulant blocks."""

    def runs(packed: Packed, at: Place) -> bool:
        if not isinstance(packed, PackedBlockCirculant) or not _in_tiles(packed, at, tile):
            return False
        return filtering_error(packed, tile) <= LARGEST_ERROR

    return runs


def _classes_in_tiles(tile: int) -> Callable[[Packed, Place], bool]:
    natural, fits_tiles = in_classes(), _fits_tiles(tile)
    return lambda packed, at: natural(packed, at) and fits_tiles(packed, at)


def _fusable(packed: Packed, at: Place) -> bool:
    """Tucker layers of more than one factor, on more than a pixel."""
    several = packed.spec.format == "tucker" and len(packed.stages()) > 1  # type: ignore[attr-defined]
    return several and max(at.size) > 1 and fused.fits(packed.shape[2:], at.padding, at.dilation)


_SPARSE = _is("sparse", "block_sparse", "kernel_basis", "permuted_diagonal")
_TILES = {"conv2d_winograd2": 2, "conv2d_winograd4": 4}
_DENSE = Candidate("conv2d_dense", "conv2d", _any, _conv_dense)
CANDIDATES = (
    _DENSE,
    Candidate("conv2d_lanes", "conv2d", is_small, _over_dense(conv_lanes), reads="lying"),
    Candidate("conv2d_depthwise", "conv2d", _depthwise, _over_dense(conv_depthwise), reads="pixels"),
    Candidate(
        "conv2d_expanded_depthwise", "conv2d", _expanded, _over_dense(conv_expanded), reads="pixels", expands=True
    ),
    Candidate("conv2d_winograd2", "conv2d", _fits_tiles(2), _over_dense(conv_winograd, 2), exact=False),
    Candidate("conv2d_winograd4", "conv2d", _fits_tiles(4), _over_dense(conv_winograd, 4), exact=False),
    Candidate("conv2d_winograd_rows", "conv2d", _fits_rows, _over_dense(conv_winograd_rows), exact=False),
    Candidate("conv2d_sparse", "conv2d", _SPARSE, _over_dense(conv_sparse)),
    Candidate("conv2d_sparse_columns", "conv2d", _narrow_and_sparse, _over_dense(conv_sparse_columns), reads="lying"),
    Candidate("conv2d_kernel_basis", "conv2d", _is("kernel_basis"), _conv_kernel_basis),
    Candidate("conv2d_tucker", "conv2d", _is("tucker"), _conv_tucker, factors=True),
    Candidate("conv2d_fused_tucker", "conv2d", _fusable, _conv_fused_tucker, factors=True),
    Candidate("conv2d_svd", "conv2d", _is("svd"), _conv_svd, factors=True),
    Candidate("conv2d_classes", "conv2d", in_classes(), conv_classes),
    Candidate(
        "conv2d_classes_winograd2", "conv2d", _classes_in_tiles(2), partial(conv_classes_winograd, tile=2), exact=False
    ),
    Candidate(
        "conv2d_classes_winograd4", "conv2d", _classes_in_tiles(4), partial(conv_classes_winograd, tile=4), exact=False
    ),
    Candidate("conv2d_circulant", "conv2d", _circulant, conv_circulant),
    Candidate(
        "conv2d_circulant_lanes",
        "conv2d",
        _small_circulant,
        partial(conv_circulant, conv=conv_lanes, grouped=False),
        reads="lying",
    ),
    Candidate(
        "conv2d_circulant_winograd2",
        "conv2d",
        _circulant_in_tiles(2),
        partial(conv_circulant, conv=partial(conv_winograd, tile=2)),
        exact=False,
    ),
    Candidate(
        "conv2d_circulant_winograd4",
        "conv2d",
        _circulant_in_tiles(4),
        partial(conv_circulant, conv=partial(conv_winograd, tile=4)),
        exact=False,
    ),
    Candidate("linear_dense", "linear", _any, _linear_dense),
    Candidate("linear_sparse", "linear", _is("sparse", "block_sparse", "permuted_diagonal"), _linear_sparse),
    Candidate("linear_classes", "linear", in_classes(), linear_classes),
    Candidate("linear_classes_bytes", "linear", in_classes(INT8), linear_classes_bytes),
    Candidate("linear_classes_book", "linear", in_classes(CODEBOOK4), linear_classes_book),
    Candidate("linear_diagonals", "linear", _diagonals_fit, linear_diagonals),
    Candidate("linear_circulant", "linear", _is("block_circulant"), linear_circulant),
    Candidate("linear_svd", "linear", _is("svd"), _linear_svd),
)
