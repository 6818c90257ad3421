"""Communication that overlaps the passes of a training step, as tasks of its actions."""

from __future__ import annotations

from collections.abc import Sequence

from costmodel.analytic.layer_overlap import LayerPart, layer_steps
from costmodel.analytic.operator_timing import TimedOperator
from costmodel.analytic.overlapped_comm import Beside, OverlappedComm, Works
from costmodel.analytic.stream_times import seconds_of
from costmodel.event.links import wire_seconds
from costmodel.event.list_scheduling import ActionTask
from costmodel.event.task_groups import ARRIVING, COLLECTIVE, COMPUTE, LEAVING, TaskGroup
from costmodel.workload.operators import Collective
from costmodel.workload.schedules import Kind

_NOTHING, _HANDED_OVER = (TaskGroup(name, COMPUTE, 0.0, 0.0, 0.0) for name in ("nothing", "gradients handed over"))


def comm_task(comm: OverlappedComm, part: str, timed: TimedOperator, count: int) -> TaskGroup:
    """Return `count` equal operators that overlap a pass, on the stream that they use."""
    seconds = count * float(seconds_of(timed, None))
    own_stream = {"h2d": ARRIVING, "d2h": LEAVING}.get(part, COLLECTIVE)
    stream = COMPUTE if comm.waits(part) else COLLECTIVE if comm.one_link else own_stream
    if not isinstance(timed.operator, Collective):
        return TaskGroup(timed.operator.name, stream, seconds, 0.0, 0.0)
    return TaskGroup(timed.operator.name, stream, seconds, 0.0, 0.0, wire=wire_seconds(timed, seconds), priced=timed)


def overlapped_pass(
    comm: OverlappedComm, works: Works, kind: Kind, layers: Sequence[Sequence[TaskGroup]]
) -> list[ActionTask]:
    """Return a lone pass and the communication that overlaps it, in the order of `layer_steps`."""
    along = comm.along(works, kind, ends=False)
    overlapped = [operators for count, _, operators in along for _ in range(count)]
    if comm.has_async_reduce(kind):
        return _async_reduce_pass(comm, layers, overlapped)
    tasks: list[ActionTask] = []
    ends: dict[LayerPart, list[int]] = {}  # the tasks that end a layer's part
    computed: list[int] = []  # the last task of the layers so far
    for layer, part, needs in layer_steps(len(layers)):
        after = [position for need in needs for position in ends.get(need, ())]
        if part == "compute":
            waited, _ = _by_stream(comm, overlapped[layer])
            after = [*computed, *after]
            for group in (*waited, *layers[layer]):
                tasks.append(ActionTask(group, tuple(after)))
                computed = after = [len(tasks) - 1]
            ends[layer, part] = computed
            continue
        _, moving = _by_stream(comm, [(name, timed) for name, timed in overlapped[layer] if name == part])
        for group in moving:
            tasks.append(ActionTask(group, (*after, *ends.get((layer, part), ()))))
            ends.setdefault((layer, part), []).append(len(tasks) - 1)
    return tasks


def _by_stream(comm: OverlappedComm, operators: Sequence[Beside]) -> tuple[list[TaskGroup], list[TaskGroup]]:
    """Return the operators that a pass waits for, and those on streams of their own."""
    groups = [comm_task(comm, part, timed, 1) for part, timed in operators]
    waited = [group for group in groups if group.stream == COMPUTE and group.seconds]
    return waited, [group for group in groups if group.stream != COMPUTE and group.seconds]


def _async_reduce_pass(
    comm: OverlappedComm, layers: Sequence[Sequence[TaskGroup]], overlapped: Sequence[Sequence[Beside]]
) -> list[ActionTask]:
    """Return a lone pass whose reductions run on while later actions compute: one of them at a time.

    A layer hands its own over when it is computed and the one before has ended (`layer_overlap.async_reduce_times`,
    which has the same recurrence in closed form).
    """
    tasks: list[ActionTask] = []
    last, reduced = tuple[int, ...](), tuple[int, ...]()
    for number, layer in enumerate(layers):
        waited, moving = _by_stream(comm, overlapped[number])
        for group in [*waited, *layer] or [_NOTHING]:  # the action begins with it, though its first layer may wait
            tasks.append(ActionTask(group, last))
            last = (len(tasks) - 1,)
        tasks.append(ActionTask(_HANDED_OVER, (*last, *reduced), after_async=not number))
        last = reduced = (len(tasks) - 1,)
        for group in moving:
            tasks.append(ActionTask(group, reduced, is_async=number == len(layers) - 1))
            reduced = (len(tasks) - 1,)
    return tasks
