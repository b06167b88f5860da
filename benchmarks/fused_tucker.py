"""Tucker layers on the CPU: the three convolutions one after another, and a block of rows at a time.

    python benchmarks/fused_tucker.py --threads 1 --batch 1
    python benchmarks/fused_tucker.py --int8

The 18 core convolutions of TDC with the channels of the layers that they are from, and seeded random weights. A factor
runs by the kernel that is fastest for it alone, in both ways the same; with `--int8` over codes. They take turns in one
process, `--blocks` of up to 20 runs each; a time is what `Session.profile` says of the layer. The ratio is the smaller
one of those of the 10th percentiles and the median of the ratios of neighbouring blocks.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

import numpy as np

from dovetail.cli import sheets
from dovetail.engine import Schedule, Session
from dovetail.engine.kernels import names_of_parts
from dovetail.engine.quantize import quantize
from dovetail.formats import PackedTucker, TuckerSpec
from dovetail.program.ops import check_node, complete
from dovetail.program.program import BATCH, Activation, Epilogue, Graph, Node, Program, Tensor
from dovetail.program.quantize import split_factors

SHEET = "tucker_core"
CHAIN = "conv2d_chain"


def layers() -> Iterator[tuple[int, int, int, int, int]]:
    """Input channels, ranks, output channels, rows and columns of the sheet's cases."""
    for case in sheets.cases(SHEET):
        spec, options = case.what.layers["0"], case.built.options
        yield options["inputs"], spec["rank_in"], spec["rank_out"], options["outputs"], case.input[1]


def network(inputs: int, rank_in: int, rank_out: int, outputs: int, size: int) -> Program:
    """One layer, 3x3 of unit stride, with a ReLU."""
    packed = PackedTucker.random(
        (outputs, inputs, 3, 3), TuckerSpec(rank_in=rank_in, rank_out=rank_out), np.random.default_rng(0)
    )
    relu = Epilogue(activation=Activation("relu"))
    node = complete(Node("conv2d", "layer", ("x",), "y", "layer", {"padding": (1, 1, 1, 1)}, relu))
    x = Tensor("x", (BATCH, inputs, size, size))
    y = Tensor("y", check_node(node, {"x": x.shape}, packed.shape))
    return Program({"main": Graph(("x",), ("y",), (node,), {"x": x, "y": y})}, {"layer": packed}, {})


def factors(split: Program, x: np.ndarray, threads: int) -> dict[str, str]:
    """Node of each factor → the kernel that is fastest for it alone."""
    session = Session(split, threads=threads)
    session.compile(x.shape)
    found = {node.name: session.schedule.choices[node.name] for node in split.graph.nodes if node.weight}
    (*_, last) = found
    if found[last].startswith(CHAIN):
        parts = names_of_parts(found[last])[1]
        found[last] = parts[-1] if parts else "conv2d_dense"
    return found


def race(program: Program, x: np.ndarray, threads: int, blocks: int, *, int8: bool) -> tuple[str, np.ndarray]:
    """The kernels, and seconds by way (one after another, by rows), block."""
    split = quantize(program, [x]) if int8 else split_factors(program)
    found = factors(split, x, threads)
    names = ",".join(kernel.removeprefix("conv2d_") for kernel in found.values())
    if int8:
        plans = (found, found | {list(found)[-1]: f"{CHAIN}({names})"})
    else:
        plans = tuple({"layer": f"{way}({names})"} for way in ("conv2d_tucker", "conv2d_fused_tucker"))
    ways = [Session(split if int8 else program, threads=threads, schedule=Schedule(plan)) for plan in plans]
    runs = int(np.clip(0.3 / seconds(ways[0], x, 1), 3, 20))
    times = [[seconds(way, x, runs) for way in ways] for _ in range(blocks)]
    return names, np.array(times).T


def seconds(session: Session, x: np.ndarray, runs: int) -> float:
    """Of the layer, the middle one of some runs, of each of its steps."""
    return sum(time.seconds for time in session.profile(x, runs=runs) if time.node.split(".")[0] == "layer")


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--blocks", type=int, default=15)
    parser.add_argument("--int8", action="store_true")
    given = parser.parse_args()
    ratios = []
    print("| channels, map | kernels | one after another, us | by rows, us | ratio |\n|---|---|---|---|---|")
    for layer in layers():
        x = np.random.default_rng(1).standard_normal((given.batch, layer[0], *layer[4:] * 2), dtype=np.float32)
        names, times = race(network(*layer), x, given.threads, given.blocks, int8=given.int8)
        tenth = 1e6 * np.percentile(times, 10, axis=1)
        ratios.append(min(tenth[0] / tenth[1], float(np.median(times[0] / times[1]))))
        channels = " → ".join(map(str, layer[:4]))
        print(
            f"| {channels}, {layer[4]}x{layer[4]} | {names} | {tenth[0]:,.0f} | {tenth[1]:,.0f} | {ratios[-1]:.2f} |",
            flush=True,
        )
    print(f"\ngeometric mean {np.exp(np.mean(np.log(ratios))):.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
