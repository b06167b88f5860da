"""What the families share: scaled channel counts, initialisation, and checked options."""

from __future__ import annotations

from torch import nn

from dovetail.errors import RecipeError


def scaled(channels: int, width: float) -> int:
    """`channels` times `width`, rounded to a multiple of 8 (at least 8); exactly `channels` at width 1.

    Raises:
        RecipeError: the width is not positive.
    """
    if not isinstance(width, int | float) or not 0 < width < float("inf"):
        raise RecipeError(f"option width={width!r} must be a positive number, such as 0.5")
    return channels if width == 1 else max(8, round(channels * width / 8) * 8)


def choose(option: str, value: str, known: tuple[str, ...]) -> str:
    """`value`, if it is one of `known`.

    Raises:
        RecipeError: it is not; the message lists the known ones.
    """
    if value not in known:
        raise RecipeError(f"option {option}={value!r} is unknown; known are {', '.join(known)}")
    return value


def positive(**counts: int) -> None:
    """`RecipeError` unless every count (`classes`, `in_channels`) is a positive integer."""
    for option, count in counts.items():
        if not isinstance(count, int) or count < 1:
            raise RecipeError(f"option {option}={count!r} must be a positive integer")


def single_linear(inputs: int, outputs: int) -> nn.Sequential:
    """One linear layer, called "0", with a bias: what a race about one layer runs."""
    positive(inputs=inputs, outputs=outputs)
    return nn.Sequential(nn.Linear(inputs, outputs))


def single_convolution(inputs: int, outputs: int) -> nn.Sequential:
    """One 3x3 convolution of unit stride, called "0", with a bias and a ReLU."""
    positive(inputs=inputs, outputs=outputs)
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU())


def initialise(model: nn.Module, *, classifier_std: float | None = None) -> None:
    """He's normal initialisation of the convolutions (fan out); norms start as the identity, biases at zero.

    Linear layers keep torch's initialisation unless `classifier_std` is given.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear) and classifier_std is not None:
            nn.init.normal_(module.weight, 0.0, classifier_std)
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)
