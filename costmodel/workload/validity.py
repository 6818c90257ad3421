"""When a layout can exist: degrees divide what they split. A point that breaks a rule is an error, a grid a mask."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from costmodel.quantities import Mask, Quantity, divides, is_single
from costmodel.records import replace
from costmodel.workload.adapters import Adapters, ServedAdapters
from costmodel.workload.architecture import ENDS, Attention, DenseFfn, MoeFfn, NoFfn, Recurrence
from costmodel.workload.counting import has_linear_layer, has_served_layer
from costmodel.workload.inference_rules import inference_rules
from costmodel.workload.mixers import Mixer
from costmodel.workload.plans import Decode, ExpertBound, Serving, Training
from costmodel.workload.pools import Pools
from costmodel.workload.reinforcement import Reinforcement, reinforcement_rules
from costmodel.workload.scenario import Disaggregated, Precision, Scenario
from costmodel.workload.schedules.catalogue import rules_of
from costmodel.workload.split_rules import (
    Rule,
    context_rules,
    divides_rule,
    heads_of,
    offload_rules,
    sharding_rules,
    shown,
    splits_nothing,
)

__all__ = ["Rule", "feasible_layout", "rules"]


def rules(scenario: Scenario) -> Iterator[Rule]:
    """Yield every condition that the scenario's layout has to meet."""
    plan, parallel = scenario.plan, scenario.parallel
    if isinstance(plan, ExpertBound):
        reason = "the bound on the exchange of experts knows no host"
        yield Rule("offload", not scenario.offload.is_used, reason, "remove it, or change the phase")
        yield from _bound_rules(scenario)
        return
    if isinstance(plan, Disaggregated | Pools):
        yield from _pool_rules(scenario, plan)
        return
    if isinstance(plan, Reinforcement):
        yield from reinforcement_rules(scenario, plan)
        for part in (plan.rollout, plan.train):
            yield from rules(part)
        return
    device, framework = scenario.cluster.device, scenario.framework
    yield Rule(
        "framework",
        not device.architecture.startswith(framework.unsupported.architectures),
        f"{framework.name} does not run on {device.name} ({device.architecture})",
        "name another framework, such as vllm or sglang",
    )
    lacking = [each for each in _formats(scenario.precision) if each in framework.unsupported.formats]
    yield Rule(
        "precision",
        not lacking,
        f"{framework.name} has no {' and no '.join(lacking)}",
        "state formats that it has, such as `precision: bf16` or weights in `q8_0`, or name another framework",
    )
    yield from _model_rules(scenario)
    yield from _routing_rules(scenario)
    stage_ranks = parallel.tp * parallel.cp * parallel.dp
    block = parallel.ep * parallel.etp
    yield Rule(
        "parallel.ep",
        divides(block, stage_ranks),
        f"ep * expert_tensor = {shown(block)} does not divide the {shown(stage_ranks)} ranks (tp*cp*dp) of a stage",
        f"choose ep so that it divides {shown(stage_ranks)}"
        + (", or keep experts whole: `expert_tensor: 1`" if parallel.slices_experts else ""),
    )
    taken, processors = scenario.communication.processors, scenario.cluster.device.processors
    yield Rule(
        "communication.processors",
        taken < processors,
        f"communication takes {shown(taken)} of {shown(processors)} processors",
        f"leave some for computation: less than {shown(processors)}",
    )
    cluster = scenario.cluster.devices
    yield Rule(
        "parallel",
        parallel.all_devices <= cluster,
        f"tp*cp*dp*pp{'' if parallel.expert_pool is None else ' + expert_pool'} = {shown(parallel.all_devices)} "
        f"devices, the cluster has {shown(cluster)}",
        "lower a degree or name a larger cluster",
    )
    yield from _expert_pool_rules(scenario)
    yield from offload_rules(scenario)
    yield from _simulation_rules(scenario)
    if isinstance(plan, Training):
        yield from _training_rules(scenario, plan)
    else:
        yield from inference_rules(scenario, plan)
        if isinstance(plan, Decode | Serving) and plan.adapters is not None:
            yield from _of_adapters(scenario, plan.adapters)


