"""The recurrence wave by wave: all events that can run side by side, in a handful of calls.

A tape takes a call or two for each event, and a while to record. A wave takes a few calls for all streams together and
nothing to prepare: what a long step on many ranks needs that is evaluated once or twice, at a few points.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

from costmodel.quantities import Array, Indices
from costmodel.records import Record

NOTHING = -1  # instead of an event that another one waits for
_NUMBERS = 1 << 22  # that the finish times of all events take at most


class Waves(Record):
    """Events in groups of which none waits for another, one of a stream at most, and what each one waits for.

    bounds: where the groups begin, and where the last one ends.
    previous: by event, the one before it on its stream.
    receives: by event, some whose result must have arrived, by group whether any event of it has such. Rows past the
    last event stand for no event: the first of them for one before all others, the second for one that is not needed.
    """

    bounds: tuple[int, ...]
    previous: Indices
    receives: tuple[tuple[Indices, tuple[bool, ...]], ...]


def waves_of(sizes: Sequence[int], stream: Indices, receives: Indices) -> Waves:
    """Return the waves of events that are listed group by group. sizes: of the groups."""
    begin, unneeded = len(stream), len(stream) + 1
    by_stream = np.argsort(stream, kind="stable")
    previous = np.full(len(stream), begin)
    same = stream[by_stream[1:]] == stream[by_stream[:-1]]
    previous[by_stream[1:][same]] = by_stream[:-1][same]
    bounds = np.cumsum([0, *sizes])
    rows = []
    for row in receives:
        some = np.logical_or.reduceat(row != NOTHING, bounds[:-1])
        rows.append((np.where(row == NOTHING, unneeded, row), tuple(some.tolist())))
    return Waves(tuple(bounds.tolist()), previous, tuple(rows))


def makespan_by_waves(waves: Waves, slot: Indices, durations: Array, transfer: Array) -> Array:
    """Return when the last event is done, at each point [s].

    slot: of each event, a row of `durations`, which has a column for each point [s].
    transfer: one a point [s].
    """
    points = durations.shape[1]
    parts = points_together(len(slot), points)
    return np.concatenate([_makespan(waves, durations[slot, part], transfer[part]) for part in parts])


def points_together(events: int, points: int) -> list[slice]:
    """Return the points in parts that take a bounded room each. events: numbers that each point takes."""
    width = max(1, _NUMBERS // events)
    return [slice(start, start + width) for start in range(0, points, width)]


def _makespan(waves: Waves, durations: Array, transfer: Array) -> Array:
    """Return the makespan. durations: a row for each event."""
    finish = events_before(durations.shape)
    for (first, last), done in started(waves, finish, transfer):
        np.add(done, durations[first:last], out=done)
    return np.asarray(finish[:-2].max(axis=0))


def events_before(shape: tuple[int, ...]) -> Array:
    """Return room for when events finish, and below it when the two rows past the last event do.

    shape: (events, points).
    """
    events, points = shape
    finish = np.empty((events + 2, points))
    finish[events], finish[events + 1] = 0.0, -np.inf
    return finish


def started(waves: Waves, finish: Array, transfer: Array) -> Iterator[tuple[tuple[int, int], Array]]:
    """Yield (first, past the last event of a group), when they start: rows of `finish`, to become when they finish."""
    arrived = np.empty((np.diff(waves.bounds).max(), finish.shape[1]))
    transfers = transfer.any()
    for number, (first, last) in enumerate(pairwise(waves.bounds)):
        done, come = finish[first:last], arrived[: last - first]
        finish.take(waves.previous[first:last], 0, done, "clip")  # not "raise", which copies once more
        for rows, some in waves.receives:
            if some[number]:
                finish.take(rows[first:last], 0, come, "clip")
                if transfers:
                    np.add(come, transfer, out=come)
                np.maximum(done, come, out=done)
        yield (first, last), done
