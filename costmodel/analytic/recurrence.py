"""The max-plus recurrence: when a set of streams is done that each work in a fixed order and wait for each other.

    start(e)  = max(finish(previous of the stream), finish(a): a in e.after, finish(r) + transfer: r in e.receives)
    finish(e) = start(e) + duration(slot of e)
    makespan  = max over e of finish(e)

Pipeline schedules (`compile_schedule`) and overlapping micro-batches (`compile_events`) are such programs. A program
is structure only: compiled once into a tape of in-place `maximum` and `add` over registers, each an array of points,
and replayed for every chunk of points. Waits that others imply are dropped, and registers are reused to stay in cache.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Generic, NamedTuple, TypeAlias, TypeVar

import numpy as np

from costmodel.quantities import Array, Seconds
from costmodel.workload.schedules import Action, Dependency, Kind, Schedule, order

K = TypeVar("K", bound=Hashable)
_Step: TypeAlias = "tuple[np.ufunc, int, int, int]"  # register `out` becomes call(a, b): the maximum or the sum

CHUNK = 4096  # points evaluated together: enough to hide numpy's cost per call, few enough for a second-level cache
_ALIGNMENT = 8  # floats in a cache line


class Event(NamedTuple, Generic[K]):
    """One piece of work on a stream; `slot` names its duration.

    Events of a stream run in the order in which they are listed. after: positions in the list of the events that must
    have finished; receives: of those whose result must have arrived, one transfer time after they finished.
    """

    stream: int
    slot: K
    after: tuple[int, ...] = ()
    receives: tuple[int, ...] = ()


class Slot(NamedTuple):
    """Actions of a pipeline that take equally long: of one kind, on stages of one class each."""

    kind: Kind
    forward: int | None
    backward: int | None


@dataclass(frozen=True, slots=True, eq=False)
class Program(Generic[K]):
    """Events in an order in which they can run. slots: names of the rows of a duration array.

    counts: events of each slot (column) on each stream (row), so that busy time is `counts @ durations`.
    """

    events: tuple[Event[K], ...]
    slots: tuple[K, ...]
    counts: Array

    @property
    def mean_counts(self) -> Array:
        """Return the events of each slot, averaged over streams: mean idle = makespan - mean_counts @ durations."""
        return np.asarray(self.counts.mean(axis=0))


def compile_events(events: Sequence[Event[K]], slots: Sequence[K]) -> Program[K]:
    """Return the program of events that are listed such that each one waits for earlier ones only.

    slots: order of the rows in which durations will be given; every event's slot is among them.
    """
    for index, event in enumerate(events):
        if any(not 0 <= needed < index for needed in (*event.after, *event.receives)):
            raise ValueError(f"event {index} waits for {event.after} and {event.receives}: list it after all of them")
    column = {slot: number for number, slot in enumerate(slots)}
    counts = np.zeros((1 + max(event.stream for event in events), len(column)))
    for (stream, slot), number in Counter((event.stream, event.slot) for event in events).items():
        counts[stream, column[slot]] = number
    return Program(tuple(events), tuple(column), counts)


@lru_cache(maxsize=64)
def compile_schedule(
    schedule: str, pp: int, virtual: int, micro_batches: int, stage_class: tuple[int, ...] | None = None
) -> Program[Slot]:
    """Return the program of a pipeline schedule, one stream a rank; mirrored ranks are folded into one, exactly.

    stage_class: a label for each stage (default: its number); stages of one label take equally long and share slots.
    """
    return program_of(order(schedule, pp, virtual, micro_batches).fold(), stage_class)


def program_of(schedule: Schedule, stage_class: tuple[int, ...] | None = None) -> Program[Slot]:
    """Return the program of the schedule as it stands, folded or not."""
    label = tuple(range(schedule.stages)) if stage_class is None else stage_class
    if len(label) != schedule.stages:
        raise ValueError(f"{len(label)} stage classes for {schedule.stages} stages")
    listed: dict[tuple[int, int], int] = {}
    events: list[Event[Slot]] = []
    for rank, position, needs in _runnable(schedule):
        listed[rank, position] = len(events)
        after = tuple(listed[need.rank, need.position] for need in needs if not need.transfer)
        receives = tuple(listed[need.rank, need.position] for need in needs if need.transfer)
        events.append(Event(rank, _slot(schedule.ranks[rank][position], label), after, receives))
    return compile_events(events, tuple(dict.fromkeys(event.slot for event in events)))


def _slot(action: Action, label: tuple[int, ...]) -> Slot:
    forward = None if action.forward is None else label[action.forward.stage]
    backward = None if action.backward is None else label[action.backward.stage]
    return Slot(action.kind, forward, backward)


def _runnable(schedule: Schedule) -> Iterator[tuple[int, int, tuple[Dependency, ...]]]:
    """Yield rank, position and dependencies of every action, none before what it depends on."""
    waiting = schedule.dependencies()
    done = [0] * len(waiting)
    before = None
    while done != before:
        before = list(done)
        for rank, needs in enumerate(waiting):
            while done[rank] < len(needs) and all(need.position < done[need.rank] for need in needs[done[rank]]):
                yield rank, done[rank], needs[done[rank]]
                done[rank] += 1
    if done != [len(needs) for needs in waiting]:
        raise ValueError(f"schedule `{schedule.name}` deadlocks: its ranks have finished {done} actions")


class Workspace(Generic[K]):
    """Memory to evaluate one program for `points` points at a time, again and again.

    Fill `durations` (a row for each of `program.slots`, a column for each point) and `transfer` [s], call `makespan`.
    Without `transfers` results arrive at once, and `transfer` is not read. One workspace serves one thread.
    """

    __slots__ = ("_calls", "_result", "durations", "transfer")

    def __init__(self, program: Program[K], points: int, *, transfers: bool) -> None:
        tape = _record(program, transfers)
        width = -(-points // _ALIGNMENT) * _ALIGNMENT
        memory = np.zeros(tape.registers * width + _ALIGNMENT)
        first = -memory.ctypes.data // memory.itemsize % _ALIGNMENT
        registers = memory[first : first + tape.registers * width].reshape(tape.registers, width)
        row = list(registers)  # whole cache lines: numpy is slower on one element than on eight
        self.durations: Array = registers[: len(program.slots), :points]
        self.transfer: Array = registers[len(program.slots), :points]
        self._calls = [(call, row[a], row[b], row[out]) for call, a, b, out in tape.steps]
        self._result: Array = registers[tape.result, :points]

    def makespan(self) -> Array:
        """Return when the last event is done, at each point [s]; valid until the next call."""
        for call, a, b, out in self._calls:
            call(a, b, out=out)
        return self._result


def makespan(program: Program[K], durations: Array, transfer: Seconds = 0.0, chunk: int = CHUNK) -> Array:
    """Return when the last event of the program is done, at each point [s].

    durations: a row for each of `program.slots`, a column for each point [s]; transfer: one for all or one a point [s].
    """
    if durations.ndim != 2 or len(durations) != len(program.slots):
        raise ValueError(f"durations of shape {durations.shape} for {len(program.slots)} slots")
    points = durations.shape[1]
    transfers = np.broadcast_to(np.asarray(transfer, dtype=np.float64), (points,))
    result = np.empty(points)
    if not points:
        return result
    width = -(-points // -(-points // chunk))  # chunks as equal as can be
    workspace = Workspace(program, width, transfers=bool(transfers.any()))
    for start in range(0, points, width):
        size = min(width, points - start)  # the last chunk may be shorter: what it leaves of the one before is not read
        workspace.durations[:, :size] = durations[:, start : start + size]
        workspace.transfer[:size] = transfers[start : start + size]
        result[start : start + size] = workspace.makespan()[:size]
    return result


@dataclass(frozen=True, slots=True, eq=False)
class _Tape:
    """Instructions over registers: a row for each slot, then the transfer time, then intermediate results."""

    steps: tuple[_Step, ...]
    registers: int
    result: int


class _Wait(NamedTuple):
    """A value that an event waits for: when `event` finishes, or one transfer later."""

    event: int
    transferred: bool


@lru_cache(maxsize=128)
def _record(program: Program[K], transfers: bool) -> _Tape:
    """Return the tape of the program, with transfer times or with none."""
    waits = _necessary_waits(program, transfers)
    readers = Counter(wait for needed in waits for wait in needed)
    finished = {wait.event for wait in readers}
    last = [_Wait(event, False) for event in range(len(waits)) if event not in finished]
    readers.update(last)
    column = {slot: number for number, slot in enumerate(program.slots)}
    recorder = _Recorder(len(column) + 1, readers)
    for index, event in enumerate(program.events):
        recorder.add_event(index, waits[index], column[event.slot])
    result = recorder.reduce(last, None)  # this too may take a register
    return _Tape(tuple(recorder.steps), recorder.registers, result)


def _necessary_waits(program: Program[K], transfers: bool) -> list[list[_Wait]]:
    """Return what each event has to wait for once what the rest implies, for any times >= 0, is left out.

    A stream finishes its events in order, so of several on one stream only the latest matters; one that is waited for
    plainly is implied by the transfer of a later one too, but not the other way round.
    """
    previous: dict[int, int] = {}
    waits: list[list[_Wait]] = []
    for index, event in enumerate(program.events):
        own = (previous[event.stream],) if event.stream in previous else ()
        plain = _latest(program, (*own, *event.after))
        moved = _latest(program, event.receives)
        if not transfers:
            plain, moved = _latest(program, (*plain.values(), *moved.values())), {}
        needed = [_Wait(last, False) for stream, last in plain.items() if last > moved.get(stream, -1)]
        waits.append(needed + [_Wait(last, True) for last in moved.values()])
        previous[event.stream] = index
    return waits


def _latest(program: Program[K], events: Iterable[int]) -> dict[int, int]:
    """Return the last of the events on each stream."""
    return {program.events[event].stream: event for event in sorted(events)}


class _Recorder:
    """Assigns registers and writes steps. A register is free again once its last reader has read it."""

    __slots__ = ("_fixed", "_free", "_readers", "_register", "registers", "steps")

    def __init__(self, fixed: int, readers: Counter[_Wait]) -> None:
        self.steps: list[_Step] = []
        self.registers = fixed  # durations and the transfer time come first and are never written
        self._fixed = fixed
        self._free: list[int] = []
        self._readers = readers
        self._register: dict[_Wait, int] = {}

    def add_event(self, index: int, waits: list[_Wait], duration: int) -> None:
        """Compute when the event finishes, and when its result arrives where somebody waits for that."""
        done, arrived = _Wait(index, False), _Wait(index, True)
        self._register[done] = self.reduce(waits, duration) if waits else duration
        if self._readers[arrived]:
            self._readers[done] += 1
            self._register[arrived] = self.reduce([done], self._fixed - 1)

    def reduce(self, waits: list[_Wait], addend: int | None) -> int:
        """Return a register with the largest of the values, plus that of the register `addend`; each is read once."""
        dying, lasting = list[int](), list[int]()
        for wait in waits:
            self._readers[wait] -= 1
            register = self._register[wait]
            dead = not self._readers[wait] and register >= self._fixed
            (dying if dead else lasting).append(register)
        target = dying[0] if dying else self._allocate()  # in place where possible: one array less in cache
        first, *others = dying + lasting
        for other in others:
            self.steps.append((np.maximum, first, other, target))
            first = target
        if addend is not None:
            self.steps.append((np.add, first, addend, target))
            first = target
        self._free.extend(dying[1:])
        return first

    def _allocate(self) -> int:
        if not self._free:
            self._free.append(self.registers)
            self.registers += 1
        return self._free.pop()  # the one used last is the likeliest to be in cache
