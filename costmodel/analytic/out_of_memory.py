"""Why a scenario does not fit in memory: by how much, on which devices, its largest part, and what shrinks that."""

from __future__ import annotations

from costmodel.analytic.inference import pass_ledger, prefill_passes
from costmodel.analytic.serving.generation import prompt_passes_of
from costmodel.quantities import Bytes, Count, maximum, minimum
from costmodel.result import NO_HOST_MEMORY, NO_MEMORY, REASONS
from costmodel.workload.dtypes import ELEMENT_BYTES
from costmodel.workload.engine_memory import kv_pool
from costmodel.workload.memory import Ledger
from costmodel.workload.plans import Decode, Diffusion, Generate, Prefill, Serving, Training
from costmodel.workload.pools import Pools
from costmodel.workload.reinforcement import Reinforcement
from costmodel.workload.scenario import Disaggregated, Plan, Scenario

GIB = 2**30
SPLIT = "raise `parallel.tp` or `parallel.pp`"


def too_much_for_a_device(scenario: Scenario, ledger: Ledger) -> str:
    """Return what the most-loaded device needs and has, its largest part, and what shrinks that."""
    plan, pool = scenario.plan, ""
    if isinstance(plan, Disaggregated):
        pool = _fuller_pool(scenario, plan)
        plan, scenario = getattr(plan, pool).plan, scenario.of_pool(getattr(plan, pool))
    elif isinstance(plan, Pools):
        pool = _fuller_engine(plan)
        scenario = getattr(plan, pool)
        plan = scenario.plan
    capacity = ledger.room(scenario.cluster)
    parts = {name: float(size) for name, size in ledger.on_device.items()}
    largest = max(parts, key=lambda name: parts[name])
    name, relief = "KV cache" if largest == "kv_cache" else largest, _relief(scenario, plan, largest)
    devices = "the device" if scenario.devices == 1 else f"the most-loaded of {scenario.devices:,.0f} devices"
    return (
        f"{REASONS[NO_MEMORY]}: {devices}{f' of the {pool} pool' if pool else ''} needs {gib(ledger.total)} but has "
        f"{gib(capacity)} ({gib(ledger.total - capacity)} short). Largest part: "
        f"{name}, {gib(parts[largest])}. {relief[0].upper()}{relief[1:]}"
    )


def too_much_for_the_host(scenario: Scenario, ledger: Ledger) -> str:
    """Return what the host would have to keep, and what it has."""
    node = scenario.cluster.node
    devices = minimum(node.count, largest_layout(scenario))
    return (
        f"{REASONS[NO_HOST_MEMORY]}: the {devices:g} devices of a node would need {gib(ledger.on_host * devices)}, "
        f"the host has {gib(node.host.memory or 0.0)}; lower a share in `offload`"
    )


def largest_layout(scenario: Scenario) -> Count:
    """Return the devices of the layout, or of the larger of two pools: a node belongs to one of them."""
    plan = scenario.plan
    if isinstance(plan, Reinforcement):
        return maximum(largest_layout(plan.rollout), largest_layout(plan.train))
    if isinstance(plan, Disaggregated | Pools):
        return maximum(plan.prefill.parallel.devices, plan.decode.parallel.devices)
    return scenario.parallel.devices


def _fuller_pool(scenario: Scenario, plan: Disaggregated) -> str:
    """Return the name of the pool with the most-loaded devices."""
    totals = {
        name: pass_ledger(scenario.of_pool(pool), pool.plan).total
        for name, pool in (("prefill", plan.prefill), ("decode", plan.decode))
    }
    return max(totals, key=lambda name: float(totals[name]))


def _fuller_engine(plan: Pools) -> str:
    """Return the name of the pool whose engines take the largest share of their devices' memory."""
    shares = {
        name: float(kv_pool(part, engine).ledger.total / part.cluster.device.device_memory.capacity)
        for name, part, engine in zip(("prefill", "decode"), (plan.prefill, plan.decode), plan.engines, strict=True)
    }
    return max(shares, key=lambda name: shares[name])


def gib(size: Bytes) -> str:
    """Return a size in GiB, below 1000 to a tenth."""
    value = float(size) / GIB
    return f"{value:,.1f} GiB" if value < 1000 else f"{value:,.0f} GiB"


