"""One training step: the schedule's recurrence over stage times, then gradient reduction and optimizer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from costmodel.analytic.actions import (
    ActionTimes,
    LayerTimes,
    all_to_all_contention,
    layer_seconds,
    stage_times,
    with_async_reduce,
)
from costmodel.analytic.jitter import coupling, deviation, is_balanced, relative_deviation
from costmodel.analytic.layer_overlap import async_reduce_times
from costmodel.analytic.operator_timing import OperatorTimer, TimedOperator, TimedWork, operator_timer
from costmodel.analytic.overlapped_comm import OverlappedComm, overlapped_comm
from costmodel.analytic.recurrence import Program, Slot, async_reduce_span, compile_schedule, makespan
from costmodel.analytic.stream_times import Perturbations, seconds_of, stream_times
from costmodel.cost.calibration import Calibration
from costmodel.cost.power import work_joules
from costmodel.quantities import Array, Count, Flop, Joules, Quantity, Seconds, is_single, maximum, uniform_int, where
from costmodel.workload.context import Context
from costmodel.workload.layers import ModelWork, model_work
from costmodel.workload.memory import Ledger, stage_work, training_ledger
from costmodel.workload.operators import AttentionKernel, Collective, Gemm, Group, HostTime
from costmodel.workload.optimizer import OptimizerOperators, step_operators
from costmodel.workload.plans import Training
from costmodel.workload.recompute import expand
from costmodel.workload.scenario import Scenario
from costmodel.workload.schedules import Kind, Schedule, SteadyState, concurrent_messages, folded_order, steady_state
from costmodel.workload.stages import Stage, stage_layout
from costmodel.workload.work import LayerWork

Order: TypeAlias = "tuple[str, int, int, int]"  # (schedule, ranks, stages per rank, micro-batches)
KINDS = tuple(Kind)
ROUNDING = 1e-12  # of a makespan: difference between sums of the same times in another order


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Pipeline:
    """The order of a step's actions.

    schedule: actions of each rank, symmetric ranks folded into one
    program: recurrence of the schedule
    layout: all stages in order
    classes: distinct stages; their positions are the labels in the program's slots
    """

    order: Order
    schedule: Schedule
    program: Program[Slot]
    layout: tuple[Stage, ...]
    classes: tuple[Stage, ...]


@dataclass(frozen=True, slots=True, eq=False)
class StageMessages:
    """Point-to-point messages between pipeline stages.

    send: what sends a chunk's result to the next stage
    gather: what gathers its tensor-parallel parts there, null where each rank keeps its own
    concurrent: sends that leave a rank at once; `send` is the time of all of them
    """

    send: TimedOperator
    gather: TimedOperator | None
    concurrent: int = 1

    def seconds(self, perturbations: Perturbations) -> Seconds:
        """Return the time from a chunk's result to the next stage's start with it.

            bytes = concurrent * tokens / tp * d * e;  then an all-gather of tp such parts, unless sequences are split

        All ranks of a tensor-parallel group hold the same result unless sequences are split among them: each sends its
        part over its own NIC. [Narayanan et al., arXiv 2104.04473, section 4.1; DeepSpeed, runtime/pipe/engine.py,
        is_pipe_partitioned]
        """
        sent = seconds_of(self.send, perturbations)
        return sent if self.gather is None else sent + seconds_of(self.gather, perturbations)


@dataclass(frozen=True, slots=True, eq=False)
class ExpertImbalance:
    """Expert load that varies between chunks.

    ranks: expert-parallel ranks that draw the loads of their experts, 1 where nothing varies
    shared_by_layers: a micro-batch draws once for all layers, not anew in each
    """

    ranks: Count = 1.0
    shared_by_layers: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class OptimizerStep:
    """How one kind of rank ends the step.

    serial: operators one after the other; on_host: the host's update; copies: its transfers
    stages: those of the rank in order; last: the kind of backward pass that ends its last micro-batch
    """

    serial: tuple[TimedOperator, ...]
    on_host: tuple[TimedOperator, ...]
    copies: tuple[TimedOperator, ...]
    stages: tuple[Stage, ...]
    last: Kind


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class StepModel:
    """A step without perturbations: structure, operator times, ledger.

    timed_works: passes of each kind of layer by name
    optimizer_steps: of each kind of rank; ranks with equal stages and last pass are one kind
    overlapped_comm: communication that passes overlap, null where there is none
    executed_flop: per micro-batch on one rank of each stage, all stages [FLOP]
    moe_comm_slowdown: factor on kernel times while expert all-to-alls run
    joules: of the work of a device in a step, mean over pipeline ranks, without optimizer and reductions [J]
    launch_time: of the host for each kernel or message [s]
    """

    work: ModelWork
    timed_works: Mapping[str, TimedWork]
    pipeline: Pipeline
    p2p: StageMessages
    optimizer_steps: tuple[OptimizerStep, ...]
    overlapped_comm: OverlappedComm | None
    imbalance: ExpertImbalance
    ledger: Ledger
    executed_flop: Flop
    moe_comm_slowdown: Quantity = 1.0
    joules: Joules = 0.0
    launch_time: Seconds = 0.0

    def works_of(self, label: int) -> list[tuple[int, LayerWork]]:
        """Return (how many, work) of each kind of layer on a class of stages."""
        return stage_work(self.work, self.pipeline.classes[label])

    @property
    def host_overlaps(self) -> bool:
        """Tell whether the host exchanges weights with the device while it updates others."""
        return self.overlapped_comm is not None and self.overlapped_comm.offload.overlap


def step_model(scenario: Scenario, plan: Training, calibration: Calibration) -> StepModel:
    """Return a step with every operator timed. Its pipeline stages and micro-batches are the same at every point."""
    context = training_context(scenario, plan)
    work = model_work(context)
    timer = operator_timer(scenario, calibration)
    pipeline = _pipeline(scenario, plan)
    schedule, layout = pipeline.schedule, pipeline.layout
    copies = schedule.stage_replicas
    kinds_of_ranks = dict.fromkeys(
        (tuple(layout[stage] for stage in stages), last_pass(plan, schedule, rank))
        for rank, stages in enumerate(schedule.placement)
    )
    is_random = scenario.communication.expert_load is not None or scenario.routing.load == "uniform"
    return StepModel(
        work=work,
        timed_works={kind.name: timer.time_work(kind) for kind in work.kinds},
        pipeline=pipeline,
        p2p=_stage_messages(scenario, plan, context, timer),
        optimizer_steps=tuple(
            _optimizer_step(timer, step_operators(context, plan, _rank_work(work, stages), copies), stages, last)
            for stages, last in kinds_of_ranks
        ),
        overlapped_comm=overlapped_comm(scenario, plan, context, work, copies, timer),
        imbalance=ExpertImbalance(
            context.ep_group.size if is_random else 1.0, scenario.communication.expert_load is not None
        ),
        ledger=training_ledger(context, plan, work, schedule, layout),
        executed_flop=executed_flop(work, layout),
        moe_comm_slowdown=scenario.framework.comm_slowdown(scenario.communication),
        launch_time=scenario.framework.host.operator,
        joules=step_joules(work, layout, scenario, schedule.micro_batches),
    )


def step_schedule(scenario: Scenario, plan: Training) -> tuple[Order, Schedule, tuple[Stage, ...]]:
    """Return the order of a step, its schedule and the layers of each stage; the schedule in its steady state."""
    parallel, count = scenario.parallel, micro_batch_count(scenario, plan)
    order = (plan.schedule, uniform_int(parallel.pp), uniform_int(parallel.virtual), uniform_int(count))
    schedule = folded_order(*order[:-1], steady_state(*order).shorter)
    return order, schedule, stage_layout(scenario.architecture, schedule.stages, plan.stages, plan.placement)


def _pipeline(scenario: Scenario, plan: Training) -> Pipeline:
    """Return the pipeline of a step."""
    order, schedule, layout = step_schedule(scenario, plan)
    classes = tuple(dict.fromkeys(layout))
    program = compile_schedule(*order, tuple(classes.index(stage) for stage in layout))
    return Pipeline(order=order, schedule=schedule, program=program, layout=layout, classes=classes)


def _stage_messages(scenario: Scenario, plan: Training, context: Context, timer: OperatorTimer) -> StageMessages:
    """Return the messages between the stages of a step."""
    parallel, concurrent = scenario.parallel, concurrent_messages(plan.schedule)  # they share a rank's link
    neighbours = Group(parallel.pp, parallel.tp * parallel.cp * parallel.dp)
    width = scenario.architecture.streams * scenario.architecture.hidden
    part = concurrent * context.tokens / parallel.tp * width * context.residual
    send = timer.time_operator(Collective("pipeline send", "send_recv", part, neighbours, family="send_recv"))
    if parallel.sequence_parallel:
        return StageMessages(send, None, concurrent)
    gather = Collective("pipeline all-gather", "all_gather", part * parallel.tp, context.tp_group)
    return StageMessages(send, timer.time_operator(gather), concurrent)


def _optimizer_step(
    timer: OperatorTimer, operators: OptimizerOperators, stages: tuple[Stage, ...], last: Kind
) -> OptimizerStep:
    """Return how a kind of rank ends the step."""
    serial, on_host, copies = map(timer.time_all, (operators.serial, operators.on_host, operators.host_transfers))
    step = timer.framework.host.step
    if np.any(np.asarray(step)):
        serial = (*serial, timer.time_operator(HostTime("host", step, 0.0, 0.0)))
    return OptimizerStep(serial, on_host, copies, stages, last)


def _rank_work(work: ModelWork, stages: tuple[Stage, ...]) -> list[tuple[int, LayerWork]]:
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

    Routed experts are counted at the mean load: the work of the busiest rank over its load.
    """
    total: Quantity = 0.0
    for stage, copies in Counter(layout).items():
        for count, part in stage_work(work, stage):
            for operator in (*part.forward, *part.input_gradient, *part.weight_gradient):
                if isinstance(operator, Gemm):
                    total = total + copies * count * operator.flop / operator.expert_load
                elif isinstance(operator, AttentionKernel):
                    total = total + copies * count * operator.flop
    return total


