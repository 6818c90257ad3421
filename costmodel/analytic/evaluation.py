"""One block of scenarios evaluated in closed form: metrics, also with families perturbed, ledger, breakdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property, lru_cache, partial
from typing import Protocol

from costmodel.analytic.anchors import Anchored, Predicted, anchored
from costmodel.analytic.bound import BoundTimes, bound_times
from costmodel.analytic.breakdown import BreakdownLines, add_pass, add_pipeline_wait, step_breakdown
from costmodel.analytic.inference import (
    PassTimes,
    pass_clock,
    pass_ledger,
    pass_model,
    pass_times,
    plan_pass,
    prefill_passes,
)
from costmodel.analytic.intervals import run_deviation
from costmodel.analytic.metrics import bound_metrics, pass_metrics, schedule_times, training_metrics
from costmodel.analytic.operator_timing import TimedOperator
from costmodel.analytic.phase_evaluation import PhaseEvaluation
from costmodel.analytic.serving.continuous_batching import ServingEvaluation, admission
from costmodel.analytic.serving.disaggregation import DisaggregatedEvaluation, pools_ledger
from costmodel.analytic.serving.generation import GenerateEvaluation, generate_ledger
from costmodel.analytic.serving.open_loop import OpenLoopEvaluation
from costmodel.analytic.stream_times import Perturbations
from costmodel.analytic.training.step_model import step_model, step_schedule, training_context
from costmodel.analytic.training.step_times import StepStreams, StepTimes, step_streams, step_times, times_of
from costmodel.cost.calibration import Calibration
from costmodel.cost.power import Clock, at_clock, clock_of, is_as_timed
from costmodel.quantities import Quantity, Seconds, maximum, sum_of
from costmodel.records import replace
from costmodel.result import Entry, Metrics
from costmodel.workload.engine_memory import kv_pool
from costmodel.workload.layers import model_work
from costmodel.workload.memory import Ledger, training_ledger
from costmodel.workload.passes import pass_work
from costmodel.workload.plans import (
    Decode,
    Diffusion,
    ExpertBound,
    Generate,
    Prefill,
    Serving,
    Training,
    tokens_per_step,
)
from costmodel.workload.scenario import Disaggregated, Scenario


class Evaluation(Protocol):
    """What every phase answers.

    headline: name of the metric that a breakdown sums to.
    anchored: the correction by measured steps, null without them.
    """

    headline: str
    ledger: Ledger | None
    anchored: Anchored | None

    def __hash__(self) -> int:
        """Return the hash of the object itself: what follows from it may be cached."""

    def metrics(self, perturbations: Perturbations) -> Metrics:
        """Return the metrics with families perturbed within their spread."""

    def families(self) -> frozenset[str]:
        """Return the operator families whose times are uncertain."""

    def breakdown(self) -> list[Entry]:
        """Return the parts that the headline of a single point sums over [s]."""

    def operators(self) -> list[TimedOperator]:
        """Return every distinct operator, in the order of a pass."""

    def schedule(self, perturbations: Perturbations = None) -> Mapping[str, Quantity] | None:
        """Return the parts of a training step with families perturbed within their spread, null for other phases."""

    def details(self) -> Mapping[str, object]:
        """Return what the document of a single point holds in addition, by its keys."""

    def verdict(self) -> str | None:
        """Return whether serving keeps up with its load, null for other phases."""

    def percentiles(self) -> Mapping[str, Mapping[str, float]] | None:
        """Return quantiles of a request's times in serving at a single point, null for other phases."""

    def notes(self) -> tuple[str, ...]:
        """Return notes for the reader of a single point."""


