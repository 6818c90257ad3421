"""A program: events on streams, what each one waits for, and how long it takes by the name of its slot."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from functools import cached_property
from itertools import zip_longest
from typing import Generic, NamedTuple, TypeVar

import numpy as np

from costmodel.analytic.recurrence.waves import NOTHING, Waves
from costmodel.quantities import Array, Indices
from costmodel.records import Record

K = TypeVar("K", bound=Hashable)


class Event(NamedTuple, Generic[K]):
    """One piece of work on a stream. `slot` names its duration.

    Events of a stream run in the order in which they are listed. after: positions in the list of the events that must
    have finished; receives: of those whose result must have arrived, one transfer time after they finished.
    """

    stream: int
    slot: K
    after: tuple[int, ...] = ()
    receives: tuple[int, ...] = ()


class Program(Record, Generic[K], dict=True):
    """Events in an order in which they can run, as arrays with a column for each event.

    stream, slot: of each event, `slot` a position in `slots`, the names of the rows of a duration array; after,
    receives: rows of earlier events that must have finished, or whose result must have arrived, `NOTHING` where a row
    has none. waves: the same by groups that run side by side, where they are known.
    steady: (itself, the same with one period of a steady state more, periods that it stands for beyond its own), null
    where it stands for itself: what grows evenly is that of this one + periods * (longer - this one).
    """

    stream: Indices
    slot: Indices
    after: Indices
    receives: Indices
    slots: tuple[K, ...]
    waves: Waves | None = None
    steady: tuple[Program[K], Program[K], float] | None = None

    @cached_property
    def counts(self) -> Array:
        """Return the events of each slot (column) on each stream (row): busy time is `counts @ durations`."""
        own = self._own_counts
        return own if self.steady is None else own + self.steady[2] * (self.steady[1].counts - own)

    @property
    def _own_counts(self) -> Array:
        streams, width = int(self.stream.max()) + 1, len(self.slots)
        flat = np.bincount(self.stream * width + self.slot, minlength=streams * width)
        return flat.reshape(streams, width).astype(np.float64)

    @cached_property
    def mean_counts(self) -> Array:
        """Return the events of each slot, averaged over streams: mean idle = makespan - mean_counts @ durations."""
        return np.asarray(self.counts.mean(axis=0))


def compile_events(events: Sequence[Event[K]], slots: Sequence[K]) -> Program[K]:
    """Return the program of events that are listed such that each one waits for earlier ones only.

    slots: order of the rows in which durations will be given. Every event's slot is among them.
    """
    for index, event in enumerate(events):
        if any(not 0 <= needed < index for needed in (*event.after, *event.receives)):
            raise ValueError(f"event {index} waits for {event.after} and {event.receives}: list it after all of them")
    column = {slot: number for number, slot in enumerate(slots)}
    return Program(
        np.array([event.stream for event in events]),
        np.array([column[event.slot] for event in events]),
        _padded([event.after for event in events]),
        _padded([event.receives for event in events]),
        tuple(column),
    )


def _padded(waits: Sequence[tuple[int, ...]]) -> Indices:
    rows = list(zip_longest(*waits, fillvalue=NOTHING))
    return np.array(rows, dtype=np.intp).reshape(len(rows), len(waits))
