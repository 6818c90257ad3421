"""A training step as tasks: every micro-batch of the schedule, then gradient reduction and optimizer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from scipy.special import ndtr, ndtri

from costmodel.analytic.operator_timing import TimedOperator
from costmodel.analytic.recurrence.program import Slot
from costmodel.analytic.stream_times import BLOCKING, seconds_of, stream_times
from costmodel.analytic.training.step_model import OptimizerStep, StepModel
from costmodel.analytic.training.step_times import ROUNDING, StepTimes, once_per_step, step_streams
from costmodel.event.engine import Timeline
from costmodel.event.graph import COPY, KERNEL, LAUNCH, MESSAGE, Graph, Span, Task
from costmodel.event.links import links_of
from costmodel.event.replicas import Replicas, replicas_spanned, replicated
from costmodel.event.task_groups import (
    ALL_TO_ALL,
    COLLECTIVE,
    COMPUTE,
    D2H,
    H2D,
    HOST,
    ActionTask,
    ActionTasks,
    TaskGroup,
    wire_seconds,
)
from costmodel.quantities import Array, Quantity, sum_of
from costmodel.records import Record, replace
from costmodel.workload.operators import Collective, HostTransfer
from costmodel.workload.scenario import Scenario
from costmodel.workload.schedules.schedule import KINDS, NONE, Action, Chunk, Kind, Schedule, Table
from costmodel.workload.sharding import saved_bytes

SENDS = ("send activations", "send gradients")
STREAMS = (COMPUTE, ALL_TO_ALL, COLLECTIVE, H2D, D2H, HOST, *SENDS)
_TASK_KIND = {COMPUTE: KERNEL, HOST: LAUNCH, ALL_TO_ALL: MESSAGE, COLLECTIVE: MESSAGE, H2D: COPY, D2H: COPY}


class RankEnd(Record):
    """How a rank ends the step: its first task, the mark at its end, and what it does."""

    first: int
    last: int
    optimizer: OptimizerStep


class StepGraph(Record, kw_only=True):
    """A step as a graph; tasks are those of the first replica.

    actions: first task of each action and the mark at its end, in the order of `table`
    kernel_shares: share of each task's time in which kernels run
    passes_done: the mark that all passes are done.
    ends: of each rank.
    replicas: how many are simulated, with `tasks` tasks each
    """

    graph: Graph
    table: Table
    actions: tuple[tuple[int, int], ...]
    kernel_shares: Array
    passes_done: int
    ends: tuple[RankEnd, ...]
    replicas: int
    tasks: int


def step_graph(
    scenario: Scenario, step: StepModel, schedule: Schedule, last_passes: Sequence[Kind], replicas: Replicas
) -> StepGraph:
    """Return the tasks of a step. schedule: the step's, folded or not; last_passes: what ends each rank's passes.

    An action starts when the one before it on its rank is done and its inputs have arrived, as in the closed form. Its
    streams decide what happens inside it. The end of the step starts when the last rank has finished its passes, and
    all asynchronous reductions.
    """
    builder = _Builder(scenario, step, schedule)
    graph, links = builder.graph, builder.links
    builder.add_actions()
    builder.add_sends()
    marks = builder.add_passes_done()
    ends = tuple(
        builder.add_end(rank, marks[-1], _optimizer_step(step, schedule, rank, last_passes))
        for rank in range(len(schedule.ranks))
    )
    count, tasks = replicas.simulated(len(graph.tasks)), len(graph.tasks)
    links.assign_links(graph, count, replicas.of)
    graph.spans.extend(
        Span(end.first, end.last, rank, "optimizer", "gradient reduction and optimizer")
        for rank, end in enumerate(ends)
    )
    synchronised: dict[int, int] = {}
    if count > 1:
        synchronised = dict.fromkeys(marks, count) | builder.spanned(scenario.parallel.tp * scenario.parallel.cp)
        synchronised |= dict.fromkeys(_end_messages(graph, ends), count)
    return StepGraph(
        graph=replicated(graph, count, synchronised, links.per_replica),
        table=builder.table,
        actions=tuple(zip(builder.first, builder.ends, strict=False)),
        kernel_shares=builder.kernel_shares(ends),
        passes_done=marks[0],
        ends=ends,
        replicas=count,
        tasks=tasks,
    )


class _Builder:
    """Adds the tasks of a step to a graph.

    actions: tasks of each action in the order of `table`.
    first, ends: its first task and the mark at its end sends: (action, 0 for activations or 1 for gradients) -> task
    that sends its result, and rank that receives it.
    """

    def __init__(self, scenario: Scenario, step: StepModel, schedule: Schedule) -> None:
        self.step, self.schedule, self.table = step, schedule, schedule.table()
        self.graph = Graph(moe_comm_slowdown=float(step.moe_comm_slowdown))
        self.links = links_of(scenario, schedule.stage_replicas)
        self._streams = [
            {name: self.graph.stream(_process(schedule, rank), rank, name) for name in STREAMS}
            for rank in range(len(schedule.ranks))
        ]
        self._times = step_streams(step, None)
        tasks = ActionTasks(scenario, step, self._times, split_collectives=self.links.wires is not None)
        self._slots = list(_slots(step, self.table))
        self.actions = [tasks.of(slot) for slot in self._slots]
        self.first: list[int] = np.cumsum([0, *(len(action) + 1 for action in self.actions)]).tolist()
        self.ends = [first - 1 for first in self.first[1:]]
        self.sends = _sends(self.table, self.first[-1])
        self._draws = _draws(scenario, step, schedule)
        self._running: dict[int, tuple[int, ...]] = {}  # by rank, the task that ends its asynchronous reductions

    def add_actions(self) -> None:
        actions = [action for rank in self.schedule.ranks for action in rank]
        titles = [(action.kind.value, _title(action)) for action in actions]
        previous: tuple[int, ...] = ()
        for number, slot in enumerate(self._slots):
            rank = int(self.table.rank[number])
            if not number or self.table.rank[number - 1] != rank:
                previous = ()
            inputs = _inputs(self.table, number)
            needs = (self.sends[action, row][0] if is_sent else self.ends[action] for row, action, is_sent in inputs)
            roots = (*previous, *needs)
            leaves = self._add_action(number, rank, roots, actions[number])
            end = self.graph.mark(self._streams[rank][COMPUTE], leaves or roots)
            previous = (end,)
            self.graph.spans.append(Span(self.first[number], end, rank, *titles[number], *_saved(self.step, slot)))

    def _add_action(self, number: int, rank: int, roots: tuple[int, ...], of: Action) -> list[int]:
        """Add the tasks of an action, which waits for `roots`, and return those that end it."""
        action, first, streams = self.actions[number], self.first[number], self._streams[rank]
        running = self._running.get(rank, ())
        for task in action:
            after = tuple(first + needed for needed in task.after) or roots
            after = (*after, *running) if task.after_async else after
            stream = task.group.stream
            group = task.group if self._draws is None else _drawn(task, of, self._draws)
            self.graph.add(self.links.task(group, streams[stream], _TASK_KIND[stream], after, rank))
        if any(task.after_async for task in action):
            self._running[rank] = tuple(first + i for i, task in enumerate(action) if task.is_async)[-1:]
        waited = {needed for task in action for needed in task.after}
        return [first + i for i, task in enumerate(action) if i not in waited and not task.is_async]

    def add_sends(self) -> None:
        p2p = self.step.p2p
        send = float(seconds_of(p2p.send, None))
        wire = wire_seconds(p2p.send, send) / p2p.concurrent
        # On shared links messages wait for whichever others they meet there, not for the concurrent ones of the fit.
        seconds = send if self.links.wires is None else send - (p2p.concurrent - 1) * wire
        seconds += float(p2p.seconds(None)) - send
        single = _single_send(self.step)
        for (source, row), (task, target) in self.sends.items():
            rank = int(self.table.rank[source])
            stream = self._streams[rank][SENDS[row]]
            before, message = self.links.message(seconds, wire, single, (rank, stream), target)
            number = self.graph.add(
                Task("pipeline send", stream, before, (self.ends[source],), MESSAGE, message=message)
            )
            assert number == task, "messages follow all actions"
        for number, first in enumerate(self.first[:-1]):
            inputs = _inputs(self.table, number)
            self.graph.arrows.extend((self.sends[action, row][0], first) for row, action, is_sent in inputs if is_sent)

    def add_passes_done(self) -> tuple[int, ...]:
        """Add marks that all passes are done, and then asynchronous reductions, if any. Return them."""
        stream = self._streams[0][COMPUTE]
        passes_done = self.graph.mark(stream, sorted(self.ends), "all passes done")
        running = [task for tasks in self._running.values() for task in tasks]
        if not running:
            return (passes_done,)
        return passes_done, self.graph.mark(stream, (passes_done, *running), "all gradients reduced")

    def add_end(self, rank: int, after: int, end: OptimizerStep) -> RankEnd:
        """Add the end of the step on one rank: exposed gathers and reductions, then reductions and optimizer."""
        graph, links, streams, first = self.graph, self.links, self._streams[rank], len(self.graph.tasks)
        exposed = float(sum(once_per_step(self.step, end, self._times)))
        previous = graph.add(Task("exposed gathers and reductions", streams[COLLECTIVE], exposed, (after,), MESSAGE))
        for timed in end.serial:
            operator, seconds = timed.operator, float(timed.time.seconds)
            name, kind = (COLLECTIVE, MESSAGE) if isinstance(operator, Collective | HostTransfer) else (COMPUTE, KERNEL)
            sent = timed if isinstance(operator, Collective) else None
            before, message = links.message(seconds, wire_seconds(timed, seconds), sent, (rank, streams[name]))
            previous = graph.add(Task(operator.name, streams[name], before, (previous,), kind, message=message))
        serial_done = previous
        for timed in end.on_host:
            seconds = float(timed.time.seconds)
            previous = graph.add(Task(timed.operator.name, streams[COMPUTE], seconds, (previous,)))
        copies = float(stream_times(end.copies, None).collectives)
        copy_after = serial_done if self.step.host_overlaps else previous
        copied = graph.add(Task("weights and gradients", streams[H2D], copies, (copy_after,), COPY))
        return RankEnd(first, graph.mark(streams[COMPUTE], (previous, copied)), end)

    def spanned(self, unit: Quantity) -> dict[int, int]:
        """Return task -> how many replicas of `unit` devices it spans, of messages of the passes that span several."""
        return {
            first + i: spanned
            for first, action in zip(self.first, self.actions, strict=False)
            for i, task in enumerate(action)
            if task.group.message is not None and (spanned := replicas_spanned(task.group.message.operator, unit)) > 1
        }

    def kernel_shares(self, ends: Sequence[RankEnd]) -> Array:
        """Return the share of each task's time in which kernels run: none of messages, marks and the host's work."""
        shares = np.zeros(len(self.graph.tasks))
        for end in ends:
            for number, timed in enumerate(end.optimizer.serial, end.first + 1):
                shares[number] = 0.0 if isinstance(timed.operator, BLOCKING) else 1.0
        for first, action in zip(self.first, self.actions, strict=False):
            for i, task in enumerate(action):
                shares[first + i] = task.group.kernels / task.group.seconds if task.group.seconds else 0.0
        return shares


def _draws(scenario: Scenario, step: StepModel, schedule: Schedule) -> ExpertDraws | None:
    """Return the loads of the busiest expert rank that a step meets, null where all have the mean."""
    ranks = float(step.imbalance.ranks)
    if not scenario.simulation.draws_experts or ranks == 1:
        return None
    layers = max(sum(count for count, _ in step.works_of(label)) for label in range(len(step.pipeline.classes)))
    return expert_draws(schedule, layers, ranks, scenario.simulation.seed, shared=step.imbalance.shared_by_layers)


def _drawn(task: ActionTask, action: Action, draws: ExpertDraws) -> TaskGroup:
    """Return a group with the load of its micro-batch: seconds + imbalance * (x - 1)."""
    group = task.group
    if not group.imbalance:
        return group
    chunk = action.forward if action.backward is None or (task.chunk == 0 and action.forward) else action.backward
    assert chunk is not None, "an action has a chunk"
    return group._replace(seconds=group.seconds + group.imbalance * (draws.of(chunk, group.layer) - 1.0))


def _end_messages(graph: Graph, ends: Sequence[RankEnd]) -> Iterator[int]:
    for end in ends:
        for number in range(end.first, end.last):
            task = graph.tasks[number]
            if task.kind == MESSAGE and (task.message or task.seconds > 0):
                yield number


def _process(schedule: Schedule, rank: int) -> str:
    stages = schedule.stages_of(rank)
    return f"rank {rank}: stage{'s' if len(stages) > 1 else ''} {' and '.join(map(str, stages))}"


def _single_send(step: StepModel) -> TimedOperator:
    p2p = step.p2p
    operator = p2p.send.operator
    assert isinstance(operator, Collective), "it has a size"
    return replace(p2p.send, operator=replace(operator, size=operator.size / p2p.concurrent))


def _title(action: Action) -> str:
    chunks = [chunk for chunk in (action.forward, action.backward) if chunk is not None]
    names = " and ".join(f"micro-batch {chunk.micro_batch} on stage {chunk.stage}" for chunk in chunks)
    return f"{action.kind.value.replace('_', ' ')}: {names}"


def _saved(step: StepModel, slot: Slot) -> tuple[float, float]:
    """Return the activations that an action saves for the backward pass, and those that it frees [B]."""
    freed = None if slot.kind is Kind.BACKWARD_INPUT else slot.backward
    saved, freed_bytes = (
        0.0 if label is None else float(sum_of(count * saved_bytes(work) for count, work in step.works_of(label)))
        for label in (slot.forward, freed)
    )
    return saved, freed_bytes


def _slots(step: StepModel, table: Table) -> Iterator[Slot]:
    labels: Mapping[int, int | None] = {
        number: step.pipeline.classes.index(stage) for number, stage in enumerate(step.pipeline.layout)
    } | {NONE: None}
    for kind, forward, backward in zip(
        table.kind.tolist(), table.forward.tolist(), table.backward.tolist(), strict=True
    ):
        yield Slot(KINDS[kind], labels[forward], labels[backward])


def _inputs(table: Table, number: int) -> Iterator[tuple[int, int, bool]]:
    """Yield (0 for the forward's input and 1 for the backward's, action that makes it, whether it is sent)."""
    for row in range(len(table.needs)):
        if table.needs[row, number] != NONE:
            yield row, int(table.needs[row, number]), bool(table.is_transfer[row, number])


def _sends(table: Table, first: int) -> dict[tuple[int, int], tuple[int, int]]:
    """Return (action, 0 or 1) -> the task that sends its result, in the order of the actions, and the receiving rank.

    A result that several actions wait for goes to the rank of the first.
    """
    receiver: dict[tuple[int, int], int] = {}
    for number in range(len(table.rank)):
        for row, action, is_sent in _inputs(table, number):
            if is_sent:
                receiver.setdefault((action, row), int(table.rank[number]))
    return {key: (first + number, receiver[key]) for number, key in enumerate(sorted(receiver))}


def _optimizer_step(step: StepModel, schedule: Schedule, rank: int, last_passes: Sequence[Kind]) -> OptimizerStep:
    stages = tuple(step.pipeline.layout[stage] for stage in schedule.stages_of(rank))
    for order in (stages, stages[::-1]):  # a mirrored rank has them in reverse
        for end in step.optimizer_steps:
            if end.stages == order and end.last is last_passes[rank]:
                return end
    raise AssertionError("every rank ends the step in a timed way")


def step_times_of(step: StepGraph, timeline: Timeline) -> StepTimes:
    """Return the times of a step as they were simulated, means over ranks, of all replicas.

    A rank works from the start of an action's first task to the mark at its end. The rest of the time until
    `passes_done` is bubble. Communication is exposed while a rank works and no kernel of it runs.
    """
    shape = step.replicas, step.tasks
    start, finish = (times[: step.replicas * step.tasks].reshape(shape) for times in (timeline.start, timeline.finish))
    span = float(finish[0, step.passes_done])
    by_kind = dict.fromkeys((kind.value for kind in Kind), 0.0)
    ranks = int(step.table.rank[-1]) + 1
    running = (finish - start) * step.kernel_shares
    busy, kernels = 0.0, float(running[:, : step.passes_done].sum(axis=1).mean()) / ranks
    for (first, last), kind in zip(step.actions, step.table.kind, strict=True):
        seconds = float((start[:, last] - start[:, first : last + 1].min(axis=1)).mean())
        by_kind[KINDS[kind].value] += seconds / ranks
        busy += seconds / ranks
    end = max(step.ends, key=lambda end: finish[:, end.last].max())
    slowest = int(finish[:, end.last].argmax())
    host = float(stream_times(end.optimizer.on_host, None).kernels)
    optimizer = float(finish[slowest, end.last]) - span
    waiting = optimizer - float(running[slowest, end.first : end.last].sum()) - host
    exposed = busy - kernels + waiting
    return StepTimes(
        step=span + optimizer,
        by_kind=by_kind,
        bubble=span - busy,
        optimizer=optimizer,
        exposed_communication=exposed if abs(exposed) > ROUNDING * span else 0.0,
        host=host,
    )


# ---- Load of the busiest expert rank, drawn for each micro-batch: who waits for whom then follows from events --------

_GRID = np.linspace(-10.0, 14.0, 4801)  # of standard deviations: the largest of 1e12 ranks is at 7


class ExpertDraws(Record):
    """Excess of the busiest rank over the mean, over its expected value, (micro-batches, stages, layers of a stage).

        x = max of n standard normal loads / E[max] = Phi^-1(u^(1/n)) / E[max],      u uniform; mean one

    A micro-batch's backward pass retraces the routes of its forward pass, and has its draws.
    """

    excess: Array

    def of(self, chunk: Chunk, layer: int) -> float:
        """Return x of a layer of a chunk's stage."""
        micro_batches, stages, layers = self.excess.shape
        return float(self.excess[chunk.micro_batch % micro_batches, chunk.stage % stages, layer % layers])


def expert_draws(schedule: Schedule, layers: int, ranks: float, seed: int, *, shared: bool) -> ExpertDraws:
    """Return the draws of a step. layers: most of a stage; ranks: that share the experts.

    shared: all layers of a micro-batch have one draw, as its texts decide. Else each layer of each has its own.
    """
    shape = (schedule.micro_batches, *((1, 1) if shared else (schedule.stages, max(layers, 1))))
    uniform = np.random.default_rng(seed).uniform(size=shape)
    return ExpertDraws(ndtri(uniform ** (1.0 / ranks)) / expected_largest(ranks))


def expected_largest(ranks: float) -> float:
    """Return E[max] of standard normal numbers: the upper bound less the integral of Phi^n up to there."""
    return float(_GRID[-1] - np.trapezoid(ndtr(_GRID) ** ranks, _GRID))