class TrainingEvaluation(PhaseEvaluation[StepTimes]):
    """A training step."""

    headline = "step_time"

    def __init__(self, scenario: Scenario, plan: Training, calibration: Calibration) -> None:
        self._scenario, self._plan = scenario, plan
        self.model = step_model(scenario, plan, calibration)
        if not is_as_timed(scenario.cluster.device.power):
            clocked = replace(scenario, cluster=at_clock(scenario.cluster, self.clock()))
            self.model = step_model(clocked, plan, calibration)
        self.ledger: Ledger | None = self.model.ledger
        if scenario.anchor is not None:
            predict = partial(unanchored_step, calibration=calibration)
            self.anchored = anchored(scenario, scenario.anchor, self.deviation(calibration), predict)

    def clock(self) -> Clock:
        """Return the clock of boards that repeat the step, where their limit is that of the tables."""
        work = self.model.repeated_work(self._scenario)
        times = step_times(self.model, None)  # a bubble lasts longer than what a board averages its power over
        return clock_of(self._scenario.cluster.device, work, times.step - times.bubble)

    def deviation(self, calibration: Calibration) -> Quantity:
        """Return the deviation of log(measured / predicted time) without anchors, by the kernels of the layers [-]."""
        return run_deviation(self._scenario, calibration, self._layer_operators())

    @cached_property
    def _streams(self) -> StepStreams:
        return step_streams(self.model, None)

    def _evaluate(self, perturbations: Perturbations) -> StepTimes:
        times = times_of(self.model, self._streams) if perturbations is None else step_times(self.model, perturbations)
        return times if self.anchored is None else times.scaled(self.anchored.factor)

    def metrics(self, perturbations: Perturbations) -> Metrics:
        """Return the metrics of the step."""
        return training_metrics(self._scenario, self._plan, self.model, self.times(perturbations))

    def families(self) -> frozenset[str]:
        """Return the families of the step's operators whose times are uncertain."""
        return _uncertain_families(self.operators())

    def operators(self) -> list[TimedOperator]:
        """Return the operators of all layers and passes, overlapped communication, sends, then the optimizer's."""
        model, comm = self.model, self.model.overlapped_comm
        return [
            *self._layer_operators(),
            *([] if comm is None else comm.operators()),
            *(timed for timed in (model.p2p.send, model.p2p.gather) if timed is not None),
            *(timed for end in model.optimizer_steps for timed in (*end.serial, *end.on_host, *end.copies)),
        ]

    def _layer_operators(self) -> list[TimedOperator]:
        works = self.model.timed_works.values()
        return [timed for work in works for timed in (*work.forward, *work.input_gradient, *work.weight_gradient)]

    def breakdown(self) -> list[Entry]:
        """Return the operators of the step, with their shares of its time [s]."""
        lines = step_breakdown(self.model, self._streams)
        return lines if self.anchored is None else [line.scaled(float(self.anchored.factor)) for line in lines]

    def schedule(self, perturbations: Perturbations = None) -> Mapping[str, Quantity] | None:
        """Return the step's parts."""
        return schedule_times(self.times(perturbations))

    def notes(self) -> tuple[str, ...]:
        """Return which measured steps deviate more than sites scatter."""
        return () if self.anchored is None else self.anchored.notes

    def least_time(self) -> Seconds:
        """Return the time of all products at the device's peaks and its highest clock, the mean over ranks [s].

        least = sum over lines and formats of FLOP / (peak * highest clock / the clock of the peak)
        """
        device = self._scenario.cluster.device
        return sum_of(
            flop / (device.peak(dtype) * maximum(device.clock_max / device.math[dtype].clock, 1.0))
            for line in self.breakdown()
            for dtype, flop in line.by_dtype.items()
            if dtype in device.math
        )


@lru_cache(maxsize=64)
def unanchored_step(run: Scenario, calibration: Calibration) -> Predicted:
    """Return a training step without measured ones. Kept by object, since all points of a site ask for the same."""
    assert isinstance(run.plan, Training), "anchors are training steps"
    step = TrainingEvaluation(replace(run, anchor=None), run.plan, calibration)
    return Predicted(step.metrics(None), step.deviation(calibration), step.least_time())


