"""The recurrence by its longest paths: wherever the same waits bind, a makespan is a sum of counted durations.

At one point each event waits longest for one other. When it finishes is then a count of each slot's durations, the same
counts at every point at which no other wait is longer: there the makespan is those of the event that is last. A chain
of like layers has a handful of such paths, whatever its length, each with a few waits to compare.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from costmodel.analytic.recurrence.program import K, Program
from costmodel.analytic.recurrence.waves import NOTHING
from costmodel.quantities import Array
from costmodel.records import MutableRecord, Record, field

PATHS = 16  # of a program that are kept
WAITS = 16  # comparisons of a path up to which it takes less time than a tape
TOGETHER = 32_768  # points: their comparisons stay in the cache
ROUNDING = 1e-13  # of a makespan
_BITS = 32  # of a count: all counts of an event are one number, which adds up quickly
_HALF = 1 << (_BITS - 1)


class LongestPath(Record):
    """Counts of the durations of each slot, then of the transfer time.

    makespan: of the last event's finish.
    longer: by how much each wait that binds is longer than another one, a row for each that may be negative.
    """

    makespan: Array
    longer: Array


class _Known(MutableRecord):
    """What is known of a program. is_simple: its paths have few waits to compare."""

    paths: list[LongestPath] = field(default_factory=list)
    is_simple: bool = True


@lru_cache(maxsize=64)
def _known(program: Program[K]) -> _Known:  # noqa: ARG001  kept by object
    """Return what is known of a program, nothing yet."""
    return _Known()


def makespan_by_paths(program: Program[K], durations: Array, transfer: Array) -> Array:
    """Return when the last event is done, at each point [s]; NaN where no known path is the longest.

    durations: a row for each of `program.slots`, a column for each point [s].
    transfer: one a point [s].
    """
    spans, known = np.full(len(transfer), np.nan), _known(program)
    for first in range(0, len(spans), TOGETHER):
        part = slice(first, first + TOGETHER)
        if known.is_simple:
            _fill(program, known, np.vstack([durations[:, part], transfer[part]]), spans[part])
    return spans


def _fill(program: Program[K], known: _Known, times: Array, spans: Array) -> None:
    """Write the makespans at points whose longest path is known, or is that of another point among them.

    times: durations and transfer [s].
    """
    tried = 0
    left = np.flatnonzero(np.isfinite(times).all(axis=0))
    while len(left) and tried < PATHS:
        if tried == len(known.paths):
            path = longest_path(program, times[:, left[len(left) // 2]].tolist())
            if len(path.longer) > WAITS:
                known.is_simple = False
                return
            known.paths.append(path)
        path = known.paths[tried]
        some = times if len(left) == times.shape[1] else times[:, left]
        found = path.makespan @ some
        holds = ((path.longer @ some) >= -ROUNDING * found).all(axis=0)
        spans[left[holds]] = found[holds]
        left, tried = left[~holds], tried + 1


def longest_path(program: Program[K], times: Sequence[float]) -> LongestPath:
    """Return the longest path at one point. times: durations of `program.slots`, then the transfer time [s]."""
    transfer, moved = times[-1], 1 << _BITS * len(program.slots)
    waits, slots = _waits(program), program.slot.tolist()
    finish: list[float] = []
    counts: list[int] = []
    longer: set[int] = set()
    for needed, slot in zip(waits, slots, strict=True):
        candidates = [
            (finish[e] + transfer, counts[e] + moved) if sent else (finish[e], counts[e]) for e, sent in needed
        ]
        start, own = max(candidates, default=(0.0, 0))
        longer.update(own - other for _, other in candidates)
        finish.append(start + times[slot])
        counts.append(own + (1 << _BITS * slot))
    ended = {event for needed in waits for event, sent in needed if not sent}
    last = [counts[event] for event in range(len(waits)) if event not in ended]
    whole = max((finish[event], counts[event]) for event in range(len(waits)) if event not in ended)[1]
    longer.update(whole - other for other in last)
    return LongestPath(_row(whole, len(times)), _necessary([_row(each, len(times)) for each in longer], len(times)))


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
    offset = sum(_HALF << _BITS * place for place in range(size))
    digits = np.frombuffer((counts + offset).to_bytes(_BITS // 8 * size, "little"), "<u4")
    return digits.astype(np.float64) - _HALF


def _necessary(rows: Sequence[Array], size: int) -> Array:
    """Return the rows that may be negative, for any times >= 0, and where no other one is before them."""
    kept = np.empty((0, size))
    for row in sorted(rows, key=lambda each: float(each.sum())):
        if (row < 0).any() and not (row >= kept).all(axis=1).any():
            kept = np.vstack([kept, row])
    return kept
