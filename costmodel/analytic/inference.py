"""Prefill and decode: one pass through the layers, micro-batches overlapping computation with expert exchanges."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

import numpy as np

from costmodel.analytic.pricing import Priced, Pricer, pricer
from costmodel.analytic.recurrence import Event, Program, compile_events, makespan
from costmodel.analytic.sums import Moves, seconds_of, sums_of
from costmodel.cost.calibration import Calibration
from costmodel.quantities import Count, Seconds
from costmodel.workload.context import Context
from costmodel.workload.layers import ModelWork, model_work
from costmodel.workload.memory import Ledger, inference_ledger
from costmodel.workload.operators import Collective, Exchange, Group
from costmodel.workload.scenario import Decode, Prefill, Scenario
from costmodel.workload.work import Work

COMPUTE, EXCHANGE = 0, 1  # streams
Key: TypeAlias = "tuple[int, int]"  # (kind of layer, segment)


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """Operators of one micro-batch that run without a break on one stream."""

    stream: int
    operators: tuple[Priced, ...]


@dataclass(frozen=True, slots=True, eq=False)
class PricedPass:
    """A forward pass of all micro-batches, all that no uncertainty changes.

    segments: by kind of layer; repeats: how often a kind stands in the model; sends: all hops between pipeline stages.
    """

    segments: tuple[tuple[Segment, ...], ...]
    repeats: tuple[int, ...]
    micro_batches: int
    program: Program[Key]
    send: Priced
    hops: Count
    ledger: Ledger


@dataclass(frozen=True, slots=True, eq=False)
class PassTimes:
    """Seconds of a pass; `busy` is the compute stream's work, kernels and blocking collectives."""

    total: Seconds
    busy: Seconds
    kernels: Seconds


def price_pass(scenario: Scenario, plan: Prefill | Decode, calibration: Calibration) -> PricedPass:
    """Return one pass of the model with every operator priced."""
    context = inference_context(scenario, plan)
    work = model_work(context)
    pricing = pricer(scenario, calibration)
    kinds = (work.embedding, *work.layers, work.head)
    architecture = scenario.architecture
    repeats = (1, *architecture.kinds.values(), 1)
    place = {layer: at for at, layer in enumerate(architecture.kinds, start=1)}
    runs = ((0, 1), *((place[layer], layer.repeat) for layer in architecture.layers), (len(kinds) - 1, 1))
    segments = tuple(_segments(kind, pricing) for kind in kinds)
    shape = tuple(tuple(segment.stream for segment in parts) for parts in segments)
    parallel = scenario.parallel
    message = context.stream_tokens * architecture.hidden * context.residual
    neighbours = Group(parallel.pp, parallel.tp * parallel.cp * parallel.dp)
    return PricedPass(
        segments,
        repeats,
        plan.micro_batches,
        _compile(shape, runs, plan.micro_batches),
        pricing.price(Collective("pipeline send", "send_recv", message, neighbours, family="send_recv")),
        parallel.pp - 1,
        pass_ledger(scenario, plan, context, work),
    )


def inference_context(scenario: Scenario, plan: Prefill | Decode) -> Context:
    """Return one rank's view of one micro-batch; the ranks of a tp*cp group serve their sequences together."""
    parallel = scenario.parallel
    together = parallel.tp * parallel.cp / plan.micro_batches
    if isinstance(plan, Prefill):
        sequences, length, keys = (
            plan.tokens_per_device * together / plan.input_tokens,
            plan.input_tokens,
            plan.input_tokens,
        )
        phase = "prefill"
    else:
        sequences, length, keys = plan.batch_per_device * together, 1.0, plan.mean_keys
        phase = "decode"
    return Context(
        scenario.architecture,
        parallel,
        scenario.precision,
        scenario.communication,
        scenario.framework,
        phase,
        sequences,
        length,
        keys,
        routing=scenario.routing,
        node_devices=scenario.cluster.node.count,
    )


def pass_ledger(scenario: Scenario, plan: Prefill | Decode, context: Context, work: ModelWork) -> Ledger:
    """Return the ledger with the sequences of all micro-batches, and of all pipeline stages' turns, in the cache."""
    sequences = context.sequences * plan.micro_batches * scenario.parallel.pp
    return inference_ledger(context, work, sequences, plan.micro_batches)


def pass_times(priced: PricedPass, moves: Moves) -> PassTimes:
    """Return how long the pass takes: the recurrence over segments of all layers and micro-batches on two streams.

    Micro-batches take turns on the compute stream, segment by segment; while one computes the other's exchange runs.
    """
    durations: list[Seconds] = []
    kernels: list[Seconds] = []
    for kind, part in priced.program.slots:
        sums = sums_of(priced.segments[kind][part].operators, moves)
        durations.append(sums.total)
        kernels.append(sums.kernels)
    shape = np.broadcast_shapes(*(np.shape(each) for each in (*durations, *kernels)))
    rows = np.stack([np.broadcast_to(each, shape).reshape(-1) for each in durations])
    kernel_rows = np.stack([np.broadcast_to(each, shape).reshape(-1) for each in kernels])
    counts = priced.program.counts
    send = priced.hops * seconds_of(priced.send, moves)
    total = makespan(priced.program, rows).reshape(shape) + send
    busy = (counts[COMPUTE] @ rows).reshape(shape)
    return PassTimes(total, busy, (counts[COMPUTE] @ kernel_rows).reshape(shape))


def _segments(work: Work, pricing: Pricer) -> tuple[Segment, ...]:
    """Return a layer's forward pass cut at its exchanges."""
    segments: list[Segment] = []
    pending: list[Priced] = []

    def flush(stream: int) -> None:
        if pending:
            segments.append(Segment(stream, tuple(pending)))
            pending.clear()

    for operator in work.forward:
        if isinstance(operator, Exchange):
            flush(COMPUTE)
            pending.append(pricing.price(operator))
            flush(EXCHANGE)
        else:
            pending.append(pricing.price(operator))
    flush(COMPUTE)
    return tuple(segments)


@lru_cache(maxsize=64)
def _compile(shape: tuple[tuple[int, ...], ...], runs: tuple[tuple[int, int], ...], micro_batches: int) -> Program[Key]:
    """Return the program of a pass. shape: stream of each segment, by kind of layer; runs: (kind, layers) in order."""
    chain = [
        (stream, (kind, part))
        for kind, layers in runs
        for _ in range(layers)
        for part, stream in enumerate(shape[kind])
    ]
    events: list[Event[Key]] = []
    previous: list[tuple[int, ...]] = [()] * micro_batches
    # A turn lasts until the micro-batch has to change streams: what follows a combine and the next layer's attention
    # are one turn, or the next micro-batch's combine would hold both up.
    for stream, turn in itertools.groupby(chain, key=lambda segment: segment[0]):
        keys = [key for _, key in turn]
        for batch in range(micro_batches):
            for key in keys:
                events.append(Event(stream, key, previous[batch]))
                previous[batch] = (len(events) - 1,)
    return compile_events(events, tuple(dict.fromkeys(event.slot for event in events)))
