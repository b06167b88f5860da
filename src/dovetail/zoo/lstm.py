"""Recurrent networks: one for spoken digits, an LSTM over time with a linear layer on its last state; and one LSTM."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from dovetail.formats.recurrent import Lstm
from dovetail.zoo.layers import positive
from dovetail.zoo.mlp import height_and_width
from dovetail.zoo.registry import network


class LstmClassifier(nn.Module):
    """Rows of a picture are time steps: `lstm` walks along them, `linear` reads what it remembers in the end."""

    def __init__(self, features: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.lstm = Lstm(features, hidden, last=True)
        self.linear = nn.Linear(hidden, classes)

    def forward(self, x: Tensor) -> Tensor:
        """`(N, in_channels, T, features)` to `(N, classes)`, for any T."""
        return self.linear(self.lstm(x.transpose(1, 2).flatten(2)))


@network("lstm_digits")
def lstm_digits(
    *, hidden: int = 128, in_channels: int = 1, classes: int = 10, size: int | Sequence[int] = (64, 32)
) -> LstmClassifier:
    """For spoken digits as pictures, 64 frames of 32 mel bands; of `size` only the width matters."""
    positive(hidden=hidden, in_channels=in_channels, classes=classes)
    return LstmClassifier(in_channels * height_and_width(size)[1], hidden, classes)


class LstmWithState(nn.Module):
    """One LSTM that goes on from a state: the last two rows of its input are h and c, those before it time steps."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.lstm = Lstm(hidden, hidden)

    def forward(self, x: Tensor) -> Tensor:
        """`(N, T + 2, hidden)` to `(N, T, hidden)`."""
        return self.lstm(x[:, :-2], (x[:, -2], x[:, -1]))


def lstm_with_state(hidden: int) -> LstmWithState:
    """What a race about LSTMs runs: in the first step of one that begins at zero, half of the matrices do nothing."""
    positive(hidden=hidden)
    return LstmWithState(hidden)