def step_joules(work: ModelWork, layout: tuple[Stage, ...], scenario: Scenario, micro_batches: Count) -> Joules:
    """Return the energy of the work of a device in a step, the mean over pipeline ranks, recomputation included."""
    power = scenario.cluster.device.power
    total: Quantity = 0.0
    for stage, copies in Counter(layout).items():
        for count, part in stage_work(work, stage):
            operators = (*part.forward, *part.input_gradient, *part.weight_gradient)
            total = total + copies * count * work_joules(operators, power)
    return total * micro_batches / scenario.parallel.pp


@dataclass(frozen=True, slots=True, eq=False)
class StepTimes:
    """Seconds of a step.

    by_kind: means over pipeline ranks; with bubble and optimizer they sum to the step
    host: of the optimizer's time, the host's own update, while devices compute nothing
    """

    step: Seconds
    by_kind: Mapping[str, Seconds]
    bubble: Seconds
    optimizer: Seconds
    exposed_communication: Seconds
    host: Seconds

    def grown(self, longer: StepTimes, steady: SteadyState) -> StepTimes:
        """Return the times of a step of many micro-batches; these and `longer` are of its two shorter ones."""
        names = ("step", "bubble", "optimizer", "exposed_communication", "host")
        rest = {name: steady.at(getattr(self, name), getattr(longer, name)) for name in names}
        kinds = {kind: steady.at(seconds, longer.by_kind[kind]) for kind, seconds in self.by_kind.items()}
        return StepTimes(by_kind=kinds, **rest)

    def scaled(self, factor: Quantity) -> StepTimes:
        """Return the times, all longer by a factor."""
        return StepTimes(
            step=self.step * factor,
            by_kind={kind: seconds * factor for kind, seconds in self.by_kind.items()},
            bubble=self.bubble * factor,
            optimizer=self.optimizer * factor,
            exposed_communication=self.exposed_communication * factor,
            host=self.host * factor,
        )


