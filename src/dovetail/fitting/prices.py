"""What layers cost: times of a table, bytes and work of their formats, what is left beyond the priced layers."""

from __future__ import annotations

import json
import logging
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from dovetail.engine.cache import CACHE_VERSION, cache_file, cpu_model
from dovetail.engine.layer_times import LayerTimer
from dovetail.engine.native import choose_isa, cores
from dovetail.fitting.modelled import COSTS, Modelled
from dovetail.fitting.rehearsals import Place
from dovetail.fitting.surveys import Survey
from dovetail.formats import FORMATS, DenseSpec, PackedSvd, PackedTucker
from dovetail.formats.base import Packed, Spec
from dovetail.formats.values import INT8
from dovetail.methods import Kept
from dovetail.peers.machine import machine
from dovetail.program.layers import LayerShape
from dovetail.program.quantize import whole_form
from dovetail.search.candidates import geometry
from dovetail.search.plan import Costs, Priced
from dovetail.search.table import CostTable, Entry

log = logging.getLogger("dovetail.fit")
BIAS: Final = 4
"""Bytes, of a layer in whole numbers."""


def open_table(threads: int | None, path: Path | None = None, *, int8: bool) -> CostTable:
    """The times of layers on this machine with so many threads; in the cache, if any, unless `path` says where.

    Raises:
        DataError: the file is of another machine, or of other kernels.
    """
    isa, values = choose_isa(), "int8" if int8 else "f32"
    here = {key: value for key, value in machine().items() if key in ("cores", "isa")}
    count = cores() if threads is None else threads
    conditions = {
        "cpu": cpu_model(),
        **here,
        "engine_isa": isa,
        "threads": count,
        "values": values,
        "batch": 1,
        "kernels": CACHE_VERSION,
    }
    label = f"{zlib.crc32(json.dumps(conditions, sort_keys=True).encode()):08x}"
    name = f"costs-{isa}-{values}-t{count}-{label}.json"
    if path is None and (kept := cache_file()) is not None:
        path = kept.with_name(name)
    return CostTable(conditions) if path is None else CostTable.open(path, conditions)


def measured_costs(table: CostTable, measured: Survey, report: Callable[[str], None] = log.info) -> Costs:
    """Latency of a layer in a format, as in the race: the dense layer's, times a ratio of the table or a new one."""
    timers: dict[LayerShape, LayerTimer] = {}

    def measure(shape: LayerShape, spec: Spec) -> Entry:
        if shape not in timers:
            timers.clear()  # one layer after the other: they hold their weights
            timers[shape] = LayerTimer(shape, int8=measured.int8, threads=measured.threads)
        found = timers[shape].ratio(spec)
        report(f"{shape}, {words(spec)}: {found.value:.3f} of dense, {found.kernels[0]}")
        return Entry(found.value, found.low, found.high, found.kernels[0])

    def costs(shape: LayerShape, spec: Spec | None) -> dict[str, float]:
        dense = measured.scale * measured.layers[shape.layers[0]]
        return {"latency": dense if spec is None else dense * table.measured(shape, spec, measure).value}

    return costs


def costs_of(
    table: CostTable,
    measured: Survey,
    modelled: Modelled | None,
    limits: Mapping[str, float],
    report: Callable[[str], None],
) -> Costs:
    """All limited costs of a layer."""
    times = measured_costs(table, measured, report)
    sizes: dict[tuple[LayerShape, Spec | None], float] = {}
    works: dict[tuple[LayerShape, Spec | None], float] = {}

    def price(shape: LayerShape, spec: Spec | None) -> dict[str, float]:
        found = dict(times(shape, spec)) if "latency" in limits else {}
        if "bytes" in limits:
            if (shape, spec) not in sizes:
                sizes[shape, spec] = weight_bytes(shape, spec, int8=measured.int8)
            found["bytes"] = sizes[shape, spec]
        if "macs" in limits:
            if (shape, spec) not in works:
                works[shape, spec] = float(filled(shape, spec, int8=measured.int8).macs(geometry(shape)))
            found["macs"] = works[shape, spec]
        if modelled is not None:
            counted = modelled.costs(shape.layers[0], spec, report)
            found |= {cost: value for cost, value in counted.items() if cost in limits}
        return {cost: found[cost] for cost in limits}

    return price