def _expert_pool_rules(scenario: Scenario) -> Iterator[Rule]:
    """Yield what devices that hold experts only ask: a phase that decodes, and layers that one rank has whole."""
    parallel, pool = scenario.parallel, scenario.parallel.expert_pool
    if pool is None:
        return
    experts = [layer.ffn.experts for layer in scenario.architecture.kinds if isinstance(layer.ffn, MoeFfn)]
    name = "parallel.expert_pool"
    yield Rule(
        name, isinstance(scenario.plan, Decode | Serving), "only decode and serving have devices of their own for "
        "experts", "remove it, or change the phase",
    )  # fmt: skip
    yield Rule(name, bool(experts), f"{scenario.architecture.name} has no experts", "remove it, or name another model")
    for count in experts:
        yield Rule(
            name, divides(pool, count + scenario.routing.redundant),
            f"{shown(count + scenario.routing.redundant)} experts do not divide over {shown(pool)} devices",
            "choose a divisor",
        )  # fmt: skip
    for degree in ("ep", "pp", "cp"):
        value = getattr(parallel, degree)
        yield Rule(f"parallel.{degree}", value == 1, f"{degree} = {shown(value)} beside an expert pool", "leave it out")
    yield Rule(
        "parallel.expert_tensor", parallel.expert_tensor is None, "experts of a pool are whole", "leave it out"
    )  # fmt: skip
    reason = "experts of a pool are in the memory of its devices"
    yield Rule("offload", not scenario.offload.is_used, reason, "remove it, or the pool")


def _simulation_rules(scenario: Scenario) -> Iterator[Rule]:
    """Yield that what disturbs a simulation is there: ranks of the pipeline, replicas of the layout."""
    simulation, parallel = scenario.simulation, scenario.parallel
    for number, slowdown in enumerate(simulation.slowdowns):
        if slowdown.rank is not None:
            yield Rule(
                f"simulation.slowdowns.{number}.rank",
                slowdown.rank < parallel.pp * (simulation.replicas or 1),
                f"there is no rank {slowdown.rank} among {simulation.replicas or 1} replicas of {shown(parallel.pp)}",
                "count from 0 to pp - 1 and on through the `replicas`, or leave it out for all ranks",
            )
    if simulation.replicas is not None:
        yield Rule(
            "simulation.replicas",
            simulation.replicas <= parallel.dp,
            f"{simulation.replicas} replicas are more than the layout has: dp = {shown(parallel.dp)}",
            "write at most dp",
        )


def _bound_rules(scenario: Scenario) -> Iterator[Rule]:
    """Yield what the bound on the exchange of experts does not know: it counts bytes that leave a device."""
    plan = scenario.communication
    reason = "the bound counts the copies that leave a device as `sends` states them"
    yield Rule(
        "communication.in_network", not plan.replicates_and_reduces, reason, "set `sends` to 1, or change the phase"
    )
    reason = "in the bound nothing takes time but bytes on the wire"
    unused = plan.codec == 0
    yield Rule("communication.codec", unused, reason, "remove it, or change the phase")


def _formats(precision: Precision) -> list[str]:
    """Return the formats of products, of stored weights and of the KV cache, each once."""
    parts = [each for part in precision.parts.values() for each in (part.linear, part.weights)]
    return list(dict.fromkeys((precision.linear, precision.weights, *parts, precision.kv_cache)))


def _model_rules(scenario: Scenario) -> Iterator[Rule]:
    architecture, parallel, node = scenario.architecture, scenario.parallel, scenario.cluster.node
    yield Rule(
        "parallel.tp",
        divides(parallel.tp, node.count) | divides(node.count, parallel.tp) | (parallel.devices <= node.count),
        f"groups of {shown(parallel.tp)} ranks cut across nodes of {shown(node.count)} devices",
        f"choose a divisor or a multiple of {shown(node.count)}, or fewer devices a node (`hardware.node.count`)",
    )
    if not any(isinstance(layer.ffn, MoeFfn) for layer in architecture.kinds):
        yield Rule(
            "parallel.ep",
            parallel.ep == 1,
            f"{architecture.name} has no experts to spread over {shown(parallel.ep)} ranks",
            "leave ep out, or name a model with experts",
        )
    for layer in () if architecture.drafter is None else architecture.drafter.architecture.kinds:
        yield from _mixer_rules(scenario, layer.mixer)
    for layer in architecture.kinds:
        yield from _mixer_rules(scenario, layer.mixer)
        if isinstance(layer.mixer, Attention) and layer.mixer.partial is not None:
            width = architecture.hidden if layer.width is None else layer.width
            told = f"attention cannot project {shown(layer.mixer.partial)} of {shown(width)} channels (`partial`)"
            yield Rule("model", layer.mixer.partial <= width, told, f"choose at most {shown(width)}")
        yield from context_rules(scenario, layer.mixer)
        if not isinstance(layer.ffn, NoFfn):
            yield from _ffn_rules(scenario, layer.ffn)


