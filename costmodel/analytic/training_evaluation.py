"""A training step evaluated in closed form."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property, lru_cache, partial

from costmodel.analytic.anchors import Predicted, anchored
from costmodel.analytic.breakdown import step_breakdown
from costmodel.analytic.intervals import run_deviation
from costmodel.analytic.metrics import schedule_times, training_metrics
from costmodel.analytic.operator_timing import TimedOperator, uncertain_families
from costmodel.analytic.stream_times import Perturbations, PhaseEvaluation
from costmodel.analytic.training.step_model import step_model
from costmodel.analytic.training.step_times import StepStreams, StepTimes, step_streams, step_times, times_of
from costmodel.cost.calibration import Calibration
from costmodel.cost.power import Clock, at_clock, clock_of, is_as_timed
from costmodel.quantities import Quantity, Seconds, maximum, sum_of
from costmodel.records import replace
from costmodel.result import Entry, Metrics
from costmodel.workload.memory import Ledger
from costmodel.workload.plans import Training
from costmodel.workload.scenario import Scenario


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
        return uncertain_families(self.operators())

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