@dataclass(frozen=True, slots=True, eq=False)
class PipelineTimes:
    """Times of a step's passes [s].

    span: until the last pass is done; reduce_tail: what asynchronous reductions take beyond it
    durations, kernels: of the actions of each slot, at each point; durations hold the mean wait for earlier reductions
    """

    span: Array
    reduce_tail: Seconds
    durations: Array
    kernels: Array


@dataclass(frozen=True, slots=True, eq=False)
class OptimizerTimes:
    """Seconds in which a rank ends the step; of them, kernels of its device, and its host's update."""

    seconds: Seconds
    kernels: Seconds
    host: Seconds


@dataclass(frozen=True, slots=True, eq=False)
class StepStreams:
    """Times by stream of a step's layers, by name, and of its stages, by class, under some perturbations."""

    perturbations: Perturbations
    layers: Mapping[str, LayerTimes]
    stages: Sequence[LayerTimes]


def step_streams(step: StepModel, perturbations: Perturbations) -> StepStreams:
    """Return the times by stream of a step's layers and stages."""
    layers = {
        name: LayerTimes(
            *(stream_times(part, perturbations) for part in (work.forward, work.input_gradient, work.weight_gradient))
        )
        for name, work in step.timed_works.items()
    }
    labels = range(len(step.pipeline.classes))
    return StepStreams(perturbations, layers, [stage_times(step.works_of(label), layers) for label in labels])


