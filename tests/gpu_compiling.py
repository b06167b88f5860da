"""Kernels compiled for a card that need not be here: what instructions and how much memory they take."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dovetail.gpu.block_circulant import kernels as circulant
from dovetail.gpu.blocks import kernels as blocks
from dovetail.gpu.blocks.plan import Strip
from dovetail.gpu.permuted_diagonal import kernels as diagonal
from dovetail.gpu.tucker import kernels
from dovetail.gpu.tucker.choice import Tiles, TuckerTiles

GEOMETRY = {"R": 3, "S": 3, **{f"{name}_{axis}": 1 for name in ("STRIDE", "PAD", "DILATION") for axis in "HW"}}
TYPES = {"float16": "fp16", "bfloat16": "bf16", "float32": "fp32"}


@dataclass(frozen=True)
class Compiled:
    """What became of a kernel.

    Attributes:
        shared: bytes of a block.
        registers: of a thread, and `local`, bytes of it in memory (None where the tool that tells is missing).
    """

    ptx: str
    shared: int
    registers: int | None
    local: int | None

    def count(self, instruction: str) -> int:
        return len(re.findall(rf"^\s*(?:@\S+\s+)?{instruction}", self.ptx, re.MULTILINE))

    @property
    def wide_copies(self) -> int:
        """Asynchronous copies of 16 bytes a thread."""
        return len(re.findall(r"cp\.async\.c[ag]\S* .*, 0x10,", self.ptx))


def core(tiles: Tiles, dtype: str, precision: str, capability: int) -> Compiled:
    out = "fp32" if tiles.splits > 1 else TYPES[dtype]
    constants = {**GEOMETRY, **_tile(tiles), "PRECISION": precision, "weight_n": 1}
    return _compile(kernels.core, {"x": dtype, "weight": dtype, "y": out}, constants, tiles, capability)


def fused(plan: TuckerTiles, dtype: str, precision: str, capability: int) -> Compiled:
    constants = {
        **GEOMETRY, **_tile(plan.core), "TK": plan.last.outputs, "PRECISION": precision, "weight_n": 1, "last_n": 1,
        "BIAS": True, "RESIDUAL": True, "RELU": True,
    }  # fmt: skip
    pointers = dict.fromkeys(("x", "weight", "last", "bias", "residual", "y"), dtype)
    return _compile(kernels.fused, pointers, constants, plan.core, capability)


def pointwise(tiles: Tiles, dtype: str, precision: str, capability: int, splits: int = 1) -> Compiled:
    constants = {
        "SPLITS": splits, "TM": tiles.pixels, "TN": tiles.outputs, "TC": tiles.inputs, "PRECISION": precision,
        "BIAS": True, "RESIDUAL": True, "RELU": True, "weight_c": 1,
    }  # fmt: skip
    pointers = {**dict.fromkeys(("weight", "bias", "residual", "y"), dtype), "x": "fp32" if splits > 1 else dtype}
    return _compile(kernels.pointwise, pointers, constants, tiles, capability)


def direct(strip: Strip, size: int, natural: bool, dtype: str, capability: int) -> Compiled:
    """Shifts, where they are stored, of 64 bits, as layers hold them."""
    constants = {
        "P": size, "NATURAL": natural, "BIAS": strip.splits == 1, "TB": strip.batch, "TR": strip.rows,
        "TG": strip.columns, "TP": 1 << (size - 1).bit_length(),
    }  # fmt: skip
    pointers = {
        **dict.fromkeys(("x", "q", "bias"), dtype), "shifts": dtype if natural else "i64",
        "y": "fp32" if strip.splits > 1 else dtype,
    }  # fmt: skip
    return _compile(diagonal.direct, pointers, constants, strip, capability)


def products(name: str, tiles: Tiles, size: int, dtype: str, precision: str, capability: int) -> Compiled:
    """Permuted diagonals by classes ("grouped"), or circulant blocks in their rotations ("rotated")."""
    grouped = name == "grouped"
    constants = {
        "P" if grouped else "K": size, "BIAS": tiles.splits == 1, "TM": tiles.pixels, "TN": tiles.outputs,
        "TC": tiles.inputs, "PRECISION": precision,
    }  # fmt: skip
    out = "fp32" if tiles.splits > 1 else dtype
    pointers = {**dict.fromkeys(("x", "q" if grouped else "w", "bias"), dtype), "y": out}
    return _compile(diagonal.grouped if grouped else circulant.rotated, pointers, constants, tiles, capability)


def added(splits: int, dtype: str, capability: int) -> Compiled:
    constants = {"SPLITS": splits, "BIAS": True, "T": 256}
    pointers = {"parts": "fp32", "bias": dtype, "y": dtype}
    return _compile(blocks.added, pointers, constants, Strip(1, 1, 1), capability)


def _tile(tiles: Tiles) -> dict[str, int]:
    return {"TH": tiles.rows, "TW": tiles.columns, "TN": tiles.outputs, "TC": tiles.inputs}


def _compile(
    kernel: Any, pointers: Mapping[str, str], constants: Mapping[str, Any], tiles: Tiles | Strip, capability: int
) -> Compiled:
    """Whole numbers and pointers are multiples of 16, as for all shapes of the paper."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = kernel.arg_names
    types = {name: f"*{TYPES.get(kind, kind)}" for name, kind in pointers.items()}
    signature = {name: "constexpr" if name in constants else types.get(name, "i32") for name in names}
    free = ("rows", "height", "width", "out_height", "out_width", "pixels", "chunks", "batch")
    attributes = {
        (i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if name not in constants and name not in free
    }
    values = {(names.index(name),): value for name, value in constants.items()}
    made = triton.compile(
        ASTSource(fn=kernel, signature=signature, constexprs=values, attrs=attributes),
        target=GPUTarget("cuda", capability, 32),
        options={"num_warps": tiles.warps, "num_stages": tiles.stages, "enable_fp_fusion": True},
    )
    return Compiled(made.asm["ptx"], made.metadata.shared, *_usage(made.asm["cubin"]))


def _usage(cubin: bytes) -> tuple[int | None, int | None]:
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    if not tool.exists():
        return None, None
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        said = subprocess.run(
            [str(tool), "-res-usage", file.name], capture_output=True, text=True, timeout=60, check=True
        ).stdout
    numbers = {name: int(value) for name, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", said)}
    return numbers["REG"], numbers["STACK"] + numbers["LOCAL"]
