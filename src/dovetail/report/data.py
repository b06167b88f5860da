"""What a report shows, as plain data; what is unknown is None and shown as a dash."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from dovetail.report.fits import Fitted

Group = Literal["ours", "dense", "thin", "int8"]


@dataclass(frozen=True)
class Variant:
    """One network of the before/after table; the first of a page is the dense original.

    Attributes:
        accuracy: percent, on the test set (or what `Page.split` says).
        params, macs: by the counting rules, norms, biases, bases and classifier included.
        bytes: payload of the packed file.
        latency_ms: on our engine, batch 1.
        speedup: against the dense original on our engine, timed in the same run (times of different runs are never
            divided by each other).
    """

    name: str
    accuracy: float | None = None
    params: int | None = None
    macs: int | None = None
    bytes: int | None = None
    latency_ms: float | None = None
    speedup: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Ratio:
    """A speed ratio of the fair race: peer time / our time; `value` is the smaller of median and 10th percentile."""

    variant: str
    name: str
    value: float
    peer: str = ""


@dataclass(frozen=True)
class Point:
    """One network in the plane of latency and accuracy.

    Points of the group "thin" form a curve that ends in the dense original, points of "int8" another: dense networks in
    the runtime that is fastest on them, which may be ours.
    """

    label: str
    group: Group
    latency_ms: float
    accuracy: float


@dataclass(frozen=True)
class Layer:
    """One weight layer before and after; times in seconds per image, sizes in bits."""

    name: str
    format: str
    detail: str = ""
    seconds: float | None = None
    dense_seconds: float | None = None
    bits: int = 0
    dense_bits: int = 0
    kernel: str = ""


@dataclass(frozen=True)
class Section:
    """The layers of one variant."""

    variant: str
    layers: tuple[Layer, ...]


@dataclass(frozen=True)
class Left:
    """A layer that stays dense, and why."""

    variant: str
    layer: str
    reason: str


@dataclass(frozen=True)
class Page:
    """A whole report.

    Attributes:
        split: what the accuracies are measured on, in words.
        machine, versions: label → text.
        simulations: comparisons that `dovetail simulate` wrote, as their JSON.
        fits: what `dovetail fit` noted.
        layer: of which time against rank is drawn; the slowest one that has candidates, where a fit has no such layer.
        command: what makes this page again.
        notes: whatever a reader must know, such as peers that were not installed.
    """

    title: str
    variants: tuple[Variant, ...]
    ratios: tuple[Ratio, ...] = ()
    points: tuple[Point, ...] = ()
    sections: tuple[Section, ...] = ()
    left: tuple[Left, ...] = ()
    simulations: tuple[Mapping[str, Any], ...] = ()
    fits: tuple[Fitted, ...] = ()
    layer: str | None = None
    split: str = "test images"
    machine: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    command: str = ""
    date: str = ""
    notes: tuple[str, ...] = ()
