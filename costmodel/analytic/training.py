"""One training step: the schedule's recurrence over stage times, then gradient reduction and optimizer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from costmodel.analytic.actions import (
    ActionTimes,
    PassSums,
    all_to_all_contention,
    lone_seconds,
    pass_of,
    settling,
    stage_sums,
)
from costmodel.analytic.jitter import coupling, deviation, is_even, relative_deviation
from costmodel.analytic.operator_timing import OperatorTimer, TimedOperator, TimedWork, operator_timer
from costmodel.analytic.overlapped_comm import OverlappedComm, overlapped_comm
from costmodel.analytic.recurrence import Program, Slot, async_reduce_span, compile_schedule, makespan
from costmodel.analytic.stream_times import Perturbations, seconds_of, stream_times
from costmodel.cost.calibration import Calibration
from costmodel.quantities import Array, Count, Flop, Quantity, Seconds, is_single, maximum, where
from costmodel.workload.context import Context
from costmodel.workload.layers import ModelWork, model_work
from costmodel.workload.memory import Ledger, stage_work, training_ledger
from costmodel.workload.operators import AttentionKernel, Collective, Gemm, Group, HostTime
from costmodel.workload.optimizer import OptimizerOperators, step_operators
from costmodel.workload.plans import Training
from costmodel.workload.recompute import expand
from costmodel.workload.scenario import Scenario
from costmodel.workload.schedules import Kind, Schedule, concurrent_messages, folded_order
from costmodel.workload.stages import Stage, stage_layout
from costmodel.workload.work import LayerWork

KINDS = tuple(Kind)
ROUNDING = 1e-12  # of a makespan: what adding up the same times in another order can leave over


@dataclass(frozen=True, slots=True, eq=False)
class OptimizerStep:
    """How one rank ends the step. serial: operators one after the other; on_host: the host's update, with its copies.

    stages: those of the rank in order; last: the kind of backward pass that its last micro-batch ends with.
    """

    serial: tuple[TimedOperator, ...]
    on_host: tuple[TimedOperator, ...]
    copies: tuple[TimedOperator, ...]
    stages: tuple[Stage, ...]
    last: Kind


@dataclass(frozen=True, slots=True, eq=False)
class StepModel:
    """Everything of a step that no uncertainty changes: structure, kernel times, ledger.

    classes: the distinct stages, in the order of their labels in the program's slots; transfer: what sends a chunk's
    result to the next stage; joining: what puts its parts together there, null where each rank keeps its own; tails:
    how each kind of rank ends the step, those with equal stages being one; traffic: what moves beside the passes, null
    where nothing does.
    """

    work: ModelWork
    timed_works: Mapping[str, TimedWork]
    program: Program[Slot]
    schedule: Schedule
    layout: tuple[Stage, ...]
    classes: tuple[Stage, ...]
    p2p_send: TimedOperator
    p2p_gather: TimedOperator | None
    optimizer_steps: tuple[OptimizerStep, ...]
    overlapped_comm: OverlappedComm | None
    ledger: Ledger
    executed_flop: Flop  # of a micro-batch on one rank of each stage, all stages
    moe_comm_slowdown: Quantity = 1.0  # kernels take as much longer while expert exchanges run
    start: Seconds = 0.0  # the host takes as long for each kernel or message that it starts
    concurrent_sends: int = (
        1  # messages between stages that leave a rank at once: `transfer` is the time of all of them
    )
    expert_ranks: Count = 1.0  # that draw the loads of their experts anew for every chunk
    layers_share_imbalance: bool = False  # a micro-batch that is uneven in one layer is as uneven in all of them
    order: tuple[str, int, int, int] = ("1f1b", 1, 1, 1)  # schedule, ranks, stages a rank, micro-batches

    def works_of(self, label: int) -> list[tuple[int, LayerWork]]:
        """Return (how many, work) of each kind of layer on a class of stages."""
        return stage_work(self.work, self.classes[label])

    @property
    def host_overlaps(self) -> bool:
        """Tell whether the host exchanges weights with the device while it updates others."""
        return self.overlapped_comm is not None and self.overlapped_comm.offload.overlap


def step_model(scenario: Scenario, plan: Training, calibration: Calibration) -> StepModel:
    """Return a step with every operator priced. What fixes an order (pp, micro-batches) is one number here."""
    parallel = scenario.parallel
    pp, virtual, micro_batches = whole(parallel.pp), whole(parallel.virtual), whole(micro_batch_count(scenario, plan))
    context = training_context(scenario, plan)
    work = model_work(context)
    pricing = operator_timer(scenario, calibration)
    schedule = folded_order(plan.schedule, pp, virtual, micro_batches)
    layout = stage_layout(scenario.architecture, schedule.stages, plan.stages, plan.placement)
    classes = tuple(dict.fromkeys(layout))
    labels = tuple(classes.index(stage) for stage in layout)
    kinds = [work.embedding, *work.layers, work.head, *([] if work.mtp is None else [work.mtp])]
    on_ranks = dict.fromkeys(
        (tuple(layout[stage] for stage in stages), last_pass(plan, schedule, rank))
        for rank, stages in enumerate(schedule.placement)
    )
    together = concurrent_messages(plan.schedule)  # they share a rank's link
    neighbours = Group(parallel.pp, parallel.tp * parallel.cp * parallel.dp)
    part = together * context.tokens / parallel.tp * scenario.architecture.hidden * context.residual
    whole_again = Collective("pipeline all-gather", "all_gather", part * parallel.tp, context.tp_group)
    return StepModel(
        work=work,
        timed_works={kind.name: pricing.time_work(kind) for kind in kinds},
        program=compile_schedule(plan.schedule, pp, virtual, micro_batches, labels),
        schedule=schedule,
        layout=layout,
        classes=classes,
        p2p_send=pricing.time_operator(Collective("pipeline send", "send_recv", part, neighbours, family="send_recv")),
        p2p_gather=None if parallel.sequence_parallel else pricing.time_operator(whole_again),
        optimizer_steps=tuple(
            _tail(pricing, step_operators(context, plan, _held(work, stages), schedule.stage_replicas), stages, last)
            for stages, last in on_ranks
        ),
        overlapped_comm=overlapped_comm(scenario, plan, context, work, schedule.stage_replicas, pricing),
        ledger=training_ledger(context, plan, work, schedule, layout),
        executed_flop=executed_flop(work, layout),
        moe_comm_slowdown=scenario.framework.comm_slowdown(scenario.communication.processors),
        start=scenario.framework.host.operator,
        concurrent_sends=together,
        expert_ranks=context.ep_group.size if _by_chance(scenario) else 1.0,
        layers_share_imbalance=scenario.communication.expert_load is not None,
        order=(plan.schedule, pp, virtual, micro_batches),
    )


def _tail(pricing: OperatorTimer, ending: OptimizerOperators, stages: tuple[Stage, ...], last: Kind) -> OptimizerStep:
    """Return how a rank ends the step, priced."""
    serial, on_host, copies = (
        pricing.time_all(part) for part in (ending.serial, ending.on_host, ending.host_transfers)
    )
    step = pricing.framework.host.step
    if np.any(np.asarray(step)):
        serial = (*serial, pricing.time_operator(HostTime("host", step, 0.0, 0.0)))
    return OptimizerStep(serial, on_host, copies, stages, last)


def _held(work: ModelWork, stages: tuple[Stage, ...]) -> list[tuple[int, LayerWork]]:
    """Return (how many, work) of each kind of layer on a rank."""
    return [part for stage in stages for part in stage_work(work, stage)]


def last_pass(plan: Training, schedule: Schedule, rank: int) -> Kind:
    """Return the pass that hides a rank's last reductions: its last weight gradients, where they run by themselves."""
    last = next(action for action in reversed(schedule.ranks[rank]) if action.backward is not None)
    return Kind.BACKWARD_WEIGHT if plan.overlaps_communication and last.kind is Kind.BACKWARD_WEIGHT else Kind.BACKWARD