def _mixer_rules(scenario: Scenario, mixer: Mixer) -> Iterator[Rule]:
    parallel, heads = scenario.parallel, heads_of(mixer)
    if not splits_nothing(mixer):
        yield divides_rule("parallel.tp", parallel.tp, heads, "the attention heads")
    if isinstance(mixer, Recurrence) and mixer.key_heads is not None:
        rule = divides_rule("parallel.tp", parallel.tp, mixer.key_heads, "the key heads of the recurrence")
        is_copied = (mixer.key_heads == 1) & (not isinstance(scenario.plan, Training))  # Megatron-LM copies none
        yield replace(rule, holds=rule.holds | is_copied)
    if isinstance(mixer, Attention):
        kv_heads = mixer.kv_heads
        yield Rule(
            "parallel.tp",
            divides(parallel.tp, kv_heads) | divides(kv_heads, parallel.tp),
            f"{shown(parallel.tp)} ranks cut through {shown(kv_heads)} key-value heads",
            f"choose a divisor or a multiple of {shown(kv_heads)}",
        )
        yield divides_rule("model", 1.0, mixer.head_dim, "the width of a head")
        yield Rule(
            "model",
            kv_heads <= heads,
            f"{shown(heads)} query heads cannot share {shown(kv_heads)} key-value heads",
            "choose at most as many key-value heads as query heads",
        )
        yield Rule(
            "model",
            divides(kv_heads, heads),
            f"{shown(heads)} query heads do not group over {shown(kv_heads)} key-value heads",
            "choose a divisor of the query heads",
        )


def _ffn_rules(scenario: Scenario, ffn: DenseFfn | MoeFfn) -> Iterator[Rule]:
    """Yield what widths, experts, groups and nodes ask of the degrees."""
    parallel, node = scenario.parallel, scenario.cluster.node
    if not isinstance(ffn, MoeFfn):
        yield divides_rule("parallel.tp", parallel.tp, ffn.intermediate, "the FFN's intermediate width")
        yield from _block_rule(scenario, parallel.tp, ffn.intermediate, "the FFN's intermediate width")
        return
    yield from _block_rule(scenario, parallel.etp, ffn.intermediate, "the experts' intermediate width")
    yield _expert_rule(scenario, ffn)
    yield Rule(
        "model",
        ffn.top_k <= ffn.experts,
        f"a token cannot visit {ffn.top_k} of {shown(ffn.experts)} experts",
        "choose at least top_k experts",
    )
    communication, framework = scenario.communication, scenario.framework
    if communication.exchange != framework.expert_exchange and not isinstance(scenario.plan, Training):
        yield Rule(
            "communication",
            parallel.ep > 1,
            f"{framework.name} exchanges no tokens of experts where ep is 1, and runs its own kernels",
            "leave out `exchange` and `mode`, or raise `ep`",
        )
    tensor = parallel.etp
    yield divides_rule("parallel.tp", tensor, ffn.intermediate, "the experts' intermediate width")
    one = ffn.intermediate if ffn.shared_intermediate is None else ffn.shared_intermediate
    yield divides_rule("parallel.tp", parallel.tp, ffn.shared * one, "the shared experts' intermediate width")
    if ffn.groups is None or scenario.communication.mode != "normal":
        return
    nodes = parallel.ep / node.count
    yield Rule(
        "parallel.ep",
        (nodes <= 1) | divides(nodes, ffn.groups) | divides(ffn.groups, nodes),
        f"{shown(ffn.groups)} expert groups do not match the {shown(nodes)} nodes that ep spans",
        f"choose ep so that its nodes of {shown(node.count)} devices divide the groups, or are a multiple of them",
    )


