"""What measured runs of a site say of another run there: a factor on its time, and how sure it is."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from costmodel.errors import InputError
from costmodel.quantities import Array, Quantity, Seconds, sum_of
from costmodel.records import Record
from costmodel.result import Interval, Metrics
from costmodel.units import render, slip
from costmodel.workload.counting import parameter_count
from costmodel.workload.plans import Decode, Diffusion, Generate, Prefill, Serving, Training
from costmodel.workload.scenario import Anchor, Disaggregated, MeasuredStep, Scenario
from costmodel.workload.site_scatter import Separation

UNUSUAL = 3.0  # robust standard deviations, beyond which the fit of the scatter cuts figures too
POWERS = {
    "step_time": 1.0, "tokens_per_second": -1.0, "tokens_per_day": -1.0, "tokens_per_second_per_device": -1.0,
    "mfu": -1.0, "mfu_noncausal": -1.0, "device_hours_per_trillion_tokens": 1.0, "cost_per_trillion_tokens": 1.0,
}  # fmt: skip
"""Metric of a step -> the power of the step's time that it goes by."""


class Predicted(Record):
    """A step without anchors.

    deviation: the standard deviation of log(measured / predicted) of its time [-].
    least: the time of its products at the peaks of the device, which no step is shorter than [s].
    """

    metrics: Metrics
    deviation: Quantity
    least: Seconds = 0.0


class Anchored(Record):
    """What a site's measured runs say of a run.

    factor: on its predicted time, of inference that of its steps [-].
    left: share of its interval that they leave [-].
    deviation: standard deviation of log(measured / (factor * predicted)) [-].
    steps: how many values were measured.
    ratios: measured over predicted time of each.
    off: their logs over the deviations that sites scatter by [-].
    rests_on: each value, as results name it.
    first, first_left: factor on the time to first token besides that of steps, and the share of its interval that is
        left, null: as of all.
    """

    factor: Quantity
    left: Quantity
    deviation: Quantity
    steps: int
    ratios: tuple[float, ...]
    off: tuple[float, ...]
    rests_on: tuple[str, ...] = ()
    first: Quantity = 1.0
    first_left: Quantity | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        """Return which measured steps deviate more than sites scatter."""
        return tuple(
            f"anchor: a measured step takes {ratio:.3g} times its predicted time, {abs(score):.1f} standard deviations "
            f"of how sites scatter: check its value{slip(ratio)}, and that the scenario is what ran"
            for ratio, score in zip(self.ratios, self.off, strict=True)
            if abs(score) > UNUSUAL
        )

    def interval(self, name: str, value: Quantity, unanchored: Interval) -> Interval:
        """Return the 80 % interval of a time or rate: as much of the one by kernels and whole runs as is left.

        unanchored: that one, moved as the value is.
        """
        if unanchored is None:
            return None
        low, high = unanchored
        left = self.first_left if name == "ttft" and self.first_left is not None else self.left
        return value * (low / value) ** left, value * (high / value) ** left

    def document(self) -> dict[str, object]:
        """Return it as the documented JSON object, of a single point."""
        return {
            "steps": self.steps, "ratios": list(self.ratios), "off": list(self.off), "factor": float(self.factor),
            "deviation": float(self.deviation), "rests_on": list(self.rests_on),
            **({"first_token_factor": float(self.first)} if self.first_left is not None else {}),
        }  # fmt: skip


class Standing(Record):
    """What measured steps say of others, whatever the deviation of these: see `SiteScatter.posterior`."""

    mean: Array
    left: Array
    ratios: tuple[float, ...]
    off: tuple[float, ...]


def standing(scenario: Scenario, anchor: Anchor, predict: Callable[[Scenario], Predicted]) -> Standing:
    """Return what measured steps say of a step of the same site. predict: gives a measured one without anchors."""
    scatter, runs = anchor.scatter, [step.scenario for step in anchor.steps]
    predictions = [predict(run) for run in runs]
    residuals = [_residual(step, one) for step, one in zip(anchor.steps, predictions, strict=True)]
    among = np.array([[float(scatter.correlation(separation(one, other))) for other in runs] for one in runs])
    between = np.broadcast_arrays(*(scatter.correlation(separation(run, scenario)) for run in runs))
    deviations = [float(one.deviation) for one in predictions]
    mean, left = scatter.posterior(residuals, deviations, among, between)
    off = (each / math.hypot(own, scatter.repeat) for each, own in zip(residuals, deviations, strict=True))
    return Standing(mean, left, tuple(math.exp(each) for each in residuals), tuple(off))


def anchored(
    scenario: Scenario, anchor: Anchor, deviation: Quantity, predict: Callable[[Scenario], Predicted]
) -> Anchored:
    """Return what measured steps make of a step: a Gaussian process of log(measured / predicted).

    deviation: of the step without anchors.
    predict: gives a measured one without anchors.
    """
    known = standing(scenario, anchor, predict)
    factor, after = np.exp(deviation * known.mean), deviation * known.left
    said = tuple(map(told, anchor.steps))
    if not np.ndim(factor):
        return Anchored(float(factor), float(known.left), float(after), len(said), known.ratios, known.off, said)
    return Anchored(factor, known.left, after, len(said), known.ratios, known.off, said)