def micro_batch_count(scenario: Scenario, plan: Training) -> Quantity:
    """Return how many micro-batches a pipeline runs a step: global_batch / (dp * micro_batch)."""
    return plan.global_batch / (scenario.parallel.dp * plan.micro_batch)


def training_context(scenario: Scenario, plan: Training) -> Context:
    """Return one rank's view of one micro-batch."""
    return Context(
        architecture=scenario.architecture,
        parallel=scenario.parallel,
        precision=scenario.precision,
        communication=scenario.communication,
        framework=scenario.framework,
        phase="training",
        sequences=plan.micro_batch,
        new_tokens=plan.sequence,
        kv_len=plan.sequence,
        recompute=expand(plan.recompute),
        offload=scenario.offload,
        routing=scenario.routing,
        node_devices=scenario.cluster.node.count,
        micro_batches=micro_batch_count(scenario, plan),
    )


def executed_flop(work: ModelWork, layout: tuple[Stage, ...]) -> Flop:
    """Return the FLOP that one rank of each stage executes for a micro-batch, recomputation and MTP included.

    Routed experts' work is that of the fullest rank; over its load it is that of the mean one.
    """
    total: Quantity = 0.0
    for stage, alike in Counter(layout).items():
        for count, part in stage_work(work, stage):
            for operator in (*part.forward, *part.input_gradient, *part.weight_gradient):
                if isinstance(operator, Gemm):
                    total = total + alike * count * operator.flop / operator.expert_load
                elif isinstance(operator, AttentionKernel):
                    total = total + alike * count * operator.flop
    return total


