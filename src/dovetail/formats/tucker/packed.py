"""Tucker-2 in numpy: truncated HOSVD refined by alternating projections (HOOI)."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Self

import numpy as np

from dovetail.formats.base import Geometry, Packed, Shape, as_weight, kernel_size, scaled
from dovetail.formats.tucker.spec import TuckerSpec
from dovetail.formats.values import Array, FloatArray, Values


class PackedTucker(Packed):
    """Arrays `input` (D1, C), `core` (D2, D1, R, S) and `output` (K, D2): the weights of the three convolutions.

    Where the spec folds a factor into the core, its array is missing.
    """

    spec: TuckerSpec

    @classmethod
    def from_dense(cls, weight: FloatArray, spec: TuckerSpec) -> Self:
        """HOSVD, then HOOI until the relative change of the error is below 1e-4 or 100 rounds (TDC, section 3)."""
        weight = as_weight(weight)
        spec.check(weight.shape)
        output, core, inputs = hooi(weight.astype(np.float64), spec.rank_out, spec.rank_in)
        return cls.from_factors(output, core, inputs, spec)

    @classmethod
    def from_factors(cls, output: np.ndarray, core: np.ndarray, inputs: np.ndarray, spec: TuckerSpec) -> Self:
        """From `output` (K, D2), `core` (D2, D1, R, S) and `inputs` (D1, C)."""
        shape = (output.shape[0], inputs.shape[1], *core.shape[2:])
        into, out = spec.folds(shape)
        if into:
            core = np.einsum("bars,ac->bcrs", core, inputs, optimize=True)
        if out:
            core = np.einsum("kb,bars->kars", output, core, optimize=True)
        parts = {} if into else {"input": inputs}
        parts |= {"core": core} if out else {"core": core, "output": output}
        arrays: dict[str, Array] = {}
        for name, part in parts.items():
            arrays |= spec.values.encode(name, as_weight(part))
        return cls(spec, shape, arrays)

    @classmethod
    def random(cls, shape: Shape, spec: TuckerSpec, random: np.random.Generator) -> Self:
        """Random factors, without a decomposition."""
        spec.check(shape)
        (k, c), (r, s), (d1, d2) = shape[:2], kernel_size(shape), (spec.rank_in, spec.rank_out)
        sizes, fans = ((k, d2), (d2, d1, r, s), (d1, c)), (d2, d1 * r * s, c)
        output, core, inputs = (random.standard_normal(n) * fan**-0.5 for n, fan in zip(sizes, fans))
        return cls.from_factors(math.sqrt(2.0) * output, core, inputs, spec)

    def factors(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """`output` (K, D2), `core` (D2, D1, R, S) and `inputs` (D1, C) as float32; those in the core are identities."""
        into, out = self.spec.folds(self.shape)
        output = np.eye(self.shape[0], dtype=np.float32) if out else self.decode("output")
        return output, self.decode("core"), np.eye(self.shape[1], dtype=np.float32) if into else self.decode("input")

    def stages(self) -> dict[str, FloatArray]:
        """The convolutions that are left to do, in order: `(K', C', R', S')` of each stored factor, by its name."""
        factors = {name: self.decode(name) for name in self._stored()}
        return {name: f if name == "core" else f[:, :, None, None] for name, f in factors.items()}

    def dense(self) -> FloatArray:
        """W[k,c,r,s] = sum over d2, d1 of output[k,d2] core[d2,d1,r,s] inputs[d1,c]."""
        into, out = self.spec.folds(self.shape)
        indices = {"output": "kb", "core": f"{'k' if out else 'b'}{'c' if into else 'a'}rs", "input": "ac"}
        stored = {name: self.decode(name).astype(np.float64) for name in indices if name in self._stored()}
        terms = ",".join(indices[name] for name in stored)
        weight: FloatArray = np.einsum(f"{terms}->kcrs", *stored.values(), optimize=True).astype(np.float32)
        return weight

    def cast(self, values: Values, multiply: FloatArray | None = None) -> Self:
        """The factors in another value type; `output` takes the factors of the outputs."""
        output, core, inputs = self.factors()
        return type(self).from_factors(scaled(output, multiply), core, inputs, replace(self.spec, values=values))

    def macs(self, at: Geometry) -> int:
        """C D1 HW + R S D1 D2 H'W' + D2 K H'W', without the terms of factors that are in the core."""
        (k, c, *_), (r, s) = self.shape, kernel_size(self.shape)
        (d1, d2), (into, out) = (self.spec.rank_in, self.spec.rank_out), self.spec.folds(self.shape)
        return (not into) * c * d1 * at.inputs + (r * s * d1 * d2 + (not out) * d2 * k) * at.outputs

    def nonzeros(self) -> int:
        """Non-zero entries of the stored factors."""
        return sum(int(np.count_nonzero(self.decode(name))) for name in self._stored())

    def params(self) -> int:
        """C D1 + R S D1 D2 + D2 K, without the terms of factors that are in the core."""
        return sum(self.decode(name).size for name in self._stored())

    def validate_arrays(self) -> None:
        """The stored factors must have the shapes that ranks and weight shape imply."""
        stored = self._stored()
        self.require_only(*stored)
        d1, d2 = self.spec.rank_in, self.spec.rank_out
        shapes = {"input": (d1, self.shape[1]), "core": (d2, d1, *self.shape[2:]), "output": (self.shape[0], d2)}
        for name in stored:
            self.require(name, shapes[name])

    def _stored(self) -> tuple[str, ...]:
        """Names of the factors that are not in the core, in the order in which they are applied."""
        into, out = self.spec.folds(self.shape)
        return (*(() if into else ("input",)), "core", *(() if out else ("output",)))


def hosvd(weight: np.ndarray, rank_out: int, rank_in: int) -> tuple[np.ndarray, np.ndarray]:
    """Leading left singular vectors of both channel unfoldings: `(K, rank_out)` and `(C, rank_in)`."""
    return _leading(_unfold(weight, 0), rank_out), _leading(_unfold(weight, 1), rank_in)


def truncation_errors(weight: np.ndarray) -> np.ndarray:
    """Squared relative error of HOSVD at all ranks at once: entry `[D2, D1]` of a `(K + 1, C + 1)` table.

    In the bases of all singular vectors of both modes a truncation drops entries of the core, and nothing else.
    """
    k, c = weight.shape[:2]
    exact = weight.astype(np.float64)
    u_out, u_in = hosvd(exact, k, c)
    core = np.einsum("kcrs,kb,ca->bars", exact, u_out, u_in, optimize=True)
    kept = np.zeros((k + 1, c + 1))
    kept[1:, 1:] = np.square(core).sum(axis=(2, 3)).cumsum(axis=0).cumsum(axis=1)
    return np.clip(1.0 - kept / (kept[-1, -1] or 1.0), 0.0, 1.0)


def hooi(
    weight: np.ndarray, rank_out: int, rank_in: int, *, tolerance: float = 1e-4, rounds: int = 100
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Factors `(K, D2)`, `(D2, D1, R, S)`, `(D1, C)` by alternating re-estimation, started from HOSVD."""
    u_out, _ = hosvd(weight, rank_out, rank_in)
    norm = float(np.linalg.norm(weight)) or 1.0
    previous = np.inf
    for _ in range(rounds):
        u_in = _leading(_unfold(np.einsum("kcrs,kb->bcrs", weight, u_out, optimize=True), 1), rank_in)
        u_out = _leading(_unfold(np.einsum("kcrs,ca->kars", weight, u_in, optimize=True), 0), rank_out)
        core = np.einsum("kcrs,kb,ca->bars", weight, u_out, u_in, optimize=True)
        error = float(np.sqrt(max(norm**2 - float(np.linalg.norm(core)) ** 2, 0.0))) / norm
        if abs(previous - error) < tolerance:
            break
        previous = error
    return u_out, core, u_in.T


def _unfold(weight: np.ndarray, mode: int) -> np.ndarray:
    return np.moveaxis(weight, mode, 0).reshape(weight.shape[mode], -1)


def _leading(matrix: np.ndarray, rank: int) -> np.ndarray:
    """Leading left singular vectors, from the small Gram matrix: unfoldings are wide."""
    _, vectors = np.linalg.eigh(matrix @ matrix.T)
    return vectors[:, ::-1][:, :rank]
