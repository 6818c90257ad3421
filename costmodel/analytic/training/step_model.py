"""A training step before it is timed: its schedule, layers, messages and ends, with every operator's time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from costmodel.analytic.operator_timing import OperatorTimer, TimedOperator, TimedWork, operator_timer
from costmodel.analytic.recurrence.paths import Paths
from costmodel.analytic.recurrence.program import Program, Slot, compile_schedule
from costmodel.analytic.stream_times import Perturbations, seconds_of
from costmodel.analytic.training.overlapped_comm import OverlappedComm, overlapped_comm
from costmodel.cost.calibration import Calibration
from costmodel.cost.power import NO_WORK, Work, work_joules, work_of
from costmodel.quantities import Count, Flop, Joules, Quantity, Seconds, Watts, anywhere, sum_of, uniform_int
from costmodel.records import Record, field, replace
from costmodel.workload.architecture import Stage, stage_layout
from costmodel.workload.context import Context, rank_context
from costmodel.workload.layers import ModelWork, model_work
from costmodel.workload.memory import Ledger, stage_work, training_ledger
from costmodel.workload.operators import AttentionKernel, Collective, Gemm, Group, HostTime
from costmodel.workload.optimizer import OptimizerOperators, step_operators
from costmodel.workload.plans import Training, expand
from costmodel.workload.scenario import Scenario
from costmodel.workload.schedules.catalogue import concurrent_messages, folded_order
from costmodel.workload.schedules.schedule import Kind, Schedule, steady_state
from costmodel.workload.work import LayerWork

Order: TypeAlias = "tuple[str, int, int, int]"  # (schedule, ranks, stages per rank, micro-batches)


class Pipeline(Record, kw_only=True):
    """The order of a step's actions.

    schedule: actions of each rank, symmetric ranks folded into one
    program: recurrence of the schedule
    layout: all stages in order
    classes: distinct stages. Their positions are the labels in the program's slots
    """

    order: Order
    schedule: Schedule
    program: Program[Slot]
    layout: tuple[Stage, ...]
    classes: tuple[Stage, ...]


class StageMessages(Record):
    """Point-to-point messages between pipeline stages.

    send: what sends a chunk's result to the next stage
    gather: what gathers its tensor-parallel parts there, null where each rank keeps its own
    concurrent: sends that leave a rank at once. `send` is the time of all of them
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


class ExpertImbalance(Record):
    """Expert load that varies between chunks.

    ranks: expert-parallel ranks that draw the loads of their experts, 1 where nothing varies
    shared_by_layers: a micro-batch draws once for all layers, not anew in each
    """

    ranks: Count = 1.0
    shared_by_layers: bool = False


class OptimizerStep(Record):
    """How one kind of rank ends the step.

    serial: operators one after the other.
    on_host: the host's update.
    copies: its transfers.
    stages: those of the rank in order.
    last: the kind of backward pass that ends its last micro-batch.
    """

    serial: tuple[TimedOperator, ...]
    on_host: tuple[TimedOperator, ...]
    copies: tuple[TimedOperator, ...]
    stages: tuple[Stage, ...]
    last: Kind


