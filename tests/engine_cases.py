"""Weight ops of every geometry, for the conformance tests of the engine."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from dovetail.engine.kernels import Place
from dovetail.program.program import Activation


@dataclass(frozen=True)
class Case:
    """A weight op: `(K, C/groups, R, S)` or `(K, C)` applied to an input of `size`.

    With an `expansion` a 1x1 convolution of so many channels makes that input.
    """

    id: str
    weight: tuple[int, ...]
    size: tuple[int, ...]
    batch: int = 2
    attributes: dict[str, Any] = field(default_factory=dict)
    epilogue: dict[str, Any] = field(default_factory=dict)
    expansion: int = 0

    def __str__(self) -> str:
        return self.id

    @property
    def place(self) -> Place:
        """Where its weight is applied."""
        if len(self.weight) == 2:
            return Place(*(math.prod(self.size),) * 2)
        given = {"stride": (1, 1), "dilation": (1, 1), "padding": (0, 0, 0, 0), "groups": 1} | self.attributes
        pads = (sum(given["padding"][:2]), sum(given["padding"][2:]))
        size = tuple(
            (n + pad - step * (kernel - 1) - 1) // stride + 1
            for n, pad, step, kernel, stride in zip(
                self.size, pads, given["dilation"], self.weight[2:], given["stride"]
            )
        )
        positions = (math.prod(self.size), math.prod(size), given["groups"])
        attributes = {name: given[name] for name in ("stride", "dilation", "padding")}
        return Place(*positions, size=size, **attributes, expanded=self.expansion > 0)


FULL = {"scaled": True, "biased": True, "activation": Activation("relu")}
CONVS = (
    Case("3x3 same", (11, 5, 3, 3), (7, 9), attributes={"padding": (1, 1, 1, 1)}, epilogue=FULL),
    Case("3x3 wide", (9, 4, 3, 3), (11, 13), attributes={"padding": (1, 1, 1, 1)}),
    Case("3x3 valid", (6, 3, 3, 3), (6, 11), epilogue={"biased": True}),
    Case("3x3 stride 2", (17, 6, 3, 3), (9, 8), attributes={"padding": (1, 1, 1, 1), "stride": (2, 2)}, epilogue=FULL),
    Case("1x1 stride 2", (5, 7, 1, 1), (7, 7), attributes={"stride": (2, 2)}),
    Case("1x1", (13, 18, 1, 1), (5, 6), epilogue=FULL),
    Case("1x1 of one pixel", (70, 19, 1, 1), (1, 1), batch=3, epilogue=FULL),
    Case("5x5 dilated", (4, 3, 5, 5), (16, 15), attributes={"padding": (4, 4, 4, 4), "dilation": (2, 2)}),
    Case("uneven padding", (6, 5, 3, 3), (8, 8), attributes={"padding": (0, 1, 0, 1), "stride": (2, 2)}, epilogue=FULL),
    Case("7x7 stride 2", (8, 3, 7, 7), (23, 21), attributes={"padding": (3, 3, 3, 3), "stride": (2, 2)}),
    Case(
        "7x7 stride 2, wide",
        (21, 3, 7, 7),
        (22, 83),
        attributes={"padding": (3, 3, 3, 3), "stride": (2, 2)},
        epilogue=FULL,
    ),
    Case(
        "5x5 stride 1x2", (9, 4, 5, 5), (6, 37), attributes={"padding": (2, 2, 1, 2), "stride": (1, 2)}, epilogue=FULL
    ),
    Case("1x3 stride 3x1", (4, 2, 1, 3), (10, 8), attributes={"stride": (3, 1), "padding": (0, 0, 1, 1)}),
    Case("groups", (6, 4, 3, 3), (7, 5), attributes={"padding": (1, 1, 1, 1), "groups": 2}, epilogue=FULL),
    Case("groups of many", (22, 5, 3, 3), (9, 13), attributes={"padding": (1, 1, 1, 1), "groups": 2}, epilogue=FULL),
    Case("depthwise", (10, 1, 3, 3), (9, 9), attributes={"padding": (1, 1, 1, 1), "groups": 10}, epilogue=FULL),
    Case(
        "depthwise, stride 2",
        (6, 1, 3, 3),
        (37, 70),
        attributes={"padding": (1, 1, 1, 1), "stride": (2, 2), "groups": 6},
        epilogue=FULL,
    ),
    Case(
        "depthwise 5x5",
        (7, 1, 5, 5),
        (6, 19),
        attributes={"padding": (2, 2, 2, 2), "groups": 7},
        epilogue={"biased": True, "activation": Activation("hardswish")},
    ),
    Case(
        "depthwise 5x5, stride 2",
        (5, 1, 5, 5),
        (9, 6),
        attributes={"padding": (1, 2, 2, 1), "stride": (2, 2), "groups": 5},
    ),
    Case("depthwise, padded far", (4, 1, 3, 3), (5, 9), attributes={"padding": (20, 1, 70, 1), "groups": 4}),
    Case("3x3, padded far", (5, 3, 3, 3), (5, 9), attributes={"padding": (20, 1, 70, 1)}),
    Case("5x5 stride 2, no padding", (6, 3, 5, 5), (9, 41), attributes={"stride": (2, 2)}, epilogue=FULL),
    Case(
        "5x6 stride 2, padded unevenly", (5, 2, 5, 6), (9, 43), attributes={"stride": (2, 2), "padding": (1, 2, 1, 0)}
    ),
    Case("4x8 stride 2", (5, 2, 4, 8), (7, 40), attributes={"stride": (2, 2), "padding": (1, 2, 2, 3)}),
    Case("1x5 stride 1x2, no padding", (4, 2, 1, 5), (3, 37), attributes={"stride": (1, 2)}),
    Case("1x5 stride 1x2, short rows", (4, 2, 1, 5), (3, 29), attributes={"stride": (1, 2)}),
    Case("depthwise, no padding", (4, 1, 3, 3), (3, 36), attributes={"groups": 4}, epilogue={"biased": True}),
    Case("one row, stride 2", (3, 2, 3, 3), (1, 5), attributes={"padding": (1, 1, 1, 1), "stride": (2, 2)}),
    Case("kernel of the whole image", (5, 6, 4, 3), (4, 3), epilogue=FULL),
    Case("two rows a vector", (6, 7, 3, 3), (8, 8), attributes={"padding": (1, 1, 1, 1)}, epilogue=FULL),
    Case("two rows a vector, stride 2", (5, 3, 3, 3), (12, 16), attributes={"padding": (1, 1, 1, 1), "stride": (2, 2)}),
    Case(
        "two rows a vector, no halo", (5, 3, 2, 2), (7, 9), epilogue={"biased": True, "activation": Activation("gelu")}
    ),
    Case("four pixels wide", (5, 3, 3, 3), (6, 4), attributes={"padding": (1, 1, 1, 1)}, epilogue=FULL),
    Case("many tiles", (21, 5, 3, 3), (35, 38), batch=1, attributes={"padding": (1, 1, 1, 1)}, epilogue=FULL),
    Case("many channels", (40, 33, 3, 3), (4, 4), batch=1, attributes={"padding": (1, 1, 1, 1)}, epilogue=FULL),
    Case("many channels, wide", (7, 200, 3, 3), (9, 20), batch=1, attributes={"padding": (1, 1, 1, 1)}, epilogue=FULL),
    Case("valid, of a vector's width", (4, 3, 3, 3), (5, 18)),
    Case("3x3 dilated", (4, 3, 3, 3), (9, 21), attributes={"padding": (2, 2, 2, 2), "dilation": (2, 2)}),
)
EXPANDED = (
    Case(
        "expanded",
        (10, 1, 3, 3),
        (9, 9),
        attributes={"padding": (1, 1, 1, 1), "groups": 10},
        epilogue=FULL,
        expansion=5,
    ),
    Case(
        "expanded, stride 2",
        (37, 1, 3, 3),
        (21, 30),
        attributes={"padding": (1, 1, 1, 1), "stride": (2, 2), "groups": 37},
        epilogue={"scaled": True, "activation": Activation("clamp", (-0.5, 1.5))},
        expansion=3,
    ),
    Case(
        "expanded 5x5",
        (70, 1, 5, 5),
        (7, 14),
        attributes={"padding": (2, 2, 2, 2), "groups": 70},
        epilogue={"biased": True, "activation": Activation("hardswish")},
        expansion=11,
    ),
    Case(
        "expanded 5x5, stride 2",
        (5, 1, 5, 5),
        (9, 6),
        attributes={"padding": (1, 2, 2, 1), "stride": (2, 2), "groups": 5},
        expansion=4,
    ),
    Case("expanded, no padding", (18, 1, 3, 3), (3, 36), attributes={"groups": 18}, epilogue=FULL, expansion=6),
    Case(
        "expanded in bands",
        (104, 1, 3, 3),
        (30, 62),
        batch=1,
        attributes={"padding": (1, 1, 1, 1), "groups": 104},
        epilogue=FULL,
        expansion=2,
    ),
    Case(
        "expanded in bands, stride 2",
        (64, 1, 3, 3),
        (41, 60),
        batch=1,
        attributes={"padding": (1, 1, 1, 1), "stride": (2, 2), "groups": 64},
        epilogue=FULL,
        expansion=2,
    ),
)
LINEARS = (
    Case("linear", (10, 33), (), epilogue=FULL),
    Case("wide linear", (130, 17), (), batch=7, epilogue={"biased": True}),
    Case("linear of one row", (331, 57), (), batch=1, epilogue=FULL),
    Case("linear on a sequence", (65, 12), (5,), epilogue={"activation": Activation("gelu")}),
)

# Windows of every step of columns: one, two, and what no vector load takes; with rows longer than two vectors.
WINDOWS = (
    {"kernel": (3, 3), "stride": (2, 2), "padding": (1, 1, 1, 1)},
    {"kernel": (2, 2), "stride": (2, 2), "padding": (0, 0, 0, 0)},
    {"kernel": (2, 5), "stride": (1, 1), "padding": (1, 0, 2, 3)},
    {"kernel": (4, 3), "stride": (3, 3), "padding": (1, 1, 1, 1)},
    {"kernel": (3, 2), "stride": (2, 5), "padding": (1, 2, 0, 1)},
)
