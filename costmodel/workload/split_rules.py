"""What context parallelism, sharding and offloading ask of a model, a host and each other."""

from __future__ import annotations

from collections.abc import Iterator

from costmodel.quantities import Count, Mask, Quantity, divides, is_single, maximum
from costmodel.records import Record
from costmodel.workload import architecture as arch
from costmodel.workload.plans import Decode, Training
from costmodel.workload.scenario import Scenario


def heads_of(mixer: arch.Mixer) -> Count:
    """Return the heads, groups or channels that tensor parallelism splits.

    One where a mixer has none, which only a rank alone computes.
    """
    if isinstance(mixer, arch.Attention):
        return mixer.q_heads
    if isinstance(mixer, arch.CompressedAttention):
        return mixer.output_groups
    if isinstance(mixer, arch.SelectiveScan):
        return mixer.inner
    return mixer.heads if isinstance(mixer, arch.Mla | arch.Recurrence | arch.NeuralMemory) else 1.0


def splits_nothing(mixer: arch.Mixer) -> bool:
    """Tell whether a layer has no heads that would have to divide: it mixes no tokens."""
    return isinstance(mixer, arch.NoMixer | arch.PlainProjection)


def passes_keys_on(mixer: arch.Mixer) -> bool:
    """Tell whether a layer's blocks of keys may go around a ring: none has a window, and no query selects its keys."""
    if not isinstance(mixer, arch.Attention | arch.Mla):
        return splits_nothing(mixer)
    return mixer.indexer is None and all(group.pattern.kind == "full" for group in mixer.head_groups)


def context_rules(scenario: Scenario, mixer: arch.Mixer) -> Iterator[Rule]:
    """Yield what swapping heads or passing keys around asks of a layer's heads and core.

    Rings of blocks know no windows: so it is in Transformer Engine (context_parallel.py), where windows need one of the
    other two.
    """
    parallel = scenario.parallel
    alone = (parallel.cp == 1) | isinstance(scenario.plan, Decode)
    attention = isinstance(mixer, arch.Attention)
    if splits_nothing(mixer):
        return
    if not isinstance(mixer, arch.Attention | arch.Mla | arch.CompressedAttention):
        yield Rule(
            "parallel.cp",
            alone,
            "a mixer without attention is computed where the whole sequence is",
            "write `cp: 1`",
        )
        return
    if parallel.context == "ulysses":
        split = parallel.tp * parallel.cp
        heads = heads_of(mixer)
        yield Rule(
            "parallel.cp",
            alone | divides(split, heads),
            f"tp * cp = {shown(split)} ranks do not divide the attention heads ({shown(heads)}) that they swap",
            "lower cp or tp, or use `context: ring`",
        )
        if isinstance(mixer, arch.Attention):
            yield Rule(
                "parallel.cp",
                alone | divides(split, mixer.kv_heads) | divides(mixer.kv_heads, split),
                f"tp * cp = {shown(split)} ranks cut through {shown(mixer.kv_heads)} key-value heads",
                f"choose cp so that tp * cp is a divisor or a multiple of {shown(mixer.kv_heads)}",
            )
    if parallel.context != "gather" and (isinstance(mixer, arch.CompressedAttention) or mixer.indexer is not None):
        yield Rule(
            "parallel.context", alone, "queries that select their keys need those of all ranks", "use `context: gather`"
        )
    if parallel.context == "ring":
        fused = not attention or not scenario.framework.unfused_attention
        yield Rule(
            "parallel.context",
            alone | fused,
            f"a ring needs a fused attention core, {scenario.framework.name} has an unfused one",
            "use `context: ulysses` or `gather`, or a framework with a fused core",
        )
        windows = isinstance(mixer, arch.Attention | arch.Mla) and any(
            group.pattern.kind != "full" for group in mixer.head_groups
        )
        yield Rule(
            "parallel.context",
            alone | (not windows),
            "a ring passes every block of keys on, which a window does not need",
            "use `context: ulysses` or `gather`",
        )


def offload_rules(scenario: Scenario) -> Iterator[Rule]:
    """Yield what offloading asks of the phase and of the host: a memory, its bandwidth and a link to it."""
    offload = scenario.offload
    trains = isinstance(scenario.plan, Training)
    for name, share, asked in (
        ("optimizer", offload.optimizer, True),
        ("activations", offload.activations, True),
        ("kv_cache", offload.kv_cache, False),
    ):
        yield Rule(
            f"offload.{name}",
            (share == 0) | (trains == asked),
            f"only {'training' if asked else 'inference'} keeps its {name} on the host",
            "remove it, or change the phase",
        )
    if offload.hosts_experts:
        yield from _hosted_expert_rules(scenario)
    shares = maximum(offload.optimizer, offload.weights, offload.activations, offload.kv_cache)
    kept = 1.0 if offload.hosts_experts else shares
    if is_single(kept) and kept == 0:
        return
    if isinstance(scenario.plan, Training):
        alone = scenario.parallel.cp * scenario.parallel.dp == 1
        yield Rule(
            "offload.weights",
            (offload.weights == 0) | (scenario.plan.zero == 3) | alone,
            "the host keeps weights of stage 3 only, where each rank has a part of them",
            "write `optimizer: {zero: 3}`",
        )
    yield from _host_rules(scenario, kept == 0)


