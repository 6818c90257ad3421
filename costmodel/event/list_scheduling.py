"""In which order a device's program issues the tasks of two chunks that overlap: fixed before the run, as on a GPU."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import NamedTuple

from costmodel.event.task_groups import TaskGroup

FILLER = -1  # of a part that nothing waits for: it runs when no other is ready


class ActionTask(NamedTuple):
    """A part of an action.

    after: positions, in the action's list, of the parts that it waits for; chunk: its own; runs_on: the action does not
    wait for its end; follows: it waits for what still runs of earlier actions of its rank.
    """

    part: TaskGroup
    after: tuple[int, ...] = ()
    chunk: int = 0
    is_async: bool = False
    after_async: bool = False


def chain(parts: Sequence[TaskGroup]) -> list[ActionTask]:
    """Return parts that follow one another."""
    return [ActionTask(part, (number - 1,) if number else ()) for number, part in enumerate(parts)]


def interleaved(work: Sequence[ActionTask]) -> list[ActionTask]:
    """Return the parts of chunks 0 and 1 in the order in which each stream takes them up.

    List scheduling: a stream that is free takes, of the parts that are ready, the one with the longest way to the end
    [Graham, SIAM J. Appl. Math. 17, 1969; Hu, Operations Research 9, 1961], or one of the chunk that goes first; of
    these three orders the shortest stands. Weight gradients fill what is left.
    """
    followers: list[list[int]] = [[] for _ in work]
    for number, local in enumerate(work):
        for needed in local.after:
            followers[needed].append(number)
    way = [0.0] * len(work)
    for number in reversed(range(len(work))):
        way[number] = work[number].part.seconds + max((way[each] for each in followers[number]), default=0.0)
    orders = []
    for first in (None, 0, 1):
        ranks = [_rank(local.chunk, first) for local in work]
        keys = [(rank, -length, number) for number, (rank, length) in enumerate(zip(ranks, way, strict=True))]
        orders.append(_listed(work, followers, keys))
    _, order = min(orders)
    place = {number: position for position, number in enumerate(order)}
    return [
        ActionTask(work[number].part, tuple(place[each] for each in work[number].after), work[number].chunk)
        for number in order
    ]


def _rank(chunk: int, first: int | None) -> int:
    """Return the turn of a chunk: 0 for the one that goes first, or for both; fillers come last."""
    if chunk == FILLER:
        return 2
    return 0 if first is None or chunk == first else 1


def _listed(
    work: Sequence[ActionTask], followers: Sequence[Sequence[int]], keys: Sequence[tuple[int, float, int]]
) -> tuple[float, list[int]]:
    """Return when the last part ends if each stream takes the smallest key of those that are ready, and the order."""
    missing = [len(local.after) for local in work]
    ready: dict[str, list[tuple[int, float, int]]] = {local.part.stream: [] for local in work}
    for number, count in enumerate(missing):
        if not count:
            heapq.heappush(ready[work[number].part.stream], keys[number])
    order: list[int] = []
    running: list[tuple[float, int]] = []
    busy: set[str] = set()
    now = 0.0
    while len(order) < len(work) or running:
        for stream, waiting in ready.items():
            if waiting and stream not in busy:
                *_, number = heapq.heappop(waiting)
                order.append(number)
                busy.add(stream)
                heapq.heappush(running, (now + work[number].part.seconds, number))
        now, ended = heapq.heappop(running)
        busy.discard(work[ended].part.stream)
        for follower in followers[ended]:
            missing[follower] -= 1
            if not missing[follower]:
                heapq.heappush(ready[work[follower].part.stream], keys[follower])
    return now, order
