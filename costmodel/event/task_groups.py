"""Operators of a pass gathered into tasks: one for all between two expert all-to-alls, and one for each of these."""

from __future__ import annotations

import heapq
import itertools
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from costmodel.analytic.operator_timing import TimedOperator
from costmodel.analytic.stream_times import BLOCKING, exposed_seconds
from costmodel.workload.operators import (
    AttentionKernel,
    Collective,
    ExpertAllToAll,
    Gemm,
    MixedAttention,
    Operator,
    base_name,
)

COMPUTE, ALL_TO_ALL, COLLECTIVE, H2D, D2H, HOST = (
    "compute", "expert all-to-all", "collectives", "host to device", "device to host", "host",
)  # fmt: skip
"""Names of a device's streams."""

_CLASSES = (
    ("attention", "attention"), ("mla", "attention"), ("moe_dispatch", "dispatch"), ("moe_combine", "combine"),
    ("send_recv", "collective"), ("bmm", "gemm"), ("host", "copy"),
)  # fmt: skip
"""Prefix of a family, and the class of its operators. Other families are their own class."""


class TaskGroup(NamedTuple):
    """Operators that run back to back on one stream.

    seconds: of all of them [s].
    kernels: of `seconds`, without messages [s].
    processor_bound_share: share of `seconds` that shrinks with more processors [-].
    processors: that it takes from kernels.
    wire: of `seconds`, those in which bytes move [s].
    classes: seconds by class of operator [s].
    message: the operator of a group that is a message, null for others.
    imbalance: of `seconds`, what the busiest rank's experts take beyond the mean rank's [s].
    layer: of a stage, counted in the order of its forward pass, where there is such an imbalance.
    """

    name: str
    stream: str
    seconds: float
    kernels: float = 0.0
    processor_bound_share: float = 0.0
    processors: float = 0.0
    wire: float = 0.0
    classes: tuple[tuple[str, float], ...] = ()
    message: TimedOperator | None = None
    imbalance: float = 0.0
    layer: int = 0


_Timed = tuple[TimedOperator, float]  # an operator and its exposed seconds


def task_groups(
    operators: Sequence[TimedOperator], name: str, processors: float = 0.0, *, split_collectives: bool = False
) -> list[TaskGroup]:
    """Return the groups of one layer's pass, in order.

    name: of a group without a name of its own.
    processors: that expert all-to-alls take.
    split_collectives: collectives that kernels wait for are groups of their own. Messages count with their exposed
    time, as in the closed form.
    """
    groups: list[TaskGroup] = []
    timed = [(operator, float(seconds)) for operator, seconds in exposed_seconds(operators, None)]

    def stream_of(item: _Timed) -> str | None:
        """Return the stream of a message that is a group of its own, null for all else."""
        if isinstance(item[0].operator, ExpertAllToAll):
            return ALL_TO_ALL
        return COMPUTE if split_collectives and isinstance(item[0].operator, Collective) else None

    for stream, run in itertools.groupby(timed, stream_of):
        if stream is None:
            groups.append(_computation(list(run), name))
        else:
            taken = processors if stream == ALL_TO_ALL else 0.0
            groups.extend(_message(operator, seconds, stream, taken) for operator, seconds in run)
    return [group for group in groups if group.seconds > 0]


def _message(timed: TimedOperator, seconds: float, stream: str, processors: float) -> TaskGroup:
    return TaskGroup(
        base_name(timed.operator.name), stream, seconds, processors=processors, wire=wire_seconds(timed, seconds),
        classes=_classes([(timed, seconds)]), message=timed,
    )  # fmt: skip


def _computation(run: Sequence[_Timed], name: str) -> TaskGroup:
    seconds = sum(time for _, time in run)
    kernels = sum(time for timed, time in run if not isinstance(timed.operator, BLOCKING))
    bound = sum(time for timed, time in run if timed.time.bound == "compute")
    return TaskGroup(
        _title(run, name), COMPUTE, seconds, kernels, bound / seconds if seconds else 0.0, classes=_classes(run),
        imbalance=sum(time * _imbalance(timed.operator) for timed, time in run),
    )  # fmt: skip


def _imbalance(operator: Operator) -> float:
    """Return the share of an operator's time that the busiest rank takes beyond the mean one."""
    return 1.0 - 1.0 / float(operator.expert_load) if isinstance(operator, Gemm) else 0.0


def merged(groups: Iterable[TaskGroup], name: str) -> list[TaskGroup]:
    """Return groups of one stream as a single one, none where there is nothing to do."""
    listed = list(groups)
    seconds = sum(group.seconds for group in listed)
    if not seconds:
        return []
    share = sum(group.seconds * group.processor_bound_share for group in listed) / seconds
    times: dict[str, float] = defaultdict(float)
    for group in listed:
        for kind, time in group.classes:
            times[kind] += time
    kernels = sum(group.kernels for group in listed)
    imbalance = sum(group.imbalance for group in listed)
    return [
        TaskGroup(name, listed[0].stream, seconds, kernels, share, classes=tuple(times.items()), imbalance=imbalance)
    ]


def wire_seconds(timed: TimedOperator, seconds: float) -> float:
    """Return the part of an operator's exposed `seconds` in which bytes move [s]."""
    total = float(timed.time.seconds)
    return seconds * float(timed.time.network) / total if total else 0.0


def _classes(run: Sequence[_Timed]) -> tuple[tuple[str, float], ...]:
    """Return the seconds of each class of operators, by which measured traces are compared [s]."""
    times: dict[str, float] = defaultdict(float)
    for timed, seconds in run:
        family = timed.operator.family
        times[next((name for prefix, name in _CLASSES if family.startswith(prefix)), family)] += seconds
    return tuple((name, seconds) for name, seconds in times.items() if seconds)


def _title(run: Sequence[_Timed], name: str) -> str:
    """Return the name of a run of operators: attention, experts, or that of its longest operator."""
    if any(isinstance(timed.operator, AttentionKernel | MixedAttention) for timed, _ in run):
        return "attention"
    if any(isinstance(timed.operator, Gemm) and timed.operator.is_of_experts for timed, _ in run):
        return "experts"
    times: dict[str, float] = defaultdict(float)
    for timed, seconds in run:
        times[base_name(timed.operator.name)] += seconds
    return max(times, key=lambda title: times[title]) if times else name


# ---- The order in which a device's program launches the tasks of an overlapped pair: fixed before the run, as on a
# GPU.

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