def _host_rules(scenario: Scenario, idle: Mask) -> Iterator[Rule]:
    """Yield what a host that keeps something has to state. idle: where it keeps nothing."""
    node = scenario.cluster.node
    for field, stated in (("memory", node.host.memory), ("bandwidth", node.host.bandwidth)):
        yield Rule(
            "offload",
            idle | (stated is not None),
            f"{node.name} does not state its host's memory{'' if field == 'memory' else ' bandwidth'}",
            f"set hardware.node.host.{field}, as in `{'512 GB' if field == 'memory' else '300 GB/s'}`",
        )
    yield Rule(
        "offload",
        idle | (node.host.link in node.device.links),
        f"{node.device.name} has no link {node.host.link!r} to its host",
        "name the one that it has in hardware.node.host.link, or offload nothing",
    )


def _hosted_expert_rules(scenario: Scenario) -> Iterator[Rule]:
    """Yield what experts that the host computes ask of the phase, the model and the layout."""
    yield Rule(
        "offload.experts",
        not isinstance(scenario.plan, Training),
        "the host computes experts in inference only",
        "write `experts: device`, or change the phase",
    )
    yield Rule(
        "offload.experts",
        any(isinstance(layer.ffn, arch.MoeFfn) for layer in scenario.architecture.layers),
        f"{scenario.architecture.name} has no experts for the host to compute",
        "write `experts: device`, or name a model with experts",
    )
    yield Rule(
        "parallel.ep",
        scenario.parallel.ep == 1,
        "the host of a node computes all experts that its own tokens visit",
        "write `ep: 1`",
    )
    yield Rule(
        "parallel.expert_tensor",
        scenario.parallel.etp <= scenario.parallel.tp,
        "ranks with slices of one expert have different tokens, which the host of each does not exchange",
        "lower `expert_tensor` to tp, or leave it out",
    )


def sharding_rules(scenario: Scenario, plan: Training) -> Iterator[Rule]:
    """Yield what the ZeRO stage and the group that shares a copy of the states ask of each other."""
    parallel, sharding = scenario.parallel, plan.sharding
    yield Rule(
        "optimizer.keep_gathered",
        not sharding.keep_gathered or plan.zero == 3,
        f"stage {plan.zero} gathers no weights in its passes",
        "write `zero: 3`, or remove it",
    )
    yield Rule(
        "optimizer.name",
        plan.muon is None or (scenario.offload.optimizer == 0) & (plan.zero < 2),
        "Muon updates whole matrices on a device: stages 2 and 3 cut them, and hosts have no kernels for it",
        "write `zero: 1` or `name: adamw`, without `offload.optimizer`",
    )
    if sharding.group is None:
        return
    ranks = parallel.cp * parallel.dp
    yield Rule("optimizer.shard_group", plan.zero >= 1, "stage 0 shares nothing", "write `zero: 1`, 2 or 3")
    yield divides_rule(
        "optimizer.shard_group", sharding.group, ranks, "the ranks that hold the same parameters, cp * dp"
    )
    block, neighbours = parallel.ep * parallel.etp, sharding.group * parallel.tp
    yield Rule(
        "optimizer.shard_group",
        divides(block, neighbours) | divides(neighbours, block),
        f"groups of {shown(sharding.group)} cut through the {shown(block)} ranks (ep * expert_tensor) of the experts",
        "choose a group that holds whole sets of experts, or that fits into one",
    )


# ---- One condition on a layout, said once for a point (an error that shows the fix) and for a grid (a mask) ----------


class Rule(Record):
    """One condition on a scenario. field: path below the scenario; holds: where it is met; hint: the fix."""

    field: str
    holds: Mask
    message: str
    hint: str


def divides_rule(field: str, divisor: Quantity, value: Quantity, what: str) -> Rule:
    """Return the rule that `divisor` divides `value`."""
    return Rule(
        field,
        divides(divisor, value),
        f"{shown(divisor)} does not divide {what} ({shown(value)})",
        f"choose a divisor of {shown(value)}",
    )


def shown(value: Quantity) -> str:
    """Return a count as a person writes it."""
    return f"{value:g}" if isinstance(value, float | int) else "one of its values"
