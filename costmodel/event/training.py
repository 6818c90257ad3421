"""A training step as tasks: every micro-batch of the schedule, then gradient reduction and optimizer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from costmodel.analytic.actions import pass_of, stage_sums
from costmodel.analytic.operator_timing import TimedOperator
from costmodel.analytic.recurrence import Slot
from costmodel.analytic.stream_times import seconds_of, stream_times
from costmodel.analytic.training import (
    OptimizerStep,
    StepModel,
    StepTimes,
    arrival,
    jitter,
    layer_sums,
    once_a_step,
)
from costmodel.event.engine import Timeline
from costmodel.event.graph import COPY, KERNEL, MESSAGE, START, Graph, Span, Task
from costmodel.event.links import Links, links_of, wire_seconds
from costmodel.event.list_scheduling import FILLER, ActionTask, chain, interleaved
from costmodel.event.overlap import beside, with_traffic
from costmodel.event.replicas import Replicas, replicas_met, replicated
from costmodel.event.task_groups import (
    ARRIVING,
    COLLECTIVE,
    COMPUTE,
    EXCHANGE,
    LEAVING,
    STARTS,
    TaskGroup,
    merged,
    parts_of,
)
from costmodel.quantities import Array, Quantity, sum_of
from costmodel.workload.memory import stage_work
from costmodel.workload.operators import Collective, HostTime, HostTransfer, base_name
from costmodel.workload.scenario import Scenario
from costmodel.workload.schedules import Action, Kind, Schedule
from costmodel.workload.schedules.table import KINDS, NONE, Table
from costmodel.workload.sharding import saved_bytes
from costmodel.workload.stages import Stage

SENDS = ("send activations", "send gradients")
STREAMS = (COMPUTE, EXCHANGE, COLLECTIVE, ARRIVING, LEAVING, STARTS, *SENDS)
EXPERT, EXPERTS_GRADIENT = "expert ", "experts gradient"
EXPERT_WEIGHTS, WEIGHTS = "expert weight gradients", "weight gradients"
_ALL_WEIGHTS = (EXPERT_WEIGHTS, WEIGHTS)
_TASK_KIND = {STARTS: START, EXCHANGE: MESSAGE, COLLECTIVE: MESSAGE, ARRIVING: COPY, LEAVING: COPY}


@dataclass(frozen=True, slots=True, eq=False)
class StepGraph:
    """A step as a graph. bounds: first task of each action and the mark at its end, in the order of `table`; kernels:
    share of each task's time in which kernels run.

    passed: the mark that all passes are done; ends: of each rank, first and last task of its end, and how it ends, all
    of the first replica; replicas: how many are simulated, with `tasks` tasks each.
    """

    graph: Graph
    table: Table
    bounds: tuple[tuple[int, int], ...]
    kernels: Array
    passed: int
    ends: tuple[tuple[int, int, OptimizerStep], ...]
    replicas: int
    tasks: int


def step_graph(
    scenario: Scenario, step: StepModel, schedule: Schedule, last_passes: Sequence[Kind], replicas: Replicas
) -> StepGraph:
    """Return the tasks of a step. schedule: the step's, folded or not; last_passes: what ends each rank's passes.

    An action starts when the one before it on its rank is done and its inputs have arrived, as in the closed form; what
    happens inside it is up to its streams. After it the rank waits for what the closed form says that uneven experts
    cost it. The end of the step begins when the last rank has done its passes, and the reductions that run on beside
    them.
    """
    graph, table, links = (
        Graph(slowing=float(step.moe_comm_slowdown)),
        schedule.table(),
        links_of(scenario, schedule.stage_replicas),
    )
    processes = [_process(schedule, rank) for rank in range(len(schedule.ranks))]
    streams = [{name: graph.stream(process, rank, name) for name in STREAMS} for rank, process in enumerate(processes)]
    templates = _Templates(scenario, step, apart=links.wires is not None)
    actions = [templates.of(*columns) for columns in _columns(step, table)]
    first = np.cumsum([0, *(len(action) + 1 for action in actions)]).tolist()
    ends = [begin - 1 for begin in first[1:]]
    sends = _sends(table, first[-1])
    titles = [(action.kind.value, _title(action)) for actions in schedule.ranks for action in actions]
    kept = [_kept(step, *columns) for columns in _columns(step, table)]
    waits = _waits(step, table)
    previous = -1
    running: dict[int, tuple[int, ...]] = {}  # by rank, the task that ends the reductions that run on
    for number, action in enumerate(actions):
        rank = int(table.rank[number])
        if not number or table.rank[number - 1] != rank:
            previous = -1
        needs = [sends[int(need), row][0] if linked else ends[int(need)] for row, need, linked in _needs(table, number)]
        roots = tuple(needs) if previous < 0 else (previous, *needs)
        earlier = running.get(rank, ())
        graph.extend(_instance(action, streams[rank], (first[number], rank), (roots, earlier), links))
        waited = {each for local in action for each in local.after}
        leaves = [
            first[number] + position
            for position, local in enumerate(action)
            if position not in waited and not local.is_async
        ]
        previous = graph.mark(streams[rank][COMPUTE], leaves or roots, wait=waits[number])
        running[rank] = _still_running(action, first[number], earlier)
        graph.spans.append(Span(first[number], previous, rank, *titles[number], *kept[number]))
    send = float(seconds_of(step.p2p_send, None))
    wire = wire_seconds(step.p2p_send, send) / step.concurrent_sends
    # On shared links messages wait for those that they meet, whichever these are.
    alone = send if links.wires is None else send - (step.concurrent_sends - 1) * wire
    alone += float(arrival(step, None)) - send
    message_of = _one_message(step)
    for (source, row), (place, target) in sends.items():
        rank = int(table.rank[source])
        stream = streams[rank][SENDS[row]]
        own, message = links.sent(alone, wire, message_of, (rank, stream), target)
        number = graph.add(Task("pipeline send", stream, own, (ends[source],), MESSAGE, message=message))
        assert number == place, "messages stand behind all actions"
    for number in range(len(actions)):
        graph.arrows.extend(
            (sends[int(need), row][0], first[number]) for row, need, linked in _needs(table, number) if linked
        )
    passed = graph.mark(streams[0][COMPUTE], sorted(ends), "all passes done")
    left = [number for each in running.values() for number in each]
    reduced = graph.mark(streams[0][COMPUTE], (passed, *left), "all gradients reduced") if left else passed
    closings = [
        _close(graph, step, (each, rank), reduced, _tail(step, schedule, rank, last_passes), links)
        for rank, each in enumerate(streams)
    ]
    count = replicas.simulated(len(graph.tasks))
    links.assign_links(graph, count, replicas.of)
    graph.spans.extend(
        Span(begin, end, rank, "optimizer", "gradient reduction and optimizer")
        for rank, (begin, end, _) in enumerate(closings)
    )
    unit = scenario.parallel.tp * scenario.parallel.cp
    tails = {
        number: count
        for begin, end, _ in closings
        for number in range(begin, end)
        if graph.tasks[number].kind == MESSAGE and (graph.tasks[number].message or graph.tasks[number].seconds > 0)
    }
    meets = {} if count == 1 else dict.fromkeys((passed, reduced), count) | _meetings(actions, first, unit) | tails
    whole = replicated(graph, count, meets, links.copies)
    bounds = tuple(zip(first, ends, strict=False))
    kernels = _kernel_shares(actions, first, closings, len(graph.tasks))
    return StepGraph(
        graph=whole,
        table=table,
        bounds=bounds,
        kernels=kernels,
        passed=passed,
        ends=tuple(closings),
        replicas=count,
        tasks=len(graph.tasks),
    )


def _kernel_shares(
    actions: Sequence[Sequence[ActionTask]],
    first: Sequence[int],
    closings: Sequence[tuple[int, int, OptimizerStep]],
    tasks: int,
) -> Array:
    """Return the share of each task's time in which kernels run: none of messages, marks and the host's work."""
    shares = np.zeros(tasks)
    for begin, _, tail in closings:
        for number, priced in enumerate(tail.serial, begin + 1):
            shares[number] = 0.0 if isinstance(priced.operator, Collective | HostTransfer | HostTime) else 1.0
    for begin, action in zip(first, actions, strict=False):
        for position, local in enumerate(action):
            shares[begin + position] = local.part.kernels / local.part.seconds if local.part.seconds else 0.0
    return shares


def _meetings(actions: Sequence[Sequence[ActionTask]], first: Sequence[int], unit: Quantity) -> dict[int, int]:
    """Return the messages of the passes that several replicas have to have come to, and how many of them."""
    spans: dict[int, int] = {}
    for begin, action in zip(first, actions, strict=False):
        for position, local in enumerate(action):
            if local.part.priced is not None:
                spans[begin + position] = replicas_met(local.part.priced.operator, unit)
    return {number: span for number, span in spans.items() if span > 1}


def _process(schedule: Schedule, rank: int) -> str:
    held = " and ".join(str(stage) for stage in schedule.stages_of(rank))
    return f"rank {rank}: stage{'s' if len(schedule.stages_of(rank)) > 1 else ''} {held}"


def _one_message(step: StepModel) -> TimedOperator:
    """Return one of the messages between stages that `transfer` is the time of."""
    operator = step.p2p_send.operator
    assert isinstance(operator, Collective), "it has a size"
    return replace(step.p2p_send, operator=replace(operator, size=operator.size / step.concurrent_sends))


def _title(action: Action) -> str:
    """Return what an action is: its kind and the micro-batches that it works on."""
    chunks = [chunk for chunk in (action.forward, action.backward) if chunk is not None]
    told = " and ".join(f"micro-batch {chunk.micro_batch} on stage {chunk.stage}" for chunk in chunks)
    return f"{action.kind.value.replace('_', ' ')}: {told}"


def _kept(step: StepModel, kind: Kind, forward: Stage | None, backward: Stage | None) -> tuple[float, float]:
    """Return what an action keeps for the backward pass, and what it lets go [B]."""
    ends = None if kind is Kind.BACKWARD_INPUT else backward
    taken, freed = (
        0.0
        if stage is None
        else float(sum_of(count * saved_bytes(work) for count, work in stage_work(step.work, stage)))
        for stage in (forward, ends)
    )
    return taken, freed


def _waits(step: StepModel, table: Table) -> list[float]:
    """Return how long each action holds up its rank beyond its own time, since chunks jitter [s]."""
    longer = jitter(step, layer_sums(step, None))
    label = {stage: number for number, stage in enumerate(step.classes)} | {None: None}
    return [
        float(longer.get(Slot(kind, label[forward], label[backward]), 0.0))
        for kind, forward, backward in _columns(step, table)
    ]


def _columns(step: StepModel, table: Table) -> Iterator[tuple[Kind, Stage | None, Stage | None]]:
    """Yield (kind, stage forward, stage backward) of every action."""
    for kind, forward, backward in zip(table.kind, table.forward, table.backward, strict=True):
        yield (
            KINDS[kind],
            None if forward == NONE else step.layout[forward],
            None if backward == NONE else step.layout[backward],
        )


def _needs(table: Table, number: int) -> Iterator[tuple[int, int, bool]]:
    """Yield (0 for the forward's input and 1 for the backward's, action that makes it, whether it is sent)."""
    for row in range(len(table.needs)):
        if table.needs[row, number] != NONE:
            yield row, int(table.needs[row, number]), bool(table.is_transfer[row, number])


def _sends(table: Table, first: int) -> dict[tuple[int, int], tuple[int, int]]:
    """Return (action, 0 or 1) -> the task that sends its result, in the order of the actions, and the rank it goes to.

    A result that several actions wait for goes to the rank of the first.
    """
    linked: dict[tuple[int, int], int] = {}
    for number in range(len(table.rank)):
        for row, need, sent in _needs(table, number):
            if sent:
                linked.setdefault((need, row), int(table.rank[number]))
    return {key: (first + number, linked[key]) for number, key in enumerate(sorted(linked))}


def _instance(
    action: Sequence[ActionTask],
    streams: dict[str, int],
    numbers: tuple[int, int],
    waits: tuple[tuple[int, ...], tuple[int, ...]],
    links: Links,
) -> Iterator[Task]:
    """Yield the tasks of one action.

    numbers: of its first task and of its rank; waits: for what the action waits, and what still runs of earlier ones.
    """
    (first, rank), (roots, running) = numbers, waits
    for local in action:
        part = local.part
        after = tuple(first + each for each in local.after) if local.after else roots
        after = (*after, *running) if local.after_async else after
        kind = MESSAGE if part.priced is not None else _TASK_KIND.get(part.stream, KERNEL)
        stream = streams[part.stream]
        seconds, message = links.sent(part.seconds, part.wire, part.priced, (rank, stream))
        yield Task(
            part.name, stream, seconds, after, kind, part.processor_bound_share, part.processors, message, part.classes,
            part.stream == EXCHANGE,
        )  # fmt: skip


def _still_running(action: Sequence[ActionTask], first: int, earlier: tuple[int, ...]) -> tuple[int, ...]:
    """Return the task that ends the reductions that run on when an action is done. earlier: the one before it."""
    if not any(local.after_async for local in action):
        return earlier
    return tuple(first + position for position, local in enumerate(action) if local.is_async)[-1:]


class _Templates:
    """The parts of every kind of action, put together once."""

    def __init__(self, scenario: Scenario, step: StepModel, *, apart: bool) -> None:
        self._step, self._apart = step, apart
        self._processors = float(scenario.communication.processors)
        self._layer_sums = layer_sums(step, None)
        self._known: dict[tuple[Kind, Stage | None, Stage | None], list[ActionTask]] = {}

    def of(self, kind: Kind, forward: Stage | None, backward: Stage | None) -> list[ActionTask]:
        """Return the parts of an action."""
        key = (kind, forward, backward)
        if key not in self._known:
            made = self._made(*key)
            starting = float(self._step.start) * self._starts(*key)
            if starting:
                made.append(ActionTask(TaskGroup("kernel starts", STARTS, starting, 0.0, 0.0)))
            self._known[key] = made
        return self._known[key]

    def _starts(self, kind: Kind, forward: Stage | None, backward: Stage | None) -> float:
        """Return how many kernels and messages the host starts for an action."""
        other = Kind.BACKWARD if kind is Kind.FORWARD_BACKWARD else kind
        return sum(
            float(pass_of(stage_sums(stage_work(self._step.work, stage), self._layer_sums), each).starts)
            for stage, each in ((forward, Kind.FORWARD), (backward, other))
            if stage is not None
        )

    def _made(self, kind: Kind, forward: Stage | None, backward: Stage | None) -> list[ActionTask]:
        if forward is not None and backward is not None:
            return self._pair(forward, backward)
        stage = backward if forward is None else forward
        assert stage is not None, "an action works on a stage"
        traffic = self._step.overlapped_comm
        if traffic is None:
            return chain([part for layer in self._layers(stage, kind) for part in layer])
        return with_traffic(traffic, stage_work(self._step.work, stage), kind, self._layers(stage, kind))

    def _layers(self, stage: Stage, kind: Kind) -> list[list[TaskGroup]]:
        """Return the parts of each layer of a stage, in the order of the pass."""
        works = stage_work(self._step.work, stage)
        found = []
        for count, work in works if kind is Kind.FORWARD else reversed(works):
            priced = self._step.timed_works[work.name]
            own: list[TaskGroup] = []
            if kind is Kind.FORWARD:
                own += self._parts(priced.forward, work.name)
            if kind in (Kind.BACKWARD, Kind.BACKWARD_INPUT):
                own += [
                    part._replace(name=_gradient(part.name)) for part in self._parts(priced.input_gradient, work.name)
                ]
            if kind in (Kind.BACKWARD, Kind.BACKWARD_WEIGHT):
                own += self._weights(priced.weight_gradient, work.name)
            found.extend([own] * count)
        return found

    def _parts(self, operators: Sequence[TimedOperator], name: str) -> list[TaskGroup]:
        return parts_of(operators, name, self._processors, apart=self._apart)

    def _weights(self, operators: Sequence[TimedOperator], name: str) -> list[TaskGroup]:
        """Return the weight gradients of routed experts, which are ready before the others, and all others."""
        of_experts = [item for item in operators if base_name(item.operator.name).startswith(EXPERT)]
        others = [item for item in operators if item not in of_experts]
        return [
            *merged(self._parts(of_experts, name), EXPERT_WEIGHTS),
            *merged(self._parts(others, name), WEIGHTS),
        ]

    def _pair(self, forward: Stage, backward: Stage) -> list[ActionTask]:
        """Return a forward pass and another chunk's backward pass side by side."""
        ahead = [part for layer in self._layers(forward, Kind.FORWARD) for part in layer]
        work = chain(ahead)
        last: tuple[int, ...] = ()
        for layer in self._layers(backward, Kind.BACKWARD):
            ready: dict[str, tuple[int, ...]] = {}
            for part in (each for each in layer if each.name not in _ALL_WEIGHTS):
                work.append(ActionTask(part, last, 1))
                last = (len(work) - 1,)
                ready[part.name] = last
            work += [
                ActionTask(part, ready.get(EXPERTS_GRADIENT, last) if part.name == EXPERT_WEIGHTS else last, FILLER)
                for part in layer
                if part.name in _ALL_WEIGHTS
            ]
        traffic = self._step.overlapped_comm
        if traffic is not None:
            moved = traffic.in_pair(stage_work(self._step.work, forward), stage_work(self._step.work, backward))
            work += [ActionTask(beside(traffic, part, priced, count)) for part, count, priced in moved]
        return interleaved([local for local in work if local.part.seconds > 0])


