"""Products of many cases, thinned for `make test`."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any

import pytest


def product(*values: Iterable[Any]) -> list[Any]:
    """Rows of every combination, named by their values."""
    return [pytest.param(*row, id="-".join(map(str, row))) for row in itertools.product(*values)]


def thinned(rows: list[Any], every: int, key: Callable[..., Any]) -> list[Any]:
    """The same rows (`pytest.param`), of each key every `every`-th as it was, the others slow.

    `key` is called with the values of a row and says what `make test` has to meet at least once; `make test-all` meets
    every row. Keys begin at different rows, so that together they meet the other parameters too.
    """
    places: dict[Any, list[int]] = {}
    for place, row in enumerate(rows):
        places.setdefault(key(*row.values), []).append(place)
    stay = {
        place
        for number, those in enumerate(places.values())
        for place in those[number % min(every, len(those)) :: every]
    }
    return [
        row if place in stay else pytest.param(*row.values, id=row.id, marks=[*row.marks, pytest.mark.slow])
        for place, row in enumerate(rows)
    ]
