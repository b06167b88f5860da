"""The 18 core convolutions of TDC, with the channels of their layers, on the CPU against torch's convolutions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from dovetail.cli import sheets
from dovetail.engine import Schedule, Session, native_status
from dovetail.engine.native import cores
from dovetail.engine.quantize import quantize
from dovetail.formats import PackedTucker, TuckerSpec
from dovetail.program import reference
from dovetail.program.ops import check_node, complete
from dovetail.program.program import BATCH, Graph, Node, Program, Tensor
from programs import native_calls

pytestmark = pytest.mark.skipif(not native_status().available, reason="the native engine is not built")
CASES = {case.variant: case for case in sheets.cases("tucker_core")}
WAYS = {"conv2d_tucker": {"conv2d_dense_f32": 3}, "conv2d_fused_tucker": {"conv2d_tucker_f32": 1}}
"""Way → native kernels that it calls."""


def packed_of(case: sheets.Case) -> PackedTucker:
    options, given = case.built.options, case.what.layers["0"]
    spec = TuckerSpec(rank_in=given["rank_in"], rank_out=given["rank_out"])
    shape = (options["outputs"], options["inputs"], 3, 3)
    return PackedTucker.random(shape, spec, np.random.default_rng(0))


def network(packed: PackedTucker, size: tuple[int, ...]) -> Program:
    """The layer alone, of unit stride."""
    node = complete(Node("conv2d", "layer", ("x",), "y", "layer", {"padding": (1, 1, 1, 1)}))
    x = Tensor("x", (BATCH, *size))
    y = Tensor("y", check_node(node, {"x": x.shape}, packed.shape))
    return Program({"main": Graph(("x",), ("y",), (node,), {"x": x, "y": y})}, {"layer": packed}, {})


def test_the_sheet_has_all_shapes():
    assert len(CASES) == 18
    for name, case in CASES.items():
        rank_out, rank_in, *kernel = packed_of(case).arrays["core"].shape
        assert name == f"{rank_in}_{rank_out}_{case.input[1]}"
        assert (kernel, case.input[1]) == ([3, 3], case.input[2])


@pytest.mark.parametrize("isa", native_status().isas)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_both_ways_are_torchs_three_convolutions_and_repeat_to_the_bit(case, isa):
    packed = packed_of(case)
    x = np.random.default_rng(1).standard_normal((1, *case.input), dtype=np.float32)
    first, core, last = (torch.from_numpy(packed.arrays[name]) for name in ("input", "core", "output"))
    with torch.inference_mode():
        z = F.conv2d(torch.from_numpy(x), first[:, :, None, None])
        wanted = F.conv2d(F.conv2d(z, core, padding=1), last[:, :, None, None]).numpy()
    for way, calls in WAYS.items():
        results = []
        for threads in (1, 2) if cores() > 1 else (1,):
            schedule = Schedule({"layer": f"{way}(dense,dense,dense)"})
            session = Session(network(packed, case.input), threads=threads, schedule=schedule, isa=isa)
            results += [np.array(session(x)) for _ in range(2)]
            assert {name: native_calls(session, "layer")[f"{name}__{isa}"] for name in calls} == calls
        assert np.abs(results[0] - wanted).max() <= 1e-4 * np.ptp(wanted), way
        assert all(np.array_equal(results[0], other) for other in results[1:]), way


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_in_whole_numbers_the_chain_has_the_bits_of_three_convolutions(case):
    """On every ISA and any number of threads."""
    random = np.random.default_rng(2)
    images = random.standard_normal((2, *case.input), dtype=np.float32)
    program = quantize(network(packed_of(case), case.input), [images], rule="minmax", correct=False)
    *_, last = parts_of(program)
    results = []
    for isa in native_status().isas:
        apart = Session(
            program, threads=1, isa=isa, schedule=Schedule(dict.fromkeys(parts_of(program), "conv2d_dense"))
        )
        results.append(np.array(apart(images[:1])))
        assert all(native_calls(apart, name)[f"conv2d_dense_int8__{isa}"] == 1 for name in parts_of(program))
        for threads in (1, 2) if cores() > 1 else (1,):
            chained = Session(
                program, threads=threads, isa=isa, schedule=Schedule({last: "conv2d_chain(dense,dense,dense)"})
            )
            results.append(np.array(chained(images[:1])))
            assert native_calls(chained, last)[f"conv2d_chain_int8__{isa}"] == 1
    assert all(np.array_equal(results[0], other) for other in results[1:])
    if case.input[1] <= 28:
        assert np.array_equal(results[0], reference.run(program, images[:1]))


def parts_of(program: Program) -> list[str]:
    """The convolutions, in their order."""
    return [node.name for node in program.graph.nodes if node.op == "conv2d"]
