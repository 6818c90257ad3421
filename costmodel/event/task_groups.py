"""Operators of a pass gathered into tasks: one for all between two expert all-to-alls, and one for each of these."""

from __future__ import annotations

import heapq
import itertools
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from costmodel.analytic.operator_timing import TimedOperator
from costmodel.analytic.recurrence.program import Slot
from costmodel.analytic.stream_times import BLOCKING, exposed_seconds, seconds_of
from costmodel.analytic.training import layer_overlap
from costmodel.analytic.training.layer_overlap import LayerPart, async_reduce_order, layer_order
from costmodel.analytic.training.overlapped_comm import OverlappedComm, PartOperator, Works
from costmodel.analytic.training.step_model import StepModel
from costmodel.analytic.training.step_times import StepStreams, lone_stage
from costmodel.workload.operators import (
    AttentionKernel,
    Collective,
    ExpertAllToAll,
    Gemm,
    MixedAttention,
    Operator,
    base_name,
)
from costmodel.workload.scenario import Scenario
from costmodel.workload.schedules.schedule import Kind

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


EXPERT, EXPERTS_GRADIENT = "expert ", "experts gradient"
EXPERT_WEIGHTS, WEIGHTS = "expert weight gradients", "weight gradients"


class ActionTasks:
    """The tasks of actions, built once for each slot."""

    def __init__(self, scenario: Scenario, step: StepModel, streams: StepStreams, *, split_collectives: bool) -> None:
        self._step, self._streams, self._split = step, streams, split_collectives
        self._processors = float(scenario.communication.processors)
        self._known: dict[Slot, list[ActionTask]] = {}

    def of(self, slot: Slot) -> list[ActionTask]:
        """Return the tasks of an action."""
        if slot not in self._known:
            is_pair = slot.forward is not None and slot.backward is not None
            tasks = self._pair(slot) if is_pair else self._lone(slot)
            backward = Kind.BACKWARD if slot.kind is Kind.FORWARD_BACKWARD else slot.kind
            launches = float(self._step.launch_time) * sum(
                float(self._streams.stages[label].of(kind).launches)
                for label, kind in ((slot.forward, Kind.FORWARD), (slot.backward, backward))
                if label is not None
            )
            if launches:
                tasks.append(ActionTask(TaskGroup("kernel launches", HOST, launches)))
            self._known[slot] = tasks
        return self._known[slot]

    def _lone(self, slot: Slot) -> list[ActionTask]:
        comm, label = self._step.overlapped_comm, lone_stage(slot)
        layers = self._layers(label, slot.kind)
        if comm is None:
            return chain([group for layer in layers for group in layer])
        return overlapped_pass(comm, self._step.works_of(label), slot.kind, layers)

    def _layers(self, label: int, kind: Kind) -> list[list[TaskGroup]]:
        """Return the groups of each layer of a stage, in the order of the pass."""
        works = self._step.works_of(label)
        layers = []
        for count, work in works if kind is Kind.FORWARD else reversed(works):
            timed = self._step.timed_works[work.name]
            groups: list[TaskGroup] = []
            if kind is Kind.FORWARD:
                groups += self._groups(timed.forward, work.name)
            if kind in (Kind.BACKWARD, Kind.BACKWARD_INPUT):
                gradients = self._groups(timed.input_gradient, work.name)
                groups += [group._replace(name=_gradient(group.name)) for group in gradients]
            if kind in (Kind.BACKWARD, Kind.BACKWARD_WEIGHT):
                groups += self._weight_gradients(timed.weight_gradient, work.name)
            layers.extend([groups] * count)
        numbers = range(len(layers)) if kind is Kind.FORWARD else reversed(range(len(layers)))
        return [
            [group._replace(layer=number) if group.imbalance else group for group in groups]
            for number, groups in zip(numbers, layers, strict=True)
        ]

    def _groups(self, operators: Sequence[TimedOperator], name: str) -> list[TaskGroup]:
        return task_groups(operators, name, self._processors, split_collectives=self._split)

    def _weight_gradients(self, operators: Sequence[TimedOperator], name: str) -> list[TaskGroup]:
        """Return the weight gradients of routed experts, whose inputs are ready first, and all others."""
        experts = [timed for timed in operators if base_name(timed.operator.name).startswith(EXPERT)]
        others = [timed for timed in operators if timed not in experts]
        return [*merged(self._groups(experts, name), EXPERT_WEIGHTS), *merged(self._groups(others, name), WEIGHTS)]

    def _pair(self, slot: Slot) -> list[ActionTask]:
        """Return the forward pass of a chunk and the backward pass of another one, overlapped."""
        assert slot.forward is not None, "a pair has a chunk each way"
        assert slot.backward is not None, "a pair has a chunk each way"
        tasks = chain([group for layer in self._layers(slot.forward, Kind.FORWARD) for group in layer])
        last: tuple[int, ...] = ()
        for layer in self._layers(slot.backward, Kind.BACKWARD):
            weights = [group for group in layer if group.name in (EXPERT_WEIGHTS, WEIGHTS)]
            ready: dict[str, tuple[int, ...]] = {}
            for group in (group for group in layer if group not in weights):
                tasks.append(ActionTask(group, last, 1))
                last = ready[group.name] = (len(tasks) - 1,)
            experts_ready = ready.get(EXPERTS_GRADIENT, last)
            tasks += [
                ActionTask(group, experts_ready if group.name == EXPERT_WEIGHTS else last, FILLER) for group in weights
            ]
        comm = self._step.overlapped_comm
        if comm is not None:
            operators = comm.of_pair(self._step.works_of(slot.forward), self._step.works_of(slot.backward))
            tasks += [ActionTask(overlapped_group(comm, part, timed, count)) for part, count, timed in operators]
        return list_schedule([task for task in tasks if task.group.seconds > 0])