def whole(value: Quantity) -> int:
    """Return a count that is the same at every point as an int."""
    return int(value.flat[0]) if isinstance(value, np.ndarray) else int(value)


@dataclass(frozen=True, slots=True, eq=False)
class StepTimes:
    """Seconds of a step. `by_kind` are means over pipeline ranks; with bubble and optimizer they sum to the step.

    host: of the optimizer's, those of the host's own update, in which devices compute nothing.
    """

    step: Seconds
    by_kind: Mapping[str, Seconds]
    bubble: Seconds
    optimizer: Seconds
    exposed_communication: Seconds
    host: Seconds


@dataclass(frozen=True, slots=True, eq=False)
class OptimizerTimes:
    """Seconds in which a rank ends the step; of them, kernels of its device, and its host's update."""

    seconds: Seconds
    kernels: Seconds
    host: Seconds


def step_times(step: StepModel, moves: Perturbations) -> StepTimes:
    """Return the step's time, families moved within their spread as `moves` says.

        step = makespan of the schedule + max over ranks of (what is left of reductions and gathers + optimizer)

    Lone chunks run one pass and then its exchanges; a DualPipe pair runs the computation of both and hides their
    exchanges behind it, which slow it down: max(exchange, compute + contention). What moves beside a pass makes it
    longer as far as it is not hidden, in it or, of reductions that run on, in those that follow.
    """
    layers = layer_sums(step, moves)
    passes = pass_times(step, layers, moves)
    return _reported(step.program, passes, optimizer_times(step, layers, moves))


@dataclass(frozen=True, slots=True, eq=False)
class StepPasses:
    """How the passes of a step go [s]. span: until the last is done; left: what reductions that run on take longer.

    durations, kernels: of the actions of each slot, at each point; durations hold the waits for reductions before, as
    means.
    """

    span: Array
    left: Seconds
    durations: Array
    kernels: Array


def pass_times(step: StepModel, layers: Mapping[str, PassSums], moves: Perturbations) -> StepPasses:
    """Return how the passes of a step go. layers: the times of one layer of each kind."""
    stages = [stage_sums(stage_work(step.work, stage), layers) for stage in step.classes]
    slots = [_slot_times(step, slot, stages, layers, moves) for slot in step.program.slots]
    send = arrival(step, moves)
    rows = [(*slot.parts, slot.kernels) for slot in slots]
    shape = np.broadcast_shapes(*(np.shape(part) for row in rows for part in row), np.shape(send))
    times = np.empty((4, len(slots), *shape))
    for at, row in enumerate(rows):
        for part, value in enumerate(row):
            times[part, at] = value
    head, rest, trail, kernels = times.reshape(4, len(slots), -1)
    transfer = np.broadcast_to(send, shape).reshape(-1) if step.schedule.stages > 1 else 0.0
    idle = np.zeros_like(head)
    for slot, longer in jitter(step, layers).items():
        idle[step.program.slots.index(slot)] = np.broadcast_to(longer, shape).reshape(-1)
    reduces = [slot.reducing is not None for slot in slots]
    if not any(reduces):
        return StepPasses(makespan(step.program, head + idle, transfer).reshape(shape), 0.0, head, kernels)
    found = async_reduce_span(
        step.program, reduces, (head, rest + idle, trail - idle), transfer
    )  # reductions go on meanwhile
    durations = head + rest + found.waits
    return StepPasses(found.span.reshape(shape), found.left.reshape(shape), durations, kernels)