def _block_rule(scenario: Scenario, ranks: Quantity, width: Quantity, what: str) -> Iterator[Rule]:
    """Yield that a width with one scale a block is split at blocks, where the framework takes no other."""
    block = scenario.precision.scale_block
    if block is None or not scenario.framework.whole_blocks:
        return
    yield Rule(
        "parallel.tp",
        (ranks == 1) | divides(ranks * block, width),
        f"{shown(ranks)} ranks cut {what} ({shown(width)}) inside blocks of {shown(block)} with one scale: "
        f"{scenario.framework.name} refuses such weights",
        "lower tp, keep experts whole (`ep`), or use a `precision` without blocks",
    )


def _expert_rule(scenario: Scenario, ffn: MoeFfn) -> Rule:
    """Return that every rank holds equally many experts, replicas included."""
    ep, redundant = scenario.parallel.ep, scenario.routing.redundant
    if is_single(redundant) and redundant == 0:
        rule = divides_rule("parallel.ep", ep, ffn.experts, "the experts")
        copied = "" if isinstance(scenario.plan, Training) else ", or copy experts until they do: `routing.redundant`"
        return replace(rule, hint=rule.hint + copied)
    return Rule(
        "routing.redundant",
        divides(ep, ffn.experts + redundant),
        f"{shown(ffn.experts)} experts and {shown(redundant)} replicas do not divide over {shown(ep)} ranks",
        f"choose `redundant` so that both together are a multiple of ep = {shown(ep)}",
    )


def _routing_rules(scenario: Scenario) -> Iterator[Rule]:
    """Yield what replicas, placement and capacity ask, nothing where routing is left as it is."""
    routing, plan = scenario.routing, scenario.plan
    replicated = routing.redundant > 0
    if routing.load != "balanced" or routing.capacity is not None or np.any(replicated):
        yield Rule(
            "routing",
            any(isinstance(layer.ffn, MoeFfn) for layer in scenario.architecture.layers),
            f"{scenario.architecture.name} has no routed experts",
            "remove it, or name a model with experts",
        )
    alone = ~replicated if isinstance(replicated, np.ndarray) else not replicated
    if isinstance(plan, Training):
        yield Rule(
            "routing.redundant", alone, "replicas are for serving: a training step has one copy of each expert",
            "remove it, or set it to 0",
        )  # fmt: skip
    if routing.placement == "sequential":
        yield Rule(
            "routing.placement", alone, "replicas are placed by load, not in order",
            "write `placement: balanced`, or leave it out",
        )  # fmt: skip
    if routing.capacity is not None:
        yield Rule(
            "routing.redundant", alone, "experts with a capacity have no replicas", "remove `redundant` or `capacity`"
        )
        yield Rule(
            "communication.expert_load",
            scenario.communication.expert_load is None,
            "a capacity fixes the rows of every rank, so that no rank is fuller",
            "remove `expert_load` or `routing.capacity`",
        )


