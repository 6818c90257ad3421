"""One pass of inference through the pipeline. Micro-batches overlap computation with expert all-to-alls."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby

import numpy as np

from costmodel.analytic.operator_timing import OperatorTimer, TimedOperator, operator_timer
from costmodel.analytic.recurrence.paths import Paths
from costmodel.analytic.recurrence.program import Program
from costmodel.analytic.recurrence.tape import makespan
from costmodel.analytic.segments import ALL_TO_ALL, COMPUTE, ELSEWHERE, Segment, SegmentKey, compile_pass, segments_of
from costmodel.analytic.stream_times import Perturbations, StreamTimes, seconds_of, stream_times
from costmodel.cost.calibration import Calibration
from costmodel.cost.power import NO_WORK, Clock, clock_of, is_as_timed, work_joules, work_of
from costmodel.equations import equation
from costmodel.hardware import Device
from costmodel.quantities import (
    Array,
    Count,
    Joules,
    Quantity,
    Seconds,
    Watts,
    is_single,
    maximum,
    minimum,
    sum_of,
    uniform_int,
)
from costmodel.records import Record, field, replace
from costmodel.workload.architecture import Stage, layer_runs, stage_layout
from costmodel.workload.context import Context
from costmodel.workload.memory import CachedSequences, Ledger, inference_ledger, with_expert_pool
from costmodel.workload.operators import Collective, Group, Operator
from costmodel.workload.passes import (
    Pass,
    PassWork,
    PromptPasses,
    computed_tokens,
    pass_work,
    prompt_context,
    prompt_passes,
    request_context,
)
from costmodel.workload.plans import Decode, Prefill, draft_passes, drafted_tokens
from costmodel.workload.scenario import Scenario
from costmodel.workload.work import EXPERTS


class StageModel(Record):
    """Equal pipeline stages: how many, how often each kind of layer runs on one, and in which order.

    host: what the host takes for all of a stage's micro-batches, which it runs no faster than [s].
    """

    count: int
    repeats: tuple[int, ...]
    program: Program[SegmentKey]
    host: Seconds = 0.0


class PassModel(Record):
    """A forward pass of all micro-batches, without perturbations.

    segments: by kind of layer
    send: one hop between pipeline stages, of which there are `hops`
    moe_comm_slowdown: factor on kernel times while expert all-to-alls run
    joules: of the work of a device of each stage, all micro-batches [J]
    busy: what a board draws more while kernels run [W]
    pool_share: of the devices that hold experts only; joules and kernels are means over all
    pace: factor on all times, by measured runs
    paths: longest paths of the stages' programs, as far as evaluations have met them
    """

    segments: tuple[tuple[Segment, ...], ...]
    micro_batches: int
    stages: tuple[StageModel, ...]
    send: TimedOperator
    hops: Count
    moe_comm_slowdown: Quantity = 1.0
    joules: Joules = 0.0
    busy: Watts = 0.0
    pool_share: Quantity = 0.0
    pace: Quantity = 1.0
    paths: Paths = field(default_factory=dict)

    def operators(self) -> list[TimedOperator]:
        """Return the operators of all kinds of layers."""
        segments = (segment for layer in self.segments for segment in layer)
        return [*(timed for segment in segments for timed in segment.operators), self.send]

    def runs(self) -> Iterator[tuple[Quantity, Segment]]:
        """Yield how often a device runs a segment in a pass, all stages together, the mean over devices; and it."""
        for stage in self.stages:
            for repeats, layer in zip(stage.repeats, self.segments, strict=True):
                for segment in layer:
                    is_own = segment.placement.stream != ELSEWHERE[EXPERTS]
                    share = 1.0 - self.pool_share if is_own else self.pool_share
                    yield stage.count * repeats * segment.runs(self.micro_batches) * share, segment


class PassTimes(Record):
    """Seconds of a pass.

    latency: of one set of micro-batches through all stages and hops
    slowest: of the stages
    busy: of the compute streams, kernels and blocking collectives
    kernels: without the collectives
    contention: extra time of kernels due to concurrent expert all-to-alls
    host: in which devices wait for the host to start kernels
    joules: energy of the work of kernels and messages, idle power aside [J]
    """

    latency: Seconds
    slowest: Seconds
    busy: Seconds
    kernels: Seconds
    contention: Seconds = 0.0
    joules: Joules = 0.0
    host: Seconds = 0.0

    @equation
    def scaled(self, factor: Quantity) -> PassTimes:
        """Return the times, all longer by a factor that measured runs give. The work is the same.

        latency = self.latency * factor
        slowest = self.slowest * factor
        """
        return PassTimes(
            latency=self.latency * factor,
            slowest=self.slowest * factor,
            busy=self.busy * factor,
            kernels=self.kernels * factor,
            contention=self.contention * factor,
            joules=self.joules,
            host=self.host * factor,
        )

    @equation
    def started_ahead(self, head: Seconds) -> PassTimes:
        """Return the times of a pass whose kernels the host begins to start so long before the device comes to them.

        latency = self.latency - hidden
        hidden = min(self.host, head)
        """
        hidden = minimum(self.host, head)
        return replace(self, latency=self.latency - hidden, slowest=self.slowest - hidden, host=self.host - hidden)

    @equation
    def work(self, seconds: Seconds, passes: Count = 1.0) -> Watts:
        """Return the power of the work of a device with so many passes in that time, all stages of them.

        work = passes * joules / seconds
        """
        return passes * self.joules / seconds

    @equation
    def round(self, sets: Count) -> Seconds:
        """Return the time in which each of `sets` sets passes once through the pipeline, all of them in it.

            step = max(latency, sets * slowest)

        The next token of a set needs its last one, a stage works on one set.
        """
        return maximum(self.latency, sets * self.slowest)

    @equation
    def following(self, sets: Count) -> Seconds:
        """Return the time in which `sets` sets follow one another through the pipeline: the slowest stage works on.

        all_sets = latency + (sets - 1) * slowest
        """
        return self.latency + (sets - 1.0) * self.slowest


class StageTimes(Record):
    """Seconds of equal pipeline stages, of which there are `count`.

    span: of the stage's program, without contention.
    host: in it, waiting for the host.
    contention: of its kernels.
    compute, all_to_all: in which each stream is busy.
    kernels: of the compute stream, without collectives.
    """

    count: int
    span: Seconds
    contention: Seconds
    compute: Seconds
    all_to_all: Seconds
    kernels: Seconds
    host: Seconds = 0.0


def pass_model(
    scenario: Scenario,
    plan: Prefill | Decode,
    calibration: Calibration,
    work: PassWork | None = None,
    timer: OperatorTimer | None = None,
) -> PassModel:
    """Return one pass of a prefill or decode scenario with every operator timed.

    work: its own, null: not known yet.
    timer: that of several passes on the same machine, null: one of its own.
    """
    forward = plan_pass(scenario, plan)
    timer = timer or operator_timer(scenario, calibration)
    return pass_model_of(scenario, forward, work or pass_work(forward), timer)


def pass_model_of(scenario: Scenario, forward: Pass, work: PassWork, timer: OperatorTimer) -> PassModel:
    """Return a pass with every operator timed, at the clock that the limit of the boards leaves it."""
    model = _timed_pass(scenario, forward, work, timer)
    device, pace = timer.cluster.device, scenario.pace
    if not is_as_timed(device.power):
        model = _timed_pass(scenario, forward, work, timer.at_clock(pass_clock(model, device)))
    has_prompts = any(part.phase == "prefill" for part in forward.parts)
    return replace(model, pace=pace.prompts if has_prompts else pace.decodes)


def pass_clock(model: PassModel, device: Device) -> Clock:
    """Return the clock of boards that repeat a pass whose operators have the times of tables."""
    whole = NO_WORK
    for runs, segment in model.runs():
        whole += work_of(((timed.operator, timed.time) for timed in segment.operators), device.power).times(runs)
    return clock_of(device, whole, pass_times(model, None).latency)


def _timed_pass(scenario: Scenario, forward: Pass, work: PassWork, timer: OperatorTimer) -> PassModel:
    timer.time_all(operator for kind in work.kinds for operator in kind.forward)
    segments = tuple(segments_of(kind, timer, split=scenario.communication.split_attention) for kind in work.kinds)
    shape = tuple(tuple(segment.placement for segment in layer) for layer in segments)
    overlap = scenario.offload.overlap
    layout = inference_layout(scenario)
    stages = Counter(zip(layout, layer_runs(scenario.architecture, layout), strict=True))
    power = timer.cluster.device.power
    model = PassModel(
        busy=power.busy,
        segments=segments,
        micro_batches=forward.micro_batches,
        stages=tuple(
            StageModel(
                count,
                work.repeats(stage),
                compile_pass(shape, work.runs(stage, layers), forward.micro_batches, overlap=overlap),
                _eager_time(
                    scenario, forward, sum(stage.layers), _starts(scenario, forward, work.repeats(stage), segments)
                ),
            )
            for (stage, layers), count in stages.items()
        ),
        send=timer.time_operator(_send(scenario, forward)),
        hops=scenario.parallel.pp - 1,
        moe_comm_slowdown=scenario.framework.comm_slowdown(scenario.communication),
        pool_share=scenario.parallel.pool_share,
    )
    return replace(
        model,
        joules=sum_of(
            runs * work_joules((timed.operator for timed in segment.operators), power) for runs, segment in model.runs()
        ),
    )


def _eager_time(scenario: Scenario, forward: Pass, layers: Count, starts: Count) -> Seconds:
    """Return the host time of a stage: layer * L * micro-batches + operator * starts, if no graph holds prompts [s].

    starts / kernels in place of L * micro-batches where it is known how many a layer of that time starts.
    """
    eager = scenario.eager_prompts
    if all(part.phase != "prefill" for part in forward.parts):
        return 0.0
    alike = layers * forward.micro_batches if eager.kernels is None else starts / eager.kernels
    return eager.layer * alike + eager.operator * starts


def _starts(
    scenario: Scenario, forward: Pass, repeats: Sequence[int], segments: Sequence[Sequence[Segment]]
) -> Count:  # fmt: skip
    """Return the kernels and messages of a stage's pass that the host starts one by one, of all micro-batches.

    Neither those that take no time nor those that the framework starts within another one's call. Attention of prompts
    is one call with that of the requests that decode where this follows it [TensorRT-LLM, thop.attention].
    """
    within, starts = scenario.framework.eager_prompts.within, 0.0
    for count, layer in zip(repeats, segments, strict=True):
        for segment in layer:
            timed = (each.operator.name for each in segment.operators if np.any(each.time.seconds))
            calls = [name for name, _ in groupby(each.rpartition(": ")[2] for each in timed) if name not in within]
            starts = starts + count * segment.runs(forward.micro_batches) * len(calls)
    return starts


def _send(scenario: Scenario, forward: Pass) -> Operator:
    """Return the message of one micro-batch from a stage to the next."""
    parallel, context = scenario.parallel, forward.parts[0]
    width = scenario.architecture.streams * scenario.architecture.hidden
    size = forward.residual_tokens * width * context.residual
    neighbours = Group(parallel.pp, parallel.tp * parallel.cp * parallel.dp)
    name = f"{forward.label}: pipeline send" if forward.label else "pipeline send"
    return Collective(name, "send_recv", size, neighbours, family="send_recv")


def inference_layout(scenario: Scenario) -> tuple[Stage, ...]:
    """Return the pipeline stages of an inference engine: layers as even as possible, the head on the shorter last."""
    return stage_layout(scenario.architecture, uniform_int(scenario.parallel.pp))


def plan_pass(scenario: Scenario, plan: Prefill | Decode) -> Pass:
    """Return the pass that a prefill or decode scenario repeats."""
    context = inference_context(scenario, plan)
    return Pass((context,), plan.micro_batches, draft_passes(plan.speculative))


def inference_context(scenario: Scenario, plan: Prefill | Decode) -> Context:
    """Return one rank's view of one micro-batch. The ranks of a tp*cp group serve their sequences together."""
    ranks = scenario.parallel.tp * scenario.parallel.cp / plan.micro_batches
    if isinstance(plan, Prefill):
        passes = prefill_passes(scenario, plan)
        return prompt_context(scenario, passes.sequences / plan.micro_batches, passes.new_tokens, passes.kv_len)
    sequences = plan.batch_per_device * ranks
    return request_context(scenario, sequences, plan.mean_kv_len, drafted_tokens(plan.speculative))


