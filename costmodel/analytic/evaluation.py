"""One block of scenarios evaluated in closed form: metrics, also with families moved, ledger, breakdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Protocol

from costmodel.analytic.bound import bound_times
from costmodel.analytic.breakdown import Lines, add_pass, step_breakdown
from costmodel.analytic.disaggregation import DisaggregatedEvaluation, pools_ledger
from costmodel.analytic.generation import GenerateEvaluation, generate_ledger
from costmodel.analytic.inference import PassTimes, pass_ledger, pass_model, pass_times
from costmodel.analytic.metrics import (
    bound_metrics,
    decode_metrics,
    prefill_metrics,
    schedule_times,
    training_metrics,
)
from costmodel.analytic.no_schedule import Unscheduled
from costmodel.analytic.operator_timing import TimedOperator
from costmodel.analytic.serving import ServingEvaluation, serving_ledger
from costmodel.analytic.stream_times import Perturbations
from costmodel.analytic.training import StepTimes, micro_batch_count, step_model, step_times, training_context, whole
from costmodel.cost.calibration import Calibration
from costmodel.quantities import Quantity
from costmodel.result import Entry, Metrics
from costmodel.workload.layers import model_work
from costmodel.workload.memory import Ledger, training_ledger
from costmodel.workload.plans import Decode, ExpertBound, Generate, Prefill, Serving, Training, tokens_per_step
from costmodel.workload.scenario import Disaggregated, Scenario
from costmodel.workload.schedules import folded_order
from costmodel.workload.stages import stage_layout


class Evaluation(Protocol):
    """What every phase answers. `headline` names the metric that a breakdown sums to."""

    headline: str
    ledger: Ledger | None

    def metrics(self, moves: Perturbations) -> Metrics:
        """Return the metrics with families moved within their spread."""

    def families(self) -> frozenset[str]:
        """Return the operator families whose times are uncertain."""

    def breakdown(self) -> list[Entry]:
        """Return where the time of a single point goes."""

    def operators(self) -> list[TimedOperator]:
        """Return every distinct operator, priced, in the order of a pass."""

    def schedule(self, moves: Perturbations = None) -> Mapping[str, Quantity] | None:
        """Return the parts of a training step with families moved within their spread, null for other phases."""

    def notes(self) -> tuple[str, ...]:
        """Return what a reader of a single point has to be told."""


class TrainingEvaluation:
    """A training step."""

    headline = "step_time"

    def __init__(self, scenario: Scenario, plan: Training, calibration: Calibration) -> None:
        self._scenario, self._plan = scenario, plan
        self.priced = step_model(scenario, plan, calibration)
        self.ledger: Ledger | None = self.priced.ledger

    def metrics(self, moves: Perturbations) -> Metrics:
        """Return the metrics of the step."""
        times = self._times if moves is None else step_times(self.priced, moves)
        return training_metrics(self._scenario, self._plan, self.priced, times)

    def families(self) -> frozenset[str]:
        """Return the families of the step's operators whose times are uncertain."""
        return _families(self.operators())

    def operators(self) -> list[TimedOperator]:
        """Return the operators of all layers and passes, what moves beside them, then those that end the step."""
        works, traffic = self.priced.timed_works.values(), self.priced.overlapped_comm
        beside = [] if traffic is None else traffic.operators()
        ends = [item for tail in self.priced.optimizer_steps for item in (*tail.serial, *tail.on_host, *tail.copies)]
        passes = [item for work in works for item in (*work.forward, *work.input_gradient, *work.weight_gradient)]
        joining = [] if self.priced.p2p_gather is None else [self.priced.p2p_gather]
        return [*passes, *beside, self.priced.p2p_send, *joining, *ends]

    def breakdown(self) -> list[Entry]:
        """Return the operators of the step."""
        return step_breakdown(self.priced)

    def schedule(self, moves: Perturbations = None) -> Mapping[str, Quantity] | None:
        """Return the step's parts."""
        return schedule_times(self._times if moves is None else step_times(self.priced, moves))

    def notes(self) -> tuple[str, ...]:
        """Return nothing that a reader has to be told."""
        return ()

    @cached_property
    def _times(self) -> StepTimes:
        return step_times(self.priced, None)


