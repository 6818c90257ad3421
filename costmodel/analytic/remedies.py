"""What would make a training step fit into memory, and what it costs in time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from costmodel.quantities import Bytes, Seconds
from costmodel.workload.memory import Ledger
from costmodel.workload.plans import Training
from costmodel.workload.scenario import Scenario

GIB = 2**30
_SIXTEEN_BIT = "bf16"


@dataclass(frozen=True, slots=True, eq=False)
class Remedy:
    """A change of a scenario. key: of the framework's options; setting: as files have it."""

    key: str
    setting: str
    scenario: Scenario


@dataclass(frozen=True, slots=True, eq=False)
class Priced:
    """A change with which a step fits. memory: of the fullest device [B]; step: its time [s]."""

    remedy: Remedy
    memory: Bytes
    step: Seconds


def remedies(scenario: Scenario, plan: Training) -> Iterator[Remedy]:
    """Yield changes that need less memory on the same devices, each alone, then all but recomputation together."""
    together, changes = scenario, 0
    if scenario.precision.gradients == "fp32" and scenario.precision.residual == _SIXTEEN_BIT:
        precision = replace(scenario.precision, gradients=_SIXTEEN_BIT)
        together = replace(together, precision=precision)
        changes += 1
        yield Remedy("gradients", "precision.gradients: bf16", replace(scenario, precision=precision))
    if plan.zero == 0 and scenario.parallel.dp * scenario.parallel.cp > 1:
        sharded = replace(plan, zero=1)
        together = replace(together, plan=sharded)
        changes += 1
        yield Remedy("zero", "optimizer.zero: 1", replace(scenario, plan=sharded))
    if scenario.parallel.tp > 1 and not scenario.parallel.sequence_parallel:
        split = replace(scenario.parallel, sequence_parallel=True)
        together = replace(together, parallel=split)
        changes += 1
        yield Remedy("sequence_parallel", "parallel.sequence_parallel: true", replace(scenario, parallel=split))
    for name in ("selective", "full"):
        if "layer" not in plan.recompute and name not in plan.recompute and "full" not in plan.recompute:
            yield Remedy(name, f"recompute: {name}", replace(scenario, plan=replace(plan, recompute=frozenset({name}))))
    if changes > 1:
        yield Remedy("", "all of these but recomputation", together)


def priced(
    scenario: Scenario, ledger_of: Callable[[Scenario], Ledger | None], step_of: Callable[[Scenario], Seconds]
) -> list[Priced]:
    """Return the changes with which a step fits, the fastest first."""
    plan, capacity = scenario.plan, scenario.cluster.device.device_memory.capacity
    if not isinstance(plan, Training):
        return []
    found = []
    for remedy in remedies(scenario, plan):
        ledger = ledger_of(remedy.scenario)
        if ledger is not None and float(ledger.total) <= float(capacity):
            found.append(Priced(remedy, ledger.total, step_of(remedy.scenario)))
    return sorted(found, key=lambda one: float(one.step))


def described(scenario: Scenario, found: list[Priced], step: Seconds) -> str:
    """Return changes as text. step: the time of the step that does not fit [s]."""
    parts = []
    for one in found:
        option = scenario.framework.options.get(one.remedy.key)
        of = f" ({scenario.framework.name}: {option})" if option else ""
        price = float(one.step) / float(step) - 1.0
        parts.append(f"`{one.remedy.setting}`{of}: {float(one.memory) / GIB:.1f} GiB, step {price:+.1%}")
    return "; ".join(parts)