def prefill_passes(scenario: Scenario, plan: Prefill) -> PromptPasses:
    """Return the passes over the prompts of a tp*cp group, those of all micro-batches together."""
    computed = computed_tokens(plan.input_tokens, plan.uncomputed_share)
    return prompt_passes(_prompts(scenario, plan), computed, plan.input_tokens, plan.chunk_tokens)


def _prompts(scenario: Scenario, plan: Prefill) -> Count:
    """Return the prompts of a tp*cp group, those of all micro-batches together."""
    return plan.branches * plan.tokens_per_device * scenario.parallel.tp * scenario.parallel.cp / plan.input_tokens


def pass_ledger(scenario: Scenario, plan: Prefill | Decode, work: PassWork | None = None) -> Ledger:
    """Return the ledger with the sequences of all micro-batches, and of a set for each pipeline stage, in the cache.

    Of prompts in chunks the last one works, on whole prompts. work: of the pass, null: not known yet.
    """
    forward = plan_pass(scenario, plan)
    context = forward.parts[0]
    sequences = context.sequences * plan.micro_batches
    if isinstance(plan, Prefill):
        sequences = _prompts(scenario, plan)
        if not np.array_equal(context.kv_len, plan.input_tokens):
            context, work = replace(context, kv_len=plan.input_tokens), None
            forward = replace(forward, parts=(context,))
    cached = CachedSequences(sequences * scenario.parallel.pp, context.kv_len)
    work = work or pass_work(forward)
    ledger = inference_ledger([(forward, work)], inference_layout(scenario), cached)
    return with_expert_pool(ledger, forward, work, scenario.cluster.device.device_memory.capacity)


