"""Inputs without their zeros on the way to units that work on one column at a time, through a queue.

A word of W inputs is read in a cycle; what is not zero in it goes into a queue of depth D as places become free, and
the next word is read once the last of it is there. With item t in word w[t], pushed[t] the cycle in which it enters
the queue, and T[t] the cycles that the units work on it:

    read[w]   = max(read[w-1], pushed[last item before w]) + 1          read[0] = 0
    pushed[t] = max(read[w[t]], start[t-D])
    start[t]  = max(start[t-1] + T[t-1], pushed[t] + 1)

Several items may be taken at once; then T and start are those of the group. The first cycle of reading belongs to the
fill of the pipeline. A vector is done when all of its words are read, too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dovetail.accelerators.workload import Counts, Mask


@dataclass(frozen=True)
class Supply:
    """Inputs read in a cycle, and places of the queue."""

    words: int
    queue: int


def finish(stored: Counts, vectors: Mask, lanes: int, together: int, supply: Supply) -> tuple[Counts, Counts]:
    """Cycles of each vector, by the recurrence above, and what they would be if no input were ever waited for.

    Args:
        stored: numbers in each column in each element, `(columns, elements)`.
        vectors: where inputs are not zero, `(vectors, columns)`.
        lanes: numbers of an element that are multiplied in a cycle.
        together: items of a group; at most as many as the queue holds.
        supply: of inputs.
    """
    count = vectors.sum(axis=1)
    order = np.argsort(~vectors, axis=1, kind="stable")  # columns of inputs that are there come first
    longest = int(count.max(initial=0))
    took = durations(stored, order[:, :longest], count, lanes, together)
    words, last_word = order[:, :longest] // supply.words, (vectors.shape[1] - 1) // supply.words
    read, at = np.zeros(len(vectors), np.int64), np.zeros(len(vectors), np.int64)  # of the word `at`
    pushed, free = np.zeros(len(vectors), np.int64), np.ones(len(vectors), np.int64)
    started: list[Counts] = []
    for group, first in enumerate(range(0, longest, together)):
        for t in range(first, min(first + together, longest)):
            here = t < count
            read = np.where(here, _read(read, at, words[:, t], pushed), read)
            at = np.where(here, words[:, t], at)
            room = started[(t - supply.queue) // together] if t >= supply.queue else 0
            pushed = np.where(here, np.maximum(read, room), pushed)
        start = np.maximum(free, pushed + 1)
        started.append(start)
        free = np.where(first < count, start + took[:, group], free)
    end = _read(read, at, np.full(len(vectors), last_word), pushed)
    return np.maximum(free - 1, end), took.sum(axis=1)


def durations(stored: Counts, order: Counts, count: Counts, lanes: int, together: int) -> Counts:
    """Cycles of the element that takes longest, at least one, of each group of each vector, `(vectors, groups)`."""
    vectors, longest = order.shape
    there = np.arange(longest) < count[:, None]
    if together == 1:
        each = np.maximum(1, -(-stored.max(axis=1, initial=0) // lanes))
        return np.where(there, each[order], 0)
    took = np.zeros((vectors, -(-longest // together)), np.int64)
    for group, first in enumerate(range(0, longest, together)):
        numbers = np.zeros((vectors, stored.shape[1]), np.int64)
        for t in range(first, min(first + together, longest)):
            numbers += np.where(there[:, t, None], stored[order[:, t]], 0)
        took[:, group] = np.where(there[:, first], np.maximum(1, -(-numbers.max(axis=1) // lanes)), 0)
    return took


def _read(read: Counts, at: Counts, word: Counts, pushed: Counts) -> Counts:
    """When a word is read, after the one at `at`, the last item of which was pushed at `pushed`."""
    steps = word - at
    return np.where(steps > 0, np.maximum(read, pushed) + steps, read)
