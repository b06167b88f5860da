"""PermDNN cycle by cycle, slowly: what its elements compute and when. The twin of `permdnn`.

The memory gives a word of inputs a cycle. Those that are not zero queue up with their numbers. The head of the queue is
given to all elements; each has the stored numbers of that column in order, and multiplies the next few of them. Where a
product belongs follows from the shift of its block: row (d + p - k) mod p of it, whose accumulator takes it.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from dovetail.accelerators.diagonals import Diagonals, Numbers, diagonals_of, values_of
from dovetail.accelerators.permdnn import Permdnn
from dovetail.accelerators.workload import Workload
from dovetail.program.functions import windows


@dataclass(frozen=True, eq=False)
class Result:
    """Sums `(N, K, E, F)` before any bias, the cycles without fill, and the products that were computed."""

    sums: Numbers
    cycles: int
    products: int


@dataclass(frozen=True)
class Column:
    """A column of a product: an input channel within its group, and a place of the kernel."""

    channel: int
    row: int
    column: int


@dataclass(eq=False)
class Element:
    """An element in one pass: the rows that it has, and their accumulators."""

    diagonals: Diagonals
    values: Numbers
    first: int
    sums: Numbers

    def stored(self, column: Column) -> list[tuple[int, float]]:
        """Its numbers of a column and the accumulator of each, in the order of block rows."""
        p = self.diagonals.size
        block, d = divmod(column.channel, p)
        found = []
        for above in range(self.first // p, math.ceil((self.first + len(self.sums)) / p)):
            c = (d + p - int(self.diagonals.index[above, block])) % p
            own = above * p + c - self.first
            if 0 <= own < len(self.sums):
                found.append((own, float(self.values[above, block, c, column.row, column.column])))
        return found


def run(machine: Permdnn, layer: Workload) -> Result:
    """The layer; an input that is a mask counts as ones."""
    diagonals, values = diagonals_of(layer), values_of(layer)
    sums, cycles, products = np.zeros(layer.out_shape), 0, 0
    per_group, filters = layer.weight.shape[1], layer.outputs // layer.groups
    columns = [Column(c, r, s) for c, r, s in np.ndindex(per_group, *layer.kernel)]
    for n, e, f in np.ndindex(layer.images, *layer.out_size):
        for g in range(layer.groups):
            vector = _patches(layer)[n, g * per_group : (g + 1) * per_group, e, f].ravel()
            for rows in _passes(machine, g * filters, filters):
                elements = [Element(diagonals, values, first, np.zeros(count)) for first, count in rows]
                together = machine.together(rows[0][1], diagonals.size)
                took, done = stream(machine, elements, vector, columns, together)
                cycles, products = cycles + took, products + done
                for element in elements:
                    sums[n, element.first : element.first + len(element.sums), e, f] = element.sums
    return Result(sums, cycles, products)


def stream(
    machine: Permdnn, elements: Sequence[Element], vector: Numbers, columns: Sequence[Column], together: int
) -> tuple[int, int]:
    """A vector through the elements, one cycle at a time; cycles without the first of reading, and products."""
    waiting: deque[int] = deque()
    words = deque(_words(vector, machine.words))
    word: deque[int] = deque()
    left = int(np.count_nonzero(vector))
    work: list[deque[tuple[int, float]]] = [deque() for _ in elements]
    cycle, busy, products = 0, False, 0
    while words or word or waiting or busy:
        if not busy and (len(waiting) >= together or (waiting and len(waiting) == left)):
            taken = [waiting.popleft() for _ in range(min(together, left))]
            left -= len(taken)
            for element, queue in zip(elements, work):
                queue.extend((own, q * vector[j]) for j in taken for own, q in element.stored(columns[j]))
            busy = True
        if not word and words:
            word.extend(words.popleft())
        while word and len(waiting) < machine.queue:
            waiting.append(word.popleft())
        for element, queue in zip(elements, work):
            for own, product in [queue.popleft() for _ in range(min(machine.multipliers, len(queue)))]:
                element.sums[own] += product
                products += 1
        busy = any(work)
        cycle += 1
    return cycle - 1, products


def _words(vector: Numbers, length: int) -> Iterator[list[int]]:
    """Places of a word that are not zero."""
    for start in range(0, len(vector), length):
        yield [start + int(j) for j in np.flatnonzero(vector[start : start + length])]


def _passes(machine: Permdnn, first: int, filters: int) -> Iterator[list[tuple[int, int]]]:
    """Of each pass: the first row of each element that has any, and how many."""
    own, done, end = math.ceil(filters / machine.elements), 0, first + filters
    for rows in machine.passes(filters):
        starts = [first + u * own + done for u in range(machine.elements)]
        yield [(start, min(rows, end - start)) for start in starts if start < end]
        done += rows


def _patches(layer: Workload) -> Numbers:
    """Inputs under the kernel at each position, zero where their code stands for it, `(N, C, E, F, R, S)`."""
    top, bottom, left, right = layer.padding
    values = np.where(layer.mask, layer.input.astype(np.float64) - layer.zero, 0.0)
    padded = np.pad(values, ((0, 0), (0, 0), (top, bottom), (left, right)))
    found: Numbers = windows(padded, layer.kernel, layer.stride, layer.dilation)
    return found