def _gradient(name: str) -> str:
    return name if "gradient" in name else f"{name} gradient"


def _tail(step: StepModel, schedule: Schedule, rank: int, last_passes: Sequence[Kind]) -> OptimizerStep:
    """Return how a rank ends the step."""
    held = tuple(step.layout[stage] for stage in schedule.stages_of(rank))
    mirrored = held[::-1]
    for stages in (held, mirrored):
        for tail in step.optimizer_steps:
            if tail.stages == stages and tail.last is last_passes[rank]:
                return tail
    raise AssertionError("every rank ends the step in a priced way")


def _close(
    graph: Graph, step: StepModel, place: tuple[dict[str, int], int], passed: int, tail: OptimizerStep, links: Links
) -> tuple[int, int, OptimizerStep]:
    """Add the end of the step on one rank: what overlap left of reductions, then reductions and optimizer in turn."""
    first, (streams, rank) = len(graph.tasks), place
    left = float(sum(once_a_step(step, tail, layer_sums(step, None), None)))
    previous = graph.add(Task("gathers and reductions left over", streams[COLLECTIVE], left, (passed,), MESSAGE))
    for priced in tail.serial:
        message = isinstance(priced.operator, Collective | HostTransfer)
        stream, kind = (COLLECTIVE, MESSAGE) if message else (COMPUTE, KERNEL)
        seconds = float(priced.time.seconds)
        sent = priced if isinstance(priced.operator, Collective) else None
        own, moved = links.sent(seconds, wire_seconds(priced, seconds), sent, (rank, streams[stream]))
        previous = graph.add(Task(priced.operator.name, streams[stream], own, (previous,), kind, message=moved))
    begun = previous
    for priced in tail.on_host:
        previous = graph.add(Task(priced.operator.name, streams[COMPUTE], float(priced.time.seconds), (previous,)))
    after = begun if step.host_overlaps else previous
    copies = float(stream_times(tail.copies, None).collectives)
    copied = graph.add(Task("weights and gradients", streams[ARRIVING], copies, (after,), COPY))
    return first, graph.mark(streams[COMPUTE], (previous, copied)), tail


