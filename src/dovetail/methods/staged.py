"""What methods of several phases remember, that remove channels in the end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dovetail.methods.base import Method, Phase
from dovetail.methods.shrink import ChannelMap


class Staged(Method):
    """Keeps the phase, the steps within it, and what was removed; masks are in the layers.

    Attributes:
        channel_map: what shrinking removed, once it has.
    """

    channel_map: ChannelMap | None
    _phase: Phase
    _where: str
    _step: int

    def state_dict(self) -> dict[str, Any]:
        """Phase, steps within it, and what was removed."""
        channels = None if self.channel_map is None else self.channel_map.to_json()
        return {"phase": self._where, "step": self._step, "channels": channels}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self._where, self._step = str(state["phase"]), int(state["step"])
        self.channel_map = None if state["channels"] is None else ChannelMap.from_json(state["channels"])

    def _reset(self) -> None:
        self._where, self._step, self.channel_map = "", 0, None

    def _enter(self, phase: Phase) -> None:
        """Begin to count the steps of a phase, or go on in the middle of it."""
        if self._where != phase.name:
            self._where, self._step = phase.name, 0
        self._phase = phase