def _training_rules(scenario: Scenario, plan: Training) -> Iterator[Rule]:
    """Yield what the formats, the batch, the sequence and the schedule ask."""
    parallel = scenario.parallel
    precision = scenario.precision
    yield Rule(
        "precision.weights",
        not precision.weight_only,
        f"weights in {precision.weights} under products in {precision.linear} cannot be trained",
        f"write `weights: {precision.linear}` or wider, or change the phase",
    )
    per_rank = parallel.dp * plan.micro_batch
    yield Rule(
        "global_batch",
        divides(per_rank, plan.global_batch),
        f"dp * micro_batch = {shown(per_rank)} does not divide the global batch of {shown(plan.global_batch)}",
        f"choose a multiple of {shown(per_rank)}, or other dp and micro_batch",
    )
    yield divides_rule("parallel.cp", parallel.cp, plan.sequence, "the sequence")
    yield from sharding_rules(scenario, plan)
    yield from adapter_rules(scenario, plan)
    count, depth = parallel.pp * parallel.virtual, scenario.architecture.depth
    if plan.stages is not None:
        yield Rule(
            "stages",
            (count == len(plan.stages)) & (sum(plan.stages) == depth),
            f"{len(plan.stages)} stages with {sum(plan.stages)} layers do not match pp * virtual = "
            f"{shown(count)} and {depth} layers",
            f"give one count a stage that add up to {depth}, or leave `stages` out",
        )
    else:
        yield Rule(
            "parallel.pp",
            count <= depth + ENDS,
            f"{depth} layers, embedding and head cannot fill {shown(count)} stages (pp * virtual)",
            "lower pp or virtual, or state `stages`, of which some may have no layer",
        )
    for name in ("embedding", "head", "mtp"):
        stage = getattr(plan.placement, name)
        yield Rule(
            f"placement.{name}",
            (stage < count) & (stage >= -count),
            f"there is no stage {stage} among {shown(count)}",
            f"count from 0, or from -1 backwards: -{shown(count)} is the first again",
        )
    yield from rules_of(plan.schedule, parallel.pp, parallel.virtual, plan.global_batch / per_rank)


def _pool_rules(scenario: Scenario, plan: Disaggregated | Pools) -> Iterator[Rule]:
    """Yield what each of two pools has to meet, and that both find room in the cluster that they share."""
    pools = (plan.prefill, plan.decode)
    for name, pool in zip(("prefill", "decode"), pools, strict=True):
        for rule in rules(pool if isinstance(pool, Scenario) else scenario.of_pool(pool)):
            own = "" if rule.field.startswith(("speculative", "routing", "precision", "framework")) else f"{name}."
            yield replace(rule, field=f"{own}{rule.field}")
        reason = "pools of prompts and of decoding hold their experts themselves"
        yield Rule(f"{name}.parallel.expert_pool", pool.parallel.expert_pool is None, reason, "remove it")
    engines = isinstance(plan, Pools)
    whose = "the engines of both pools" if engines else "one prefill and one decode instance"
    taken, cluster = scenario.devices, scenario.cluster.devices
    yield Rule(
        "cluster",
        (taken <= cluster) | (isinstance(plan, Pools) and not plan.shared),
        f"{whose} take {shown(taken)} devices, the cluster has {shown(cluster)}",
        f"lower {'`instances` or ' if engines else ''}a degree of `prefill` or `decode`, or name a larger cluster",
    )


def feasible_layout(scenario: Scenario) -> Mask:
    """Return where every rule holds."""
    mask: Mask = True
    for rule in rules(scenario):
        mask = mask & rule.holds
    return mask


# ---- What adapters and preference training ask of a model ------------------------------------------------------------


def adapter_rules(scenario: Scenario, plan: Training) -> Iterator[Rule]:
    """Yield what adapters ask: layers that the model has, a rank below its width; and the reference of preferences."""
    if plan.reference == "base":
        has_base = plan.adapters is not None
        yield Rule(
            "preference.reference", has_base, "without adapters no base is kept", "write `reference: copy` or `none`"
        )
    if plan.adapters is None:
        return
    yield from _of_adapters(scenario, plan.adapters)


def _of_adapters(scenario: Scenario, adapters: Adapters | ServedAdapters) -> Iterator[Rule]:
    """Yield that a model has the layers of adapters, and is wider than their rank."""
    architecture, rank = scenario.architecture, adapters.rank
    trains = isinstance(adapters, Adapters)
    has_layer, outside = (has_linear_layer, "") if trains else (has_served_layer, " outside of its routed experts")
    for target in adapters.targets:
        yield Rule(
            "adapters.targets", has_layer(architecture, target),
            f"{architecture.name} has no linear layer {target!r}{outside}",
            "write layers such as q, v, o, gate, up, down, or leave `targets` out for all linear layers",
        )  # fmt: skip
    yield Rule(
        "adapters.rank",
        np.less_equal(rank, architecture.hidden),
        f"a rank of {shown(rank)} is above the model's width",
        f"write at most {shown(architecture.hidden)}",
    )
    if not is_single(rank):
        yield Rule("adapters.rank", np.greater(rank, 0), "a sweep has ranks of at least 1", "ask for 0 by itself")
