"""One training step: the schedule's recurrence over stage times, then gradient reduction and optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from costmodel.analytic.pricing import Priced, PricedWork, Scales, Sums, combine, pricer, sums_of
from costmodel.analytic.recurrence import Program, Slot, compile_schedule, makespan
from costmodel.cost.calibration import Calibration
from costmodel.quantities import Array, Flop, Quantity, Seconds, maximum
from costmodel.workload.context import Context
from costmodel.workload.layers import ModelWork, model_work
from costmodel.workload.memory import Ledger, stage_work, training_ledger
from costmodel.workload.operators import Collective, Group
from costmodel.workload.optimizer import step_operators
from costmodel.workload.recompute import expand
from costmodel.workload.scenario import Scenario, Training
from costmodel.workload.schedules import Kind, Schedule, folded_order
from costmodel.workload.stages import Stage, stage_layout

KINDS = tuple(Kind)


@dataclass(frozen=True, slots=True, eq=False)
class PricedStep:
    """Everything of a step that no uncertain scale changes: structure, kernel times, ledger.

    classes: the distinct stages, in the order of their labels in the program's slots; tails: gradient reduction and
    optimizer of each (folded) rank.
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
    layout = stage_layout(scenario.architecture, schedule.stages, plan.stages)
    classes = tuple(dict.fromkeys(layout))
    labels = tuple(classes.index(stage) for stage in layout)
    kinds = [work.embedding, *work.layers, work.head, *([] if work.mtp is None else [work.mtp])]
    held = [
        [part for stage in schedule.stages_of(rank) for part in stage_work(work, layout[stage])]
        for rank in range(len(schedule.ranks))
    ]
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
    )


def executed_flop(work: ModelWork, layout: tuple[Stage, ...]) -> Flop:
    """Return the FLOP that one rank of each stage executes for a micro-batch, recomputation and MTP included."""
    total: Quantity = 0.0
    for stage in layout:
        for count, part in stage_work(work, stage):
            for operator in (*part.forward, *part.input_gradient, *part.weight_gradient):
                if not isinstance(operator, Collective) and hasattr(operator, "flop"):
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
class StageSums:
    """Times of one kind of stage: forward, input gradient, weight gradient, and both gradients together."""

    forward: Sums
    input_gradient: Sums
    weight_gradient: Sums
    backward: Sums


def step_times(step: PricedStep, scales: Scales) -> StepTimes:
    """Return the step's time, every family's times multiplied by its scale.

        step = makespan of the schedule + max over ranks of (gradient reduction + optimizer)

    Lone chunks run one pass and then its exchanges; a DualPipe pair runs the computation of both and hides their
    exchanges behind it: max(compute, exchange). Scales, like everything, may be arrays.
    """
    sums = [_stage_sums(step, stage) for stage in step.classes]
    slots = [_slot_times(slot, sums, scales) for slot in step.program.slots]
    send = step.transfer.time.seconds * scales.get(step.transfer.operator.family, 1.0)
    shape = np.broadcast_shapes(*(np.shape(part) for pair in slots for part in pair), np.shape(send))
    durations, kernels = np.empty((2, len(slots), *shape))
    for row, (duration, kernel) in enumerate(slots):
        durations[row], kernels[row] = duration, kernel
    flat = durations.reshape(len(slots), -1)
    transfer = np.broadcast_to(send, shape).reshape(-1) if step.schedule.stages > 1 else 0.0
    span = makespan(step.program, flat, transfer).reshape(shape)
    return _reported(step, span, flat, kernels.reshape(len(slots), -1), scales)


def _reported(step: PricedStep, span: Array, durations: Array, kernels: Array, scales: Scales) -> StepTimes:
    """Return the step from the schedule's makespan and what its slots sum to, as means over ranks."""
    counts, slots = step.program.mean_counts, step.program.slots
    share = np.array(
        [[count if slot.kind is kind else 0.0 for slot, count in zip(slots, counts, strict=True)] for kind in KINDS]
    )
    by_kind = share @ durations
    busy = by_kind.sum(axis=0)
    tails = [sums_of(tail) for tail in step.tails]
    tail = maximum(0.0, *(sums.compute_time(scales) for sums in tails))
    waiting = maximum(0.0, *(sums.compute_time(scales) - sums.kernel_time(scales) for sums in tails))
    exposed = (busy - counts @ kernels).reshape(span.shape) + waiting
    return StepTimes(
        span + tail,
        {kind.value: row.reshape(span.shape) for kind, row in zip(KINDS, by_kind, strict=True)},
        span - busy.reshape(span.shape),
        tail,
        exposed,
    )


def _stage_sums(step: PricedStep, stage: Stage) -> StageSums:
    """Return the times of the passes of one kind of stage."""
    parts = [(float(count), step.priced[part.name]) for count, part in stage_work(step.work, stage)]
    forward = combine((count, part.forward_sums) for count, part in parts)
    input_gradient = combine((count, part.input_gradient_sums) for count, part in parts)
    weight_gradient = combine((count, part.weight_gradient_sums) for count, part in parts)
    return StageSums(forward, input_gradient, weight_gradient, combine([(1.0, input_gradient), (1.0, weight_gradient)]))


def _slot_times(slot: Slot, sums: list[StageSums], scales: Scales) -> tuple[Seconds, Seconds]:
    """Return the (duration, kernel time) of one kind of action."""
    if slot.kind is Kind.FORWARD_BACKWARD:
        assert slot.forward is not None
        assert slot.backward is not None
        both = combine([(1.0, sums[slot.forward].forward), (1.0, sums[slot.backward].backward)])
        return maximum(both.compute_time(scales), both.exchange_time(scales)), both.kernel_time(scales)
    if slot.kind is Kind.FORWARD:
        assert slot.forward is not None
        part = sums[slot.forward].forward
    else:
        assert slot.backward is not None
        stage = sums[slot.backward]
        part = {
            Kind.BACKWARD: stage.backward,
            Kind.BACKWARD_INPUT: stage.input_gradient,
            Kind.BACKWARD_WEIGHT: stage.weight_gradient,
        }[slot.kind]
    return part.compute_time(scales) + part.exchange_time(scales), part.kernel_time(scales)
