"""What a format is expected to spoil: how far a network's answers move when one layer is approximated, untrained.

The approximation error of every candidate is computed from the weights alone. How much an error of a layer matters is
measured once for each layer and format, on images: the Kullback-Leibler divergence of the answers with one candidate in
place. For small errors it grows with their square, so the damage of the others is taken to be in proportion to what
they lose of a layer's energy over what they keep: a layer that loses nearly everything cannot be had cheaply.
Training undoes most of the damage; what is left is assumed to keep the order. All that is chosen, and no more than a
heuristic: the accuracy of the trained network has the last word.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dovetail import files
from dovetail.errors import BudgetError, DataError, SpecError
from dovetail.formats.base import FORMATS, Spec, spec_from_json
from dovetail.formats.layer import numpy
from dovetail.formats.tucker import TuckerSpec
from dovetail.formats.tucker.packed import truncation_errors

REFERENCE = 0.2
"""Square of the relative error at which a layer is tried: large enough to be seen, small enough for proportion."""
EXACT = 1e-6
"""Square of a relative error up to which a candidate is the layer itself, but for rounding: to try it shows nothing."""


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
        """Expected divergence at another squared relative error; without bound where none has been tried."""
        if error <= 0:
            return 0.0
        return self.divergence * _lost(error) / _lost(self.error) if self.error > 0 else math.inf


Known = dict[tuple[str, str], Sensitivity]
"""By layer and format name."""


def _lost(error: float) -> float:
    """Energy that is lost, over what is kept."""
    return error / max(1.0 - error, 1e-6)


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
    known: Known | None = None,
    report: Callable[[str, str, Sensitivity], None] = lambda *_: None,
) -> Known:
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
                if (name, format) in found and found[name, format].error > EXACT:
                    continue
                some = [spec for spec in specs if spec.format == format]
                found[name, format] = _measured(network, name, some, batches, answers)
                report(name, format, found[name, format])
    return found


def load(path: Path, of: str) -> Known:
    """What an earlier search kept of the network with the checksum `of`; nothing where there is no such file.

    Raises:
        DataError: the file holds something else. One of another network is none of ours: it counts as nothing.
    """
    if not path.exists():
        return {}
    try:
        data = json.loads(path.read_text())
        if data["network"] != of:
            return {}
        return {
            (row["layer"], row["format"]): Sensitivity(spec_from_json(row["spec"]), row["error"], row["divergence"])
            for row in data["layers"]
        }
    except (OSError, ValueError, KeyError, TypeError, SpecError) as error:
        raise DataError(f"{path} holds no sensitivities ({error!r}); remove it, they are measured again") from None


def save(found: Known, path: Path, of: str) -> None:
    """Keep what was found of the network with the checksum `of`, whole or not at all."""
    rows = [
        {"layer": layer, "format": format, "spec": one.spec.to_json(), "error": one.error, "divergence": one.divergence}
        for (layer, format), one in found.items()
    ]
    files.make_folder(path.parent, error=DataError)
    files.write(path, json.dumps({"network": of, "layers": rows}, indent=1) + "\n", error=DataError)


def _tried(specs: Sequence[Spec], each: Sequence[float]) -> tuple[Spec, float]:
    """The candidate nearest the reference, and its error; of those that are no exact copy, where there are any."""
    pairs = list(zip(specs, each))
    return min([pair for pair in pairs if pair[1] > EXACT] or pairs, key=lambda pair: abs(pair[1] - REFERENCE))


def _measured(
    network: nn.Module, name: str, specs: Sequence[Spec], batches: Sequence[Tensor], answers: Sequence[Tensor]
) -> Sensitivity:
    weight = network.get_submodule(name).get_parameter("weight")
    dense = numpy(weight)
    spec, error = _tried(specs, errors(dense, specs))
    kept = weight.detach().clone()
    close = FORMATS[spec.format].packed.from_dense(dense, spec).dense()
    weight.copy_(torch.from_numpy(close))
    moved = [F.log_softmax(network(batch).float(), dim=1) for batch in batches]
    weight.copy_(kept)
    apart = sum(float(F.kl_div(new, old, reduction="sum", log_target=True)) for new, old in zip(moved, answers))
    count = sum(len(batch) for batch in batches)
    return Sensitivity(spec, error, max(apart / count, 0.0))
