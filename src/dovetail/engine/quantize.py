"""Post-training quantization of a Program: calibrated on the engine, without torch."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from dovetail.engine.native import native_module
from dovetail.engine.schedule import Schedule
from dovetail.engine.session import Session
from dovetail.errors import InputError
from dovetail.program import mend
from dovetail.program.calibrate import RULES, Rule, calibrate
from dovetail.program.integer import touches_codes
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
    reestimate: bool = False,
) -> Program:
    """The network in whole numbers: int8 weights, uint8 tensors between them, no training.

    Tucker and SVD layers become the convolutions (linear layers) that they are; kernel bases stay what they are where
    they have few coefficients, and become the weights that they stand for elsewhere. Everything without an integer form
    stays in floating point, between `dequantize` and `quantize` nodes.

    Args:
        program: in floating point; one input.
        images: a few hundred training images, normalised, not augmented: batches `(N, C, H, W)`, or pairs of those with
            their labels.
        rule: how far codes reach: to the extremes seen ("minmax"), to the 99.99th percentile ("percentile"), or as
            errs least ("mse").
        keep: nodes of weight layers to leave in floating point.
        correct: shift biases by what rounding the weights changes on average.
        reestimate: then bring what each layer gives back to the mean and deviation that it had, channel by channel, as
            batch norms with new statistics would. All images, best a thousand, are held in memory and pass once for
            every layer.

    Raises:
        InputError: there are no images, or one of them is no number; an unknown rule; several inputs.
        ProgramError: `keep` names no weight layer, the program is quantised already or has several graphs, or a mended
            bias is beyond what 32 bits hold.
        EngineError: the ISA that `DOVETAIL_ISA` names cannot run here.
    """
    if rule not in RULES:
        raise InputError(f"unknown rule {rule!r} for the reach of codes; known are {', '.join(RULES)}")
    if len(program.graph.inputs) != 1:
        raise InputError(f"calibration feeds one input; this network has {', '.join(program.graph.inputs)}")
    check_quantizable(program, keep)
    split = split_factors(program, keep)
    batches = _batches(images)
    seen = list(batches) if reestimate else batches
    statistics = calibrate(split, seen, _every_tensor(split))
    made = into_codes(split, {name: found.range(rule) for name, found in statistics.items()}, keep)
    made = mend.correct_bias(split, made, statistics) if correct else made
    return mend.reestimate(split, made, seen, _runner) if isinstance(seen, list) else made


def _batches(images: Iterable[Any]) -> Iterator[np.ndarray]:
    try:
        return map(_images, images)
    except TypeError:
        raise InputError(f"calibration needs batches of training images, not {images!r}") from None


def _images(batch: Any) -> np.ndarray:
    images = batch[0] if isinstance(batch, tuple | list) else batch
    return np.ascontiguousarray(images, dtype=np.float32)


def _every_tensor(program: Program) -> Callable[[np.ndarray], Mapping[str, np.ndarray]] | None:
    """All tensors of a batch through the engine, where there is one."""
    if native_module() is None:
        return None
    graph = program.graph
    made = tuple(node.output for node in graph.nodes)
    run = _runner(program.with_graph(replace(graph, outputs=made)))
    (source,) = graph.inputs
    return lambda batch: {source: batch, **dict(zip(made, run(batch), strict=True))}


def _runner(program: Program) -> mend.Runner:
    """The outputs of a batch through the engine, where there is one; layers of real numbers are not tuned."""
    if native_module() is None:
        return mend.runner(program)
    real = [n for n in program.graph.nodes if n.weight is not None and not touches_codes(n, program.graph)]
    session = Session(program, schedule=Schedule({node.name: f"{node.op}_dense" for node in real}))

    def run(batch: np.ndarray) -> tuple[np.ndarray, ...]:
        outputs = session(batch)
        return outputs if isinstance(outputs, tuple) else (outputs,)

    return run
