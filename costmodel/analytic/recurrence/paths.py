"""The recurrence by its longest paths: wherever the same waits bind, a makespan is a sum of counted durations.

At one point each event waits longest for one other. When it finishes is then a count of each slot's durations, the same
counts at every point at which no other wait is longer: there the makespan is those of the event that is last. A chain
of like layers has a handful of such paths, whatever its length, each with a few waits to compare.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np

from costmodel.analytic.recurrence.program import NOTHING, K, Program
from costmodel.quantities import Array

Paths: TypeAlias = "dict[Program[Any], list[Array]]"  # longest paths of programs, as `longest_path` gives them

PROGRAMS = 256  # of which is kept what each event waits for
PATHS = 16  # of a program that are kept
WAITS = 16  # comparisons of a path up to which it takes less time than a tape
TOGETHER = 8192  # points: their comparisons stay in the cache
ROUNDING = 1e-13  # of a makespan
_BITS = 32  # of a count: all counts of an event are one number, which adds up quickly
_HALF = 1 << (_BITS - 1)


def makespan_at(program: Program[K], times: Sequence[float]) -> float:
    """Return when the last event is done at one point [s]. times: durations of `program.slots`, then the transfer."""
    finish: list[float] = []
    transfer = times[-1]
    for needed, slot in zip(_waits(program), program.slot.tolist(), strict=True):
        start = 0.0
        for event, sent in needed:
            done = finish[event] + transfer if sent else finish[event]
            if done > start:
                start = done
        finish.append(start + times[slot])
    return max(finish)


def makespan_by_paths(program: Program[K], durations: Array, transfer: Array, known: Paths) -> Array:
    """Return when the last event is done, at each point [s]; NaN where no known path is the longest.

    durations: a row for each of `program.slots`, a column for each point [s].
    transfer: one a point [s].
    known: to which paths are added.
    """
    spans, paths, moved = np.full(len(transfer), np.nan), known.setdefault(program, []), bool(transfer.any())
    for first in range(0, len(spans), TOGETHER):
        part = slice(first, first + TOGETHER)
        times = durations[:, part]
        _fill(program, paths, np.vstack([times, transfer[part]]) if moved else times, spans[part])
    return spans


def _fill(program: Program[K], known: list[Array], times: Array, spans: Array) -> None:
    """Write the makespans at points whose longest path is known, or is that of another point among them.

    times: durations and, unless it is zero, transfer [s].
    """
    tried, left = 0, np.flatnonzero(np.isfinite(times.sum(axis=0)))
    while len(left) and tried < PATHS:
        if tried == len(known):
            at = times[:, left[len(left) // 2]].tolist()
            known.append(longest_path(program, at if len(at) > len(program.slots) else [*at, 0.0]))
        path = known[tried]
        if len(path) > 1 + WAITS:
            return
        makespan, *longer = path[:, : len(times)] @ (times if len(left) == times.shape[1] else times[:, left])
        holds, least = np.ones(len(left), dtype=np.bool_), -ROUNDING * makespan
        for each in longer:
            holds &= each >= least
        spans[left[holds]] = makespan[holds]
        left, tried = left[~holds], tried + 1


def longest_path(program: Program[K], times: Sequence[float]) -> Array:
    """Return the longest path at one point as rows that count the durations of each slot, then the transfer time.

    The first row is the last event's finish. The others are by how much each wait that binds is longer than another
    one, where that may be negative.

    times: durations of `program.slots`, then the transfer time [s].
    """
    transfer, moved = times[-1], 1 << _BITS * len(program.slots)
    waits, slots = _waits(program), program.slot.tolist()
    finish: list[float] = []
    counts: list[int] = []
    longer: set[int] = set()
    for needed, slot in zip(waits, slots, strict=True):
        start, own, others = 0.0, 0, list[int]()
        for e, sent in needed:
            done, other = (finish[e] + transfer, counts[e] + moved) if sent else (finish[e], counts[e])
            others.append(other)
            if done > start or (done == start and other > own):
                start, own = done, other
        if len(others) > 1:
            longer.update([own - other for other in others])
        finish.append(start + times[slot])
        counts.append(own + (1 << _BITS * slot))
    ended = {event for needed in waits for event, sent in needed if not sent}
    last = [counts[event] for event in range(len(waits)) if event not in ended]
    whole = max((finish[event], counts[event]) for event in range(len(waits)) if event not in ended)[1]
    longer.update(whole - other for other in last)
    waits_longer = _necessary([_row(each, len(times)) for each in longer], len(times))
    return np.vstack([_row(whole, len(times)), waits_longer])


@lru_cache(maxsize=PROGRAMS)
def _waits(program: Program[K]) -> list[list[tuple[int, bool]]]:
    """Return what each event waits for: another one, and whether its result must have arrived."""
    waits: list[list[tuple[int, bool]]] = [[] for _ in range(len(program.slot))]
    for rows, sent in ((program.after, False), (program.receives, True)):
        for row in rows.tolist():
            for event, needed in enumerate(row):
                if needed != NOTHING:
                    waits[event].append((needed, sent))
    previous: dict[int, int] = {}
    for event, stream in enumerate(program.stream.tolist()):
        if stream in previous:
            waits[event].append((previous[stream], False))
        previous[stream] = event
    return waits


def _row(counts: int, size: int) -> Array:
    """Return counts, or the difference of two of them, one by one."""
    offset = sum(_HALF << _BITS * digit for digit in range(size))
    digits = np.frombuffer((counts + offset).to_bytes(_BITS // 8 * size, "little"), "<u4")
    return digits.astype(np.float64) - _HALF


def _necessary(rows: Sequence[Array], size: int) -> Array:
    """Return the rows that may be negative, for any times >= 0, and where no other one is before them."""
    kept = np.empty((0, size))
    for row in sorted(rows, key=lambda each: float(each.sum())):
        if (row < 0).any() and not (row >= kept).all(axis=1).any():
            kept = np.vstack([kept, row])
    return kept
