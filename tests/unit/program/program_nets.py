"""Small Programs for the tests of this room: every op, every format."""

from __future__ import annotations

import numpy as np

from dovetail.formats import (
    DenseSpec,
    KernelBasisSpec,
    PackedDense,
    PackedKernelBasis,
    PackedSparse,
    PackedSvd,
    PackedTucker,
    SparseSpec,
    SvdSpec,
    TuckerSpec,
)
from dovetail.program.build import Builder, Call, Const
from dovetail.program.program import Activation, Epilogue, Program


def every_format() -> Program:
    """A convolution in each format one after another, then most other ops, then a linear layer in SVD form."""
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(4, 4, 3, 3)).astype(np.float32)
    packed = {
        "dense": PackedDense.from_dense(weight, DenseSpec()),
        "tucker": PackedTucker.from_dense(weight, TuckerSpec(rank_in=2, rank_out=3)),
        "basis": PackedKernelBasis.from_dense(weight, KernelBasisSpec(bases=3)),
        "sparse": PackedSparse.from_dense(weight, SparseSpec(density=0.3)),
        "svd": PackedSvd.from_dense(rng.normal(size=(5, 8)).astype(np.float32), SvdSpec(rank=2)),
    }
    b = Builder(lambda name: (packed[name], 1))
    x = b.input("x", ("batch", 4, 6, 6))
    for name in ("dense", "tucker", "basis", "sparse"):
        b.at(Call(name, "conv", name, "net.py:3"))
        b.format(name)
        parts = {part: b.array(f"{name}.{part}", rng.normal(size=4)) for part in ("scale", "bias")}
        residual = x.name if name == "sparse" else None
        epilogue = Epilogue(**parts, residual=residual, activation=Activation("clamp", (-1.0, 6.0)))
        x = b.emit("conv2d", x, weight=name, epilogue=epilogue, padding=(1, 1, 1, 1))
    b.at(Call("tail"))
    y = b.emit("max_pool2d", x, kernel=(3, 3), stride=(2, 2), padding=(0, 1, 0, 1))
    y = b.emit("concat", y, b.emit("avg_pool2d", x, kernel=(2, 2), stride=(2, 2)), axis=1)
    y = b.emit("mul", y, Const("gate", rng.normal(size=(8, 3, 1))))
    rows = b.emit("permute", b.emit("reshape", y, shape=("batch", 8, 9)), order=(0, 2, 1))
    rows = b.emit("layer_norm", rows, Const("norm", rng.normal(size=8)), axes=1, eps=1e-5)
    b.format("svd")
    y = b.emit("linear", b.emit("mean", rows, axes=(1,)), weight="svd")
    return b.program((y.name, rows.name), {"classes": ["a", "b"], "mean": [0.5, 0.25], "nested": {"deep": None}})