def arrival(step: StepModel, moves: Perturbations) -> Seconds:
    """Return the time from a chunk's result to the next stage's start with it.

        bytes = together * tokens / tp * d * e;      then an all-gather of tp such parts, unless sequences are split

    All ranks of a tensor-parallel group hold the same result unless sequences are split among them: each sends its part
    over its own NIC. [Narayanan et al., arXiv 2104.04473, section 4.1; DeepSpeed, runtime/pipe/engine.py,
    is_pipe_partitioned]
    """
    sent = seconds_of(step.p2p_send, moves)
    return sent if step.p2p_gather is None else sent + seconds_of(step.p2p_gather, moves)


def jitter(step: StepModel, layers: Mapping[str, PassSums]) -> dict[Slot, Seconds]:
    """Return by how much each action is longer for the pace of the pipeline, since chunks jitter about their mean time.

    The share of an action's standard deviation that the schedule loses; ranks are not busy meanwhile. A stated load
    comes from the texts of a micro-batch, which all layers pass; alike experts are uneven by chance, anew in each.
    """
    alone = is_single(step.expert_ranks) and step.expert_ranks == 1
    if alone or is_even({name: (each.forward, each.backward) for name, each in layers.items()}):
        return {}
    alike, relative = step.layers_share_imbalance, relative_deviation(step.expert_ranks)
    lost = coupling(*step.order, alike=alike)
    longer: dict[Slot, Seconds] = {}
    for slot in step.program.slots:
        made = [(slot.forward, Kind.FORWARD), (slot.backward, _of_pair(slot.kind))]
        passes = [
            [(count, pass_of(layers[work.name], kind)) for count, work in step.works_of(label)]
            for label, kind in made
            if label is not None
        ]
        longer[slot] = lost * deviation(passes, relative, alike=alike)
    return longer


def _by_chance(scenario: Scenario) -> bool:
    """Tell whether experts are uneven by chance: as a stated load is taken to be, and as alike experts are."""
    return scenario.communication.expert_load is not None or scenario.routing.load == "uniform"


def _of_pair(kind: Kind) -> Kind:
    """Return the backward pass that an action of that kind makes."""
    return Kind.BACKWARD if kind is Kind.FORWARD_BACKWARD else kind


def layer_sums(step: StepModel, moves: Perturbations) -> dict[str, PassSums]:
    """Return the times of the passes of one layer of each kind."""
    return {
        name: PassSums(
            *(stream_times(part, moves) for part in (work.forward, work.input_gradient, work.weight_gradient))
        )
        for name, work in step.timed_works.items()
    }


def optimizer_times(step: StepModel, layers: Mapping[str, PassSums], moves: Perturbations) -> list[OptimizerTimes]:
    """Return the times of the end of the step of each kind of rank."""
    found = []
    for tail in step.optimizer_steps:
        left = sum(once_a_step(step, tail, layers, moves))
        serial, host = stream_times(tail.serial, moves), stream_times(tail.on_host, moves).kernels
        copies = stream_times(tail.copies, moves).collectives
        beside = maximum(host, copies) if step.host_overlaps else host + copies
        found.append(OptimizerTimes(serial.compute + beside + left, serial.kernels, host))
    return found