class PassEvaluation(Unscheduled):
    """A prefill or a decoding step."""

    def __init__(self, scenario: Scenario, plan: Prefill | Decode, calibration: Calibration) -> None:
        self._scenario, self._plan = scenario, plan
        self.priced = pass_model(scenario, plan, calibration)
        self.ledger: Ledger | None = pass_ledger(scenario, plan)
        self.headline = "ttft" if isinstance(plan, Prefill) else "tpot"

    def metrics(self, moves: Perturbations) -> Metrics:
        """Return the metrics of the pass."""
        times = self._times if moves is None else pass_times(self.priced, moves)
        if isinstance(self._plan, Prefill):
            return prefill_metrics(self._scenario, self._plan, times)
        assert self.ledger is not None
        return decode_metrics(self._scenario, self._plan, self.ledger, times)

    def families(self) -> frozenset[str]:
        """Return the families of the pass's operators whose times are uncertain."""
        return _families(self.operators())

    def operators(self) -> list[TimedOperator]:
        """Return the operators of all kinds of layers."""
        return self.priced.operators()

    def breakdown(self) -> list[Entry]:
        """Return the operators of the pass."""
        lines, times = Lines(), self._times
        if isinstance(self._plan, Prefill):
            add_pass(lines, self.priced, times, float(self._plan.steps))
            return lines.sorted()
        tokens = float(tokens_per_step(self._plan.speculative))
        add_pass(lines, self.priced, times, 1.0 / tokens)
        waiting = float(times.round(self._scenario.parallel.pp)) - float(times.latency)
        lines.add_wait("pipeline wait", waiting / tokens, "latency")
        return lines.sorted()

    @cached_property
    def _times(self) -> PassTimes:
        return pass_times(self.priced, None)


class BoundEvaluation(Unscheduled):
    """The closed-form bound: no kernels, no memory, nothing uncertain."""

    headline = "tpot"
    ledger: Ledger | None = None

    def __init__(self, scenario: Scenario, plan: ExpertBound) -> None:
        self._times = bound_times(scenario, plan)

    def metrics(self, moves: Perturbations) -> Metrics:  # noqa: ARG002  a bound has no kernels to move
        """Return the bound's metrics."""
        return bound_metrics(self._times)

    def families(self) -> frozenset[str]:
        """Return nothing: a bound is exact."""
        return frozenset()

    def operators(self) -> list[TimedOperator]:
        """Return nothing: a bound has one formula and no operators."""
        return []

    def breakdown(self) -> list[Entry]:
        """Return the wire as the only line."""
        entry = Entry("all-to-all", float(self._times.tpot))
        entry.by_bound["network"], entry.by_basis["roofline"] = entry.time, entry.time
        return [entry]


def evaluate(scenario: Scenario, calibration: Calibration) -> Evaluation:
    """Return the evaluation of a scenario. Raises InfeasibleError where its devices cannot reach each other."""
    plan = scenario.plan
    if isinstance(plan, Training):
        return TrainingEvaluation(scenario, plan, calibration)
    if isinstance(plan, ExpertBound):
        return BoundEvaluation(scenario, plan)
    if isinstance(plan, Generate):
        return GenerateEvaluation(scenario, plan, calibration)
    if isinstance(plan, Serving):
        return ServingEvaluation(scenario, plan, calibration)
    if isinstance(plan, Disaggregated):
        return DisaggregatedEvaluation(scenario, plan, calibration)
    return PassEvaluation(scenario, plan, calibration)


def ledger_of(scenario: Scenario) -> Ledger | None:
    """Return what a device would hold, without asking how long anything takes; null for a bound."""
    plan = scenario.plan
    if isinstance(plan, ExpertBound):
        return None
    if isinstance(plan, Training):
        context = training_context(scenario, plan)
        parallel = scenario.parallel
        count = whole(micro_batch_count(scenario, plan))
        schedule = folded_order(plan.schedule, whole(parallel.pp), whole(parallel.virtual), count)
        layout = stage_layout(scenario.architecture, schedule.stages, plan.stages, plan.placement)
        return training_ledger(context, plan, model_work(context), schedule, layout)
    if isinstance(plan, Generate):
        return generate_ledger(scenario, plan)
    if isinstance(plan, Serving):
        return serving_ledger(scenario, plan)
    if isinstance(plan, Disaggregated):
        return pools_ledger(scenario, plan)
    return pass_ledger(scenario, plan)


def _families(items: Iterable[TimedOperator]) -> frozenset[str]:
    return frozenset(item.operator.family for item in items if not item.fit.spread.is_exact)
