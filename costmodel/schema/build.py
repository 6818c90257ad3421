"""Checked files to the frozen records that the other rooms compute with.

A record's fields have the names of the file's keys. Only those that differ, in name or in value, are listed here.
"""

from __future__ import annotations

import numpy as np

from costmodel import hardware
from costmodel.quantities import Count, Quantity, divides, floor, maximum, sum_of, where
from costmodel.records import Record, fields, replace
from costmodel.schema import serving as requests_files
from costmodel.schema import workload
from costmodel.schema.device import (
    ClusterFile,
    DeviceFile,
    MathUnitFile,
    MemoryLevelFile,
    NetworkFile,
    NodeFile,
    PowerFile,
)
from costmodel.schema.framework import EagerPromptsFile, FrameworkFile, PartFormatsFile, PrecisionFile
from costmodel.schema.records import record
from costmodel.workload import engine, plans, scenario
from costmodel.workload.dtypes import GroupScaling
from costmodel.workload.framework_parts import EagerPrompts, TunedTiles
from costmodel.workload.requests import Lengths, RequestStream, Sessions
from costmodel.workload.schedules.catalogue import implied_virtual

_OF_ALL_TO_ALLS = {
    "processors", "dispatch", "combine", "codec", "in_network", "multicast", "reduction", "fences", "checksum", "mode",
}  # fmt: skip

# ---- hardware -------------------------------------------------------------------------------------------------------


def device(file: DeviceFile, original: DeviceFile, restated: frozenset[str] = frozenset()) -> hardware.Device:
    """Return the device. Peaks become rates per processor and cycle, at the processors and clock they are stated for.

        flop_per_cycle = peak / (processors * clock)

    file: the device with all overrides.
    original: the device before them.
    restated: formats whose peak itself is overridden: it holds at the overridden processors and clock.
    """
    return record(
        hardware.Device,
        file,
        clock=file.clock.tensor_reference,
        clock_max=file.clock.max,
        math={name: _math_unit(unit, file, file if name in restated else original) for name, unit in file.math.items()},
        memory=tuple(_memory_level(level, file.processors) for level in file.memory),
        links={name: record(hardware.Link, link, name=name) for name, link in file.links.items()},
        power=_power(file.power, original.power),
        price=record(
            hardware.Price, file.price, rental_quote=_quote(file, "rental"), purchase_quote=_quote(file, "purchase")
        ),
        path=None,
    )


def _math_unit(unit: MathUnitFile, file: DeviceFile, stated_for: DeviceFile) -> hardware.MathUnit:
    per_cycle = unit.peak / (stated_for.processors * _clock(stated_for, unit))
    return record(hardware.MathUnit, unit, flop_per_cycle=per_cycle, clock=_clock(file, unit))


def _quote(file: DeviceFile, name: str) -> hardware.Quote | None:
    """Return where a price is from: kind and date that stand next to it, and the source that the file names for it."""
    stated: tuple[str, str] | None = file.price.quote(name)
    cited = (source.cite for source in file.sources if {"price", f"price.{name}"} & set(source.fields))
    return None if stated is None else hardware.Quote(*stated, next(cited, None))


def _power(file: PowerFile, original: PowerFile) -> hardware.Power:
    return record(hardware.Power, file, tdp=file.tdp if file.limit is None else file.limit, timed=original.tdp)


def _clock(file: DeviceFile, unit: MathUnitFile) -> Quantity:
    return file.clock.max if unit.clock == "max" else file.clock.tensor_reference


def _memory_level(level: MemoryLevelFile, processors: Count) -> hardware.MemoryLevel:
    number = processors if level.per == "processor" else 1.0
    bandwidth = None if level.bandwidth is None else level.bandwidth * number
    driver = 0.0 if level.driver is None else level.driver * number
    return hardware.MemoryLevel(level.name, level.capacity * number, bandwidth, driver)


