"""Checked documents to the frozen dataclasses that the other rooms compute with."""

from __future__ import annotations

from collections.abc import Mapping

from costmodel.hardware import (
    Cluster,
    Device,
    FabricPrice,
    Host,
    Link,
    MathUnit,
    MemoryLevel,
    Network,
    Nic,
    Node,
    Power,
    Price,
)
from costmodel.quantities import Count, Quantity, ceil, minimum
from costmodel.schema.cluster import ClusterFile, HostFile, NetworkFile, NodeFile
from costmodel.schema.device import DeviceFile, MathFile
from costmodel.schema.framework import FrameworkFile, PrecisionFile, TileFile
from costmodel.schema.mixers import (
    AnyMixer,
    ConvolutionFile,
    GateFile,
    MemoryFile,
    MilPoolFile,
    MlaFile,
    RecurrenceFile,
    SpectralFile,
)
from costmodel.schema.model import DenseFile, LayerFile, LayerGroupFile, ModelFile, MoeFile, NoFfnFile
from costmodel.schema.patterns import AnyPattern, MixedFile, NeighbourhoodFile
from costmodel.schema.workload import (
    CommunicationFile,
    DecodeFile,
    ExpertBoundFile,
    GenerateFile,
    OffloadFile,
    OptimizerFile,
    ParallelFile,
    PlanFile,
    PrefillFile,
    RoutingFile,
    ServingFile,
    SimulationFile,
    SpeculativeFile,
    TrainingFile,
)
from costmodel.workload.architecture import (
    Architecture,
    Attention,
    Convolution,
    DenseFfn,
    Ffn,
    Gate,
    HeadGroup,
    HeadRoute,
    KernelTraits,
    Layer,
    Memories,
    MilPool,
    Mixer,
    Mla,
    MoeFfn,
    Mtp,
    NeuralMemory,
    NoFfn,
    Recurrence,
    Spectral,
)
from costmodel.workload.dtypes import GroupScaling
from costmodel.workload.patterns import (
    Axis,
    ChunkTopK,
    ElasticWindow,
    KvBudget,
    Mixed,
    Neighbourhood,
    Pattern,
    PredictedSparse,
    SinkRecent,
    Spans,
    StridedBlocks,
)
from costmodel.workload.plans import (
    Decode,
    Denoising,
    ExpertBound,
    Generate,
    Placement,
    Prefill,
    Serving,
    Sharding,
    Speculative,
    Training,
)
from costmodel.workload.scenario import (
    Communication,
    Disaggregated,
    Framework,
    HostTimes,
    Offload,
    Parallelism,
    Plan,
    Pool,
    Precision,
    Routing,
    Tile,
)
from costmodel.workload.schedules import implied_virtual
from costmodel.workload.simulation import Checkpoints, Simulation, Slowdown


def device(file: DeviceFile, stated: DeviceFile, restated: frozenset[str] = frozenset()) -> Device:
    """Return the device. Peaks become rates per processor and cycle, at the processors and clock they are stated with.

        flop_per_cycle = peak / (processors * clock)

    file: with all changes; stated: the device before them; restated: formats whose peak is itself a changed value and
    therefore holds at the changed processors and clock.
    """
    return Device(
        name=file.name, architecture=file.architecture, processors=file.processors,
        clock=file.clock.tensor_reference, clock_max=file.clock.max,
        math={name: _math_unit(unit, file, file if name in restated else stated) for name, unit in file.math.items()},
        memory=tuple(
            MemoryLevel(
                level.name,
                level.capacity * (file.processors if level.per == "processor" else 1.0),
                None if level.bandwidth is None
                else level.bandwidth * (file.processors if level.per == "processor" else 1.0),
            )
            for level in file.memory
        ),
        links={name: Link(name, link.bandwidth, link.latency) for name, link in file.links.items()},
        power=Power(file.power.tdp, file.power.idle), price=Price(file.price.rental, file.price.purchase),
    )  # fmt: skip


