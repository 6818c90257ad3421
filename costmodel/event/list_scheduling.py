"""The order in which a device's program launches the tasks of an overlapped pair: fixed before the run, as on a GPU."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import NamedTuple

from costmodel.event.task_groups import TaskGroup

FILLER = -1  # chunk of a task that nothing waits for: it runs when no other is ready


class ActionTask(NamedTuple):
    """A task of an action.

    after: positions, in the action's list, of the tasks that it waits for
    chunk: 0 or 1 of an overlapped pair, or `FILLER`
    is_async: the action may finish before this task
    after_async: it starts once earlier asynchronous tasks on the rank have finished
    """

    group: TaskGroup
    after: tuple[int, ...] = ()
    chunk: int = 0
    is_async: bool = False
    after_async: bool = False


def chain(groups: Sequence[TaskGroup]) -> list[ActionTask]:
    """Return tasks that follow one another."""
    return [ActionTask(group, (number - 1,) if number else ()) for number, group in enumerate(groups)]


def list_schedule(tasks: Sequence[ActionTask]) -> list[ActionTask]:
    """Return the tasks of chunks 0 and 1 in the order in which each stream runs them.

    List scheduling: a free stream takes, of the ready tasks, the one with the longest path to the end [Graham, SIAM J.
    Appl. Math. 17, 1969; Hu, Operations Research 9, 1961], or one of the chunk that has priority. The shortest of these
    three orders is used. Weight gradients fill what is left.
    """
    followers: list[list[int]] = [[] for _ in tasks]
    for number, task in enumerate(tasks):
        for needed in task.after:
            followers[needed].append(number)
    path = [0.0] * len(tasks)
    for number in reversed(range(len(tasks))):
        path[number] = tasks[number].group.seconds + max(
            (path[follower] for follower in followers[number]), default=0.0
        )
    orders = []
    for first in (None, 0, 1):
        ranks = [_rank(task.chunk, first) for task in tasks]
        keys = [(rank, -length, number) for number, (rank, length) in enumerate(zip(ranks, path, strict=True))]
        orders.append(_schedule(tasks, followers, keys))
    _, order = min(orders)
    position = {number: index for index, number in enumerate(order)}
    return [
        ActionTask(tasks[number].group, tuple(position[needed] for needed in tasks[number].after), tasks[number].chunk)
        for number in order
    ]


def _rank(chunk: int, first: int | None) -> int:
    """Return the rank of a chunk: 0 for the one with priority, or for both. Fillers come last."""
    if chunk == FILLER:
        return 2
    return 0 if first is None or chunk == first else 1


def _schedule(
    tasks: Sequence[ActionTask], followers: Sequence[Sequence[int]], keys: Sequence[tuple[int, float, int]]
) -> tuple[float, list[int]]:
    """Return when the last task ends if each stream takes the smallest key of the ready ones, and the order."""
    missing = [len(task.after) for task in tasks]
    ready: dict[str, list[tuple[int, float, int]]] = {task.group.stream: [] for task in tasks}
    for number, count in enumerate(missing):
        if not count:
            heapq.heappush(ready[tasks[number].group.stream], keys[number])
    order: list[int] = []
    running: list[tuple[float, int]] = []
    busy: set[str] = set()
    now = 0.0
    while len(order) < len(tasks) or running:
        for stream, waiting in ready.items():
            if waiting and stream not in busy:
                *_, number = heapq.heappop(waiting)
                order.append(number)
                busy.add(stream)
                heapq.heappush(running, (now + tasks[number].group.seconds, number))
        now, ended = heapq.heappop(running)
        busy.discard(tasks[ended].group.stream)
        for follower in followers[ended]:
            missing[follower] -= 1
            if not missing[follower]:
                heapq.heappush(ready[tasks[follower].group.stream], keys[follower])
    return now, order
