"""The recurrence as a tape: in-place `maximum` and `add` over registers, each an array of points.

Recorded once and replayed for every chunk of points. Waits that others imply are dropped, and registers are reused to
stay in cache.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Generic, NamedTuple, TypeAlias

import numpy as np

from costmodel.analytic.recurrence.paths import Paths, longest_path, makespan_at, makespan_by_paths
from costmodel.analytic.recurrence.program import (
    NOTHING,
    K,
    Program,
    Waves,
    events_before,
    makespan_by_waves,
    points_together,
    started,
)
from costmodel.equations import equation, equation_with
from costmodel.quantities import Array, Indices, Seconds
from costmodel.records import Record

_Step: TypeAlias = "tuple[np.ufunc, int, int, int]"  # register `out` becomes call(a, b): the maximum or the sum
_ALIGNMENT = 8  # floats in a cache line


class Workspace(Generic[K]):
    """Memory to evaluate one program for `points` points at a time, again and again.

    Fill `durations` (a row for each of `program.slots`, a column for each point) and `transfer` [s], call `makespan`.
    Without `transfers` results arrive at once, and `transfer` is not read. One workspace serves one thread.
    """

    __slots__ = ("_calls", "_result", "durations", "transfer")

    def __init__(self, program: Program[K], points: int, *, transfers: bool) -> None:
        tape = _record(program, transfers=transfers)
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
        """Return when the last event is done, at each point [s]. Valid until the next call."""
        for call, a, b, out in self._calls:
            call(a, b, out=out)
        return self._result


class _Tape(Record):
    """Instructions over registers: a row for each slot, then the transfer time, then intermediate results."""

    steps: tuple[_Step, ...]
    registers: int
    result: int


class _Wait(NamedTuple):
    """A value that an event waits for: when `event` finishes, or one transfer later."""

    event: int
    transferred: bool


@lru_cache(maxsize=32)
def _record(program: Program[K], *, transfers: bool) -> _Tape:
    """Return the tape of the program, with transfer times or with none."""
    waits = _necessary_waits(program, transfers=transfers)
    readers = Counter(wait for needed in waits for wait in needed)
    finished = {wait.event for wait in readers}
    last = [_Wait(event, transferred=False) for event in range(len(waits)) if event not in finished]
    readers.update(last)
    recorder = _Recorder(len(program.slots) + 1, readers)
    for index, slot in enumerate(program.slot.tolist()):
        recorder.add_event(index, waits[index], slot)
    result = recorder.reduce(last, None)  # this too may take a register
    return _Tape(tuple(recorder.steps), recorder.registers, result)


def _necessary_waits(program: Program[K], *, transfers: bool) -> list[list[_Wait]]:
    """Return what each event has to wait for once what the rest implies, for any times >= 0, is left out.

    A stream finishes its events in order, so of several on one stream only the latest matters. One that is waited for
    plainly is implied by the transfer of a later one too, but not the other way round.
    """
    streams = program.stream.tolist()
    after, receives = _listed(program.after, len(streams)), _listed(program.receives, len(streams))
    previous: dict[int, int] = {}
    waits: list[list[_Wait]] = []
    for index, stream in enumerate(streams):
        own = [previous[stream]] if stream in previous else []
        plain = {streams[event]: event for event in sorted([*own, *after[index]])}
        moved = {streams[event]: event for event in sorted(receives[index])}
        if not transfers:
            plain, moved = {streams[event]: event for event in sorted([*plain.values(), *moved.values()])}, {}
        needed = [_Wait(last, transferred=False) for stream, last in plain.items() if last > moved.get(stream, NOTHING)]
        waits.append(needed + [_Wait(last, transferred=True) for last in moved.values()])
        previous[stream] = index
    return waits


def _listed(rows: Indices, events: int) -> list[list[int]]:
    """Return what each event waits for."""
    waits: list[list[int]] = [[] for _ in range(events)]
    for row in rows.tolist():
        for event, needed in enumerate(row):
            if needed != NOTHING:
                waits[event].append(needed)
    return waits


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
        done, arrived = _Wait(index, transferred=False), _Wait(index, transferred=True)
        self._register[done] = self.reduce(waits, duration) if waits else duration
        if self._readers[arrived]:
            self._readers[done] += 1
            self._register[arrived] = self.reduce([done], self._fixed - 1)

    def reduce(self, waits: list[_Wait], addend: int | None) -> int:
        """Return a register with the largest of the values, plus that of the register `addend`. Each is read once."""
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


# ---- When the last event of a program is done, at any number of points -----------------------------------------------

CHUNK = 4096  # points evaluated together: enough to hide numpy's cost per call, few enough for a second-level cache
FEW = 64  # points that are evaluated sooner wave by wave than a tape is recorded


def _longest(names: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the events of each slot on the longest path, and the transfers on it, at a single point."""
    if names["durations"].shape[1] != 1:
        return {}
    *on_path, sends = longest_path(names["program"], [*names["durations"][:, 0], names["transfer"][0]])[0]
    return {"on_path": on_path, "sends": sends}