def _math_unit(unit: MathFile, file: DeviceFile, at: DeviceFile) -> MathUnit:
    per_cycle = unit.peak / (at.processors * _clock(at, unit))
    return MathUnit(per_cycle, _clock(file, unit), unit.accumulate, unit.scaling)


def _clock(file: DeviceFile, unit: MathFile) -> Quantity:
    return file.clock.max if unit.clock == "max" else file.clock.tensor_reference


def node(file: NodeFile, inside: Device) -> Node:
    """Return the node; its link `intra` must be one of the device's."""
    nic = file.nic
    return Node(
        name=file.name, device=inside, count=file.count, intra=inside.links[file.intra],
        peer_to_peer=file.peer_to_peer, nic=Nic(nic.bandwidth, nic.per_device, nic.latency) if nic else None,
        host=_host(file.host),
    )  # fmt: skip


def _host(file: HostFile) -> Host:
    stated: Mapping[str, Quantity] = {str(dtype): peak for dtype, peak in (file.peak or {}).items()}
    return Host(
        memory=file.memory,
        bandwidth=file.bandwidth,
        sockets=file.sockets,
        peak=stated,
        link=file.link,
        price=file.price,
        switches=file.switches,
        interconnect=file.interconnect,
    )


def cluster(file: ClusterFile, of: Node) -> Cluster:
    """Return the cluster."""
    return Cluster(file.name, of, file.count, network(file.network) if file.network else None)


def network(file: NetworkFile) -> Network:
    """Return the fabric between nodes."""
    return Network(
        topology=file.topology, planes=file.planes, radix=file.radix, bandwidth=file.bandwidth,
        latency_same_leaf=file.latency.same_leaf, latency_cross_leaf=file.latency.cross_leaf,
        routing=file.routing, price=FabricPrice(file.price.switch, file.price.link, file.price.endpoint_link),
        groups=file.groups, oversubscription=file.oversubscription, pxn=file.pxn, failed=tuple(file.failed),
    )  # fmt: skip


def nodes_for(devices: Count, per_node: Count) -> Count:
    """Return the fewest nodes that hold `devices`."""
    return ceil(devices / per_node)


def first_devices(devices: Count, per_node: Count) -> tuple[Count, Count]:
    """Return (nodes, devices used in each) for the first `devices` ranks; nodes are filled one after the other."""
    used = minimum(devices, per_node)
    return devices / used, used


def architecture(file: ModelFile) -> Architecture:
    """Return the model."""
    return Architecture(
        name=file.name, hidden=file.hidden, vocabulary=file.vocabulary,
        layers=tuple(layer for each in file.layers for layer in _layers(each, file.hidden)),
        tied_embeddings=file.tied_embeddings,
        positions=file.positions, mtp=Mtp(file.mtp.depth) if file.mtp else None, head_bias=file.head_bias,
        final_norm=file.final_norm, embedding_norm=file.embedding_norm, features=file.features,
    )  # fmt: skip


def _layers(file: LayerFile | LayerGroupFile, hidden: Count) -> tuple[Layer, ...]:
    """Return the runs that an entry of the list stands for; a run that comes back is the same object."""
    if isinstance(file, LayerGroupFile):
        return tuple(_layer(layer, hidden) for layer in file.layers) * file.repeat
    return (_layer(file, hidden),)


def _layer(file: LayerFile, hidden: Count) -> Layer:
    hidden = hidden if file.width is None else file.width
    return Layer(
        repeat=file.repeat, mixer=_mixer(file.mixer, hidden), ffn=_ffn(file.ffn, hidden), norm=file.norm,
        dropout=file.dropout, norm_position=file.norm_position,
        block=file.block, shared_norm=file.shared_norm, width=file.width, scale=file.scale, plain=file.plain,
    )  # fmt: skip