def step_times(step: StepModel, perturbations: Perturbations) -> StepTimes:
    """Return the times of a step, operator families perturbed within their spread.

        step = makespan of the schedule + max over ranks of (exposed reductions and gathers + optimizer)

    A lone chunk runs its pass, then its all-to-alls. A DualPipe pair hides the all-to-alls of both chunks behind their
    computation, which they slow down: max(all-to-alls, compute + contention). Communication that is not hidden, in its
    pass or, if asynchronous, in later ones, makes passes longer.
    """
    streams = step_streams(step, perturbations)
    return _combined(step.pipeline.program, pipeline_times(step, streams), optimizer_times(step, streams))


def pipeline_times(step: StepModel, streams: StepStreams) -> PipelineTimes:
    """Return the times of a step's passes, from the recurrence of its schedule."""
    program = step.pipeline.program
    actions = [action_times(step, slot, streams) for slot in program.slots]
    p2p = step.p2p.seconds(streams.perturbations)
    rows = [(*action.parts, action.kernels) for action in actions]
    shape = np.broadcast_shapes(*(np.shape(part) for row in rows for part in row), np.shape(p2p))
    times = np.empty((4, len(actions), *shape))
    for slot_number, row in enumerate(rows):
        for part_number, value in enumerate(row):
            times[part_number, slot_number] = value
    head, rest, trail, kernels = times.reshape(4, len(actions), -1)
    transfer = np.broadcast_to(p2p, shape).reshape(-1) if step.pipeline.schedule.stages > 1 else 0.0
    idle = np.zeros_like(head)
    for slot, extra in jitter(step, streams.layers).items():
        idle[program.slots.index(slot)] = np.broadcast_to(extra, shape).reshape(-1)
    reduces = [action.async_reduce is not None for action in actions]
    if not any(reduces):
        return PipelineTimes(makespan(program, head + idle, transfer).reshape(shape), 0.0, head, kernels)
    # Reductions continue while a rank is idle.
    span = async_reduce_span(program, reduces, (head, rest + idle, trail - idle), transfer)
    return PipelineTimes(span.span.reshape(shape), span.left.reshape(shape), head + rest + span.waits, kernels)


def jitter(step: StepModel, layers: Mapping[str, LayerTimes]) -> dict[Slot, Seconds]:
    """Return the idle time that varying expert load adds to each action, as chunks vary about their mean time [s].

    The share of an action's standard deviation that the schedule loses. A stated load comes from the texts of a
    micro-batch, which all layers process; equivalent experts are uneven by chance, anew in each layer.
    """
    imbalance = step.imbalance
    is_constant = is_single(imbalance.ranks) and imbalance.ranks == 1
    if is_constant or is_balanced({name: (times.forward, times.backward) for name, times in layers.items()}):
        return {}
    shared, relative = imbalance.shared_by_layers, relative_deviation(imbalance.ranks)
    lost = coupling(*step.pipeline.order, shared=shared)
    extra: dict[Slot, Seconds] = {}
    for slot in step.pipeline.program.slots:
        backward = Kind.BACKWARD if slot.kind is Kind.FORWARD_BACKWARD else slot.kind
        passes = [
            [(count, layers[work.name].of(kind)) for count, work in step.works_of(label)]
            for label, kind in ((slot.forward, Kind.FORWARD), (slot.backward, backward))
            if label is not None
        ]
        extra[slot] = lost * deviation(passes, relative, shared=shared)
    return extra


def optimizer_times(step: StepModel, streams: StepStreams) -> list[OptimizerTimes]:
    """Return how long each kind of rank takes to end the step."""
    perturbations, times = streams.perturbations, []
    for end in step.optimizer_steps:
        exposed = sum(once_per_step(step, end, streams))
        serial, host = stream_times(end.serial, perturbations), stream_times(end.on_host, perturbations).kernels
        copies = stream_times(end.copies, perturbations).collectives
        hosted = maximum(host, copies) if step.host_overlaps else host + copies
        times.append(OptimizerTimes(serial.compute + hosted + exposed, serial.kernels, host))
    return times


