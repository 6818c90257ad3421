"""Messages and copies of a pass that meet on a device's link to its host or on its NIC: how much longer both take.

Beside copies, kernels that exchanges slow are laid out with them: their speed is 1/slowdown while an exchange runs.

    t = fixed + wire + sum over others of (1 - r) * m                                       [docs/method.md, 12.9]

m: time in which the other one moves its bytes meanwhile, r: speed while both do, of `link_shares.paired_speeds`. Times
and meetings depend on each other, so that the pass is laid out again until they agree. Limits: nothing is lost where
they never meet. Where the other one runs all along, t = fixed + wire/r. The longer of a long and a short one loses (1 -
r)/r of the short one's wire time, so that the link's work is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from costmodel.analytic.recurrence import Program
from costmodel.analytic.recurrence.program import K
from costmodel.network.link_shares import SHARED, Shares, paired_speeds
from costmodel.quantities import Array, Indices, Quantity
from costmodel.records import Record

ROUNDS = 300  # a pass in which nothing stands still agrees to TOLERANCE after about ten
TOLERANCE = 1e-7  # of the pass
STANDSTILL, GROWTH = 1e-3, 4.0  # of what stands still a round only tells that it takes longer, not how much


class Moving(Record):
    """What moves bytes in a slot: seconds of that among the slot's own, and shares of links while it runs alone.

    wire: share of the slot's seconds [-].
    is_copy: to or from the host. All else are messages.
    """

    wire: Quantity
    shares: Shares
    is_copy: bool = False

    def over(self, shape: tuple[int, ...]) -> Moving:
        """Return the same point by point of a grid."""
        shares = {link: _points(share, shape) for link, share in self.shares.items()}
        return Moving(_points(self.wire, shape), shares, self.is_copy)


class Layout(Record):
    """When the events of a program start and finish, and how long they take with what they share, (events, points)."""

    start: Array
    finish: Array
    seconds: Array

    @property
    def span(self) -> Array:
        """Return when the last event is done [s]."""
        return np.asarray(self.finish.max(axis=0))


def _points(value: Quantity, shape: tuple[int, ...]) -> Array:
    return np.broadcast_to(np.asarray(value, dtype=np.float64), shape).reshape(-1)


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


class _Met(NamedTuple):
    """Events of a stream that slow others.

    loss: what these lose beside each.
    whole: during all of it, not only while it moves its bytes.
    """

    events: Indices
    loss: Array
    whole: bool = False


class _Group(NamedTuple):
    """Events of one slot, and what they meet on other streams."""

    events: Indices
    others: tuple[_Met, ...]


class Meetings(Record):
    """What runs beside what.

    moving: what each slot moves, or null.
    policy: who gives way on the link to the host.
    beside: streams whose messages share links with those of others, too, as a transfer between pools does
    slowed, slowing: streams of kernels and of the exchanges beside which they take `slowdown` times as long
    """

    moving: Sequence[Moving | None]
    policy: str = SHARED
    beside: frozenset[int] = frozenset()
    slowed: int = 0
    slowing: int = 1
    slowdown: Quantity = 1.0

    def groups(self, program: Program[K], points: int) -> Iterator[_Group]:
        """Yield the events that lose time beside others."""
        streams = [int(program.stream[program.slot == slot][0]) for slot in range(len(self.moving))]
        for slot, item in enumerate(self.moving):
            if item is not None:
                others = tuple(self._on_links(program, streams, slot, points))
            else:
                others = tuple(self._exchanges(program, points)) if streams[slot] == self.slowed else ()
            if others:
                yield _Group(np.flatnonzero(program.slot == slot), others)

    def _on_links(self, program: Program[K], streams: Sequence[int], slot: int, points: int) -> Iterator[_Met]:
        """Yield what a message or copy meets on other streams."""
        item = self.moving[slot]
        assert item is not None, "it moves something"
        for stream in sorted(set(streams) - {streams[slot]}):
            events = np.flatnonzero(program.stream == stream)
            lost = np.zeros((len(events), points))
            for number, other in enumerate(self.moving):
                if other is None or streams[number] != stream:
                    continue
                if item.is_copy or other.is_copy or {stream, streams[slot]} & self.beside:
                    lost[program.slot[events] == number] = 1.0 - meets(item, other, self.policy)[0]
            used = lost.any(axis=1)
            if used.any():
                yield _Met(events[used], lost[used])

    def _exchanges(self, program: Program[K], points: int) -> Iterator[_Met]:
        """Yield the exchanges that slow kernels, as long as they last."""
        events = np.flatnonzero(program.stream == self.slowing)
        if len(events) and np.any(np.greater(self.slowdown, 1.0)):
            loss = np.broadcast_to(1.0 - 1.0 / np.asarray(self.slowdown), (points,))
            yield _Met(events, np.tile(loss, (len(events), 1)), whole=True)


def shared_layout(program: Program[K], durations: Array, meetings: Meetings) -> Layout:
    """Return when each event of a pass runs where messages, copies and kernels slow each other down.

    durations: a row for each of the program's slots, as each takes alone [s].
    """
    alone = durations[program.slot]
    wire = alone.copy()  # kernels are slowed all along
    for slot, item in enumerate(meetings.moving):
        if item is not None:
            wire[program.slot == slot] = durations[slot] * item.wire
    fixed, groups = alone - wire, list(meetings.groups(program, alone.shape[1]))
    layout = laid_out(program, alone)
    settled = np.zeros(alone.shape[1], bool)  # point by point: a grid has what its points have
    for _ in range(ROUNDS if groups else 0):
        seconds = alone.copy()
        for group in groups:
            own = group.events
            seconds[own] = fixed[own] + _slowed(group, wire[own], fixed, layout)
        seconds = np.where(settled, layout.seconds, seconds)
        settled |= np.abs(seconds - layout.seconds).max(axis=0) <= TOLERANCE * layout.span
        layout = laid_out(program, seconds)
        if settled.all():
            break
    return layout


def _slowed(group: _Group, wire: Array, fixed: Array, layout: Layout) -> Array:
    """Return how long the bytes, or the work, of a group's events take beside what meets them [s].

    Several others at once slow it as the one of them that slows it most, at most.
    """
    own = group.events
    begin, end = layout.start[own] + fixed[own], layout.finish[own]
    length = end - begin
    lost, covered, most = np.zeros_like(wire), np.zeros(wire.shape, bool), np.zeros_like(wire)
    for events, loss, whole in group.others:
        begins = layout.start[events] if whole else layout.start[events] + fixed[events]
        met, share = _met(begin, end, begins, layout.finish[events], loss)
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
