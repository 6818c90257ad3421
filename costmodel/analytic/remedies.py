"""What would make a training step fit into memory, and what it costs in time."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

from costmodel.quantities import Bytes, Seconds
from costmodel.records import Record, replace
from costmodel.workload.architecture import MoeFfn
from costmodel.workload.memory import Ledger, fits_in_host
from costmodel.workload.plans import Training
from costmodel.workload.scenario import Scenario
from costmodel.workload.validity import rules

Change: TypeAlias = Callable[[Scenario], Scenario]

GIB = 2**30
_SIXTEEN_BIT = "bf16"


class Remedy(Record):
    """A change of a scenario. key: of the framework's options; settings: as files have them."""

    key: str
    settings: tuple[str, ...]
    scenario: Scenario


class Priced(Record):
    """A change with which a step fits. memory: of the fullest device [B]; step: its time [s]."""

    remedy: Remedy
    memory: Bytes
    step: Seconds


def remedies(scenario: Scenario, plan: Training) -> Iterator[Remedy]:
    """Yield changes that need less memory on the same devices, each alone. Then all together, recomputing or not."""
    changes = list(_changes(scenario, plan))
    recomputed = "layer" in plan.recompute or "full" in plan.recompute
    for key, setting, change in changes:
        yield Remedy(key, (setting,), change(scenario))
    for name in ("selective", "full"):
        if not recomputed and name not in plan.recompute:
            yield Remedy(name, (f"recompute: {name}",), _recomputing(scenario, name))
    if plan.zero < 3 and scenario.parallel.dp * scenario.parallel.cp > 1:
        yield Remedy("zero_3", ("optimizer.zero: 3",), replace(scenario, plan=replace(plan, zero=3)))
    if scenario.offload.activations == 0 and "layer" not in plan.recompute:
        half = replace(scenario.offload, activations=0.5)
        yield Remedy("offload", ("offload.activations: 0.5",), replace(scenario, offload=half))
    together = functools.reduce(lambda changed, one: one[2](changed), changes, scenario)
    settings = tuple(setting for _, setting, _ in changes)
    if len(settings) > 1:
        yield Remedy("", settings, together)
    if settings and not recomputed:
        yield Remedy("", (*settings, "recompute: full"), _recomputing(together, "full"))


def _changes(scenario: Scenario, plan: Training) -> Iterator[tuple[str, str, Change]]:
    """Yield changes that may be made together: the framework's option, the setting, and the change."""
    parallel = scenario.parallel
    if scenario.precision.gradients == "fp32" and scenario.precision.residual == _SIXTEEN_BIT:
        narrow = replace(scenario.precision, gradients=_SIXTEEN_BIT)
        yield "gradients", "precision.gradients: bf16", lambda one: replace(one, precision=narrow)
    if plan.zero == 0 and parallel.dp * parallel.cp > 1:
        yield "zero", "optimizer.zero: 1", lambda one: replace(one, plan=replace(plan, zero=1))
    if parallel.tp > 1 and not parallel.sequence_parallel:
        setting = "parallel.sequence_parallel: true"
        yield "sequence_parallel", setting, lambda one: _laid_out(one, sequence_parallel=True)
    ranks = _expert_ranks(scenario)
    if ranks > 1:
        yield "ep", f"parallel.ep: {ranks}", lambda one: _laid_out(one, ep=float(ranks))


def _laid_out(scenario: Scenario, **degrees: Any) -> Scenario:
    return replace(scenario, parallel=replace(scenario.parallel, **degrees))


def _recomputing(scenario: Scenario, name: str) -> Scenario:
    assert isinstance(scenario.plan, Training)
    return replace(scenario, plan=replace(scenario.plan, recompute=frozenset({name})))


def _expert_ranks(scenario: Scenario) -> int:
    """Return over how many ranks of a node routed experts can go that every rank holds now. One where they cannot."""
    parallel, node = scenario.parallel, int(scenario.cluster.node.count)
    experts = {int(layer.ffn.experts) for layer in scenario.architecture.layers if isinstance(layer.ffn, MoeFfn)}
    if parallel.ep != 1 or parallel.expert_pool is not None or not experts:
        return 1
    shared = math.gcd(int(parallel.tp * parallel.cp * parallel.dp), *experts)
    return max(ranks for ranks in range(1, node + 1) if shared % ranks == 0)


def priced(
    scenario: Scenario, ledger_of: Callable[[Scenario], Ledger | None], step_of: Callable[[Scenario], Seconds]
) -> list[Priced]:
    """Return the changes with which a step fits, the fastest first."""
    plan, capacity = scenario.plan, scenario.cluster.device.device_memory.capacity
    if not isinstance(plan, Training):
        return []
    fitting = []
    for remedy in remedies(scenario, plan):
        if not all(rule.holds for rule in rules(remedy.scenario)):
            continue
        ledger = ledger_of(remedy.scenario)
        if ledger is None or not fits_in_host(ledger, scenario.cluster.node, scenario.devices):
            continue
        if float(ledger.total) <= float(capacity):
            fitting.append(Priced(remedy, ledger.total, step_of(remedy.scenario)))
    return sorted(fitting, key=lambda one: float(one.step))


def described(scenario: Scenario, fitting: list[Priced], step: Seconds) -> str:
    """Return changes as text. step: the time of the step that does not fit [s]."""
    parts = []
    for one in fitting:
        option = scenario.framework.training.options.get(one.remedy.key)
        of = f" ({scenario.framework.name}: {option})" if option else ""
        price = float(one.step) / float(step) - 1.0
        settings = ", ".join(f"`{setting}`" for setting in one.remedy.settings)
        settings += " together" if len(one.remedy.settings) > 1 else ""
        parts.append(f"{settings}{of}: {float(one.memory) / GIB:.1f} GiB, step {price:+.1%}")
    return "; ".join(parts)
