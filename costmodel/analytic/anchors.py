"""What measured steps of a site say of another step there: a factor on its time, and how sure it is."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from costmodel.quantities import Array, Quantity, sum_of
from costmodel.result import Interval, Metrics
from costmodel.workload.counting import parameter_count
from costmodel.workload.plans import Training
from costmodel.workload.scenario import Anchor, MeasuredStep, Scenario
from costmodel.workload.site_scatter import Apart

POWERS = {
    "step_time": 1.0, "tokens_per_second": -1.0, "tokens_per_day": -1.0, "tokens_per_second_per_device": -1.0,
    "mfu": -1.0, "mfu_noncausal": -1.0, "device_hours_per_trillion_tokens": 1.0, "cost_per_trillion_tokens": 1.0,
}  # fmt: skip
"""Metric of a step -> the power of the step's time that it goes by."""


@dataclass(frozen=True, slots=True, eq=False)
class Predicted:
    """A step without anchors: its metrics, and the standard deviation of log(measured / predicted) of its time [-]."""

    metrics: Metrics
    deviation: Quantity


@dataclass(frozen=True, slots=True, eq=False)
class Anchored:
    """What a site's measured steps say of a step.

    factor: on its predicted time [-]; left: share of its interval that they leave [-]; deviation: standard deviation of
    log(measured / (factor * predicted)) [-]; steps: how many were measured; ratios: measured over predicted time of
    each.
    """

    factor: Quantity
    left: Quantity
    deviation: Quantity
    steps: int
    ratios: tuple[float, ...]

    def interval(self, value: Quantity, unanchored: Interval) -> Interval:
        """Return the 80 % interval of a metric in `POWERS`: as much of the one by kernels and whole runs as is left.

        unanchored: that one, moved as the value is.
        """
        if unanchored is None:
            return None
        low, high = unanchored
        return value * (low / value) ** self.left, value * (high / value) ** self.left

    def document(self) -> dict[str, object]:
        """Return it as the documented JSON object, of a single point."""
        return {
            "steps": self.steps, "ratios": list(self.ratios), "factor": float(self.factor),
            "deviation": float(self.deviation),
        }  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Standing:
    """What measured steps say of others, whatever the deviation of these: see `SiteScatter.posterior`."""

    mean: Array
    left: Array
    ratios: tuple[float, ...]


def standing(scenario: Scenario, anchor: Anchor, predict: Callable[[Scenario], Predicted]) -> Standing:
    """Return what measured steps say of a step of the same site. predict: gives a measured one without anchors."""
    scatter, runs = anchor.scatter, [step.scenario for step in anchor.steps]
    predictions = [predict(run) for run in runs]
    residuals = [_residual(step, one.metrics) for step, one in zip(anchor.steps, predictions, strict=True)]
    among = np.array([[float(scatter.correlation(apart(one, other))) for other in runs] for one in runs])
    between = np.broadcast_arrays(*(scatter.correlation(apart(run, scenario)) for run in runs))
    mean, left = scatter.posterior(residuals, [float(one.deviation) for one in predictions], among, between)
    return Standing(mean, left, tuple(math.exp(each) for each in residuals))


def anchored(
    scenario: Scenario, anchor: Anchor, deviation: Quantity, predict: Callable[[Scenario], Predicted]
) -> Anchored:
    """Return what measured steps make of a step: a Gaussian process of log(measured / predicted).

    deviation: of the step without anchors; predict: gives a measured one without anchors.
    """
    known = standing(scenario, anchor, predict)
    factor, after = np.exp(deviation * known.mean), deviation * known.left
    if not np.ndim(factor):
        return Anchored(float(factor), float(known.left), float(after), len(anchor.steps), known.ratios)
    return Anchored(factor, known.left, after, len(anchor.steps), known.ratios)


def _residual(step: MeasuredStep, metrics: Metrics) -> float:
    """Return log(measured / predicted) of a measured step's time."""
    predicted = metrics[step.metric]
    return POWERS[step.metric] * math.log(step.value / float(np.asarray(predicted)))


def apart(one: Scenario, other: Scenario) -> Apart:
    """Return how far apart two runs of a site are. Their sizes are those of `_sizes`."""
    sizes = sum_of(np.log(a / b) ** 2 for a, b in zip(_sizes(one), _sizes(other), strict=True))
    kinds = float(_kinds(one) != _kinds(other))
    alike = not kinds and _structure(one) == _structure(other)
    degrees = (np.equal(a, b) for a, b in zip(_degrees(one), _degrees(other), strict=True))
    same = np.all(np.broadcast_arrays(np.equal(sizes, 0.0), *degrees), axis=0) & alike
    return Apart(sizes, kinds, 1.0 * same)


def _plan(scenario: Scenario) -> Training:
    assert isinstance(scenario.plan, Training), "anchors are training steps"
    return scenario.plan


def _sizes(scenario: Scenario) -> tuple[Quantity, ...]:
    """Return devices, parameters, tokens of a sequence and of a step on a device, the micro-batch and degrees."""
    plan, parallel, devices = _plan(scenario), scenario.parallel, scenario.devices
    parameters = parameter_count(scenario.architecture).total
    tokens = plan.global_batch * plan.sequence / devices
    degrees = parallel.tp, parallel.pp, parallel.cp, parallel.ep
    return devices, parameters, plan.sequence, tokens, plan.micro_batch, *degrees


def _degrees(scenario: Scenario) -> tuple[Quantity, ...]:
    """Return what else is a number in a layout."""
    parallel = scenario.parallel
    return parallel.dp, parallel.etp, parallel.virtual


def _kinds(scenario: Scenario) -> tuple[object, ...]:
    """Return the number format of most GEMMs, and what is recomputed."""
    return scenario.precision.linear, _plan(scenario).recompute


def _structure(scenario: Scenario) -> tuple[object, ...]:
    """Return what makes runs of equal sizes different ones."""
    plan, parallel = _plan(scenario), scenario.parallel
    return (
        plan.schedule, plan.zero, plan.overlaps_communication, plan.stages,
        parallel.sequence_parallel, parallel.context, scenario.architecture.name,
    )  # fmt: skip
