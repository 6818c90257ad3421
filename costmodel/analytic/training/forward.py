"""Forward passes of a training layout by themselves: log probabilities of sequences that are there already."""

from __future__ import annotations

from collections.abc import Iterator

from costmodel.analytic.operator_timing import TimedOperator
from costmodel.analytic.recurrence import Slot
from costmodel.analytic.stream_times import Perturbations
from costmodel.analytic.training.step_model import StepModel, runs_of_layers, step_model
from costmodel.analytic.training.step_times import action_times, step_streams
from costmodel.cost.calibration import Calibration
from costmodel.cost.power import work_joules
from costmodel.equations import equation
from costmodel.quantities import Count, Joules, Quantity, Seconds, ceil, maximum, sum_of
from costmodel.records import replace
from costmodel.workload.plans import Training
from costmodel.workload.scenario import Scenario
from costmodel.workload.schedules import Kind


class ForwardPasses:
    """The forward passes of a layout over some sequences, one micro-batch after the other through the pipeline."""

    def __init__(self, scenario: Scenario, model: StepModel, micro_batch: Count, sequences: Count) -> None:
        self._scenario, self._model = scenario, model
        self._count = ceil(sequences / (scenario.parallel.dp * micro_batch))

    @equation
    def seconds(self, perturbations: Perturbations = None) -> Seconds:
        """Return the time of all passes.

        passes = through + max(count / copies - 1, 0) * slowest
        through = sum(stages) + hops * send                      of one micro-batch
        slowest := of the ranks, the time of its stages
        copies := of each stage, which share the micro-batches (2 of DualPipe)
        """
        streams, pipeline = step_streams(self._model, perturbations), self._model.pipeline
        times = [
            action_times(self._model, Slot(Kind.FORWARD, label, None), streams).seconds
            for label in range(len(pipeline.classes))
        ]
        stages = [times[pipeline.classes.index(stage)] for stage in pipeline.layout]
        ranks = [sum_of(stages[stage] for stage in own) for own in pipeline.schedule.placement]
        slowest: Quantity = maximum(0.0, *ranks)
        count, copies, send = self._count, pipeline.schedule.stage_replicas, self._model.p2p.seconds(perturbations)
        hops = len(stages) - 1
        through = sum_of(stages) + hops * send
        return through + maximum(count / copies - 1, 0.0) * slowest

    def joules(self) -> Joules:
        """Return the energy of the work of a device, the mean over pipeline ranks."""
        power, runs = self._scenario.cluster.device.power, runs_of_layers(self._model.work, self._model.pipeline.layout)
        joules = sum_of(count * work_joules(work.forward, power) for count, work in runs)
        return joules * self._count / self._scenario.parallel.pp

    def operators(self) -> Iterator[tuple[Count, TimedOperator]]:
        """Yield how often a device runs each operator, the mean over pipeline ranks, and the operator."""
        for count, work in runs_of_layers(self._model.work, self._model.pipeline.layout):
            for timed in self._model.timed_works[work.name].forward:
                yield count * self._count / self._scenario.parallel.pp, timed


def forward_model(scenario: Scenario, plan: Training, calibration: Calibration, micro_batch: Count) -> StepModel:
    """Return the model of passes of other micro-batches than a training step's, or of other weights: without a schedule
    of gradients, one stage on each rank.
    """
    parallel = replace(scenario.parallel, virtual=1.0)
    batch = scenario.parallel.dp * micro_batch
    alone = replace(plan, schedule="1f1b", stages=None, micro_batch=micro_batch, global_batch=batch)
    return step_model(replace(scenario, plan=alone, parallel=parallel), alone, calibration)
