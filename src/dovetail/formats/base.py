"""The three parts of a format: a `Spec` (data), a `Packed` (numpy) and, in `layer.py`, a torch layer.

Weights are named by the shape of the dense weight that they stand for: `(K, C/groups, R, S)` for a convolution,
`(K, C)` for a linear layer. Stride, padding, dilation and groups belong to the op, never to the weight.
"""

from __future__ import annotations

import importlib
import math
import operator
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

import numpy as np
from numpy.typing import NDArray

from dovetail.errors import ProgramError, SpecError
from dovetail.formats.values import BF16, F32, INT8, Array, FloatArray, Rows, Values, values_named

if TYPE_CHECKING:
    from types import ModuleType

Shape = tuple[int, ...]
NOT_REAL: Final = frozenset("cOSUmM")
"""Kinds of numpy types that are no real numbers."""


@dataclass(frozen=True)
class Geometry:
    """Where a weight is applied, per image: positions read and written, and the groups of the op.

    A convolution reads `inputs = H * W` positions and writes `outputs = H' * W'`; a linear layer has one of each
    (or one per row when it is applied to a sequence).
    """

    inputs: int = 1
    outputs: int = 1
    groups: int = 1


@dataclass(frozen=True, kw_only=True)
class Spec:
    """How a layer's weight is stored: data only, hashable, with a version and a JSON round trip.

    Attributes:
        younger: fields that the format once lacked, and what files without them mean: so it is written only otherwise.
    """

    format: ClassVar[str]
    version: ClassVar[int] = 1
    younger: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    holds: ClassVar[tuple[Values, ...]] = (F32, BF16, INT8)
    values: Values = F32

    def __post_init__(self) -> None:
        if self.values not in self.holds:
            known = ", ".join(values.name for values in self.holds)
            given = getattr(self.values, "name", repr(self.values))
            raise SpecError(f"format {self.format!r} holds no {given} values; it holds {known}")

    def check(self, shape: Shape, name: str = "") -> None:
        """Raise `SpecError` where a weight of `shape` cannot take this spec; `name` is the layer's, for the message."""

    def to_json(self) -> dict[str, Any]:
        """Plain data, the inverse of `spec_from_json`."""
        data = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "values"}
        data = {name: value for name, value in data.items() if (name, value) not in self.younger.items()}
        return {"format": self.format, "version": self.version, "values": self.values.name, **data}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Build the spec from `to_json` data; unknown or missing fields are a `SpecError`."""
        given = {str(k): v for k, v in data.items() if k not in ("format", "version", "values")}
        known = {f.name for f in fields(cls)} - {"values"}
        _require_version(cls, data.get("version", cls.version))
        if unknown := set(given) - known:
            has = ", ".join(sorted(known)) or "no fields"
            raise SpecError(f"{cls.format} spec does not know {', '.join(sorted(unknown))}; it has {has}")
        try:
            return cls(values=values_named(data.get("values", "f32")), **given)
        except TypeError as error:
            raise SpecError(f"{cls.format} spec is incomplete: {error}") from None

    def whole(self, field: str) -> None:
        """Turn `field` into a plain `int` of at least 1, or raise `SpecError`; for `__post_init__`."""
        value = getattr(self, field)
        if isinstance(value, bool) or not hasattr(value, "__index__") or operator.index(value) < 1:
            raise SpecError(f"{self.format} spec: {field} must be a whole number of at least 1, not {value!r}")
        object.__setattr__(self, field, operator.index(value))


class Packed(ABC):
    """A layer's weight as it is stored: canonical numpy arrays, and what they mean.

    Attributes:
        spec: the format's parameters.
        shape: of the dense weight, `(K, C/groups, R, S)` or `(K, C)`.
        arrays: exactly what the file holds; `bits` is their size.
    """

    def __init__(self, spec: Spec, shape: Shape, arrays: Mapping[str, Array]) -> None:
        self.spec = spec
        self.shape = tuple(int(n) for n in shape)
        self.arrays = dict(arrays)

    @classmethod
    @abstractmethod
    def from_dense(cls, weight: FloatArray, spec: Any) -> Self:
        """The best approximation of `weight` in this format (no training)."""

    @classmethod
    def random(cls, shape: Shape, spec: Any, random: np.random.Generator) -> Self:
        """Normal numbers (He et al., 2015) in this structure, what is sparse at random places: for timing."""
        deviation = math.sqrt(2.0 / math.prod(shape[1:]))
        return cls.from_dense(deviation * random.standard_normal(shape, dtype=np.float32), spec)

    @abstractmethod
    def dense(self) -> FloatArray:
        """The float32 weight of `shape` that this stands for: the oracle of every kernel."""

    @abstractmethod
    def cast(self, values: Values, multiply: FloatArray | None = None) -> Self:
        """The same structure with numbers of another type; output channel `k` is first multiplied by `multiply[k]`."""

    def integers(self) -> tuple[NDArray[np.int32], FloatArray] | None:
        """Whole numbers of `shape` and `(K,)` scales whose product is the dense weight; None where there are none.

        Every exact order of evaluation gives the same sums over these.
        """
        return None

    @abstractmethod
    def macs(self, at: Geometry) -> int:
        """Multiply-accumulates per image, in the cheaper exact order of evaluation."""

    @abstractmethod
    def nonzeros(self) -> int:
        """Stored numbers that are not zero."""

    @abstractmethod
    def params(self) -> int:
        """Stored numbers (indices, masks and scales are not numbers of the network; `bits` counts them)."""

    def additions(self, at: Geometry) -> int:
        """Additions beyond those inside the multiply-accumulates; nonzero for multiplier-free formats."""
        return 0

    def bits(self) -> int:
        """Payload in the file: values, indices, masks, scales and code books."""
        return sum(array.nbytes * 8 for array in self.arrays.values())

    def position_bits(self) -> int:
        """Of `bits` those that say where values stand: bitmaps, gaps, indices."""
        values = {part for name in self.arrays if "." not in name for part in self.values_of(name).stored(name)}
        return sum(array.nbytes * 8 for name, array in self.arrays.items() if name not in values)

    def validate(self) -> None:
        """Raise `ProgramError` unless the arrays agree with spec and shape: names, sizes, types, index bounds."""
        if any(n < 1 for n in self.shape):
            raise ProgramError(f"{self.spec.format} weight of shape {self.shape}: every dimension must be at least 1")
        try:
            self.spec.check(self.shape)
        except SpecError as error:
            raise ProgramError(
                f"{self.spec.format} weight of shape {self.shape} contradicts its spec: {error}"
            ) from None
        self.validate_arrays()

    @abstractmethod
    def validate_arrays(self) -> None:
        """The format's own part of `validate`; shape and spec agree already."""

    def decode(self, name: str) -> FloatArray:
        """The float32 array whose values are stored under `name`."""
        return self.values_of(name).decode(name, self.arrays, self.rows(name))

    def values_of(self, name: str) -> Values:
        """What the values stored under `name` are: those of the spec, unless the format has others of its own."""
        return self.spec.values

    def rows(self, name: str) -> Rows | None:
        """Which of the values stored under `name` share a scale; None: those of an index of the first axis."""
        return None

    def require(self, name: str, shape: Shape) -> None:
        """`ProgramError` unless the values stored under `name` decode to `shape` and are finite."""
        array = self.decode(name)
        where = f"{self.spec.format} weight of shape {self.shape}: array {name!r}"
        if array.shape != shape:
            raise ProgramError(f"{where} has shape {array.shape}, expected {shape}")
        if not np.isfinite(array).all():
            raise ProgramError(f"{where} has NaN or Inf")

    def require_only(self, *names: str, besides: tuple[str, ...] = ()) -> None:
        """`ProgramError` unless exactly the values called `names` and the index arrays `besides` are stored."""
        known = {part for name in names for part in self.values_of(name).stored(name)} | set(besides)
        if wrong := known ^ set(self.arrays):
            have, want = ", ".join(sorted(self.arrays)) or "none", ", ".join(sorted(known))
            raise ProgramError(
                f"{self.spec.format} weight of shape {self.shape} stores the arrays {have}; expected are {want} "
                f"(wrong: {', '.join(sorted(wrong))})"
            )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.spec}, shape={self.shape}, {self.bits() // 8} bytes)"


@dataclass(frozen=True)
class Format:
    """One row of the registry: a folder of `dovetail.formats` that has `spec`, `packed` and `layer` modules."""

    name: str
    spec: type[Spec]
    packed: type[Packed]

    @property
    def layer(self) -> ModuleType:
        """The torch module of this format, loaded on first use (everything else works without torch)."""
        return importlib.import_module(f"dovetail.formats.{self.name}.layer")


FORMATS: dict[str, Format] = {}


def register(spec: type[Spec], packed: type[Packed]) -> None:
    """Enter a format; the folder's `__init__` calls this."""
    if spec.format in FORMATS:
        raise SpecError(f"format {spec.format!r} is registered already")
    FORMATS[spec.format] = Format(spec.format, spec, packed)


def format_named(name: str) -> Format:
    """The format called `name`; `SpecError` lists the known ones."""
    if name not in FORMATS:
        raise SpecError(f"unknown format {name!r}; known are {', '.join(FORMATS)}")
    return FORMATS[name]


def spec_from_json(data: Mapping[str, Any]) -> Spec:
    """Inverse of `Spec.to_json` for any registered format."""
    if not isinstance(data, Mapping):
        raise SpecError(f"a spec is a mapping with a 'format', not {data!r}")
    return format_named(str(data.get("format"))).spec.from_json(data)


def kernel_size(shape: Shape) -> tuple[int, int]:
    """`(R, S)` of a weight; a linear layer counts as 1x1."""
    return (shape[2], shape[3]) if len(shape) == 4 else (1, 1)


def check_rank(shape: Shape, allowed: tuple[int, ...], spec: Spec, name: str) -> None:
    """`SpecError` unless the weight has one of the allowed numbers of dimensions."""
    if len(shape) not in allowed:
        kinds = {2: "linear layers", 4: "2-D convolutions"}
        holds = " and ".join(kinds[n] for n in allowed)
        raise SpecError(f"layer {name!r}: format {spec.format!r} holds {holds}, not a weight of shape {shape}")


def as_real(weight: Array) -> NDArray[Any]:
    """`weight` as an array, refused with `SpecError` if it is not of real numbers."""
    array = np.asarray(weight)
    if array.dtype.kind in NOT_REAL:
        raise SpecError(f"a weight of shape {array.shape} must be of real numbers, not of {array.dtype}")
    return array


def as_weight(weight: Array) -> FloatArray:
    """`weight` as contiguous float32, refused with `SpecError` if it has NaN or Inf or is not of real numbers."""
    array = np.ascontiguousarray(as_real(weight), dtype=np.float32)
    if not np.isfinite(array).all():
        raise SpecError(f"a weight of shape {array.shape} has NaN or Inf; check the checkpoint it came from")
    return array


def scaled(weight: FloatArray, multiply: FloatArray | None) -> FloatArray:
    """`weight` with index `k` of its first axis multiplied by `multiply[k]`."""
    if multiply is None:
        return weight
    return (weight * multiply.reshape(-1, *(1,) * (weight.ndim - 1))).astype(np.float32)


def _require_version(spec: type[Spec], version: Any) -> None:
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise SpecError(f"{spec.format} spec version {version!r} is not a whole number of at least 1")
    if version > spec.version:
        raise SpecError(f"{spec.format} spec version {version} is newer than {spec.version}; update Dovetail")