class StepModel(Record, kw_only=True):
    """A step without perturbations: structure, operator times, ledger.

    timed_works: passes of each kind of layer by name
    optimizer_steps: of each kind of rank. Ranks with equal stages and last pass are one kind
    overlapped_comm: communication that passes overlap, null where there is none
    executed_flop: per micro-batch on one rank of each stage, all stages [FLOP]
    moe_comm_slowdown: factor on kernel times while expert all-to-alls run
    joules: of the work of a device in a step, mean over pipeline ranks, without optimizer and reductions [J]
    busy: what a board draws more while kernels run [W]
    launch_time: of the host for each kernel or message [s]
    graphs: CUDA graphs hold the passes of layers
    paths: longest paths of the schedule, as far as evaluations have met them
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
    busy: Watts = 0.0
    launch_time: Seconds = 0.0
    graphs: bool = False
    paths: Paths = field(default_factory=dict)

    def repeated_work(self, scenario: Scenario) -> Work:
        """Return the work of a device in a step as `joules` counts it, with the time of its kernels."""
        power, whole = scenario.cluster.device.power, NO_WORK
        for count, work in runs_of_layers(self.work, self.pipeline.layout):
            timed = self.timed_works[work.name]
            operators = (*timed.forward, *timed.input_gradient, *timed.weight_gradient)
            whole += work_of(((each.operator, each.time) for each in operators), power).times(count)
        return whole.times(self.pipeline.schedule.micro_batches / scenario.parallel.pp)

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
    copies, runs = schedule.stage_replicas, runs_of_layers(work, layout)
    kinds_of_ranks = dict.fromkeys(
        (tuple(layout[stage] for stage in stages), last_pass(plan, schedule, rank))
        for rank, stages in enumerate(schedule.placement)
    )
    ranks = [[part for stage in stages for part in stage_work(work, stage)] for stages, _ in kinds_of_ranks]
    ends = [step_operators(context, plan, rank, copies) for rank in ranks]
    of_layers, of_ends = ([each for part in parts for each in part.operators] for parts in (work.kinds, ends))
    timer.time_all([*of_layers, *of_ends])
    is_random = scenario.communication.expert_load is not None or scenario.routing.load == "uniform"
    return StepModel(
        work=work,
        timed_works={kind.name: timer.time_work(kind) for kind in work.kinds},
        pipeline=pipeline,
        p2p=_stage_messages(scenario, plan, context, timer),
        optimizer_steps=tuple(
            _optimizer_step(timer, end, stages, last) for end, (stages, last) in zip(ends, kinds_of_ranks, strict=True)
        ),
        overlapped_comm=overlapped_comm(scenario, plan, context, work, copies, timer),
        imbalance=ExpertImbalance(
            context.ep_group.size if is_random else 1.0, scenario.communication.expert_load is not None
        ),
        ledger=training_ledger(context, plan, work, schedule, layout),
        executed_flop=executed_flop(runs),
        moe_comm_slowdown=scenario.framework.comm_slowdown(scenario.communication),
        launch_time=scenario.framework.host.operator,
        graphs=scenario.framework.training.graphs,
        joules=step_joules(runs, scenario, schedule.micro_batches),
        busy=scenario.cluster.device.power.busy,
    )


def step_schedule(scenario: Scenario, plan: Training) -> tuple[Order, Schedule, tuple[Stage, ...]]:
    """Return the order of a step, its schedule and the layers of each stage. The schedule in its steady state."""
    parallel, count = scenario.parallel, micro_batch_count(scenario, plan)
    order = (plan.schedule, uniform_int(parallel.pp), uniform_int(parallel.virtual), uniform_int(count))
    schedule = folded_order(*order[:-1], steady_state(*order).shorter)
    return order, schedule, stage_layout(scenario.architecture, schedule.stages, plan.stages, plan.placement)


def _pipeline(scenario: Scenario, plan: Training) -> Pipeline:
    order, schedule, layout = step_schedule(scenario, plan)
    classes = tuple(dict.fromkeys(layout))
    program = compile_schedule(*order, tuple(classes.index(stage) for stage in layout))
    return Pipeline(order=order, schedule=schedule, program=program, layout=layout, classes=classes)


def _stage_messages(scenario: Scenario, plan: Training, context: Context, timer: OperatorTimer) -> StageMessages:
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
    if anywhere(step):
        serial = (*serial, timer.time_operator(HostTime("host", step)))
    return OptimizerStep(serial, on_host, copies, stages, last)


def last_pass(plan: Training, schedule: Schedule, rank: int) -> Kind:
    """Return the pass that hides a rank's last reductions: its last weight gradients, where they run by themselves."""
    last = next(action for action in reversed(schedule.ranks[rank]) if action.backward is not None)
    return Kind.BACKWARD_WEIGHT if plan.overlaps_communication and last.kind is Kind.BACKWARD_WEIGHT else Kind.BACKWARD


def micro_batch_count(scenario: Scenario, plan: Training) -> Quantity:
    """Return how many micro-batches a pipeline runs a step: global_batch / (dp * micro_batch)."""
    return plan.global_batch / (scenario.parallel.dp * plan.micro_batch)


def training_context(scenario: Scenario, plan: Training) -> Context:
    """Return one rank's view of one micro-batch."""
    context = rank_context(scenario, "training", plan.micro_batch * plan.answers, plan.sequence, plan.sequence)
    return replace(
        context, recompute=expand(plan.recompute), micro_batches=micro_batch_count(scenario, plan),
        adapters=plan.adapters, reference=plan.reference, loss_chunks=plan.loss_chunks,
    )  # fmt: skip


def runs_of_layers(work: ModelWork, layout: tuple[Stage, ...]) -> list[tuple[int, LayerWork]]:
    """Return how often a micro-batch runs each kind of layer, on one rank of each stage."""
    runs: dict[str, tuple[int, LayerWork]] = {}
    for stage, copies in Counter(layout).items():
        for count, part in stage_work(work, stage):
            known, _ = runs.get(part.name, (0, part))
            runs[part.name] = known + copies * count, part
    return list(runs.values())


def executed_flop(runs: Sequence[tuple[int, LayerWork]]) -> Flop:
    """Return the FLOP that one rank of each stage executes for a micro-batch, recomputation and MTP included.

    Routed experts are counted at the mean load: the work of the busiest rank over its load.
    """
    total: Quantity = 0.0
    for count, work in runs:
        for operator in work.operators:
            if isinstance(operator, Gemm):
                total = total + count * operator.flop / operator.expert_load
            elif isinstance(operator, AttentionKernel):
                total = total + count * operator.flop
    return total


def step_joules(runs: Sequence[tuple[int, LayerWork]], scenario: Scenario, micro_batches: Count) -> Joules:
    """Return the energy of the work of a device in a step, the mean over pipeline ranks, recomputation included."""
    power = scenario.cluster.device.power
    joules = sum_of(count * work_joules(work.operators, power) for count, work in runs)
    return joules * micro_batches / scenario.parallel.pp
