"""`dovetail export`: ONNX with standard ops only."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from dovetail.cli import networks
from dovetail.cli.console import say
from dovetail.cli.options import DataFolder, Out, Weights, writable
from dovetail.cli.schema import Network

if TYPE_CHECKING:
    from torch import Tensor, nn


def export(
    network: Annotated[str, Parameter(help="A .dovetail file, a zoo name, or package.module:callable.")],
    /,
    *,
    weights: Weights = None,
    input: Annotated[str, Parameter(help="Shape of one image, where no file says it.")] = "3x32x32",
    data: DataFolder = None,
    out: Out = None,
) -> None:
    """Write ONNX that any runtime reads: Tucker becomes three convolutions, a kernel basis two."""
    from dovetail.export.onnx import export_onnx

    target = writable(out or Path(Path(network.rpartition(":")[2]).stem + ".onnx"), ".onnx")
    model, example = _packed(network) if networks.is_packed(network) else _dense(network, weights, input, data)
    export_onnx(model, example, target)
    say(f"wrote {target}: {target.stat().st_size / 1e6:.2f} MB, standard ops, any batch size")


def _packed(name: str) -> tuple[nn.Module, Tensor]:
    import torch

    from dovetail.export.torch_module import to_torch

    program = networks.load(name)
    return to_torch(program), torch.zeros(networks.input_shape(program))


def _dense(name: str, weights: str | None, shape: str, root: Path | None) -> tuple[nn.Module, Tensor]:
    from dovetail.cli.materials import build_network, image_of

    network = Network.model_construct(name=name, options={}, weights=weights)
    return build_network(network, root), image_of(shape)