def once_per_step(step: StepModel, end: OptimizerStep, streams: StepStreams) -> tuple[Seconds, Seconds]:
    """Return the exposed time of gathers in the first forward pass, and of reductions in the last backward pass.

    One micro-batch hides them: its passes through all stages of the rank, one after the other; of the last one the
    weight gradients alone, where they run by themselves.
    """
    comm = step.overlapped_comm
    if comm is None or not comm.plan.overlaps_communication:
        return 0.0, 0.0
    stages = [stage_work(step.work, stage) for stage in end.stages]
    added = []
    for kind in (Kind.FORWARD, end.last):
        compute = layer_seconds(streams.layers, kind)
        longer, usual = (
            comm.lone_pass(stages, kind, compute, streams.perturbations, once_per_step=once) for once in (True, False)
        )
        added.append(maximum(longer - usual, 0.0))
    return added[0], added[1]


def _combined(program: Program[Slot], pipeline: PipelineTimes, ends: Sequence[OptimizerTimes]) -> StepTimes:
    """Return the times of a step, means over ranks, from those of its passes and of its ends."""
    counts, slots, span = program.mean_counts, program.slots, pipeline.span
    share = np.array(
        [[count if slot.kind is kind else 0.0 for slot, count in zip(slots, counts, strict=True)] for kind in KINDS]
    )
    by_kind = share @ pipeline.durations
    busy = by_kind.sum(axis=0)
    slowest: Quantity = 0.0
    waiting: Quantity = 0.0
    host: Quantity = 0.0
    for end in ends:
        is_slower = end.seconds > slowest
        waiting = where(is_slower, end.seconds - end.kernels - end.host, waiting)
        host = where(is_slower, end.host, host)
        slowest = maximum(slowest, end.seconds)
    optimizer, waiting = pipeline.reduce_tail + slowest, pipeline.reduce_tail + waiting
    idle = span - busy.reshape(span.shape)
    return StepTimes(
        step=span + optimizer,
        by_kind={kind.value: row.reshape(span.shape) for kind, row in zip(KINDS, by_kind, strict=True)},
        bubble=np.where(idle > ROUNDING * span, idle, 0.0),
        optimizer=optimizer,
        exposed_communication=(busy - counts @ pipeline.kernels).reshape(span.shape) + waiting,
        host=host,
    )


def action_times(step: StepModel, slot: Slot, streams: StepStreams) -> ActionTimes:
    """Return the times of one kind of action, without its wait for earlier reductions."""
    comm, perturbations = step.overlapped_comm, streams.perturbations
    if slot.forward is not None and slot.backward is not None:
        pair = streams.stages[slot.forward].forward + streams.stages[slot.backward].backward
        slower = all_to_all_contention(pair, step.moe_comm_slowdown)
        compute, kernels = pair.compute + slower, pair.kernels + slower
        compute, all_to_alls = maximum(compute, step.launch_time * pair.launches), pair.expert_all_to_alls
        if comm is None:
            return ActionTimes(maximum(compute, all_to_alls), kernels)
        works = step.works_of(slot.forward), step.works_of(slot.backward)
        if comm.has_async_reduce(slot.kind):
            return with_async_reduce(comm.async_reduce_pair(works, compute, all_to_alls, perturbations), kernels, 0.0)
        return ActionTimes(comm.overlapped_pair(works, compute, all_to_alls, perturbations), kernels)
    label = lone_stage(slot)
    lone = streams.stages[label].of(slot.kind)
    launches = step.launch_time * lone.launches
    if comm is None:
        return ActionTimes(maximum(lone.total, launches), lone.kernels)
    stage, compute_of = step.works_of(label), layer_seconds(streams.layers, slot.kind)
    if comm.has_async_reduce(slot.kind) and stage:
        chain = comm.chain([stage], slot.kind, compute_of, perturbations)
        return with_async_reduce(async_reduce_times(chain), lone.kernels, launches)
    return ActionTimes(maximum(comm.lone_pass([stage], slot.kind, compute_of, perturbations), launches), lone.kernels)


def lone_stage(slot: Slot) -> int:
    """Return the class of stages that an action of a single chunk works on."""
    label = slot.backward if slot.forward is None else slot.forward
    assert label is not None, "an action works on a stage"
    return label