def once_a_step(
    step: StepModel, tail: OptimizerStep, layers: Mapping[str, PassSums], moves: Perturbations
) -> tuple[Seconds, Seconds]:
    """Return what a rank's gathers for the first forward pass, and its reductions beside the last backward pass, add.

    Only the passes of one micro-batch hide them: those of all stages of the rank, one after the other, and of the last
    one the weight gradients where they run by themselves.
    """
    traffic = step.overlapped_comm
    if traffic is None or not traffic.plan.overlaps_communication:
        return 0.0, 0.0
    stages = [stage_work(step.work, stage) for stage in tail.stages]
    added = []
    for kind in (Kind.FORWARD, tail.last):
        compute = lone_seconds(layers, kind)
        passes = [traffic.lone_pass(stages, kind, compute, moves, ends=ends) for ends in (True, False)]
        added.append(maximum(passes[0] - passes[1], 0.0))
    return added[0], added[1]


def _reported(program: Program[Slot], passes: StepPasses, tails: Sequence[OptimizerTimes]) -> StepTimes:
    """Return the step from the schedule's makespan and what its slots sum to, as means over ranks."""
    counts, slots, span = program.mean_counts, program.slots, passes.span
    share = np.array(
        [[count if slot.kind is kind else 0.0 for slot, count in zip(slots, counts, strict=True)] for kind in KINDS]
    )
    by_kind = share @ passes.durations
    busy = by_kind.sum(axis=0)
    tail: Quantity = 0.0
    waiting: Quantity = 0.0
    host: Quantity = 0.0
    for end in tails:
        later = end.seconds > tail
        waiting = where(later, end.seconds - end.kernels - end.host, waiting)
        host = where(later, end.host, host)
        tail = maximum(tail, end.seconds)
    tail, waiting = passes.left + tail, passes.left + waiting
    return StepTimes(
        span + tail,
        {kind.value: row.reshape(span.shape) for kind, row in zip(KINDS, by_kind, strict=True)},
        _idle(span, busy.reshape(span.shape)),
        tail,
        (busy - counts @ passes.kernels).reshape(span.shape) + waiting,
        host,
    )


def _idle(span: Array, busy: Array) -> Array:
    """Return the time that ranks wait, on average; what is below rounding is none."""
    idle = span - busy
    return np.where(idle > ROUNDING * span, idle, 0.0)


def slot_times(step: StepModel, slot: Slot, moves: Perturbations) -> ActionTimes:
    """Return the times of one kind of action, without what it waits for reductions of earlier ones."""
    layers = layer_sums(step, moves)
    stages = [stage_sums(stage_work(step.work, stage), layers) for stage in step.classes]
    return _slot_times(step, slot, stages, layers, moves)


def _slot_times(
    step: StepModel, slot: Slot, stages: Sequence[PassSums], layers: Mapping[str, PassSums], moves: Perturbations
) -> ActionTimes:
    """Return the times of one kind of action. stages: the times of each class of stages."""
    traffic, runs_on = (
        step.overlapped_comm,
        step.overlapped_comm is not None and step.overlapped_comm.has_async_reduce(slot.kind),
    )
    if slot.forward is not None and slot.backward is not None:
        both = stages[slot.forward].forward + stages[slot.backward].backward
        slower = all_to_all_contention(both, step.moe_comm_slowdown)
        compute, kernels = both.compute + slower, both.kernels + slower
        compute = maximum(compute, step.start * both.starts)
        if traffic is None:
            return ActionTimes(maximum(compute, both.expert_all_to_alls), kernels)
        works = step.works_of(slot.forward), step.works_of(slot.backward)
        if runs_on:
            return settling(traffic.async_reduce_pair(*works, compute, both.expert_all_to_alls, moves), kernels, 0.0)
        return ActionTimes(traffic.overlapped_pair(*works, compute, both.expert_all_to_alls, moves), kernels)
    label = slot.backward if slot.forward is None else slot.forward
    assert label is not None, "an action works on a stage"
    lone = pass_of(stages[label], slot.kind)
    started = step.start * lone.starts
    if traffic is None:
        return ActionTimes(maximum(lone.total, started), lone.kernels)
    alone, works_of = lone_seconds(layers, slot.kind), step.works_of(label)
    if runs_on and works_of:
        return settling(traffic.async_reduce_pass(works_of, slot.kind, alone, moves), lone.kernels, started)
    beside = traffic.lone_pass([works_of], slot.kind, alone, moves)
    return ActionTimes(maximum(beside, started), lone.kernels)
