"""One training step: the schedule's recurrence over stage times, then gradient reduction and optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from costmodel.analytic.pricing import Priced, PricedWork, pricer
from costmodel.analytic.recurrence import Program, Slot, compile_schedule, makespan
from costmodel.analytic.sums import NO_TIME, Moves, Sums, seconds_of, sums_of
from costmodel.cost.calibration import Calibration
from costmodel.quantities import Array, Flop, Quantity, Seconds, maximum, where
from costmodel.workload.context import Context
from costmodel.workload.layers import ModelWork, model_work
from costmodel.workload.memory import Ledger, stage_work, training_ledger
from costmodel.workload.operators import AttentionCore, Collective, Gemm, Group
from costmodel.workload.optimizer import step_operators
from costmodel.workload.recompute import expand
from costmodel.workload.scenario import Scenario, Training
from costmodel.workload.schedules import Kind, Schedule, folded_order
from costmodel.workload.stages import Stage, stage_layout

KINDS = tuple(Kind)
ROUNDING = 1e-12  # of a makespan: what adding up the same times in another order can leave over


@dataclass(frozen=True, slots=True, eq=False)
class PricedStep:
    """Everything of a step that no uncertainty changes: structure, kernel times, ledger.

    classes: the distinct stages, in the order of their labels in the program's slots; tails: gradient reduction and
    optimizer of each kind of rank, those with equal stages being one.
    """

    work: ModelWork
    priced: Mapping[str, PricedWork]
    program: Program[Slot]
    schedule: Schedule
    layout: tuple[Stage, ...]
    classes: tuple[Stage, ...]
    transfer: Priced
    tails: tuple[tuple[Priced, ...], ...]
    ledger: Ledger
    executed_flop: Flop  # of a micro-batch on one rank of each stage, all stages


def price_step(scenario: Scenario, plan: Training, calibration: Calibration) -> PricedStep:
    """Return a step with every operator priced. What fixes an order (pp, micro-batches) is one number here."""
    parallel = scenario.parallel
    pp, virtual, micro_batches = whole(parallel.pp), whole(parallel.virtual), whole(micro_batch_count(scenario, plan))
    context = training_context(scenario, plan)
    work = model_work(context)
    pricing = pricer(scenario, calibration)
    schedule = folded_order(plan.schedule, pp, virtual, micro_batches)
    layout = stage_layout(scenario.architecture, schedule.stages, plan.stages, plan.placement)
    classes = tuple(dict.fromkeys(layout))
    labels = tuple(classes.index(stage) for stage in layout)
    kinds = [work.embedding, *work.layers, work.head, *([] if work.mtp is None else [work.mtp])]
    on_ranks = dict.fromkeys(tuple(layout[stage] for stage in stages) for stages in schedule.placement)
    held = [[part for stage in stages for part in stage_work(work, stage)] for stages in on_ranks]
    message = context.stream_tokens * scenario.architecture.hidden * context.residual
    neighbours = Group(parallel.pp, parallel.tp * parallel.cp * parallel.dp)
    return PricedStep(
        work,
        {kind.name: pricing.price_work(kind) for kind in kinds},
        compile_schedule(plan.schedule, pp, virtual, micro_batches, labels),
        schedule,
        layout,
        classes,
        pricing.price(Collective("pipeline send", "send_recv", message, neighbours, family="send_recv")),
        tuple(
            pricing.price_all(step_operators(context, plan, parts, schedule.parameter_copies, micro_batches))
            for parts in held
        ),
        training_ledger(context, plan, work, schedule, layout),
        executed_flop(work, layout),
    )


def micro_batch_count(scenario: Scenario, plan: Training) -> Quantity:
    """Return how many micro-batches a pipeline runs a step: global_batch / (dp * micro_batch)."""
    return plan.global_batch / (scenario.parallel.dp * plan.micro_batch)


def training_context(scenario: Scenario, plan: Training) -> Context:
    """Return one rank's view of one micro-batch."""
    return Context(
        scenario.architecture,
        scenario.parallel,
        scenario.precision,
        scenario.communication,
        scenario.framework,
        "training",
        plan.micro_batch,
        plan.sequence,
        plan.sequence,
        expand(plan.recompute),
        routing=scenario.routing,
        node_devices=scenario.cluster.node.count,
    )


def executed_flop(work: ModelWork, layout: tuple[Stage, ...]) -> Flop:
    """Return the FLOP that one rank of each stage executes for a micro-batch, recomputation and MTP included.

    Routed experts' work is that of the fullest rank; over its load it is that of the mean one.
    """
    total: Quantity = 0.0
    for stage in layout:
        for count, part in stage_work(work, stage):
            for operator in (*part.forward, *part.input_gradient, *part.weight_gradient):
                if isinstance(operator, Gemm):
                    total = total + count * operator.flop / operator.load
                elif isinstance(operator, AttentionCore):
                    total = total + count * operator.flop
    return total


