"""The memory ledger: what the most loaded device holds, part by part."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import TypeAlias

import numpy as np

from costmodel.equations import equation
from costmodel.hardware import Cluster, Node
from costmodel.quantities import Bytes, Count, Mask, anywhere, maximum, minimum, sum_of, where
from costmodel.records import Record, fields, replace
from costmodel.workload.architecture import Layer, Stage
from costmodel.workload.context import Context
from costmodel.workload.drafts import drafting_layers
from costmodel.workload.dtypes import ELEMENT_BYTES
from costmodel.workload.host_offload import LayerCounts, cache_by_memory, weights_by_memory
from costmodel.workload.kv_cache import cached_bytes, host_cached_bytes, state_bytes
from costmodel.workload.layers import ModelWork
from costmodel.workload.operators import AttentionKernel, Elementwise, ExpertAllToAll, Gemm, MixedAttention, Operator
from costmodel.workload.optimizer import stage_parameters
from costmodel.workload.passes import Pass, PassWork
from costmodel.workload.plans import Training
from costmodel.workload.schedules.catalogue import ORDERS
from costmodel.workload.schedules.schedule import Schedule
from costmodel.workload.sharding import StateSharding, gradient_format, parameters_by_kind, saved_bytes
from costmodel.workload.work import EXPERTS, LayerWork, Parameters

ON_HOST = ("host", "host_cache")
_StageLayers: TypeAlias = "Sequence[tuple[int, LayerWork]]"  # (how many, work) of each kind of layer on a stage


class Ledger(Record, kw_only=True):
    """Bytes on one device by use.

    activations: saved for the backward pass (training), or in use by a pass (inference).
    communication: receive buffers, those between pipeline stages, and layers with gathered weights or gradients that
        are not yet scattered.
    reserve: context and libraries, and the tensors that the backward pass of one layer rebuilds or makes.
    host, host_cache: what the device keeps in its host's memory, the KV cache apart. No parts of the total.
    capacity: of the device; null: that of the scenario's.
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
    capacity: Bytes | None = None

    @property
    @equation
    def total(self) -> Bytes:
        """Return the sum of all parts on the device.

        total = weights + gradients + optimizer + activations + kv_cache + communication + reserve
        """
        return sum_of(self.on_device.values())

    @property
    def on_device(self) -> dict[str, Bytes]:
        """Return the parts on the device by name."""
        return {name: getattr(self, name) for name in fields(self) if name not in (*ON_HOST, "capacity")}

    def room(self, cluster: Cluster) -> Bytes:
        """Return the memory of the device. cluster: the scenario's."""
        return cluster.device.device_memory.capacity if self.capacity is None else self.capacity

    @property
    def on_host(self) -> Bytes:
        """Return the sum of what the device keeps in its host's memory."""
        return self.host + self.host_cache


def fits_in_host(ledger: Ledger, node: Node, devices: Count) -> Mask:
    """Tell whether the host's memory holds what the devices of a node keep there. One of unknown size holds all.

    devices: of the layout. A node has at most its count of them.
    """
    memory = node.host.memory
    return True if memory is None else ledger.on_host * minimum(node.count, devices) <= memory


