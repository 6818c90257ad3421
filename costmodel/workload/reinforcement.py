"""A step of reinforcement learning: answers that engines generate, and the training step that learns from them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from costmodel.declared import Moment, Number, NumberOrZero
from costmodel.quantities import Count, divides, maximum
from costmodel.records import Record
from costmodel.workload.plans import Generate, PlanOfParts, Serving, Training
from costmodel.workload.requests import Lengths
from costmodel.workload.scenario import Scenario
from costmodel.workload.split_rules import Rule, shown


class Refit(Record):
    """How engines get the weights that were trained."""

    weights: Annotated[
        Literal["whole", "shards"],
        "what each device gathers of them: whole tensors, from which an engine takes its parts, or its parts alone",
    ] = "whole"


class Reinforcement(PlanOfParts):
    """A step of reinforcement learning: rollout, reward, log probabilities, update, and new weights for the engines.

    rollout: the scenario of the engines, a static batch (`generate`) or continuous batching (`serving`).
    train: the scenario of an optimizer step.
    """

    phase: ClassVar[str] = "rl"
    kind: ClassVar[str] = "rl"
    rollout: Scenario
    train: Scenario
    prompts: Annotated[Number, "prompts of a step"]
    samples: Annotated[Number, "answers to a prompt"] = 1.0
    placement: Annotated[
        Literal["colocated", "split"],
        "colocated: all devices generate, then all train; split: each part has devices of its own",
    ] = "colocated"
    staleness: Annotated[
        NumberOrZero,
        "steps by which weights that generate are older than those that are trained; from 1 on both pools of `split` "
        "work at the same time",
    ] = 0.0
    continuous: Annotated[
        bool,
        "from staleness 1 on, engines go on with the next prompts where answers end, and with old answers after new "
        "weights, so that nothing waits for the longest answer",
    ] = False
    log_probabilities: Annotated[
        tuple[Literal["policy", "reference"], ...],
        "forward passes over the answers before the update: of the weights that are trained, of a frozen reference",
    ] = ("policy", "reference")
    log_probability_batch: Annotated[
        Number | None, "sequences of a micro-batch of these passes; null: that of the training scenario"
    ] = None
    reference: Annotated[
        Literal["device", "host"],
        "memory of the reference's copy of the weights, of which adapters need none; from the host it is swapped in "
        "for its pass",
    ] = "host"
    epochs: Annotated[Number, "times that the update goes over the answers of a step"] = 1.0
    reward: Annotated[
        Moment, "time in which answers are scored once all are there; 0: each while others are generated"
    ] = 0.0
    offload: Annotated[
        Literal["none", "states", "all"],
        "what colocated devices keep in their host's memory while they generate: optimizer states, or weights and a "
        "reference too; gradients then have no memory",
    ] = "none"
    update: Annotated[Refit, "how engines get the new weights"] = Refit()

    @property
    def devices(self) -> Count:
        """Return the devices of both pools, or of the larger part where they are the same."""
        rollout, train = self.rollout.devices, self.train.devices
        return maximum(rollout, train) if self.placement == "colocated" else rollout + train

    @property
    def part_names(self) -> tuple[str, ...]:
        """Return the names of both scenarios."""
        return self.rollout.name, self.train.name

    @property
    def parts(self) -> tuple[Scenario, ...]:
        """Return the scenarios of training and rollout."""
        return self.train, self.rollout

    @property
    def answers(self) -> Count:
        """Return the answers of a step."""
        return self.prompts * self.samples

    @property
    def engine_plan(self) -> Generate | Serving:
        """Return the plan of the engines."""
        assert isinstance(self.rollout.plan, Generate | Serving), "the file was checked"
        return self.rollout.plan

    @property
    def training(self) -> Training:
        """Return the plan of an optimizer step."""
        assert isinstance(self.train.plan, Training), "the file was checked"
        return self.train.plan

    @property
    def optimizer_steps(self) -> Count:
        """Return the optimizer steps of a step: epochs * answers / global_batch."""
        return self.epochs * self.answers / self.training.global_batch

    @property
    def tokens(self) -> Count:
        """Return the tokens of a step: prompts and answers."""
        return self.answers * (self.engine_plan.input_tokens + self.engine_plan.output_tokens)

    @property
    def has_copy(self) -> bool:
        """Tell whether a reference has a copy of the weights. Adapters are switched off instead."""
        return "reference" in self.log_probabilities and self.training.adapters is None


def output_lengths(plan: Serving) -> Lengths:
    """Return the lengths of answers, of those that a file states the mean."""
    stream = plan.requests
    return Lengths(mean=plan.output_tokens) if stream is None or stream.output is None else stream.output


# ---- What a step of reinforcement learning asks of its parts ---------------------------------------------------------


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
