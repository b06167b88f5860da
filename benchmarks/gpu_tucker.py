"""Tucker layers on a GPU against cuDNN, torch.compile and the dense network, in one run.

    python benchmarks/gpu_tucker.py --out benchmarks/results/gpu_tucker.json

Two kinds of cases, at each batch size: the 18 core convolutions of TDC alone (`gpu/core_64_32_56`), and ResNet-18,
ResNet-50, VGG-16 and DenseNet-121 whole (`gpu/resnet18_tucker_tdc`), with seeded random weights. Everybody runs as a
CUDA graph, with inputs and weights where they are; blocks of replays stand side by side, and ratios are formed from
neighbours. Cases of another batch than 1 end in `_b16` and go into a file of their own (`gpu_tucker_b16.json`). Files
are written after every case, so a run that is stopped leaves what it has measured.

Peers: cuDNN in benchmark mode, with channels last and first; torch.compile in max-autotune. They run the core alone, or
the dense network (`vs_best`) and the Tucker network as three convolutions (`vs_same`). Norms are folded into the layer
before them, for everybody; most of DenseNet's have none.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gpu_networks
import gpu_race
from dovetail.gpu import tucker_core, tuning
from dovetail.gpu.tiles import CORE_SHAPES, CoreShape
from dovetail.gpu.timing import full_float32
from dovetail.gpu.tucker.memory import crsn
from gpu_race import PRECISIONS, TOLERANCE, Case, Target, Work, compile_best, ours, running, suffix, wanted


def core_case(shape: CoreShape, batch: int, dtype: str, tiles: str, compiled: bool) -> Case:
    """The core convolution alone."""
    random = torch.Generator().manual_seed(0)
    kind, precision = getattr(torch, PRECISIONS[dtype][0]), PRECISIONS[dtype][1]
    x = torch.randn((batch, shape.inputs, shape.height, shape.width), generator=random)
    core = torch.randn((shape.outputs, shape.inputs, 3, 3), generator=random) / (9 * shape.inputs) ** 0.5

    def kernels(which: str) -> Work:
        z, weight = there(x, kind, True), crsn(core.to(gpu_race.DEVICE, kind))
        return lambda: tucker_core(z, weight, padding=1, precision=precision, tiles=which)

    def cudnn(last: bool) -> Work:
        z, weight = there(x, kind, last), there(core, kind, last)
        return lambda: F.conv2d(z, weight, padding=1)

    def inductor() -> Work:
        z, weight = there(x, kind, True), there(core, kind, True)
        return running(compile_best(lambda z, weight: F.conv2d(z, weight, padding=1)), z, weight)

    targets = [Target(name, "ours", partial(kernels, which)) for name, which in ours(tiles)]
    targets += [Target(f"cudnn{'-last' if last else ''}", "same", partial(cudnn, last)) for last in (False, True)]
    if compiled:
        targets.append(Target("torch-compile", "same", inductor))
    name = f"gpu/core_{shape}{suffix(batch, dtype)}"

    def truth(_: str) -> Tensor:
        with full_float32():
            return F.conv2d(x.to(gpu_race.DEVICE), core.to(gpu_race.DEVICE), padding=1)

    return Case(name, tuple(targets), truth, TOLERANCE[dtype] / 10, repeats=20)


def network_case(network: gpu_networks.Network, batch: int, dtype: str, tiles: str, compiled: bool) -> Case:
    """A network whole."""
    kind, precision = getattr(torch, PRECISIONS[dtype][0]), PRECISIONS[dtype][1]
    image = network.image(batch)

    def module(role: str, which: str | None, last: bool = True) -> nn.Module:
        program = network.dense if role == "dense" else network.tucker
        tiles = which or "auto"
        made = gpu_networks.Folded(program, batch, kernels=which is not None, precision=precision, tiles=tiles)
        made = made.to(gpu_race.DEVICE, kind)
        return lay_out(made) if last else made

    def eager(role: str, which: str | None, last: bool) -> Work:
        return running(module(role, which, last), there(image, kind, last))

    def inductor(role: str, which: str | None) -> Work:
        return running(compile_best(module(role, which)), there(image, kind, True))

    targets = [Target(name, "ours", partial(eager, "ours", which, True)) for name, which in ours(tiles)]
    if compiled:
        targets.append(Target("dovetail-compile", "ours", partial(inductor, "ours", tiles)))
    for role in ("dense", "same"):
        for last in (False, True):
            name = f"cudnn{'-last' if last else ''}-{role}"
            targets.append(Target(name, role, partial(eager, role, None, last)))
        if compiled:
            targets.append(Target(f"torch-compile-{role}", role, partial(inductor, role, None)))

    def truth(role: str) -> Tensor:
        with full_float32(), torch.inference_mode():
            program = network.dense if role == "dense" else network.tucker
            y: Tensor = gpu_networks.Folded(program, batch).to(gpu_race.DEVICE)(image.to(gpu_race.DEVICE))
            return y

    return Case(f"gpu/{network.name}_tucker_tdc{suffix(batch, dtype)}", tuple(targets), truth, TOLERANCE[dtype])


def lay_out(model: nn.Module) -> nn.Module:
    """Weights channels last; cores as the kernels read them, which cuDNN is not asked to."""
    for module in model.modules():
        core = getattr(module, "core", None)
        keep = isinstance(core, Tensor) and core.stride(0) == 1
        for parameter in module.parameters(recurse=False):
            if parameter.dim() == 4 and not keep:
                parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return model


def there(x: Tensor, kind: torch.dtype, last: bool) -> Tensor:
    """On the GPU, in this type and layout."""
    return x.to(gpu_race.DEVICE, kind).contiguous(
        memory_format=torch.channels_last if last else torch.contiguous_format
    )


def cases(options: argparse.Namespace, batch: int) -> Iterator[Case]:
    """All that the options ask for, made one by one; small work first."""
    compiled = not options.no_compile
    for shape in CORE_SHAPES:
        if wanted(options, f"core_{shape}"):
            yield core_case(shape, batch, options.dtype, options.tiles, compiled and not options.no_compile_cores)
    for name in gpu_networks.NETWORKS:
        if wanted(options, name):
            network = gpu_networks.build(name)
            yield network_case(network, batch, options.dtype, options.tiles, compiled)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = gpu_race.parser(__doc__, "gpu_tucker.json", (1, 16), "core_* or resnet18")
    parser.add_argument("--no-compile-cores", action="store_true", help="without torch.compile for the cores alone")
    return gpu_race.checked(parser, arguments)


def main(arguments: Sequence[str]) -> int:
    """Measure; 1 where there is no GPU."""
    options = parse(arguments)
    tuning.TRIED = options.tried
    return gpu_race.measure(options, " ".join(["python", "benchmarks/gpu_tucker.py", *arguments]), cases)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
