"""Tucker layers on the CPU: the three convolutions one after another, and a block of rows at a time.

    python benchmarks/fused_tucker.py --threads 1 --batch 1

The 18 core convolutions of TDC with the channels of the layers that they are from, and seeded random weights. A factor
runs by the kernel that is fastest for it alone, in both ways the same. They take turns in one process, `--blocks` of up
to 20 runs each; a time is what `Session.profile` says of the layer. The ratio is the smaller one of those of the
10th percentiles and the median of the ratios of neighbouring blocks.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

import numpy as np

from dovetail.cli import sheets
from dovetail.engine import Schedule, Session
from dovetail.formats import PackedTucker, TuckerSpec
from dovetail.program.ops import check_node, complete
from dovetail.program.program import BATCH, Activation, Epilogue, Graph, Node, Program, Tensor
from dovetail.program.quantize import split_factors

SHEET = "tucker_core"


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


def factors(program: Program, x: np.ndarray, threads: int) -> str:
    """The fastest kernel of each factor alone, as names of candidates list them."""
    session = Session(split_factors(program), threads=threads)
    session.compile(x.shape)
    chosen = session.schedule.choices
    nodes = [node.name for node in session.program.graph.nodes if node.weight]
    return ",".join(chosen[name].removeprefix("conv2d_") for name in nodes)


def race(program: Program, x: np.ndarray, threads: int, blocks: int) -> tuple[str, np.ndarray]:
    """The kernels, and seconds by way (one after another, by rows), block."""
    names = factors(program, x, threads)
    ways = [
        Session(program, threads=threads, schedule=Schedule({"layer": f"{way}({names})"}))
        for way in ("conv2d_tucker", "conv2d_fused_tucker")
    ]
    runs = int(np.clip(0.3 / seconds(ways[0], x, 1), 3, 20))
    times = [[seconds(way, x, runs) for way in ways] for _ in range(blocks)]
    return names, np.array(times).T


def seconds(session: Session, x: np.ndarray, runs: int) -> float:
    """Of the layer, the middle one of some runs."""
    return next(time.seconds for time in session.profile(x, runs=runs) if time.node == "layer")


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--blocks", type=int, default=15)
    given = parser.parse_args()
    ratios = []
    print("| channels, map | kernels | one after another, us | by rows, us | ratio |\n|---|---|---|---|---|")
    for layer in layers():
        x = np.random.default_rng(1).standard_normal((given.batch, layer[0], *layer[4:] * 2), dtype=np.float32)
        names, times = race(network(*layer), x, given.threads, given.blocks)
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
