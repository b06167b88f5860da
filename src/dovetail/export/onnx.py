"""A model as an ONNX file of standard ops: format layers appear as the convolutions and products they factor into."""

from __future__ import annotations

import contextlib
import io
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dovetail import files
from dovetail.errors import DovetailError, UnsupportedOp, install_hint
from dovetail.formats.layer import appear
from dovetail.program.lower import dynamic_batch, evaluation_copy, example_inputs, explain, fixed_batch, watched

STANDARD = ("", "ai.onnx")
_LIMIT = 2**31 - 1  # bytes in one protobuf message


def export_onnx(model: nn.Module, example: Any, path: str | os.PathLike[str], *, time: int | None = None) -> Path:
    """Write a model as ONNX, in evaluation mode, with any batch size; the model itself is not changed.

    Recurrent layers become a `Scan` each.

    Args:
        model: any module, with or without format layers.
        example: an input, or a tuple of inputs, that it takes.
        path: of the file, written atomically.
        time: axis of every input whose length may vary, too, as `lower` has it.

    Raises:
        UnsupportedOp: the model cannot be traced, or needs ops outside the ONNX standard.
        DovetailError: the exporter is not installed, the network is too large for one file, or it cannot be written.
    """
    return files.write(path, onnx_bytes(model, example, time=time))


def onnx_bytes(model: nn.Module, example: Any, *, time: int | None = None) -> bytes:
    """The ONNX file of a model, in memory."""
    _require_exporter()
    copied, examples = evaluation_copy(model), example_inputs(example)
    with watched() as watch, _quiet(), appear("factored"), torch.no_grad():
        try:
            made = torch.onnx.export(
                copied,
                examples,
                dynamo=True,
                verbose=False,
                external_data=False,
                dynamic_shapes=dynamic_batch(copied, examples, time),
            )
        except Exception as error:
            raise _reason(error, watch.line) from error
    if made is None:
        raise UnsupportedOp("torch's ONNX exporter gave no program; check the model with dovetail.lower first")
    return _checked(made.model_proto, watch.line)


def _checked(proto: Any, fixed_at: str) -> bytes:
    ends = (*proto.graph.input, *proto.graph.output)
    if fixed_at or not all(any(d.dim_param for d in end.type.tensor_type.shape.dim) for end in ends):
        raise fixed_batch(f"at {fixed_at}" if fixed_at else "the exporter traced it with fixed sizes")
    if foreign := sorted({node.op_type for node in _nodes(proto) if node.domain not in STANDARD}):
        raise UnsupportedOp(
            f"the ONNX file would need ops outside the standard: {', '.join(foreign)}; rewrite that part"
        )
    if proto.ByteSize() > _LIMIT:
        raise DovetailError(
            "the network is larger than the 2 GB that one ONNX file can hold; save it as .dovetail instead"
        )
    data: bytes = proto.SerializeToString()
    return data


def _nodes(proto: Any) -> Iterator[Any]:
    """Every node, those of functions and of the bodies of loops included."""
    waiting = [*proto.graph.node, *(node for function in proto.functions for node in function.node)]
    while waiting:
        yield (node := waiting.pop())
        waiting += [inner for attribute in node.attribute for inner in attribute.g.node]


def _reason(error: Exception, fixed_at: str) -> DovetailError:
    """The exporter's error, or the tracing error behind it."""
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    if isinstance(cause, DovetailError):
        return cause
    return explain(cause if isinstance(cause, Exception) else error, fixed_at)


def _require_exporter() -> None:
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise DovetailError(f"ONNX export needs {error.name}: {install_hint('export')}") from None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter prints and logs its progress."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)
