"""Messages and copies of a pass that meet on a device's link to its host or on its NIC: how much longer both take.

    t = fixed + wire + sum over others of (1 - r) * m                                       [docs/method.md, 12.9]

m: time in which the other one moves its bytes meanwhile, r: speed while both do, of `link_shares.paired_speeds`. Times
and meetings depend on each other, so that the pass is laid out again until they agree. Limits: nothing is lost where
they never meet; where the other one runs all along, t = fixed + wire/r; the longer of a long and a short one loses
(1 - r)/r of the short one's wire time, so that the link's work is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from costmodel.analytic.recurrence import Program
from costmodel.analytic.recurrence.program import K
from costmodel.network.link_shares import SHARED, Shares, paired_speeds
from costmodel.quantities import Array, Indices, Quantity

ROUNDS = 300  # a pass in which nothing stands still agrees to TOLERANCE after about ten
TOLERANCE = 1e-7  # of the pass
STANDSTILL, GROWTH = 1e-3, 4.0  # of what stands still a round only tells that it takes longer, not how much


@dataclass(frozen=True, slots=True, eq=False)
class Moving:
    """What moves bytes in a slot: seconds of that among the slot's own, and shares of links while it runs alone.

    wire: share of the slot's seconds [-]; is_copy: to or from the host; all else are messages.
    """

    wire: Quantity
    shares: Shares
    is_copy: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """When the events of a program start and finish, and how long they take with what they share, (events, points)."""

    start: Array
    finish: Array
    seconds: Array

    @property
    def span(self) -> Array:
        """Return when the last event is done [s]."""
        return np.asarray(self.finish.max(axis=0))


def meets(first: Moving, second: Moving, policy: str) -> tuple[Quantity, Quantity]:
    """Return the speeds of two that run at the same time. Messages among each other share alike."""
    if first.is_copy and not second.is_copy:
        speeds = paired_speeds(second.shares, first.shares, policy)
        return speeds[1], speeds[0]
    return paired_speeds(first.shares, second.shares, policy if second.is_copy else SHARED)


def laid_out(program: Program[K], seconds: Array) -> Layout:
    """Return when each event runs; seconds: of each event, (events, points)."""
    events, points = seconds.shape
    finish = np.zeros((events + 1, points))  # the last row stands for no event
    last: dict[int, int] = {}  # by stream
    start = np.empty_like(seconds)
    for event, (stream, needs) in enumerate(zip(program.stream.tolist(), program.after.T.tolist(), strict=True)):
        start[event] = finish[[last.get(stream, -1), *needs]].max(axis=0)
        np.add(start[event], seconds[event], out=finish[event])
        last[stream] = event
    return Layout(start, finish[:-1], seconds)


@dataclass(frozen=True, slots=True, eq=False)
class _Group:
    """Events of one slot: their positions, what they move, and the slots on other streams that they may meet."""

    events: Indices
    moving: Moving
    others: tuple[tuple[Indices, Array], ...] = field(default=())  # (events of a stream, what is lost beside each)


def shared_layout(
    program: Program[K], durations: Array, moving: Sequence[Moving | None], policy: str, beside: frozenset[int]
) -> Layout:
    """Return when each event of a pass runs where messages and copies slow each other down.

    durations: a row for each of the program's slots, as each takes alone [s]; moving: what each slot moves, or null;
    beside: streams whose messages share links with those of others, too, as a transfer between pools does.
    """
    alone = durations[program.slot]
    wire = np.zeros_like(alone)
    for slot, item in enumerate(moving):
        if item is not None:
            wire[program.slot == slot] = durations[slot] * item.wire
    fixed, groups = alone - wire, list(_groups(program, moving, policy, beside, alone.shape[1]))
    layout = laid_out(program, alone)
    for _ in range(ROUNDS if groups else 0):
        begins, seconds = layout.start + fixed, alone.copy()
        for group in groups:
            own = group.events
            seconds[own] = fixed[own] + _slowed(group, wire[own], begins, layout.finish)
        change = np.abs(seconds - layout.seconds).max(initial=0.0)
        layout = laid_out(program, seconds)
        if change <= TOLERANCE * layout.finish.max():
            break
    return layout


def _groups(
    program: Program[K], moving: Sequence[Moving | None], policy: str, beside: frozenset[int], points: int
) -> Iterator[_Group]:
    """Yield the events that lose time beside others."""
    streams = [int(program.stream[program.slot == slot][0]) for slot in range(len(moving))]
    for slot, item in enumerate(moving):
        if item is None:
            continue
        by_stream = []
        for stream in sorted(set(streams) - {streams[slot]}):
            events = np.flatnonzero(program.stream == stream)
            lost = np.zeros((len(events), points))
            for number, other in enumerate(moving):
                if other is None or streams[number] != stream:
                    continue
                if item.is_copy or other.is_copy or {stream, streams[slot]} & beside:
                    lost[program.slot[events] == number] = 1.0 - meets(item, other, policy)[0]
            used = lost.any(axis=1)
            if used.any():
                by_stream.append((events[used], lost[used]))
        if by_stream:
            yield _Group(np.flatnonzero(program.slot == slot), item, tuple(by_stream))


def _slowed(group: _Group, wire: Array, begins: Array, finish: Array) -> Array:
    """Return how long the bytes of a group's events take beside what meets them [s].

    Several others at once slow it as the one of them that slows it most, at most.
    """
    own = group.events
    length = finish[own] - begins[own]
    lost, covered, most = np.zeros_like(wire), np.zeros(wire.shape, bool), np.zeros_like(wire)
    for events, loss in group.others:
        met, share = _met(begins[own], finish[own], begins[events], finish[events], loss)
        lost, covered, most = lost + met, covered | share, np.maximum(most, loss.max(axis=0))
    lost = np.minimum(lost, most * length)
    mean = np.divide(lost, length, out=np.zeros_like(lost), where=length > 0)
    under_way = np.where(1.0 - mean > STANDSTILL, wire / np.maximum(1.0 - mean, STANDSTILL), GROWTH * length)
    return np.where(covered, under_way, wire + lost)


def _met(begin: Array, end: Array, begins: Array, ends: Array, loss: Array) -> tuple[Array, Array]:
    """Return what events lose beside those of a stream [s], and whether those cover them."""
    lost, covered = np.empty_like(begin), np.empty(begin.shape, bool)
    for point in range(begin.shape[1]):
        times = np.stack([begins[:, point], ends[:, point]], axis=1).ravel()
        busy = ends[:, point] - begins[:, point]
        for result, slope in ((lost, loss[:, point]), (covered, 1.0)):
            total = np.repeat(np.concatenate([[0.0], np.cumsum(busy * slope)]), 2)[1:-1]
            met = np.interp(end[:, point], times, total) - np.interp(begin[:, point], times, total)
            length = end[:, point] - begin[:, point]
            result[:, point] = met if result is lost else met >= length * (1.0 - 1e-9)
    return lost, covered
