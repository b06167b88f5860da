"""Whether a target of multiply-accumulates can be met, told before anything is trained."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping

import numpy as np

from dovetail.errors import SpecError
from dovetail.formats.base import Geometry
from dovetail.formats.kernel_basis import KernelBasisSpec
from dovetail.methods.shrinking.coupling import Coupling
from dovetail.methods.shrinking.selection import Cost, least_macs, total_macs
from dovetail.methods.shrinking.sites import Site
from dovetail.methods.shrinking.tracks import Bools

ALIVE = 1e-9
"""So few coefficients that a layer has just one."""
log = logging.getLogger("dovetail.methods")
Macs = Callable[[np.ndarray, np.ndarray, Geometry], int]
"""Of a layer with these bases (d, R, S) and coefficients (K, C/groups, d), in the format that it will have."""


def require_reach(
    coupling: Coupling, specs: Mapping[str, KernelBasisSpec], macs: Macs, target: float, density: float | None
) -> None:
    """Refuse a target below what remains if all coefficients die; warn below what remains of layers that are alive.

    Args:
        coupling: the channels of the dense network.
        specs: of the layers that become a kernel basis.
        macs: what such a layer costs.
        target: share of the dense network's multiply-accumulates that may remain.
        density: share of the coefficients that will be kept; None where that is not known: then one of each layer.

    Raises:
        SpecError: the target is out of reach.
    """
    if (least := _least(coupling, specs, macs, 0.0)) > target:
        raise SpecError(
            f"penni macs_target {target} is out of reach: with one channel left in every layer that may shrink, "
            f"{least:.3f} of the dense network's multiply-accumulates remain"
        )
    if (likely := _least(coupling, specs, macs, density or ALIVE)) > target:
        log.warning(
            "penni macs_target %g is hardly in reach: with one channel left in every layer that may shrink and %s, "
            "%.3f of the dense network's multiply-accumulates remain; raise it, or lower bases or density",
            target,
            "one coefficient" if density is None else f"{density:g} of its coefficients",
            likely,
        )


def _least(coupling: Coupling, specs: Mapping[str, KernelBasisSpec], macs: Macs, density: float) -> float:
    """Share of the dense multiply-accumulates with one channel per layer and this share of the coefficients."""
    costs = {name: _even(spec, macs, density) for name, spec in specs.items()}
    return least_macs(coupling, costs) / total_macs(coupling, np.zeros(coupling.count, dtype=bool))


def _even(spec: KernelBasisSpec, macs: Macs, density: float) -> Cost:
    """A layer that keeps this share of its coefficients (any but none is at least one), whatever channels are left."""

    def cost(site: Site, outputs: Bools, inputs: Bools) -> int:
        fan_in = int(inputs.sum()) if site.reader else site.weight.shape[1]
        coefficients = np.zeros((int(outputs.sum()), fan_in, spec.bases), dtype=np.float32)
        coefficients.ravel()[: math.ceil(density * coefficients.size)] = 1.0
        bases = np.ones((spec.bases, *site.weight.shape[2:]), dtype=np.float32)
        return macs(bases, coefficients, Geometry(*site.positions, site.groups))

    return cost
