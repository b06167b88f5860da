"""How to train, whatever the method."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dovetail.errors import TrainingError


@dataclass(frozen=True)
class Settings:
    """How to train, whatever the method.

    Attributes:
        precision: "bf16" runs forward and loss under autocast; weights and optimizer stay float32.
        channels_last: memory layout of images and convolution weights.
        label_smoothing: of the cross entropy.
        seed: of torch, numpy and Python, set when a run starts.
        run: folder for checkpoints and `metrics.jsonl`; None keeps nothing, and the run cannot be resumed.
        checkpoint_minutes: longest time between checkpoints (there is one after every epoch anyway).
        threads: of torch while training; None leaves them as they are.
        record: on a GPU, record a step once and replay it, where the method allows it: small networks train faster.
        progress: show a bar with the remaining time if standard error is a terminal.
    """

    precision: Literal["f32", "bf16"] = "f32"
    channels_last: bool = False
    label_smoothing: float = 0.0
    seed: int = 0
    run: Path | None = None
    checkpoint_minutes: float = 10.0
    threads: int | None = None
    record: bool = True
    progress: bool = True

    def __post_init__(self) -> None:
        if self.precision not in ("f32", "bf16"):
            raise TrainingError(f"unknown precision {self.precision!r}; use 'f32' or 'bf16'")
        if not 0.0 <= self.label_smoothing < 1.0:
            raise TrainingError(f"label_smoothing is {self.label_smoothing}; it must lie in [0, 1)")
        if self.threads is not None and self.threads < 1:
            raise TrainingError(f"threads is {self.threads}; it must be at least 1")
        if self.checkpoint_minutes < 0:
            raise TrainingError(f"checkpoint_minutes is {self.checkpoint_minutes}; it must not be negative")
        if self.run is not None:
            object.__setattr__(self, "run", Path(self.run))

    def identity(self) -> dict[str, Any]:
        """The settings that change the result: a run can only be resumed with the same ones."""
        names = ("precision", "channels_last", "label_smoothing", "seed")
        return {name: getattr(self, name) for name in names}