def price_all(
    measured: Survey,
    candidates: Mapping[str, Sequence[Spec] | Kept],
    price: Costs,
    report: Callable[[str], None],
) -> None:
    """Price every distinct layer in every format now, so that it is said how far that has come."""
    for number, shape in enumerate(measured.shapes, 1):
        specs = specs_of(shape, candidates)
        report(f"layer {number} of {len(measured.shapes)}: {shape}, {len(specs)} candidates")
        for spec in (None, *specs):
            price(shape, spec)


def beyond(cost: str, measured: Survey, modelled: Modelled | None, price: Costs) -> float:
    """What the network costs beyond the layers that have a price; a model of a machine knows layers alone."""
    if cost == "latency":
        return measured.rest
    if modelled is not None and cost in COSTS:
        return sum((modelled.costs(name, None)[cost] for name in modelled.layers if name not in measured.layers), 0.0)
    whole = measured.bytes if cost == "bytes" else measured.macs
    return whole - sum(price(shape, None)[cost] * shape.count for shape in measured.shapes)


def references(measured: Survey, modelled: Modelled | None) -> dict[str, float]:
    """What shares of a budget are of."""
    return measured.references | ({} if modelled is None else modelled.references)


def alone(shapes: Sequence[LayerShape]) -> list[LayerShape]:
    """Every layer by itself."""
    return [replace(shape, layers=(name,)) for shape in shapes for name in shape.layers]


def specs_of(shape: LayerShape, candidates: Mapping[str, Sequence[Spec] | Kept]) -> list[Spec]:
    """What layers of one shape could become, in an order that is always the same."""
    return sorted({s for name in shape.layers if not isinstance(some := candidates[name], Kept) for s in some}, key=str)


def times_behind(
    measured: Survey,
    candidates: Mapping[str, Sequence[Spec] | Kept],
    table: CostTable,
    factors: Mapping[Place, float],
) -> tuple[Priced, ...]:
    """Of every distinct layer what the table says of its candidates, put right, for the report."""
    found = []
    for shape in measured.shapes:
        known = {}
        for spec in specs_of(shape, candidates):
            if (entry := table.get(shape, spec)) is not None:
                factor = factors.get((shape, spec.format), 1.0)
                right = (factor * seconds for seconds in (entry.value, entry.low, entry.high))
                known[spec] = Entry(*right, entry.detail)
        found.append(Priced(shape, measured.scale * measured.layers[shape.layers[0]], known))
    return tuple(found)


def weight_bytes(shape: LayerShape, spec: Spec | None, *, int8: bool) -> float:
    """Bytes of a layer's weight in the file, with random numbers at random places.

    In whole numbers a layer of factors becomes one layer for each, and what lies between them has biases.
    """
    packed = filled(shape, spec, int8=int8)
    if not int8:
        return packed.bits() / 8
    factors = list(packed.stages().values()) if isinstance(packed, PackedTucker | PackedSvd) else []
    return packed.cast(INT8).bits() / 8 + BIAS * sum(map(len, factors[:-1]))


def filled(shape: LayerShape, spec: Spec | None, *, int8: bool) -> Packed:
    """A layer's weight with random numbers at random places, in the form that becomes whole numbers where it does."""
    chosen = DenseSpec() if spec is None else spec
    packed: Packed = FORMATS[chosen.format].packed.random(shape.weight, chosen, np.random.default_rng(0))
    return whole_form(packed, shape.groups) if int8 else packed


def words(spec: Spec | None) -> str:
    """A format in a few words, such as "tucker, rank in 32, rank out 64"."""
    if spec is None:
        return "dense"
    told = {key: value for key, value in spec.to_json().items() if key not in ("format", "version", "values")}
    parts = [f"{key.replace('_', ' ')} {value}" for key, value in told.items() if value is not None]
    return ", ".join([spec.format, *parts])
