"""One block of scenarios evaluated in closed form: metrics, also with families perturbed, ledger, breakdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from costmodel.analytic.anchors import Anchored
from costmodel.analytic.breakdown import BreakdownLines, add_pass, add_pipeline_wait
from costmodel.analytic.inference import (
    PassTimes,
    pass_clock,
    pass_ledger,
    pass_model,
    pass_times,
    plan_pass,
    prefill_passes,
)
from costmodel.analytic.metrics import BoundTimes, bound_metrics, bound_times, pass_metrics
from costmodel.analytic.operator_timing import OperatorTimer, TimedOperator, uncertain_families
from costmodel.analytic.paces import Engines, paced
from costmodel.analytic.serving.continuous_batching import ServingEvaluation
from costmodel.analytic.serving.disaggregation import DisaggregatedEvaluation, pools_ledger
from costmodel.analytic.serving.engine_state import admission
from costmodel.analytic.serving.generation import GenerateEvaluation, generate_ledger
from costmodel.analytic.serving.open_loop import OpenLoopEvaluation
from costmodel.analytic.serving.sessions import at_means, busy_sessions, rate_of_sessions, under_way
from costmodel.analytic.serving.waiting import SEAT
from costmodel.analytic.stream_times import Perturbations, PhaseEvaluation
from costmodel.analytic.training.step_model import step_schedule, training_context
from costmodel.analytic.training_evaluation import TrainingEvaluation
from costmodel.cost.calibration import Calibration
from costmodel.cost.power import Clock
from costmodel.errors import InputError
from costmodel.quantities import Quantity, Seconds
from costmodel.records import replace
from costmodel.result import Entry, Metrics
from costmodel.workload.engine_memory import kv_pool
from costmodel.workload.layers import model_work
from costmodel.workload.memory import Ledger, most_loaded, training_ledger
from costmodel.workload.passes import PassWork, pass_work
from costmodel.workload.plans import (
    Decode,
    Diffusion,
    ExpertBound,
    Generate,
    PlanOfParts,
    Prefill,
    Serving,
    Training,
    tokens_per_step,
)
from costmodel.workload.pools import Pools
from costmodel.workload.reinforcement import Reinforcement
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


class PassEvaluation(PhaseEvaluation[PassTimes]):
    """A prefill or a decoding step. work, timer: as of `pass_model`."""

    def __init__(
        self,
        scenario: Scenario,
        plan: Prefill | Decode,
        calibration: Calibration,
        work: PassWork | None = None,
        timer: OperatorTimer | None = None,
    ) -> None:
        self._scenario, self._plan = scenario, plan
        work = work or pass_work(plan_pass(scenario, plan))
        self.model = pass_model(scenario, plan, calibration, work, timer)
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
        return uncertain_families(self.operators())

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
    if scenario.anchor is not None:
        return paced(scenario, calibration, Engines(evaluate, evaluate, evaluate))
    if isinstance(plan, ExpertBound):
        return BoundEvaluation(scenario, plan)
    if isinstance(plan, PlanOfParts):
        return _of_parts(scenario, plan, calibration)
    if isinstance(plan, Diffusion):
        from costmodel.analytic.diffusion import DiffusionEvaluation  # loads when it is used

        return DiffusionEvaluation(scenario, plan, calibration)
    if isinstance(plan, Generate):
        return GenerateEvaluation(scenario, plan, calibration)
    if scenario.unlike:
        raise InputError.single(
            "the closed form is of equal engines", field=f"scenarios.{scenario.name}.replicas.others",
            hint="simulate the requests with `--engine event`, or remove it",
        )  # fmt: skip
    if isinstance(plan, Serving) and plan.rate is not None:
        plan = at_means(scenario, plan)
        return OpenLoopEvaluation(replace(scenario, plan=plan), plan, calibration)
    if isinstance(plan, Serving):
        return _closed_loop(scenario, at_means(scenario, plan), calibration)
    return PassEvaluation(scenario, plan, calibration)


def _of_parts(scenario: Scenario, plan: PlanOfParts, calibration: Calibration) -> Evaluation:
    """Return the evaluation of pools of engines, or of a step of reinforcement learning."""
    if isinstance(plan, Disaggregated):
        return DisaggregatedEvaluation(scenario, plan, calibration)
    if isinstance(plan, Pools):
        from costmodel.analytic.serving.pools import PoolsEvaluation  # loads where there are pools under a load

        return PoolsEvaluation(scenario, plan, calibration)
    from costmodel.analytic.reinforcement import ReinforcementEvaluation  # loads where there is such a step

    assert isinstance(plan, Reinforcement), "no other plan has parts"
    return ReinforcementEvaluation(scenario, plan, calibration)


def _closed_loop(scenario: Scenario, plan: Serving, calibration: Calibration) -> Evaluation:
    """Return a closed loop of requests, or of sessions, whose gaps make it an open loop at the rate that they send.

    Any number of requests may wait there. Where most of their first token would be a wait for a seat, though there are
    seats for all sessions, it is a closed loop of as many requests as are under way.
    """

    def closed(concurrency: Quantity | None) -> ServingEvaluation:
        own = replace(plan, concurrency=concurrency)
        return ServingEvaluation(replace(scenario, plan=own), own, calibration)

    means, busy = plan.means, closed(busy_sessions(plan))
    if means is None or plan.concurrency is None or not np.all((means.gap > 0.0) & (means.steps > 1.0)):
        return busy
    sessions = plan.concurrency * scenario.parallel.dp * plan.replicas.serving(scenario.parallel.all_devices)
    fastest = replace(plan, rate=sessions / means.gap, concurrency=None)  # if requests took no time
    engines = OpenLoopEvaluation(replace(scenario, plan=fastest), fastest, calibration)
    most = engines.metrics(None)["highest_stable_rate"]
    assert most is not None
    at_rate = engines.at_rate(rate_of_sessions(means, sessions, most, lambda rate: _latency(engines.at_rate(rate))))
    mostly_waits = at_rate.solution().waits[SEAT] > 0.5 * at_rate.solution().first
    if not np.all(mostly_waits & (_metric(busy, "concurrency") <= _metric(at_rate, "max_concurrency"))):
        return at_rate
    return closed(under_way(means, plan.concurrency, lambda requests: _latency(closed(requests))))


def _latency(evaluation: Evaluation) -> Seconds:
    return _metric(evaluation, "latency")


def _metric(evaluation: Evaluation, name: str) -> Quantity:
    """Return a metric, infinite where there is none."""
    value = evaluation.metrics(None)[name]
    return np.inf if value is None else value


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
        if scenario.unlike:
            from costmodel.analytic.serving.pools import fuller_ledger

            return fuller_ledger(scenario.alone, *scenario.unlike)
        plan = at_means(scenario, plan)
        return kv_pool(scenario, plan).ledger if plan.rate is not None else admission(scenario, plan).ledger
    if isinstance(plan, Disaggregated):
        return pools_ledger(scenario, plan)
    if isinstance(plan, Pools):
        from costmodel.analytic.serving.pools import fuller_ledger

        return fuller_ledger(plan.prefill, plan.decode)
    if isinstance(plan, PlanOfParts):
        assert isinstance(plan, Reinforcement), "no other plan has parts"
        engines = plan.rollout.plan
        rollout = kv_pool(plan.rollout, engines).ledger if isinstance(engines, Serving) else ledger_of(plan.rollout)
        parts = (rollout, ledger_of(plan.train))
        return most_loaded([part for part in parts if part is not None])
    return pass_ledger(scenario, plan)