@equation
def makespan(
    program: Program[K], durations: Array, transfer: Seconds = 0.0, chunk: int = CHUNK, known: Paths | None = None
) -> Array:
    """Return when the last event of the program is done, at each point [s].

        span = max(shorter + periods * (longer - shorter), busiest)      of many micro-batches: two steps of fewer

    durations: a row for each of `program.slots`, a column for each point [s].
    transfer: one for all or one a point [s].
    known: longest paths of programs, to which those of this one are added.
    """
    if durations.ndim != 2 or len(durations) != len(program.slots):
        raise ValueError(f"durations of shape {durations.shape} for {len(program.slots)} slots")
    if program.steady is not None:
        *parts, periods = program.steady
        shorter, longer = (makespan(part, durations, transfer, chunk, known) for part in parts)
        busiest = np.max(program.counts @ durations, axis=0)  # of a rank that only ever works: no step is shorter
        return np.asarray(np.maximum(shorter + periods * (longer - shorter), busiest))
    transfers = np.broadcast_to(np.asarray(transfer, dtype=np.float64), durations.shape[1:])
    return _own_span(program, durations, transfers, chunk, known)


@equation_with(_longest)
def _own_span(program: Program[K], durations: Array, transfer: Array, chunk: int, known: Paths | None) -> Array:
    """Return when the last event is done of a program that stands for itself, at each point [s].

        span = sum(on_path * durations) + sends * transfer      on_path: events of each slot on the longest path
        shorter = sum(on_path * durations) + sends * transfer
        longer = sum(on_path * durations) + sends * transfer

    An event starts when those end that it waits for, of other ranks a transfer later.
    """
    points = durations.shape[1]
    if not points:
        return np.empty(0)
    if points == 1 and np.isfinite(durations).all():
        return np.array([makespan_at(program, [*durations[:, 0].tolist(), transfer.item()])])
    if program.waves is not None and points <= FEW:
        return makespan_by_waves(program.waves, program.slot, durations, transfer)
    result = makespan_by_paths(program, durations, transfer, {} if known is None else known)
    left = np.flatnonzero(np.isnan(result))
    if len(left):
        some = slice(None) if len(left) == points else left
        result[some] = _by_tape(program, durations[:, some], transfer[some], chunk)
    return result


def _by_tape(program: Program[K], durations: Array, transfers: Array, chunk: int) -> Array:
    """Return when the last event is done, at each point [s], from a tape. transfers: one a point [s]."""
    points = durations.shape[1]
    result = np.empty(points)
    width = -(-points // -(-points // chunk))  # chunks as equal as can be
    workspace = Workspace(program, width, transfers=bool(transfers.any()))
    for start in range(0, points, width):
        size = min(width, points - start)  # the last chunk may be shorter: what it leaves of the one before is not read
        workspace.durations[:, :size] = durations[:, start : start + size]
        workspace.transfer[:size] = transfers[start : start + size]
        result[start : start + size] = workspace.makespan()[:size]
    return result


# ---- The recurrence with reductions that run on during the actions that follow them, one at a time on each stream ----
#
# start(e)  = as without
#     wait(e)   = max(start(e) + head(e), free)
#     finish(e) = wait(e) + rest(e)
#     free      = finish(e) + trail(e)         of the action before e on its stream that reduces, never without one
#
# An action that reduces nothing has a head only. Found wave by wave, at any number of points.

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
