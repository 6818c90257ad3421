"""The tasks of each kind of action of a training step."""

from __future__ import annotations

from collections.abc import Sequence

from costmodel.analytic.operator_timing import TimedOperator
from costmodel.analytic.recurrence.program import Slot
from costmodel.analytic.stream_times import seconds_of
from costmodel.analytic.training import layer_overlap
from costmodel.analytic.training.layer_overlap import LayerPart, async_reduce_order, layer_order
from costmodel.analytic.training.overlapped_comm import OverlappedComm, PartOperator, Works
from costmodel.analytic.training.step_model import StepModel
from costmodel.analytic.training.step_times import StepStreams, lone_stage
from costmodel.event.task_groups import (
    COLLECTIVE,
    COMPUTE,
    D2H,
    FILLER,
    H2D,
    HOST,
    ActionTask,
    TaskGroup,
    chain,
    list_schedule,
    merged,
    task_groups,
    wire_seconds,
)
from costmodel.workload.operators import Collective, base_name
from costmodel.workload.scenario import Scenario
from costmodel.workload.schedules.schedule import Kind

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