def node(file: NodeFile, node_device: hardware.Device) -> hardware.Node:
    """Return the node. Its link `intra` must be one of the device's."""
    return record(hardware.Node, file, device=node_device, intra=node_device.links[file.intra])


def cluster(file: ClusterFile, cluster_node: hardware.Node) -> hardware.Cluster:
    """Return the cluster."""
    return record(hardware.Cluster, file, node=cluster_node, network=network(file.network) if file.network else None)


def network(file: NetworkFile) -> hardware.Network:
    """Return the network between nodes."""
    return record(
        hardware.Network, file, latency_same_leaf=file.latency.same_leaf,
        latency_cross_leaf=file.latency.cross_leaf, shape=tuple(map(float, file.shape)),
    )  # fmt: skip


class Ranks(Record):
    """The ranks of a job, for the nodes that hold them.

    devices: how many.
    tp, block: sizes of its tensor-parallel and expert groups.
    is_whole: all nodes may hold as many, which two separate pools do not.
    """

    devices: Count
    tp: Count = 1.0
    block: Count = 1.0
    is_whole: bool = True


def share_of_node(ranks: Ranks, per_node: Count, most_nodes: Count) -> Count:
    """Return the devices of each node that a job uses: `per_node` where it fills whole nodes or a part of one, else the
    largest divisor of the job that cuts no group of ranks, is more than half of a node and needs at most `most_nodes`.

    Where there is no such share the job fills one node after the other, so that the last has fewer.
    """
    share, tp, block = per_node, ranks.tp, ranks.block
    is_open = np.asarray(ranks.devices > per_node) & ~np.asarray(divides(per_node, ranks.devices))
    if not ranks.is_whole or not np.any(is_open):
        return per_node
    for idle in range(1, int(np.max(per_node) + 1) // 2):
        used = per_node - idle
        cuts_none = (divides(tp, used) | divides(used, tp)) & (divides(block, used) | (block > per_node))
        fits = (2 * used > per_node) & (ranks.devices / used <= most_nodes)
        fitting = is_open & divides(used, ranks.devices) & cuts_none & fits
        share, is_open = where(fitting, used, share), is_open & ~fitting
    return share


# ---- scenario -------------------------------------------------------------------------------------------------------


def precision(file: PrecisionFile, plan: workload.PlanFile | None = None) -> scenario.Precision:
    """Return the number formats. An optimizer of 8 bits states those of its moments."""
    is_narrow = isinstance(plan, workload.TrainingFile) and plan.optimizer.name == "adamw8bit"
    return record(
        scenario.Precision, file, moments="moments8" if is_narrow else file.moments,
        weight_scaling=GroupScaling(file.weight_group, file.weight_scale, file.weight_zero),
        kv_scaling=GroupScaling(file.kv_group, file.kv_scale, file.kv_zero),
        parts={name: _part(part) for name, part in file.parts.items()}, of_part=False,
    )  # fmt: skip


def _part(file: PartFormatsFile) -> scenario.PartFormats:
    scaling = GroupScaling(file.weight_group, file.weight_scale, file.weight_zero)
    return scenario.PartFormats(
        linear=file.linear, weights=file.weights, scale_block=file.scale_block, weight_scaling=scaling
    )


def parallelism(
    file: workload.ParallelFile, schedule: str | None = None, *, slices_experts: bool = False
) -> scenario.Parallelism:
    """Return the degrees of parallelism. Virtual stages default to those that the schedule implies."""
    implied = 1.0 if schedule is None else float(implied_virtual(schedule))
    virtual = implied if file.virtual is None else file.virtual
    return record(scenario.Parallelism, file, virtual=virtual, slices_experts=slices_experts)


def communication(file: workload.CommunicationFile, kernels: scenario.Framework) -> scenario.Communication:
    """Return the communication settings. Who sets up an all-to-all has one."""
    stated = _OF_ALL_TO_ALLS & file.model_fields_set
    return record(
        scenario.Communication, file, exchange=file.exchange or ("all_to_all" if stated else kernels.expert_exchange)
    )


def routing(file: workload.RoutingFile, counts: tuple[float, ...] | None) -> scenario.Routing:
    """Return how tokens are routed to experts. counts: the content of the file that `counts` names."""
    return record(scenario.Routing, file, counts=counts)


def plan(file: workload.PlanFile, kernels: scenario.Framework, device: hardware.Device) -> scenario.Plan:
    """Return the work of the scenario's phase, for serving with what the framework's engine does by default."""
    if isinstance(file, workload.TrainingFile):
        return _training(file)
    if isinstance(file, workload.PrefillFile):
        chunk = None if file.denoising is not None else _chunk(file.chunk_tokens, kernels, device, file.parallel.tp)
        return record(plans.Prefill, file, speculative=None, chunk_tokens=chunk)
    if isinstance(file, workload.ExpertBoundFile):
        return record(plans.ExpertBound, file)
    if isinstance(file, workload.DiffusionFile):
        return record(plans.Diffusion, file)
    drafts = None if file.speculative is None else _speculative(file.speculative)
    if isinstance(file, workload.DecodeFile):
        return record(plans.Decode, file, speculative=drafts)
    if isinstance(file, workload.GenerateFile):
        chunk = _chunk(file.chunk_tokens, kernels, device, file.parallel.tp)
        return record(plans.Generate, file, speculative=drafts, chunk_tokens=chunk)
    return _serving(file, drafts, kernels, device)


def _training(file: workload.TrainingFile) -> plans.Training:
    own = file.optimizer
    return record(
        plans.Training, file, zero=own.zero, stages=tuple(file.stages) if file.stages else None,
        sharding=record(plans.Sharding, own, group=own.shard_group, gradients=own.gradient_communication),
        muon=own.newton_schulz if own.name == "muon" else None,
    )  # fmt: skip


def _rate_of_sessions(drawn: requests_files.RequestsFile) -> Quantity | None:
    """Return the rate of requests that a stated rate of sessions brings, null where none is stated."""
    if drawn.sessions is None or drawn.sessions.rate is None:
        return None
    sessions: Sessions = drawn.sessions.made()
    assert sessions.rate is not None
    return sessions.rate * sessions.size


def _serving(
    file: workload.ServingFile,
    drafts: plans.Speculative | None,
    kernels: scenario.Framework,
    device: hardware.Device,
) -> plans.Serving | scenario.Disaggregated:
    """Return serving on one engine, or from two pools."""
    drawn = file.requests
    if file.prefill is None or file.decode is None:
        inputs, outputs = mean_lengths(file)
        return record(
            plans.Serving, file, input_tokens=inputs, output_tokens=outputs, speculative=drafts,
            rate=_first(file.rate, None if drawn is None else _first(drawn.rate, _rate_of_sessions(drawn))),
            arrival_scv=_arrival_scv(drawn), scheduler=_scheduler(file, kernels.engine, device),
            memory=_engine_memory(file.memory, kernels), blocks=file.memory.blocks, means=None,
            requests=drawn_requests(file),
        )  # fmt: skip
    assert file.input_tokens is not None, "pools have no `requests`"
    assert file.output_tokens is not None, "pools have no `requests`"
    assert file.prefill.tokens_per_device is not None, "the file was checked"
    assert file.decode.batch_per_device is not None, "the file was checked"
    prompts = plans.Prefill(
        file.input_tokens, file.prefill.tokens_per_device, file.prefill.micro_batches, file.prefix_hit_rate, drafts,
        chunk_tokens=_chunk(file.prefill.chunk_tokens, kernels, device, file.prefill.parallel.tp),
        images=None if file.images is None else file.images.made(),
    )  # fmt: skip
    requests = plans.Decode(
        file.decode.batch_per_device, file.input_tokens, file.output_tokens, file.decode.micro_batches, drafts
    )
    return scenario.Disaggregated(
        file.input_tokens,
        file.output_tokens,
        scenario.Pool(parallelism(file.prefill.parallel), communication(file.prefill.communication, kernels), prompts),
        scenario.Pool(parallelism(file.decode.parallel), communication(file.decode.communication, kernels), requests),
    )


def drawn_requests(file: workload.ServingFile) -> RequestStream | None:
    """Return the requests of a scenario, with lengths of every class: as of all requests where it states none."""
    return None if file.requests is None else _with_classes(file, file.requests.made())


def _with_classes(file: workload.ServingFile, drawn: RequestStream) -> RequestStream:
    usual = [
        each or Lengths(mean=1.0 if tokens is None else tokens)
        for each, tokens in ((drawn.input, file.input_tokens), (drawn.output, file.output_tokens))
    ]
    classes = (replace(each, input=each.input or usual[0], output=each.output or usual[1]) for each in drawn.classes)
    return replace(drawn, classes=tuple(classes))


def mean_lengths(file: workload.ServingFile) -> tuple[Count, Count]:
    """Return the mean tokens of prompts and outputs, of all classes of requests together."""
    drawn = file.requests
    if drawn is not None and drawn.classes:
        classes = _with_classes(file, drawn.made()).classes
        inputs = sum_of(each.share * each.input.average for each in classes if each.input is not None)
        outputs = sum_of(each.share * each.output.average for each in classes if each.output is not None)
        return maximum(floor(inputs + 0.5), 1.0), maximum(floor(outputs + 0.5), 2.0)
    return (
        _mean(None if drawn is None else drawn.input, file.input_tokens, 1.0),
        _mean(None if drawn is None else drawn.output, file.output_tokens, 2.0),
    )


def _mean(lengths: requests_files.LengthsFile | None, stated: Count | None, least: float) -> Count:
    """Return the mean length in whole tokens: of the requests' own, else as stated. 0 where their file has it."""
    if lengths is not None:
        return maximum(floor(lengths.made().average + 0.5), least)
    return 0.0 if stated is None else stated


def _speculative(file: workload.SpeculativeFile) -> plans.Speculative:
    each = None if file.acceptances is None else tuple(map(float, file.acceptances))
    first = file.acceptance if file.acceptance is not None else (each or (0.0,))[0]
    branches = None if file.branches is None else tuple(map(float, file.branches))
    return record(plans.Speculative, file, acceptance=first, acceptances=each, branches=branches)


def _chunk(stated: Count | None, kernels: scenario.Framework, device: hardware.Device, tp: Count) -> Count | None:
    """Return the prompt tokens of a pass: as stated, else the framework's, else the budget of its engine's steps."""
    if stated is not None or kernels.prompt_chunk is not None:
        return _first(stated, kernels.prompt_chunk)
    return None if kernels.engine is None else kernels.engine.rule(device, tp).token_budget


def _arrival_scv(file: requests_files.RequestsFile | None) -> Quantity:
    """Return the squared coefficient of variation of the times between arrivals: 1 of a Poisson process."""
    if file is None or file.arrivals not in ("gamma", "even"):
        return 1.0
    return file.cv**2 if file.arrivals == "gamma" else 0.0


def _scheduler(file: workload.ServingFile, defaults: engine.Engine | None, device: hardware.Device) -> engine.Scheduler:
    """Return the scheduler that a scenario states, completed by the engine's defaults on its device."""
    stated = file.scheduler
    budget = file.chunk_tokens if stated.token_budget is None else stated.token_budget
    rule = None if defaults is None else defaults.rule(device, file.parallel.tp)
    known = engine.Scheduler() if defaults is None else defaults.scheduler
    chosen = {key: value for key in fields(known) if (value := getattr(stated, key, None)) is not None}
    limits = {
        "max_num_seqs": _first(stated.max_num_seqs, None if rule is None else rule.max_num_seqs),
        "token_budget": _first(budget, None if rule is None else rule.token_budget),
        "graph_limit": None if rule is None else rule.graph_limit,
    }
    return replace(known, **{**chosen, **limits})


def _engine_memory(file: workload.EngineMemoryChoiceFile, kernels: scenario.Framework) -> engine.EngineMemory | None:
    """Return the engine's memory, null where neither the scenario nor the framework states any of it."""
    defaults = None if kernels.engine is None else kernels.engine.memory
    tiers = tuple(tier.made() for tier in file.tiers)
    if defaults is None and not tiers and file.utilization is None and file.block is None and file.blocks is None:
        return None
    known = engine.EngineMemory(utilization=1.0, process=kernels.reserve) if defaults is None else defaults
    block = known.block if file.block is None else file.block
    return replace(known, utilization=_first(file.utilization, known.utilization), block=block, tiers=tiers)


def _first(stated: Count | None, default: Count | None) -> Count | None:
    return default if stated is None else stated


def layout(file: workload.PlanFile, *, slices_experts: bool = False) -> scenario.Parallelism:
    """Return the layout of a scenario. Of two pools, that of the decoding one.

    slices_experts: what the framework does in training unless the scenario states otherwise.
    """
    pool = file.decode if isinstance(file, workload.ServingFile) else None
    if pool is not None:
        return parallelism(pool.parallel)
    if not isinstance(file, workload.TrainingFile):
        return parallelism(file.parallel)
    return parallelism(file.parallel, file.schedule, slices_experts=slices_experts)


def ranks(file: workload.PlanFile) -> Ranks:
    """Return the ranks of a scenario's layout. With two pools, those of both together."""
    of = layout(file)
    if isinstance(file, workload.ServingFile) and file.prefill is not None:
        return Ranks(parallelism(file.prefill.parallel).devices + of.devices, is_whole=False)
    return Ranks(of.devices, of.tp, of.ep * of.etp)


# ---- From a framework file to what belongs to kernels and hosts on one device ----------------------------------------


def framework(file: FrameworkFile, device: DeviceFile | None = None) -> scenario.Framework:
    """Return what belongs to kernels and hosts. Each family has one or several kernel libraries.

    One kernel for prompts and decoding requests together is taken only where the device has a fit of it: elsewhere the
    two that are fitted separately say more than a mixed kernel that nobody measured.
    """
    named = {key: [names] if isinstance(names, str) else names for key, names in file.implementations.items()}
    if device is not None and (device.calibration is None or "attention_mixed" not in device.calibration.default):
        named.pop("attention_mixed", None)
    sizes = () if file.engine is None else tuple(sorted(file.engine.graph_sizes))
    return record(
        scenario.Framework,
        file,
        implementations={key: tuple(names) for key, names in named.items()},
        engine=None if file.engine is None else record(engine.Engine, file.engine, graph_sizes=sizes),
        eager_prompts=_eager_prompts(file.eager_prompts, device),
        tuned_tiles=tuned_tiles(file, None if device is None else device.name),
    )


def tuned_tiles(file: FrameworkFile, device: str | None) -> TunedTiles:
    """Return the layers of experts whose tiles were tuned on a device."""
    layers = file.tuned_tiles.get(device or "", {})
    return TunedTiles(
        {name: {int(count): tuple(each) for count, each in widths.items()} for name, widths in layers.items()}
    )  # fmt: skip


def _eager_prompts(file: EagerPromptsFile | None, device: DeviceFile | None) -> EagerPrompts:
    """Return the host times of prompts on a device, and of which models, where no CUDA graph holds them."""
    if file is None:
        return EagerPrompts()
    of_all = file.architectures is None or (device is not None and device.architecture in file.architectures)
    of_experts = device is not None and device.die in file.expert_dies
    only = (*file.features, *(("experts",) if of_experts else ()))
    return record(EagerPrompts, file, only=None if of_all else only)
