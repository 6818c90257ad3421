"""The times of a training step: the schedule's recurrence over stage times, then gradient reduction and optimizer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from costmodel.analytic.operator_timing import TimedOperator
from costmodel.analytic.recurrence.program import Program, Slot
from costmodel.analytic.recurrence.tape import async_reduce_span, makespan
from costmodel.analytic.stream_times import Perturbations, stream_times
from costmodel.analytic.training.layer_overlap import async_reduce_times
from costmodel.analytic.training.overlapped_comm import (
    ActionTimes,
    LayerTimes,
    layer_seconds,
    message_contention,
    stage_times,
    with_async_reduce,
)
from costmodel.analytic.training.step_model import OptimizerStep, StepModel, runs_of_layers, step_model
from costmodel.cost.calibration import Calibration
from costmodel.cost.power import work_joules
from costmodel.equations import equation
from costmodel.quantities import Array, Count, Joules, Quantity, Seconds, ceil, maximum, sum_of, where
from costmodel.records import Record, replace
from costmodel.workload.memory import stage_work
from costmodel.workload.plans import Training
from costmodel.workload.scenario import Scenario
from costmodel.workload.schedules.schedule import Kind, SteadyState

KINDS = tuple(Kind)
_OF_THE_STEP = ("step", "bubble", "optimizer", "exposed_communication", "host")  # times of one number
ROUNDING = 1e-12  # of a makespan: difference between sums of the same times in another order


class StepTimes(Record):
    """Seconds of a step.

    by_kind: means over pipeline ranks. With bubble and optimizer they sum to the step
    host: of the optimizer's time, the host's own update, while devices compute nothing
    """

    step: Seconds
    by_kind: Mapping[str, Seconds]
    bubble: Seconds
    optimizer: Seconds
    exposed_communication: Seconds
    host: Seconds

    def grown(self, longer: StepTimes, steady: SteadyState) -> StepTimes:
        """Return the times of a step of many micro-batches. These and `longer` are of its two shorter ones."""
        rest = {name: steady.at(getattr(self, name), getattr(longer, name)) for name in _OF_THE_STEP}
        kinds = {kind: steady.at(seconds, longer.by_kind[kind]) for kind, seconds in self.by_kind.items()}
        return StepTimes(by_kind=kinds, **rest)

    @equation
    def scaled(self, factor: Quantity) -> StepTimes:
        """Return the times, all longer by a factor.

        step = self.step * factor
        bubble = self.bubble * factor
        exposed_communication = self.exposed_communication * factor
        """
        kinds = {kind: seconds * factor for kind, seconds in self.by_kind.items()}
        return StepTimes(by_kind=kinds, **{name: getattr(self, name) * factor for name in _OF_THE_STEP})


class PipelineTimes(Record):
    """Times of a step's passes [s].

    span: until the last pass is done.
    reduce_tail: what asynchronous reductions take beyond it.
    durations, kernels: of the actions of each slot, at each point; durations hold the mean wait for earlier reductions
    """

    span: Array
    reduce_tail: Seconds
    durations: Array
    kernels: Array


class OptimizerTimes(Record):
    """Seconds in which a rank ends the step. Of them, kernels of its device, and its host's update."""

    seconds: Seconds
    kernels: Seconds
    host: Seconds


class StepStreams(Record):
    """Times by stream of a step's layers, by name, and of its stages, by class, under some perturbations."""

    perturbations: Perturbations
    layers: Mapping[str, LayerTimes]
    stages: Sequence[LayerTimes]


