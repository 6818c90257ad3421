"""One pass of inference through the pipeline; micro-batches overlap computation with expert exchanges."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from costmodel.analytic.operator_timing import OperatorTimer, TimedOperator, operator_timer
from costmodel.analytic.recurrence import Program, makespan
from costmodel.analytic.segments import COMPUTE, EXCHANGE, Key, Segment, compile_pass, segments_of
from costmodel.analytic.stream_times import Perturbations, seconds_of, stream_times
from costmodel.analytic.training import whole
from costmodel.cost.calibration import Calibration
from costmodel.quantities import Array, Count, Quantity, Seconds, maximum
from costmodel.workload.context import Context
from costmodel.workload.memory import CachedSequences, Ledger, inference_ledger
from costmodel.workload.operators import Collective, Group, Operator
from costmodel.workload.passes import Pass, PassWork, computed_tokens, pass_work, prompt_context, request_context
from costmodel.workload.plans import Decode, Prefill, Speculative, drafted_tokens
from costmodel.workload.scenario import Scenario
from costmodel.workload.stages import Stage, layer_runs, stage_layout


@dataclass(frozen=True, slots=True, eq=False)
class StageModel:
    """Pipeline stages that are alike: how many, how often each kind of layer runs on one, and in which order."""

    count: int
    repeats: tuple[int, ...]
    program: Program[Key]


@dataclass(frozen=True, slots=True, eq=False)
class PassModel:
    """A forward pass of all micro-batches, all that no uncertainty changes.

    segments: by kind of layer; send: one hop between pipeline stages, of which there are `hops`; slowing: kernels take
    as much longer while expert exchanges run.
    """

    segments: tuple[tuple[Segment, ...], ...]
    micro_batches: int
    stages: tuple[StageModel, ...]
    send: TimedOperator
    hops: Count
    moe_comm_slowdown: Quantity = 1.0

    def operators(self) -> list[TimedOperator]:
        """Return the operators of all kinds of layers."""
        segments = (segment for parts in self.segments for segment in parts)
        return [*(item for segment in segments for item in segment.operators), self.send]


@dataclass(frozen=True, slots=True, eq=False)
class PassTimes:
    """Seconds of a pass.

    latency: of one set of micro-batches through all stages and hops; slowest: of the stages; busy: the compute streams'
    work in it, kernels and blocking collectives; kernels: without the collectives; contention: what kernels took longer
    because exchanges ran beside them.
    """

    latency: Seconds
    slowest: Seconds
    busy: Seconds
    kernels: Seconds
    contention: Seconds = 0.0

    def round(self, sets: Count) -> Seconds:
        """Return the time in which each of `sets` sets goes once through the pipeline, all of them in it.

        max(latency, sets * slowest stage): the next token of a set needs its last one, a stage works on one set.
        """
        return maximum(self.latency, sets * self.slowest)


def pass_model(scenario: Scenario, plan: Prefill | Decode, calibration: Calibration) -> PassModel:
    """Return one pass of a prefill or decode scenario with every operator priced."""
    one = plan_pass(scenario, plan)
    return pass_model_of(scenario, one, pass_work(one), operator_timer(scenario, calibration))


def pass_model_of(scenario: Scenario, one: Pass, work: PassWork, pricing: OperatorTimer) -> PassModel:
    """Return a pass with every operator priced."""
    split = scenario.communication.split_attention
    segments = tuple(segments_of(kind, pricing, split=split) for kind in work.kinds)
    shape = tuple(tuple(segment.place for segment in parts) for parts in segments)
    overlap = scenario.offload.overlap
    layout = inference_layout(scenario)
    stages = Counter(zip(layout, layer_runs(scenario.architecture, layout), strict=True))
    return PassModel(
        segments,
        one.micro_batches,
        tuple(
            StageModel(
                count,
                work.repeats(stage),
                compile_pass(shape, work.runs(stage, layers), one.micro_batches, overlap=overlap),
            )
            for (stage, layers), count in stages.items()
        ),
        pricing.time_operator(_send(scenario, one)),
        scenario.parallel.pp - 1,
        scenario.framework.comm_slowdown(scenario.communication.processors),
    )


def _send(scenario: Scenario, one: Pass) -> Operator:
    """Return the message of one micro-batch from a stage to the next."""
    parallel, context = scenario.parallel, one.parts[0]
    size = one.residual_tokens * scenario.architecture.hidden * context.residual
    neighbours = Group(parallel.pp, parallel.tp * parallel.cp * parallel.dp)
    name = f"{one.label}: pipeline send" if one.label else "pipeline send"
    return Collective(name, "send_recv", size, neighbours, family="send_recv")


def inference_layout(scenario: Scenario) -> tuple[Stage, ...]:
    """Return the pipeline stages of an inference engine: layers as even as possible, the head on the shorter last."""
    return stage_layout(scenario.architecture, whole(scenario.parallel.pp))


def plan_pass(scenario: Scenario, plan: Prefill | Decode) -> Pass:
    """Return the pass that a prefill or decode scenario repeats."""
    context = inference_context(scenario, plan)
    return Pass((context,), plan.micro_batches, draft_passes(plan.speculative))


def draft_passes(speculative: Speculative | None) -> int:
    """Return how many passes of the MTP module follow one of the model."""
    return whole(drafted_tokens(speculative))


def inference_context(scenario: Scenario, plan: Prefill | Decode) -> Context:
    """Return one rank's view of one micro-batch; the ranks of a tp*cp group serve their sequences together."""
    together = scenario.parallel.tp * scenario.parallel.cp / plan.micro_batches
    if isinstance(plan, Prefill):
        sequences = plan.branches * plan.tokens_per_device * together / plan.input_tokens
        computed = computed_tokens(plan.input_tokens, plan.uncomputed_share)
        return prompt_context(scenario, sequences, computed, plan.input_tokens)
    sequences = plan.batch_per_device * together
    return request_context(scenario, sequences, plan.mean_kv_len, drafted_tokens(plan.speculative))


