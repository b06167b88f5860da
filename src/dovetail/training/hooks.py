"""What the loop asks of whatever it trains. `dovetail.methods.base.Method` is the model answer."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor, nn

from dovetail.training.phase import ParamGroups, Phase


class Hooks(Protocol):
    """The verbs in the order of their calls; see `dovetail.methods.base.Method` for what each may rely on."""

    steps_per_epoch: int

    def phases(self) -> Sequence[Phase]: ...  # noqa: D102
    def begin(self, phase: Phase, model: nn.Module) -> ParamGroups: ...  # noqa: D102
    def before_epoch(self, epoch: int) -> None: ...  # noqa: D102
    def loss(self, model: nn.Module, batch: Any, criterion: Callable[[Tensor, Tensor], Tensor]) -> Tensor: ...  # noqa: D102
    def recordable(self) -> Hashable | None: ...  # noqa: D102
    def before_step(self) -> None: ...  # noqa: D102
    def after_step(self) -> None: ...  # noqa: D102
    def after_epoch(self, epoch: int) -> None: ...  # noqa: D102
    def end(self, phase: Phase, model: nn.Module) -> None: ...  # noqa: D102
    def metrics(self) -> dict[str, float]: ...  # noqa: D102
    def state_dict(self) -> dict[str, Any]: ...  # noqa: D102
    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...  # noqa: D102


class Structure(Protocol):
    """How a model's structure is written down and restored; the module `dovetail.formats.structure` is one."""

    def describe(self, model: nn.Module) -> dict[str, Any]: ...  # noqa: D102
    def rebuild(self, model: nn.Module, description: Mapping[str, Any]) -> Any: ...  # noqa: D102


class FixedStructure:
    """For models whose layers stay as they are."""

    def describe(self, model: nn.Module) -> dict[str, Any]:
        """Nothing to say."""
        return {}

    def rebuild(self, model: nn.Module, description: Mapping[str, Any]) -> None:
        """Nothing to do."""
