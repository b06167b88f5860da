"""What `shrink` did, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from dovetail.errors import DataError


@dataclass(frozen=True)
class Channels:
    """The channels that one layer kept, by their old numbers.

    Attributes:
        inputs: kept inputs, ascending (columns of the weight; of a norm, the same as `outputs`).
        outputs: kept outputs, ascending.
        before: `(inputs, outputs)` that the layer had.
    """

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    before: tuple[int, int]

    @property
    def whole(self) -> bool:
        """Whether nothing was removed."""
        return (len(self.inputs), len(self.outputs)) == self.before


@dataclass(frozen=True)
class ChannelMap:
    """Kept channels of every layer that could be followed, and why channels elsewhere were left alone.

    Attributes:
        layers: convolutions, linear layers and norms by their names in the model.
        left: layer or op name → why all of its channels stay.
        mode: `"exact"` or `"paper"`.
    """

    layers: Mapping[str, Channels]
    left: Mapping[str, str] = field(default_factory=dict)
    mode: str = "exact"

    @property
    def removed(self) -> int:
        """Output channels removed, summed over convolutions, linear layers and norms."""
        return sum(channels.before[1] - len(channels.outputs) for channels in self.layers.values())

    def outputs(self) -> dict[str, tuple[int, ...]]:
        """Layer → kept outputs: what `shrink(keep=...)` takes, on an equal model."""
        return {name: channels.outputs for name, channels in self.layers.items()}

    def to_json(self) -> dict[str, Any]:
        """Plain data, the inverse of `from_json`."""
        layers = {
            name: {"inputs": list(c.inputs), "outputs": list(c.outputs), "before": list(c.before)}
            for name, c in self.layers.items()
        }
        return {"mode": self.mode, "layers": layers, "left": dict(self.left)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Build the map from `to_json` data; `DataError` where it is something else."""
        try:
            layers = {name: _channels(entry) for name, entry in data["layers"].items()}
            return cls(layers, dict(data["left"]), str(data["mode"]))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"this is not a channel map: {error}; give what ChannelMap.to_json wrote") from None


def _channels(entry: Mapping[str, Any]) -> Channels:
    fan_in, fan_out = (int(n) for n in entry["before"])
    return Channels(tuple(map(int, entry["inputs"])), tuple(map(int, entry["outputs"])), (fan_in, fan_out))
