"""Calls of `dovetail fit` on a small network of digits, whose weights the fixture `surveys` leaves where it works."""

from __future__ import annotations

from pathlib import Path

from dovetail.cli.fit import _asked, _base
from dovetail.cli.plans import Call
from dovetail.search import Budget

NARROW = ["--set", "network.options.width=0.25", "--set", "data.held_out=100"]
FIT = ["fit", "resnet8", "--weights", "t.safetensors", "-o", "f.yaml", "--plan-only", *NARROW]
BYTES = [*FIT, "--method", "block", "--budget", "bytes=0.15x"]


def opened():
    """A call as the command line makes it."""
    overrides = ("network.options.width=0.25", "data.held_out=100")
    recipe, budget = _base("resnet8", "block", None, "t.safetensors", overrides, Path("runs")), "bytes=0.15x"
    asked = _asked(Budget.parse(budget, 1.0), recipe, "knapsack", None, None, int8=True)
    return Call.open(recipe, asked, budget, Path("f.yaml"), threads=1, seed=0, root=None, peers=(), folder=Path())