def _gradient(name: str) -> str:
    return name if "gradient" in name else f"{name} gradient"


# ---- Lone passes of a training step with overlapped communication as tasks, in the order of the closed form ----------

_STREAM = {
    layer_overlap.H2D: H2D, layer_overlap.COMMUNICATION: COLLECTIVE, layer_overlap.COMPUTE: COMPUTE,
    layer_overlap.D2H: D2H,
}  # fmt: skip
_NO_WORK, _HANDOVER = (TaskGroup(name, COMPUTE, 0.0) for name in ("nothing", "gradients handed over"))


def overlapped_group(comm: OverlappedComm, part: str, timed: TimedOperator, count: int = 1) -> TaskGroup:
    """Return `count` runs of an operator of overlapped communication as one group, on its stream."""
    seconds = count * float(seconds_of(timed, None))
    group = TaskGroup(timed.operator.name, _STREAM[comm.stream(part)], seconds)
    is_message = isinstance(timed.operator, Collective)
    return group._replace(wire=wire_seconds(timed, seconds), message=timed) if is_message else group


def overlapped_pass(
    comm: OverlappedComm, works: Works, kind: Kind, layers: Sequence[Sequence[TaskGroup]]
) -> list[ActionTask]:
    """Return a lone pass through a stage. layers: groups of each layer's own operators, in order."""
    by_layer = comm.by_layer(works, kind)
    overlapped = [operators for count, _, operators in by_layer for _ in range(count)]
    parts = [_parts(comm, operators, own) for operators, own in zip(overlapped, layers, strict=True)]
    is_async = comm.has_async_reduce(kind)
    work: list[ActionTask] = []
    last: dict[LayerPart, tuple[int, ...]] = {}
    for (layer, part), needs in (async_reduce_order if is_async else layer_order)(len(layers)):
        after = tuple(dict.fromkeys(task for need in needs for task in last.get(need, ())))
        groups = parts[layer].get(part, [])
        if is_async and part != "reduce" and not groups:  # an action starts with a task, even one that only waits
            groups = [_HANDOVER if part == "handover" else _NO_WORK]
        for group in groups:
            work.append(
                ActionTask(
                    group, after, is_async=is_async and (layer, part) == (len(layers) - 1, "reduce"),
                    after_async=(layer, part) == (0, "handover"),
                )
            )  # fmt: skip
            after = (len(work) - 1,)
        if groups:
            last[layer, part] = after
        elif part == "compute":
            last[layer, part] = last.get((layer - 1, part), ())
    return work


def _parts(
    comm: OverlappedComm, operators: Sequence[PartOperator], own: Sequence[TaskGroup]
) -> dict[str, list[TaskGroup]]:
    """Return the groups of each part of a layer. Communication that blocks runs with its computation."""
    parts: dict[str, list[TaskGroup]] = {"compute": []}
    for name, timed in operators:
        group = overlapped_group(comm, name, timed)
        if group.seconds:
            parts.setdefault("compute" if group.stream == COMPUTE else name, []).append(group)
    parts["compute"] += own
    return parts
