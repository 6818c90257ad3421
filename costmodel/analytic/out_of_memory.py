"""Why a scenario finds no room: how much is missing, on which devices, which part takes most, and what shrinks it."""

from __future__ import annotations

from dataclasses import fields

from costmodel.analytic.inference import pass_ledger
from costmodel.quantities import Bytes, Count, maximum, minimum
from costmodel.result import NO_HOST_MEMORY, NO_MEMORY, REASONS
from costmodel.workload.memory import ON_HOST, Ledger
from costmodel.workload.plans import Decode, Generate, Prefill, Serving, Training
from costmodel.workload.scenario import Disaggregated, Plan, Scenario

GIB = 2**30
SPLIT = "raise `parallel.tp` or `parallel.pp`"


def too_much_for_a_device(scenario: Scenario, ledger: Ledger) -> str:
    """Return what the fullest device would hold, what it has, which part takes most, and what makes that smaller."""
    plan, pool = scenario.plan, ""
    if isinstance(plan, Disaggregated):
        pool = _fuller_pool(scenario, plan)
        plan, scenario = getattr(plan, pool).plan, scenario.of_pool(getattr(plan, pool))
    capacity = scenario.cluster.device.device_memory.capacity
    parts = {part.name: float(getattr(ledger, part.name)) for part in fields(ledger) if part.name not in ON_HOST}
    largest = max(parts, key=lambda name: parts[name])
    where = f" of the {pool} pool" if pool else ""
    return (
        f"{REASONS[NO_MEMORY]}: {_which(scenario.devices)}{where} needs {_gib(ledger.total)}, "
        f"{_gib(ledger.total - capacity)} more than its {_gib(capacity)}; {_gib(parts[largest])} of it for "
        f"{largest.replace('_', ' ')}: {_relief(scenario, plan, largest)}"
    )


def too_much_for_the_host(scenario: Scenario, ledger: Ledger) -> str:
    """Return what the host would have to hold, and what it has."""
    node = scenario.cluster.node
    devices = minimum(node.count, largest_layout(scenario))
    return (
        f"{REASONS[NO_HOST_MEMORY]}: {devices:g} devices of a node would keep {_gib(ledger.on_host * devices)} there, "
        f"it has {_gib(node.host.memory or 0.0)}: lower a share of `offload`"
    )


def largest_layout(scenario: Scenario) -> Count:
    """Return the devices of the layout, of two pools those of the larger: a node belongs to one of them."""
    plan = scenario.plan
    if isinstance(plan, Disaggregated):
        return maximum(plan.prefill.parallel.devices, plan.decode.parallel.devices)
    return scenario.parallel.devices


def _fuller_pool(scenario: Scenario, plan: Disaggregated) -> str:
    """Return the name of the pool whose devices hold more."""
    totals = {
        name: pass_ledger(scenario.of_pool(pool), pool.plan).total
        for name, pool in (("prefill", plan.prefill), ("decode", plan.decode))
    }
    return max(totals, key=lambda name: float(totals[name]))


def _which(devices: Count) -> str:
    return "the device" if devices == 1 else f"the fullest of {devices:,.0f} devices"


def _gib(size: Bytes) -> str:
    """Return a size in GiB, to a tenth where that is much of it."""
    value = float(size) / GIB
    return f"{value:,.1f} GiB" if value < 1000 else f"{value:,.0f} GiB"


def _relief(scenario: Scenario, plan: Plan, part: str) -> str:
    """Return what makes a part of the ledger smaller."""
    if isinstance(plan, Training):
        stages = {"weights": 3, "gradients": 2, "optimizer": 1}
        if plan.zero < stages.get(part, 0):
            return f"shard it (`optimizer.zero: {stages[part]}`) or {SPLIT}"
        if part in stages:
            return f"{SPLIT}, or `parallel.dp`, over which it is sharded"
        return "shrink `micro_batch` or recompute more (`recompute`)" if part == "activations" else SPLIT
    if part == "weights":
        return f"{SPLIT}, or narrow `precision.weights`"
    if _has_one_prompt(plan):
        return _one_prompt_relief(scenario, part)
    return f"lower {_batch(plan)}" + (", shorten prompts or narrow `precision.kv_cache`" if part == "kv_cache" else "")


def _has_one_prompt(plan: Plan) -> bool:
    """Tell whether a single prompt is in flight, so that no smaller batch is left."""
    if isinstance(plan, Prefill):
        return bool(plan.tokens_per_device <= plan.input_tokens)
    return isinstance(plan, Generate) and bool(plan.batch <= 1)


def _one_prompt_relief(scenario: Scenario, part: str) -> str:
    """Return what shrinks a single prompt's part of the ledger, and what of real programs the model lacks there."""
    if part == "kv_cache":
        return f"shorten `input_tokens`, narrow `precision.kv_cache`, or {SPLIT}"
    relief = f"shorten `input_tokens` or {SPLIT}"
    if scenario.framework.unfused_attention:
        relief += ", or name a framework with fused attention: this one writes all attention scores to memory"
    chunks = "a prompt runs in one pass in this phase; chunks, which need less, are modelled in `phase: serving` only"
    return f"{relief} ({chunks})"


def _batch(plan: Plan) -> str:
    """Return the field that says how much is in flight."""
    names = {Prefill: "tokens_per_device", Decode: "batch_per_device", Generate: "batch", Serving: "concurrency"}
    return f"`{names[type(plan)]}`"
