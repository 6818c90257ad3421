"""The recurrence with reductions that run on during the actions that follow them, one at a time on each stream.

    start(e)  = as without
    wait(e)   = max(start(e) + head(e), free)
    finish(e) = wait(e) + rest(e)
    free      = finish(e) + trail(e)         of the action before e on its stream that reduces, never without one

An action that reduces nothing has a head only. Found wave by wave, at any number of points.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from costmodel.analytic.recurrence.program import K, Program, Waves, events_before, points_together, started
from costmodel.quantities import Array, Indices, Seconds
from costmodel.records import Record

_KEPT = 3  # numbers that an event takes at each point: when it and its reductions end, and how long it waits


class AsyncReduceSpan(Record):
    """How a program went [s]. span: until the last action was done, at each point; left: what reductions took longer.

    waits: for reductions before, mean of the actions of each slot.
    """

    span: Array
    left: Array
    waits: Array


def async_reduce_span(
    program: Program[K], reduces: Sequence[bool], times: tuple[Array, Array, Array], transfer: Seconds = 0.0
) -> AsyncReduceSpan:
    """Return how the program goes.

    reduces: of each slot, whether its actions reduce.
    times: heads, rests and trails, each with a row for each of `program.slots` and a column for each point [s].
    transfer: one for all or one a point [s].
    """
    if program.steady is not None:
        return _long_span(program, reduces, times, transfer)
    waves = program.waves
    if waves is None:
        raise ValueError("no groups of actions that run side by side are known")
    points = times[0].shape[1]
    transfers = np.broadcast_to(np.asarray(transfer, dtype=np.float64), (points,))
    earlier = _earlier(program, np.asarray(reduces)[program.slot])
    spans, lefts = np.empty(points), np.empty(points)
    waits = np.zeros((len(program.slots), points))
    for part in points_together(_KEPT * len(program.slot), points):
        each = [np.ascontiguousarray(rows[:, part]) for rows in times]
        spans[part], lefts[part], waited = _run(waves, program.slot, earlier, each, transfers[part])
        for row in np.flatnonzero(reduces):
            waits[row, part] = waited[program.slot == row].mean(axis=0)
    return AsyncReduceSpan(spans, lefts, waits)


def _long_span(
    program: Program[K], reduces: Sequence[bool], times: tuple[Array, Array, Array], transfer: Seconds
) -> AsyncReduceSpan:
    """Return how a program goes whose steady state two shorter ones show. Waits add up evenly over its actions."""
    assert program.steady is not None, "its steady state is known"
    own, longer, periods = program.steady
    one, two = (async_reduce_span(part, reduces, times, transfer) for part in (own, longer))
    number, last = (part.mean_counts[:, None] for part in (own, longer))
    waits = one.waits * number + periods * (two.waits * last - one.waits * number)
    return AsyncReduceSpan(one.span + periods * (two.span - one.span), two.left, waits / program.mean_counts[:, None])


def _earlier(program: Program[K], reduces: Indices) -> Indices:
    """Return, of each event that reduces, the one before it on its stream that does. A row for none elsewhere."""
    earlier = np.full(len(program.stream), len(program.stream) + 1)
    own = np.flatnonzero(reduces)
    own = own[np.argsort(program.stream[own], kind="stable")]
    before, after = own[:-1], own[1:]
    same = program.stream[before] == program.stream[after]
    earlier[after[same]] = before[same]
    return earlier


def _run(
    waves: Waves, slot: Indices, earlier: Indices, times: Sequence[Array], transfer: Array
) -> tuple[Array, Array, Array]:
    """Return the span, what reductions take beyond it, and what each event waits for. times: a row for each slot."""
    head, rest, trail = times
    shape = len(slot), head.shape[1]
    finish, free, waited = events_before(shape), events_before(shape), np.empty(shape)
    for (first, last), done in started(waves, finish, transfer):
        own, wait = slot[first:last], waited[first:last]
        np.add(done, head[own], out=done)
        free.take(earlier[first:last], 0, wait, "clip")
        np.subtract(wait, done, out=wait)
        np.maximum(wait, 0.0, out=wait)
        np.add(done, wait, out=done)
        np.add(done, rest[own], out=done)
        np.add(done, trail[own], out=free[first:last])
    span = finish[:-2].max(axis=0)
    return span, np.maximum(free[:-2].max(axis=0) - span, 0.0), waited
