"""Lone passes of a training step with overlapped communication as tasks, in the order of the closed form."""

from __future__ import annotations

from collections.abc import Sequence

from costmodel.analytic.operator_timing import TimedOperator
from costmodel.analytic.stream_times import seconds_of
from costmodel.analytic.training import layer_overlap
from costmodel.analytic.training.layer_overlap import LayerPart, async_reduce_order, layer_order
from costmodel.analytic.training.overlapped_comm import OverlappedComm, PartOperator, Works
from costmodel.event.list_scheduling import ActionTask
from costmodel.event.task_groups import COLLECTIVE, COMPUTE, D2H, H2D, TaskGroup, wire_seconds
from costmodel.workload.operators import Collective
from costmodel.workload.schedules import Kind

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