@equation
def host_batch_limit(ledger: Ledger, node: Node, devices: Count, batch: Count, unit: Count) -> Count:
    """Return the requests whose caches fit in the host's memory, without limit where it holds none.

        hosted = floor(free / (per_request * unit)) * unit
        free = max(memory / min(node.count, devices) - ledger.host, 0)     what a device has left there

    ledger: that of `batch` requests.
    unit: of which the result is a whole multiple.
    """
    memory = node.host.memory
    if memory is None:
        return np.inf
    free = maximum(memory / minimum(node.count, devices) - ledger.host, 0.0)
    caches = ledger.host_cache > 0
    if not anywhere(caches):
        return np.inf
    per_request = where(caches, ledger.host_cache, 1.0) / batch
    return where(caches, free // (per_request * unit) * unit, np.inf)


def training_ledger(
    context: Context, plan: Training, work: ModelWork, schedule: Schedule, layout: Sequence[Stage]
) -> Ledger:
    """Return the ledger of the most loaded pipeline rank during a training step.

    Weights: w*P. Gradients: g*P, over the data-parallel group from ZeRO-2. Optimizer: (master + 2 moments)*P, over the
    group from ZeRO-1. Weights too under ZeRO-3. The group has tp*cp*dp/(ep*etp) ranks for routed experts and dp*cp for
    the rest, times the stage replicas of the schedule, or the stated number.
    Activations: chunks in flight times what their layers save. Communication: receive buffers, and layers that are
    gathered or not yet scattered. Reserve: that of the framework, and what one layer's backward pass rebuilds or makes.
    Host: the shares that are offloaded, and the gradients of those states.
    """
    peaks: dict[tuple[Stage, ...], list[tuple[int, ...]]] = {}  # ranks with equal stages differ in chunks alone
    for rank, states in enumerate(in_flight(schedule)):
        peaks.setdefault(tuple(layout[stage] for stage in schedule.stages_of(rank)), []).extend(states)
    ledgers = []
    for stages, rank_states in peaks.items():
        chunks = list(zip(*rank_states, strict=True))  # by stage: chunks in flight in each peak state
        stage_chunks = [(stage_work(work, stage), count) for stage, count in zip(stages, chunks, strict=True)]
        ledgers.append(_rank_ledger(context, plan, schedule.stage_replicas, stage_chunks))
    return most_loaded(ledgers)


def minimum_memory(
    context: Context, plan: Training, replicas: int, stage_chunks: Sequence[tuple[LayerCounts, Count]]
) -> Bytes:
    """Return a lower bound of a pipeline rank's memory, where the counts of its layers are arrays.

        weights + gradients + optimizer + activations + the largest need of one of its layers + reserve

    stage_chunks: of some of its stages, the layers and the chunks in flight at the same time.
    replicas: ranks that hold each stage. Neighbouring layers that are both gathered count once, and a tied head's copy
    of the embedding not at all.
    """
    layers = [layer for stage, _ in stage_chunks for layer in stage]
    sharding = StateSharding(context, plan, replicas)
    activations = sum_of(
        chunks * sum_of(count * saved_bytes(work) for count, work in stage) for stage, chunks in stage_chunks
    )
    largest: Bytes = 0.0
    for count, work in layers:
        need = receive_buffers([work]) + sharding.transient_bytes([[(1, work)]]) + work.working_bytes
        largest = maximum(largest, where(count > 0, need, 0.0))
    owned = [(count, parameters) for count, work in layers for parameters in work.parameters]
    resident = _resident_ledger(context, plan, sharding, owned, activations)
    return resident.total + largest + context.framework.reserve


def stage_work(work: ModelWork, stage: Stage) -> list[tuple[int, LayerWork]]:
    """Return (how many, work) of each kind of layer on a stage."""
    parts = [(stage.embedding, work.embedding), *zip(stage.layers, work.layers, strict=True), (stage.head, work.head)]
    if work.mtp is not None:
        parts.append((stage.mtp, work.mtp))
    return [(count, part) for count, part in parts if count]


@lru_cache(maxsize=ORDERS)
def in_flight(schedule: Schedule) -> tuple[tuple[tuple[int, ...], ...], ...]:
    """Return the peak states of each rank. Cached, because it replays the schedule's order."""
    return tuple(schedule.in_flight(rank) for rank in range(len(schedule.ranks)))


@equation
def _rank_ledger(
    context: Context, plan: Training, replicas: int, stage_chunks: Sequence[tuple[_StageLayers, tuple[int, ...]]]
) -> Ledger:
    """Return the ledger of one rank. stage_chunks: by stage, its layers and its chunks in flight in each peak state.

    kept = largest(activations)      of the peak states: chunks in flight times what their layers save
    communication = received + gathered
    reserve = context.framework.reserve + rebuilt
    received := buffers of its largest dispatch, combine and context-parallel exchange
    gathered := layers with gathered weights, and gradients that are not yet scattered
    rebuilt := what the backward pass of one layer rebuilds or makes, of the layer with most
    """
    layers = [layer for stage, _ in stage_chunks for layer in stage]
    owned, sharding = stage_parameters(context, layers), StateSharding(context, plan, replicas)
    saved = [sum_of(count * saved_bytes(work) for count, work in stage) for stage, _ in stage_chunks]
    states = zip(*(chunks for _, chunks in stage_chunks), strict=True)
    activations = [sum_of(chunks * size for chunks, size in zip(state, saved, strict=True)) for state in states]
    kept = maximum(*activations, 0.0)
    received = receive_buffers(work for _, work in layers)
    gathered = sharding.transient_bytes([stage for stage, _ in stage_chunks])
    rebuilt = maximum(0.0, *(work.working_bytes for _, work in layers))
    return replace(
        _resident_ledger(context, plan, sharding, owned, kept),
        communication=received + gathered,
        reserve=context.framework.reserve + rebuilt,
    )


@equation
def _resident_ledger(
    context: Context, plan: Training, sharding: StateSharding, owned: Sequence[tuple[Count, Parameters]], kept: Bytes
) -> Ledger:
    """Return what a rank holds of its parameters, (how many, parameters), and of activations, `kept` [B].

    weights = resident
    gradients = gradient_share * rank_gradients
    optimizer = (1 - offload.optimizer) * states
    activations = (1 - offload.activations) * kept
    resident := parameters of the rank times bytes of each, over its group under ZeRO-3, without what the host holds
    rank_gradients := trained parameters of the rank times bytes of a gradient, over its group from ZeRO-2
    states := trained parameters of the rank times (master + 2 moments; of Muon's matrices 1), its share from ZeRO-1
    """
    offload, kinds = context.offload, parameters_by_kind(context, owned)
    gradient, sent_gradient = (
        ELEMENT_BYTES[dtype] for dtype in (context.precision.gradients, gradient_format(context, plan))
    )
    trained = {expert: kind.trained for expert, kind in kinds.items()}
    stored = {expert: kind.weights for expert, kind in kinds.items()}
    whole, all_trained = sum_of(stored.values()), sum_of(trained.values())
    weights = sharding.over_ranks(stored) if plan.zero == 3 else whole
    updated = sharding.over_ranks(trained) if plan.zero >= 1 else all_trained
    precision = context.precision
    master = 0.0 if precision.master is None else ELEMENT_BYTES[precision.master]
    states, sent = updated * (master + 2 * ELEMENT_BYTES[precision.moments]), updated * sent_gradient
    if plan.muon is not None:  # one moment of matrices
        matrices = {expert: kind.matrices for expert, kind in kinds.items()}
        shared = sharding.over_ranks(matrices) if plan.zero >= 1 else sum_of(matrices.values())
        states = states - shared * ELEMENT_BYTES[context.precision.moments]
    rank_gradients = (sharding.over_ranks(trained) if plan.shards_gradients else all_trained) * gradient
    gradient_share = 1 - offload.optimizer if plan.reduces_each_micro_batch else 1.0
    resident = whole if plan.zero == 3 and plan.sharding.keep_gathered else (1 - offload.weights) * weights
    return Ledger(
        weights=resident,
        gradients=gradient_share * rank_gradients,
        optimizer=(1 - offload.optimizer) * states,
        activations=(1 - offload.activations) * kept,
        host=offload.weights * weights + offload.optimizer * (states + sent) + offload.activations * kept,
    )


class CachedSequences(Record):
    """The sequences in the KV cache of one tp*cp*pp group: `sequences` of `kv_len` tokens each."""

    sequences: Count
    kv_len: Count


def inference_ledger(
    passes: Sequence[tuple[Pass, PassWork]], layout: Sequence[Stage], cached: CachedSequences
) -> Ledger:
    """Return the ledger of the most loaded pipeline rank of an inference engine that runs these kinds of passes.

    Activations, of the pass that needs most: two copies of every micro-batch's residual stream, and the largest
    operator's operands. Communication: receive buffers of every micro-batch. A stage caches for its own layers.
    """
    return most_loaded([_stage_ledger(passes, stage, cached) for stage in dict.fromkeys(layout)])


@equation
def _stage_ledger(passes: Sequence[tuple[Pass, PassWork]], stage: Stage, cached: CachedSequences) -> Ledger:
    """Return the ledger of a rank of one pipeline stage.

    kv_cache = layer_caches + drafts      each `cached_bytes` of a sequence, and of layers that draft
    activations = largest(pass_activations)
    communication = largest(pass_buffers)
    reserve = context.framework.reserve
    """
    (first, work), *_ = passes
    context = first.parts[0]
    layers = list(zip(stage.layers, work.body.layers, strict=True))
    others = [
        (stage.embedding, work.body.embedding),
        (stage.head, work.body.head),
        *((stage.head * count, draft) for count, draft in work.held),
    ]
    weights, host_weights = weights_by_memory(context, layers, others)
    cp = context.parallel.cp
    caches = [cached.sequences * size / cp for size in _cache_by_layer(context, cached.kv_len)]
    drafts = stage.head * cached.sequences * _draft_cache(first, cached.kv_len) / cp
    layer_caches, host_cache = cache_by_memory(context, list(zip(stage.layers, caches, strict=True)))
    element, tp = context.precision.kv_element, context.parallel.tp
    host_layers = zip(stage.layers, context.architecture.kinds, strict=True)
    host_caches = [(count, host_cached_bytes(each.mixer, cached.kv_len, element, tp)) for count, each in host_layers]
    host_keys = sum_of(cached.sequences * count * size / cp for count, size in host_caches)
    working = [_working_memory(batch, pass_work, stage) for batch, pass_work in passes]
    pass_activations, pass_buffers = zip(*working, strict=True)
    return Ledger(
        weights=weights,
        activations=maximum(0.0, *pass_activations),
        kv_cache=layer_caches + drafts,
        communication=maximum(0.0, *pass_buffers),
        reserve=context.framework.reserve,
        host=host_weights,
        host_cache=host_cache + host_keys,
    )


def with_expert_pool(ledger: Ledger, batch: Pass, work: PassWork, capacity: Bytes) -> Ledger:
    """Return the ledger of a device with layers, or that of one with experts only where these do not fit.

    The latter holds its experts, and the operands of one of its kernels.
    """
    context = batch.parts[0]
    if context.parallel.expert_pool is None:
        return ledger
    kinds = [*zip(context.architecture.kinds.values(), work.body.layers, strict=True), *work.held]
    held = [(count, replace(kind, parameters=kind.pool_parameters)) for count, kind in kinds]
    kernels = (each for _, kind in kinds for each in kind.forward if kind.elsewhere.get(each.name) == EXPERTS)
    pool = Ledger(
        weights=weights_by_memory(context, held, [])[0],
        activations=batch.micro_batches * maximum(0.0, *map(operand_bytes, kernels)),
        reserve=context.framework.reserve,
    )
    fails = pool.total > capacity
    parts = {name: where(fails, getattr(pool, name), getattr(ledger, name)) for name in fields(Ledger)}
    return Ledger(**parts)


def sequence_cache_bytes(batch: Pass, kv_len: Count) -> Bytes:
    """Return the KV cache of a sequence over all stages and layers that draft, on a tensor-parallel rank [B]."""
    context = batch.parts[0]
    sizes = zip(context.architecture.kinds.values(), _cache_by_layer(context, kv_len), strict=True)
    return sum_of(count * size for count, size in sizes) + _draft_cache(batch, kv_len)


def stage_cache_bytes(batch: Pass, layout: Sequence[Stage], kv_len: Count) -> Bytes:
    """Return what a rank of the stage with the most cache keeps on its device of a sequence [B]."""
    context = batch.parts[0]
    caches = [size / context.parallel.cp for size in _cache_by_layer(context, kv_len)]
    drafts = _draft_cache(batch, kv_len) / context.parallel.cp
    stages = [
        cache_by_memory(context, list(zip(stage.layers, caches, strict=True)))[0] + stage.head * drafts
        for stage in dict.fromkeys(layout)
    ]
    return maximum(*stages) if len(stages) > 1 else stages[0]


def _cache_by_layer(context: Context, kv_len: Count) -> list[Bytes]:
    """Return the cache of a sequence on a tensor-parallel rank, of one layer of each kind."""
    return [_layer_cache(context, layer, kv_len) for layer in context.architecture.kinds]


def _layer_cache(context: Context, layer: Layer, kv_len: Count) -> Bytes:
    element, tp = context.precision.kv_element, context.parallel.tp
    state = state_bytes(layer.mixer, context.architecture.hidden, element, tp)
    return cached_bytes(layer.mixer, kv_len, element, tp) + state


def _draft_cache(batch: Pass, kv_len: Count) -> Bytes:
    """Return the cache of a sequence on a tensor-parallel rank, of all layers that draft."""
    context = batch.parts[0]
    layers = drafting_layers(context.architecture, len(batch.drafts))
    return sum_of(count * _layer_cache(context, layer, kv_len) for count, layer in layers)


@equation
def _working_memory(batch: Pass, work: PassWork, stage: Stage) -> tuple[Bytes, Bytes]:
    """Return the activations and the receive buffers of one kind of pass on a stage [B].

    pass_activations = batch.micro_batches * residual + largest_operands
    residual = 2 * batch.residual_tokens * width * context.residual      two copies of the residual stream
    pass_buffers = batch.micro_batches * received                        of its largest exchanges
    """
    context = batch.parts[0]
    kinds = [kind for kind, count in zip(work.kinds, work.repeats(stage), strict=True) if count]
    width = context.architecture.streams * context.architecture.hidden
    residual = 2 * batch.residual_tokens * width * context.residual
    own = (each for kind in kinds for each in kind.forward if each.name not in kind.elsewhere)
    largest_operands, received = maximum(0.0, *map(operand_bytes, own)), receive_buffers(kinds)
    pass_activations, pass_buffers = batch.micro_batches * residual + largest_operands, batch.micro_batches * received
    return pass_activations, pass_buffers


def operand_bytes(operator: Operator) -> Bytes:
    """Return the activation bytes that an operator reads and writes."""
    if isinstance(operator, AttentionKernel) and operator.family.endswith("decode"):
        return 0.0  # it reads the cache, which has its own line
    if isinstance(operator, MixedAttention):
        return sum_of(operand_bytes(part) for part in operator.parts)
    if isinstance(operator, Gemm):
        return operator.groups * operator.m * (operator.k * operator.a_bytes + operator.n * operator.out_bytes)
    if isinstance(operator, Elementwise | AttentionKernel):
        return operator.traffic / maximum(operator.calls, 1.0)
    return 0.0


def receive_buffers(layers: Iterable[LayerWork]) -> Bytes:
    """Return a rank's receive buffers: of its largest dispatch, combine, and context-parallel exchange."""
    largest: dict[str, Bytes] = {}
    for work in layers:
        largest["context"] = maximum(largest.get("context", 0.0), work.receive_buffers)
        for operator in work.forward:
            if isinstance(operator, ExpertAllToAll):
                largest[operator.family] = maximum(largest.get(operator.family, 0.0), _received_bytes(operator))
    return sum_of(largest.values())


def _received_bytes(exchange: ExpertAllToAll) -> Bytes:
    """Return the bytes that a rank receives: each token once, in low-latency mode once per expert."""
    size = exchange.group.size
    copies = (
        exchange.targets(size) * exchange.most_loaded(size)
        if exchange.deduplicates
        else exchange.top_k * exchange.expert_load
    )
    return where(size > 1, exchange.tokens * copies * exchange.token_bytes, 0.0)


def most_loaded(ledgers: Sequence[Ledger]) -> Ledger:
    """Return, point by point, the ledger with the largest total, and the most that any keeps on its host.

    Of devices whose capacities are stated that with the largest share of its own.
    """
    most = ledgers[0]
    for ledger in ledgers[1:]:
        larger = ledger.total / (ledger.capacity or 1.0) > most.total / (most.capacity or 1.0)
        names = [name for name in fields(Ledger) if name != "capacity" or ledger.capacity is not None]
        parts = {name: where(larger, getattr(ledger, name), getattr(most, name)) for name in names}
        on_host = {name: maximum(getattr(ledger, name), getattr(most, name)) for name in ON_HOST}
        most = Ledger(**parts | on_host)
    return most
