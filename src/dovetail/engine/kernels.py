"""Which kernels can run a weight op: the candidates among which `compile` chooses, by name.

A new format adds a row here and its kernels in native/.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from dovetail.engine.builder import Builder
from dovetail.engine.conv import Epilogue, Geometry, conv_dense, conv_kernel_basis, conv_sparse
from dovetail.engine.layout import View
from dovetail.engine.linear import linear_dense, linear_sparse
from dovetail.errors import EngineError
from dovetail.formats.base import Packed
from dovetail.formats.kernel_basis import PackedKernelBasis
from dovetail.formats.svd import PackedSvd
from dovetail.formats.tucker import PackedTucker

Scale = np.ndarray | None
ConvKernel = Callable[[Builder, View, Packed, Scale, View, Geometry, Epilogue], None]
LinearKernel = Callable[[Builder, View, Packed, Scale, View, Epilogue], None]


@dataclass(frozen=True)
class Candidate:
    """A way to run a weight op.

    Attributes:
        name: as schedules and reports show it.
        op: `conv2d` or `linear`.
        runs: whether it can take this packed weight.
        emit: the kernel calls.
    """

    name: str
    op: str
    runs: Callable[[Packed], bool]
    emit: Callable[..., None]


def candidates(op: str, packed: Packed) -> list[Candidate]:
    """All ways to run the weight, the one expected to be best first."""
    found = [c for c in CANDIDATES if c.op == op and c.runs(packed)]
    return sorted(found, key=lambda c: not _expected(c.name, packed))


def candidate_named(name: str, op: str, packed: Packed, node: str) -> Candidate:
    """The candidate called `name`; `EngineError` where it cannot run this weight."""
    found = {c.name: c for c in candidates(op, packed)}
    if name not in found:
        raise EngineError(
            f"node {node!r}: kernel {name!r} cannot run a {packed.spec.format} weight of shape {packed.shape}; "
            f"possible are {', '.join(found)}"
        )
    return found[name]


def _expected(name: str, packed: Packed) -> bool:
    """Whether this kernel is the natural one; a sparse kernel is from about one weight in five down."""
    format_, density = packed.spec.format, _density(packed)
    natural = {"tucker": "conv2d_tucker", "svd": ("conv2d_svd", "linear_svd"), "kernel_basis": "conv2d_kernel_basis"}
    if format_ in ("sparse", "kernel_basis"):
        return name.endswith("sparse") if density < 0.2 else name.endswith("dense")
    return name in natural.get(format_, ("conv2d_dense", "linear_dense"))


def _density(packed: Packed) -> float:
    return float(np.count_nonzero(packed.dense())) / max(1, int(np.prod(packed.shape)))


def _scaled(weight: np.ndarray, scale: Scale) -> np.ndarray:
    """Output channels times the epilogue's scale, which float weights can take."""
    return weight if scale is None else weight * scale.reshape(-1, *(1,) * (weight.ndim - 1))


def _conv_dense(b: Builder, x: View, packed: Packed, scale: Scale, y: View, at: Geometry, epilogue: Epilogue) -> None:
    weight = _scaled(packed.dense(), scale)
    if _is_product(x, weight, y, at):
        epilogue = replace(epilogue, residual=None if epilogue.residual is None else _flat(epilogue.residual))
        linear_dense(b, _flat(b.as_rows(x)), weight[:, :, 0, 0], _flat(y), epilogue)
    else:
        conv_dense(b, x, weight, y, at, epilogue)


def _is_product(x: View, weight: np.ndarray, y: View, at: Geometry) -> bool:
    """A 1x1 convolution of one pixel is a linear layer."""
    single = x.shape[2:] == y.shape[2:] == weight.shape[2:] == (1, 1)
    return single and at.groups == 1 and not any(at.padding) and y.contiguous


def _flat(x: View) -> View:
    return x.reshaped(x.shape[:2])


def _conv_sparse(b: Builder, x: View, packed: Packed, scale: Scale, y: View, at: Geometry, epilogue: Epilogue) -> None:
    conv_sparse(b, x, _scaled(packed.dense(), scale), y, at, epilogue)


def _conv_kernel_basis(
    b: Builder, x: View, packed: PackedKernelBasis, scale: Scale, y: View, at: Geometry, epilogue: Epilogue
) -> None:
    bases, coefficients = packed.factors()
    conv_kernel_basis(b, x, bases, _scaled(coefficients, scale), y, at, epilogue)


def _conv_tucker(
    b: Builder, x: View, packed: PackedTucker, scale: Scale, y: View, at: Geometry, epilogue: Epilogue
) -> None:
    """1x1, core, 1x1; the geometry belongs to the core."""
    output, core, inputs = packed.factors()
    inner = b.planar((x.shape[0], packed.spec.rank_in, *x.shape[2:]))
    outer = b.planar((x.shape[0], packed.spec.rank_out, *y.shape[2:]), y.planes)
    conv_dense(b, x, inputs[:, :, None, None], inner, Geometry(), Epilogue())
    conv_dense(b, inner, core, outer, at, Epilogue())
    conv_dense(b, outer, _scaled(output, scale)[:, :, None, None], y, Geometry(), epilogue)


def _conv_svd(b: Builder, x: View, packed: PackedSvd, scale: Scale, y: View, at: Geometry, epilogue: Epilogue) -> None:
    """Two 1x1 convolutions; stride and padding belong to the first."""
    output, inputs = packed.factors()
    inner = b.planar((x.shape[0], packed.spec.rank, *y.shape[2:]), y.planes)
    conv_dense(b, x, inputs[:, :, None, None], inner, at, Epilogue())
    conv_dense(b, inner, _scaled(output, scale)[:, :, None, None], y, Geometry(), epilogue)


def _linear_dense(b: Builder, x: View, packed: Packed, scale: Scale, y: View, epilogue: Epilogue) -> None:
    linear_dense(b, x, _scaled(packed.dense(), scale), y, epilogue)


def _linear_sparse(b: Builder, x: View, packed: Packed, scale: Scale, y: View, epilogue: Epilogue) -> None:
    linear_sparse(b, x, _scaled(packed.dense(), scale), y, epilogue)


def _linear_svd(b: Builder, x: View, packed: PackedSvd, scale: Scale, y: View, epilogue: Epilogue) -> None:
    output, inputs = packed.factors()
    inner = b.rows((*x.shape[:-1], packed.spec.rank))
    linear_dense(b, x, inputs, inner, Epilogue())
    linear_dense(b, inner, _scaled(output, scale), y, replace(epilogue))


def _is(*formats: str) -> Callable[[Packed], bool]:
    return lambda packed: packed.spec.format in formats


def _any(packed: Packed) -> bool:
    return True


CANDIDATES = (
    Candidate("conv2d_dense", "conv2d", _any, _conv_dense),
    Candidate("conv2d_sparse", "conv2d", _is("sparse", "kernel_basis"), _conv_sparse),
    Candidate("conv2d_kernel_basis", "conv2d", _is("kernel_basis"), _conv_kernel_basis),
    Candidate("conv2d_tucker", "conv2d", _is("tucker"), _conv_tucker),
    Candidate("conv2d_svd", "conv2d", _is("svd"), _conv_svd),
    Candidate("linear_dense", "linear", _any, _linear_dense),
    Candidate("linear_sparse", "linear", _is("sparse"), _linear_sparse),
    Candidate("linear_svd", "linear", _is("svd"), _linear_svd),
)