def pass_ledger(scenario: Scenario, plan: Prefill | Decode) -> Ledger:
    """Return the ledger with the sequences of all micro-batches, and of a set for each pipeline stage, in the cache."""
    one = plan_pass(scenario, plan)
    context = one.parts[0]
    cached = CachedSequences(context.sequences * plan.micro_batches * scenario.parallel.pp, context.kv_len)
    return inference_ledger([(one, pass_work(one))], inference_layout(scenario), cached)


def pass_times(priced: PassModel, moves: Perturbations) -> PassTimes:
    """Return how long the pass takes.

    Of a stage it is the recurrence over segments of all its layers and micro-batches on their streams: micro-batches
    take turns on the compute stream, segment by segment; while one computes the other's exchange runs. Stages follow
    one another, a message apart.
    """
    latency: Quantity = priced.hops * seconds_of(priced.send, moves)
    slowest: Quantity = 0.0
    busy: Quantity = 0.0
    kernels: Quantity = 0.0
    waited: Quantity = 0.0
    known = _segment_sums(priced, moves)
    for stage in priced.stages:
        slots = [known[slot] for slot in stage.program.slots]
        durations, shape = _stacked([total for total, _ in slots])
        own, own_shape = _stacked([kernel for _, kernel in slots])
        counts = stage.program.counts
        span = makespan(stage.program, durations).reshape(shape)
        compute = (counts[COMPUTE] @ durations).reshape(shape)
        exchange = (counts[EXCHANGE] @ durations).reshape(shape) if len(counts) > EXCHANGE else 0.0
        slower = contention(span, compute, exchange, priced.moe_comm_slowdown)
        span, waited = span + slower, waited + stage.count * slower
        latency = stage.count * span + latency
        slowest = maximum(slowest, span)
        busy = busy + stage.count * (compute + slower)
        kernels = kernels + stage.count * ((counts[COMPUTE] @ own).reshape(own_shape) + slower)
    return PassTimes(latency, slowest, busy, kernels, waited)


def contention(span: Seconds, compute: Seconds, exchange: Seconds, slowing: Quantity) -> Seconds:
    """Return how much longer a stage takes because kernels that run beside exchanges are slower.

    Both run during compute + exchange - span; what the compute stream waits anyway takes some of it:

        contention = max(0, (compute + exchange - span) * (1 - 1/slowing) - (span - compute))
    """
    beside = maximum(compute + exchange - span, 0.0)
    waited = maximum(span - compute, 0.0)  # sums in another order may be longer than the span
    return maximum(beside * (1.0 - 1.0 / slowing) - waited, 0.0)


def _segment_sums(priced: PassModel, moves: Perturbations) -> dict[Key, tuple[Seconds, Seconds]]:
    """Return (time, kernel time) of every segment."""
    found: dict[Key, tuple[Seconds, Seconds]] = {}
    for kind, parts in enumerate(priced.segments):
        for part, segment in enumerate(parts):
            sums = stream_times(segment.operators, moves)
            found[kind, part] = sums.total, sums.kernels
    return found


def _stacked(values: Sequence[Quantity]) -> tuple[Array, tuple[int, ...]]:
    """Return quantities as rows of points, and the shape of their grid."""
    shape = np.broadcast_shapes(*(np.shape(each) for each in values))
    return np.stack([np.broadcast_to(each, shape).reshape(-1) for each in values]), shape


def operators_of(passes: Iterable[PassModel]) -> list[TimedOperator]:
    """Return the operators of several passes, those that they share once."""
    return list({id(item): item for one in passes for item in one.operators()}.values())