def whole(value: Quantity) -> int:
    """Return a count that is the same at every point as an int."""
    return int(value.flat[0]) if isinstance(value, np.ndarray) else int(value)


@dataclass(frozen=True, slots=True, eq=False)
class StepTimes:
    """Seconds of a step. `by_kind` are means over pipeline ranks; with bubble and optimizer they sum to the step."""

    step: Seconds
    by_kind: Mapping[str, Seconds]
    bubble: Seconds
    optimizer: Seconds
    exposed_communication: Seconds


@dataclass(frozen=True, slots=True, eq=False)
class PassSums:
    """Times of a layer or a stage: forward, input gradient, weight gradient."""

    forward: Sums = NO_TIME
    input_gradient: Sums = NO_TIME
    weight_gradient: Sums = NO_TIME

    @property
    def backward(self) -> Sums:
        """Return both gradients together."""
        return self.input_gradient + self.weight_gradient


def step_times(step: PricedStep, moves: Moves) -> StepTimes:
    """Return the step's time, families moved within their spread as `moves` says.

        step = makespan of the schedule + max over ranks of (gradient reduction + optimizer)

    Lone chunks run one pass and then its exchanges; a DualPipe pair runs the computation of both and hides their
    exchanges behind it: max(compute, exchange).
    """
    layers = {
        name: PassSums(*(sums_of(part, moves) for part in (work.forward, work.input_gradient, work.weight_gradient)))
        for name, work in step.priced.items()
    }
    stages = [_stage_sums(step, stage, layers) for stage in step.classes]
    slots = [_slot_times(slot, stages) for slot in step.program.slots]
    send = seconds_of(step.transfer, moves)
    shape = np.broadcast_shapes(*(np.shape(part) for pair in slots for part in pair), np.shape(send))
    durations, kernels = np.empty((2, len(slots), *shape))
    for row, (duration, kernel) in enumerate(slots):
        durations[row], kernels[row] = duration, kernel
    flat = durations.reshape(len(slots), -1)
    transfer = np.broadcast_to(send, shape).reshape(-1) if step.schedule.stages > 1 else 0.0
    span = makespan(step.program, flat, transfer).reshape(shape)
    tails = [sums_of(tail, moves) for tail in step.tails]
    return _reported(step.program, span, flat, kernels.reshape(len(slots), -1), tails)


def _reported(program: Program[Slot], span: Array, durations: Array, kernels: Array, tails: list[Sums]) -> StepTimes:
    """Return the step from the schedule's makespan and what its slots sum to, as means over ranks."""
    counts, slots = program.mean_counts, program.slots
    share = np.array(
        [[count if slot.kind is kind else 0.0 for slot, count in zip(slots, counts, strict=True)] for kind in KINDS]
    )
    by_kind = share @ durations
    busy = by_kind.sum(axis=0)
    tail: Quantity = 0.0
    waiting: Quantity = 0.0
    for sums in tails:
        waiting = where(sums.compute > tail, sums.collectives, waiting)
        tail = maximum(tail, sums.compute)
    return StepTimes(
        span + tail,
        {kind.value: row.reshape(span.shape) for kind, row in zip(KINDS, by_kind, strict=True)},
        _idle(span, busy.reshape(span.shape)),
        tail,
        (busy - counts @ kernels).reshape(span.shape) + waiting,
    )


def _idle(span: Array, busy: Array) -> Array:
    """Return the time that ranks wait, on average; what is below rounding is none."""
    idle = span - busy
    return np.where(idle > ROUNDING * span, idle, 0.0)


def _stage_sums(step: PricedStep, stage: Stage, layers: Mapping[str, PassSums]) -> PassSums:
    """Return the times of one kind of stage: those of its layers added up."""
    total = PassSums()
    for count, part in stage_work(step.work, stage):
        layer = layers[part.name]
        total = PassSums(
            total.forward + layer.forward.times(count),
            total.input_gradient + layer.input_gradient.times(count),
            total.weight_gradient + layer.weight_gradient.times(count),
        )
    return total


def _slot_times(slot: Slot, stages: list[PassSums]) -> tuple[Seconds, Seconds]:
    """Return the (duration, kernel time) of one kind of action."""
    forward = NO_TIME if slot.forward is None else stages[slot.forward].forward
    if slot.backward is None:
        return forward.total, forward.kernels
    stage = stages[slot.backward]
    if slot.kind is Kind.FORWARD_BACKWARD:
        both = forward + stage.backward
        return maximum(both.compute, both.exchanges), both.kernels
    lone = {
        Kind.BACKWARD: stage.backward,
        Kind.BACKWARD_INPUT: stage.input_gradient,
        Kind.BACKWARD_WEIGHT: stage.weight_gradient,
    }[slot.kind]
    return lone.total, lone.kernels