class PassEvaluation(PhaseEvaluation[PassTimes]):
    """A prefill or a decoding step."""

    def __init__(self, scenario: Scenario, plan: Prefill | Decode, calibration: Calibration) -> None:
        self._scenario, self._plan = scenario, plan
        work = pass_work(plan_pass(scenario, plan))
        self.model = pass_model(scenario, plan, calibration, work)
        self.ledger: Ledger | None = pass_ledger(scenario, plan, work)
        self.headline = "ttft" if isinstance(plan, Prefill) else "tpot"

    def clock(self) -> Clock:
        """Return the clock of boards that repeat the pass, where their limit is that of the tables."""
        return pass_clock(self.model, self._scenario.cluster.device)

    def _evaluate(self, perturbations: Perturbations) -> PassTimes:
        return pass_times(self.model, perturbations)

    def metrics(self, perturbations: Perturbations) -> Metrics:
        """Return the metrics of the pass."""
        assert self.ledger is not None, "a pass holds memory"
        return pass_metrics(self._scenario, self._plan, self.ledger, self.times(perturbations))

    def families(self) -> frozenset[str]:
        """Return the families of the pass's operators whose times are uncertain."""
        return _uncertain_families(self.operators())

    def operators(self) -> list[TimedOperator]:
        """Return the operators of all kinds of layers."""
        return self.model.operators()

    def breakdown(self) -> list[Entry]:
        """Return the operators of the pass, with their shares of the headline [s]."""
        return self.breakdown_of(self.times())[0]

    def breakdown_of(self, times: PassTimes) -> tuple[list[Entry], float]:
        """Return the operators of a pass of such times, and the headline that they sum to [s]."""
        lines = BreakdownLines()
        if isinstance(self._plan, Prefill):
            passes = prefill_passes(self._scenario, self._plan).count
            total = float(self._plan.steps) * float(times.following(passes))
            add_pass(lines, self.model, times, total / float(times.latency))
            return lines.sorted(), total
        step, tokens = float(times.round(self._scenario.parallel.pp)), float(tokens_per_step(self._plan.speculative))
        add_pass(lines, self.model, times, 1.0 / tokens)
        add_pipeline_wait(lines, "pipeline wait", times, self._scenario.parallel.pp, 1.0 / tokens)
        return lines.sorted(), step / tokens


class BoundEvaluation(PhaseEvaluation[BoundTimes]):
    """The closed-form bound: no kernels, no memory, no uncertainty."""

    headline = "tpot"
    ledger: Ledger | None = None

    def __init__(self, scenario: Scenario, plan: ExpertBound) -> None:
        self._bound = bound_times(scenario, plan)

    def _evaluate(self, perturbations: Perturbations) -> BoundTimes:  # noqa: ARG002  a bound has no kernels
        return self._bound

    def metrics(self, perturbations: Perturbations) -> Metrics:
        """Return the bound's metrics."""
        return bound_metrics(self.times(perturbations))

    def operators(self) -> list[TimedOperator]:
        """Return nothing: a bound has one formula and no operators."""
        return []

    def breakdown(self) -> list[Entry]:
        """Return the wire as the only line."""
        entry = Entry("all-to-all", float(self.times().tpot))
        entry.by_bound["network"], entry.by_basis["roofline"] = entry.time, entry.time
        return [entry]


def evaluate(scenario: Scenario, calibration: Calibration) -> Evaluation:
    """Return the evaluation of a scenario. Raises InfeasibleError where its devices are not connected."""
    plan = scenario.plan
    if isinstance(plan, Training):
        return TrainingEvaluation(scenario, plan, calibration)
    if isinstance(plan, ExpertBound):
        return BoundEvaluation(scenario, plan)
    if isinstance(plan, Diffusion):
        from costmodel.analytic.diffusion import DiffusionEvaluation  # loads when it is used

        return DiffusionEvaluation(scenario, plan, calibration)
    if isinstance(plan, Generate):
        return GenerateEvaluation(scenario, plan, calibration)
    if isinstance(plan, Serving) and plan.rate is not None:
        return OpenLoopEvaluation(scenario, plan, calibration)
    if isinstance(plan, Serving):
        return ServingEvaluation(scenario, plan, calibration)
    if isinstance(plan, Disaggregated):
        return DisaggregatedEvaluation(scenario, plan, calibration)
    return PassEvaluation(scenario, plan, calibration)


def ledger_of(scenario: Scenario) -> Ledger | None:
    """Return what a device would hold, without timing anything, null for a bound."""
    plan = scenario.plan
    if isinstance(plan, ExpertBound):
        return None
    if isinstance(plan, Training):
        context, (_, schedule, layout) = training_context(scenario, plan), step_schedule(scenario, plan)
        return training_ledger(context, plan, model_work(context), schedule, layout)
    if isinstance(plan, Diffusion):
        from costmodel.analytic.diffusion import diffusion_ledger  # loads when it is used

        return diffusion_ledger(scenario, plan)
    if isinstance(plan, Generate):
        return generate_ledger(scenario, plan)
    if isinstance(plan, Serving):
        return kv_pool(scenario, plan).ledger if plan.rate is not None else admission(scenario, plan).ledger
    if isinstance(plan, Disaggregated):
        return pools_ledger(scenario, plan)
    return pass_ledger(scenario, plan)


def _uncertain_families(operators: Iterable[TimedOperator]) -> frozenset[str]:
    return frozenset(timed.operator.family for timed in operators if not timed.fit.spread.is_exact)