def _relief(scenario: Scenario, plan: Plan, part: str) -> str:
    """Return what shrinks a part of the ledger, of what is not at its minimum already."""
    if isinstance(plan, Reinforcement):
        return _step_relief(plan, part)
    if isinstance(plan, Training):
        return _training_relief(plan, part)
    if isinstance(plan, Diffusion):
        return _diffusion_relief(scenario, plan, part)
    if part == "weights":
        narrower = "" if _is_narrowest(scenario.precision.weights) else " or use a narrower `precision.weights`"
        return f"{SPLIT}{narrower}"
    ways = [] if _has_smallest_batch(scenario, plan) else [f"lower {_batch(plan)}"]
    if part == "kv_cache":
        ways.append("shorten `input_tokens`")
        if not _is_narrowest(scenario.precision.kv_cache):
            ways.append("use a narrower `precision.kv_cache`")
    elif isinstance(plan, Prefill | Generate) and part in ("activations", "communication"):
        ways.extend(_smaller_passes(scenario, plan))
    elif isinstance(plan, Serving) and part == "activations":
        ways.append("compute prompts in smaller chunks (`scheduler.token_budget`)")
    return " or ".join((", ".join(ways), SPLIT) if ways else (SPLIT,))


def _diffusion_relief(scenario: Scenario, plan: Diffusion, part: str) -> str:
    """Return what shrinks a part of the ledger of networks that run one after the other."""
    if part == "weights":
        ways = [] if plan.resident == "one" else ["keep one network at a time on the device (`resident: one`)"]
        narrower = [] if _is_narrowest(scenario.precision.weights) else ["use a narrower `precision.weights`"]
        return " or ".join((*ways, *narrower, "raise `parallel.tp`"))
    ways = [] if plan.tile is not None else ["decode in tiles (`tile: 512`)"]
    return " or ".join(
        (*ways, *([] if plan.batch <= scenario.parallel.dp else ["lower `batch`"]), "raise `parallel.cp`")
    )


def _step_relief(plan: Reinforcement, part: str) -> str:
    """Return what shrinks a part of the ledger of a step of reinforcement learning."""
    if part == "kv_cache":
        return f"lower `memory.utilization` of {plan.rollout.name}, or keep states on the host (`offload: all`)"
    if plan.placement == "colocated" and plan.offload != "all" and part in ("weights", "optimizer", "gradients"):
        return f"keep states on the host while devices generate (`offload: all`), or shard those of {plan.train.name}"
    return _training_relief(plan.training, part)


def _training_relief(plan: Training, part: str) -> str:
    stages = {"weights": 3, "gradients": 2, "optimizer": 1}
    if plan.zero < stages.get(part, 0):
        return f"shard it (`optimizer.zero: {stages[part]}`) or {SPLIT}"
    if part in stages:
        return f"{SPLIT} or `parallel.dp`, which shards it further"
    if part != "activations":
        return SPLIT
    ways = [] if plan.micro_batch <= 1 else ["reduce `micro_batch`"]
    if not plan.recompute & {"layer", "full"}:
        ways.append("recompute more (`recompute`)")
    return " or ".join(ways or [f"{SPLIT}, or `parallel.cp`"])


def _smaller_passes(scenario: Scenario, plan: Prefill | Generate) -> list[str]:
    """Return how a pass over prompts computes fewer tokens or keeps less of each."""
    passes = prefill_passes(scenario, plan) if isinstance(plan, Prefill) else prompt_passes_of(scenario, plan)
    tokens = float(passes.sequences * passes.new_tokens)
    ways = [f"compute prompts in chunks (`chunk_tokens`, now {tokens:,.0f})"] if tokens > 1 else []
    if scenario.framework.unfused_attention:
        ways.append("name a framework with fused attention: this one writes all attention scores to memory")
    return ways


def _has_smallest_batch(scenario: Scenario, plan: Plan) -> bool:
    """Tell whether a group serves a single request, so that no smaller batch is left."""
    group = scenario.parallel.tp * scenario.parallel.cp
    if isinstance(plan, Prefill):
        return bool(plan.tokens_per_device * group <= plan.input_tokens)
    if isinstance(plan, Decode):
        return bool(plan.batch_per_device * group <= 1)
    if isinstance(plan, Generate):
        return bool(plan.batch <= scenario.parallel.dp)
    return isinstance(plan, Serving) and plan.concurrency is not None and bool(plan.concurrency <= 1)


def _is_narrowest(dtype: str) -> bool:
    return ELEMENT_BYTES[dtype] <= min(ELEMENT_BYTES.values())


def _batch(plan: Plan) -> str:
    """Return the field that sets the number of tokens or requests in flight."""
    names = {Prefill: "tokens_per_device", Decode: "batch_per_device", Generate: "batch", Serving: "concurrency"}
    return f"`{names[type(plan)]}`"