def _mixer(file: AnyMixer, hidden: Count) -> Mixer:
    """Return the mixer; by default heads share the residual stream's width, and each has keys of its own."""
    if isinstance(file, MlaFile):
        return Mla(
            heads=file.heads, q_lora=file.q_lora, kv_lora=file.kv_lora, nope_dim=file.nope_dim,
            rope_dim=file.rope_dim, v_head_dim=file.v_head_dim, causal=file.causal,
        )  # fmt: skip
    if isinstance(file, RecurrenceFile):
        memories = None if file.memories is None else Memories(**file.memories.model_dump())
        return Recurrence(
            heads=file.heads, key_dim=file.key_dim,
            value_dim=file.key_dim if file.value_dim is None else file.value_dim, chunk=file.chunk,
            decay=file.decay, memories=memories, short_conv=file.short_conv, output_gate=file.output_gate,
            chunk_cycles=file.chunk_cycles, blocks=file.blocks,
            columns=file.columns,
        )  # fmt: skip
    if isinstance(file, ConvolutionFile):
        return Convolution(file.kernel, file.inputs, file.outputs, file.stride, file.depthwise, file.channels_first)
    if isinstance(file, SpectralFile):
        return Spectral(file.height, file.width)
    if isinstance(file, GateFile):
        return Gate(file.heads, file.passes)
    if isinstance(file, MilPoolFile):
        return MilPool(file.branches, file.inner)
    if isinstance(file, MemoryFile):
        return NeuralMemory(file.heads, file.depth, file.width, file.chunk, file.momentum)
    groups = tuple(HeadGroup(group.share_of(file.q_heads), _pattern(group.pattern)) for group in file.head_groups)
    head_dim = hidden / file.q_heads if file.head_dim is None else file.head_dim
    return Attention(
        q_heads=file.q_heads, kv_heads=file.q_heads if file.kv_heads is None else file.kv_heads, head_dim=head_dim,
        v_head_dim=head_dim if file.v_head_dim is None else file.v_head_dim, causal=file.causal, rotary=file.rotary,
        bias=file.bias, head_groups=groups,
        output_bias=file.output_bias, rotary_dim=file.rotary_dim, alibi=file.alibi, qk_norm=file.qk_norm,
        kernel=KernelTraits(**file.kernel.model_dump()),
        route=None if file.route is None else HeadRoute(**file.route.model_dump()), partial=file.partial,
        keeps=file.keeps,
    )  # fmt: skip


_PATTERNS: Mapping[str, type[Pattern]] = {
    "full": Pattern, "window": Pattern, "sink_recent": SinkRecent, "elastic_window": ElasticWindow,
    "strided_blocks": StridedBlocks, "chunk_topk": ChunkTopK, "kv_budget": KvBudget,
    "predicted_sparse": PredictedSparse, "spans": Spans,
}  # fmt: skip


def _pattern(file: AnyPattern) -> Pattern:
    """Return the pattern: that of its kind, with the file's values."""
    if isinstance(file, NeighbourhoodFile):
        return Neighbourhood(axes=tuple(Axis(**axis.model_dump()) for axis in file.axes))
    if isinstance(file, MixedFile):
        return Mixed(sets=tuple((each.queries, each.keys) for each in file.sets))
    return _PATTERNS[file.kind](**file.model_dump())


def _ffn(file: DenseFile | MoeFile | NoFfnFile, hidden: Count) -> Ffn:
    if isinstance(file, NoFfnFile):
        return NoFfn()
    if isinstance(file, DenseFile):
        width = 4 * hidden if file.intermediate is None else file.intermediate
        return DenseFfn(width, gated=file.type == "glu", bias=file.bias)
    return MoeFfn(
        experts=file.experts, intermediate=file.intermediate, top_k=file.top_k, shared=file.shared,
        shared_intermediate=file.shared_intermediate, groups=file.groups,
        group_top_k=file.group_top_k, gated=file.gated, bias=file.bias, router_bias=file.router_bias,
        shared_gate=file.shared_gate, masked=file.masked, router_extra=file.router_extra,
    )  # fmt: skip


