"""The errors of Dovetail. Every message says what is wrong, where, and what to do."""

from __future__ import annotations


def install_hint(extra: str) -> str:
    """How to install what an optional part needs. No package index has Dovetail: what one may have is another's."""
    return f"pip install '.[{extra}]' in a checkout"


class DovetailError(Exception):
    """Anything that Dovetail refuses; the command line prints it without a traceback."""


class SpecError(DovetailError):
    """A format cannot hold this layer as asked (ranks, blocks, densities, unmatched names)."""


class UnsupportedOp(DovetailError):
    """Lowering met an operation that has no row in the op table."""


class ProgramError(DovetailError):
    """A Program or a `.dovetail` file contradicts itself."""


class InputError(DovetailError):
    """An array handed to a Session, a loader or a verb has the wrong shape, type or values."""


class DataError(DovetailError):
    """Data or weights are missing, truncated or not what they claim to be."""


class RecipeError(DovetailError):
    """A recipe or a command line asks for something that does not exist."""


class TrainingError(DovetailError):
    """Training cannot go on (a loss that is not a number, a checkpoint of another run)."""


class Interrupted(TrainingError):
    """Training was stopped by Ctrl-C; the message says what is kept."""


class EngineError(DovetailError):
    """The engine cannot run this (a missing kernel or ISA, a bad thread count, no native module)."""


class PeerError(DovetailError):
    """A peer runtime is not installed or failed; the others go on."""


class MachineError(DovetailError):
    """A description of an accelerator contradicts itself, or the machine cannot run the layer."""


class BudgetError(DovetailError):
    """A budget cannot be read, or nothing that is known meets it."""


class GpuError(DovetailError):
    """The GPU's kernels cannot run this (no Triton, no such tile, a tensor that they do not take)."""