def step_streams(step: StepModel, perturbations: Perturbations) -> StepStreams:
    """Return the times by stream of a step's layers and stages."""
    layers = {
        name: LayerTimes(
            *(
                stream_times(part, perturbations, graphs=step.graphs)
                for part in (work.forward, work.input_gradient, work.weight_gradient)
            )
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
    return times_of(step, step_streams(step, perturbations))


def times_of(step: StepModel, streams: StepStreams) -> StepTimes:
    """Return the times of a step from those of its layers and stages."""
    return _combined(step.pipeline.program, pipeline_times(step, streams), optimizer_times(step, streams))


def pipeline_times(step: StepModel, streams: StepStreams) -> PipelineTimes:
    """Return the times of a step's passes, from the recurrence of its schedule."""
    program = step.pipeline.program
    actions = [action_times(step, slot, streams) for slot in program.slots]
    p2p = step.p2p.seconds(streams.perturbations)
    reduces = [action.async_reduce is not None for action in actions]
    rows = [(*(action.parts if any(reduces) else action.parts[:1]), action.kernels) for action in actions]
    shape = np.broadcast_shapes(*(np.shape(part) for row in rows for part in row), np.shape(p2p))
    times = np.empty((len(rows[0]), len(actions), *shape))
    for slot_number, row in enumerate(rows):
        for part_number, value in enumerate(row):
            times[part_number, slot_number] = value
    head, *later, kernels = times.reshape(len(rows[0]), len(actions), -1)
    transfer = np.broadcast_to(p2p, shape).reshape(-1) if step.pipeline.schedule.stages > 1 else 0.0
    if not later:
        whole = makespan(program, head, transfer, known=step.paths)
        return PipelineTimes(whole.reshape(shape), 0.0, head, kernels)
    rest, trail = later
    span = async_reduce_span(program, reduces, (head, rest, trail), transfer)
    return PipelineTimes(span.span.reshape(shape), span.left.reshape(shape), head + rest + span.waits, kernels)


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
    """Return what gathers add to the first forward pass, and reductions to the last backward pass.

    One micro-batch hides them: its passes through all stages of the rank, one after the other. Of the last one the
    weight gradients alone, where they run by themselves. Kernels beside them are slower (`message_contention`).
    """
    comm, slowdown = step.overlapped_comm, step.moe_comm_slowdown
    if comm is None or not comm.plan.overlaps_communication:
        return 0.0, 0.0
    stages = [stage_work(step.work, stage) for stage in end.stages]
    added = []
    for kind in (Kind.FORWARD, end.last):
        compute = layer_seconds(streams.layers, kind)
        usual, once = (
            comm.chain(stages, kind, compute, streams.perturbations, once_per_step=once) for once in (False, True)
        )
        slower = [
            own.with_part("compute", own.compute + message_contention(own.compute, own.moved - before.moved, slowdown))
            for before, own in zip(usual, once, strict=True)
        ]
        added.append(maximum(comm.seconds(slower) - comm.seconds(usual), 0.0))
    return added[0], added[1]


@equation
def _combined(program: Program[Slot], pipeline: PipelineTimes, ends: Sequence[OptimizerTimes]) -> StepTimes:
    """Return the times of a step, means over ranks, from those of its passes and of its ends.

    step = span + optimizer
    optimizer = pipeline.reduce_tail + slowest       of the rank that ends the step last
    bubble = where(idle > ROUNDING * span, idle, 0)
    idle = span - sum(counts * pipeline.durations)   of a rank on average, which has `counts` actions of each kind
    exposed_communication = where(abs(exposed) > ROUNDING * span, exposed, 0)
    exposed = sum(by_kind) - kernels + waiting
    """
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
    kernels = counts @ pipeline.kernels
    exposed = (busy - kernels).reshape(span.shape) + waiting
    return StepTimes(
        step=span + optimizer,
        by_kind={kind.value: row.reshape(span.shape) for kind, row in zip(KINDS, by_kind, strict=True)},
        bubble=np.where(idle > ROUNDING * span, idle, 0.0),
        optimizer=optimizer,
        exposed_communication=np.where(np.abs(exposed) > ROUNDING * span, exposed, 0.0),
        host=host,
    )


@equation
def action_times(step: StepModel, slot: Slot, streams: StepStreams) -> ActionTimes:
    """Return the times of one kind of action, without its wait for earlier reductions.

    seconds = max(busy, sent)             of a pair: the computation of one chunk hides the other's all-to-alls
    seconds = max(busy, launches)         of a lone chunk
    busy = max(pair.compute + slower, pair_launches)
    busy = lone.total                     kernels, then messages
    seconds := with communication beside it, whose kernels take processors, as far as that makes it longer
    """
    comm, perturbations = step.overlapped_comm, streams.perturbations
    if slot.forward is not None and slot.backward is not None:
        pair = streams.stages[slot.forward].forward + streams.stages[slot.backward].backward
        slower = message_contention(pair.compute, pair.expert_all_to_alls, step.moe_comm_slowdown)
        pair_launches, kernels = step.launch_time * pair.launches, pair.kernels + slower
        busy, all_to_alls = maximum(pair.compute + slower, pair_launches), pair.expert_all_to_alls
        if comm is None:
            sent = all_to_alls
            return ActionTimes(maximum(busy, sent), kernels)
        works = step.works_of(slot.forward), step.works_of(slot.backward)
        if comm.has_async_reduce(slot.kind):
            return with_async_reduce(comm.async_reduce_pair(works, busy, all_to_alls, perturbations), kernels, 0.0)
        return ActionTimes(comm.overlapped_pair(works, busy, all_to_alls, perturbations), kernels)
    label = lone_stage(slot)
    lone = streams.stages[label].of(slot.kind)
    launches = step.launch_time * lone.launches
    if comm is None:
        busy = lone.total
        return ActionTimes(maximum(busy, launches), lone.kernels)
    stage, compute_of = step.works_of(label), layer_seconds(streams.layers, slot.kind)
    chain = comm.chain([stage], slot.kind, compute_of, perturbations)
    if comm.has_async_reduce(slot.kind) and stage:
        return with_async_reduce(async_reduce_times(chain), lone.kernels, launches)
    return ActionTimes(maximum(comm.seconds(chain), launches), lone.kernels)


def lone_stage(slot: Slot) -> int:
    """Return the class of stages that an action of a single chunk works on."""
    label = slot.backward if slot.forward is None else slot.forward
    assert label is not None, "an action works on a stage"
    return label


# ---- Forward passes of a training layout by themselves: log probabilities of sequences that are there already --------


class ForwardPasses:
    """The forward passes of a layout over some sequences, one micro-batch after the other through the pipeline."""

    def __init__(self, scenario: Scenario, model: StepModel, micro_batch: Count, sequences: Count) -> None:
        self._scenario, self._model = scenario, model
        self._count = ceil(sequences / (scenario.parallel.dp * micro_batch))

    @equation
    def seconds(self, perturbations: Perturbations = None) -> Seconds:
        """Return the time of all passes.

        passes = through + max(count / copies - 1, 0) * slowest
        through = sum(stages) + hops * send                      of one micro-batch
        slowest := of the ranks, the time of its stages
        copies := of each stage, which share the micro-batches (2 of DualPipe)
        """
        streams, pipeline = step_streams(self._model, perturbations), self._model.pipeline
        times = [
            action_times(self._model, Slot(Kind.FORWARD, label, None), streams).seconds
            for label in range(len(pipeline.classes))
        ]
        stages = [times[pipeline.classes.index(stage)] for stage in pipeline.layout]
        ranks = [sum_of(stages[stage] for stage in own) for own in pipeline.schedule.placement]
        slowest: Quantity = maximum(0.0, *ranks)
        count, copies, send = self._count, pipeline.schedule.stage_replicas, self._model.p2p.seconds(perturbations)
        hops = len(stages) - 1
        through = sum_of(stages) + hops * send
        return through + maximum(count / copies - 1, 0.0) * slowest

    def joules(self) -> Joules:
        """Return the energy of the work of a device, the mean over pipeline ranks."""
        power, runs = self._scenario.cluster.device.power, runs_of_layers(self._model.work, self._model.pipeline.layout)
        joules = sum_of(count * work_joules(work.forward, power) for count, work in runs)
        return joules * self._count / self._scenario.parallel.pp

    def operators(self) -> Iterator[tuple[Count, TimedOperator]]:
        """Yield how often a device runs each operator, the mean over pipeline ranks, and the operator."""
        for count, work in runs_of_layers(self._model.work, self._model.pipeline.layout):
            for timed in self._model.timed_works[work.name].forward:
                yield count * self._count / self._scenario.parallel.pp, timed


def forward_model(scenario: Scenario, plan: Training, calibration: Calibration, micro_batch: Count) -> StepModel:
    """Return the model of passes of other micro-batches than a training step's, or of other weights: without a schedule
    of gradients, one stage on each rank.
    """
    parallel = replace(scenario.parallel, virtual=1.0)
    batch = scenario.parallel.dp * micro_batch
    alone = replace(plan, schedule="1f1b", stages=None, micro_batch=micro_batch, global_batch=batch)
    return step_model(replace(scenario, plan=alone, parallel=parallel), alone, calibration)
