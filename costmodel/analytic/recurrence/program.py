"""A program: events on streams, what each one waits for, and how long it takes by the name of its slot."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from functools import cached_property, lru_cache
from itertools import pairwise, zip_longest
from typing import Generic, NamedTuple, TypeVar

import numpy as np

from costmodel.quantities import Array, Indices
from costmodel.records import Record, replace
from costmodel.workload.schedules.catalogue import folded_order
from costmodel.workload.schedules.schedule import KINDS, NONE, Kind, Schedule, Table, steady_state

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
        streams, width = int(self.stream.max()) + 1, len(self.slots)
        flat = np.bincount(self.stream * width + self.slot, minlength=streams * width)
        own = flat.reshape(streams, width).astype(np.float64)
        return own if self.steady is None else own + self.steady[2] * (self.steady[1].counts - own)

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


# ---- Pipeline schedules as programs: one stream a rank, one slot for actions that take equally long ------------------


class Slot(NamedTuple):
    """Actions of a pipeline that take equally long: of one kind, on stages of one class each."""

    kind: Kind
    forward: int | None
    backward: int | None


@lru_cache(maxsize=64)
def compile_schedule(
    schedule: str, pp: int, virtual: int, micro_batches: int, stage_class: tuple[int, ...] | None = None
) -> Program[Slot]:
    """Return the program of a pipeline schedule, one stream a rank. Mirrored ranks are folded into one, exactly.

    A step longer than its steady state needs is two shorter programs. stage_class: a label for each stage (default: its
    number). Stages of one label take equally long and share slots.
    """
    steady = steady_state(schedule, pp, virtual, micro_batches)
    program = program_of(folded_order(schedule, pp, virtual, steady.shorter), stage_class)
    if not steady.repeats:
        return program
    longer = program_of(folded_order(schedule, pp, virtual, steady.longer), stage_class)
    return replace(program, steady=(program, longer, steady.repeats))


def program_of(schedule: Schedule, stage_class: tuple[int, ...] | None = None) -> Program[Slot]:
    """Return the program of the schedule as it stands, folded or not. Raises ValueError where it deadlocks.

    What the rank's own order implies is left out: neighbouring stages on one rank cost no transfer.
    """
    label = tuple(range(schedule.stages)) if stage_class is None else stage_class
    if len(label) != schedule.stages:
        raise ValueError(f"{len(label)} stage classes for {schedule.stages} stages")
    table = schedule.table()
    groups = _side_by_side(table, schedule.name)
    order = np.concatenate(groups)
    position = np.full(len(order) + 1, NOTHING)  # one more, which `NONE` points at
    position[order] = np.arange(len(order))
    receives = position[np.where(table.is_transfer, table.needs, NONE)][:, order]
    stream, (slots, slot) = table.rank[order], _slots(table, label)
    waves = waves_of([len(group) for group in groups], stream, receives)
    return Program(stream, slot[order], receives[:0], receives, slots, waves)


def _side_by_side(table: Table, name: str) -> list[Indices]:
    """Return the actions in groups: as early as what they need allows, each group at most one action of every rank.

    One group after the other they are the events of the schedule's program.
    """
    position, end = table.first[:-1].copy(), table.first[1:]
    done = np.zeros(len(table.rank) + 1, dtype=bool)
    done[NONE] = True  # the last one, which is no action
    forward, backward = table.needs
    groups = []
    ranks = np.flatnonzero(position < end)
    while len(ranks):
        following = position[ranks]
        ready = done[forward[following]] & done[backward[following]]
        group = following[ready]
        if not len(group):
            finished = (position - table.first[:-1]).tolist()
            raise ValueError(f"schedule `{name}` deadlocks: its ranks have finished {finished} actions")
        done[group] = True
        groups.append(group)
        position[ranks[ready]] += 1
        ranks = np.flatnonzero(position < end)
    return groups


def _slots(table: Table, label: tuple[int, ...]) -> tuple[tuple[Slot, ...], Indices]:
    labels = np.array((*label, NONE))  # the last one, which `NONE` points at
    width = max(label) + 2
    keys = ((table.kind * width + labels[table.forward] + 1) * width) + labels[table.backward] + 1
    example = {key: one for one, key in reversed(list(enumerate(keys.tolist())))}  # the first of each
    distinct = sorted(example)
    slots = tuple(
        Slot(KINDS[table.kind[one]], _label(label, table.forward[one]), _label(label, table.backward[one]))
        for one in map(example.__getitem__, distinct)
    )
    return slots, np.searchsorted(distinct, keys)


def _label(label: tuple[int, ...], stage: int) -> int | None:
    return None if stage == NONE else label[stage]
