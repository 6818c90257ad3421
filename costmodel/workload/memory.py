"""The memory ledger: what one device holds, part by part, on the fullest rank."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import TypeAlias

import numpy as np

from costmodel.hardware import Node
from costmodel.quantities import Bytes, Count, Mask, Quantity, maximum, minimum, where
from costmodel.workload.context import Context
from costmodel.workload.counting import sum_of
from costmodel.workload.dtypes import ELEMENT_BYTES
from costmodel.workload.host_offload import cache_by_memory, weight_bytes, weights_by_memory
from costmodel.workload.kv_cache import cached_bytes, host_cached_bytes, state_bytes
from costmodel.workload.layers import ModelWork
from costmodel.workload.operators import AttentionKernel, Elementwise, ExpertAllToAll, Gemm, MixedAttention, Operator
from costmodel.workload.optimizer import stage_parameters
from costmodel.workload.passes import Pass, PassWork
from costmodel.workload.plans import Training
from costmodel.workload.scenario import Precision
from costmodel.workload.schedules import ORDERS, Schedule
from costmodel.workload.sharding import StateSharding, gradient_format, saved_bytes
from costmodel.workload.stages import Stage
from costmodel.workload.work import LayerWork, Parameters

ON_HOST = ("host", "host_cache")


@dataclass(frozen=True, slots=True, eq=False)
class Ledger:
    """Bytes on one device by what they are for.

    activations: what the backward pass waits for (training), or a pass works on (inference); communication: landing
    buffers, and layers whose weights are gathered or whose gradients are not yet scattered; reserve: context and
    libraries, and the tensors that the backward pass of one layer rebuilds; host, host_cache: what the device keeps in
    its host's memory, the KV cache apart, no parts of the total.
    """

    weights: Bytes = 0.0
    gradients: Bytes = 0.0
    optimizer: Bytes = 0.0
    activations: Bytes = 0.0
    kv_cache: Bytes = 0.0
    communication: Bytes = 0.0
    reserve: Bytes = 0.0
    host: Bytes = 0.0
    host_cache: Bytes = 0.0

    @property
    def total(self) -> Bytes:
        """Return the sum of all parts on the device."""
        return sum_of(self.on_device.values())

    @property
    def on_device(self) -> dict[str, Bytes]:
        """Return the parts on the device by name."""
        return {part.name: getattr(self, part.name) for part in fields(self) if part.name not in ON_HOST}

    @property
    def on_host(self) -> Bytes:
        """Return the sum of what the device keeps in its host's memory."""
        return self.host + self.host_cache


def fits_in_host(ledger: Ledger, node: Node, devices: Count) -> Mask:
    """Tell whether what the devices of a node keep on their host fits into its memory.

    devices: all of the layout's, of which a node holds at most its count. A memory that no source states holds all.
    """
    memory = node.host.memory
    return True if memory is None else ledger.on_host * minimum(node.count, devices) <= memory