def framework(file: FrameworkFile) -> Framework:
    """Return what belongs to kernels and hosts."""
    return Framework(
        name=file.name, gemm_tiles=tuple(_tile(tile) for tile in file.gemm_tiles),
        attention_tiles=tuple(_tile(tile) for tile in file.attention_tiles),
        promotion_interval=file.promotion_interval, launch=file.launch,
        reserve=file.reserve, implementations=_implementations(file),
        weight_only_tiles=tuple(_tile(tile) for tile in file.weight_only_tiles),
        moe_comm_slowdown=file.moe_comm_slowdown, unfused_elementwise=file.unfused_elementwise,
        dp_comm_slowdown=file.dp_comm_slowdown,
        tensor_overlap=file.tensor_overlap, sustained_slowdown=file.sustained_slowdown, accumulation=file.accumulation,
        reduction=file.reduction, host=HostTimes(**file.host.model_dump()),
        kv_layout=file.kv_layout,
    )  # fmt: skip


def _implementations(file: FrameworkFile) -> dict[str, tuple[str, ...]]:
    """Return the kernel libraries that each family names, one or several."""
    named = file.implementations.items()
    return {family: (one,) if isinstance(one, str) else tuple(one) for family, one in named}


def _tile(file: TileFile) -> Tile:
    return Tile(file.m, file.n, file.split)


def precision(file: PrecisionFile) -> Precision:
    """Return the number formats."""
    return Precision(
        linear=file.linear, attention=file.attention, router=file.router, head=file.head, residual=file.residual,
        weights=file.weights, master=file.master, gradients=file.gradients, moments=file.moments,
        kv_cache=file.kv_cache, activations=file.activations, attention_output=file.attention_output,
        scale_block=file.scale_block, head_weights=file.head_weights, weight_bits=file.weight_bits,
        weight_scaling=GroupScaling(file.weight_group, file.weight_scale, file.weight_zero),
        kv_scaling=GroupScaling(file.kv_group, file.kv_scale, file.kv_zero), branches=file.branches,
    )  # fmt: skip


def parallelism(file: ParallelFile, schedule: str | None = None) -> Parallelism:
    """Return the degrees of parallelism; virtual stages that are not stated are those that the schedule implies."""
    implied = 1.0 if schedule is None else float(implied_virtual(schedule))
    return Parallelism(
        tp=file.tp, pp=file.pp, dp=file.dp, ep=file.ep, cp=file.cp,
        virtual=implied if file.virtual is None else file.virtual,
        expert_tensor=file.expert_tensor, sequence_parallel=file.sequence_parallel, context=file.context,
    )  # fmt: skip


def communication(file: CommunicationFile) -> Communication:
    """Return how ranks talk."""
    return Communication(
        processors=file.processors,
        dispatch=file.dispatch,
        combine=file.combine,
        mode=file.mode,
        expert_load=file.expert_load,
        split_attention=file.split_attention,
        codec=file.codec,
        in_network=file.in_network,
    )


def offload(file: OffloadFile) -> Offload:
    """Return what is kept in the host's memory."""
    return Offload(file.optimizer, file.weights, file.activations, file.overlap, file.kv_cache, file.experts)


def simulation(file: SimulationFile) -> Simulation:
    """Return what the event engine is told."""
    kept = file.checkpoints
    return Simulation(
        seed=file.seed,
        jitter=float(file.jitter),
        shares_processors=file.shares_processors,
        contention=file.contention,
        slowdowns=tuple(Slowdown(one.rank, one.slows, float(one.speed), one.begin, one.end) for one in file.slowdowns),
        patience=file.patience,
        checkpoints=None if kept is None else Checkpoints(kept.interval, kept.write, kept.restart, kept.device_mtbf),
        replicas=file.replicas,
    )


