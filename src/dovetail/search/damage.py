"""What a format is expected to spoil: how far a network's answers move when one layer is approximated, untrained.

The approximation error of every candidate is computed from the weights alone. How much an error of a layer matters is
measured once for each layer and format, on images: the Kullback-Leibler divergence of the answers with one candidate in
place. For small errors it grows with their square, and so the damage of the others is taken to be in proportion to
theirs. Training undoes most of it; what is left is assumed to keep the order. That is a heuristic, and the accuracy of
the trained network has the last word.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dovetail.errors import BudgetError
from dovetail.formats.base import FORMATS, Spec
from dovetail.formats.layer import numpy
from dovetail.formats.tucker import TuckerSpec
from dovetail.formats.tucker.packed import truncation_errors

REFERENCE = 0.2
"""Square of the relative error at which a layer is tried: large enough to be seen, small enough for proportion."""


@dataclass(frozen=True)
class Sensitivity:
    """How much an error in one layer matters.

    Attributes:
        spec: the candidate that was tried.
        error: its squared relative error.
        divergence: of the answers then, mean over images, in nats.
    """

    spec: Spec
    error: float
    divergence: float

    def damage(self, error: float) -> float:
        """Expected divergence at another squared relative error."""
        return self.divergence * error / self.error if self.error > 0 else 0.0


def errors(weight: np.ndarray, specs: Sequence[Spec]) -> list[float]:
    """Squared relative Frobenius error of the best approximation in each format, 0 to 1; of Tucker that of HOSVD."""
    total = float(np.square(weight, dtype=np.float64).sum()) or 1.0
    truncated = truncation_errors(weight) if any(isinstance(spec, TuckerSpec) for spec in specs) else np.zeros((0, 0))
    found = []
    for spec in specs:
        if isinstance(spec, TuckerSpec):
            found.append(float(truncated[spec.rank_out, spec.rank_in]))
            continue
        close = FORMATS[spec.format].packed.from_dense(weight, spec).dense()
        found.append(float(np.square(weight.astype(np.float64) - close).sum()) / total)
    return found


def sensitivities(
    model: nn.Module,
    images: Iterable[Tensor],
    candidates: Mapping[str, Sequence[Spec]],
    *,
    known: Mapping[tuple[str, str], Sensitivity] | None = None,
    report: Callable[[str, str, Sensitivity], None] = lambda *_: None,
) -> dict[tuple[str, str], Sensitivity]:
    """Sensitivity of each layer to each format among its candidates, by layer and format name.

    Args:
        model: dense; it is copied.
        images: batches `(N, C, H, W)`, normalised; a few hundred images held out from training.
        candidates: layer → what it could become.
        known: what an earlier, stopped call found.
        report: called with each finding.

    Raises:
        BudgetError: there are no images, or the network's answers are not finite.
    """
    batches = [batch for batch in images if len(batch)]
    if not batches:
        raise BudgetError("sensitivity is measured on images, and there are none; give some held-out ones")
    network, found = copy.deepcopy(model).eval(), dict(known or {})
    with torch.no_grad():
        answers = [F.log_softmax(network(batch).float(), dim=1) for batch in batches]
        if not all(bool(answer.isfinite().all()) for answer in answers):
            raise BudgetError("the dense network's answers are not finite; check its weights and the normalisation")
        for name, specs in candidates.items():
            for format in dict.fromkeys(spec.format for spec in specs):
                if (name, format) in found:
                    continue
                some = [spec for spec in specs if spec.format == format]
                found[name, format] = _measured(network, name, some, batches, answers)
                report(name, format, found[name, format])
    return found


def _measured(
    network: nn.Module, name: str, specs: Sequence[Spec], batches: Sequence[Tensor], answers: Sequence[Tensor]
) -> Sensitivity:
    weight = network.get_submodule(name).get_parameter("weight")
    dense = numpy(weight)
    each = errors(dense, specs)
    spec, error = min(zip(specs, each), key=lambda pair: abs(pair[1] - REFERENCE))
    kept = weight.detach().clone()
    close = FORMATS[spec.format].packed.from_dense(dense, spec).dense()
    weight.copy_(torch.from_numpy(close))
    moved = [F.log_softmax(network(batch).float(), dim=1) for batch in batches]
    weight.copy_(kept)
    apart = sum(float(F.kl_div(new, old, reduction="sum", log_target=True)) for new, old in zip(moved, answers))
    count = sum(len(batch) for batch in batches)
    return Sensitivity(spec, error, max(apart / count, 0.0))