def host_batch_limit(ledger: Ledger, node: Node, devices: Count, batch: Count, unit: Count) -> Count:
    """Return how many requests' caches the host has memory for, without limit where it keeps none.

        (memory / devices of a node - what else a device keeps there) / (its cache of a request)

    ledger: that of `batch` requests; unit: of what the result is a whole multiple.
    """
    memory = node.host.memory
    if memory is None:
        return np.inf
    free = maximum(memory / minimum(node.count, devices) - ledger.host, 0.0)
    kept = ledger.host_cache > 0
    each = where(kept, ledger.host_cache, 1.0) / batch
    return where(kept, free // (each * unit) * unit, np.inf)


def training_ledger(
    context: Context, plan: Training, work: ModelWork, schedule: Schedule, layout: Sequence[Stage]
) -> Ledger:
    """Return the ledger of the fullest pipeline rank during a training step.

    weights w*P; gradients g*P, over the data-parallel group from ZeRO-2; optimizer (master + 2 moments)*P, over the
    group from ZeRO-1; weights too under ZeRO-3. Routed experts are shared by tp*cp*dp/(ep*etp) ranks, the rest by
    dp*cp, times the copies that the schedule keeps of each stage, or by those of a stated group. Activations: chunks in
    flight times what their layers save. Communication: landing buffers, and the layers that are gathered or not yet
    scattered. Reserve: that of the framework, and what one layer's backward pass rebuilds. Host: the shares that are
    offloaded, and the gradients of those states.
    """
    alike: dict[tuple[Stage, ...], list[tuple[int, ...]]] = {}  # ranks with equal stages differ in chunks alone
    for rank, fullest_states in enumerate(in_flight(schedule)):
        alike.setdefault(tuple(layout[stage] for stage in schedule.stages_of(rank)), []).extend(fullest_states)
    ledgers = []
    for stages, states in alike.items():
        chunks = zip(*states, strict=True)  # by stage: chunks held in each fullest state
        held = [(stage_work(work, stage), count) for stage, count in zip(stages, chunks, strict=True)]
        ledgers.append(_rank_ledger(context, plan, schedule.stage_replicas, held))
    return most_loaded(ledgers)


def minimum_memory(context: Context, plan: Training, copies: int, held: Sequence[tuple[Parts, Count]]) -> Bytes:
    """Return what a pipeline rank holds at least, where the counts of its layers are arrays.

        weights + gradients + optimizer + activations + what one layer of a kind that it has needs beside + reserve

    held: for some of its stages, (how many, work) of each kind of layer, and the chunks that it keeps of them at the
    same time; copies: of each stage that the schedule keeps. Neighbouring layers that are both gathered count once, and
    a tied head's copy of the embedding not at all.
    """
    parts = [part for stage, _ in held for part in stage]
    split = StateSharding(context, plan, copies)
    activations = sum_of(chunks * sum_of(count * saved_bytes(part) for count, part in stage) for stage, chunks in held)
    beside: Bytes = 0.0
    for count, part in parts:
        own = _buffers([part]) + split.transient_bytes([[(1, part)]]) + part.recomputed_bytes
        beside = maximum(beside, where(count > 0, own, 0.0))
    owned = [(count, parameters) for count, part in parts for parameters in part.parameters]
    return _owner_ledger(context, plan, split, owned, activations).total + beside + context.framework.reserve


def stage_work(work: ModelWork, stage: Stage) -> list[tuple[int, LayerWork]]:
    """Return (how many, work) of each kind of layer on a stage."""
    parts = [(stage.embedding, work.embedding), *zip(stage.layers, work.layers, strict=True), (stage.head, work.head)]
    if work.mtp is not None:
        parts.append((stage.mtp, work.mtp))
    return [(count, part) for count, part in parts if count]


@lru_cache(maxsize=ORDERS)
def in_flight(schedule: Schedule) -> tuple[tuple[tuple[int, ...], ...], ...]:
    """Return the fullest states of each rank; replaying a schedule's order is worth doing once."""
    return tuple(schedule.in_flight(rank) for rank in range(len(schedule.ranks)))


_Held: TypeAlias = "tuple[list[tuple[int, LayerWork]], tuple[int, ...]]"
Parts: TypeAlias = "Sequence[tuple[Count, LayerWork]]"  # (how many, work) of each kind of layer


def _rank_ledger(context: Context, plan: Training, copies: int, held: Sequence[_Held]) -> Ledger:
    """Return the ledger of one rank. held: by stage, its work and its chunks in flight in each fullest state."""
    parts = [part for stage, _ in held for part in stage]
    owned, split = stage_parameters(context, parts), StateSharding(context, plan, copies)
    saved = [sum_of(count * saved_bytes(part) for count, part in stage) for stage, _ in held]
    states_held = zip(*(chunks for _, chunks in held), strict=True)
    kept = [sum_of(chunks * size for chunks, size in zip(state, saved, strict=True)) for state in states_held]
    ledger = _owner_ledger(context, plan, split, owned, maximum(*kept, 0.0))
    return replace(
        ledger,
        communication=_buffers(part for _, part in parts) + split.transient_bytes([stage for stage, _ in held]),
        reserve=context.framework.reserve + maximum(0.0, *(part.recomputed_bytes for _, part in parts)),
    )


def _owner_ledger(
    context: Context,
    plan: Training,
    split: StateSharding,
    owned: Sequence[tuple[Count, Parameters]],
    activations: Bytes,
) -> Ledger:
    """Return what a rank holds of its parameters and activations. owned: (how many, parameters)."""
    offload = context.offload
    weights = split.rank_bytes(owned, lambda item: weight_bytes(context, item), over=plan.zero == 3)
    states = split.rank_bytes(owned, lambda _: _state_bytes(context.precision), over=plan.zero >= 1)
    sent = split.rank_bytes(owned, lambda _: ELEMENT_BYTES[gradient_format(context, plan)], over=plan.zero >= 1)
    gradients = split.rank_bytes(
        owned, lambda _: ELEMENT_BYTES[context.precision.gradients], over=plan.shards_gradients
    )
    if plan.zero == 3 and plan.sharding.keep_gathered:
        resident = split.rank_bytes(owned, lambda item: weight_bytes(context, item), over=False)
    else:
        resident = (1 - offload.weights) * weights
    return Ledger(
        weights=resident,
        gradients=(1 - offload.optimizer if plan.reduces_each_micro_batch else 1.0) * gradients,
        optimizer=(1 - offload.optimizer) * states,
        activations=(1 - offload.activations) * activations,
        host=offload.weights * weights + offload.optimizer * (states + sent) + offload.activations * activations,
    )


@dataclass(frozen=True, slots=True, eq=False)
class CachedSequences:
    """What the KV cache of one tp*cp*pp group holds: `sequences` of `keys` tokens each."""

    sequences: Count
    kv_len: Count


def inference_ledger(
    passes: Sequence[tuple[Pass, PassWork]], layout: Sequence[Stage], cached: CachedSequences
) -> Ledger:
    """Return the ledger of the fullest pipeline rank of an inference engine that runs these kinds of passes in turn.

    Activations, of the pass that needs most: two copies of every micro-batch's residual stream, and the largest
    operator's operands; communication: landing buffers of every micro-batch. A stage keeps the cache of its own layers.
    """
    return most_loaded([_stage_ledger(passes, stage, cached) for stage in dict.fromkeys(layout)])


def _stage_ledger(passes: Sequence[tuple[Pass, PassWork]], stage: Stage, cached: CachedSequences) -> Ledger:
    """Return the ledger of a rank of one pipeline stage."""
    (first, work), *_ = passes
    context = first.parts[0]
    modules = stage.head * draft_modules(first)
    layers = list(zip(stage.layers, work.body.layers, strict=True))
    others = [
        (stage.embedding, work.body.embedding),
        (stage.head, work.body.head),
        *((modules, draft) for _, draft in work.drafts[:1]),
    ]
    weights, host_weights = weights_by_memory(context, layers, others)
    *caches, drafts = (cached.sequences * size / context.parallel.cp for size in _kept(context, cached.kv_len))
    cache, host_cache = cache_by_memory(context, list(zip(stage.layers, caches, strict=True)))
    hosted = zip(stage.layers, _hosted(context, cached.kv_len), strict=True)
    chosen_from = sum_of(cached.sequences * count * size / context.parallel.cp for count, size in hosted)
    working = [_working(one, of, stage) for one, of in passes]
    return Ledger(
        weights=weights,
        activations=maximum(0.0, *(activations for activations, _ in working)),
        kv_cache=cache + modules * drafts,
        communication=maximum(0.0, *(buffers for _, buffers in working)),
        reserve=context.framework.reserve,
        host=host_weights,
        host_cache=host_cache + chosen_from,
    )


def draft_modules(one: Pass) -> int:
    """Return how many of the model's MTP modules a pass drafts with: the last one drafts again where they are few."""
    mtp = one.parts[0].architecture.mtp
    return 0 if mtp is None else min(one.drafts, mtp.depth)


def sequence_cache_bytes(one: Pass, keys: Count) -> Bytes:
    """Return the KV cache of a sequence over all pipeline stages, drafting modules too, on a tensor-parallel rank."""
    context = one.parts[0]
    repeats = (*context.architecture.kinds.values(), draft_modules(one))
    return sum_of(count * size for count, size in zip(repeats, _kept(context, keys), strict=True))


def _kept(context: Context, keys: Count) -> list[Bytes]:
    """Return the cache of `keys` tokens on a tensor-parallel rank, of one layer of each kind, then of an MTP module."""
    element, tp = context.precision.kv_element, context.parallel.tp
    layers = (*context.architecture.kinds, context.architecture.layers[-1])
    hidden = context.architecture.hidden
    return [
        cached_bytes(layer.mixer, keys, element, tp) + state_bytes(layer.mixer, hidden, element, tp) for layer in layers
    ]


def _hosted(context: Context, keys: Count) -> list[Bytes]:
    """Return what patterns keep on the host of a sequence of `keys` tokens, of one layer of each kind, for a rank."""
    element, tp = context.precision.kv_element, context.parallel.tp
    return [host_cached_bytes(layer.mixer, keys, element, tp) for layer in context.architecture.kinds]


def _working(one: Pass, work: PassWork, stage: Stage) -> tuple[Bytes, Bytes]:
    """Return the activations and the landing buffers of one kind of pass on a stage [B]."""
    context = one.parts[0]
    kinds = [kind for kind, count in zip(work.kinds, work.repeats(stage), strict=True) if count]
    stream = 2 * one.residual_tokens * context.architecture.hidden * context.residual
    largest = maximum(0.0, *(_operands(operator) for kind in kinds for operator in kind.forward))
    return one.micro_batches * stream + largest, one.micro_batches * _buffers(kinds)


def _state_bytes(precision: Precision) -> Bytes:
    """Return the bytes of optimizer states of one parameter: master copy and two moments."""
    master = 0.0 if precision.master is None else ELEMENT_BYTES[precision.master]
    return master + 2 * ELEMENT_BYTES[precision.moments]


def _operands(operator: Operator) -> Bytes:
    """Return the activation bytes that an operator reads and writes."""
    if isinstance(operator, AttentionKernel) and operator.family.endswith("decode"):
        return 0.0  # what it reads is the cache, which has a line of its own
    if isinstance(operator, MixedAttention):
        return sum_of(_operands(part) for part in operator.parts)
    if isinstance(operator, Gemm):
        return operator.groups * operator.m * (operator.k * operator.a_bytes + operator.n * operator.out_bytes)
    if isinstance(operator, Elementwise | AttentionKernel):
        return operator.traffic / maximum(operator.calls, 1.0)
    return 0.0


def _buffers(parts: Iterable[LayerWork]) -> Bytes:
    """Return a rank's landing buffers.

    One for its largest dispatch, one for its largest combine, and those of its largest context-parallel exchange.
    """
    largest: dict[str, Quantity] = {}
    for part in parts:
        largest["context"] = maximum(largest.get("context", 0.0), part.receive_buffers)
        for operator in part.forward:
            if isinstance(operator, ExpertAllToAll):
                largest[operator.family] = maximum(largest.get(operator.family, 0.0), _arrival(operator))
    return sum_of(largest.values())


def _arrival(exchange: ExpertAllToAll) -> Bytes:
    """Return the bytes that land on a rank: each token once for all of its experts, in low-latency mode for each."""
    size = exchange.group.size
    each = (
        exchange.targets(size) * exchange.most_loaded(size)
        if exchange.deduplicates
        else exchange.top_k * exchange.expert_load
    )
    return where(size > 1, exchange.tokens * each * exchange.token_bytes, 0.0)


def most_loaded(ledgers: Sequence[Ledger]) -> Ledger:
    """Return, element by element, the ledger with the largest total, and the most that any keeps on its host."""
    most = ledgers[0]
    for ledger in ledgers[1:]:
        more = ledger.total > most.total
        parts = {
            part.name: where(more, getattr(ledger, part.name), getattr(most, part.name)) for part in fields(Ledger)
        }
        kept = {name: maximum(getattr(ledger, name), getattr(most, name)) for name in ON_HOST}
        most = Ledger(**parts | kept)
    return most