def told(step: MeasuredStep) -> str:
    """Return a measured value as results name it: its metric, the run, and where it is written."""
    listed = step.field.startswith("steps.")
    name = step.field.removeprefix("steps.").removesuffix(".value") if listed else step.scenario.name
    return f"{step.metric} of {name}" + (f" ({step.location.source})" if step.location else "")


def _residual(step: MeasuredStep, one: Predicted) -> float:
    """Return log(measured / predicted) of a measured step's time. Raises InputError where no device is that fast."""
    predicted = float(np.asarray(one.metrics[step.metric]))
    residual = POWERS[step.metric] * math.log(step.value / predicted)
    time = float(np.asarray(one.metrics["step_time"])) * math.exp(residual)
    least, device = float(np.asarray(one.least)), step.scenario.cluster.device.name
    if time < least:
        raise InputError.single(
            f"a step of {_seconds(time)} is faster than {device} can be: its products alone take "
            f"{_seconds(least)} at the peaks", field=step.field, location=step.location,
            hint="check the unit, and that the scenario is what ran",
        )  # fmt: skip
    return residual


def _seconds(time: float) -> str:
    return render(float(f"{time:.3g}"), "time")


def separation(one: Scenario, other: Scenario) -> Separation:
    """Return the separation of two runs of a site. Their sizes are those of `_sizes`."""
    sizes = sum_of(np.log(a / b) ** 2 for a, b in zip(_sizes(one), _sizes(other), strict=True))
    kinds = float(_kinds(one) != _kinds(other))
    same_structure = not kinds and _structure(one) == _structure(other)
    degrees = (np.equal(a, b) for a, b in zip(_degrees(one), _degrees(other), strict=True))
    same = np.all(np.broadcast_arrays(np.equal(sizes, 0.0), *degrees), axis=0) & same_structure
    return Separation(sizes, kinds, 1.0 * same)


def _sizes(scenario: Scenario) -> tuple[Quantity, ...]:
    """Return devices, parameters, degrees, and the sizes of the work."""
    parallel, parameters = scenario.parallel, parameter_count(scenario.architecture).total
    return scenario.devices, parameters, parallel.tp, parallel.pp, parallel.cp, parallel.ep, *_work(scenario)


def _work(scenario: Scenario) -> tuple[Quantity, ...]:
    """Return tokens of a sequence and of a step on a device, and the micro-batch of a training step.

    Of inference: requests a device, in flight or a second, the mean context, and tokens of prompts for each of outputs.
    Of denoising: images a device, their pixels, and steps.
    Of plans that are no anchors nothing, since only equal ones are known to be alike.
    """
    plan, devices = scenario.plan, scenario.devices
    if isinstance(plan, Training):
        return plan.sequence, plan.global_batch * plan.sequence / devices, plan.micro_batch
    if isinstance(plan, Prefill):
        return plan.tokens_per_device / plan.input_tokens, plan.input_tokens, 1.0
    if isinstance(plan, Decode):
        return plan.batch_per_device, plan.mean_kv_len, 1.0
    if isinstance(plan, Generate):
        return plan.batch / devices, plan.input_tokens + plan.output_tokens / 2.0, 1.0
    if isinstance(plan, Diffusion):
        return plan.batch / devices, plan.height * plan.width * plan.frames, plan.steps
    if not isinstance(plan, Serving | Disaggregated):
        return 1.0, 1.0, 1.0
    lengths = plan.input_tokens + plan.output_tokens / 2.0, plan.input_tokens / plan.output_tokens
    if isinstance(plan, Disaggregated):
        decode = plan.decode.plan
        assert isinstance(decode, Decode), "what the pool does"
        return decode.batch_per_device, *lengths
    if plan.rate is not None:
        return plan.rate / devices, *lengths
    if plan.concurrency is None:  # a trace says when requests come
        return 1.0, *lengths
    return plan.concurrency * scenario.parallel.dp / scenario.parallel.devices, *lengths  # those of a replica


def _degrees(scenario: Scenario) -> tuple[Quantity, ...]:
    """Return what else is a number in a layout."""
    parallel = scenario.parallel
    return parallel.dp, parallel.etp, parallel.virtual


def _kinds(scenario: Scenario) -> tuple[object, ...]:
    """Return the number format of most GEMMs, and what is recomputed, or how requests come and whether it drafts."""
    plan = scenario.plan
    if isinstance(plan, Training):
        return scenario.precision.linear, plan.recompute
    drafts = plan.decode.plan if isinstance(plan, Disaggregated) else plan
    is_open = isinstance(plan, Serving) and plan.concurrency is None
    return scenario.precision.linear, is_open, getattr(drafts, "speculative", None) is not None


def _structure(scenario: Scenario) -> tuple[object, ...]:
    """Return what makes runs of equal sizes different ones."""
    plan, parallel = scenario.plan, scenario.parallel
    if not isinstance(plan, Training):
        known = isinstance(plan, Prefill | Decode | Generate | Serving | Disaggregated)
        return plan.phase, type(plan), scenario.architecture.name, None if known else plan
    return (
        plan.schedule, plan.zero, plan.overlaps_communication, plan.stages,
        parallel.sequence_parallel, parallel.context, scenario.architecture.name,
    )  # fmt: skip