def _sharding(file: OptimizerFile) -> Sharding:
    return Sharding(file.overlap, file.reduce, file.keep_gathered, file.shard_group, file.gradient_communication)


def routing(file: RoutingFile, counts: tuple[float, ...] | None) -> Routing:
    """Return how tokens spread over experts. counts: what the file that `file` names holds."""
    exponent = 0.0 if file.exponent is None else file.exponent
    return Routing(file.load, exponent, counts, file.redundant, file.placement, file.capacity)


def plan(file: PlanFile) -> Plan:
    """Return what the scenario's phase asks."""
    if isinstance(file, TrainingFile):
        return Training(
            schedule=file.schedule, global_batch=file.global_batch, sequence=file.sequence,
            micro_batch=file.micro_batch, recompute=file.recompute, zero=file.optimizer.zero,
            stages=tuple(file.stages) if file.stages else None,
            placement=Placement(file.placement.embedding, file.placement.head, file.placement.mtp),
            sharding=_sharding(file.optimizer),
        )  # fmt: skip
    if isinstance(file, PrefillFile):
        again = file.denoising
        return Prefill(
            file.input_tokens, file.tokens_per_device, file.micro_batches, file.prefix_hit_rate,
            denoising=None if again is None else Denoising(again.steps, again.branches, again.active),
        )  # fmt: skip
    if isinstance(file, DecodeFile):
        return Decode(
            file.batch_per_device, file.input_tokens, file.output_tokens, file.micro_batches,
            speculative(file.speculative),
        )  # fmt: skip
    if isinstance(file, GenerateFile):
        return Generate(
            file.batch, file.input_tokens, file.output_tokens, file.micro_batches, file.pipeline_batches,
            speculative(file.speculative),
        )  # fmt: skip
    if isinstance(file, ServingFile):
        return serving(file)
    assert isinstance(file, ExpertBoundFile)
    return ExpertBound(file.tokens_per_device, file.sends, file.hidden)


def serving(file: ServingFile) -> Serving | Disaggregated:
    """Return serving on one engine, or from two pools."""
    drafts = speculative(file.speculative)
    if file.prefill is None or file.decode is None:
        assert file.concurrency is not None, "the file's own check"
        return Serving(
            file.input_tokens, file.output_tokens, file.concurrency, file.prefix_hit_rate, file.chunk_tokens,
            file.micro_batches, drafts,
        )  # fmt: skip
    prompts = Prefill(
        file.input_tokens, file.prefill.tokens_per_device, file.prefill.micro_batches, file.prefix_hit_rate, drafts
    )
    requests = Decode(
        file.decode.batch_per_device, file.input_tokens, file.output_tokens, file.decode.micro_batches, drafts
    )
    return Disaggregated(
        file.input_tokens, file.output_tokens,
        Pool(parallelism(file.prefill.parallel), communication(file.prefill.communication), prompts),
        Pool(parallelism(file.decode.parallel), communication(file.decode.communication), requests),
    )  # fmt: skip


def speculative(file: SpeculativeFile | None) -> Speculative | None:
    """Return how tokens are drafted; null where they are not."""
    return None if file is None else Speculative(file.depth, file.acceptance)


def layout(file: PlanFile) -> Parallelism:
    """Return the layout of a scenario; of two pools, that of the decoding one."""
    pool = file.decode if isinstance(file, ServingFile) else None
    if pool is not None:
        return parallelism(pool.parallel)
    return parallelism(file.parallel, file.schedule if isinstance(file, TrainingFile) else None)


def devices(file: PlanFile) -> Count:
    """Return how many devices a scenario's layout takes, both pools where it has two."""
    if isinstance(file, ServingFile) and file.prefill is not None:
        return parallelism(file.prefill.parallel).devices + layout(file).devices
    return layout(file).devices
