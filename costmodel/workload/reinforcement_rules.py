"""What a step of reinforcement learning asks of its parts."""

from __future__ import annotations

from collections.abc import Iterator

from costmodel.quantities import divides
from costmodel.workload.plans import Generate
from costmodel.workload.reinforcement import Reinforcement
from costmodel.workload.rule import Rule, shown
from costmodel.workload.scenario import Scenario


def reinforcement_rules(scenario: Scenario, plan: Reinforcement) -> Iterator[Rule]:
    """Yield what the devices of the parts, their batches and the placement ask."""
    rollout, train, split = plan.rollout, plan.train, plan.placement == "split"
    yield Rule(
        "placement",
        split or (rollout.devices == train.devices),
        f"{rollout.name} takes {shown(rollout.devices)} devices and {train.name} {shown(train.devices)}, which are the "
        "same where they are colocated",
        "give both as many (`parallel.dp`, `replicas.count`), or write `placement: split`",
    )
    yield Rule(
        "placement",
        split or rollout.cluster.device.name == train.cluster.device.name,
        f"{rollout.name} runs on {rollout.cluster.device.name} and {train.name} on {train.cluster.device.name}",
        "name one cluster for both, or write `placement: split`",
    )
    yield Rule(
        "placement",
        (not split) | (plan.devices <= scenario.cluster.devices),
        f"both pools take {shown(plan.devices)} devices, the cluster has {shown(scenario.cluster.devices)}",
        "lower a degree of either, or name a larger cluster",
    )
    yield Rule(
        "staleness",
        split | (plan.staleness == 0),
        "colocated devices generate with the newest weights",
        "write `staleness: 0`, or `placement: split`",
    )
    yield Rule(
        "continuous",
        (not plan.continuous) | (plan.staleness >= 1),
        "engines that go on with old answers use old weights",
        "write `staleness: 1`, or leave it out",
    )
    yield Rule(
        "offload",
        plan.offload == "none" or not split,
        "training has devices of its own, which keep its states",
        "leave it out, or write `placement: colocated`",
    )
    yield Rule(
        "prompts",
        divides(plan.training.global_batch, plan.epochs * plan.answers),
        f"{shown(plan.answers)} answers are no whole number of global batches of {shown(plan.training.global_batch)} "
        f"sequences of {train.name}",
        f"choose prompts * samples as a multiple of scenarios.{train.name}.global_batch",
    )
    if isinstance(plan.engine_plan, Generate):
        yield Rule(
            "prompts",
            divides(plan.engine_plan.batch, plan.answers),
            f"{shown(plan.answers)} answers are no whole number of batches of {shown(plan.engine_plan.batch)} of "
            f"{rollout.name}",
            f"choose scenarios.{rollout.name}.batch so that it divides prompts * samples, or phase `serving`",
        )
    yield Rule(
        "train",
        plan.training.preference is None,
        f"{train.name} trains on pairs, not on answers",
        "remove `preference`",
    )
