"""What numbers the tensors of a network hold on real images: ranges for `quantize`, and means for `correct_bias`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, get_args

import numpy as np

from dovetail.errors import InputError
from dovetail.program.program import Program
from dovetail.program.quantize import Range
from dovetail.program.reference import run

Array = np.ndarray
Rule = Literal["minmax", "percentile", "mse"]
RULES: Final = get_args(Rule)
SAMPLES: Final = 1 << 18  # most numbers kept of each tensor
PER_BATCH: Final = 1 << 14  # of the first batches; whenever there are too many, every batch gives up half of its own
AT_ONCE: Final = 8  # images whose tensors are all held together
PERCENTILE: Final = 99.99


@dataclass
class Statistics:
    """Of one tensor: extremes, a sample of its numbers, and the means over which a weight op contracts, if one does."""

    low: float = 0.0
    high: float = 0.0
    samples: list[Array] = field(default_factory=list)
    share: float = 1.0
    total: Array | float = 0.0
    count: int = 0

    def note(self, value: Array, random: np.random.Generator) -> None:
        """Take in the numbers that the tensor holds on a batch, a sample of them by `random`."""
        self.low = min(self.low, float(value.min()))
        self.high = max(self.high, float(value.max()))
        flat = value.ravel()
        kept = _some(flat if flat.size <= PER_BATCH else random.choice(flat, PER_BATCH), self.share, random)
        self.samples.append(kept)
        if sum(map(len, self.samples)) > SAMPLES:
            self.samples = [_some(part, 0.5, random) for part in self.samples]
            self.share /= 2

    @property
    def mean(self) -> Array:
        """Per channel."""
        return np.asarray(self.total) / max(self.count, 1)

    def range(self, rule: Rule) -> Range:
        """What codes should reach from and to; always holds 0."""
        if rule == "minmax":
            return self.low, self.high
        sample = np.concatenate(self.samples)
        if rule == "percentile":
            low, high = np.percentile(sample, [100 - PERCENTILE, PERCENTILE])
            return min(float(low), 0.0), max(float(high), 0.0)
        return _least_error(sample, self.low, self.high)


def calibrate(
    program: Program,
    images: Iterable[Array],
    evaluate: Callable[[Array], Mapping[str, Array]] | None = None,
) -> dict[str, Statistics]:
    """Statistics of every tensor of the main graph over batches of images.

    Args:
        program: in floating point; one input.
        images: batches, normalised as in training; a few hundred images do.
        evaluate: all tensors by name of a batch; None runs the reference.

    Raises:
        InputError: there are no images, or something computed from them is not finite.
    """
    found = {name: Statistics() for name in program.graph.tensors}
    channels = {node.inputs[0]: 1 if node.op == "conv2d" else -1 for node in program.graph.nodes if node.weight}
    random, batches = np.random.default_rng(0), 0
    for batch in pieces(images):
        batches += 1
        values = evaluate(batch) if evaluate else run(program, batch, every=True)
        for name, statistics in found.items():
            _note(statistics, name, values[name], random)
            if name in channels:
                _note_means(statistics, values[name], channels[name])
    if not batches:
        raise InputError("calibration needs images, and there are none; give training images, not augmented")
    return found


def pieces(images: Iterable[Array]) -> Iterator[Array]:
    """Batches of at most `AT_ONCE` images."""
    for batch in images:
        for start in range(0, len(batch), AT_ONCE):
            yield batch[start : start + AT_ONCE]


def _note(statistics: Statistics, name: str, value: Array, random: np.random.Generator) -> None:
    if not np.isfinite(value).all():
        raise InputError(f"tensor {name!r} has NaN or Inf on these images; check them and the weights")
    statistics.note(value, random)


def _some(numbers: Array, share: float, random: np.random.Generator) -> Array:
    """A share of the numbers, at least one."""
    return numbers.copy() if share == 1 else random.permutation(numbers)[: math.ceil(len(numbers) * share)]


def _note_means(statistics: Statistics, value: Array, axis: int) -> None:
    axes = tuple(i for i in range(value.ndim) if i != axis % value.ndim)
    statistics.total = statistics.total + value.sum(axis=axes, dtype=np.float64)
    statistics.count += value.size // value.shape[axis]


def _least_error(sample: Array, low: float, high: float) -> Range:
    """The share of the range that 256 codes represent with the least squared error, ends clipped alike."""
    best, error = (low, high), np.inf
    for share in np.linspace(1.0, 0.3, 71):
        a, b = low * share, high * share
        if b <= a:
            break
        step = (b - a) / 255
        zero = np.clip(np.rint(-a / step), 0, 255)
        rounded = (np.clip(np.rint(sample / step) + zero, 0, 255) - zero) * step
        now = float(np.square(rounded - sample, dtype=np.float64).mean())
        if now < error:
            best, error = (float(a), float(b)), now
    return best