@equation
def pass_times(model: PassModel, perturbations: Perturbations) -> PassTimes:
    """Return the times of a pass.

    A stage takes the makespan of its program: its micro-batches alternate on the compute stream, and while one computes
    the all-to-alls of another run. Stages follow one another, a message apart.

        latency = model.hops * send + sum(stages.count * (stages.span + stages.contention))
        slowest = largest(stages.span + stages.contention)

    Where runs were measured, all of it is longer by the factor `model.pace`.
    """
    send, stages = seconds_of(model.send, perturbations), stage_times(model, perturbations)
    latency: Quantity = model.hops * send
    slowest: Quantity = 0.0
    busy: Quantity = 0.0
    kernels: Quantity = 0.0
    contention: Quantity = 0.0
    host: Quantity = 0.0
    for stage in stages:
        span, extra = stage.span + stage.contention, stage.contention
        contention = contention + stage.count * extra
        host = host + stage.count * stage.host
        latency = stage.count * span + latency
        slowest = maximum(slowest, span)
        busy = busy + stage.count * (stage.compute + extra)
        kernels = kernels + stage.count * (stage.kernels + extra)
    joules = model.joules + model.busy * kernels
    times = PassTimes(latency, slowest, busy, kernels, contention, joules, host)
    return times if is_single(model.pace) and model.pace == 1.0 else times.scaled(model.pace)


