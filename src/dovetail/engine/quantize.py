"""Post-training quantization of a Program: calibrated on the engine, without torch."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from dovetail.engine.native import native_status
from dovetail.engine.schedule import Schedule
from dovetail.engine.session import Session
from dovetail.errors import InputError
from dovetail.program.calibrate import RULES, Rule, calibrate
from dovetail.program.mend import correct_bias
from dovetail.program.program import Program
from dovetail.program.quantize import check_quantizable, split_factors
from dovetail.program.quantize import quantize as into_codes


def quantize(
    program: Program,
    images: Iterable[Any],
    *,
    rule: Rule = "mse",
    keep: Collection[str] = (),
    correct: bool = True,
) -> Program:
    """The network in whole numbers: int8 weights, uint8 tensors between them, no training.

    Tucker and SVD layers become the convolutions (linear layers) that they are, kernel bases the weights that they
    stand for; everything without an integer form stays in floating point, between `dequantize` and `quantize` nodes.

    Args:
        program: in floating point; one input.
        images: a few hundred training images, normalised, not augmented: batches `(N, C, H, W)`, or pairs of those with
            their labels.
        rule: how far codes reach: to the extremes seen ("minmax"), to the 99.99th percentile ("percentile"), or as
            errs least ("mse").
        keep: nodes of weight layers to leave in floating point.
        correct: shift biases by what rounding the weights changes on average.

    Raises:
        InputError: there are no images, or one of them is no number; an unknown rule; several inputs.
        ProgramError: `keep` names no weight layer, or the program is quantised already or has several graphs.
    """
    if rule not in RULES:
        raise InputError(f"unknown rule {rule!r} for the reach of codes; known are {', '.join(RULES)}")
    if len(program.graph.inputs) != 1:
        raise InputError(f"calibration feeds one input; this network has {', '.join(program.graph.inputs)}")
    check_quantizable(program, keep)
    split = split_factors(program, keep)
    statistics = calibrate(split, map(_images, images), _every_tensor(split))
    made = into_codes(split, {name: found.range(rule) for name, found in statistics.items()}, keep)
    return correct_bias(split, made, statistics) if correct else made


def _images(batch: Any) -> np.ndarray:
    images = batch[0] if isinstance(batch, tuple | list) else batch
    return np.ascontiguousarray(images, dtype=np.float32)


def _every_tensor(program: Program) -> Callable[[np.ndarray], Mapping[str, np.ndarray]] | None:
    """All tensors of a batch through the engine, where there is one."""
    if not native_status().available:
        return None
    graph = program.graph
    made = tuple(node.output for node in graph.nodes)
    untuned = Schedule({node.name: f"{node.op}_dense" for node in graph.nodes if node.weight is not None})
    session = Session(program.with_graph(replace(graph, outputs=made)), schedule=untuned)
    (source,) = graph.inputs

    def evaluate(batch: np.ndarray) -> Mapping[str, np.ndarray]:
        outputs = session(batch)
        return {source: batch, **dict(zip(made, outputs if isinstance(outputs, tuple) else (outputs,)))}

    return evaluate