def times_of(made: StepGraph, timeline: Timeline) -> StepTimes:
    """Return the parts of a step as they were simulated, means over ranks, of all replicas.

    A rank works from the start of an action's first task to the mark at its end; what is left of the step up to
    `passed` is bubble. Communication is exposed while a rank works and no kernel of it runs.
    """
    shape = made.replicas, made.tasks
    start, finish = (each[: made.replicas * made.tasks].reshape(shape) for each in (timeline.start, timeline.finish))
    span = float(finish[0, made.passed])
    by_kind = dict.fromkeys((kind.value for kind in Kind), 0.0)
    ranks = int(made.table.rank[-1]) + 1
    ran = (finish - start) * made.kernels
    busy, kernels = 0.0, float(ran[:, : made.passed].sum(axis=1).mean()) / ranks
    for (first, last), kind in zip(made.bounds, made.table.kind, strict=True):
        seconds = float((start[:, last] - start[:, first : last + 1].min(axis=1)).mean())
        by_kind[KINDS[kind].value] += seconds / ranks
        busy += seconds / ranks
    first, last, tail = max(made.ends, key=lambda end: finish[:, end[1]].max())
    slowest = int(finish[:, last].argmax())
    host = float(stream_times(tail.on_host, None).kernels)
    ending = float(finish[slowest, last]) - span
    waiting = ending - float(ran[slowest, first:last].sum()) - host
    return StepTimes(span + ending, by_kind, span - busy, ending, busy - kernels + waiting, host)