def stage_times(model: PassModel, perturbations: Perturbations) -> list[StageTimes]:
    """Return the times of each kind of pipeline stage."""
    segments = {
        (kind, number): stream_times(segment.operators, perturbations)
        for kind, layer in enumerate(model.segments)
        for number, segment in enumerate(layer)
    }
    return [_started(stage, _stage(model, stage, segments)) for stage in model.stages]


@equation
def _started(stage: StageModel, times: StageTimes) -> StageTimes:
    """Return the times of a stage that waits for the host where this takes longer to start its kernels.

    span = times.span + host
    host = max(stage.host - times.span - times.contention, 0)
    """
    if is_single(stage.host) and stage.host == 0.0:
        return times
    host = maximum(stage.host - times.span - times.contention, 0.0)
    return replace(times, span=times.span + host, host=host)


@equation
def _stage(model: PassModel, stage: StageModel, segments: Mapping[SegmentKey, StreamTimes]) -> StageTimes:
    """Return the times of a stage whose kernels wait for no host.

    compute = sum(runs * durations)     of the segments of the compute stream
    """
    times = [segments[slot] for slot in stage.program.slots]
    durations, shape = _stacked([segment.total for segment in times])
    kernel_times, kernel_shape = _stacked([segment.kernels for segment in times])
    counts = stage.program.counts
    span = makespan(stage.program, durations, known=model.paths).reshape(shape)
    runs = counts[COMPUTE]
    compute = (runs @ durations).reshape(shape)
    all_to_all = (counts[ALL_TO_ALL] @ durations).reshape(shape) if len(counts) > ALL_TO_ALL else 0.0
    kernels = (runs @ kernel_times).reshape(kernel_shape)
    if len(counts) > ELSEWHERE[EXPERTS]:
        experts = (counts[ELSEWHERE[EXPERTS]] @ kernel_times).reshape(kernel_shape)
        kernels = kernels + model.pool_share * (experts - kernels)
    extra = stage_contention(span, compute, all_to_all, model.moe_comm_slowdown)
    return StageTimes(stage.count, span, extra, compute, all_to_all, kernels)


@equation
def stage_contention(span: Seconds, compute: Seconds, all_to_all: Seconds, slowdown: Quantity) -> Seconds:
    """Return how much longer a stage takes because concurrent all-to-alls slow its kernels.

    contention = max(overlap * (1 - 1 / slowdown) - idle, 0)
    overlap = max(compute + all_to_all - span, 0)      both streams run
    idle = max(span - compute, 0)                      the compute stream waits, which absorbs some of it
    """
    overlap = maximum(compute + all_to_all - span, 0.0)
    idle = maximum(span - compute, 0.0)  # rounding may make the sum longer than the span
    return maximum(overlap * (1.0 - 1.0 / slowdown) - idle, 0.0)


def _stacked(values: Sequence[Quantity]) -> tuple[Array, tuple[int, ...]]:
    """Return quantities as rows of points, and the shape of their grid."""
    shape = np.broadcast_shapes(*(np.shape(value) for value in values))
    rows = np.empty((len(values), *shape))
    for number, value in enumerate(values):
        rows[number] = value
    return rows.reshape(len(values), -1), shape


def operators_of(passes: Iterable[PassModel]) -> list[TimedOperator]:
    """Return the operators of several passes, shared ones once."""
    return list({id(timed): timed for one in passes for timed in one.operators()}.values())
